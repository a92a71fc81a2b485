//! Model: one service, as containers with PodSpec's field names.
//!
//! A subset of PodSpec of our own, not the generated schema: that one breaks `kubectl apply`'s annotation limit and the CEL
//! cost budget. It has every field that the published manifests use; what a node can't honour is a condition.

use std::collections::BTreeMap;

use crate::quantity::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The grammar of image references (distribution/reference): registry, repository, tag and digest.
const IMAGE: &str = r"^([a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?(:[0-9]+)?/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:[a-zA-Z0-9_][-.a-zA-Z0-9_]{0,127})?(@sha256:[a-f0-9]{64})?$";
/// An absolute path with at least one component, none of which is `..`.
const ABSOLUTE: &str = r"^(/+([^/.][^/]*|\.|\.[^/.][^/]*|\.\.[^/]+))+/*$";
/// A relative path without `..`.
const RELATIVE: &str = r"^([^/.][^/]*|\.|\.[^/.][^/]*|\.\.[^/]+)(/+([^/.][^/]*|\.|\.[^/.][^/]*|\.\.[^/]+))*/*$";

/// One service: its containers and how they run.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Model",
    plural = "models",
    shortname = "mdl",
    category = "pullpiri",
    namespaced,
    derive = "PartialEq",
    doc = "One service of a Package: its containers and how they run.",
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.containers[0].image"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".spec.runtime", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// Containers share a network namespace unless hostNetwork.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub containers: Vec<Container>,
    /// Use the node's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// The host name the containers see; default: the model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub hostname: Option<String>,
    /// When an exited container is started again. Default Always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Seconds between SIGTERM and SIGKILL. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub termination_grace_period_seconds: Option<i64>,
    /// The runtime adapter; default: the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Adapter>,
    /// Volumes that its containers may mount by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub volumes: Vec<ModelVolume>,
    /// A real-time task of its own; a Package's Schedule has those of several models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<crate::schedule::Realtime>,
}

/// A runtime adapter of the node runtime.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// The OCI runtime inside the pullpiri binary.
    Oci,
    Podman,
    /// A Pod that is bound to the node and run by its kubelet.
    Kubernetes,
}

impl Adapter {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::Podman => "podman",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Whether the runtime starts ended containers again by itself, as the restart policy says, rather than being told to.
    #[must_use]
    pub const fn restarts_containers(self) -> bool {
        match self {
            Self::Oci | Self::Podman => false,
            Self::Kubernetes => true,
        }
    }
}

/// When an exited container is started again.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// One container of a Model.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The container's name, unique in the Model.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The image's reference, as `localhost/blis:1.0` or with `@sha256:…`.
    #[schemars(length(min = 1, max = 512), regex(pattern = IMAGE))]
    pub image: String,
    /// Replaces the image's entrypoint. `$(NAME)` expands environment variables, `$$` is a dollar sign.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub args: Vec<String>,
    /// The directory it starts in, absolute. Default: the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^/"))]
    pub working_dir: Option<String>,
    /// Environment variables, beside the image's and in place of those of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// With hostNetwork they only document; else they are published on the node where hostPort is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<ContainerPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Where volumes appear in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volume_mounts: Vec<VolumeMount>,
    /// What the container may do, and as whom it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
}

/// When a kubelet fetches the image. The other runtimes fetch none: they run what was loaded.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// An environment variable.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))").message(Message::Expression("'value and valueFrom exclude each other; ' + self.name + ' has both'".into())))]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// The variable's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"))]
    pub name: String,
    /// `$(NAME)` expands variables defined before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    /// Where the value comes from; excludes `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// A key of a ConfigMap or of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)").message(Message::Expression("'exactly one of configMapKeyRef and secretKeyRef must be set; got ' + (has(self.configMapKeyRef) ? 'both' : 'none')".into())))]
#[serde(rename_all = "camelCase")]
pub struct EnvVarSource {
    /// A key of a ConfigMap, in the Model's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
    /// A key of a Secret, in the Model's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySelector>,
}

/// One key of an object that holds data.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KeySelector {
    /// The object's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub name: String,
    /// The key whose value is taken.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::DATA_KEY))]
    pub key: String,
    /// Whether the variable is left out when the object or the key is missing. Default false: the instance waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A port that a container listens on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// The port in the container, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: i32,
    /// The port of the node that leads to it, 1 to 65535. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: Option<i32>,
    /// TCP (the default) or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub name: Option<String>,
}

/// A transport protocol.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
}

// Keys have no bound in a schema, and a kube-apiserver refuses what it estimates to copy a text without one, as `+` does. It reckons
// nothing of the kind for `format`.
/// Limits and requests: `cpu`, `memory`, and `pids` (limits only).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'pids'])").message(Message::Expression("'limits are of cpu, memory and pids; got %s'.format([self.limits.filter(k, !(k in ['cpu', 'memory', 'pids']))])".into())).field_path(".limits"))]
#[x_kube(validation = Rule::new("!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory'])").message(Message::Expression("'requests are of cpu and memory; got %s'.format([self.requests.filter(k, !(k in ['cpu', 'memory']))])".into())).field_path(".requests"))]
#[x_kube(validation = Rule::new("!has(self.limits) || !('memory' in self.limits) || quantity(string(self.limits['memory'])).compareTo(quantity('1Mi')) >= 0 || quantity(string(self.limits['memory'])).compareTo(quantity('0')) == 0").message(Message::Expression("'must be at least 1Mi, with less no process starts, or 0 for no limit; got ' + string(self.limits['memory'])".into())).field_path(".limits['memory']"))]
#[x_kube(validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)").message(Message::Expression("'a request must not exceed the limit of the same resource' + ('cpu' in self.requests && 'cpu' in self.limits ? '; cpu ' + string(self.requests['cpu']) + ' of ' + string(self.limits['cpu']) : '') + ('memory' in self.requests && 'memory' in self.limits ? '; memory ' + string(self.requests['memory']) + ' of ' + string(self.limits['memory']) : '')".into())).field_path(".requests"))]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the container never exceeds: `cpu` in cores, `memory` in bytes from 1Mi, `pids` as a number. Default: no limit; so is 0, as in Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 8))]
    pub limits: Option<BTreeMap<String, Quantity>>,
    /// What the container gets when the node is short: `cpu` in cores, `memory` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 8))]
    pub requests: Option<BTreeMap<String, Quantity>>,
}

/// Where a volume appears in a container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// A volume of this Model, or the Volume that its package gives it.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub name: String,
    /// Absolute, without `..`, and not the root.
    #[schemars(length(min = 1, max = 1024), regex(pattern = ABSOLUTE))]
    pub mount_path: String,
    /// Whether the container may only read. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// A path within the volume: relative, without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = RELATIVE))]
    pub sub_path: Option<String>,
}

/// What a container may do, and as whom it runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// Whether it has every capability and the node's devices. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// The user id of its first process. Default: the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967294_i64))]
    pub run_as_user: Option<i64>,
    /// The group id of its first process. Default: the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967294_i64))]
    pub run_as_group: Option<i64>,
    /// Whether the container's root file system can't be written to. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
}

/// The names of capabilities(7), with or without their prefix, and all of them.
const CAPABILITY: &str = r"^(ALL|(CAP_)?(AUDIT_CONTROL|AUDIT_READ|AUDIT_WRITE|BLOCK_SUSPEND|BPF|CHECKPOINT_RESTORE|CHOWN|DAC_OVERRIDE|DAC_READ_SEARCH|FOWNER|FSETID|IPC_LOCK|IPC_OWNER|KILL|LEASE|LINUX_IMMUTABLE|MAC_ADMIN|MAC_OVERRIDE|MKNOD|NET_ADMIN|NET_BIND_SERVICE|NET_BROADCAST|NET_RAW|PERFMON|SETFCAP|SETGID|SETPCAP|SETUID|SYS_ADMIN|SYS_BOOT|SYS_CHROOT|SYS_MODULE|SYS_NICE|SYS_PACCT|SYS_PTRACE|SYS_RAWIO|SYS_RESOURCE|SYS_TIME|SYS_TTY_CONFIG|SYSLOG|WAKE_ALARM))$";

/// Linux capabilities, with or without the `CAP_` prefix; `ALL` stands for all of them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Capabilities beside the default ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63), regex(pattern = CAPABILITY)))]
    pub add: Vec<String>,
    /// Default capabilities that it does not get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63), regex(pattern = CAPABILITY)))]
    pub drop: Vec<String>,
}

/// A volume of a Model: a name and exactly one source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("(has(self.hostPath) ? 1 : 0) + (has(self.emptyDir) ? 1 : 0) + (has(self.configMap) ? 1 : 0) + (has(self.secret) ? 1 : 0) == 1").message(Message::Expression("'exactly one of hostPath, emptyDir, configMap and secret must be set; ' + self.name + ' has:' + (has(self.hostPath) ? ' hostPath' : '') + (has(self.emptyDir) ? ' emptyDir' : '') + (has(self.configMap) ? ' configMap' : '') + (has(self.secret) ? ' secret' : '')".into())))]
#[serde(rename_all = "camelCase")]
pub struct ModelVolume {
    /// The name that `volumeMounts` use.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFiles>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretFiles>,
}

/// A file or directory of the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// Absolute, and without `..`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^(/|(/[^/.][^/]*|/\.[^/.][^/]*|/\.\.[^/]+)+/?)$"))]
    pub path: String,
    /// What must be there, or is made. Default: no check.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<HostPathType>,
}

/// What must be at the path; what ends in OrCreate is made if nothing is there.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// An empty directory that lives as long as the instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// Memory: a tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// The tmpfs' size; needs medium Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
}

/// What an empty directory is kept in.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
}

/// Files from a ConfigMap, one per key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapFiles {
    /// The ConfigMap's name, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub name: String,
    /// Only these keys, at these paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub items: Vec<KeyToPath>,
    /// Permission bits in decimal. Default 420 (0644).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<i32>,
    /// Whether the instance starts without the ConfigMap or a key that is missing. Default false: it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Files from a Secret, one per key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretFiles {
    /// The Secret's name, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub secret_name: String,
    /// Only these keys, at these paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub items: Vec<KeyToPath>,
    /// Permission bits in decimal. Default 420 (0644).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<i32>,
    /// Whether the instance starts without the Secret or a key that is missing. Default false: it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// One key, and the file that it becomes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!self.path.startsWith('/') && !self.path.contains('..')").message(Message::Expression("'must be relative and without ..; got ' + self.path".into())).field_path(".path"))]
#[serde(rename_all = "camelCase")]
pub struct KeyToPath {
    /// The key whose value is taken.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::DATA_KEY))]
    pub key: String,
    /// The file's path within the volume: relative, without `..`.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// The file's permission bits in decimal. Default: `defaultMode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub mode: Option<i32>,
}
