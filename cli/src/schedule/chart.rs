//! A Gantt chart of the critical instant as a self-contained SVG: what each CPU does when all its tasks are released together after their full jitter.
//!
//! The schedule is simulated, not drawn from the proof: under fixed priorities the first job of a task that is drawn to its end shows the proven response
//! time itself (without blocking, which is no execution of these tasks). Under EDF the worst case may be another phasing; the label has the bound.

use std::fmt::Write as _;

use pullpiri_crds::duration::format_ns;
use pullpiri_rt::simulate::{Job, Trace, critical_instant, run};
use pullpiri_rt::{CpuLoad, Load, Policy, Task, TaskVerdict};

use super::Checked;
use super::print::policy;

const WIDTH: u64 = 1200;
const LEFT: u64 = 320;
const PLOT: u64 = WIDTH - LEFT - 20;
const LANE: u64 = 44;
const BAR: u64 = 18;
/// More jobs than this are no picture.
const MAX_JOBS: usize = 600;
/// More tasks or CPUs neither.
const MAX_LANES: usize = 200;

pub(super) fn svg(checked: &Checked) -> String {
    let mut body = String::new();
    let mut y = 64_u64;
    let mut lanes = 0_usize;
    for cpu in checked.proof.cpus.iter().filter(|cpu| !cpu.tasks.is_empty()) {
        let rows: Vec<(&Task, &TaskVerdict)> = checked.on(cpu).take(MAX_LANES.saturating_sub(lanes)).collect();
        if rows.is_empty() {
            break;
        }
        lanes += rows.len();
        y = chart(&mut body, cpu, &rows, y);
    }
    for verdict in checked.unplaced().take(MAX_LANES) {
        let _ = writeln!(body, r#"<text class="miss" x="10" y="{y}">{} has no place</text>"#, escaped(&verdict.name));
        y += 20;
    }
    let reasons = &checked.proof.reasons;
    for reason in reasons.iter().take(12) {
        for line in wrapped(&reason.to_string(), 185) {
            let _ = writeln!(body, r#"<text class="small" x="10" y="{y}">{}</text>"#, escaped(&line));
            y += 16;
        }
    }
    let verdict = if checked.proof.schedulable { "schedulable" } else { "not schedulable" };
    let class = if checked.proof.schedulable { "title" } else { "title miss" };
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">
<title>{name}: {verdict}</title>
<style>
.title {{ font-size: 18px; font-weight: bold; }}
.small {{ font-size: 11px; fill: #555; }}
.miss {{ fill: #c0182b; }}
.run {{ fill: #2f6db3; }}
.late {{ fill: #c0182b; }}
.grid {{ stroke: #ddd; }}
.axis {{ stroke: #555; }}
.arrival {{ stroke: #333; stroke-width: 1.5; }}
.deadline {{ stroke: #d07a00; stroke-width: 1.5; }}
.response {{ stroke: #1c8a4a; stroke-width: 2; }}
.response.over {{ stroke: #c0182b; }}
</style>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text class="{class}" x="10" y="26">{name}: {verdict}</text>
<text class="small" x="10" y="44">critical instant: ↑ arrival, ↓ deadline (orange), ▬ execution, green line the first job's response (red where it misses)</text>
{body}</svg>
"##,
        height = y + 10,
        name = escaped(&checked.name),
    )
}

/// One CPU's chart from `top` down; where the next may begin.
fn chart(body: &mut String, cpu: &CpuLoad, rows: &[(&Task, &TaskVerdict)], top: u64) -> u64 {
    let loads: Vec<Load> = rows.iter().map(|(task, _)| task.load()).collect();
    let edf = rows.iter().any(|(task, _)| task.policy == Policy::Deadline);
    let urgency = |task: usize, deadline: i128| {
        let priority = rows.get(task).and_then(|(_, verdict)| verdict.priority).unwrap_or(0);
        if edf { deadline } else { -i128::from(priority) }
    };
    let span = Span::of(rows);
    let jobs = critical_instant(&loads, span.until_ns, MAX_JOBS, urgency);
    // Cut off where jobs are missing, or the chart would show an idle CPU.
    let full = jobs.len() >= MAX_JOBS;
    let until_ns = if full { jobs.last().map_or(1, |job| job.release_ns.max(1)) } else { span.until_ns };
    let span = Span { until_ns, from_ns: span.from_ns.min(until_ns) };
    let trace = run(&jobs);
    let _ = writeln!(
        body,
        r#"<text x="10" y="{}" font-weight="bold">node {} CPU {}: {}.{:02} % used</text>"#,
        top + 12,
        escaped(&cpu.node),
        cpu.cpu,
        cpu.utilisation_ppm / 10_000,
        cpu.utilisation_ppm % 10_000 / 100,
    );
    let first = top + 24;
    let bottom = first + LANE * u64::try_from(rows.len()).unwrap_or(0);
    axis(body, span, first, bottom);
    for (at, (task, verdict)) in rows.iter().enumerate() {
        let y = first + LANE * u64::try_from(at).unwrap_or(0);
        label(body, task, verdict, y);
        lane(body, at, &jobs, &trace, span, y);
    }
    bottom + 36
}

/// The part of time that is drawn: from before the critical instant (arrivals of jobs with jitter) to after it.
#[derive(Clone, Copy, Debug)]
struct Span {
    from_ns: u64,
    until_ns: u64,
}

impl Span {
    /// Every task's first deadline and worst response; at most what the shortest period allows to draw.
    fn of(rows: &[(&Task, &TaskVerdict)]) -> Self {
        let shown = |(task, verdict): &(&Task, &TaskVerdict)| {
            let response = verdict.response_time_ns.unwrap_or_else(|| task.period_ns.saturating_mul(2));
            response.max(task.deadline_ns).saturating_sub(task.jitter_ns)
        };
        let wanted = rows.iter().map(shown).max().unwrap_or(1);
        let shortest = rows.iter().map(|(task, _)| task.period_ns).min().unwrap_or(1);
        let until_ns = wanted.saturating_add(wanted / 20).min(shortest.saturating_mul(400)).max(1);
        let jitter = rows.iter().map(|(task, _)| task.jitter_ns).max().unwrap_or(0);
        Self { from_ns: jitter.min(until_ns), until_ns }
    }

    /// The x of an instant, in tenths of a pixel as text.
    fn x(self, at_ns: i128) -> String {
        let length = i128::from(self.from_ns) + i128::from(self.until_ns);
        let offset = (at_ns + i128::from(self.from_ns)).clamp(0, length);
        let tenths = i128::from(LEFT) * 10 + offset * i128::from(PLOT) * 10 / length.max(1);
        format!("{}.{}", tenths / 10, tenths % 10)
    }

    fn shows(self, at_ns: i128) -> bool {
        at_ns >= -i128::from(self.from_ns) && at_ns <= i128::from(self.until_ns)
    }
}

/// Lines at round times, about ten of them.
fn axis(body: &mut String, span: Span, top: u64, bottom: u64) {
    let mut step = 1_u64;
    'steps: while step < u64::MAX / 10 {
        for factor in [1, 2, 5] {
            if span.until_ns / (step * factor) <= 12 {
                step *= factor;
                break 'steps;
            }
        }
        step *= 10;
    }
    let mut at = 0_u64;
    while at <= span.until_ns {
        let x = span.x(at.into());
        let class = if at == 0 { "axis" } else { "grid" };
        let _ = writeln!(body, r#"<line class="{class}" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>"#);
        let _ = writeln!(
            body,
            r#"<text class="small" x="{x}" y="{}" text-anchor="middle">{}</text>"#,
            bottom + 14,
            time(at)
        );
        at = match at.checked_add(step) {
            Some(next) => next,
            None => break,
        };
    }
}

fn time(ns: u64) -> String {
    if ns == 0 { "0".to_owned() } else { format_ns(ns) }
}

fn label(body: &mut String, task: &Task, verdict: &TaskVerdict, y: u64) {
    let order = match verdict.priority {
        Some(priority) => format!("{} {priority}", policy(task.policy)),
        None => policy(task.policy).to_owned(),
    };
    let response = verdict.response_time_ns.map_or_else(|| "unbounded".to_owned(), format_ns);
    let class = if verdict.schedulable { "small" } else { "small miss" };
    let sign = if verdict.schedulable { "≤" } else { ">" };
    let _ = writeln!(body, r#"<text x="10" y="{}">{}</text>"#, y + 16, escaped(&shortened(&task.name, 34)));
    let _ = writeln!(
        body,
        r#"<text class="{class}" x="10" y="{}">{order}, {} every {}, R {response} {sign} D {}</text>"#,
        y + 31,
        format_ns(task.wcet_ns),
        format_ns(task.period_ns),
        format_ns(task.deadline_ns),
    );
}

fn lane(body: &mut String, task: usize, jobs: &[Job], trace: &Trace, span: Span, y: u64) {
    let base = y + 10 + BAR;
    let until = i128::from(span.until_ns);
    let mine = || jobs.iter().zip(&trace.ends).filter(|(job, _)| job.task == task);
    for slice in trace.slices.iter().filter(|slice| slice.task == task && i128::from(slice.start_ns) < until) {
        // Execution after the deadline of the job that it belongs to: the first one of the task that hasn't ended by then.
        let job = mine().find(|(_, end)| **end > slice.start_ns).map(|(job, _)| job);
        let deadline = job.map_or(i128::MAX, |job| job.deadline_ns);
        let (start, end) = (i128::from(slice.start_ns), i128::from(slice.end_ns).min(until));
        let split = deadline.clamp(start, end);
        for (from, to, class) in [(start, split, "run"), (split, end, "late")] {
            if from < to {
                let _ = writeln!(
                    body,
                    r#"<path class="{class}" d="M{x1} {}H{x2}V{base}H{x1}z"/>"#,
                    base - BAR,
                    x1 = span.x(from),
                    x2 = span.x(to),
                );
            }
        }
    }
    let _ = writeln!(body, r#"<line class="axis" x1="{LEFT}" y1="{base}" x2="{}" y2="{base}"/>"#, LEFT + PLOT);
    for (job, _) in mine() {
        if span.shows(job.arrival_ns) {
            let x = span.x(job.arrival_ns);
            let _ = writeln!(
                body,
                r#"<path class="arrival" d="M{x} {base}V{}m-3 5l3 -5l3 5" fill="none"/>"#,
                base - BAR - 6
            );
        }
        if span.shows(job.deadline_ns) {
            let x = span.x(job.deadline_ns);
            let _ = writeln!(
                body,
                r#"<path class="deadline" d="M{x} {}V{}m-3 -5l3 5l3 -5" fill="none"/>"#,
                base - BAR - 6,
                base + 6
            );
        }
    }
    if let Some((job, end)) = mine().next() {
        let end = i128::from(*end);
        let class = if end > job.deadline_ns { "response over" } else { "response" };
        let response = u64::try_from(end - job.arrival_ns).unwrap_or(0);
        let _ = writeln!(
            body,
            r#"<path class="{class}" d="M{} {y2}H{}"><title>first job: {}</title></path>"#,
            span.x(job.arrival_ns),
            span.x(end),
            format_ns(response),
            y2 = base + 9,
        );
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML has no other control characters.
            control if control.is_control() => safe.push('\u{fffd}'),
            plain => safe.push(plain),
        }
    }
    safe
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Lines of at most `most` characters, broken at spaces.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits =
            lines.last().is_some_and(|line| line.is_empty() || line.chars().count() + word.chars().count() < most);
        match lines.last_mut() {
            Some(line) if fits => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
