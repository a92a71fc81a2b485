//! From a [`PodSpec`] to what libpod's create calls want (its SpecGenerator), and the labels by which pods are found again.
//!
//! A pod with the node's network, or with a network namespace that is there (podman's pods join none), is a set of plain containers. One with a network of its own is a podman pod, whose infra container holds the
//! network, IPC and UTS namespaces, so that each container may end and start without the others noticing.

use std::collections::BTreeMap;
use std::path::Path;

use pullpiri_node_core::runtime::{ContainerSpec, Limits, Mount, MountSource, NetworkMode, PodId, PodSpec};
use serde_json::{Map, Value, json};

/// Labels on everything that this adapter makes.
pub(super) mod label {
    /// The data directory of the node that made it: several nodes may share one podman.
    pub const OWNER: &str = "io.pullpiri.owner";
    pub const POD: &str = "io.pullpiri.pod";
    pub const NAMESPACE: &str = "io.pullpiri.namespace";
    pub const NAME: &str = "io.pullpiri.name";
    pub const HASH: &str = "io.pullpiri.hash";
    pub const HOSTNAME: &str = "io.pullpiri.hostname";
    /// `host`, `own` or `ns:` and the path of a network namespace.
    pub const NETWORK: &str = "io.pullpiri.network";
    /// Not on the infra container.
    pub const CONTAINER: &str = "io.pullpiri.container";
    pub const ATTEMPT: &str = "io.pullpiri.attempt";
}

/// Before the path in a label.
const NAMESPACE_PREFIX: &str = "ns:";
/// The kernel's default period of CPU quotas, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA_US: u64 = 1_000;

pub(super) fn pod_name(id: &PodId) -> String {
    format!("pullpiri-{id}")
}

pub(super) fn container_name(id: &PodId, container: &str, attempt: u32) -> String {
    format!("pullpiri-{id}-{container}-{attempt}")
}

/// What all of a pod's containers carry.
pub(super) fn pod_labels(pod: &PodSpec, owner: &str) -> BTreeMap<String, String> {
    let network = match &pod.network {
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Own => "own".to_owned(),
        NetworkMode::Namespace(path) => format!("{NAMESPACE_PREFIX}{}", path.display()),
    };
    let mut labels = pod.labels.clone();
    for (key, value) in [
        (label::OWNER, owner),
        (label::POD, &pod.id.0),
        (label::NAMESPACE, &pod.namespace),
        (label::NAME, &pod.name),
        (label::HASH, &pod.hash),
        (label::HOSTNAME, &pod.hostname),
        (label::NETWORK, &network),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The podman pod of a pod with a network of its own.
pub(super) fn pod(pod: &PodSpec, labels: &BTreeMap<String, String>) -> Value {
    let mut mappings = Vec::new();
    for port in pod.containers.iter().flat_map(|container| &container.ports) {
        if let Some(host_port) = port.host_port {
            mappings.push(json!({
                "container_port": port.container_port,
                "host_port": host_port,
                "protocol": port.protocol,
            }));
        }
    }
    // A bridge is needed to publish ports and for nothing else.
    let network = if mappings.is_empty() { "none" } else { "bridge" };
    json!({
        "name": pod_name(&pod.id),
        "hostname": pod.hostname,
        "labels": labels,
        "shared_namespaces": ["net", "ipc", "uts"],
        "netns": { "nsmode": network },
        "portmappings": mappings,
    })
}

/// Where a container belongs.
pub(super) struct Place<'a> {
    pub id: &'a PodId,
    /// [`pod_labels`].
    pub labels: &'a BTreeMap<String, String>,
    pub attempt: u32,
    pub log: &'a Path,
    /// 0: unlimited.
    pub log_max_bytes: u64,
    /// The user that the image names.
    pub image_user: &'a str,
}

pub(super) fn container(container: &ContainerSpec, place: &Place<'_>) -> Value {
    let mut labels = place.labels.clone();
    labels.insert(label::CONTAINER.to_owned(), container.name.clone());
    labels.insert(label::ATTEMPT.to_owned(), place.attempt.to_string());
    let environment: BTreeMap<&str, &str> =
        container.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let capabilities = |names: &[String]| -> Vec<String> {
        let full = |name: &String| if name == "ALL" { name.clone() } else { format!("CAP_{name}") };
        names.iter().map(full).collect()
    };
    let mut spec = Map::new();
    let mut set = |key: &str, value: Value| {
        spec.insert(key.to_owned(), value);
    };
    set("name", json!(container_name(place.id, &container.name, place.attempt)));
    set("image", json!(container.image));
    set("labels", json!(labels));
    set("env", json!(environment));
    set("mounts", container.mounts.iter().map(mount).collect());
    set("resource_limits", limits(&container.limits));
    let mut log = json!({ "driver": "k8s-file", "path": place.log });
    if place.log_max_bytes > 0 {
        log["size"] = json!(place.log_max_bytes);
    }
    set("log_configuration", log);
    set("restart_policy", json!("no"));
    set("sdnotifyMode", json!("ignore"));
    set("systemd", json!("false"));
    set("privileged", json!(container.security.privileged));
    set("cap_add", json!(capabilities(&container.security.add_capabilities)));
    set("cap_drop", json!(capabilities(&container.security.drop_capabilities)));
    set("read_only_filesystem", json!(container.security.read_only_root));
    if !container.command.is_empty() {
        set("entrypoint", json!(container.command));
    }
    if !container.args.is_empty() {
        set("command", json!(container.args));
    }
    if let Some(directory) = &container.working_dir {
        set("work_dir", json!(directory));
    }
    if let Some(user) = user(container, place.image_user) {
        set("user", json!(user));
    }
    let network = place.labels.get(label::NETWORK).map_or("own", String::as_str);
    let namespace = match network.strip_prefix(NAMESPACE_PREFIX) {
        Some(path) => Some(json!({ "nsmode": "path", "value": path })),
        None => (network == "host").then(|| json!({ "nsmode": "host" })),
    };
    match namespace {
        Some(namespace) => {
            set("netns", namespace);
            set("hostname", json!(place.labels.get(label::HOSTNAME)));
        }
        None => set("pod", json!(pod_name(place.id))),
    }
    Value::Object(spec)
}

/// `user:group`; a group alone keeps the image's user.
fn user(container: &ContainerSpec, image_user: &str) -> Option<String> {
    match (container.security.user, container.security.group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => {
            let user = image_user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            Some(format!("{user}:{group}"))
        }
    }
}

fn mount(mount: &Mount) -> Value {
    let access = if mount.read_only { "ro" } else { "rw" };
    match &mount.source {
        MountSource::Bind(source) => bind(source, mount, access),
        // Resolved by the caller; this is what is left for people to read.
        MountSource::Below { base, sub_path } => bind(&base.join(sub_path), mount, access),
        MountSource::Tmpfs { size_bytes } => {
            let mut options = vec![access.to_owned(), "mode=1777".to_owned()];
            options.extend(size_bytes.map(|size| format!("size={size}")));
            json!({ "type": "tmpfs", "source": "tmpfs", "destination": mount.target, "options": options })
        }
    }
}

fn bind(source: &Path, mount: &Mount, access: &str) -> Value {
    json!({ "type": "bind", "source": source, "destination": mount.target, "options": ["rbind", access] })
}

fn limits(limits: &Limits) -> Value {
    let mut cpu = Map::new();
    if let Some(millis) = limits.cpu_millis {
        let quota = millis.saturating_mul(CPU_PERIOD_US / 1000).max(MIN_CPU_QUOTA_US);
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(CPU_PERIOD_US));
    }
    if let Some(millis) = limits.cpu_request_millis {
        // 1024 shares are one CPU; the kernel takes no fewer than 2.
        cpu.insert("shares".to_owned(), json!((millis.saturating_mul(1024) / 1000).max(2)));
    }
    let mut memory = Map::new();
    if let Some(bytes) = limits.memory_bytes {
        memory.insert("limit".to_owned(), json!(bytes));
    }
    // podman limits processes unless it is told not to.
    let pids = limits.pids.map_or(json!(-1), |pids| json!(pids));
    json!({ "cpu": cpu, "memory": memory, "pids": { "limit": pids } })
}

#[cfg(test)]
mod tests {
    use pullpiri_node_core::runtime::{Port, Security};

    use super::*;

    fn pod_spec(network: NetworkMode) -> PodSpec {
        let container = ContainerSpec {
            name: "blis".into(),
            image: "localhost/blis:1.0".into(),
            args: vec!["--eco".into()],
            env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
            mounts: vec![
                Mount { source: MountSource::Bind("/v/conf".into()), target: "/conf".into(), read_only: true },
                Mount {
                    source: MountSource::Tmpfs { size_bytes: Some(4096) },
                    target: "/ram".into(),
                    read_only: false,
                },
            ],
            ports: vec![Port { container_port: 80, host_port: Some(8080), protocol: "tcp".into() }],
            limits: Limits {
                cpu_millis: Some(5),
                cpu_request_millis: Some(250),
                memory_bytes: Some(1 << 20),
                memory_request_bytes: None,
                pids: None,
            },
            security: Security {
                add_capabilities: vec!["SYS_NICE".into()],
                drop_capabilities: vec!["ALL".into()],
                group: Some(7),
                ..Security::default()
            },
            ..ContainerSpec::default()
        };
        PodSpec {
            id: PodId("uid".into()),
            namespace: "default".into(),
            name: "pkg-blis".into(),
            hash: "h".into(),
            hostname: "blis".into(),
            network,
            containers: vec![container],
            labels: BTreeMap::from([("app".into(), "bms".into())]),
            lifecycle: pullpiri_node_core::runtime::Lifecycle::default(),
        }
    }

    #[test]
    fn create_calls_are_as_recorded() {
        let own = pod_spec(NetworkMode::Own);
        let labels = pod_labels(&own, "/data");
        let log = Path::new("/data/log");
        let place = Place { id: &own.id, labels: &labels, attempt: 2, log, log_max_bytes: 4096, image_user: "app:9" };
        insta::assert_json_snapshot!("own_network", json!([pod(&own, &labels), container(&own.containers[0], &place)]));

        let host = pod_spec(NetworkMode::Host);
        let labels = pod_labels(&host, "/data");
        let place = Place { id: &host.id, labels: &labels, attempt: 0, log, log_max_bytes: 0, image_user: "" };
        insta::assert_json_snapshot!("host_network", container(&host.containers[0], &place));

        let labels = pod_labels(&pod_spec(NetworkMode::Namespace("/data/netns/uid".into())), "/data");
        let place = Place { id: &host.id, labels: &labels, attempt: 0, log, log_max_bytes: 0, image_user: "" };
        let joined = container(&host.containers[0], &place);
        assert_eq!(joined["netns"], json!({ "nsmode": "path", "value": "/data/netns/uid" }));
        assert!(joined.get("pod").is_none());
    }
}
