//! The OCI runtime specification of a container: what `config.json` says.
//!
//! Defaults are those that podman and docker give their containers. The network namespace is the supervisor's, so none is named here.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{major, minor};
use pullpiri_node_core::runtime::{ContainerSpec, Mount, MountSource};
use pullpiri_node_host::cgroup::Layout;
use pullpiri_node_host::files;
use serde_json::{Value, json};

use super::capabilities::{self, Capabilities};
use super::user::User;
use super::wire::SubPath;
use crate::images::ImageConfig;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Making any node; null, zero, full, random, urandom, tty, console, ptmx and pseudo-terminals. Source: the OCI specification's default
/// devices.
const ALLOWED_DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a specification is made of.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub container: &'a ContainerSpec,
    pub image: &'a ImageConfig,
    pub user: &'a User,
    pub hostname: &'a str,
    pub rootfs: &'a Path,
    pub sub_paths: &'a [SubPath],
    /// Files that the runtime mounts by itself (`/etc/hosts` …), unless the container mounts something there.
    pub files: &'a [(PathBuf, PathBuf)],
    pub cgroup: &'a str,
    pub layout: Layout,
    /// The node's bounding set.
    pub capabilities: u64,
    pub oom_score_adj: i32,
}

/// The specification and the rules of the device controller, or why there can't be any. Limits aren't in it: the supervisor sets them
/// before it lets libcontainer run.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<(Value, Vec<String>), String> {
    let Inputs { container, image, user, .. } = inputs;
    let security = &container.security;
    let capabilities = capabilities::resolve(security, inputs.capabilities)?;
    let args = arguments(container, image)?;
    let (masked, read_only): (&[&str], &[&str]) = if security.privileged { (&[], &[]) } else { (&MASKED, &READ_ONLY) };
    let mut namespaces =
        vec![json!({"type": "pid"}), json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    if inputs.layout == Layout::Unified {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let (devices, device_rules) = devices(container)?;
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids },
            "args": args,
            "env": environment(container, image, user, inputs.hostname),
            "cwd": working_dir(container, image)?,
            "capabilities": capability_sets(&capabilities, user.uid),
            "oomScoreAdj": inputs.oom_score_adj,
            "noNewPrivileges": false,
        },
        "root": { "path": inputs.rootfs, "readonly": security.read_only_root },
        "hostname": inputs.hostname,
        "mounts": mounts(inputs)?,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("/{}", inputs.cgroup),
            "devices": devices,
            "maskedPaths": masked,
            "readonlyPaths": read_only,
        },
    });
    Ok((spec, device_rules))
}

fn arguments(container: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, String> {
    let entrypoint = if container.command.is_empty() { &image.entrypoint } else { &container.command };
    let cmd = if container.args.is_empty() && container.command.is_empty() { &image.cmd } else { &container.args };
    let args: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    match args.first() {
        None => Err("there is no program to run: the image has no entrypoint and command is empty".to_owned()),
        Some(first) if first.is_empty() => Err("the program to run is an empty string".to_owned()),
        Some(_) if args.iter().any(|a| a.contains('\0')) => Err("an argument holds a NUL byte".to_owned()),
        Some(_) => Ok(args),
    }
}

/// The image's variables, then the container's; of each name the last value, at its first place.
fn environment(container: &ContainerSpec, image: &ImageConfig, user: &User, hostname: &str) -> Vec<String> {
    let (path_name, path) = DEFAULT_PATH.split_once('=').unwrap_or_default();
    let defaults = [(path_name, path), ("HOSTNAME", hostname), ("HOME", user.home.as_str())];
    let all = defaults
        .into_iter()
        .chain(image.env.iter().map(|(n, v)| (n.as_str(), v.as_str())))
        .chain(container.env.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let mut merged: Vec<(&str, &str)> = Vec::new();
    for (name, value) in all {
        match merged.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None => merged.push((name, value)),
        }
    }
    merged.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn working_dir(container: &ContainerSpec, image: &ImageConfig) -> Result<String, String> {
    let dir = container.working_dir.as_ref().or(image.working_dir.as_ref()).map_or("/", String::as_str);
    let dir = if dir.is_empty() { "/" } else { dir };
    if dir.starts_with('/') { Ok(dir.to_owned()) } else { Err(format!("working directory {dir:?} is not absolute")) }
}

fn capability_sets(capabilities: &Capabilities, uid: u32) -> Value {
    // Without ambient capabilities, exec takes every capability from a user who isn't root.
    let ambient: &[String] = if uid == 0 { &[] } else { &capabilities.added };
    json!({
        "bounding": capabilities.granted,
        "effective": capabilities.granted,
        "permitted": capabilities.granted,
        "inheritable": ambient,
        "ambient": ambient,
    })
}

fn mounts(inputs: &Inputs<'_>) -> Result<Vec<Value>, String> {
    let privileged = inputs.container.security.privileged;
    let sysfs_mode = if privileged { "rw" } else { "ro" };
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sysfs_mode]),
    ];
    if inputs.layout == Layout::Unified {
        mounts.push(mount("/sys/fs/cgroup", "cgroup2", &["nosuid", "noexec", "nodev", "relatime", sysfs_mode]));
    }
    let mut asked: Vec<&Mount> = inputs.container.mounts.iter().collect();
    // A mount inside another must come after it, whatever their order in the specification.
    asked.sort_by_key(|m| m.target.components().count());
    for (source, target) in inputs.files {
        if !asked.iter().any(|m| m.target == *target) {
            mounts.push(json!({
                "destination": target, "type": "bind", "source": source, "options": ["bind", "rprivate"],
            }));
        }
    }
    for mount in asked {
        mounts.push(volume(mount, inputs.sub_paths)?);
    }
    Ok(mounts)
}

/// The parts of volumes that a container mounts. What they lead to is found out when it is made, at each attempt.
pub(super) fn sub_paths(container: &ContainerSpec, attempt_dir: &Path) -> Vec<SubPath> {
    let below = container.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Below { base, sub_path } => Some((base.clone(), sub_path.clone())),
        MountSource::Bind(_) | MountSource::Tmpfs { .. } => None,
    });
    let mut found: Vec<SubPath> = Vec::new();
    for (base, path) in below {
        if !found.iter().any(|known| (&known.base, &known.path) == (&base, &path)) {
            let at = attempt_dir.join("sub").join(found.len().to_string());
            found.push(SubPath { base, path, at });
        }
    }
    found
}

fn volume(mount: &Mount, sub_paths: &[SubPath]) -> Result<Value, String> {
    let target = &mount.target;
    let plain =
        target.is_absolute() && target.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !plain || target == Path::new("/") {
        return Err(format!("mount path {}: expected an absolute path below /, without '..'", target.display()));
    }
    let mode = if mount.read_only { "ro" } else { "rw" };
    Ok(match &mount.source {
        MountSource::Bind(source) => {
            if !source.is_absolute() {
                return Err(format!("mount source {} of {} is not absolute", source.display(), target.display()));
            }
            if let Err(e) = fs::metadata(source) {
                return Err(format!("mount source {} of {}: {e}", source.display(), target.display()));
            }
            json!({
                "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode],
            })
        }
        MountSource::Below { base, sub_path } => {
            let staged = sub_paths.iter().find(|known| (&known.base, &known.path) == (base, sub_path));
            let Some(SubPath { at, .. }) = staged.filter(|known| known.base.is_absolute()) else {
                return Err(format!("mount source {} of {} is not absolute", base.display(), target.display()));
            };
            json!({
                "destination": target, "type": "bind", "source": at, "options": ["rbind", "rprivate", mode],
            })
        }
        MountSource::Tmpfs { size_bytes } => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "mode=0777".to_owned(), mode.to_owned()];
            options.extend(size_bytes.map(|size| format!("size={size}")));
            json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options })
        }
    })
}

/// Device nodes to make, and rules for the device controller of cgroups version 1 (under version 2 nothing restricts devices beyond
/// what nodes there are).
fn devices(container: &ContainerSpec) -> Result<(Vec<Value>, Vec<String>), String> {
    if container.security.privileged {
        let nodes = host_devices(Path::new("/dev")).map_err(|e| format!("listing this node's devices: {e}"))?;
        return Ok((nodes, vec!["a".to_owned()]));
    }
    let mut rules: Vec<String> = ALLOWED_DEVICES.iter().map(|r| (*r).to_owned()).collect();
    // Who mounts a device means to use it.
    for mount in &container.mounts {
        if let Some(meta) = device_source(&mount.source)
            && let Some(kind) = device_kind(&meta)
        {
            let access = if mount.read_only { "r" } else { "rw" };
            rules.push(format!("{kind} {}:{} {access}", major(meta.rdev()), minor(meta.rdev())));
        }
    }
    Ok((Vec::new(), rules))
}

/// What is mounted, if that may be a device. In a volume that containers write to, one of them could make a device and name any.
fn device_source(source: &MountSource) -> Option<fs::Metadata> {
    match source {
        MountSource::Bind(source) => fs::metadata(source).ok(),
        MountSource::Below { base, sub_path } if base == Path::new("/dev") => {
            File::from(files::open_below(base, sub_path).ok()?).metadata().ok()
        }
        MountSource::Below { .. } | MountSource::Tmpfs { .. } => None,
    }
}

fn device_kind(meta: &fs::Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_char_device() {
        Some("c")
    } else if kind.is_block_device() {
        Some("b")
    } else {
        None
    }
}

/// Every device node of this machine but terminals and what the container's own /dev has.
fn host_devices(dir: &Path) -> std::io::Result<Vec<Value>> {
    let mut found = Vec::new();
    let own = ["pts", "shm", "mqueue", "console", "ptmx", "fd", "core", "stdin", "stdout", "stderr"];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if own.iter().any(|o| Path::new("/dev").join(o) == path) {
            continue;
        }
        // Nodes come and go while the directory is read.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            found.extend(host_devices(&path)?);
        } else if let Some(kind) = device_kind(&meta) {
            found.push(json!({
                "path": path, "type": kind, "major": major(meta.rdev()), "minor": minor(meta.rdev()),
                "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid(),
            }));
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
