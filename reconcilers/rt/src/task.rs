//! What is asked: tasks, nodes with what their kernels admit, and what already runs there.

use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::node::NodeRealtime;

use crate::cpuset::CpuSet;
use crate::load::Load;
use crate::parse::FieldError;
use crate::{Placement, Policy, PriorityAssignment};

/// A task to be placed. Times are nanoseconds, at most `i64::MAX`; wcet, period and deadline above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Unique within the request.
    pub name: String,
    pub wcet_ns: u64,
    /// The least time between two arrivals.
    pub period_ns: u64,
    /// Relative to the arrival; may be shorter or longer than the period.
    pub deadline_ns: u64,
    /// How late after its arrival a job may be released.
    pub jitter_ns: u64,
    /// Not used by the analysis: a proof holds for every offset.
    pub offset_ns: u64,
    /// How long less urgent work may hold it up.
    pub blocking_ns: u64,
    /// 1–99, larger is more urgent. Under [`PriorityAssignment::Explicit`], `None` is placed by its deadline among those that have one. Ignored
    /// under [`Policy::Deadline`] and by every other assignment.
    pub priority: Option<u8>,
    pub policy: Policy,
    /// `None`: any CPU of the node.
    pub affinity: Option<CpuSet>,
    /// `None`: any of the request's nodes.
    pub node: Option<String>,
    /// The cgroup that its threads are in (one per container): RT_GROUP_SCHED gives shares to these. Unique per node.
    pub group: String,
}

impl Task {
    #[must_use]
    pub const fn load(&self) -> Load {
        Load {
            wcet_ns: self.wcet_ns,
            period_ns: self.period_ns,
            deadline_ns: self.deadline_ns,
            jitter_ns: self.jitter_ns,
            blocking_ns: self.blocking_ns,
        }
    }
}

/// A task that has its place already and stays there, with its priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub task: Task,
    pub node: String,
    pub cpu: u32,
}

impl Placed {
    /// What a ModelInstance carries, back as a placed task.
    ///
    /// # Errors
    /// One [`FieldError`] for each number that is out of range; paths are relative to the task.
    pub fn from_instance(node: &str, group: &str, task: &InstanceTask) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut ns = |path: &str, value: i64, least: i64| match u64::try_from(value) {
            Ok(ns) if value >= least => ns,
            _ => {
                errors.push(FieldError::new(path, value, format!("at least {least}")));
                1
            }
        };
        let (wcet_ns, period_ns) = (ns("wcetNs", task.wcet_ns, 1), ns("periodNs", task.period_ns, 1));
        let deadline_ns = ns("deadlineNs", task.deadline_ns, 1);
        let (jitter_ns, offset_ns) = (ns("jitterNs", task.jitter_ns, 0), ns("offsetNs", task.offset_ns, 0));
        let blocking_ns = ns("blockingNs", task.blocking_ns, 0);
        let cpu = u32::try_from(ns("cpu", task.cpu.into(), 0)).unwrap_or(0);
        let priority = match task.priority.map(u8::try_from) {
            Some(Ok(priority)) if (1..=99).contains(&priority) => Some(priority),
            None => None,
            Some(_) => {
                errors.push(FieldError::new("priority", task.priority.unwrap_or_default(), "1 to 99"));
                None
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let task = Task {
            name: task.name.clone(),
            wcet_ns,
            period_ns,
            deadline_ns,
            jitter_ns,
            offset_ns,
            blocking_ns,
            priority,
            policy: task.policy,
            affinity: Some(CpuSet::from_iter([cpu])),
            node: Some(node.to_owned()),
            group: group.to_owned(),
        };
        Ok(Self { task, node: node.to_owned(), cpu })
    }
}

/// What a node's kernel admits of real-time work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// The policies that a container's threads can be given.
    pub policies: Vec<Policy>,
    /// FIFO and RR together may take this much of a CPU…
    pub fixed_priority_ppm: u32,
    /// …in any window of this length.
    pub fixed_priority_window_ns: u64,
    /// What the groups of all containers may take together, whichever CPUs they run on.
    pub group_ppm: Option<u32>,
    /// SCHED_DEADLINE's admission limit for each CPU.
    pub deadline_ppm: u32,
    /// Whether a CPU can be set apart for SCHED_DEADLINE.
    pub exclusive_cpusets: bool,
    /// Whether then its tasks must be of one group.
    pub exclusive_per_group: bool,
}

/// One node that tasks may be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// The CPUs that real-time tasks may be pinned to.
    pub cpus: CpuSet,
    /// `None`: an ideal kernel, which adds no limit of its own (the pure analysis).
    pub ceilings: Option<Ceilings>,
}

impl Node {
    /// A node without kernel ceilings, with CPUs `0..cpus`.
    #[must_use]
    pub fn ideal(name: impl Into<String>, cpus: u32) -> Self {
        Self { name: name.into(), cpus: CpuSet::first(cpus), ceilings: None }
    }

    /// Whether a CPU is set apart for the DEADLINE tasks on it. One of those that the node offers then never is, so that everything else has a place; a
    /// node with one CPU that its threads may all use needs none set apart.
    #[must_use]
    pub fn sets_apart(&self) -> bool {
        self.ceilings.as_ref().is_some_and(|ceilings| ceilings.exclusive_cpusets)
    }

    /// A NodeRuntime's `status.realtime`.
    ///
    /// # Errors
    /// One [`FieldError`] for each field that is out of range; paths are relative to `realtime`.
    pub fn from_runtime(name: impl Into<String>, realtime: &NodeRealtime) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut ppm = |path: &str, value: i32| match u32::try_from(value) {
            Ok(ppm) if ppm <= 1_000_000 => ppm,
            _ => {
                errors.push(FieldError::new(path, value, "0 to 1000000"));
                0
            }
        };
        let fixed_priority_ppm = ppm("fixedPriorityPpm", realtime.fixed_priority_ppm);
        let group_ppm = realtime.group_ppm.map(|value| ppm("groupPpm", value));
        let deadline_ppm = ppm("deadlinePpm", realtime.deadline_ppm);
        let window_ns = match u64::try_from(realtime.fixed_priority_window_ns) {
            Ok(ns) if ns > 0 => ns,
            _ => {
                errors.push(FieldError::new("fixedPriorityWindowNs", realtime.fixed_priority_window_ns, "at least 1"));
                1
            }
        };
        let cpus = realtime.cpus.parse::<CpuSet>().unwrap_or_else(|error| {
            errors.push(FieldError::new("cpus", error.given, error.expected));
            CpuSet::default()
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let ceilings = Ceilings {
            policies: realtime.policies.clone(),
            fixed_priority_ppm,
            fixed_priority_window_ns: window_ns,
            group_ppm,
            deadline_ppm,
            exclusive_cpusets: realtime.exclusive_cpusets,
            exclusive_per_group: realtime.exclusive_per_container,
        };
        Ok(Self { name: name.into(), cpus, ceilings: Some(ceilings) })
    }
}

/// What is to be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub tasks: Vec<Task>,
    /// Where the priorities of FIFO and RR tasks come from; of each CPU on its own.
    pub priority_assignment: PriorityAssignment,
    pub placement: Placement,
    /// In the order in which they are tried.
    pub nodes: Vec<Node>,
    /// What is on these nodes already and stays; counts against every ceiling, and must go on meeting its deadlines.
    pub existing: Vec<Placed>,
}
