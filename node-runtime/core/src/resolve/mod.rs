//! From a ModelInstance to a pod that a runtime can run, or to the list of what is wrong with it.
//!
//! Nothing is dropped in silence. What can't be run is a [`Problem`] with the field's path; what runs, but not as declared, is a line
//! of `degraded`. References to ConfigMaps and Secrets are read from the snapshot, which has what was fetched.

mod environment;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use pullpiri_crds::ModelInstance;
use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::Template;
use pullpiri_crds::model::{self, Adapter, ImagePullPolicy, Protocol};
use pullpiri_crds::names::{LABEL_MODEL, LABEL_NODE, LABEL_PACKAGE, rfc1123};
use pullpiri_crds::quantity;

use self::environment::Expansion;
use crate::decide::grace;
use crate::memory::Memory;
use crate::network;
use crate::plan::HostStep;
use crate::runtime::{
    ContainerSpec, Lifecycle, Limits, Mount, MountSource, NetworkMode, PodId, PodSpec, Port, Security,
};
use crate::snapshot::{DataKind, DataObject, DataRef, DataState, Node};

/// A pod and what must be so on the host before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub pod: PodSpec,
    pub steps: Vec<HostStep>,
    /// What isn't as declared though it runs.
    pub degraded: Vec<String>,
}

/// Why an instance can't run, and where that is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub kind: ProblemKind,
    /// From the ModelInstance's root.
    pub field: String,
    pub message: String,
}

/// In the order in which they are reported when there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Whatever is tried, this template can't run.
    Invalid,
    /// This node can't run it.
    CannotHonour,
    /// This node can't join Networks.
    NoNetworking,
    /// A ConfigMap or Secret that a variable refers to isn't there (yet), lacks the key, or may not be read.
    ConfigMissing,
    /// What a volume refers to isn't there (yet), or may not be read.
    Missing,
    /// Something it refers to hasn't been fetched yet.
    Unknown,
}

impl ProblemKind {
    /// The condition's reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => reason::INVALID_TEMPLATE,
            Self::CannotHonour => reason::CANNOT_HONOUR,
            Self::NoNetworking => reason::NO_NETWORKING,
            Self::ConfigMissing => reason::CONFIG_MISSING,
            Self::Missing => reason::VOLUME_MISSING,
            Self::Unknown => reason::STARTING,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Where the template's pod spec is, for problems' paths.
const ROOT: &str = "spec.template.spec";

/// What resolving reads beside the instance.
pub(crate) struct Context<'a> {
    pub node: &'a Node,
    pub id: &'a PodId,
    pub namespace: &'a str,
    pub memory: &'a Memory,
    pub data: &'a BTreeMap<DataRef, DataState>,
    pub network: &'a network::NodeState,
}

pub(crate) enum Lookup<'a> {
    Present(&'a DataObject),
    Absent,
    Refused(&'a str),
    Unknown,
}

impl<'a> Context<'a> {
    /// What was fetched, else what the node remembers: a right that was taken back stops nothing.
    pub fn lookup(&self, kind: DataKind, name: &str) -> Lookup<'a> {
        let data = DataRef { kind, namespace: self.namespace.to_owned(), name: name.to_owned() };
        match (self.data.get(&data), self.memory.data.get(&data)) {
            (Some(DataState::Present(object)), _) | (None | Some(DataState::Refused { .. }), Some(object)) => {
                Lookup::Present(object)
            }
            (Some(DataState::Absent), _) => Lookup::Absent,
            (Some(DataState::Refused { message }), None) => Lookup::Refused(message),
            (None, None) => Lookup::Unknown,
        }
    }
}

/// The hash of a template, by which a pod is known to be made from it. 64 bits of FNV-1a over its JSON: it tells templates apart that
/// one instance had, it doesn't guard against forgery.
#[must_use]
pub fn template_hash(template: &Template) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    fnv(&json)
}

pub(crate) fn fnv(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// Every ConfigMap and Secret that an instance's template refers to.
#[must_use]
pub fn data_refs(instance: &ModelInstance) -> BTreeSet<DataRef> {
    let namespace = instance.metadata.namespace.clone().unwrap_or_default();
    let spec = &instance.spec.template.spec;
    let of = |kind, name: &str| DataRef { kind, namespace: namespace.clone(), name: name.to_owned() };
    let volumes = spec.volumes.iter().flat_map(|volume| {
        let config_map = volume.config_map.iter().map(|source| of(DataKind::ConfigMap, &source.name));
        config_map.chain(volume.secret.iter().map(|source| of(DataKind::Secret, &source.secret_name)))
    });
    let sources = spec.containers.iter().flat_map(|c| &c.env).filter_map(|variable| variable.value_from.as_ref());
    let variables = sources.flat_map(|source| {
        let config_map = source.config_map_key_ref.iter().map(|key| of(DataKind::ConfigMap, &key.name));
        config_map.chain(source.secret_key_ref.iter().map(|key| of(DataKind::Secret, &key.name)))
    });
    volumes.chain(variables).collect()
}

/// The pod that `instance` declares, for `adapter`.
///
/// # Errors
/// Every [`Problem`] there is, sorted.
pub(crate) fn resolve(
    context: &Context<'_>,
    instance: &ModelInstance,
    adapter: Adapter,
) -> Result<Resolved, Vec<Problem>> {
    let template = &instance.spec.template;
    let spec = &template.spec;
    let mut problems = Vec::new();
    let mut degraded = Vec::new();

    let volumes = volumes::resolve(context, spec, &mut problems);
    let mut steps = volumes.steps();
    let mut names = BTreeSet::new();
    let mut containers = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let field = format!("{ROOT}.containers[{index}]");
        if !names.insert(container.name.as_str()) {
            let message = format!("{:?} is given twice; expected a name of its own", container.name);
            problems.push(Problem { kind: ProblemKind::Invalid, field: format!("{field}.name"), message });
        }
        let by = if adapter == Adapter::Kubernetes { Expansion::Kubelet } else { Expansion::Node };
        let environment = environment::resolve(context, container, &field, by, &mut problems);
        let mounts = volumes::mounts(&volumes, container, &field, &mut steps, &mut problems);
        let ports = ports(instance, container, adapter, &field, &mut problems);
        if container.image_pull_policy == Some(ImagePullPolicy::Always) && adapter != Adapter::Kubernetes {
            degraded.push(format!(
                "{field}.imagePullPolicy: Always, but this node doesn't pull images; what was loaded runs"
            ));
        }
        let (command, args) = (&container.command, &container.args);
        let [command, args] = [command, args].map(|list| list.iter().map(|text| environment.expand(text)).collect());
        let (env, env_sources) = environment.into_variables();
        containers.push(ContainerSpec {
            name: container.name.clone(),
            image: container.image.clone(),
            command,
            args,
            env,
            env_sources,
            image_pull: container.image_pull_policy,
            working_dir: container.working_dir.clone(),
            mounts,
            ports,
            limits: limits(container, adapter, &field, &mut problems),
            security: security(container, &field, &mut problems),
        });
    }
    let network = join(context, instance, adapter, &mut containers, &mut steps, &mut problems);
    if !problems.is_empty() {
        problems.sort();
        return Err(problems);
    }
    let mut labels = template.labels.clone();
    labels.insert(LABEL_PACKAGE.to_owned(), instance.spec.package.clone());
    labels.insert(LABEL_MODEL.to_owned(), instance.spec.model.clone());
    labels.insert(LABEL_NODE.to_owned(), context.node.name.clone());
    let pod = PodSpec {
        id: context.id.clone(),
        namespace: context.namespace.to_owned(),
        name: instance.metadata.name.clone().unwrap_or_default(),
        hash: template_hash(template),
        hostname: spec.hostname.clone().unwrap_or_else(|| hostname(&instance.spec.model)),
        network,
        containers,
        labels,
        lifecycle: Lifecycle {
            restart: spec.restart_policy.unwrap_or_default(),
            grace_seconds: u32::try_from(grace(instance).as_secs()).unwrap_or(u32::MAX),
        },
    };
    Ok(Resolved { pod, steps, degraded })
}

/// Where the pod's network is. A bridged Network's ports are published by the node, not by the runtime.
fn join(
    context: &Context<'_>,
    instance: &ModelInstance,
    adapter: Adapter,
    containers: &mut [ContainerSpec],
    steps: &mut Vec<HostStep>,
    problems: &mut Vec<Problem>,
) -> NetworkMode {
    if instance.spec.template.spec.host_network == Some(true) {
        return NetworkMode::Host;
    }
    let Some(given) = &instance.spec.network else { return NetworkMode::Own };
    if adapter == Adapter::Kubernetes {
        let message = format!(
            "a Pod is on the cluster's network and can't join Network {}, whose rules wouldn't hold for it; use runtime oci, or a Network of mode Host, whose classes do",
            given.name
        );
        problems.push(Problem { kind: ProblemKind::CannotHonour, field: "spec.network".to_owned(), message });
        return NetworkMode::Own;
    }
    let Some(namespace) = context.network.namespace(context.id) else {
        let (kind, message) = match &context.network.missing {
            Some(missing) => (ProblemKind::NoNetworking, missing.clone()),
            None => (ProblemKind::Unknown, "this node is still looking at its network".to_owned()),
        };
        problems.push(Problem { kind, field: "spec.network".to_owned(), message });
        return NetworkMode::Own;
    };
    match network::attachment(context.namespace, given, containers) {
        Ok(attachment) => {
            steps.push(HostStep::Attach { pod: context.id.clone(), attachment: Box::new(attachment) });
        }
        Err(error) => {
            let (field, message) = (format!("spec.network.{}", error.field), error.message);
            problems.push(Problem { kind: ProblemKind::Invalid, field, message });
        }
    }
    let target = Path::new(network::names::TARGET);
    let hosts = network::names::path(namespace.parent().unwrap_or(&namespace), context.id);
    for container in containers.iter_mut() {
        for port in &mut container.ports {
            port.host_port = None;
        }
        if container.mounts.iter().all(|mount| mount.target != target) {
            let source = MountSource::Bind(hosts.clone());
            container.mounts.push(Mount { source, target: target.to_owned(), read_only: true });
        }
    }
    NetworkMode::Namespace(namespace)
}

/// A model's name as a host name: one label of at most 63 characters (RFC 1123, section 2.1).
fn hostname(model: &str) -> String {
    let mut label = rfc1123(&model.replace('.', "-")).unwrap_or_else(|| "pullpiri".to_owned());
    label.truncate(63);
    label.trim_end_matches('-').to_owned()
}

fn ports(
    instance: &ModelInstance,
    container: &model::Container,
    adapter: Adapter,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Port> {
    let spec = &instance.spec.template.spec;
    let bridged = instance.spec.network.is_some();
    let mut ports = Vec::new();
    for (index, port) in container.ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let mut number = |name: &str, given: i32| {
            let number = u16::try_from(given).ok().filter(|n| *n > 0);
            if number.is_none() {
                let message = format!("{given} is no port; expected 1 to 65535");
                problems.push(Problem { kind: ProblemKind::Invalid, field: format!("{field}.{name}"), message });
            }
            number
        };
        let container_port = number("containerPort", port.container_port);
        let host_port = port.host_port.map(|given| number("hostPort", given));
        if let Some(Some(host_port)) = host_port {
            if spec.host_network == Some(true) {
                if container_port.is_some_and(|port| port != host_port) {
                    let message = format!("{host_port} differs from containerPort, which hostNetwork doesn't allow");
                    problems.push(Problem { kind: ProblemKind::Invalid, field: format!("{field}.hostPort"), message });
                }
            } else if adapter == Adapter::Oci && !bridged && port.protocol == Some(Protocol::Udp) {
                problems.push(Problem {
                    kind: ProblemKind::CannotHonour,
                    field: format!("{field}.hostPort"),
                    message: format!(
                        "runtime oci can't publish UDP port {host_port}; use hostNetwork or runtime podman"
                    ),
                });
            }
        }
        if let Some(container_port) = container_port {
            let protocol = match port.protocol.unwrap_or_default() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            ports.push(Port { container_port, host_port: host_port.flatten(), protocol: protocol.to_owned() });
        }
    }
    ports
}

/// No container starts with less, whatever runs it: the kernel's bookkeeping for one process takes most of it. Who writes less has
/// forgotten a suffix.
const MIN_MEMORY_BYTES: u64 = 1 << 20;

fn limits(container: &model::Container, adapter: Adapter, field: &str, problems: &mut Vec<Problem>) -> Limits {
    let Some(resources) = &container.resources else { return Limits::default() };
    let mut read = |list: &str, name: &str, parse: fn(&str) -> Result<u64, quantity::QuantityError>| {
        let map = if list == "limits" { &resources.limits } else { &resources.requests };
        let given = &map.as_ref()?.get(name)?.0;
        match parse(given) {
            // As in Kubernetes, a limit of zero is none.
            Ok(0) => None,
            Ok(value) => Some(value),
            Err(error) => {
                let field = format!("{field}.resources.{list}[{name}]");
                problems.push(Problem { kind: ProblemKind::Invalid, field, message: error.to_string() });
                None
            }
        }
    };
    let mut too_little = None;
    let limits = Limits {
        cpu_millis: read("limits", "cpu", quantity::millis),
        cpu_request_millis: read("requests", "cpu", quantity::millis),
        memory_bytes: read("limits", "memory", quantity::units)
            .inspect(|bytes| too_little = (*bytes < MIN_MEMORY_BYTES).then_some(*bytes)),
        memory_request_bytes: read("requests", "memory", quantity::units),
        pids: read("limits", "pids", quantity::units),
    };
    if limits.pids.is_some() && adapter == Adapter::Kubernetes {
        let field = format!("{field}.resources.limits[pids]");
        let message = "a container of a Pod has no such limit (the kubelet's podPidsLimit is for all Pods)".to_owned();
        problems.push(Problem { kind: ProblemKind::CannotHonour, field, message });
    }
    if let Some(bytes) = too_little {
        let field = format!("{field}.resources.limits[memory]");
        let message =
            format!("{bytes} B is too little to start a process; expected at least 1Mi (did you mean {bytes}Mi?)");
        problems.push(Problem { kind: ProblemKind::Invalid, field, message });
    }
    let known = |name: &&String| !matches!(name.as_str(), "cpu" | "memory" | "pids");
    for name in resources.limits.iter().flat_map(|map| map.keys()).filter(known) {
        let field = format!("{field}.resources.limits[{name}]");
        let message = "unknown resource; expected cpu, memory or pids".to_owned();
        problems.push(Problem { kind: ProblemKind::CannotHonour, field, message });
    }
    limits
}

fn security(container: &model::Container, field: &str, problems: &mut Vec<Problem>) -> Security {
    let Some(context) = &container.security_context else { return Security::default() };
    let mut id = |name: &str, given: Option<i64>| {
        let given = given?;
        let id = u32::try_from(given).ok();
        if id.is_none() {
            let message = format!("{given} is no id; expected 0 to 4294967294");
            let field = format!("{field}.securityContext.{name}");
            problems.push(Problem { kind: ProblemKind::Invalid, field, message });
        }
        id
    };
    let user = id("runAsUser", context.run_as_user);
    let group = id("runAsGroup", context.run_as_group);
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let bare = |names: Vec<String>| -> Vec<String> {
        names.into_iter().map(|name| name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)).collect()
    };
    Security {
        privileged: context.privileged.unwrap_or(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        user,
        group,
        read_only_root: context.read_only_root_filesystem.unwrap_or(false),
    }
}

#[cfg(test)]
mod tests;
