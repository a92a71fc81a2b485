//! What instances want of the scheduler, held: looked at, given, read back, repaired, given back. Blocking; the task in the module above runs it.

mod budget;
mod give;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pullpiri_crds::condition::reason;
use pullpiri_crds::duration::format_ns;
use pullpiri_crds::instance::{InstanceTask, TaskStatus};
use pullpiri_node_core::plan::Event;
use pullpiri_node_core::realtime::{
    Binding, Bound, Held, Report, Standing, Thread, ThreadId, Unset, bind, follow, report, times,
};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::cgroup::PARENT;
use tokio::time::Instant;
use tracing::debug;

use super::capabilities::Found;
use super::kernel::Kernel;
use super::metrics::{Metrics, TaskLabels};
use super::monitor::{EventQueue, Watcher};
use super::state::{self, Holding};
use super::{News, Order, Wanted, monitor};

/// Between looks at threads that are held: somebody else's change is undone within this.
pub(super) const DRIFT: Duration = Duration::from_millis(250);
/// The first wait for a thread that isn't there yet; doubled up to [`DRIFT`].
const FIRST_RESCAN: Duration = Duration::from_millis(2);
/// Between reports in which only counts changed, and between those that tell of another miss.
const REPORT: Duration = Duration::from_secs(1);
const REPORT_MISSES: Duration = Duration::from_millis(200);
/// After a failure, at the next look: SCHED_DEADLINE's bandwidth, say, is free only some time after the thread that had it has gone. Doubled up to the
/// latter.
const FIRST_RETRY: Duration = DRIFT;
const MAX_RETRY: Duration = Duration::from_secs(8);

#[derive(Debug)]
struct Failure {
    why: Unset,
    count: u32,
    retry_at: Instant,
}

#[derive(Debug)]
struct Instance {
    /// `None`: everything is to be given back.
    wanted: Option<Wanted>,
    holding: Holding,
    /// Since its container, whose first process it was, started.
    measured: BTreeMap<String, (i32, TaskStatus)>,
    /// What an earlier life of this process told of tasks, and the threads that it held for them. Those that are still there are counted on.
    adopted: BTreeMap<String, (ThreadId, TaskStatus)>,
    bindings: Vec<(String, Binding)>,
    failures: BTreeMap<String, Failure>,
    /// What is wanted came since the last look: its budgets are reckoned anew.
    is_news: bool,
    /// To be looked at again.
    due: Option<Instant>,
    /// When it was looked at last.
    looked: Option<Instant>,
    rescan: Duration,
    told: Option<(Report, Instant)>,
    events: Vec<Event>,
    miss_told: Option<Instant>,
    /// The first processes whose new threads are told.
    followed: BTreeSet<i32>,
}

#[derive(Debug)]
pub(super) struct Engine {
    file: state::File,
    kernel: Kernel,
    watcher: Watcher,
    metrics: Metrics,
    instances: BTreeMap<PodId, Instance>,
    /// The kernel refused what this node is said to be able to do.
    surprised: bool,
    /// When CPUs that were set apart are to be looked at, whatever becomes of instances: at first, as an earlier life may have left some, and after a
    /// failure.
    settle_at: Option<Instant>,
    /// When the budgets of groups may be lowered to what is needed.
    lower_at: BTreeMap<String, Instant>,
}

impl Engine {
    pub fn new(file: state::File, found: Found, metrics: Metrics) -> Self {
        let kernel = Kernel::new(found.cgroups, found.cpus);
        let watcher = Watcher::new(found.monitor);
        let lower_at = file.lowering.keys().map(|group| (group.clone(), Instant::now() + budget::LOWER)).collect();
        Self {
            file,
            kernel,
            watcher,
            metrics,
            instances: BTreeMap::new(),
            surprised: false,
            settle_at: Some(Instant::now()),
            lower_at,
        }
    }

    /// Probed again.
    pub fn found(&mut self, found: Found) {
        self.kernel = Kernel::new(found.cgroups, found.cpus);
        self.watcher.found(found.monitor);
        // A monitor that is loaded only now has to be told whom to follow.
        self.instances.values_mut().for_each(|instance| instance.followed.clear());
    }

    /// Of a monitor that was just loaded: what it tells of jobs, and of threads.
    pub fn take_events(&mut self) -> Option<[EventQueue; 2]> {
        self.watcher.take_events()
    }

    pub fn is_watching(&self) -> bool {
        self.watcher.is_loaded()
    }

    /// Something happened to a thread: a miss is told, a thread that came or has a new name may be the one that was missing.
    pub fn hear(&mut self, event: &monitor::Event) {
        let Some((id, is_watched)) = self.watcher.about(event) else { return };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let now = Instant::now();
        if is_watched {
            instance.due = Some(now);
            instance.rescan = FIRST_RESCAN;
        } else if instance.bindings.iter().any(|(_, binding)| *binding == Binding::Missing) {
            instance.due = Some(after_hearing(now, instance.due, instance.looked));
        }
    }

    pub fn take_surprise(&mut self) -> bool {
        std::mem::take(&mut self.surprised)
    }

    pub fn obey(&mut self, order: Order) {
        let Order { id, wanted, known } = order;
        let held = self.file.instances.get(&id);
        if wanted.is_none() && held.is_none() && !self.instances.contains_key(&id) {
            return;
        }
        let instance = self.instances.entry(id).or_insert_with(|| {
            let holding = held.cloned().unwrap_or_default();
            let adopted = adopted(&holding.held, &known);
            Instance {
                wanted: None,
                holding,
                measured: BTreeMap::new(),
                adopted,
                bindings: Vec::new(),
                failures: BTreeMap::new(),
                is_news: true,
                due: None,
                looked: None,
                rescan: FIRST_RESCAN,
                told: None,
                events: Vec::new(),
                miss_told: None,
                followed: BTreeSet::new(),
            }
        });
        if let Some(old) = &instance.wanted {
            let goes = |task: &&InstanceTask| {
                wanted.as_ref().is_none_or(|wanted| wanted.tasks.iter().all(|other| other.name != task.name))
            };
            for task in old.tasks.iter().filter(goes) {
                self.metrics.forget(&labels(old, &task.name));
                instance.measured.remove(&task.name);
                instance.adopted.remove(&task.name);
            }
        }
        // What failed may work as it is declared now.
        instance.failures.clear();
        instance.wanted = wanted;
        instance.is_news = true;
        instance.due = Some(Instant::now());
        instance.rescan = FIRST_RESCAN;
    }

    /// When something is to be done again; `None`: nothing is, until an order comes.
    pub fn next_wake(&self) -> Option<Instant> {
        let due = self.instances.values().filter_map(|instance| instance.due);
        let reports = self.instances.values().filter_map(|instance| {
            let (told, at) = instance.told.as_ref()?;
            let current = self.report(instance)?;
            (current != *told).then(|| *at + interval(told, &current))
        });
        due.chain(reports).chain(self.settle_at).chain(self.lower_at.values().copied()).min()
    }

    /// Does what is due, and tells what is new.
    pub fn pass(&mut self) -> Vec<News> {
        let now = Instant::now();
        let due = |instance: &Instance| instance.due.is_some_and(|due| due <= now);
        let ids: Vec<PodId> = self.instances.iter().filter(|(_, i)| due(i)).map(|(id, _)| id.clone()).collect();
        let settles = !ids.is_empty() || self.settle_at.is_some_and(|at| at <= now);
        if settles {
            self.kernel.look_around();
        }
        for id in ids {
            let Some(mut instance) = self.instances.remove(&id) else { continue };
            if self.look(&id, &mut instance, now) {
                self.instances.insert(id, instance);
            } else {
                self.watcher.forget(&id);
            }
        }
        if settles {
            self.settle_at = (!self.kernel.settle()).then(|| now + DRIFT);
        }
        self.lower(now);
        self.news(now)
    }

    /// Looks at an instance's threads and does what is to be done; whether there is anything left to hold.
    fn look(&mut self, id: &PodId, instance: &mut Instance, now: Instant) -> bool {
        instance.looked = Some(now);
        let wanted = instance.wanted.clone();
        let (tasks, containers) = wanted.as_ref().map_or((&[][..], &[][..]), |w| (&w.tasks[..], &w.containers[..]));
        self.measure(id, instance, now);
        let settings_first = self.watcher.is_to_be_loaded();
        if !settings_first {
            self.follow(id, instance, containers);
        }
        let threads = self.threads(tasks, containers, &instance.holding.held);
        instance.holding.held = follow(&instance.holding.held, &threads);
        let running: Vec<&str> = containers.iter().map(|(name, _)| name.as_str()).collect();
        let bound = bind(tasks, &running, &threads, &instance.holding.held);
        let held = &bound.held;
        self.watcher.unwatch(id, |task, thread| held.iter().any(|held| held.task == task && held.thread == thread));
        self.start_counting(instance, containers, &bound);
        instance.bindings.clone_from(&bound.bindings);
        let outcome = self.carry_out(id, instance, tasks, bound, &threads, now);
        // What is promised of a thread that has its settings isn't asked of one that hasn't.
        self.watcher.unwatch(id, |task, _| !instance.failures.contains_key(task));
        let missing = instance.bindings.iter().any(|(_, binding)| *binding == Binding::Missing);
        // Threads that come within the first looks don't wait for it either.
        if !settings_first || !missing || instance.rescan >= DRIFT {
            self.watch(id, instance, tasks, containers);
        }
        let idle = instance.bindings.iter().all(|(_, binding)| *binding == Binding::NotRunning);
        instance.due = if missing && instance.rescan < DRIFT {
            let at = now + instance.rescan;
            instance.rescan = instance.rescan.saturating_mul(2);
            Some(at)
        } else {
            (!idle || !outcome).then(|| now + DRIFT)
        };
        wanted.is_some() || instance.holding != Holding::default()
    }

    /// Reads what was measured since the last look.
    fn measure(&mut self, id: &PodId, instance: &mut Instance, now: Instant) {
        let Some(wanted) = &instance.wanted else { return };
        for (task, (_, status)) in &mut instance.measured {
            let labels = labels(wanted, task);
            let Some(measured) = self.watcher.read(id, task, &self.metrics, &labels) else { continue };
            let measured = TaskStatus { repairs: status.repairs, ..measured };
            self.metrics.count(&labels, status, &measured);
            let missed = measured.misses > status.misses;
            *status = measured;
            if missed && instance.miss_told.is_none_or(|at| now >= at + REPORT) {
                instance.miss_told = Some(now);
                let deadline = wanted.tasks.iter().find(|other| other.name == *task).map_or(0, |task| task.deadline_ns);
                let deadline = format_ns(u64::try_from(deadline).unwrap_or(0));
                let note = format!(
                    "task {task} missed its deadline of {deadline}; {} since its container started",
                    times(status.misses)
                );
                let event = Event { pod: id.clone(), reason: reason::DEADLINE_MISSED, warning: true, note };
                instance.events.push(event);
            }
        }
    }

    /// Has new threads of the containers told, before those that there are are looked at.
    fn follow(&mut self, id: &PodId, instance: &mut Instance, containers: &[(String, i32)]) {
        let pids: BTreeSet<i32> = containers.iter().map(|(_, pid)| *pid).collect();
        let has_monitor = self.watcher.is_loaded() || self.watcher.is_to_be_loaded();
        if pids == instance.followed || !has_monitor {
            return;
        }
        let processes = pids.iter().flat_map(|pid| self.kernel.processes(*pid).unwrap_or_else(|_| [*pid].into()));
        if self.watcher.follow(id, &processes.collect()) {
            instance.followed = pids;
        }
    }

    /// Has the monitor watch the threads that are held, and tell of new ones.
    fn watch(&mut self, id: &PodId, instance: &mut Instance, tasks: &[InstanceTask], containers: &[(String, i32)]) {
        self.follow(id, instance, containers);
        let has_its_settings = |held: &&Held| !instance.failures.contains_key(&held.task);
        for held in instance.holding.held.iter().filter(has_its_settings) {
            let task = tasks.iter().find(|task| task.name == held.task);
            let measured = instance.measured.get(&held.task);
            if let (Some(task), Some((_, measured))) = (task, measured) {
                self.watcher.watch(id, task, held.thread, measured);
            }
        }
    }

    /// The threads that are held, or all of them if those aren't all that is wanted.
    fn threads(&self, tasks: &[InstanceTask], containers: &[(String, i32)], held: &[Held]) -> Vec<Thread> {
        let first = |name: &str| containers.iter().find(|(other, _)| other == name).map_or(0, |(_, pid)| *pid);
        let of_held =
            held.iter().filter_map(|held| self.kernel.thread(&held.container, first(&held.container), held.thread));
        let mut threads: Vec<Thread> = of_held.collect();
        let running: Vec<&str> = containers.iter().map(|(name, _)| name.as_str()).collect();
        let enough = bind(tasks, &running, &threads, held);
        if enough.bindings.iter().all(|(_, binding)| *binding != Binding::Missing) {
            return threads;
        }
        for (name, first) in containers {
            match self.kernel.threads(name, *first) {
                Ok(found) => threads.extend(found),
                // It has just ended, or will be looked at again.
                Err(error) => debug!(container = name, %error, "its threads can't be listed"),
            }
        }
        threads.sort_by_key(|thread| thread.id);
        threads.dedup_by_key(|thread| thread.id);
        threads
    }

    /// A container that was started again counts from zero; one that outlived an earlier life of this process goes on from there.
    fn start_counting(&self, instance: &mut Instance, containers: &[(String, i32)], bound: &Bound) {
        for (task, binding) in &bound.bindings {
            let Binding::Thread { container, id, .. } = binding else { continue };
            let pid = containers.iter().find(|(name, _)| name == container).map_or(0, |(_, pid)| *pid);
            if instance.measured.get(task).is_some_and(|(counted, _)| *counted == pid) {
                continue;
            }
            let known = instance.adopted.remove(task).filter(|(thread, _)| thread == id).map(|(_, status)| status);
            if let (Some(wanted), Some(status)) = (&instance.wanted, &known) {
                // They were counted in an earlier life.
                self.metrics.count(&labels(wanted, task), status, status);
            }
            let status = known.unwrap_or_default();
            instance.measured.insert(task.clone(), (pid, TaskStatus { name: task.clone(), ..status }));
        }
    }

    fn report(&self, instance: &Instance) -> Option<Report> {
        let wanted = instance.wanted.as_ref()?;
        let standing = |task: &InstanceTask| Standing {
            binding: instance
                .bindings
                .iter()
                .find(|(name, _)| *name == task.name)
                .map_or(Binding::NotRunning, |(_, binding)| binding.clone()),
            failure: instance.failures.get(&task.name).map(|failure| failure.why.clone()),
            measured: {
                // Until its thread is found again, what was told of it stands.
                let known = || instance.adopted.get(&task.name).map(|(_, status)| status);
                let measured = instance.measured.get(&task.name).map(|(_, status)| status);
                measured.or_else(known).cloned().unwrap_or_default()
            },
        };
        let standings: Vec<Standing> = wanted.tasks.iter().map(standing).collect();
        let containers: Vec<(&str, i32)> = wanted.containers.iter().map(|(name, pid)| (name.as_str(), *pid)).collect();
        Some(report(wanted.generation, &wanted.tasks, &standings, &containers, self.watcher.state()))
    }

    /// What is to be told now.
    fn news(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        let ids: Vec<PodId> = self.instances.keys().cloned().collect();
        for id in ids {
            let Some(instance) = self.instances.get(&id) else { continue };
            let current = self.report(instance);
            let Some(instance) = self.instances.get_mut(&id) else { continue };
            let is_due = match (&current, &instance.told) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(current), Some((told, at))) => current != told && now >= *at + interval(told, current),
            };
            let report = current.filter(|_| is_due);
            if let Some(report) = &report {
                instance.told = Some((report.clone(), now));
            }
            let events = std::mem::take(&mut instance.events);
            if report.is_some() || !events.is_empty() {
                news.push(News { id, report, events });
            }
        }
        news
    }
}

/// When an instance that misses a thread is looked at because some thread came, ended or has a new name: soon, but not with each of them. A program
/// that makes threads all the time would have all of its threads listed all the time.
fn after_hearing(now: Instant, due: Option<Instant>, looked: Option<Instant>) -> Instant {
    let soon = looked.map_or(now, |at| now.max(at + FIRST_RESCAN));
    due.map_or(soon, |due| due.min(soon))
}

/// How long after one report another may follow.
fn interval(told: &Report, current: &Report) -> Duration {
    let misses = |report: &Report| report.tasks.iter().map(|task| task.misses).sum::<i64>();
    let counts_only = told.realtime == current.realtime
        && told.generation == current.generation
        && told.deadlines.status == current.deadlines.status
        && told.wcet.status == current.wcet.status
        && told.spent.len() == current.spent.len();
    match (counts_only, misses(told) == misses(current)) {
        (false, _) => Duration::ZERO,
        (true, false) => REPORT_MISSES,
        (true, true) => REPORT,
    }
}

/// What was told of the tasks whose threads an earlier life of this process held.
fn adopted(held: &[Held], known: &[TaskStatus]) -> BTreeMap<String, (ThreadId, TaskStatus)> {
    let of = |held: &Held| {
        let status = known.iter().find(|status| status.name == held.task)?;
        Some((held.task.clone(), (held.thread, status.clone())))
    };
    held.iter().filter_map(of).collect()
}

/// Whether what is written down suffices to give back all that `next` holds: the same threads had the same before, and the same groups and processes are
/// touched. What they are given is then written down when they have it, as writing may wait for a disk.
///
/// Should this process die in between, the next one finds threads that have what they are to have already, and makes good the budgets above groups of ours
/// (`RtGroups::set`); above somebody else's it couldn't.
fn is_covered(known: &Holding, next: &Holding) -> bool {
    let is_held = |held: &Held| {
        let same = |known: &Held| (known.thread, &known.task, &known.before) == (held.thread, &held.task, &held.before);
        known.held.iter().any(same)
    };
    let is_budgeted = |(group, us): (&String, &u64)| match known.budgets.get(group) {
        Some(known) => known == us || group.split('/').next() == Some(PARENT),
        None => false,
    };
    next.held.iter().all(is_held)
        && next.budgets.iter().all(is_budgeted)
        && next.memory_locks.keys().all(|pid| known.memory_locks.contains_key(pid))
}

pub(super) fn labels(wanted: &Wanted, task: &str) -> TaskLabels {
    TaskLabels { namespace: wanted.namespace.clone(), instance: wanted.name.clone(), task: task.to_owned() }
}

#[cfg(test)]
mod tests {
    use pullpiri_node_core::realtime::{Cpus, Given, Policy, Settings};

    use super::*;

    fn held(task: &str, priority: u32, tid: i32) -> Held {
        let given = |policy| Given { settings: Settings { policy, reset_on_fork: true }, cpus: Cpus::one(1) };
        Held {
            task: task.to_owned(),
            container: "c".to_owned(),
            thread: ThreadId { pid: 1, tid, started: 5 },
            given: given(Policy::Fifo { priority }),
            before: given(Policy::Other { nice: 0 }),
        }
    }

    #[test]
    fn what_is_given_back_by_what_is_written_down_already_needs_no_writing_first() {
        let ours = format!("{PARENT}/p/c");
        let holding = |priority, tid, group: &str, us| Holding {
            held: vec![held("t", priority, tid)],
            budgets: BTreeMap::from([(group.to_owned(), us)]),
            memory_locks: BTreeMap::from([(1, (0, 0))]),
        };
        let known = holding(50, 7, &ours, 100);
        assert!(is_covered(&known, &holding(60, 7, &ours, 200)));
        assert!(!is_covered(&known, &holding(50, 8, &ours, 100)), "another thread");
        assert!(!is_covered(&known, &holding(50, 7, "other/c", 100)), "another group");
        let known = holding(50, 7, "other/c", 100);
        assert!(!is_covered(&known, &holding(50, 7, "other/c", 200)), "somebody else's is above it");
        assert!(!is_covered(&Holding::default(), &known) && is_covered(&known, &Holding::default()));
    }

    #[test]
    fn counts_go_on_for_the_threads_that_were_held() {
        let status = |name: &str, jobs| TaskStatus { name: name.to_owned(), jobs, ..TaskStatus::default() };
        let known = adopted(&[held("a", 1, 7), held("b", 1, 8)], &[status("a", 5), status("c", 6)]);
        assert_eq!(known, BTreeMap::from([("a".to_owned(), (held("a", 1, 7).thread, status("a", 5)))]));
    }

    #[test]
    fn what_is_heard_of_threads_brings_no_look_sooner_than_the_first_wait() {
        let now = Instant::now();
        let later = now + DRIFT;
        assert_eq!(after_hearing(now, Some(later), None), now);
        // It was just looked at: as soon as it may be, however much is heard.
        let soon = after_hearing(now, Some(later), Some(now));
        assert_eq!(soon, now + FIRST_RESCAN);
        assert_eq!(after_hearing(now + FIRST_RESCAN / 2, Some(soon), Some(now)), soon);
        // What is due stays due, and long after a look there is nothing to wait for.
        assert_eq!(after_hearing(now, Some(now), Some(now)), now);
        assert_eq!(after_hearing(later, None, Some(now)), later);
    }
}
