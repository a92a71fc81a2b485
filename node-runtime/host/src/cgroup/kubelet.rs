//! Where a kubelet keeps a Pod's containers, and which process is a container's first.
//!
//! The kubelet's groups are `kubepods`, in it one per class of service (`burstable`, `besteffort`; guaranteed Pods are right in `kubepods`), in it
//! `pod<uid>`, in it one per container, named by its id. With the systemd driver each is a slice whose name repeats those above it, dashes of the
//! uid are underscores, and a container is a scope: `kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`
//! (pkg/kubelet/cm/cgroup_manager_linux.go). The whole may be below any group (`--cgroup-root`, a nested node).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Cgroups, collect};
use crate::Result;

/// How far below the root of the hierarchy `kubepods` is looked for.
const ROOT_DEPTH: usize = 3;
/// Classes of service and the Pod, each with its slice.
const POD_DEPTH: usize = 3;

/// The group of the Pod with this uid, as a directory of the hierarchy that has the controllers of CPU time.
#[must_use]
pub fn pod_directory(cgroups: &Cgroups, uid: &str) -> Option<PathBuf> {
    let root = ["cpu", "memory", "pids"].iter().find_map(|controller| cgroups.controller_path(controller, ""))?;
    find_root(&root, uid, ROOT_DEPTH)
}

/// The group of a container of that Pod; `id` without its scheme.
#[must_use]
pub fn container_directory(pod: &Path, id: &str) -> Option<PathBuf> {
    let is_it = |name: &str| name == id || name.strip_suffix(".scope").is_some_and(|scope| scope.ends_with(id));
    directories(pod).into_iter().find(|(name, _)| is_it(name)).map(|(_, path)| path)
}

/// The Pod's group, of a path of a container's group or one below it; `None`: no kubelet made it.
#[must_use]
pub fn pod_of(group: &str) -> Option<&str> {
    let mut end = 0;
    let mut is_below = false;
    for part in group.split_inclusive('/') {
        end += part.len();
        let name = part.trim_end_matches('/');
        if is_below && is_pod(name) {
            return group.get(..end).map(|path| path.trim_end_matches('/'));
        }
        is_below = is_below || is_root(name);
    }
    None
}

fn is_root(name: &str) -> bool {
    name == "kubepods" || name.strip_suffix("kubepods.slice").is_some()
}

/// Whether it is a Pod's by either driver: `pod<uid>`, or a slice that ends so. Static Pods' uids are hashes.
fn is_pod(name: &str) -> bool {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid),
        None => name.strip_prefix("pod"),
    };
    uid.is_some_and(|uid| uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-' || b == b'_'))
}

/// The first process of a container: of those whose parent isn't in the container, the one that started first. `None` if nothing runs in it.
///
/// # Errors
/// If the group can't be read.
pub fn first_process(container: &Path) -> Result<Option<i32>> {
    let mut pids = BTreeSet::new();
    collect(container, &mut pids)?;
    let facts = pids.iter().filter_map(|pid| {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        Some((*pid, parse(&String::from_utf8_lossy(&stat))?))
    });
    Ok(choose(&facts.collect()))
}

/// Parent and start time, in clock ticks since boot (proc_pid_stat(5), fields 4 and 22).
fn parse(stat: &str) -> Option<(i32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

/// What was put into a running container (`kubectl exec`) has its parent outside as well, and started later.
fn choose(processes: &BTreeMap<i32, (i32, u64)>) -> Option<i32> {
    let tops = processes.iter().filter(|(_, (parent, _))| !processes.contains_key(parent));
    tops.min_by_key(|(pid, (_, started))| (*started, **pid)).map(|(pid, _)| *pid)
}

fn find_root(directory: &Path, uid: &str, depth: usize) -> Option<PathBuf> {
    let found = directories(directory);
    let here = found.iter().filter(|(name, _)| is_root(name)).find_map(|(_, path)| find_pod(path, uid, POD_DEPTH));
    if here.is_some() || depth == 0 {
        return here;
    }
    found.iter().filter(|(name, _)| !is_root(name)).find_map(|(_, path)| find_root(path, uid, depth - 1))
}

fn find_pod(directory: &Path, uid: &str, depth: usize) -> Option<PathBuf> {
    let plain = format!("pod{uid}");
    let slice = format!("-pod{}.slice", uid.replace('-', "_"));
    let found = directories(directory);
    if let Some((_, path)) = found.iter().find(|(name, _)| *name == plain || name.ends_with(&slice)) {
        return Some(path.clone());
    }
    let is_class = |name: &str| {
        ["burstable", "besteffort"].iter().any(|class| name.strip_suffix(".slice").unwrap_or(name).ends_with(class))
    };
    let classes = found.iter().filter(|(name, _)| depth > 0 && is_class(name));
    classes.into_iter().find_map(|(_, path)| find_pod(path, uid, depth - 1))
}

/// By name; links are left out.
fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut named: Vec<(String, PathBuf)> =
        directories.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect();
    named.sort();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "5a0d2c6e-0b1f-4a5e-9c1d-1f2e3d4c5b6a";
    const ID: &str = "1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00d1f00";

    /// A hierarchy with the groups given; of version 2, or the `cpu` of version 1.
    fn tree(unified: bool, groups: &[&str]) -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().unwrap();
        let root = if unified { dir.path().to_owned() } else { dir.path().join("cpu") };
        for group in groups.iter().chain(&["system.slice/ssh.service", "pullpiri/x", "user.slice"]) {
            std::fs::create_dir_all(root.join(group)).unwrap();
            std::fs::write(root.join(group).join("cgroup.procs"), "").unwrap();
        }
        std::fs::write(root.join("cgroup.procs"), "").unwrap();
        if unified {
            std::fs::write(root.join("cgroup.controllers"), "cpu memory\n").unwrap();
        }
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        (dir, cgroups)
    }

    #[test]
    fn pods_are_found_by_either_driver_and_version() {
        let under = UID.replace('-', "_");
        let other = "0b7e1d2c-1111-4222-8333-944445555666";
        let plain = [
            format!("kubepods/burstable/pod{UID}/{ID}"),
            format!("kubepods/besteffort/pod{UID}/{ID}"),
            format!("kubepods/pod{UID}/{ID}"),
            format!("pullpiri-kube/kubepods/besteffort/pod{UID}/{ID}"),
        ];
        let slices = [
            format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{ID}.scope"),
            format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/crio-{ID}.scope"),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
        ];
        for group in plain.iter().chain(&slices) {
            for unified in [true, false] {
                let neighbour = group.replace(UID, other).replace(&under, &other.replace('-', "_"));
                let (dir, cgroups) = tree(unified, &[group, &neighbour]);
                let pod = pod_directory(&cgroups, UID).unwrap_or_else(|| panic!("{group}"));
                let container = container_directory(&pod, ID).unwrap();
                let root = if unified { dir.path().to_owned() } else { dir.path().join("cpu") };
                assert_eq!(container, root.join(group));
                assert_eq!(container_directory(&pod, "0000"), None);
                assert_eq!(first_process(&container).unwrap(), None);
                assert_eq!(pod_directory(&cgroups, "00000000-0000-4000-8000-000000000000"), None);
            }
        }
    }

    #[test]
    fn the_pods_group_is_the_one_above_its_containers() {
        let under = UID.replace('-', "_");
        for pod in [
            format!("/kubepods/burstable/pod{UID}"),
            format!("/pullpiri-kube/kubepods/pod{UID}"),
            "/kubepods/besteffort/pod0123456789abcdef0123456789abcdef".to_owned(),
            format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice"),
            format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice"),
        ] {
            for below in ["", "/cri-containerd-1f00.scope", "/1f00/inner"] {
                assert_eq!(pod_of(&format!("{pod}{below}")), Some(pod.as_str()));
            }
        }
        let strange = format!("/user.slice/pod{UID}/x");
        for other in ["", "/", "/system.slice/kubelet.service", "/kubepods/burstable/podium", &strange] {
            assert_eq!(pod_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_first_process_is_the_oldest_that_comes_from_outside() {
        let stat = |name: &str, parent: i32, started: u64| {
            format!("7 ({name}) S {parent} 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {started} 9 10")
        };
        assert_eq!(parse(&stat("a) b", 41, 500)), Some((41, 500)));
        assert_eq!(parse("7 (x) S"), None);
        let of =
            |list: &[(i32, i32, u64)]| choose(&list.iter().map(|(pid, parent, at)| (*pid, (*parent, *at))).collect());
        // Ids have wrapped around: the first one has the highest.
        assert_eq!(of(&[(900, 40, 100), (20, 900, 120), (31, 40, 150)]), Some(900));
        assert_eq!(of(&[]), None);
    }
}
