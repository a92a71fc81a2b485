//! What is told of an instance's real-time tasks: status, conditions, and which tasks missed more deadlines than they may.

use pullpiri_crds::condition::reason;
use pullpiri_crds::duration::format_ns;
use pullpiri_crds::instance::{InstanceTask, TaskStatus};
use pullpiri_crds::schedule::OnMiss;

use super::Fact;
use super::bind::Binding;

/// Why a task's thread hasn't what it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unset {
    /// The kernel refuses it.
    Refused(String),
    /// The kernel takes it once the thread has woken.
    Asleep(String),
}

impl Unset {
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Refused(message) | Self::Asleep(message) => message,
        }
    }
}

/// How one task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub binding: Binding,
    pub failure: Option<Unset>,
    /// What was measured since its container started; `name` and `threads` are filled in here.
    pub measured: TaskStatus,
}

/// A task that missed more deadlines than its budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    pub task: String,
    pub container: String,
    /// The container's first process: a container that was started again has another, and a budget of its own.
    pub pid: i32,
    pub on_miss: OnMiss,
    pub message: String,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of the instance's spec that it is about.
    pub generation: Option<i64>,
    pub tasks: Vec<TaskStatus>,
    pub realtime: Fact,
    pub deadlines: Fact,
    pub wcet: Fact,
    pub spent: Vec<Spent>,
}

/// Adds it all up. `standings` are in the order of `tasks`; `containers`: the first process of each that runs; `monitor`: why deadlines aren't watched.
#[must_use]
pub fn report(
    generation: Option<i64>,
    tasks: &[InstanceTask],
    standings: &[Standing],
    containers: &[(&str, i32)],
    monitor: Result<(), &str>,
) -> Report {
    let pairs: Vec<(&InstanceTask, &Standing)> = tasks.iter().zip(standings).collect();
    let statuses = pairs.iter().map(|(task, standing)| status(task, standing)).collect();
    Report {
        generation,
        tasks: statuses,
        realtime: realtime(&pairs),
        deadlines: deadlines(&pairs, monitor),
        wcet: wcet(&pairs, monitor),
        spent: pairs.iter().filter_map(|(task, standing)| spent(task, standing, containers)).collect(),
    }
}

fn status(task: &InstanceTask, standing: &Standing) -> TaskStatus {
    let holds = matches!(standing.binding, Binding::Thread { .. }) && standing.failure.is_none();
    TaskStatus { name: task.name.clone(), threads: i32::from(holds), ..standing.measured.clone() }
}

fn realtime(pairs: &[(&InstanceTask, &Standing)]) -> Fact {
    let unset: Vec<(&InstanceTask, &Unset)> =
        pairs.iter().filter_map(|(task, standing)| Some((*task, standing.failure.as_ref()?))).collect();
    let said = || unset.iter().map(|(task, why)| format!("task {}: {}", task.name, why.message())).collect::<Vec<_>>();
    if unset.iter().any(|(_, why)| matches!(why, Unset::Refused(_))) {
        return Fact::no(reason::NO_REAL_TIME, said().join("; "));
    }
    let missing: Vec<String> = pairs
        .iter()
        .filter(|(_, standing)| standing.binding == Binding::Missing)
        .map(|(task, _)| format!("task {}: {}", task.name, sought(task)))
        .collect();
    if !missing.is_empty() {
        return Fact::no(reason::THREAD_NOT_FOUND, missing.join("; "));
    }
    if !unset.is_empty() {
        return Fact::no(reason::STARTING, said().join("; "));
    }
    let stopped = |(_, standing): &&(&InstanceTask, &Standing)| standing.binding == Binding::NotRunning;
    if let Some((task, _)) = pairs.iter().find(stopped) {
        return Fact::no(reason::STARTING, format!("task {}: its container doesn't run", task.name));
    }
    let mut message = match pairs.len() {
        1 => "1 task's thread has its settings".to_owned(),
        many => format!("{many} tasks' threads have their settings"),
    };
    let mut repaired = false;
    for (task, standing) in pairs {
        if standing.measured.repairs > 0 {
            repaired = true;
            message.push_str(&format!(
                "; task {}: changed by somebody and repaired {}",
                task.name,
                times(standing.measured.repairs)
            ));
        }
        if let (Binding::Thread { others: 1.., .. }, Some(name)) = (&standing.binding, &task.thread) {
            message.push_str(&format!("; task {}: more than one thread is named {name}, it is the oldest", task.name));
        }
    }
    Fact::yes(if repaired { reason::DRIFT_REPAIRED } else { reason::APPLIED }, message)
}

fn sought(task: &InstanceTask) -> String {
    match (&task.thread, &task.container) {
        (Some(thread), Some(container)) => format!("no thread of container {container} is named {thread}"),
        (Some(thread), None) => format!("no thread of any container is named {thread}"),
        (None, _) => "its container has no thread left for it".to_owned(),
    }
}

fn budget(task: &InstanceTask) -> i64 {
    i64::from(task.miss_budget)
}

fn missed(task: &InstanceTask, misses: i64) -> String {
    let deadline = format_ns(u64::try_from(task.deadline_ns).unwrap_or(0));
    format!(
        "task {} missed its deadline of {deadline} {}; its budget is {}",
        task.name,
        times(misses),
        task.miss_budget
    )
}

/// `once`, or `7 times`.
#[must_use]
pub fn times(count: i64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn deadlines(pairs: &[(&InstanceTask, &Standing)], monitor: Result<(), &str>) -> Fact {
    if let Err(why) = monitor {
        return Fact::unknown(reason::NO_REAL_TIME, format!("deadlines aren't watched here: {why}"));
    }
    let with_misses = |least: fn(&InstanceTask) -> i64| -> Vec<String> {
        let over = pairs.iter().filter(|(task, standing)| standing.measured.misses > least(task));
        over.map(|(task, standing)| missed(task, standing.measured.misses)).collect()
    };
    let spent = with_misses(budget);
    if !spent.is_empty() {
        return Fact::no(reason::MISS_BUDGET_SPENT, spent.join("; "));
    }
    let some = with_misses(|_| 0);
    if !some.is_empty() {
        return Fact::yes(reason::DEADLINE_MISSED, some.join("; "));
    }
    Fact::yes(reason::AS_DECLARED, "no deadline was missed since the containers started")
}

fn wcet(pairs: &[(&InstanceTask, &Standing)], monitor: Result<(), &str>) -> Fact {
    if let Err(why) = monitor {
        return Fact::unknown(reason::NO_REAL_TIME, format!("execution isn't measured here: {why}"));
    }
    let show = |ns: i64| format_ns(u64::try_from(ns).unwrap_or(0));
    let over: Vec<String> = pairs
        .iter()
        .filter(|(_, standing)| standing.measured.overruns > 0)
        .map(|(task, standing)| {
            let worst = show(standing.measured.worst_execution_ns);
            let jobs = match standing.measured.overruns {
                1 => "1 job".to_owned(),
                jobs => format!("{jobs} jobs"),
            };
            format!("task {} executed for {worst}, declared {}; {jobs} took longer", task.name, show(task.wcet_ns))
        })
        .collect();
    if over.is_empty() {
        Fact::yes(reason::AS_DECLARED, "no job executed longer than declared")
    } else {
        Fact::no(reason::WCET_EXCEEDED, over.join("; "))
    }
}

fn spent(task: &InstanceTask, standing: &Standing, containers: &[(&str, i32)]) -> Option<Spent> {
    if standing.measured.misses <= budget(task) {
        return None;
    }
    let Binding::Thread { container, .. } = &standing.binding else { return None };
    let (_, pid) = containers.iter().find(|(name, _)| name == container)?;
    Some(Spent {
        task: task.name.clone(),
        container: container.clone(),
        pid: *pid,
        on_miss: task.on_miss,
        message: missed(task, standing.measured.misses),
    })
}
