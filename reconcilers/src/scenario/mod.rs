//! Scenario: when its condition becomes true, its Claim is written; nothing else is ever touched.
//!
//! [`Track`] follows the condition from sample to sample, in order, and keeps each edge until it was acted on; [`decide`] turns an edge
//! into a claim and everything observed into the status.

mod decide;
mod edge;
mod plan;
mod snapshot;
mod status;

pub use decide::decide;
pub use edge::{Edge, Evaluated, Observed, Track};
pub use plan::{Action, EdgeFate, Plan};
pub use snapshot::Snapshot;
