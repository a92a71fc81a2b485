//! Schedulability: proves, before anything is placed, that every task of a set meets its deadline.
//!
//! Times are whole nanoseconds (`u64`, at most `i64::MAX`), shares parts per million of one CPU. A task arrives at least a period apart, is released
//! up to its jitter later and is done when it has executed for at most its WCET; its response time runs from the arrival, and the verdict is
//! response time ≤ deadline. Offsets are not used: every phasing is covered by the critical instant, so a proof holds for any of them.
//!
//! | question | module | method |
//! |---|---|---|
//! | worst response under fixed priorities | [`fp`] | level-i busy window (Lehoczky 1990; Audsley et al. 1993; Tindell, Burns, Wellings 1994) |
//! | does EDF meet all deadlines | [`edf`] | processor demand by QPA (Zhang, Burns 2009) |
//! | worst response under EDF | [`spuri`] | deadline busy periods (Spuri 1996) |
//! | which priorities | [`priorities`] | rate, deadline monotonic; Audsley 1991 |
//! | what the kernel admits | [`kernel`] | sched_setattr(2), `kernel/sched/{core,deadline,rt}.c` |
//! | which CPU of which node | [`admit()`] | first, best, worst fit decreasing with the exact test per CPU |
//!
//! Invariants: everything terminates ([`Budget`]) with a bound that is exact, or on the safe side, or "unbounded" (`None`); no arithmetic wraps;
//! the same input gives the same output.

mod admit;
mod board;
mod budget;
mod cpuset;
pub mod edf;
mod explain;
pub mod fp;
pub mod kernel;
mod load;
mod pack;
mod parse;
mod place;
pub mod priorities;
mod proof;
mod reason;
pub mod simulate;
pub mod spuri;
mod task;

pub use admit::{admit, admit_within};
pub use budget::Budget;
pub use cpuset::{CpuSet, CpuSetError, MAX_CPUS};
pub use load::{Load, MAX_NS, Utilisation, Wcrt};
pub use parse::{FieldError, MAX_TASKS, TaskSet, from_model, from_schedule};
pub use proof::{CpuLoad, CpuTask, GroupShare, Proof, TaskVerdict};
pub use pullpiri_crds::schedule::{Algorithm, Placement, PriorityAssignment, SchedulingPolicy as Policy};
pub use reason::{Reason, Share};
pub use task::{Ceilings, Node, Placed, Request, Task};
