//! Decisions of the control plane, free of IO: what a Scenario, a Package or a node needs, given what was observed.
//!
//! Each kind has a `Snapshot` (what was observed), a total function `decide(&Snapshot, now)` and a `Plan` (data: actions, the whole new
//! status if it changed, notices for people). Plans print as stable text, which is what golden files hold.
//!
//! Invariants, for every kind:
//! * Deciding on the result of a plan yields an empty plan; a plan cut off after any action is completed by the next decision.
//! * Nothing branches on why it was woken.
//! * Times are given by the caller and kept as the API keeps them: microseconds in histories, whole seconds in conditions.

pub mod claims;
pub mod conditions;
pub mod hash;
pub mod lease;
pub mod naming;
pub mod network;
pub mod node;
pub mod ownership;
pub mod package;
pub mod placement;
pub mod scenario;
pub mod time;

/// The field managers of server-side apply, one per controller.
pub mod field_manager {
    pub const SCENARIO: &str = "pullpiri-scenario";
    pub const PACKAGE: &str = "pullpiri-package";
    pub const NODE: &str = "pullpiri-node";
    pub const NETWORK: &str = "pullpiri-network";
}
