//! The deadline monitor of the kernel (BPF), for as long as there are tasks to watch: loaded with the first, unloaded with the last.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use pullpiri_crds::instance::{InstanceTask, TaskStatus};
pub(super) use pullpiri_ebpf::monitor::Event;
use pullpiri_ebpf::monitor::{Counters, Events, Monitor, Watch};
use pullpiri_node_core::realtime::ThreadId;
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::process;
use tracing::{debug, warn};

use super::metrics::{Metrics, TaskLabels};

/// The wait after a monitor that this kernel took once couldn't be loaded (memory for its timers was short, say); doubled up to the latter.
const FIRST_RELOAD: Duration = Duration::from_secs(1);
const MAX_RELOAD: Duration = Duration::from_secs(60);

/// Whether this kernel takes it.
pub(super) fn probe() -> Result<(), String> {
    Monitor::probe().map(|_| ()).map_err(|error| error.to_string())
}

/// The consumer's end of the events, as a descriptor to wait for.
#[derive(Debug)]
pub(super) struct EventQueue(pub Events);

impl AsFd for EventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A thread that is watched.
#[derive(Debug)]
struct Watched {
    thread: ThreadId,
    promised: Watch,
    lateness_ns: u64,
    /// What was measured of the task before.
    base: TaskStatus,
    /// The responses that are in the metrics already, by upper bound.
    responses: BTreeMap<u64, u64>,
}

/// The monitor and what it watches.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Why it can't be used.
    probed: Result<(), String>,
    /// After a kernel that takes it couldn't load it: when to try again, and how long was waited for that.
    reload: Option<(Instant, Duration)>,
    monitor: Option<Monitor>,
    /// By instance and task.
    watched: BTreeMap<(PodId, String), Watched>,
    followed: BTreeMap<PodId, BTreeSet<i32>>,
    /// What instances are called in events.
    cookies: BTreeMap<u64, PodId>,
    next_cookie: u64,
}

fn ns(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// How much later than its arrival a job may be released, where that is part of every response time: what is proven runs from the arrival, what is measured
/// from the release. A job of a task whose response may exceed its period may be one that arrived while the one before was under way: its release needn't
/// be late for the response to be what is proven, so nothing is taken off there.
fn lateness_ns(task: &InstanceTask) -> u64 {
    if task.response_time_ns <= task.period_ns { ns(task.jitter_ns) } else { 0 }
}

/// What is promised of a task's thread, from its release on.
fn promised(task: &InstanceTask, cookie: u64) -> Watch {
    let apart = task.period_ns.saturating_sub(task.jitter_ns).saturating_sub(1).min(task.period_ns / 2);
    Watch {
        // 0 would promise nothing.
        deadline_ns: ns(task.deadline_ns).saturating_sub(lateness_ns(task)).max(1),
        wcet_ns: ns(task.wcet_ns),
        period_ns: ns(task.period_ns),
        min_interarrival_ns: ns(apart.max(0)),
        cookie,
    }
}

fn id(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

impl Watcher {
    pub fn new(probed: Result<(), String>) -> Self {
        Self {
            probed,
            reload: None,
            monitor: None,
            watched: BTreeMap::new(),
            followed: BTreeMap::new(),
            cookies: BTreeMap::new(),
            next_cookie: 1,
        }
    }

    /// Probed again: what couldn't be loaded may be now. One that is loaded stays, and a kernel that took it once will again.
    pub fn found(&mut self, probed: Result<(), String>) {
        if self.monitor.is_some() {
            return;
        }
        match probed {
            Err(error) if self.may_load(Instant::now()) || self.reload.is_some() => self.failed(error, Instant::now()),
            probed => (self.probed, self.reload) = (probed, None),
        }
    }

    /// Why deadlines aren't watched.
    pub fn state(&self) -> Result<(), &str> {
        self.probed.as_ref().map(|_| ()).map_err(String::as_str)
    }

    fn monitor(&mut self) -> Option<&mut Monitor> {
        if self.is_to_be_loaded() {
            let loaded = Monitor::load();
            process::trim_heap();
            match loaded {
                Ok(monitor) => {
                    self.monitor = Some(monitor);
                    (self.probed, self.reload) = (Ok(()), None);
                }
                Err(error) => self.failed(error.to_string(), Instant::now()),
            }
        }
        self.monitor.as_mut()
    }

    /// It couldn't be loaded: tried again later, as what was short then may not be for long.
    fn failed(&mut self, error: String, now: Instant) {
        let wait = self.reload.map_or(FIRST_RELOAD, |(_, waited)| (waited * 2).min(MAX_RELOAD));
        warn!(error, retry_after = ?wait, "deadlines aren't watched");
        self.reload = Some((now + wait, wait));
        self.probed = Err(error);
    }

    /// Of a monitor that was just loaded: what it tells of jobs, and of threads.
    pub fn take_events(&mut self) -> Option<[EventQueue; 2]> {
        let monitor = self.monitor.as_mut()?;
        Some([EventQueue(monitor.take_jobs()?), EventQueue(monitor.take_threads()?)])
    }

    pub fn is_loaded(&self) -> bool {
        self.monitor.is_some()
    }

    /// Whether whoever is followed or watched next waits for the monitor to be loaded: a tenth of a second and more.
    pub fn is_to_be_loaded(&self) -> bool {
        self.monitor.is_none() && self.may_load(Instant::now())
    }

    fn may_load(&self, now: Instant) -> bool {
        self.probed.is_ok() || self.reload.is_some_and(|(at, _)| at <= now)
    }

    fn cookie(&mut self, of: &PodId) -> u64 {
        if let Some((cookie, _)) = self.cookies.iter().find(|(_, id)| *id == of) {
            return *cookie;
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.cookies.insert(cookie, of.clone());
        cookie
    }

    /// Which instance an event is about, and whether it is one of a thread that is watched.
    pub fn about(&self, event: &Event) -> Option<(PodId, bool)> {
        let (pid, cookie) = match event {
            Event::Miss(job) | Event::Overrun(job) => (job.pid, job.cookie),
            Event::Fork { thread, .. } | Event::Exec(thread) | Event::Rename(thread) | Event::Exit { thread, .. } => {
                (thread.pid, thread.cookie)
            }
        };
        let of = self.cookies.get(&cookie)?;
        let is_watched = self.watched.iter().any(|((other, _), watched)| other == of && id(watched.thread.tid) == pid);
        Some((of.clone(), is_watched))
    }

    /// Has new threads of these processes, and of those that they make, told; whether there is a monitor to tell.
    pub fn follow(&mut self, of: &PodId, processes: &BTreeSet<i32>) -> bool {
        let known = self.followed.get(of).cloned().unwrap_or_default();
        if known == *processes {
            return true;
        }
        let cookie = self.cookie(of);
        let Some(monitor) = self.monitor() else { return false };
        for pid in known.difference(processes) {
            let _ = monitor.unfollow(id(*pid));
        }
        for pid in processes.difference(&known) {
            if let Err(error) = monitor.follow(id(*pid), cookie) {
                debug!(pid, %error, "its threads are looked for instead");
            }
        }
        self.followed.insert(of.clone(), processes.clone());
        true
    }

    /// Watches a task's thread; one that is watched goes on, with what is promised now.
    pub fn watch(&mut self, of: &PodId, task: &InstanceTask, thread: ThreadId, base: &TaskStatus) {
        let key = (of.clone(), task.name.clone());
        let (promised, lateness_ns) = (promised(task, self.cookie(of)), lateness_ns(task));
        let known = self.watched.get(&key).filter(|known| known.thread == thread).map(|known| known.promised);
        // What looks the same may be another thread of its process, which has taken its id by executing a program.
        let is_counted = |monitor: &Monitor| monitor.is_counted(id(thread.tid)).unwrap_or(true);
        let known = known.filter(|_| self.monitor.as_ref().is_none_or(is_counted));
        if known == Some(promised) {
            return;
        }
        let Some(monitor) = self.monitor() else { return };
        if known.is_some() {
            if monitor.update(id(thread.tid), promised).is_ok()
                && let Some(known) = self.watched.get_mut(&key)
            {
                (known.promised, known.lateness_ns) = (promised, lateness_ns);
            }
            return;
        }
        match monitor.watch(id(thread.tid), promised) {
            Ok(()) => {
                let (base, responses) = (base.clone(), BTreeMap::new());
                let watched = Watched { thread, promised, lateness_ns, base, responses };
                self.watched.insert(key, watched);
            }
            Err(error) => debug!(task = task.name, %error, "its deadlines aren't watched"),
        }
    }

    /// Ends what is watched of an instance, but for these threads.
    pub fn unwatch(&mut self, of: &PodId, but: impl Fn(&str, ThreadId) -> bool) {
        let Some(monitor) = self.monitor.as_mut() else { return };
        self.watched.retain(|(other, task), watched| {
            let stays = other != of || but(task, watched.thread);
            if !stays {
                let _ = monitor.unwatch(id(watched.thread.tid));
            }
            stays
        });
    }

    /// Forgets an instance; without any, the monitor is unloaded.
    pub fn forget(&mut self, of: &PodId) {
        self.unwatch(of, |_, _| false);
        self.follow(of, &BTreeSet::new());
        self.followed.remove(of);
        self.cookies.retain(|_, other| other != of);
        if self.cookies.is_empty() {
            self.monitor = None;
        }
    }

    /// What was measured of a task since its container started; `None` if nobody watches it.
    pub fn read(&mut self, of: &PodId, task: &str, metrics: &Metrics, labels: &TaskLabels) -> Option<TaskStatus> {
        let watched = self.watched.get_mut(&(of.clone(), task.to_owned()))?;
        let counters = self.monitor.as_ref()?.read(id(watched.thread.tid)).ok()?;
        for (bound_ns, count) in counters.responses.buckets() {
            let known = watched.responses.insert(bound_ns, count).unwrap_or(0);
            if count > known {
                metrics.respond(labels, bound_ns, count - known);
            }
        }
        Some(added(&watched.base, &counters, watched.lateness_ns))
    }
}

fn added(base: &TaskStatus, counters: &Counters, lateness_ns: u64) -> TaskStatus {
    let int = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let response = match counters.max_response_ns {
        0 => 0,
        // From the arrival, at most.
        ns => ns.saturating_add(lateness_ns),
    };
    TaskStatus {
        jobs: base.jobs.saturating_add(int(counters.jobs)),
        misses: base.misses.saturating_add(int(counters.misses)),
        overruns: base.overruns.saturating_add(int(counters.overruns)),
        worst_response_ns: base.worst_response_ns.max(int(response)),
        worst_execution_ns: base.worst_execution_ns.max(int(counters.max_exec_ns)),
        ..base.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_from_the_arrival_is_measured_from_the_release() {
        let mut task: InstanceTask = serde_json::from_value(serde_json::json!({
            "name": "t", "policy": "FIFO", "priority": 1, "cpu": 0, "wcetNs": 2_000, "periodNs": 10_000, "deadlineNs": 8_000,
            "jitterNs": 1_500, "responseTimeNs": 5_000,
        }))
        .unwrap();
        assert_eq!((promised(&task, 1).deadline_ns, lateness_ns(&task)), (6_500, 1_500));
        // Its jobs may queue: then one may be released as it arrives and take all of what is proven.
        (task.deadline_ns, task.response_time_ns) = (30_000, 12_000);
        assert_eq!((promised(&task, 1).deadline_ns, lateness_ns(&task)), (30_000, 0));
    }

    #[test]
    fn what_could_not_be_loaded_is_tried_again_when_a_probe_says_so() {
        let mut watcher = Watcher::new(Err("no memory".to_owned()));
        assert_eq!(watcher.state(), Err("no memory"));
        watcher.found(Err("no BPF".to_owned()));
        assert_eq!(watcher.state(), Err("no BPF"));
        watcher.found(Ok(()));
        assert_eq!(watcher.state(), Ok(()));
    }

    #[test]
    fn what_was_short_is_asked_for_again() {
        let (mut watcher, start) = (Watcher::new(Ok(())), Instant::now());
        assert!(watcher.may_load(start));
        watcher.failed("no memory".to_owned(), start);
        assert_eq!(watcher.state(), Err("no memory"));
        assert!(!watcher.may_load(start + FIRST_RELOAD / 2) && watcher.may_load(start + FIRST_RELOAD));
        watcher.failed("no memory".to_owned(), start);
        assert!(!watcher.may_load(start + FIRST_RELOAD) && watcher.may_load(start + FIRST_RELOAD * 2));
        for _ in 0..9 {
            watcher.failed("no memory".to_owned(), start);
        }
        assert!(!watcher.may_load(start + MAX_RELOAD / 2) && watcher.may_load(start + MAX_RELOAD));
        watcher.found(Ok(()));
        assert!(watcher.may_load(start));
        // It took it: that it didn't now passes.
        watcher.found(Err("no memory".to_owned()));
        assert!(watcher.may_load(Instant::now() + FIRST_RELOAD));
        // A kernel that never took it isn't asked again and again.
        watcher = Watcher::new(Err("no BPF".to_owned()));
        watcher.found(Err("no BPF".to_owned()));
        assert!(!watcher.may_load(Instant::now() + MAX_RELOAD));
    }
}
