//! From what a person wrote to tasks: every field checked, every error named by its path with what was given and what was expected.

use std::collections::BTreeMap;
use std::fmt;

use pullpiri_crds::duration;
use pullpiri_crds::schedule::{self, Realtime, ScheduleSpec};

use crate::cpuset::{CpuSet, CpuSetError};
use crate::load::MAX_NS;
use crate::task::Task;
use crate::{Algorithm, Placement, Policy, PriorityAssignment};

/// The most tasks of one Schedule; the schema says the same.
pub const MAX_TASKS: usize = 1024;

/// A field that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: given {given}, expected {expected}")]
pub struct FieldError {
    /// As in `spec.tasks[3].wcet`.
    pub path: String,
    pub given: String,
    pub expected: String,
}

impl FieldError {
    pub fn new(path: impl fmt::Display, given: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self { path: path.to_string(), given: given.to_string(), expected: expected.to_string() }
    }
}

/// A Schedule's tasks, in its order, and how they are to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSet {
    pub algorithm: Algorithm,
    pub priority_assignment: PriorityAssignment,
    pub placement: Placement,
    pub tasks: Vec<Task>,
}

/// Reads a Schedule's spec. A task's group is `model/container` of its target (the parts that are given), else empty.
///
/// # Errors
/// All [`FieldError`]s; paths start at `spec`.
pub fn from_schedule(spec: &ScheduleSpec) -> Result<TaskSet, Vec<FieldError>> {
    let mut errors = Vec::new();
    if spec.tasks.is_empty() || spec.tasks.len() > MAX_TASKS {
        return Err(vec![FieldError::new(
            "spec.tasks",
            format!("{} tasks", spec.tasks.len()),
            format!("1 to {MAX_TASKS} tasks"),
        )]);
    }
    let algorithm = spec.algorithm.unwrap_or_default();
    let by_default = if spec.tasks.iter().any(|task| task.priority.is_some()) {
        PriorityAssignment::Explicit
    } else {
        PriorityAssignment::DeadlineMonotonic
    };
    let priority_assignment = spec.priority_assignment.unwrap_or(by_default);
    let mut tasks = Vec::with_capacity(spec.tasks.len());
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, given) in spec.tasks.iter().enumerate() {
        let path = format!("spec.tasks[{at}]");
        if given.name.is_empty() {
            errors.push(FieldError::new(format!("{path}.name"), "\"\"", "a name"));
        }
        if let Some(first) = names.insert(&given.name, at) {
            errors.push(FieldError::new(
                format!("{path}.name"),
                format!("{:?}", given.name),
                format!("a name that spec.tasks[{first}] hasn't got"),
            ));
            names.insert(&given.name, first);
        }
        let needs_priority =
            algorithm == Algorithm::FixedPriority && priority_assignment == PriorityAssignment::Explicit;
        if needs_priority && given.priority.is_none() {
            errors.push(FieldError::new(
                format!("{path}.priority"),
                "none",
                "1 to 99: with priorityAssignment Explicit each task needs one",
            ));
        }
        tasks.push(task(&Fields::of(given, algorithm), &path, &mut errors));
    }
    if errors.is_empty() {
        Ok(TaskSet { algorithm, priority_assignment, placement: spec.placement.unwrap_or_default(), tasks })
    } else {
        Err(errors)
    }
}

/// Reads a Model's own task; `name` is the model's. Without a priority it is placed by its deadline among the package's tasks.
///
/// # Errors
/// All [`FieldError`]s; paths start at `spec.realtime`.
pub fn from_model(name: &str, realtime: &Realtime) -> Result<Task, Vec<FieldError>> {
    let mut errors = Vec::new();
    let algorithm = match realtime.policy {
        Some(Policy::Deadline) => Algorithm::EarliestDeadlineFirst,
        _ => Algorithm::FixedPriority,
    };
    let container = realtime.container.as_deref().unwrap_or_default();
    let fields = Fields {
        name,
        wcet: &realtime.wcet,
        period: &realtime.period,
        deadline: realtime.deadline.as_deref(),
        jitter: realtime.jitter.as_deref(),
        offset: None,
        blocking: realtime.blocking.as_deref(),
        priority: realtime.priority,
        policy: realtime.policy,
        cpus: realtime.cpus.as_deref(),
        node: None,
        miss_budget: realtime.miss_budget,
        group: format!("{name}/{container}"),
        algorithm,
    };
    let task = task(&fields, "spec.realtime", &mut errors);
    if errors.is_empty() { Ok(task) } else { Err(errors) }
}

/// What a Schedule's task and a Model's have in common.
struct Fields<'a> {
    name: &'a str,
    wcet: &'a str,
    period: &'a str,
    deadline: Option<&'a str>,
    jitter: Option<&'a str>,
    offset: Option<&'a str>,
    blocking: Option<&'a str>,
    priority: Option<i32>,
    policy: Option<Policy>,
    cpus: Option<&'a str>,
    node: Option<&'a str>,
    miss_budget: Option<i32>,
    group: String,
    algorithm: Algorithm,
}

impl<'a> Fields<'a> {
    fn of(task: &'a schedule::Task, algorithm: Algorithm) -> Self {
        let group = task.target.as_ref().map_or_else(String::new, |target| {
            format!("{}/{}", target.model, target.container.as_deref().unwrap_or_default())
        });
        Self {
            name: &task.name,
            wcet: &task.wcet,
            period: &task.period,
            deadline: task.deadline.as_deref(),
            jitter: task.jitter.as_deref(),
            offset: task.offset.as_deref(),
            blocking: task.blocking.as_deref(),
            priority: task.priority,
            policy: task.policy,
            cpus: task.cpus.as_deref(),
            node: task.node.as_deref(),
            miss_budget: task.miss_budget,
            group,
            algorithm,
        }
    }
}

fn task(fields: &Fields<'_>, path: &str, errors: &mut Vec<FieldError>) -> Task {
    let mut ns = |field: &str, text: &str, least: u64| -> u64 {
        let expected = if least == 0 { "a duration of at least 0" } else { "a duration above 0" };
        match duration::parse_ns(text) {
            Ok(ns) if (least..=MAX_NS).contains(&ns) => ns,
            Ok(_) => {
                errors.push(FieldError::new(format!("{path}.{field}"), format!("{text:?}"), expected));
                least
            }
            Err(error) => {
                // A sign isn't in the grammar: what is wrong with it is its value.
                let negative = text.trim_start().starts_with('-');
                let expected = if negative { expected } else { error.expected };
                errors.push(FieldError::new(format!("{path}.{field}"), format!("{text:?}"), expected));
                least
            }
        }
    };
    let wcet_ns = ns("wcet", fields.wcet, 1);
    let period_ns = ns("period", fields.period, 1);
    let deadline_ns = fields.deadline.map_or(period_ns, |text| ns("deadline", text, 1));
    let jitter_ns = fields.jitter.map_or(0, |text| ns("jitter", text, 0));
    let offset_ns = fields.offset.map_or(0, |text| ns("offset", text, 0));
    let blocking_ns = fields.blocking.map_or(0, |text| ns("blocking", text, 0));
    let priority = fields.priority.and_then(|given| match u8::try_from(given) {
        Ok(priority) if (1..=99).contains(&priority) => Some(priority),
        _ => {
            errors.push(FieldError::new(format!("{path}.priority"), given, "1 to 99"));
            None
        }
    });
    let (default, algorithm, fitting) = match fields.algorithm {
        Algorithm::FixedPriority => (Policy::Fifo, "FixedPriority", "FIFO or RR"),
        Algorithm::EarliestDeadlineFirst => (Policy::Deadline, "EarliestDeadlineFirst", "DEADLINE"),
    };
    let policy = fields.policy.unwrap_or(default);
    if (policy == Policy::Deadline) != (default == Policy::Deadline) {
        errors.push(FieldError::new(
            format!("{path}.policy"),
            policy_name(policy),
            format!("{fitting} under algorithm {algorithm}"),
        ));
    }
    let affinity = fields.cpus.and_then(|text| match text.parse::<CpuSet>() {
        Ok(cpus) => Some(cpus),
        Err(CpuSetError { given, expected }) => {
            errors.push(FieldError::new(format!("{path}.cpus"), format!("{given:?}"), expected));
            None
        }
    });
    if let Some(budget) = fields.miss_budget.filter(|budget| *budget < 0) {
        errors.push(FieldError::new(format!("{path}.missBudget"), budget, "at least 0"));
    }
    if fields.node.is_some_and(str::is_empty) {
        errors.push(FieldError::new(format!("{path}.node"), "\"\"", "a node's name"));
    }
    Task {
        name: fields.name.to_owned(),
        wcet_ns,
        period_ns,
        deadline_ns,
        jitter_ns,
        offset_ns,
        blocking_ns,
        priority,
        policy,
        affinity,
        // Node names are compared in lower case everywhere.
        node: fields.node.map(str::to_ascii_lowercase),
        group: fields.group.clone(),
    }
}

/// As manifests write it.
pub(crate) const fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Fifo => "FIFO",
        Policy::RoundRobin => "RR",
        Policy::Deadline => "DEADLINE",
    }
}
