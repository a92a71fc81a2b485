//! Which thread is which task, and what is to be done about it.
//!
//! A task is one thread: the proof counted one. Where several have its name (a thread that is made inherits the name of its maker until it gets its
//! own), it is the one that started first. What a thread had before it was given anything is kept, so that it can be given back.
//!
//! Invariants: deciding on the result of a plan gives no step; a thread that nobody bound is never touched; a change that the task's
//! declaration explains is never taken for somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::schedule::SchedulingPolicy;
use pullpiri_rt::{Load, kernel};
use serde::{Deserialize, Serialize};

use super::{Cpus, Settings};

/// A thread that isn't another one that got its id later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadId {
    pub pid: i32,
    pub tid: i32,
    /// Clock ticks since boot.
    pub started: u64,
}

/// How and where a thread runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    pub settings: Settings,
    /// Empty: any.
    pub cpus: Cpus,
}

impl Given {
    /// What a task's thread is to be given.
    #[must_use]
    pub fn of(task: &InstanceTask) -> Self {
        Self { settings: Settings::of(task), cpus: Cpus::one(u32::try_from(task.cpu).unwrap_or(0)) }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cpus.is_empty() {
            write!(f, "{} on any CPU", self.settings)
        } else {
            write!(f, "{} on CPU {}", self.settings, self.cpus)
        }
    }
}

/// A thread of a container, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub container: String,
    pub id: ThreadId,
    /// The first thread of the container's first process.
    pub is_first: bool,
    pub name: String,
    pub now: Given,
}

/// A thread that was given a task's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub task: String,
    pub container: String,
    pub thread: ThreadId,
    pub given: Given,
    pub before: Given,
}

/// Why a thread is given settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was found.
    Bound,
    /// The task's declaration changed.
    Changed,
    /// Somebody else made it this.
    Drifted(Given),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Gives the task's thread what it is to have, and reads it back.
    Give { task: String, container: String, thread: ThreadId, given: Given, now: Given, why: Why },
    /// Gives a thread back what it had.
    Restore { task: String, container: String, thread: ThreadId, before: Given },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Give { task, container, thread, given, why, .. } => {
                write!(f, "give    {task}: thread {} of {container} {given}", thread.tid)?;
                match why {
                    Why::Bound => f.write_str(" (found)"),
                    Why::Changed => f.write_str(" (declared anew)"),
                    Why::Drifted(now) => write!(f, " (somebody made it {now})"),
                }
            }
            Self::Restore { task, container, thread, before } => {
                write!(f, "restore {task}: thread {} of {container} {before}", thread.tid)
            }
        }
    }
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `others`: threads that have its name as well.
    Thread { id: ThreadId, container: String, others: usize },
    /// No thread is it (yet).
    Missing,
    /// Its container doesn't run.
    NotRunning,
}

/// What is to be done, and how it stands then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Restored first, then given.
    pub steps: Vec<Step>,
    /// What is held once the steps are done.
    pub held: Vec<Held>,
    /// Of each task, in the order declared.
    pub bindings: Vec<(String, Binding)>,
}

/// What is held, under the ids that threads have now: one that executes a program becomes its process' first thread, all others of which end, and keeps
/// what it was given (execve(2)).
#[must_use]
pub fn follow(held: &[Held], threads: &[Thread]) -> Vec<Held> {
    let is_there = |id: ThreadId| threads.iter().any(|thread| thread.id == id);
    let is_held = |id: ThreadId| held.iter().any(|held| held.thread == id);
    let now = |held: &Held| {
        let became = |thread: &&Thread| {
            let id = thread.id;
            id.pid == held.thread.pid && id.tid == id.pid && thread.now == held.given && !is_held(id)
        };
        let became = threads.iter().find(became).filter(|_| !is_there(held.thread));
        Held { thread: became.map_or(held.thread, |thread| thread.id), ..held.clone() }
    };
    held.iter().map(now).collect()
}

/// Binds tasks to threads. `running`: the containers that run, in the model's order. `threads`: at least those held, as far as they are still there; a task
/// whose thread isn't among them is missing, so all of them are to be looked at before that is said.
#[must_use]
pub fn bind(tasks: &[InstanceTask], running: &[&str], threads: &[Thread], held: &[Held]) -> Bound {
    let mut bound = Bound::default();
    let mut taken: BTreeSet<ThreadId> = BTreeSet::new();
    let mut gives = Vec::new();
    for task in tasks {
        let binding = binding(task, running, threads, held, &taken);
        if let Binding::Thread { id, container, .. } = &binding {
            taken.insert(*id);
            if let Some(thread) = threads.iter().find(|thread| thread.id == *id) {
                let known = held.iter().find(|held| held.thread == *id);
                let (next, step) = give(task, container, thread, known);
                bound.held.push(next);
                gives.extend(step);
            }
        }
        bound.bindings.push((task.name.clone(), binding));
    }
    for old in held.iter().filter(|old| !taken.contains(&old.thread)) {
        if threads.iter().any(|thread| thread.id == old.thread) {
            bound.steps.push(Step::Restore {
                task: old.task.clone(),
                container: old.container.clone(),
                thread: old.thread,
                before: old.before.clone(),
            });
        }
    }
    bound.steps.append(&mut gives);
    bound
}

fn binding(
    task: &InstanceTask,
    running: &[&str],
    threads: &[Thread],
    held: &[Held],
    taken: &BTreeSet<ThreadId>,
) -> Binding {
    let is_of_container = |thread: &&Thread| match (&task.container, &task.thread) {
        (Some(container), _) => thread.container == *container,
        // Any container's thread of that name; without a name, the first container's first.
        (None, Some(_)) => true,
        (None, None) => Some(thread.container.as_str()) == running.first().copied(),
    };
    let runs = task.container.as_ref().map_or(!running.is_empty(), |container| running.contains(&container.as_str()));
    if !runs {
        return Binding::NotRunning;
    }
    let is_it = |thread: &&Thread| match &task.thread {
        Some(name) => thread.name == *name,
        None => thread.is_first,
    };
    let mut candidates: Vec<&Thread> =
        threads.iter().filter(is_of_container).filter(is_it).filter(|thread| !taken.contains(&thread.id)).collect();
    candidates.sort_by_key(|thread| (thread.id.started, thread.id.tid));
    let is_held = |thread: &&&Thread| held.iter().any(|held| held.task == task.name && held.thread == thread.id);
    match candidates.iter().find(is_held).or_else(|| candidates.first()) {
        Some(thread) => Binding::Thread {
            id: thread.id,
            container: thread.container.clone(),
            others: candidates.len().saturating_sub(1),
        },
        None => Binding::Missing,
    }
}

fn give(task: &InstanceTask, container: &str, thread: &Thread, known: Option<&Held>) -> (Held, Option<Step>) {
    let given = Given::of(task);
    let as_wished = thread.now == given;
    let why = match known {
        _ if as_wished => None,
        None => Some(Why::Bound),
        Some(held) if held.given == given && held.task == task.name => Some(Why::Drifted(thread.now.clone())),
        Some(_) => Some(Why::Changed),
    };
    let before = match known {
        Some(held) => held.before.clone(),
        // It was given in a life of this process that left no record.
        None if as_wished => Given { settings: Settings::DEFAULT, cpus: Cpus::default() },
        None => thread.now.clone(),
    };
    let held = Held {
        task: task.name.clone(),
        container: container.to_owned(),
        thread: thread.id,
        given: given.clone(),
        before,
    };
    let step = why.map(|why| Step::Give {
        task: task.name.clone(),
        container: container.to_owned(),
        thread: thread.id,
        given,
        now: thread.now.clone(),
        why,
    });
    (held, step)
}

/// The real-time budget that a container's group needs, in nanoseconds of each `window_ns` on each CPU: what its fixed-priority tasks may execute in a
/// window at most, on the CPU that has the most of them. The same number as admission reckons with.
#[must_use]
pub fn budget_ns<'a>(tasks: impl Iterator<Item = &'a InstanceTask>, window_ns: u64) -> u64 {
    let ns = |value: i64| u64::try_from(value).unwrap_or(0);
    let mut per_cpu: BTreeMap<i32, Vec<(Load, u64)>> = BTreeMap::new();
    for task in tasks.filter(|task| task.policy != SchedulingPolicy::Deadline) {
        let load = Load {
            wcet_ns: ns(task.wcet_ns),
            period_ns: ns(task.period_ns).max(1),
            deadline_ns: ns(task.deadline_ns),
            jitter_ns: ns(task.jitter_ns),
            blocking_ns: ns(task.blocking_ns),
        };
        per_cpu.entry(task.cpu).or_default().push((load, ns(task.response_time_ns)));
    }
    per_cpu.values().map(|tasks| kernel::group_runtime_ns(tasks, window_ns)).max().unwrap_or(0)
}
