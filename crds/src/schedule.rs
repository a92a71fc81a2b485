//! Schedule: a real-time task set, and the proof that it can be met.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{Message, Rule};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::duration;

/// A Linux CPU list (cpuset(7), "List format"): `0` or `1-3,5`.
pub const CPU_LIST: &str = r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$";
/// A number of 4096 and more in such a list: no CPU has it.
const NO_CPU: &str = "(^|[,-])0*([1-9][0-9]{4,}|[5-9][0-9]{3}|4[1-9][0-9]{2}|409[6-9])([,-]|$)";
/// The parts of a CPU list whose order a rule looks at: it may cost only so much.
const CPU_PARTS: usize = 24;
/// Whether algorithm is EarliestDeadlineFirst.
const EDF: &str = "has(self.algorithm) && self.algorithm == 'EarliestDeadlineFirst'";

/// A real-time task set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Schedule",
    plural = "schedules",
    shortname = "sched",
    category = "pullpiri",
    namespaced,
    status = "ScheduleStatus",
    derive = "PartialEq",
    doc = "A real-time task set: period, worst-case execution time and deadline of each task. A Package that names it is placed only if every task is proven to meet its deadline.",
    printcolumn(name = "Algorithm", type_ = "string", json_path = ".spec.algorithm"),
    printcolumn(
        name = "Schedulable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Schedulable\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Schedulable\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = every_priority())]
#[x_kube(validation = fitting_policies())]
#[serde(rename_all = "camelCase")]
pub struct ScheduleSpec {
    /// How a CPU chooses among its tasks. Default FixedPriority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Where priorities come from under FixedPriority. Default: Explicit if a task has a priority, else DeadlineMonotonic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_assignment: Option<PriorityAssignment>,
    /// Which of the CPUs that fit a task gets. Default FirstFit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The tasks that are proven together.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tasks: Vec<Task>,
}

/// With priorityAssignment Explicit, which one priority makes the default, each task needs one. Which lack it would be more than a message may cost.
fn every_priority() -> Rule {
    let every = "self.tasks.all(t, has(t.priority))";
    let none = "!has(self.priorityAssignment) && !self.tasks.exists(t, has(t.priority))";
    let other = "has(self.priorityAssignment) && self.priorityAssignment != 'Explicit'";
    Rule::new(format!("{EDF} || {other} || {none} || {every}"))
        .message("with priorityAssignment Explicit, the default as soon as a task has a priority, each task needs one, 1 to 99; got tasks without")
        .field_path(".tasks")
}

/// The kernel has no other policies for what was proven.
fn fitting_policies() -> Rule {
    let given = "'policy must be DEADLINE under algorithm EarliestDeadlineFirst; got FIFO or RR'";
    let other = "'policy must be FIFO or RR under algorithm FixedPriority; got DEADLINE'";
    Rule::new(format!("self.tasks.all(t, !has(t.policy) || (t.policy == 'DEADLINE') == ({EDF}))"))
        .message(Message::Expression(format!("{EDF} ? {given} : {other}")))
        .field_path(".tasks")
}

fn existing_cpus() -> Rule {
    Rule::new(format!("!has(self.cpus) || size(self.cpus) < 4 || !self.cpus.matches('{NO_CPU}')"))
        .message(Message::Expression("'must be CPUs below 4096; got ' + self.cpus".to_owned()))
        .field_path(".cpus")
}

/// `3-1` is refused, as by Linux. Between two parts of a list an empty one is put, so that only ends of a range are neighbours.
fn rising_cpus() -> Rule {
    let places: Vec<String> = (0..CPU_PARTS).map(|place| place.to_string()).collect();
    let rises = "i + 1 >= size(l) || l[i] == '' || l[i + 1] == '' || int(l[i]) <= int(l[i + 1])";
    let all = format!("[self.cpus.replace(',', '--').split('-')].all(l, [{}].all(i, {rises}))", places.join(", "));
    Rule::new(format!("!has(self.cpus) || !self.cpus.contains('-') || self.cpus.matches('{NO_CPU}') || {all}"))
        .message(Message::Expression(
            "'must be ranges from the smaller to the larger CPU, as 1-3; got ' + self.cpus".to_owned(),
        ))
        .field_path(".cpus")
}

/// How a CPU chooses among its tasks.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// SCHED_FIFO or SCHED_RR, preemptive, a priority per task.
    #[default]
    FixedPriority,
    /// SCHED_DEADLINE.
    EarliestDeadlineFirst,
}

/// Where priorities come from under FixedPriority.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriorityAssignment {
    /// As the tasks say; each needs one.
    #[default]
    Explicit,
    /// The shorter the period, the more urgent.
    RateMonotonic,
    /// The shorter the deadline, the more urgent.
    DeadlineMonotonic,
    /// Audsley's: finds an assignment whenever there is one.
    Optimal,
}

/// Which of the CPUs that fit a task gets, tasks being taken by falling utilisation.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The first.
    #[default]
    FirstFit,
    /// The fullest.
    BestFit,
    /// The emptiest.
    WorstFit,
}

/// One task of the set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.wcet.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.wcet".into())).field_path(".wcet"))]
#[x_kube(validation = Rule::new("self.period.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.period".into())).field_path(".period"))]
#[x_kube(validation = Rule::new("!has(self.deadline) || self.deadline.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.deadline".into())).field_path(".deadline"))]
#[x_kube(validation = duration::bounded("wcet", false))]
#[x_kube(validation = duration::bounded("period", false))]
#[x_kube(validation = duration::bounded("deadline", true))]
#[x_kube(validation = duration::bounded("jitter", true))]
#[x_kube(validation = duration::bounded("offset", true))]
#[x_kube(validation = duration::bounded("blocking", true))]
#[x_kube(validation = existing_cpus())]
#[x_kube(validation = rising_cpus())]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The task's name, unique in the Schedule.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Worst-case execution time of one job.
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub wcet: String,
    /// The least time between two arrivals.
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub period: String,
    /// Relative to the arrival; may be shorter or longer than the period. Default: the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub deadline: Option<String>,
    /// How late a job may be released after it arrived. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub jitter: Option<String>,
    /// The first arrival after the start of the schedule. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub offset: Option<String>,
    /// How long less urgent work may hold it up (critical sections, non-preemptive parts). Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub blocking: Option<String>,
    /// 1–99, larger is more urgent, as in Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub priority: Option<i32>,
    /// Default: FIFO under FixedPriority, DEADLINE under EarliestDeadlineFirst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<SchedulingPolicy>,
    /// A Linux CPU list: `0` or `1-3,5`. Default: any CPU of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = CPU_LIST))]
    pub cpus: Option<String>,
    /// The node it runs on. Default: where the model that it is bound to is placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::NODE_SPELLING))]
    pub node: Option<String>,
    /// What happens when it misses deadlines beyond its budget. Default Notify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_miss: Option<OnMiss>,
    /// How many deadlines it may miss before `onMiss`. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub miss_budget: Option<i32>,
    /// The threads that are this task. Default: those named like the task in any container of the package on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TaskTarget>,
}

/// The threads that a task stands for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskTarget {
    /// A Model of the package.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// One of its containers. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The thread's name (PR_SET_NAME, at most 15 bytes). Default: the container's first thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub thread: Option<String>,
}

/// A Model's own task, without a Schedule: the task's name is the model's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.wcet.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.wcet".into())).field_path(".wcet"))]
#[x_kube(validation = Rule::new("self.period.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.period".into())).field_path(".period"))]
#[x_kube(validation = Rule::new("!has(self.deadline) || self.deadline.matches('[1-9]')").message(Message::Expression("\"must be above 0, got \" + self.deadline".into())).field_path(".deadline"))]
#[x_kube(validation = duration::bounded("wcet", false))]
#[x_kube(validation = duration::bounded("period", false))]
#[x_kube(validation = duration::bounded("deadline", true))]
#[x_kube(validation = duration::bounded("jitter", true))]
#[x_kube(validation = duration::bounded("blocking", true))]
#[x_kube(validation = existing_cpus())]
#[x_kube(validation = rising_cpus())]
#[serde(rename_all = "camelCase")]
pub struct Realtime {
    /// One of the model's containers. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The thread's name (PR_SET_NAME, at most 15 bytes). Default: the container's first thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub thread: Option<String>,
    /// Worst-case execution time of one job.
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub wcet: String,
    /// The least time between two arrivals.
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub period: String,
    /// Relative to the arrival. Default: the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub deadline: Option<String>,
    /// How late a job may be released after it arrived. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub jitter: Option<String>,
    /// How long less urgent work may hold it up. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = duration::PATTERN))]
    pub blocking: Option<String>,
    /// 1–99, larger is more urgent. Default: by deadline, among the package's tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub priority: Option<i32>,
    /// Default FIFO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<SchedulingPolicy>,
    /// A Linux CPU list: `0` or `1-3,5`. Default: any CPU of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = CPU_LIST))]
    pub cpus: Option<String>,
    /// What happens when it misses deadlines beyond its budget. Default Notify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_miss: Option<OnMiss>,
    /// How many deadlines it may miss before `onMiss`. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub miss_budget: Option<i32>,
}

/// A scheduling policy of Linux (sched(7)): SCHED_FIFO, SCHED_RR or SCHED_DEADLINE.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SchedulingPolicy {
    #[serde(rename = "FIFO")]
    Fifo,
    #[serde(rename = "RR")]
    RoundRobin,
    #[serde(rename = "DEADLINE")]
    Deadline,
}

/// What happens when a task misses deadlines beyond its budget.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// An Event, a condition and a metric.
    #[default]
    Notify,
    /// Its container is restarted as well.
    Restart,
    /// Its instance is stopped as well, until its spec changes.
    Terminate,
}

/// What was proven of a Schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Package whose placement was proven last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub package: Option<String>,
    /// The proof: each task once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub tasks: Vec<TaskProof>,
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What was proven of one task.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskProof {
    /// The task's name, as in the spec.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The NodeRuntime's name; absent while unplaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// The CPU that it was given; absent while unplaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<i32>,
    /// The priority that it was given, 1 to 99; absent under SCHED_DEADLINE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Worst-case response time from the arrival; absent if it is unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ns: Option<i64>,
    /// By when a job must have ended, in nanoseconds from its arrival.
    pub deadline_ns: i64,
    /// Deadline less response time; negative if it misses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack_ns: Option<i64>,
    /// Whether it is proven to meet its deadline.
    pub schedulable: bool,
}
