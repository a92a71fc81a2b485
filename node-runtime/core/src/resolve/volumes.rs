//! Volumes and where containers mount them.
//!
//! A disk-backed volume of the instance's own is a directory below the node's volume directory and is shared by its containers. A volume in
//! memory is a tmpfs of the container's own, so it can be mounted once only.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use pullpiri_crds::model::{self, KeyToPath, ModelSpec, ModelVolume};
use pullpiri_crds::quantity;

use super::environment::unreadable;
use super::{Context, Lookup, Problem, ProblemKind, ROOT, fnv};
use crate::plan::{File, HostStep, Medium};
use crate::runtime::{Mount, MountSource};
use crate::snapshot::{DataKind, DataObject};

/// 0644, as Kubernetes has it.
const DEFAULT_MODE: i32 = 0o644;

pub(super) struct Volumes {
    by_name: BTreeMap<String, Option<Volume>>,
}

struct Volume {
    source: Source,
    step: Option<HostStep>,
}

enum Source {
    Host(PathBuf),
    Directory(PathBuf),
    /// The paths of its files.
    Files(PathBuf, Vec<String>),
    Tmpfs {
        size_bytes: Option<u64>,
    },
}

impl Volumes {
    pub fn steps(&self) -> Vec<HostStep> {
        self.by_name.values().flatten().filter_map(|volume| volume.step.clone()).collect()
    }
}

pub(super) fn resolve(context: &Context<'_>, spec: &ModelSpec, problems: &mut Vec<Problem>) -> Volumes {
    let mut by_name = BTreeMap::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("{ROOT}.volumes[{index}]");
        if by_name.contains_key(&volume.name) {
            let message = format!("{:?} is given twice; expected a name of its own", volume.name);
            problems.push(Problem { kind: ProblemKind::Invalid, field: format!("{field}.name"), message });
            continue;
        }
        // An unresolved volume stays known by name, so that its mounts aren't reported too.
        let resolved = source(context, volume, &field, spec, problems);
        by_name.insert(volume.name.clone(), resolved);
    }
    Volumes { by_name }
}

fn source(
    context: &Context<'_>,
    volume: &ModelVolume,
    field: &str,
    spec: &ModelSpec,
    problems: &mut Vec<Problem>,
) -> Option<Volume> {
    let directory = context.node.directory(context.id).join(&volume.name);
    let mut problem = |kind, name: &str, message: String| {
        problems.push(Problem { kind, field: format!("{field}.{name}"), message });
    };
    if !is_plain(Path::new(&volume.name)) {
        problem(ProblemKind::Invalid, "name", format!("{:?} can't name a directory", volume.name));
        return None;
    }
    match (&volume.host_path, &volume.empty_dir, &volume.config_map, &volume.secret) {
        (Some(host), None, None, None) => {
            let path = PathBuf::from(&host.path);
            if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
                let message = format!("{:?} must be absolute and without ..", host.path);
                problem(ProblemKind::Invalid, "hostPath.path", message);
                return None;
            }
            let step = HostStep::HostPath { volume: volume.name.clone(), path: path.clone(), kind: host.kind };
            Some(Volume { step: Some(step), source: Source::Host(path) })
        }
        (None, Some(empty), None, None) => {
            let size_bytes = match empty.size_limit.as_ref().map(|quantity| quantity::units(&quantity.0)) {
                None => None,
                Some(Ok(size)) => Some(size).filter(|size| *size > 0),
                Some(Err(error)) => {
                    problem(ProblemKind::Invalid, "emptyDir.sizeLimit", error.to_string());
                    return None;
                }
            };
            if empty.medium.is_none() {
                if size_bytes.is_some() {
                    let message = "a size needs medium Memory: this node keeps no quota on disk".to_owned();
                    problem(ProblemKind::CannotHonour, "emptyDir.sizeLimit", message);
                    return None;
                }
                let step = HostStep::Directory { volume: volume.name.clone(), path: directory.clone() };
                return Some(Volume { source: Source::Directory(directory), step: Some(step) });
            }
            let mounts = spec.containers.iter().flat_map(|c| &c.volume_mounts).filter(|m| m.name == volume.name);
            let count = mounts.count();
            if count > 1 {
                let message = format!("medium Memory is mounted {count} times; this node can mount it once only");
                problem(ProblemKind::CannotHonour, "emptyDir.medium", message);
                return None;
            }
            Some(Volume { source: Source::Tmpfs { size_bytes }, step: None })
        }
        (None, None, Some(config_map), None) => {
            let optional = config_map.optional == Some(true);
            let mode = config_map.default_mode.unwrap_or(DEFAULT_MODE);
            let wanted =
                Wanted { kind: DataKind::ConfigMap, name: &config_map.name, items: &config_map.items, mode, optional };
            projected(context, volume, &wanted, directory, field, problems)
        }
        (None, None, None, Some(secret)) => {
            let optional = secret.optional == Some(true);
            let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
            let wanted =
                Wanted { kind: DataKind::Secret, name: &secret.secret_name, items: &secret.items, mode, optional };
            projected(context, volume, &wanted, directory, field, problems)
        }
        _ => {
            let message = "expected exactly one of hostPath, emptyDir, configMap and secret".to_owned();
            problems.push(Problem { kind: ProblemKind::Invalid, field: field.to_owned(), message });
            None
        }
    }
}

/// Which files a volume wants of a ConfigMap or Secret.
struct Wanted<'a> {
    kind: DataKind,
    name: &'a str,
    /// Empty: every key under its own name.
    items: &'a [KeyToPath],
    mode: i32,
    optional: bool,
}

fn projected(
    context: &Context<'_>,
    volume: &ModelVolume,
    wanted: &Wanted<'_>,
    directory: PathBuf,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<Volume> {
    let Wanted { kind, name, optional, .. } = *wanted;
    let nothing = DataObject::default();
    let object = match context.lookup(kind, name) {
        Lookup::Present(object) => object,
        Lookup::Absent if optional => &nothing,
        Lookup::Absent => {
            let message = format!("{kind} {}/{name} doesn't exist", context.namespace);
            problems.push(Problem { kind: ProblemKind::Missing, field: field.to_owned(), message });
            return None;
        }
        Lookup::Refused(message) => {
            let message = unreadable(kind, context.namespace, name, message);
            problems.push(Problem { kind: ProblemKind::Missing, field: field.to_owned(), message });
            return None;
        }
        Lookup::Unknown => {
            let message = format!("{kind} {}/{name} hasn't been read yet", context.namespace);
            problems.push(Problem { kind: ProblemKind::Unknown, field: field.to_owned(), message });
            return None;
        }
    };
    let files = files(wanted, object, context.namespace, field, problems)?;
    let hash = content_hash(&files);
    let paths = files.keys().cloned().collect();
    let medium = if kind == DataKind::Secret { Medium::Memory } else { Medium::Disk };
    let step = HostStep::Files { volume: volume.name.clone(), directory: directory.clone(), files, hash, medium };
    Some(Volume { source: Source::Files(directory, paths), step: Some(step) })
}

fn files(
    wanted: &Wanted<'_>,
    object: &DataObject,
    namespace: &str,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<BTreeMap<String, File>> {
    let bits = |mode: i32| u32::try_from(mode).unwrap_or(0) & 0o777;
    let mut files = BTreeMap::new();
    if wanted.items.is_empty() {
        for (key, content) in &object.entries {
            files.insert(key.clone(), File { content: content.clone(), mode: bits(wanted.mode) });
        }
    }
    let mut complete = true;
    for (index, item) in wanted.items.iter().enumerate() {
        let field =
            format!("{field}.{}.items[{index}]", if wanted.kind == DataKind::Secret { "secret" } else { "configMap" });
        if !is_plain(Path::new(&item.path)) {
            let message = format!("{:?} must be relative and without ..", item.path);
            problems.push(Problem { kind: ProblemKind::Invalid, field: format!("{field}.path"), message });
            complete = false;
            continue;
        }
        match object.entries.get(&item.key) {
            Some(content) => {
                let mode = bits(item.mode.unwrap_or(wanted.mode));
                files.insert(item.path.clone(), File { content: content.clone(), mode });
            }
            None if wanted.optional => {}
            None => {
                let message = format!("{} {namespace}/{} has no key {:?}", wanted.kind, wanted.name, item.key);
                problems.push(Problem { kind: ProblemKind::Missing, field: format!("{field}.key"), message });
                complete = false;
            }
        }
    }
    let clash = files.keys().find(|path| {
        files.keys().any(|other| Path::new(other) != Path::new(path) && Path::new(other).starts_with(path))
    });
    if let Some(path) = clash {
        let message = format!("{path:?} is both a file and a directory of another file");
        problems.push(Problem { kind: ProblemKind::Invalid, field: field.to_owned(), message });
        return None;
    }
    complete.then_some(files)
}

fn content_hash(files: &BTreeMap<String, File>) -> String {
    let mut bytes = Vec::new();
    for (path, file) in files {
        // Lengths keep one file's end from being another's beginning.
        bytes.extend_from_slice(
            format!("{}:{path}:{:o}:{}:", path.len(), file.mode, file.content.bytes().len()).as_bytes(),
        );
        bytes.extend_from_slice(file.content.bytes());
    }
    fnv(&bytes)
}

/// Relative, not empty, and of plain names only.
fn is_plain(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// A container's mounts. What they need on the host is appended to `steps`.
pub(super) fn mounts(
    volumes: &Volumes,
    container: &model::Container,
    field: &str,
    steps: &mut Vec<HostStep>,
    problems: &mut Vec<Problem>,
) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let mut problem = |kind, name: &str, message: String| {
            problems.push(Problem { kind, field: format!("{field}.{name}"), message });
        };
        let target = PathBuf::from(&mount.mount_path);
        if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
            let message = format!("{:?} must be absolute and without ..", mount.mount_path);
            problem(ProblemKind::Invalid, "mountPath", message);
            continue;
        }
        if target.components().all(|part| part == Component::RootDir) {
            let message = format!("{:?} would hide the whole image; expected a directory below /", mount.mount_path);
            problem(ProblemKind::Invalid, "mountPath", message);
            continue;
        }
        if mounts.iter().any(|other| other.target == target) {
            problem(ProblemKind::Invalid, "mountPath", format!("{:?} is mounted twice", mount.mount_path));
            continue;
        }
        let Some(volume) = volumes.by_name.get(&mount.name) else {
            let known: Vec<&str> = volumes.by_name.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
            problem(ProblemKind::Invalid, "name", format!("no volume {:?}; {known}", mount.name));
            continue;
        };
        let Some(volume) = volume else { continue };
        let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
        if sub_path.is_some_and(|path| !is_plain(Path::new(path))) {
            problem(
                ProblemKind::Invalid,
                "subPath",
                format!("{:?} must be relative and without ..", sub_path.unwrap_or_default()),
            );
            continue;
        }
        // Files that came from an object are never written to.
        let read_only = mount.read_only == Some(true) || matches!(volume.source, Source::Files(..));
        let source = match (&volume.source, sub_path) {
            (Source::Tmpfs { size_bytes }, None) => MountSource::Tmpfs { size_bytes: *size_bytes },
            (Source::Tmpfs { .. }, Some(_)) => {
                let message = "a volume in memory has no sub-paths on this node".to_owned();
                problem(ProblemKind::CannotHonour, "subPath", message);
                continue;
            }
            (Source::Host(path) | Source::Directory(path) | Source::Files(path, _), None) => {
                MountSource::Bind(path.clone())
            }
            (Source::Host(base) | Source::Directory(base), Some(sub_path)) => {
                steps.push(HostStep::SubPath {
                    volume: mount.name.clone(),
                    base: base.clone(),
                    sub_path: PathBuf::from(sub_path),
                });
                MountSource::Below { base: base.clone(), sub_path: PathBuf::from(sub_path) }
            }
            (Source::Files(base, paths), Some(sub_path)) => {
                if !paths.iter().any(|path| Path::new(path).starts_with(sub_path)) {
                    let message =
                        format!("no file {sub_path:?} in volume {}; there are {}", mount.name, paths.join(", "));
                    problem(ProblemKind::Missing, "subPath", message);
                    continue;
                }
                MountSource::Below { base: base.clone(), sub_path: PathBuf::from(sub_path) }
            }
        };
        mounts.push(Mount { source, target, read_only });
    }
    mounts
}
