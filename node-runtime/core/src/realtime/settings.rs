//! How a thread is scheduled (sched(7)), as tasks declare it and as the kernel has it.

use std::fmt;

use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::schedule::SchedulingPolicy;
use pullpiri_rt::kernel;
use serde::{Deserialize, Serialize};

/// A thread's policy with what belongs to it. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    Other {
        nice: i32,
    },
    Batch {
        nice: i32,
    },
    Idle,
    /// `priority`: 1–99, larger is more urgent.
    Fifo {
        priority: u32,
    },
    RoundRobin {
        priority: u32,
    },
    /// `runtime` in each `period`, to be had within `deadline`.
    Deadline {
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    },
}

/// A thread's scheduling attributes (sched_setattr(2)), but for its affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub policy: Policy,
    /// Threads and processes that it makes start under SCHED_OTHER.
    pub reset_on_fork: bool,
}

impl Settings {
    /// What every thread starts with.
    pub const DEFAULT: Self = Self { policy: Policy::Other { nice: 0 }, reset_on_fork: false };

    /// What a proven task's thread gets. What the thread makes is not the task, hence `reset_on_fork` (without it, SCHED_DEADLINE can't
    /// fork at all).
    ///
    /// SCHED_DEADLINE's deadline runs from the wake-up and takes nothing beyond the period: a task with a later one is served within its period.
    #[must_use]
    pub fn of(task: &InstanceTask) -> Self {
        let ns = |value: i64| u64::try_from(value).unwrap_or(0);
        let priority = task.priority.and_then(|priority| u32::try_from(priority).ok()).unwrap_or(1);
        let policy = match task.policy {
            SchedulingPolicy::Fifo => Policy::Fifo { priority },
            SchedulingPolicy::RoundRobin => Policy::RoundRobin { priority },
            SchedulingPolicy::Deadline => Policy::Deadline {
                runtime_ns: ns(task.wcet_ns),
                deadline_ns: kernel::sched_deadline_ns(ns(task.deadline_ns), ns(task.jitter_ns), ns(task.period_ns)),
                period_ns: ns(task.period_ns),
            },
        };
        Self { policy, reset_on_fork: true }
    }
}

impl Policy {
    /// Whether it is SCHED_FIFO or SCHED_RR, which the kernel's group scheduling meters.
    #[must_use]
    pub const fn is_fixed_priority(self) -> bool {
        matches!(self, Self::Fifo { .. } | Self::RoundRobin { .. })
    }

    #[must_use]
    pub const fn is_deadline(self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { nice } => write!(f, "SCHED_OTHER nice {nice}"),
            Self::Batch { nice } => write!(f, "SCHED_BATCH nice {nice}"),
            Self::Idle => f.write_str("SCHED_IDLE"),
            Self::Fifo { priority } => write!(f, "SCHED_FIFO {priority}"),
            Self::RoundRobin { priority } => write!(f, "SCHED_RR {priority}"),
            Self::Deadline { runtime_ns, deadline_ns, period_ns } => {
                let show = pullpiri_crds::duration::format_ns;
                write!(
                    f,
                    "SCHED_DEADLINE {} within {} every {}",
                    show(*runtime_ns),
                    show(*deadline_ns),
                    show(*period_ns)
                )
            }
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fork = if self.reset_on_fork { " reset-on-fork" } else { "" };
        write!(f, "{}{fork}", self.policy)
    }
}
