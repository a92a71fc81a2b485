//! State machines of Scenario and Package: which states there are, which event leads from where to where, and the record of it.
//!
//! What a resource's state *is* follows from what was observed; the reconcilers compute that level afresh each time. What this crate
//! adds is that a state is never jumped to: each move is a transition of a table, an event that the table doesn't know in a state is
//! [`Refused`], and every transition leaves an entry in the bounded history and one [`Notice`] for people to read.
//!
//! Times come from the caller, cut to microseconds, since that is what the API keeps.

mod machine;
mod package;
mod scenario;

pub use machine::{HISTORY_LENGTH, Machine, Notice, Progress, Refused, Severity};
pub use package::{PackageEvent, PackageMachine, package_path};
pub use scenario::{ScenarioEvent, ScenarioMachine};
