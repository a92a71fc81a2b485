//! Schedulability: proves, before anything is placed, that every task of a set meets its deadline.
//!
//! Times are whole nanoseconds (`u64`, at most `i64::MAX`), shares parts per million of one CPU. A task arrives at least a period apart, is released
//! up to its jitter later and is done when it has executed for at most its WCET; its response time runs from the arrival, and the verdict is
//! response time ≤ deadline. Offsets are not used: every phasing is covered by the critical instant, so a proof holds for any of them.
//!
//! Invariants: everything terminates ([`Budget`]) with a bound that is exact, or on the safe side, or "unbounded" (`None`); no arithmetic wraps;
//! the same input gives the same output.

mod admit;
mod budget;
mod cpuset;
mod load;
mod parse;
mod proof;
mod reason;
mod task;

pub use admit::admit;
pub use budget::Budget;
pub use cpuset::{CpuSet, CpuSetError, MAX_CPUS};
pub use load::{Load, MAX_NS, Utilisation, Wcrt};
pub use parse::{FieldError, MAX_TASKS, TaskSet, from_model, from_schedule};
pub use proof::{CpuLoad, CpuTask, GroupShare, Proof, TaskVerdict};
pub use pullpiri_crds::schedule::{Algorithm, Placement, PriorityAssignment, SchedulingPolicy as Policy};
pub use reason::{Reason, Share};
pub use task::{Ceilings, Node, Placed, Request, Task};
