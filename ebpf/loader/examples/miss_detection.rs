//! How well and how soon the deadline monitor detects misses: a periodic SCHED_FIFO thread under hogs, whose jobs miss where it was told to.
//!
//! Arguments: jobs (2,400), hogs (2). Prints one line of JSON. What a job must be (a miss or not) is the thread's own record, by its own clock: it woke
//! after the kernel's release and ended before the kernel saw it block, so `end − start > deadline` must be reported, and only
//! `end − due release > deadline` may be.

#![allow(clippy::unwrap_used)]

#[path = "../tests/monitor_support/mod.rs"]
mod monitor_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use monitor_support::*;
use pullpiri_ebpf::monitor::{Event, JobReport, Watch};

const PERIOD_NS: u64 = 4 * MS;
const DEADLINE_NS: u64 = 3 * MS / 2;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().unwrap());
    let jobs: u64 = arguments.next().unwrap_or(2_400);
    let hogs: u64 = arguments.next().unwrap_or(2);
    let Some((mut monitor, mut events)) = monitor(4) else { return };
    let worker = Worker::start("periodic");
    if !make_fifo(worker.tid, 80) {
        println!("skipped: SCHED_FIFO isn't allowed here");
        return;
    }
    worker.asleep();
    // The thread blocks for its releases only, so every wake-up is one: no min_interarrival_ns, which after a stall would join two jobs.
    let watch = Watch { deadline_ns: DEADLINE_NS, period_ns: PERIOD_NS, ..Watch::default() };
    monitor.watch(worker.tid, watch).unwrap();

    let end = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..hogs)
        .map(|_| {
            let end = Arc::clone(&end);
            std::thread::spawn(move || while !end.load(Ordering::Relaxed) {})
        })
        .collect();
    // As an agent should that wants to act on a miss at once. After the hogs, which would inherit it.
    make_fifo(gettid(), 85);
    let task = Periodic {
        start_ns: now_ns() + 50 * MS,
        period_ns: PERIOD_NS,
        jobs,
        normal_ns: MS / 5,
        long_ns: 5 * MS / 2,
        injected: |index| index % 4 == 1,
    };
    let (tell, told) = channel();
    worker.order(move || tell.send(task.run()).unwrap());
    let mut reports: Vec<(JobReport, u64)> = Vec::new();
    let mut take = |timeout| {
        wait_readable(&events, timeout);
        let received_ns = now_ns();
        reports.extend(events.drain(usize::MAX).into_iter().filter_map(|event| match event {
            Event::Miss(report) => Some((report, received_ns)),
            _ => None,
        }));
    };
    let records = loop {
        take(Duration::from_millis(20));
        if let Ok(records) = told.try_recv() {
            break records;
        }
    };
    worker.wait();
    worker.asleep();
    take(Duration::ZERO);
    end.store(true, Ordering::Relaxed);
    for hog in hogs {
        hog.join().unwrap();
    }
    summary(&records, &reports, monitor.lost().unwrap().jobs, monitor.read(worker.tid).unwrap().unseen);
}

fn summary(records: &[Record], reports: &[(JobReport, u64)], lost: u64, unseen: u64) {
    let mut reported = vec![0_u64; records.len()];
    let (mut correct, mut wrong, mut at_end) = (0_u64, lost, 0_u64);
    let mut lags = Vec::new();
    let mut received = Vec::new();
    for (report, received_ns) in reports {
        let Some(index) = index_of(records, report.release_ns) else { continue };
        // A job that didn't sleep before its successor is the kernel's same job.
        let last = records[index + 1..].iter().take_while(|record| !record.slept).last().unwrap_or(&records[index]);
        reported[index] += 1;
        let missed = last.end_ns - records[index].nominal_ns > DEADLINE_NS;
        if missed && reported[index] == 1 {
            correct += 1
        } else {
            wrong += 1
        }
        lags.push(report.lag_ns());
        received.push(received_ns.saturating_sub(report.due_ns.unwrap()));
        at_end += u64::from(!report.running);
    }
    let must = |record: &&(usize, &Record)| record.1.slept && record.1.end_ns - record.1.start_ns > DEADLINE_NS;
    let records: Vec<_> = records.iter().enumerate().collect();
    let all = records.iter().filter(must).count();
    let found = records.iter().filter(must).filter(|(index, _)| reported[*index] > 0).count();
    let injected = records.iter().filter(|(_, record)| record.injected).count();
    lags.sort_unstable();
    received.sort_unstable();
    println!(
        "{{\"bench\":\"miss_detection\",\"jobs\":{},\"injected\":{injected},\"missed\":{all},\"reported\":{},\"recall_ppm\":{},\
         \"precision_ppm\":{},\"lag_p50_ns\":{},\"lag_p99_ns\":{},\"lag_max_ns\":{},\"receive_p50_ns\":{},\"receive_p99_ns\":{},\"reported_at_end\":{at_end},\"releases_unseen\":{unseen}}}",
        records.len(),
        correct + wrong,
        ppm(u64::try_from(found).unwrap(), u64::try_from(all).unwrap()),
        ppm(correct, correct + wrong),
        quantile(&lags, 50),
        quantile(&lags, 99),
        quantile(&lags, 100),
        quantile(&received, 50),
        quantile(&received, 99),
    );
}

fn ppm(part: u64, whole: u64) -> u64 {
    (part * 1_000_000).checked_div(whole).unwrap_or(1_000_000)
}

fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}
