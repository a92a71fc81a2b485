//! The deadline monitor against real threads: what was injected is reported, once, and nothing else is.

mod monitor_support;
#[path = "net_support/verifier.rs"]
mod verifier;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use monitor_support::*;
use pullpiri_ebpf::monitor::{Event, Monitor, Watch, WatchError, upper_bound_ns};

/// Misses of one thread.
fn misses(seen: &[Event], pid: u32) -> Vec<pullpiri_ebpf::monitor::JobReport> {
    seen.iter()
        .filter_map(|event| match event {
            Event::Miss(report) if report.pid == pid => Some(*report),
            _ => None,
        })
        .collect()
}

/// Ordinary threads that take what CPU time they get, until this is dropped.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    /// So many for each CPU.
    fn start(each: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let hog = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..each * cpus).map(|_| hog()).collect();
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A test that failed says why itself.
            let _ = thread.join();
        }
    }
}

#[test]
fn injected_misses_are_reported_once_and_no_others() {
    let Some((mut monitor, mut events)) = monitor(8) else { return };
    let worker = Worker::start("periodic");
    if !make_fifo(worker.tid, 80) {
        println!("skipped: SCHED_FIFO isn't allowed here");
        return;
    }
    worker.asleep();
    let _hogs = Hogs::start(2);
    let deadline_ns = 5 * MS;
    let wcet_ns = 2 * MS;
    monitor
        .watch(worker.tid, Watch { deadline_ns, wcet_ns, period_ns: 10 * MS, min_interarrival_ns: 5 * MS, cookie: 77 })
        .unwrap();
    let task = Periodic {
        start_ns: now_ns() + 50 * MS,
        period_ns: 10 * MS,
        jobs: 150,
        normal_ns: MS / 5,
        long_ns: 6 * MS,
        injected: |index| index % 13 == 5,
    };
    let (tell, records) = channel();
    worker.order(move || tell.send(task.run()).unwrap());
    worker.wait();
    let records = records.recv().unwrap();
    worker.asleep();

    let seen = events.drain(usize::MAX);
    let mut reported = vec![0; records.len()];
    for miss in misses(&seen, worker.tid) {
        assert_eq!(miss.cookie, 77);
        assert_eq!(miss.due_ns, Some(miss.release_ns + deadline_ns));
        assert!(miss.reported_ns >= miss.release_ns + deadline_ns, "reported before its deadline: {miss:?}");
        // Before the first release it was only given its order.
        if let Some(index) = index_of(&records, miss.release_ns) {
            reported[index] += 1;
        }
    }
    let mut natural = 0;
    for (index, record) in records.iter().enumerate() {
        let late = record.end_ns - record.nominal_ns + MS / 2 > deadline_ns;
        match (record.injected && record.slept, late) {
            (true, _) => assert_eq!(reported[index], 1, "job {index} was to miss: {record:?}"),
            (false, false) => assert_eq!(reported[index], 0, "job {index} was in time: {record:?}"),
            // The machine stood still: as the kernel saw it.
            (false, true) => natural += reported[index],
        }
    }
    let injected = records.iter().filter(|record| record.injected && record.slept).count();
    assert!(injected > 0);
    let counters = monitor.read(worker.tid).unwrap();
    println!("{injected} injected misses, {natural} by the machine; {} jobs", counters.jobs);
    assert_eq!(usize::try_from(counters.misses).unwrap(), misses(&seen, worker.tid).len());
    let slept = records.iter().filter(|record| record.slept).count();
    assert!(usize::try_from(counters.jobs).unwrap() >= slept, "{counters:?}");
    assert_eq!(counters.responses.count(), counters.jobs);
    assert!(usize::try_from(counters.overruns).unwrap() >= injected);
    assert_eq!(counters.active, None);
    // Execution is by the scheduler's clock, response by CLOCK_MONOTONIC.
    assert!(
        counters.max_exec_ns >= 6 * MS && counters.max_response_ns * 21 / 20 >= counters.max_exec_ns,
        "{counters:?}"
    );
    let highest = counters.responses.buckets().last().unwrap().0;
    assert!(counters.max_response_ns < highest && counters.max_response_ns * 9 / 8 + 256 >= highest - highest / 8);
    let overruns =
        seen.iter().filter(|event| matches!(event, Event::Overrun(report) if report.pid == worker.tid)).count();
    assert_eq!(usize::try_from(counters.overruns).unwrap(), overruns);
}

#[test]
fn a_hung_job_is_reported_while_it_hangs_and_only_once() {
    let Some((mut monitor, mut events)) = monitor(1) else { return };
    let worker = Worker::start("hung");
    worker.asleep();
    monitor.watch(worker.tid, Watch { deadline_ns: 100 * MS, wcet_ns: MS, cookie: 1, ..Watch::default() }).unwrap();
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    worker.order(move || while !released.load(Ordering::Acquire) {});
    let mut seen = Vec::new();
    let pid = worker.tid;
    wait_for(&mut events, &mut seen, "a miss", |event| matches!(event, Event::Miss(report) if report.pid == pid));
    let hung = monitor.read(pid).unwrap();
    assert_eq!((hung.misses, hung.overruns), (1, 1), "it still hangs: {hung:?}");
    let job = hung.active.unwrap();
    assert!(job.number == hung.jobs + 1 && job.missed && job.overran, "{hung:?}");
    release.store(true, Ordering::Release);
    worker.wait();
    worker.asleep();
    let ended = monitor.read(pid).unwrap();
    assert_eq!((ended.misses, ended.overruns), (1, 1), "{ended:?}");
    assert!(ended.jobs > hung.jobs && ended.max_response_ns > 100 * MS && ended.max_exec_ns > MS, "{ended:?}");
    seen.extend(events.drain(usize::MAX));
    let reports = misses(&seen, pid);
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].running && reports[0].exec_ns > MS && reports[0].job == job.number);

    // The next job is in time: the old one's mark is gone.
    worker.order(|| ());
    worker.wait();
    worker.asleep();
    let next = monitor.read(pid).unwrap();
    assert!(next.jobs > ended.jobs && next.active.is_none(), "{next:?}");
}

#[test]
fn ends_that_race_with_their_deadline_are_counted_once_and_rightly() {
    let Some((mut monitor, mut events)) = monitor(1) else { return };
    let worker = Worker::start("racing");
    worker.asleep();
    // The deadline is where a bucket ends, so the histogram tells exactly how many responses were beyond it.
    let bound_ns = upper_bound_ns(60);
    let deadline_ns = bound_ns - 1;
    monitor.watch(worker.tid, Watch { deadline_ns, ..Watch::default() }).unwrap();
    let jobs = 1_500;
    worker.order(move || {
        for job in 0..jobs {
            sleep_until(now_ns() + 30_000);
            // The timer comes some 20 µs after the deadline: the ends are spread around both.
            let end_ns = now_ns() + deadline_ns - 40_000 + (job * 7_919) % 80_000;
            while now_ns() < end_ns {}
        }
    });
    worker.wait();
    worker.asleep();
    let counters = monitor.read(worker.tid).unwrap();
    let late: u64 = counters.responses.buckets().filter(|(bound, _)| *bound > bound_ns).map(|(_, count)| count).sum();
    assert!(late > 20 && counters.jobs - late > 20, "both kinds: {late} of {}", counters.jobs);
    assert_eq!(counters.misses, late, "{counters:?}");
    let reports = misses(&events.drain(usize::MAX), worker.tid);
    let by_timer = reports.iter().filter(|report| report.running).count();
    println!("{by_timer} by the timer, {} at their end, {} in time", reports.len() - by_timer, counters.jobs - late);
    assert_eq!(monitor.lost().unwrap().jobs, 0);
    let mut numbers: Vec<u64> = reports.iter().map(|report| report.job).collect();
    numbers.dedup();
    assert_eq!(u64::try_from(numbers.len()).unwrap(), late, "each job once");
}

#[test]
fn a_job_whose_release_went_unseen_is_found_at_its_next_switch() {
    if monitor(1).is_none() {
        return;
    }
    // No wake-up is seen at all.
    let mut monitor = Monitor::attaching(1, |program| !program.starts_with("on_wakeup")).unwrap();
    let mut events = monitor.take_jobs().unwrap();
    let worker = Worker::start("unseen");
    worker.asleep();
    monitor.watch(worker.tid, Watch { deadline_ns: 100 * MS, wcet_ns: 50 * MS, ..Watch::default() }).unwrap();
    let order = |exec_ns| {
        worker.order(move || execute_ns(exec_ns));
        worker.wait();
        worker.asleep();
    };
    // Bases are taken when it blocks for the first time: what it did before isn't counted.
    order(0);
    let before = monitor.read(worker.tid).unwrap();
    order(150 * MS);
    let after = monitor.read(worker.tid).unwrap();
    assert!(after.jobs > before.jobs && after.active.is_none(), "{after:?}");
    assert_eq!(after.unseen, after.jobs);
    assert_eq!((after.misses, after.overruns), (before.misses + 1, before.overruns + 1), "{after:?}");
    assert!(after.max_exec_ns >= 150 * MS && after.max_response_ns * 21 / 20 >= 150 * MS, "{after:?}");
    let reports = misses(&events.drain(usize::MAX), worker.tid);
    assert!(reports.last().is_some_and(|report| report.running), "its timer was armed: {reports:?}");
}

#[test]
fn programs_cost_what_is_recorded() {
    let Some((monitor, _events)) = monitor(1) else { return };
    let measured = &monitor.features().verified_instructions;
    if measured.values().all(|count| *count == 0) {
        println!("skipped: this kernel doesn't count verified instructions");
        return;
    }
    verifier::compare("monitor", measured.iter().map(|(program, count)| (program.as_str(), *count)));
}

#[test]
fn waiting_inside_a_job_continues_it() {
    let Some((mut monitor, _events)) = monitor(2) else { return };
    let (continuing, releasing) = (Worker::start("continuing"), Worker::start("releasing"));
    for (worker, min_interarrival_ns) in [(&continuing, 20_000 * MS), (&releasing, 0)] {
        worker.asleep();
        monitor.watch(worker.tid, Watch { min_interarrival_ns, ..Watch::default() }).unwrap();
        worker.order(|| {
            for _ in 0..3 {
                execute_ns(MS);
                sleep_until(now_ns() + 2 * MS);
            }
        });
        worker.wait();
        worker.asleep();
    }
    let continued = monitor.read(continuing.tid).unwrap();
    // At least: the runtime may wait for a lock of its own.
    assert!(continued.jobs == 1 && continued.continued >= 3, "{continued:?}");
    assert_eq!(continued.responses.count(), 1);
    assert!(continued.last_response_ns >= 6 * MS, "the response spans the waits: {continued:?}");
    assert!(continued.last_exec_ns >= 3 * MS && continued.total_exec_ns == continued.last_exec_ns, "{continued:?}");
    let released = monitor.read(releasing.tid).unwrap();
    assert!(released.jobs >= 4 && released.continued == 0, "{released:?}");
    assert_eq!(released.responses.count(), released.jobs);
}

#[test]
fn a_job_that_runs_through_releases_counts_the_periods_it_skipped() {
    let Some((mut monitor, mut events)) = monitor(1) else { return };
    let worker = Worker::start("late");
    worker.asleep();
    let period_ns = 5 * MS;
    monitor.watch(worker.tid, Watch { deadline_ns: period_ns, period_ns, ..Watch::default() }).unwrap();
    worker.order(move || {
        let start_ns = now_ns();
        execute_ns(3 * period_ns + period_ns / 2);
        // Three releases are past: the thread doesn't sleep for them, or hardly.
        for index in 1..=3 {
            sleep_until(start_ns + index * period_ns);
        }
    });
    worker.wait();
    worker.asleep();
    let counters = monitor.read(worker.tid).unwrap();
    assert!(counters.skipped_periods >= 3, "{counters:?}");
    assert!(counters.misses >= 1 && counters.max_response_ns >= 3 * period_ns, "{counters:?}");
    assert_eq!(usize::try_from(counters.misses).unwrap(), misses(&events.drain(usize::MAX), worker.tid).len());
}

#[test]
fn what_is_no_thread_of_a_user_is_refused() {
    let Some((mut monitor, _events)) = monitor(4) else { return };
    assert!(matches!(monitor.watch(u32::MAX, Watch::default()), Err(WatchError::NoThread { .. })));
    // kthreadd; a test in a PID namespace of its own has somebody else there.
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        assert!(matches!(monitor.watch(2, Watch::default()), Err(WatchError::KernelThread { .. })));
    }
    let me = gettid();
    monitor.watch(me, Watch::default()).unwrap();
    assert!(matches!(monitor.watch(me, Watch::default()), Err(WatchError::Watched { .. })));
    monitor.unwatch(me).unwrap();
    assert!(matches!(monitor.unwatch(me), Err(WatchError::NotWatched { .. })));
    assert!(matches!(monitor.update(me, Watch::default()), Err(WatchError::NotWatched { .. })));
}

#[test]
fn a_promise_changes_with_the_next_release() {
    let Some((mut monitor, mut events)) = monitor(1) else { return };
    let worker = Worker::start("updated");
    worker.asleep();
    monitor.watch(worker.tid, Watch { deadline_ns: 60_000 * MS, ..Watch::default() }).unwrap();
    let job = || {
        worker.order(|| execute_ns(MS));
        worker.wait();
        worker.asleep();
    };
    job();
    assert_eq!(monitor.read(worker.tid).unwrap().misses, 0);
    monitor.update(worker.tid, Watch { deadline_ns: MS / 2, ..Watch::default() }).unwrap();
    job();
    let counters = monitor.read(worker.tid).unwrap();
    assert!(counters.jobs >= 2 && counters.misses >= 1, "{counters:?}");
    assert_eq!(misses(&events.drain(usize::MAX), worker.tid).len(), usize::try_from(counters.misses).unwrap());
}

#[test]
fn events_that_find_no_room_are_counted_and_so_are_their_misses() {
    let Some((mut monitor, mut events)) = monitor(1) else { return };
    let worker = Worker::start("flood");
    worker.asleep();
    // No job can be that quick: each is a miss.
    monitor.watch(worker.tid, Watch { deadline_ns: 1, ..Watch::default() }).unwrap();
    let jobs = 4_000;
    worker.order(move || {
        for _ in 0..jobs {
            sleep_until(now_ns() + 10_000);
        }
    });
    worker.wait();
    worker.asleep();
    let counters = monitor.read(worker.tid).unwrap();
    let lost = monitor.lost().unwrap().jobs;
    let told = u64::try_from(misses(&events.drain(usize::MAX), worker.tid).len()).unwrap();
    assert!(lost > 0 && told > 0, "{lost} lost, {told} told");
    assert_eq!(counters.misses, counters.jobs);
    assert_eq!(lost + told, counters.misses);
    assert!(upper_bound_ns(0) > 1);
}

#[test]
fn a_process_that_makes_threads_all_the_time_drowns_no_miss() {
    let Some((mut monitor, mut jobs)) = monitor(1) else { return };
    let mut threads = monitor.take_threads().unwrap();
    monitor.follow(std::process::id(), 5).unwrap();
    let worker = Worker::start("misses");
    worker.asleep();
    // Nobody drains what is told of threads.
    while monitor.lost().unwrap().threads == 0 {
        std::thread::spawn(|| ()).join().unwrap();
    }
    monitor.watch(worker.tid, Watch { deadline_ns: 1, ..Watch::default() }).unwrap();
    for _ in 0..3 {
        worker.order(|| execute_ns(MS));
        worker.wait();
        worker.asleep();
    }
    let counters = monitor.read(worker.tid).unwrap();
    assert!(counters.misses >= 3, "{counters:?}");
    assert_eq!(misses(&jobs.drain(usize::MAX), worker.tid).len(), usize::try_from(counters.misses).unwrap());
    assert_eq!(monitor.lost().unwrap().jobs, 0);
    let told = threads.drain(usize::MAX);
    assert!(told.len() > 2_000 && misses(&told, worker.tid).is_empty(), "{}", told.len());
}
