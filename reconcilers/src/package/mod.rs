//! Package: claims and spec add up to a desired run state; every model gets its nodes; every model on a node gets one ModelInstance.

mod decide;
mod plan;
mod snapshot;
mod status;
mod template;

pub use decide::decide;
pub use plan::{Action, Plan};
pub use snapshot::Snapshot;
pub use template::{Unresolved, resolve};
