//! From a container's specification to what its supervisor needs: image, user, OCI specification, directories. Blocking IO.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pullpiri_node_core::runtime::{ContainerSpec, NetworkMode, PodId, PodSpec, Port};
use pullpiri_node_host::cgroup::{Layout, container_group};
use pullpiri_node_host::{limits, signals};

use super::spec::{self, Inputs};
use super::store::{attempt_dir, is_plain_name};
use super::user;
use super::wire::{LogTarget, PublishedPort, Start};
use super::{ADAPTER, OciOptions, REMEDY};
use crate::RuntimeError;
use crate::images::{Image, ImageError, ImageStore};
use crate::logs::Logs;

const SIGTERM: i32 = 15;

/// What all containers of this node share.
#[derive(Debug)]
pub(super) struct Node {
    pub images: ImageStore,
    pub options: OciOptions,
    pub layout: Layout,
    pub logs: Logs,
}

/// A container that is ready to be written down and started.
pub(super) struct Prepared {
    pub image: Image,
    start: Start,
    config: Vec<u8>,
}

/// Checks what can be refused before anything is made.
pub(super) fn check_pod(pod: &PodSpec) -> Result<(), RuntimeError> {
    let refused = |message: String| refused(&pod.id, "checking the specification", message);
    if !is_plain_name(&pod.id.0) {
        return Err(refused(format!("{:?} can't be a pod's id: expected letters, digits, '-', '_' and '.'", pod.id.0)));
    }
    if pod.hostname.is_empty() || pod.hostname.len() > 64 {
        return Err(refused(format!("host name {:?} doesn't have 1 to 64 characters", pod.hostname)));
    }
    for (index, container) in pod.containers.iter().enumerate() {
        if !is_plain_name(&container.name) || container.name.starts_with('_') {
            return Err(refused(format!("{:?} can't be a container's name", container.name)));
        }
        if pod.containers.iter().take(index).any(|c| c.name == container.name) {
            return Err(refused(format!("two containers are named {}", container.name)));
        }
        // With the node's network, ports only document.
        if pod.network == NetworkMode::Own
            && let Some(port) = container.ports.iter().find(|p| p.host_port.is_some() && !is_tcp(p))
        {
            return Err(refused(format!(
                "container {} publishes {} port {}, which adapter {ADAPTER} can't; only TCP ports are published",
                container.name, port.protocol, port.container_port
            )));
        }
    }
    let ports = published(pod);
    for (index, port) in ports.iter().enumerate() {
        if ports.iter().take(index).any(|p| p.host == port.host) {
            return Err(refused(format!("port {} of the node is published twice", port.host)));
        }
    }
    Ok(())
}

fn is_tcp(port: &Port) -> bool {
    port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("tcp")
}

/// The ports of the node that lead to the pod's own network.
pub(super) fn published(pod: &PodSpec) -> Vec<PublishedPort> {
    if pod.network != NetworkMode::Own {
        return Vec::new();
    }
    let ports = pod.containers.iter().flat_map(|c| &c.ports).filter(|p| is_tcp(p));
    ports.filter_map(|p| p.host_port.map(|host| PublishedPort { host, container: p.container_port })).collect()
}

impl Node {
    /// Resolves a container. Nothing is written.
    pub(super) fn prepare(
        &self,
        pod: &PodId,
        pod_dir: &Path,
        hostname: &str,
        container: &ContainerSpec,
        attempt: u32,
    ) -> Result<Prepared, RuntimeError> {
        let attempted = "preparing a container";
        let refuse = |message: String| refused(pod, attempted, format!("{}: {message}", container.name));
        let fail = |e: &dyn std::fmt::Display| failed(pod, attempted, format!("{}: {e}", container.name));
        let image = match self.images.resolve(&container.image) {
            Ok(Some(image)) => image,
            Ok(None) => return Err(RuntimeError::ImageMissing { image: container.image.clone(), remedy: REMEDY }),
            Err(e @ ImageError::Reference(_)) => return Err(refuse(e.to_string())),
            Err(e) => return Err(fail(&e)),
        };
        let layers_dir = self.images.layers_dir();
        let lower = image.lower_dirs();
        let layer_paths: Vec<PathBuf> = lower.iter().map(|l| layers_dir.join(l)).collect();
        let user = user::resolve(&image.config.user, &container.security, &layer_paths).map_err(refuse)?;
        let stop_signal = match &image.config.stop_signal {
            None => SIGTERM,
            Some(name) => {
                signals::parse(name).ok_or_else(|| refuse(format!("the image's stop signal {name:?} is no signal")))?
            }
        };
        let dir = attempt_dir(pod_dir, &container.name, attempt);
        let files: Vec<(PathBuf, PathBuf)> =
            [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
                .into_iter()
                .map(|(source, target)| (pod_dir.join(source), PathBuf::from(target)))
                .collect();
        let sub_paths = spec::sub_paths(container, &dir);
        let (config, devices) = spec::build(&Inputs {
            container,
            image: &image.config,
            user: &user,
            hostname,
            rootfs: &dir.join("rootfs"),
            sub_paths: &sub_paths,
            files: &files,
            cgroup: &container_group(&pod.0, &container.name),
            layout: self.layout,
            capabilities: limits::bounding_capabilities().map_err(|e| fail(&e))?,
            // Supervisors may be protected from memory pressure, their containers aren't: but none can go below what the agent has.
            oom_score_adj: limits::oom_score_adj().map_err(|e| fail(&e))?.max(0),
        })
        .map_err(refuse)?;
        let config = serde_json::to_vec(&config).map_err(|e| fail(&e))?;
        let start = Start {
            container: container.name.clone(),
            attempt,
            container_id: format!("{}-{}-{attempt}", pod.0, container.name),
            image_id: image.id.to_string(),
            dir,
            layers_dir,
            // An overlay needs one layer at least.
            lower: if lower.is_empty() { vec![pod_dir.join("empty").display().to_string()] } else { lower },
            stop_signal,
            limits: container.limits.clone(),
            devices,
            sub_paths,
            log: LogTarget {
                path: self.logs.of(pod).join(format!("{}.log", container.name)),
                max_bytes: self.options.log_max_bytes,
                max_files: self.options.log_max_files,
            },
        };
        Ok(Prepared { image, start, config })
    }

    /// Makes the pod's directory and what its containers share. The network decides which names and servers they see.
    pub(super) fn make_pod_dir(&self, pod: &PodSpec, dir: &Path) -> io::Result<()> {
        private_dir(dir)?;
        fs::create_dir_all(dir.join("empty"))?;
        fs::create_dir_all(self.logs.of(&pod.id))?;
        let own = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{}\n", pod.hostname);
        let (hosts, resolv) = match pod.network {
            NetworkMode::Own => (own, String::new()),
            // Its names are its own; whether it reaches the node's servers is its network's affair.
            NetworkMode::Namespace(_) => (own, read_or("/etc/resolv.conf", String::new())?),
            // A container in the node's network sees the node's names.
            NetworkMode::Host => (read_or("/etc/hosts", own)?, read_or("/etc/resolv.conf", String::new())?),
        };
        for (name, text) in [("hosts", hosts), ("hostname", format!("{}\n", pod.hostname)), ("resolv.conf", resolv)] {
            fs::write(dir.join(name), text)?;
        }
        Ok(())
    }
}

impl Prepared {
    /// Writes the attempt's directory and returns what the supervisor is to do.
    pub(super) fn write(self) -> io::Result<Start> {
        // Left by an agent that died between this and the start.
        match fs::remove_dir_all(&self.start.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        private_dir(&self.start.dir)?;
        fs::write(self.start.dir.join("config.json"), &self.config)?;
        Ok(self.start)
    }
}

fn read_or(path: &str, default: String) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(default),
        other => other,
    }
}

/// Specifications may hold secrets.
fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn refused(pod: &PodId, attempted: &'static str, message: String) -> RuntimeError {
    RuntimeError::Refused { pod: pod.clone(), attempted, message }
}

pub(super) fn failed(pod: &PodId, attempted: &'static str, message: String) -> RuntimeError {
    RuntimeError::Failed { pod: pod.clone(), attempted, message }
}
