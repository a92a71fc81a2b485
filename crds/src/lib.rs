//! The custom resources of Pullpiri: group `pullpiri.io`, version `v1alpha1`.
//!
//! The types here are the one definition of what a user may write. The YAML in `crds/yaml` is generated from them
//! (`cargo xtask crdgen`) and compared in CI. Rules that a schema can't say are CEL rules beside the field they guard, so that
//! bad input is refused by whichever API server serves us, with the field's path.
//!
//! Every list and string is bounded: an unbounded one breaks the CEL cost estimate of kube-apiserver and lets one object
//! starve an ECU.
//!
//! Node names are compared in lower-case RFC 1123 form; see [`names`].

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn of kube's derive repeats the keys of the one before"
)]

pub mod access;
pub mod claim;
pub mod condition;
pub mod duration;
pub mod instance;
pub mod model;
pub mod names;
pub mod network;
pub mod node;
pub mod package;
pub mod policy;
pub mod prefix;
pub mod quantity;
pub mod rate;
pub mod scenario;
pub mod schedule;
pub mod signal;
pub mod slice;
pub mod volume;

mod schema;

pub use claim::{Claim, ClaimSpec};
pub use instance::{ModelInstance, ModelInstanceSpec, ModelInstanceStatus};
pub use model::{Model, ModelSpec};
pub use network::{Network, NetworkSpec, NetworkStatus};
pub use node::{NodeRuntime, NodeRuntimeSpec, NodeRuntimeStatus};
pub use package::{Package, PackageSpec, PackageStatus};
pub use policy::{Policy, PolicySpec};
pub use scenario::{Scenario, ScenarioSpec, ScenarioStatus};
pub use schedule::{Schedule, ScheduleSpec, ScheduleStatus};
pub use signal::Signal;
pub use slice::{NetworkSlice, NetworkSliceSpec};
pub use volume::{Volume, VolumeSpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of everything that is stored.
pub const GROUP: &str = "pullpiri.io";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";
/// The category that `kubectl get pullpiri` lists.
pub const CATEGORY: &str = "pullpiri";

/// Every CustomResourceDefinition, in the order in which `pullpiri crds` prints them.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        Scenario::crd(),
        Package::crd(),
        Model::crd(),
        Volume::crd(),
        Network::crd(),
        Claim::crd(),
        ModelInstance::crd(),
        NodeRuntime::crd(),
        Schedule::crd(),
        NetworkSlice::crd(),
        Policy::crd(),
    ]
    .into_iter()
    .map(schema::finish)
    .collect()
}
