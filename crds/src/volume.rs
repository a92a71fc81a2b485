//! Volume: storage that a Package gives to its Models by name.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::model::{ConfigMapFiles, EmptyDir, HostPath, SecretFiles};

/// Storage of a Package. Without a source it is an empty directory that lives as long as the instance.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    shortname = "vol",
    category = "pullpiri",
    namespaced,
    derive = "PartialEq",
    doc = "Storage that a Package gives to its Models.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("(has(self.hostPath) ? 1 : 0) + (has(self.emptyDir) ? 1 : 0) + (has(self.configMap) ? 1 : 0) + (has(self.secret) ? 1 : 0) <= 1").message(Message::Expression("'at most one of hostPath, emptyDir, configMap and secret may be set; got:' + (has(self.hostPath) ? ' hostPath' : '') + (has(self.emptyDir) ? ' emptyDir' : '') + (has(self.configMap) ? ' configMap' : '') + (has(self.secret) ? ' secret' : '')".into())))]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// A file or directory of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
    /// An empty directory that lives as long as the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFiles>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretFiles>,
}
