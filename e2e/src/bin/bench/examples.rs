//! Measurements that crates make of themselves, as examples that print one line of JSON for each result.

use std::path::{Path, PathBuf};
use std::process::Command;

use pullpiri_e2e::E2eError;
use serde_json::Value;

use crate::Bench;
use crate::table::{median, to_f64};

/// Sets of tasks on which our analysis and the reference's are compared.
const SETS: &str = "10000";
/// Results of one example differ from run to run: the median of so many counts.
const RUNS: usize = 5;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    if bench.wants("analysis") {
        analysis(bench)?;
    }
    if bench.wants("monitor") {
        monitor(bench)?;
    }
    if bench.wants("rules") {
        rules(bench)?;
    }
    if bench.wants("compilation") {
        for line in run("compilation", &[])? {
            let entries = number(&line, "entries")?;
            bench.table.report("compilation: entries of 10,000 rules and 1,000 instances", entries, "entries");
            bench.table.report("compilation: from nothing", number(&line, "first_ms")?, "ms");
            bench.table.report("compilation: of a change", number(&line, "again_ms")?, "ms");
        }
    }
    if bench.wants("link") {
        link(bench)?;
    }
    Ok(())
}

fn analysis(bench: &mut Bench) -> Result<(), E2eError> {
    for line in run("agreement", &[SETS])? {
        let (sets, agree) = (number(&line, "sets")?, number(&line, "agree")?);
        bench.table.at_least("analysis: agreement with the reference crate", 100.0 * agree / sets, "%", 100.0);
        let misses = number(&line, "simulation_misses")?;
        bench.table.at_most("analysis: accepted sets that a simulation misses", misses, "sets", 0.0);
    }
    for line in run("speed", &[])? {
        let name = format!("analysis: time against that crate, {}, n = {}", text(&line, "method"), number(&line, "n")?);
        bench.table.at_most(&name, number(&line, "ratio")?, "ratio", 0.6);
    }
    Ok(())
}

fn monitor(bench: &mut Bench) -> Result<(), E2eError> {
    let mut lags = Vec::new();
    let (mut recall, mut precision) = (1e6_f64, 1e6_f64);
    for _ in 0..RUNS {
        for line in run("miss_detection", &[])? {
            recall = recall.min(number(&line, "recall_ppm")?);
            precision = precision.min(number(&line, "precision_ppm")?);
            lags.push(number(&line, "lag_p99_ns")?);
        }
    }
    bench.table.at_least("monitor: miss detection, recall (worst of 5 runs)", recall / 1e6, "share", 1.0);
    bench.table.at_least("monitor: miss detection, precision (worst of 5 runs)", precision / 1e6, "share", 0.999);
    bench.table.at_most("monitor: lag after the deadline, p99", median(&lags) / 1e3, "us", 200.0);
    for line in run("monitor_cost", &[])? {
        bench.table.at_most("monitor: per event, by bpf_stats", number(&line, "event_ns")?, "ns", 150.0);
        bench.table.report("monitor: per event of a watched thread", number(&line, "watched_event_ns")?, "ns");
        bench.table.report(
            "monitor: perf bench sched pipe, with against without",
            number(&line, "ratio_ppm")? / 1e6,
            "ratio",
        );
    }
    Ok(())
}

fn rules(bench: &mut Bench) -> Result<(), E2eError> {
    for line in run("net_drop_cost", &[])? {
        bench.table.at_most("rules: drop at 1,000 against nftables with a set", number(&line, "ratio")?, "ratio", 0.9);
        bench.table.at_most("rules: growth of a drop, 10 to 10,000", number(&line, "growth")?, "ratio", 1.2);
        bench.table.report("rules: a drop at 1,000", number(&line, "tcx_1000_ns")?, "ns");
    }
    Ok(())
}

/// Each line says its own bar.
fn link(bench: &mut Bench) -> Result<(), E2eError> {
    for line in run("network", &["5"])? {
        let name = match line.get("ceilingMbit") {
            Some(mbit) => format!("link: {}, {mbit} Mbit/s", text(&line, "what")),
            None => format!("link: {}", text(&line, "what")),
        };
        let value = number(&line, "value")?;
        let bar = text(&line, "bar");
        match bar.split_once(' ').and_then(|(op, bar)| Some((op, bar.parse::<f64>().ok()?))) {
            Some((">=", bar)) => bench.table.at_least(&name, value, "", bar),
            Some(("<=" | "=", bar)) => bench.table.at_most(&name, value, "", bar),
            _ => return Err(E2eError::failed(format!("reading {line}"), format!("unknown bar {bar:?}"))),
        }
    }
    Ok(())
}

fn folder() -> Result<PathBuf, E2eError> {
    let me = std::env::current_exe().map_err(|error| E2eError::failed("finding the examples", error))?;
    Ok(me.parent().unwrap_or(Path::new("target/release")).join("examples"))
}

/// The lines of JSON that an example prints. One that says that it can't be measured here is no result.
fn run(name: &str, arguments: &[&str]) -> Result<Vec<Value>, E2eError> {
    let what = format!("running the example {name}");
    let output = Command::new(folder()?.join(name))
        .args(arguments)
        .output()
        .map_err(|error| E2eError::failed(what.clone(), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(E2eError::failed(what, format!("{}: {said}", output.status)));
    }
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with("skipped: ") {
            println!("  {name}: {line}");
            continue;
        }
        let value: Value = serde_json::from_str(line).map_err(|error| E2eError::failed(what.clone(), error))?;
        match value.get("skipped") {
            Some(reason) => println!("  {name}: skipped: {reason}"),
            None => lines.push(value),
        }
    }
    Ok(lines)
}

fn text(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

fn number(line: &Value, field: &str) -> Result<f64, E2eError> {
    let value = &line[field];
    value
        .as_u64()
        .map(to_f64)
        .or_else(|| value.as_f64())
        .ok_or_else(|| E2eError::failed(format!("reading {field} of {line}"), "expected a number"))
}
