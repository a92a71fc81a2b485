//! Real threads to watch, and a way to wait for what the monitor tells of them. Shared with the examples.
// Each of its users takes a part.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use pullpiri_ebpf::monitor::{Event, Events, LoadError, Monitor};

pub const MS: u64 = 1_000_000;
/// How long a state may take to come before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A monitor with so many places and what it tells of jobs, or `None` and the reason printed.
pub fn monitor(capacity: u32) -> Option<(Monitor, Events)> {
    match Monitor::with_capacity(capacity) {
        Ok(mut monitor) => {
            let events = monitor.take_jobs().unwrap();
            Some((monitor, events))
        }
        Err(error @ (LoadError::BuiltWithoutClang(_) | LoadError::NoBtf(_))) => skip(&error.to_string()),
        Err(error) if !nix::unistd::geteuid().is_root() => skip(&format!("not root: {error}")),
        Err(error) => panic!("this machine should take the monitor: {error}"),
    }
}

fn skip<T>(reason: &str) -> Option<T> {
    println!("skipped: {reason}");
    None
}

pub fn now_ns() -> u64 {
    ns(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap())
}

fn ns(time: TimeSpec) -> u64 {
    u64::try_from(time.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap()
}

pub fn sleep_until(instant_ns: u64) {
    let time = TimeSpec::new(
        i64::try_from(instant_ns / 1_000_000_000).unwrap(),
        i64::try_from(instant_ns % 1_000_000_000).unwrap(),
    );
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &time).is_err() {}
}

/// How often this thread has blocked (getrusage(2), ru_nvcsw).
fn gave_up_the_cpu() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches()
}

/// Executes for so long, however often it is preempted.
pub fn execute_ns(duration_ns: u64) {
    let clock = || ns(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let end = clock() + duration_ns;
    while clock() < end {}
}

pub fn gettid() -> u32 {
    u32::try_from(nix::unistd::gettid().as_raw()).unwrap()
}

/// Gives a thread a priority of SCHED_FIFO; false when this machine doesn't allow it.
pub fn make_fifo(tid: u32, priority: u32) -> bool {
    Command::new("chrt")
        .args(["--fifo", "--pid", &priority.to_string(), &tid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A thread that sleeps until it is told what to do, as often as it is told.
pub struct Worker {
    pub tid: u32,
    orders: Option<Sender<Box<dyn FnOnce() + Send>>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(name: &str) -> Self {
        let (orders, inbox) = channel::<Box<dyn FnOnce() + Send>>();
        let (outbox, done) = channel();
        let (tell_tid, tid) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            tell_tid.send(gettid()).unwrap();
            while let Ok(order) = inbox.recv() {
                order();
                let _ = outbox.send(());
            }
        });
        Self { tid: tid.recv().unwrap(), orders: Some(orders), done, thread: Some(thread.unwrap()) }
    }

    /// Begins an order; it is the thread's next job.
    pub fn order(&self, order: impl FnOnce() + Send + 'static) {
        self.orders.as_ref().unwrap().send(Box::new(order)).unwrap();
    }

    pub fn wait(&self) {
        self.done.recv_timeout(PATIENCE).unwrap();
    }

    /// Waits until it sleeps.
    pub fn asleep(&self) {
        asleep(self.tid);
    }
}

/// Waits until a thread sleeps.
pub fn asleep(tid: u32) {
    let end = Instant::now() + PATIENCE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap();
        if stat.rsplit_once(')').unwrap().1.trim_start().starts_with('S') {
            return;
        }
        assert!(Instant::now() < end, "thread {tid} doesn't go to sleep");
        std::thread::yield_now();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the descriptor, at most so long.
pub fn wait_readable(events: &Events, patience: Duration) {
    let timeout = PollTimeout::try_from(patience).unwrap();
    let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout);
}

/// Collects events until one is as wanted.
pub fn wait_for(events: &mut Events, seen: &mut Vec<Event>, what: &str, wanted: impl Fn(&Event) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let new = events.drain(usize::MAX);
        let found = new.iter().any(&wanted);
        seen.extend(new);
        if found {
            return;
        }
        assert!(Instant::now() < end, "no event: {what}; seen: {seen:?}");
        wait_readable(events, Duration::from_millis(100));
    }
}

/// What a periodic job says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub nominal_ns: u64,
    /// It blocked for its release: this is a job of the kernel's own. After a stall several are done without blocking in between, and a timer that
    /// expires while its thread goes to sleep doesn't block it either.
    pub slept: bool,
    pub start_ns: u64,
    pub end_ns: u64,
    pub injected: bool,
}

/// A periodic task: `jobs` releases from `start_ns` on, each executing for `normal_ns`, those where `injected` says so for `long_ns`.
#[derive(Debug, Clone, Copy)]
pub struct Periodic {
    pub start_ns: u64,
    pub period_ns: u64,
    pub jobs: u64,
    pub normal_ns: u64,
    pub long_ns: u64,
    pub injected: fn(u64) -> bool,
}

impl Periodic {
    pub fn run(self) -> Vec<Record> {
        (0..self.jobs)
            .map(|index| {
                let nominal_ns = self.start_ns + index * self.period_ns;
                let before = gave_up_the_cpu();
                sleep_until(nominal_ns);
                let start_ns = now_ns();
                let slept = gave_up_the_cpu() > before;
                let injected = (self.injected)(index);
                execute_ns(if injected { self.long_ns } else { self.normal_ns });
                Record { nominal_ns, slept, start_ns, end_ns: now_ns(), injected }
            })
            .collect()
    }
}

/// Which job began with this release; none for what was before the first.
pub fn index_of(records: &[Record], release_ns: u64) -> Option<usize> {
    let first = records.first()?.nominal_ns;
    records.iter().position(|record| record.start_ns >= release_ns).filter(|_| release_ns >= first)
}
