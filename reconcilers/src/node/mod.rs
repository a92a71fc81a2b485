//! NodeRuntime: whether a node's runtime answers.
//!
//! A node's heartbeat is a Lease. Its `renewTime` is the node's own clock, which on an ECU may be anything; so after the first sight what counts is
//! *our* time at which it last changed. On the first sight (we have just started) the age it claims is all there is; a node whose clock
//! is behind is taken for silent until its next heartbeat, and one ahead for alive as long as the lease lasts.
//!
//! What is written about a silent node, under our own field manager: its condition Ready becomes Unknown, and the phase of its instances
//! too. When it answers again we take back what we said of the node; what its instances do only the node can tell.

mod decide;
mod heartbeat;

pub use decide::{Action, Plan, Snapshot, abandoned, decide};
pub use heartbeat::{DEFAULT_LEASE, Heartbeat, Pulse};
