//! The node's decisions, pure: which containers should exist on this node, what to do about those that do, and what to report.
//!
//! No clock, no IO, no async: the agent observes, calls [`decide()`] and executes the plan. Times are [`runtime::Timestamp`]s,
//! nanoseconds since the Unix epoch; durations are nanoseconds too unless a name says otherwise.
//!
//! * [`snapshot`]: what the agent knows · [`memory`]: what it keeps on disk · [`plan`]: what is to be done
//! * [`mod@decide`]: from the one to the other · [`status`]: what the API server is told
//! * [`resolve`]: from a ModelInstance to a [`runtime::PodSpec`] · [`expand`]: the texts in it
//! * [`restart`]: restart policy and backoff · [`realtime`]: how threads are to be scheduled
//! * [`network`]: interfaces, routes and queues of the node and its pods

pub mod decide;
pub mod expand;
pub mod memory;
pub mod network;
pub mod plan;
pub mod realtime;
pub mod resolve;
pub mod restart;
pub mod runtime;
pub mod snapshot;
pub mod status;
pub mod time;

pub use decide::{decide, decide_one, decide_unknown};
pub use plan::{Action, Plan};
pub use snapshot::Snapshot;
