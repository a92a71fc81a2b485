//! Tasks: what a package declares to run in real time, and the threads that each task stands for.
//!
//! A task comes from the Schedule that the package names, or is a Model's own. It is bound to one container, or, without a target, to the
//! threads of its name in any container of the package on its node.

use std::collections::BTreeMap;

use pullpiri_crds::Schedule;
use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::model::Model;
use pullpiri_crds::names::rfc1123;
use pullpiri_crds::schedule::{OnMiss, Placement, PriorityAssignment, TaskTarget};
use pullpiri_rt::{Policy, Task, TaskVerdict};

use super::address::Objection;
use super::seat::Seat;
use super::snapshot::Snapshot;

/// The longest name of a thread: what PR_SET_NAME keeps (prctl(2)).
const THREAD_NAME: usize = 15;
/// As many tasks as the schema of a ModelInstance takes.
const TASKS_OF_AN_INSTANCE: usize = 256;

/// One task.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub task: Task,
    /// The model whose thread it is; `None`: any of the package's on its node.
    pub model: Option<String>,
    pub container: Option<String>,
    pub thread: Option<String>,
    /// The node that it names, in lower-case RFC 1123 form.
    pub node: Option<String>,
    pub on_miss: OnMiss,
    pub miss_budget: i32,
    pub schedule: Option<String>,
}

impl Declared {
    /// Whether it concerns the instance of `model` on `node`.
    pub fn concerns(&self, model: &str, node: &str) -> bool {
        self.model.as_deref().is_none_or(|mine| mine == model) && self.may_be_on(node)
    }

    pub fn may_be_on(&self, node: &str) -> bool {
        self.node.as_deref().is_none_or(|mine| rfc1123(node).as_deref() == Some(mine))
    }

    /// Whether one thread could be both.
    fn meets(&self, other: &Self) -> bool {
        let compatible = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        self.thread == other.thread
            && compatible(&self.model, &other.model)
            && compatible(&self.container, &other.container)
            && compatible(&self.node, &other.node)
    }

    /// What the instances get of it, once it is proven.
    pub fn settled(&self, verdict: &TaskVerdict) -> Option<InstanceTask> {
        let ns = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let task = &self.task;
        Some(InstanceTask {
            name: task.name.clone(),
            container: self.container.clone(),
            thread: self.thread.clone(),
            policy: task.policy,
            priority: if task.policy == Policy::Deadline { None } else { verdict.priority.map(i32::from) },
            cpu: i32::try_from(verdict.cpu?).ok()?,
            wcet_ns: ns(task.wcet_ns),
            period_ns: ns(task.period_ns),
            deadline_ns: ns(task.deadline_ns),
            jitter_ns: ns(task.jitter_ns),
            offset_ns: ns(task.offset_ns),
            blocking_ns: ns(task.blocking_ns),
            response_time_ns: ns(verdict.response_time_ns?),
            on_miss: self.on_miss,
            miss_budget: self.miss_budget,
            schedule: self.schedule.clone(),
        })
    }

    /// Whether what was proven before still is what is asked for.
    pub fn is_as(&self, before: &InstanceTask, assignment: PriorityAssignment) -> bool {
        let same = |ns: u64, before: i64| i64::try_from(ns) == Ok(before);
        let task = &self.task;
        let prioritised = match (assignment, task.policy, task.priority) {
            (_, Policy::Deadline, _) => true,
            (PriorityAssignment::Explicit, _, Some(priority)) => before.priority == Some(i32::from(priority)),
            _ => before.priority.is_some(),
        };
        task.policy == before.policy
            && prioritised
            && same(task.wcet_ns, before.wcet_ns)
            && same(task.period_ns, before.period_ns)
            && same(task.deadline_ns, before.deadline_ns)
            && same(task.jitter_ns, before.jitter_ns)
            && same(task.offset_ns, before.offset_ns)
            && same(task.blocking_ns, before.blocking_ns)
            && u32::try_from(before.cpu).is_ok_and(|cpu| task.affinity.as_ref().is_none_or(|set| set.contains(cpu)))
    }
}

/// All tasks of a package.
#[derive(Clone, Debug)]
pub(super) struct Declaration {
    pub tasks: Vec<Declared>,
    pub assignment: PriorityAssignment,
    pub placement: Placement,
    /// What a person should know though it is no obstacle.
    pub notes: Vec<String>,
}

/// What a package declares; `None` if it has neither a Schedule nor a model with a task of its own.
///
/// # Errors
/// What is wrong with the Schedule or a Model's own task, field by field.
pub(super) fn declared(snapshot: &Snapshot, seats: &[Seat<'_>]) -> Result<Option<Declaration>, Objection> {
    let mut errors: Vec<String> = Vec::new();
    let mut all = Declaration {
        tasks: Vec::new(),
        assignment: PriorityAssignment::Explicit,
        placement: Placement::FirstFit,
        notes: Vec::new(),
    };
    if let Some(name) = &snapshot.package.spec.schedule {
        let Some(schedule) = &snapshot.schedule else {
            return Err((reason::SCHEDULE_NOT_FOUND, format!("schedule {name} doesn't exist")));
        };
        of_schedule(name, schedule, seats, &mut all, &mut errors);
    }
    for seat in seats {
        of_model(snapshot, seat, &mut all.tasks, &mut errors);
    }
    if errors.is_empty() {
        errors.extend(too_many(&all.tasks, seats));
        all.notes = ambiguous(&all.tasks);
    }
    if !errors.is_empty() {
        return Err((reason::SCHEDULE_INVALID, errors.join("; ")));
    }
    Ok((!all.tasks.is_empty()).then_some(all))
}

fn of_schedule(name: &str, schedule: &Schedule, seats: &[Seat<'_>], all: &mut Declaration, errors: &mut Vec<String>) {
    let set = match pullpiri_rt::from_schedule(&schedule.spec) {
        Ok(set) => set,
        Err(wrong) => return errors.extend(wrong.iter().map(|error| format!("schedule {name}: {error}"))),
    };
    (all.assignment, all.placement) = (set.priority_assignment, set.placement);
    for (at, (task, given)) in set.tasks.into_iter().zip(&schedule.spec.tasks).enumerate() {
        let path = format!("schedule {name}: spec.tasks[{at}] ({})", given.name);
        let node = match given.node.as_deref().map(rfc1123) {
            Some(None) => {
                errors.push(format!("{path}.node: {:?} is no node's name", given.node.as_deref().unwrap_or_default()));
                continue;
            }
            Some(node) => node,
            None => None,
        };
        let bound = match &given.target {
            Some(target) => bind(target, seats)
                .map(|container| (Some(target.model.clone()), container, target.thread.as_deref().map(thread_name))),
            None => Ok((None, None, Some(thread_name(&given.name)))),
        };
        match bound {
            Ok((model, container, thread)) => all.tasks.push(Declared {
                task,
                model,
                container,
                thread,
                node,
                on_miss: given.on_miss.unwrap_or_default(),
                miss_budget: given.miss_budget.unwrap_or(0),
                schedule: Some(name.to_owned()),
            }),
            Err(said) => errors.push(format!("{path}.target: {said}")),
        }
    }
}

fn of_model(snapshot: &Snapshot, seat: &Seat<'_>, tasks: &mut Vec<Declared>, errors: &mut Vec<String>) {
    let Some((model, realtime)) = seat.model.and_then(|model| Some((model, model.spec.realtime.as_ref()?))) else {
        return;
    };
    let name = &seat.entry.name;
    if tasks.iter().any(|declared| &declared.task.name == name) {
        let schedule = snapshot.package.spec.schedule.as_deref().unwrap_or_default();
        errors.push(format!("task {name} is in schedule {schedule} and is model {name}'s own (spec.realtime)"));
        return;
    }
    let container = match container_of(model, name, realtime.container.as_deref()) {
        Ok(container) => container,
        Err(said) => return errors.push(format!("model {name}: spec.realtime.container: {said}")),
    };
    match pullpiri_rt::from_model(name, realtime) {
        Ok(task) => tasks.push(Declared {
            task,
            model: Some(name.clone()),
            container: Some(container),
            thread: realtime.thread.as_deref().map(thread_name),
            node: None,
            on_miss: realtime.on_miss.unwrap_or_default(),
            miss_budget: realtime.miss_budget.unwrap_or(0),
            schedule: None,
        }),
        Err(wrong) => errors.extend(wrong.iter().map(|error| format!("model {name}: {error}"))),
    }
}

/// The container that a target means. `Ok(None)`: the Model doesn't exist, which is said elsewhere.
fn bind(target: &TaskTarget, seats: &[Seat<'_>]) -> Result<Option<String>, String> {
    let Some(seat) = seats.iter().find(|seat| seat.entry.name == target.model) else {
        let models: Vec<&str> = seats.iter().map(|seat| seat.entry.name.as_str()).collect();
        return Err(format!("given model {}, expected one of the package's: {}", target.model, models.join(", ")));
    };
    match seat.model {
        Some(model) => container_of(model, &target.model, target.container.as_deref()).map(Some),
        None => Ok(target.container.clone()),
    }
}

/// The container of a Model that is meant: by default its first.
fn container_of(model: &Model, name: &str, wanted: Option<&str>) -> Result<String, String> {
    let mut names = model.spec.containers.iter().map(|container| &container.name);
    let found = match wanted {
        Some(wanted) => names.clone().find(|name| *name == wanted),
        None => names.next(),
    };
    found.cloned().ok_or_else(|| {
        let all: Vec<&str> = model.spec.containers.iter().map(|container| container.name.as_str()).collect();
        format!("given container {}, expected one of model {name}'s: {}", wanted.unwrap_or("none"), all.join(", "))
    })
}

/// As the kernel keeps it: cut to 15 bytes, at a character's edge.
fn thread_name(text: &str) -> String {
    let mut end = text.len().min(THREAD_NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Tasks that could be the same thread. They can be proven, but a thread has one policy and one priority.
fn ambiguous(tasks: &[Declared]) -> Vec<String> {
    let mut by_thread: BTreeMap<&Option<String>, Vec<&Declared>> = BTreeMap::new();
    let mut notes = Vec::new();
    for task in tasks {
        let same = by_thread.entry(&task.thread).or_default();
        if let Some(other) = same.iter().find(|other| other.meets(task)) {
            let thread = match &task.thread {
                Some(thread) => format!("the thread named {thread}"),
                None => format!("the first thread of container {}", task.container.as_deref().unwrap_or_default()),
            };
            let (first, second) = (&other.task.name, &task.task.name);
            notes
                .push(format!("tasks {first} and {second} are both {thread}, which can have the settings of one only"));
        }
        same.push(task);
    }
    notes
}

fn too_many(tasks: &[Declared], seats: &[Seat<'_>]) -> Vec<String> {
    let mut errors = Vec::new();
    for seat in seats {
        let name = &seat.entry.name;
        for node in seat.places.iter().filter_map(crate::placement::Place::node) {
            let count = tasks.iter().filter(|task| task.concerns(name, node)).count();
            if count > TASKS_OF_AN_INSTANCE {
                errors.push(format!(
                    "model {name} on node {node} has {count} tasks, the most is {TASKS_OF_AN_INSTANCE}: give them targets or nodes"
                ));
            }
        }
    }
    errors
}
