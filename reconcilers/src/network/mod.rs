//! Networks: what all of them and all instances add up to for each node, as NetworkSlices, and what is to be said of each Network.
//!
//! Decided together: overlaps, numbers and shares of links are between Networks. The compilation itself is in `pullpiri-net`.

mod decide;
mod plan;
mod snapshot;
mod status;

pub use decide::{MANAGED_BY, decide, slice_name};
/// The name of an object, as compilations use it.
pub use pullpiri_net::ObjectName;
pub use pullpiri_net::{has_nodes_network, nodes_of};

pub use plan::{Action, Plan, StatusWrite};
pub use snapshot::Snapshot;
