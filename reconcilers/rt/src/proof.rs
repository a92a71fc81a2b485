//! What was proven: per task, per CPU, per group, and why not.

use pullpiri_crds::schedule::TaskProof;

use crate::Policy;
use crate::reason::Reason;

/// The answer to a [`crate::Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Every task of the request has a place, every task on those CPUs meets its deadline, and every kernel admits it.
    pub schedulable: bool,
    /// The request's tasks, in its order.
    pub tasks: Vec<TaskVerdict>,
    /// What was there already, in its order, with the response times that it has among the new tasks.
    pub existing: Vec<TaskVerdict>,
    /// Every CPU of every node, in order.
    pub cpus: Vec<CpuLoad>,
    /// Names of the request's tasks that have no place, in its order.
    pub unplaced: Vec<String>,
    /// What RT_GROUP_SCHED must give to each group with FIFO or RR tasks, on nodes that have kernel ceilings.
    pub groups: Vec<GroupShare>,
    /// Why it isn't schedulable; empty if it is.
    pub reasons: Vec<Reason>,
}

/// One task's verdict. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskVerdict {
    pub name: String,
    /// `None` while unplaced.
    pub node: Option<String>,
    pub cpu: Option<u32>,
    /// 1–99 under FIFO and RR.
    pub priority: Option<u8>,
    pub policy: Policy,
    /// From the arrival; `None`: unbounded, or unplaced.
    pub response_time_ns: Option<u64>,
    pub deadline_ns: u64,
    pub schedulable: bool,
}

impl TaskVerdict {
    /// Deadline less response time, negative if it misses.
    #[must_use]
    pub fn slack_ns(&self) -> Option<i64> {
        let deadline = i64::try_from(self.deadline_ns).ok()?;
        deadline.checked_sub(i64::try_from(self.response_time_ns?).ok()?)
    }
}

impl From<&TaskVerdict> for TaskProof {
    fn from(verdict: &TaskVerdict) -> Self {
        Self {
            name: verdict.name.clone(),
            node: verdict.node.clone(),
            cpu: verdict.cpu.and_then(|cpu| i32::try_from(cpu).ok()),
            priority: verdict.priority.map(i32::from),
            response_time_ns: verdict.response_time_ns.and_then(|ns| i64::try_from(ns).ok()),
            deadline_ns: i64::try_from(verdict.deadline_ns).unwrap_or(i64::MAX),
            slack_ns: verdict.slack_ns(),
            schedulable: verdict.schedulable,
        }
    }
}

/// One CPU and who is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuLoad {
    pub node: String,
    pub cpu: u32,
    /// Parts per million, to the nearest; above 1000000 if it is overloaded.
    pub utilisation_ppm: u64,
    /// The most urgent first; under EDF in the order of deadlines.
    pub tasks: Vec<CpuTask>,
}

/// Which task of the [`Proof`] it is: an index into its `tasks` or `existing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuTask {
    New(usize),
    Existing(usize),
}

/// What a group (one container's cgroup) needs: `runtime_ns` in every `period_ns`, on the CPU where it needs most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupShare {
    pub node: String,
    pub group: String,
    /// Whole microseconds, as `cpu.rt_runtime_us` takes them.
    pub runtime_ns: u64,
    pub period_ns: u64,
}
