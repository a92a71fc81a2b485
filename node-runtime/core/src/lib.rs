//! The node's decisions, pure: which containers should exist on this node, what to do about those that do, and what to report.
//!
//! No clock, no IO, no async: the agent observes, calls [`decide`](crate) and executes the plan. Times are [`runtime::Timestamp`]s,
//! nanoseconds since the Unix epoch; durations are nanoseconds too unless a name says otherwise.

pub mod runtime;
