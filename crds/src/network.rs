//! Network: a virtual network that Models join.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A virtual network. It has no settings yet: its Models share their own network namespace or the host's.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    shortname = "net",
    category = "pullpiri",
    namespaced,
    derive = "PartialEq",
    doc = "A virtual network that Models join.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {}
