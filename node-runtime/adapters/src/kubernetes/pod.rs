//! From a [`PodSpec`] to the Pod that the API server is given.
//!
//! Volumes are what the node runtime prepared on the host, so that they are what they are with any adapter: a bind mount becomes a `hostPath`, a tmpfs an
//! `emptyDir` in memory. References to keys of Secrets and ConfigMaps stay references. The Pod belongs to its ModelInstance and is bound to the node: no
//! scheduler looks at it, and it tolerates whatever the node is tainted with, since who placed it knows the node.

use std::collections::BTreeMap;
use std::path::Path;

use pullpiri_crds::model::ImagePullPolicy;
use pullpiri_crds::names::{ANNOTATION_TEMPLATE_HASH, LABEL_INSTANCE_UID};
use pullpiri_node_core::runtime::{ContainerSpec, Limits, Mount, MountSource, NetworkMode, PodSpec, Security};
use serde_json::{Map, Value, json};

/// Kubernetes' limit for a label's value.
const MAX_LABEL: usize = 63;

/// The Pod as JSON: every field is one of `v1` `Pod`.
pub(super) fn pod(pod: &PodSpec, node: &str) -> Value {
    let mut labels = BTreeMap::new();
    let mut annotations = BTreeMap::from([(ANNOTATION_TEMPLATE_HASH, pod.hash.as_str())]);
    for (key, value) in &pod.labels {
        // A Package may have a longer name than a label may be.
        if is_label(value) {
            labels.insert(key.as_str(), value.as_str())
        } else {
            annotations.insert(key, value)
        };
    }
    labels.insert(LABEL_INSTANCE_UID, &pod.id.0);
    let mut volumes = Volumes::default();
    let containers: Vec<Value> = pod.containers.iter().map(|one| container(one, &mut volumes)).collect();
    let mut spec = json!({
        "nodeName": node,
        "restartPolicy": pod.lifecycle.restart,
        "terminationGracePeriodSeconds": pod.lifecycle.grace_seconds,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "tolerations": [{ "operator": "Exists" }],
        "containers": containers,
    });
    match pod.network {
        NetworkMode::Host => spec["hostNetwork"] = json!(true),
        // A namespace of ours is never asked for: such an instance is refused before.
        NetworkMode::Own | NetworkMode::Namespace(_) => spec["hostname"] = json!(pod.hostname),
    }
    if !volumes.list.is_empty() {
        spec["volumes"] = json!(volumes.list);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.namespace,
            "name": pod.name,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": super::OWNER_API,
                "kind": super::OWNER_KIND,
                "name": pod.name,
                "uid": pod.id,
                "controller": true,
                "blockOwnerDeletion": false,
            }],
        },
        "spec": spec,
    })
}

/// apimachinery's IsValidLabelValue.
fn is_label(value: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// The Pod's volumes; what several containers mount is one.
#[derive(Default)]
struct Volumes {
    list: Vec<Value>,
    by_path: BTreeMap<String, String>,
}

impl Volumes {
    /// The volume's name, and the path in it.
    fn of<'a>(&mut self, mount: &'a Mount) -> (String, Option<&'a Path>) {
        match &mount.source {
            MountSource::Bind(path) => (self.host_path(path), None),
            // The kubelet, too, resolves it at each start and lets no link lead out of the volume.
            MountSource::Below { base, sub_path } => (self.host_path(base), Some(sub_path)),
            MountSource::Tmpfs { size_bytes } => {
                let mut source = json!({ "medium": "Memory" });
                if let Some(bytes) = size_bytes {
                    source["sizeLimit"] = json!(bytes.to_string());
                }
                let name = self.fresh();
                self.list.push(json!({ "name": name, "emptyDir": source }));
                (name, None)
            }
        }
    }

    fn fresh(&self) -> String {
        format!("v{}", self.list.len())
    }

    fn host_path(&mut self, path: &Path) -> String {
        let path = path.display().to_string();
        if let Some(name) = self.by_path.get(&path) {
            return name.clone();
        }
        let name = self.fresh();
        // It was checked or made by the node runtime.
        self.list.push(json!({ "name": name, "hostPath": { "path": path } }));
        self.by_path.insert(path, name.clone());
        name
    }
}

fn container(container: &ContainerSpec, volumes: &mut Volumes) -> Value {
    let policy = container.image_pull.unwrap_or(ImagePullPolicy::IfNotPresent);
    let mut spec = Map::new();
    let mut set = |key: &str, value: Value| {
        spec.insert(key.to_owned(), value);
    };
    set("name", json!(container.name));
    set("image", json!(container.image));
    set("imagePullPolicy", json!(policy));
    if !container.command.is_empty() {
        set("command", json!(container.command));
    }
    if !container.args.is_empty() {
        set("args", json!(container.args));
    }
    if let Some(directory) = &container.working_dir {
        set("workingDir", json!(directory));
    }
    if !container.env.is_empty() {
        set("env", container.env.iter().map(|(name, value)| variable(container, name, value)).collect());
    }
    let mounts = container.mounts.iter().map(|mount| {
        let (name, sub_path) = volumes.of(mount);
        let mut value = json!({ "name": name, "mountPath": mount.target, "readOnly": mount.read_only });
        if let Some(sub_path) = sub_path {
            value["subPath"] = json!(sub_path);
        }
        value
    });
    let mounts: Vec<Value> = mounts.collect();
    if !mounts.is_empty() {
        set("volumeMounts", json!(mounts));
    }
    let ports = container.ports.iter().map(|port| {
        let mut value = json!({ "containerPort": port.container_port, "protocol": port.protocol.to_uppercase() });
        if let Some(host_port) = port.host_port {
            value["hostPort"] = json!(host_port);
        }
        value
    });
    let ports: Vec<Value> = ports.collect();
    if !ports.is_empty() {
        set("ports", json!(ports));
    }
    set("resources", resources(&container.limits));
    set("securityContext", security(&container.security));
    Value::Object(spec)
}

fn variable(container: &ContainerSpec, name: &str, value: &str) -> Value {
    let Some(source) = container.env_sources.get(name) else { return json!({ "name": name, "value": value }) };
    let kind = if source.secret { "secretKeyRef" } else { "configMapKeyRef" };
    let key = json!({ "name": source.name, "key": source.key, "optional": source.optional });
    json!({ "name": name, "valueFrom": { kind: key } })
}

fn resources(limits: &Limits) -> Value {
    let list = |cpu: Option<u64>, memory: Option<u64>| {
        let mut map = Map::new();
        map.extend(cpu.map(|millis| ("cpu".to_owned(), json!(format!("{millis}m")))));
        map.extend(memory.map(|bytes| ("memory".to_owned(), json!(bytes.to_string()))));
        Value::Object(map)
    };
    json!({
        "limits": list(limits.cpu_millis, limits.memory_bytes),
        "requests": list(limits.cpu_request_millis, limits.memory_request_bytes),
    })
}

fn security(security: &Security) -> Value {
    let mut context = json!({
        "privileged": security.privileged,
        "readOnlyRootFilesystem": security.read_only_root,
    });
    if !security.add_capabilities.is_empty() || !security.drop_capabilities.is_empty() {
        context["capabilities"] = json!({ "add": security.add_capabilities, "drop": security.drop_capabilities });
    }
    if let Some(user) = security.user {
        context["runAsUser"] = json!(user);
    }
    if let Some(group) = security.group {
        context["runAsGroup"] = json!(group);
    }
    context
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use pullpiri_crds::model::RestartPolicy;
    use pullpiri_node_core::runtime::{KeySource, Lifecycle, PodId, Port};

    use super::*;

    fn spec(network: NetworkMode) -> PodSpec {
        let bind = |path: &str, target: &str| Mount {
            source: MountSource::Bind(path.into()),
            target: target.into(),
            read_only: true,
        };
        let first = ContainerSpec {
            name: "blis".into(),
            image: "localhost/blis:1.0".into(),
            command: vec!["/bin/blis".into()],
            args: vec!["--mode=$(MODE)".into()],
            env: vec![("MODE".into(), "eco".into()), ("TOKEN".into(), String::new()), ("GEAR".into(), String::new())],
            env_sources: BTreeMap::from([
                ("TOKEN".into(), KeySource { secret: true, name: "keys".into(), key: "token".into(), optional: false }),
                ("GEAR".into(), KeySource { secret: false, name: "gears".into(), key: "p".into(), optional: true }),
            ]),
            working_dir: Some("/srv".into()),
            mounts: vec![
                bind("/data/volumes/uid/conf", "/conf"),
                Mount {
                    source: MountSource::Tmpfs { size_bytes: Some(4096) },
                    target: "/ram".into(),
                    read_only: false,
                },
            ],
            ports: vec![Port { container_port: 80, host_port: Some(8080), protocol: "udp".into() }],
            limits: Limits {
                cpu_millis: Some(500),
                cpu_request_millis: Some(250),
                memory_bytes: Some(1 << 20),
                memory_request_bytes: Some(1 << 19),
                pids: None,
            },
            security: Security {
                add_capabilities: vec!["SYS_NICE".into()],
                drop_capabilities: vec!["ALL".into()],
                user: Some(7),
                read_only_root: true,
                ..Security::default()
            },
            ..ContainerSpec::default()
        };
        let second = ContainerSpec {
            name: "logger".into(),
            image: "localhost/logger:1.0".into(),
            image_pull: Some(ImagePullPolicy::Never),
            mounts: vec![Mount {
                source: MountSource::Below { base: "/data/volumes/uid/conf".into(), sub_path: "a/b".into() },
                target: "/etc/conf".into(),
                read_only: true,
            }],
            ..ContainerSpec::default()
        };
        PodSpec {
            id: PodId("5a0d2c6e-0b1f-4a5e-9c1d-1f2e3d4c5b6a".into()),
            namespace: "chassis".into(),
            name: "bms-blis-hpc-1f2e".into(),
            hash: "00ff".into(),
            hostname: "blis".into(),
            network,
            containers: vec![first, second],
            labels: BTreeMap::from([("app".into(), "bms".into()), ("pullpiri.io/package".into(), "p".repeat(64))]),
            lifecycle: Lifecycle { restart: RestartPolicy::OnFailure, grace_seconds: 5 },
        }
    }

    #[test]
    fn pods_are_as_recorded() {
        let own = pod(&spec(NetworkMode::Own), "hpc");
        insta::assert_json_snapshot!("own_network", own);
        let host = pod(&spec(NetworkMode::Host), "hpc");
        assert_eq!((&host["spec"]["hostNetwork"], host["spec"].get("hostname")), (&json!(true), None));
        // Nothing in it is unknown to Kubernetes.
        let typed: Pod = serde_json::from_value(own.clone()).unwrap();
        let back = serde_json::to_value(typed).unwrap();
        assert_eq!(back["spec"]["containers"], own["spec"]["containers"]);
        assert_eq!(back["metadata"], own["metadata"]);
    }

    #[test]
    fn labels_are_what_kubernetes_takes() {
        for good in ["", "a", "a-b_c.1"] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["-a", "a/", "a b", &"a".repeat(64)] {
            assert!(!is_label(bad), "{bad}");
        }
    }
}
