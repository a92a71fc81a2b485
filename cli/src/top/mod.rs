//! `pullpiri top`: real-time tasks against what was proven of them, and network classes against what they were promised.
//!
//! Tasks come from ModelInstances (bounds from the spec, measurements from the status). Classes come from NetworkSlices; what they carry is
//! read off their node's metrics (`NodeRuntime.status.metricsAddress`), twice, since rates need two looks. A node without metrics, or out of reach, is
//! shown with what was declared.

mod scrape;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use pullpiri_crds::{ModelInstance, NetworkSlice, NodeRuntime};
use serde_json::{Value, json};

use crate::args::{Top, TopOutput};
use crate::client::connect;
use crate::fail::Failure;
use crate::out;
use scrape::{Rates, Sample};

/// Between two looks at a node's counters.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn run(top: &Top) -> Result<(), Failure> {
    let client = connect(top.connection.kubeconfig.as_deref()).await?;
    let mut before = samples(&client).await?;
    let mut drawn = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let after = samples(&client).await?;
        let view = View::observe(&client, top.namespace.as_deref(), &before, &after).await?;
        let text = match top.output {
            TopOutput::Table => view.table(),
            TopOutput::Json => view.json().to_string(),
        };
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        if drawn > 0 && is_terminal && top.output == TopOutput::Table {
            out::line(&format!("\x1b[{drawn}A\x1b[J{text}"))?;
        } else {
            out::line(&text)?;
        }
        drawn = text.lines().count();
        if !top.watch {
            return Ok(());
        }
        before = after;
    }
}

/// After a worst response that exceeds its bound.
const MARK: &str = " !";

/// The counters of every node that has metrics and answers, by node.
async fn samples(client: &Client) -> Result<BTreeMap<String, Sample>, Failure> {
    let nodes = Api::<NodeRuntime>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| Failure::from_error("listing noderuntimes", &error))?;
    let mut reads = tokio::task::JoinSet::new();
    for node in nodes {
        let name = node.name_any();
        let Some(address) = node.status.and_then(|status| status.metrics_address) else { continue };
        reads.spawn_blocking(move || (name, scrape::scrape(&address)));
    }
    let mut samples = BTreeMap::new();
    while let Some(read) = reads.join_next().await {
        match read {
            Ok((name, Ok(sample))) => {
                samples.insert(name, sample);
            }
            Ok((name, Err(error))) => tracing::debug!(node = name, %error, "its metrics can't be read"),
            Err(error) => tracing::debug!(%error, "reading metrics failed"),
        }
    }
    Ok(samples)
}

/// One task of an instance.
#[derive(Debug, PartialEq)]
struct TaskRow {
    instance: String,
    task: String,
    node: String,
    cpu: i32,
    policy: String,
    bound_ns: i64,
    deadline_ns: i64,
    /// `None` until it was measured.
    measured: Option<pullpiri_crds::instance::TaskStatus>,
}

/// One class of a node's link.
#[derive(Debug, PartialEq)]
struct ClassRow {
    node: String,
    class: String,
    priority: i32,
    guarantee_bps: i64,
    ceiling_bps: Option<i64>,
    rates: Option<Rates>,
}

struct View {
    tasks: Vec<TaskRow>,
    classes: Vec<ClassRow>,
}

impl View {
    async fn observe(
        client: &Client,
        namespace: Option<&str>,
        before: &BTreeMap<String, Sample>,
        after: &BTreeMap<String, Sample>,
    ) -> Result<Self, Failure> {
        let instances: Api<ModelInstance> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let all = ListParams::default();
        let instances =
            instances.list(&all).await.map_err(|error| Failure::from_error("listing modelinstances", &error))?;
        let slices = Api::<NetworkSlice>::all(client.clone())
            .list(&all)
            .await
            .map_err(|error| Failure::from_error("listing networkslices", &error))?;
        let classes = slices.iter().flat_map(|slice| classes(slice, namespace, before, after)).collect();
        Ok(Self { tasks: instances.iter().flat_map(tasks).collect(), classes })
    }

    fn table(&self) -> String {
        let tasks: Vec<Vec<String>> = self.tasks.iter().map(TaskRow::cells).collect();
        let classes: Vec<Vec<String>> = self.classes.iter().map(ClassRow::cells).collect();
        let mut parts = Vec::new();
        if !tasks.is_empty() {
            let header = [
                "TASK", "INSTANCE", "NODE", "CPU", "POLICY", "WORST", "BOUND", "DEADLINE", "JOBS", "MISSES", "OVERRUNS",
            ];
            parts.push(table::render(&header, &tasks));
            if self.tasks.iter().any(TaskRow::exceeds_bound) {
                parts.push(format!("{}: longer than the proven bound", MARK.trim()));
            }
        }
        if !classes.is_empty() {
            let header = ["CLASS", "NODE", "PRIORITY", "RATE", "GUARANTEE", "CEILING", "P99-ROUND-TRIP", "DROPS"];
            parts.push(table::render(&header, &classes));
        }
        if parts.is_empty() {
            return "no real-time tasks and no network classes".to_owned();
        }
        parts.join("\n\n")
    }

    fn json(&self) -> Value {
        json!({
            "time": jiff::Timestamp::now().to_string(),
            "tasks": self.tasks.iter().map(TaskRow::json).collect::<Vec<_>>(),
            "classes": self.classes.iter().map(ClassRow::json).collect::<Vec<_>>(),
        })
    }
}

fn tasks(instance: &ModelInstance) -> Vec<TaskRow> {
    let measured = instance.status.as_ref().map(|status| status.realtime.as_slice()).unwrap_or_default();
    let row = |task: &pullpiri_crds::instance::InstanceTask| TaskRow {
        instance: format!("{}/{}", instance.namespace().unwrap_or_default(), instance.name_any()),
        task: task.name.clone(),
        node: instance.spec.node_name.clone(),
        cpu: task.cpu,
        policy: match task.priority {
            Some(priority) => format!("{}:{priority}", policy(task.policy)),
            None => policy(task.policy).to_owned(),
        },
        bound_ns: task.response_time_ns,
        deadline_ns: task.deadline_ns,
        measured: measured.iter().find(|status| status.name == task.name).cloned(),
    };
    instance.spec.realtime.iter().map(row).collect()
}

fn policy(policy: pullpiri_crds::schedule::SchedulingPolicy) -> &'static str {
    use pullpiri_crds::schedule::SchedulingPolicy;
    match policy {
        SchedulingPolicy::Fifo => "FIFO",
        SchedulingPolicy::RoundRobin => "RR",
        SchedulingPolicy::Deadline => "DEADLINE",
    }
}

fn classes(
    slice: &NetworkSlice,
    namespace: Option<&str>,
    before: &BTreeMap<String, Sample>,
    after: &BTreeMap<String, Sample>,
) -> Vec<ClassRow> {
    let node = &slice.spec.node_name;
    let of_namespace =
        |name: &str| namespace.is_none_or(|wanted| name.split('/').next().is_some_and(|found| found == wanted));
    let row = |class: &pullpiri_crds::slice::SliceClass| ClassRow {
        node: node.clone(),
        class: class.name.clone(),
        priority: class.priority,
        guarantee_bps: class.guarantee_bps,
        ceiling_bps: class.ceiling_bps,
        rates: before
            .get(node)
            .zip(after.get(node))
            .and_then(|(before, after)| scrape::rates(before, after, &class.name)),
    };
    slice.spec.classes.iter().filter(|class| of_namespace(&class.name)).map(row).collect()
}

fn dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

/// For display only: rates are far below 2^53.
fn approximate(value: i64) -> f64 {
    i32::try_from(value / 1000).map_or(f64::MAX, |thousands| f64::from(thousands) * 1000.0)
}

impl TaskRow {
    /// Whether it took longer than was proven: something the proof takes for granted doesn't hold.
    fn exceeds_bound(&self) -> bool {
        self.measured.as_ref().is_some_and(|measured| measured.worst_response_ns > self.bound_ns)
    }

    fn cells(&self) -> Vec<String> {
        let of = |read: fn(&pullpiri_crds::instance::TaskStatus) -> i64| self.measured.as_ref().map(read);
        let mark = if self.exceeds_bound() { MARK } else { "" };
        vec![
            self.task.clone(),
            self.instance.clone(),
            self.node.clone(),
            self.cpu.to_string(),
            self.policy.clone(),
            dash(of(|m| m.worst_response_ns), |ns| format!("{}{mark}", table::nanoseconds(ns))),
            table::nanoseconds(self.bound_ns),
            table::nanoseconds(self.deadline_ns),
            dash(of(|m| m.jobs), |n| n.to_string()),
            dash(of(|m| m.misses), |n| n.to_string()),
            dash(of(|m| m.overruns), |n| n.to_string()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "task": self.task, "instance": self.instance, "node": self.node, "cpu": self.cpu, "policy": self.policy,
            "boundNs": self.bound_ns, "deadlineNs": self.deadline_ns, "measured": self.measured,
            "exceedsBound": self.exceeds_bound(),
        })
    }
}

impl ClassRow {
    fn cells(&self) -> Vec<String> {
        vec![
            self.class.clone(),
            self.node.clone(),
            self.priority.to_string(),
            dash(self.rates, |rates| table::bits_per_second(rates.bits_per_second)),
            table::bits_per_second(approximate(self.guarantee_bps)),
            dash(self.ceiling_bps, |bps| table::bits_per_second(approximate(bps))),
            dash(self.rates.and_then(|rates| rates.p99_seconds), table::at_most_seconds),
            dash(self.rates, |rates| format!("{:.0}", rates.drops)),
        ]
    }

    fn json(&self) -> Value {
        let rates = self.rates.map(|rates| {
            json!({
                "bitsPerSecond": rates.bits_per_second, "drops": rates.drops,
                "roundTripP99Seconds": rates.p99_seconds.filter(|bound| bound.is_finite()),
            })
        });
        json!({
            "class": self.class, "node": self.node, "priority": self.priority, "guaranteeBps": self.guarantee_bps,
            "ceilingBps": self.ceiling_bps, "measured": rates,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_beyond_its_bound_is_marked() {
        let row = |task: &str, worst_response_ns| TaskRow {
            instance: "n/i".to_owned(),
            task: task.to_owned(),
            node: "zone".to_owned(),
            cpu: 1,
            policy: "FIFO:50".to_owned(),
            bound_ns: 3_000_000,
            deadline_ns: 10_000_000,
            measured: Some(pullpiri_crds::instance::TaskStatus { worst_response_ns, ..Default::default() }),
        };
        let view = View { tasks: vec![row("good", 3_000_000), row("late", 3_000_001)], classes: Vec::new() };
        let text = view.table();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("FIFO:50  3ms    3ms"), "{text}");
        assert!(lines[2].contains("FIFO:50  3ms !  3ms"), "{text}");
        assert_eq!(lines.last(), Some(&"!: longer than the proven bound"));
        let json = view.json();
        assert_eq!(
            (&json["tasks"][0]["exceedsBound"], &json["tasks"][1]["exceedsBound"]),
            (&json!(false), &json!(true))
        );
        let good = View { tasks: vec![row("good", 1)], classes: Vec::new() };
        assert!(!good.table().contains('!'), "{}", good.table());
    }
}
