//! Package: claims and spec add up to a desired run state; every model gets its nodes; every model on a node gets one ModelInstance.

mod address;
mod admission;
mod decide;
mod plan;
mod proof;
mod seat;
mod seek;
mod snapshot;
mod status;
mod tasks;
mod template;

pub use address::{promised, unusable};
pub use decide::decide;
pub use plan::{Action, Plan};
/// The Models that a Network names.
pub use pullpiri_net::unknown::models_named;
pub use seat::holds;
pub use snapshot::Snapshot;
pub use template::{Unresolved, resolve};
