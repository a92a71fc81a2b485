//! What the deadline monitor costs: run time per event by the kernel's own count, and what is left of `perf bench sched pipe`.
//!
//! Arguments: rounds (5), round trips per round (200,000). Prints one line of JSON. Rounds alternate: without the monitor, with it, with it while run
//! time is counted (which costs time itself), and with both ends of a pipe watched.

#![allow(clippy::unwrap_used)]

#[path = "../tests/monitor_support/mod.rs"]
mod monitor_support;

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::process::Command;

use monitor_support::*;
use pullpiri_ebpf::cost;
use pullpiri_ebpf::monitor::{Monitor, Watch};

/// `(runs, run time in ns)` by program.
type Account = BTreeMap<String, (u64, u64)>;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().unwrap());
    let rounds: u64 = arguments.next().unwrap_or(5);
    let trips: u64 = arguments.next().unwrap_or(200_000);
    if monitor(1).is_none() {
        return;
    }
    if perf_pipe_ns(1_000).is_none() {
        println!("skipped: no perf bench");
        return;
    }
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let (mut unwatched, mut watched) = (Account::new(), Account::new());
    for _ in 0..rounds {
        without.push(perf_pipe_ns(trips).unwrap());
        let (mut monitor, _events) = monitor(4).unwrap();
        with.push(perf_pipe_ns(trips).unwrap());
        let counting = cost::count_run_time().unwrap();
        charge(&mut unwatched, &monitor, || assert!(perf_pipe_ns(trips).is_some()));
        let ping = Worker::start("ping");
        let pong = Worker::start("pong");
        for worker in [&ping, &pong] {
            worker.asleep();
            monitor
                .watch(worker.tid, Watch { deadline_ns: 1_000 * MS, wcet_ns: 1_000 * MS, ..Watch::default() })
                .unwrap();
        }
        charge(&mut watched, &monitor, || ping_pong(&ping, &pong, trips / 4));
        drop(counting);
    }
    let (without_ns, with_ns) = (median(&mut without), median(&mut with));
    println!(
        "{{\"bench\":\"monitor_cost\",\"rounds\":{rounds},\"round_trips\":{trips},\"pipe_without_ns\":{without_ns},\"pipe_with_ns\":{with_ns},\
         \"ratio_ppm\":{},\"event_ns\":{},\"watched_event_ns\":{},\"programs\":{{{}}},\"watched_programs\":{{{}}}}}",
        with_ns * 1_000_000 / without_ns,
        per_event(&unwatched),
        per_event(&watched),
        by_program(&unwatched),
        by_program(&watched),
    );
}

/// Total time of one `perf bench sched pipe`; both its processes on one CPU, so that each round trip is four switches.
fn perf_pipe_ns(trips: u64) -> Option<u64> {
    let output = Command::new("taskset")
        .args(["-c", "0", "perf", "bench", "-f", "simple", "sched", "pipe", "-l", &trips.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (seconds, fraction) = text.trim().split_once('.')?;
    let fraction = format!("{fraction:0<9}");
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + fraction.get(..9)?.parse::<u64>().ok()?)
}

/// Both ends are the workers' only; each byte wakes the other.
fn ping_pong(ping: &Worker, pong: &Worker, trips: u64) {
    let (there, back) = (pipe().unwrap(), pipe().unwrap());
    let bounce = |mut input: PipeReader, mut output: PipeWriter, first: bool| {
        move || {
            let mut byte = [0];
            for _ in 0..trips {
                if first {
                    output.write_all(&byte).unwrap();
                }
                input.read_exact(&mut byte).unwrap();
                if !first {
                    output.write_all(&byte).unwrap();
                }
            }
        }
    };
    pong.order(bounce(there.0, back.1, false));
    ping.order(bounce(back.0, there.1, true));
    ping.wait();
    pong.wait();
}

/// Adds what the programs ran for while `work` was done.
fn charge(account: &mut Account, monitor: &Monitor, work: impl FnOnce()) {
    let before = monitor.cost().unwrap();
    work();
    for (before, after) in before.into_iter().zip(monitor.cost().unwrap()) {
        let entry = account.entry(after.name).or_default();
        entry.0 += after.runs - before.runs;
        entry.1 += after.run_time_ns - before.run_time_ns;
    }
}

fn per_event(account: &Account) -> u64 {
    let (runs, time_ns) = account.values().fold((0, 0), |sum, entry| (sum.0 + entry.0, sum.1 + entry.1));
    time_ns / runs.max(1)
}

fn by_program(account: &Account) -> String {
    let programs: Vec<String> = account
        .iter()
        .filter(|(_, (runs, _))| *runs > 0)
        .map(|(name, (runs, time_ns))| format!("\"{name}\":{{\"runs\":{runs},\"ns\":{}}}", time_ns / runs))
        .collect();
    programs.join(",")
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
