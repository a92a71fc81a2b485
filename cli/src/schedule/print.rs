//! A proof as a table for people and as JSON for programs.

use std::fmt::Write as _;

use pullpiri_crds::duration::format_ns;
use pullpiri_rt::{CpuLoad, CpuTask, Policy, Task, TaskVerdict};
use serde_json::{Value, json};

use super::Checked;

impl Checked {
    /// The tasks of a CPU with their verdicts.
    pub(super) fn on<'a>(&'a self, cpu: &'a CpuLoad) -> impl Iterator<Item = (&'a Task, &'a TaskVerdict)> {
        cpu.tasks.iter().filter_map(|task| match task {
            CpuTask::New(at) => Some((self.request.tasks.get(*at)?, self.proof.tasks.get(*at)?)),
            CpuTask::Existing(_) => None,
        })
    }

    pub(super) fn unplaced(&self) -> impl Iterator<Item = &TaskVerdict> {
        self.proof.tasks.iter().filter(|verdict| verdict.node.is_none())
    }
}

pub(super) const fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Fifo => "FIFO",
        Policy::RoundRobin => "RR",
        Policy::Deadline => "DEADLINE",
    }
}

/// The shape is a contract: times in nanoseconds, an unbounded response `null`, utilization a fraction of the CPU.
pub(super) fn json(checked: &Checked) -> String {
    let task = |verdict: &TaskVerdict| {
        json!({
            "name": verdict.name,
            "responseTimeNs": verdict.response_time_ns,
            "deadlineNs": verdict.deadline_ns,
            "slackNs": verdict.slack_ns(),
            "priority": verdict.priority,
            "policy": policy(verdict.policy),
            "schedulable": verdict.schedulable,
        })
    };
    let cpus: Vec<Value> = checked
        .proof
        .cpus
        .iter()
        .map(|cpu| {
            json!({
                "node": cpu.node,
                "cpu": cpu.cpu,
                "utilization": utilisation(checked.on(cpu).map(|(task, _)| task)),
                "tasks": checked.on(cpu).map(|(_, verdict)| task(verdict)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let answer = json!({
        "schedulable": checked.proof.schedulable,
        "cpus": cpus,
        "unplaced": checked.unplaced().map(task).collect::<Vec<_>>(),
        "reasons": checked.proof.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&answer).unwrap_or_else(|_| answer.to_string())
}

/// Σ wcet / period as a fraction with 12 digits.
fn utilisation<'a>(tasks: impl Iterator<Item = &'a Task>) -> f64 {
    const SCALE: u128 = 1_000_000_000_000;
    let sum = tasks.fold(0_u128, |sum, task| {
        let (wcet, period) = (u128::from(task.wcet_ns), u128::from(task.period_ns.max(1)));
        sum.saturating_add(wcet.saturating_mul(SCALE).saturating_add(period / 2) / period)
    });
    // By way of text: a number of 12 digits is read to the nearest double.
    format!("{}.{:012}", sum / SCALE, sum % SCALE).parse().unwrap_or(f64::INFINITY)
}

pub(super) fn table(checked: &Checked) -> String {
    let mut rows = vec![
        ["TASK", "NODE", "CPU", "POLICY", "PRIORITY", "RESPONSE", "DEADLINE", "SLACK", "MEETS"].map(str::to_owned),
    ];
    let mut row = |verdict: &TaskVerdict| {
        let dash = || "-".to_owned();
        let placed = verdict.node.is_some();
        rows.push([
            verdict.name.clone(),
            verdict.node.clone().unwrap_or_else(dash),
            verdict.cpu.map_or_else(dash, |cpu| cpu.to_string()),
            policy(verdict.policy).to_owned(),
            verdict.priority.map_or_else(dash, |priority| priority.to_string()),
            match verdict.response_time_ns {
                Some(ns) => format_ns(ns),
                None if placed => "unbounded".to_owned(),
                None => dash(),
            },
            format_ns(verdict.deadline_ns),
            verdict
                .slack_ns()
                .map_or_else(dash, |ns| format!("{}{}", if ns < 0 { "-" } else { "" }, format_ns(ns.unsigned_abs()))),
            match (placed, verdict.schedulable) {
                (false, _) => "unplaced".to_owned(),
                (true, true) => "yes".to_owned(),
                (true, false) => "no".to_owned(),
            },
        ]);
    };
    for cpu in &checked.proof.cpus {
        checked.on(cpu).for_each(|(_, verdict)| row(verdict));
    }
    checked.unplaced().for_each(row);
    let mut text = aligned(&rows);
    let mut cpus = vec![["NODE", "CPU", "UTILIZATION", "TASKS"].map(str::to_owned)];
    for cpu in checked.proof.cpus.iter().filter(|cpu| !cpu.tasks.is_empty()) {
        let share = format!("{}.{:02} %", cpu.utilisation_ppm / 10_000, cpu.utilisation_ppm % 10_000 / 100);
        cpus.push([cpu.node.clone(), cpu.cpu.to_string(), share, cpu.tasks.len().to_string()]);
    }
    if cpus.len() > 1 {
        let _ = write!(text, "\n{}", aligned(&cpus));
    }
    text.push('\n');
    if checked.proof.schedulable {
        text.push_str("schedulable: every task is proven to meet its deadline\n");
    } else {
        text.push_str("not schedulable:\n");
        for reason in &checked.proof.reasons {
            let _ = writeln!(text, "  {reason}");
        }
    }
    text
}

/// Columns two spaces apart.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0_usize; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
