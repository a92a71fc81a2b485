//! Workloads whose network isn't ours: they get their classes, and no rule holds for them.
//!
//! In the node's own network what a workload sends is known by its cgroup (v2): runtime oci's is `pullpiri/<uid>`, a Pod's is its kubelet's. On the
//! cluster's network it is known by the node's end of the veth pair that the CNI plugin made, and by no address. Which of both a Pod has is read off one
//! of its processes; what was found stays while a Pod has none, as between two starts of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pullpiri_crds::network::NetworkMode;
use pullpiri_ebpf::net::{Datapath, Hook, NetError};
use pullpiri_node_core::network::Generation;
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::cgroup::kubelet;
use pullpiri_node_host::net::{Family, Link, Netlink};

use super::plumbing::text;

/// The Pods of this node's kubelet that are instances, with processes of each that are known to run.
pub type Pods = BTreeMap<PodId, BTreeSet<u32>>;

/// Where a workload's packets are told from others'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    /// A directory, and its inode, which is the group's id.
    Cgroup(u64, PathBuf),
    /// The node's end of a veth pair: index and name.
    Link(u32, String),
}

impl Spot {
    fn exists(&self) -> bool {
        match self {
            Self::Cgroup(id, path) => std::fs::metadata(path).is_ok_and(|found| found.ino() == *id),
            Self::Link(index, name) => {
                let found = Netlink::open(Family::Route).and_then(|mut net| net.link(name));
                found.is_ok_and(|link| link.is_some_and(|link| link.index == *index))
            }
        }
    }
}

/// What is attached where.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// `None`: whoever knows hasn't said yet, so what an earlier process attached to Pods stays.
    pods: Option<Pods>,
    /// By the instance's uid.
    known: BTreeSet<(String, Spot)>,
    /// Instances without their class, and why.
    pub unclassed: BTreeMap<String, String>,
}

impl Hosts {
    /// Whether that is news.
    pub fn tell(&mut self, pods: Pods) -> bool {
        let is_news = self.pods.as_ref() != Some(&pods);
        self.pods = Some(pods);
        is_news
    }

    pub fn has(&self, uid: &str) -> bool {
        self.known.iter().any(|(known, _)| known == uid)
    }

    /// Everything was taken away.
    pub fn clear(&mut self) {
        self.known.clear();
        self.unclassed.clear();
    }

    /// Has each workload's class chosen where it is, and nowhere else. `cgroups` is the hierarchy of version 2.
    pub fn classify(
        &mut self,
        datapath: &mut Datapath,
        generation: &Generation,
        node: &str,
        cgroups: &Path,
    ) -> Result<(), NetError> {
        let networks = generation.parts.iter().flat_map(|part| &part.networks);
        let host: BTreeSet<i32> = networks.filter(|n| n.mode == NetworkMode::Host).map(|network| network.id).collect();
        let endpoints = generation.parts.iter().flat_map(|part| &part.endpoints);
        let ours = endpoints.filter(|endpoint| endpoint.node == node && host.contains(&endpoint.network));
        let names: BTreeMap<&str, &str> =
            ours.map(|endpoint| (endpoint.uid.as_str(), endpoint.instance.as_str())).collect();
        self.unclassed.clear();
        let mut wanted = BTreeSet::new();
        for (uid, instance) in &names {
            match self.spots(uid, cgroups) {
                Ok(spots) => wanted.extend(spots.into_iter().map(|spot| ((*uid).to_owned(), spot))),
                Err(why) => {
                    self.unclassed.insert((*instance).to_owned(), why);
                }
            }
        }
        for gone in self.known.difference(&wanted).cloned().collect::<Vec<_>>() {
            detach(datapath, &gone.1)?;
            self.known.remove(&gone);
        }
        for (uid, spot) in wanted.difference(&self.known).cloned().collect::<Vec<_>>() {
            match attach(datapath, &spot, &uid) {
                Ok(()) => {
                    self.known.insert((uid, spot));
                }
                Err(error) => {
                    let instance = names.get(uid.as_str()).copied().unwrap_or(&uid).to_owned();
                    self.unclassed.insert(instance, text(&error));
                }
            }
        }
        if generation.parts.iter().all(|part| part.classes.is_empty()) {
            // Nothing is missed.
            self.unclassed.clear();
        }
        self.release(datapath)
    }

    /// Takes away what an earlier process attached to what is gone meanwhile.
    fn release(&self, datapath: &mut Datapath) -> Result<(), NetError> {
        if self.pods.is_none() {
            return Ok(());
        }
        for (hook, device) in datapath.attached()? {
            let is_known = self.known.iter().any(|(_, spot)| match (spot, hook) {
                (Spot::Cgroup(id, _), Hook::HostEgress) => device == id.to_string(),
                (Spot::Link(_, name), Hook::GuestEgress) => device == *name,
                _ => false,
            });
            match hook {
                _ if is_known => {}
                Hook::HostEgress => device.parse().map_or(Ok(()), |id| datapath.detach_host(id))?,
                Hook::GuestEgress => datapath.detach_guest(&device)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn spots(&self, uid: &str, cgroups: &Path) -> Result<BTreeSet<Spot>, String> {
        let oci = cgroups.join("pullpiri").join(uid);
        if let Ok(found) = std::fs::metadata(&oci) {
            return Ok([Spot::Cgroup(found.ino(), oci)].into());
        }
        if is_in_v1_alone(uid, cgroups) {
            return Err(
                "its container is in cgroups of version 1 alone, by which nothing in the node's own network is known"
                    .to_owned(),
            );
        }
        let its = self.known.iter().filter(|(known, _)| known == uid).map(|(_, spot)| spot);
        let before = || its.filter(|spot| spot.exists()).cloned().collect();
        match self.pods.as_ref().map(|pods| pods.get(&PodId(uid.to_owned()))) {
            // Nobody knows yet whether it is there; or it is, and has no process just now.
            None => Ok(before()),
            Some(None) => Ok(BTreeSet::new()),
            Some(Some(pids)) => pids.iter().find_map(|pid| of_process(*pid, cgroups)).unwrap_or_else(|| Ok(before())),
        }
    }
}

/// Whether runtime oci runs it, in no group of version 2: there is none, or an earlier release made none.
fn is_in_v1_alone(uid: &str, cgroups: &Path) -> bool {
    let root = cgroups.parent().filter(|_| cgroups.ends_with("unified"));
    let of = |controller| root.is_some_and(|root| root.join(controller).join("pullpiri").join(uid).exists());
    ["cpu", "memory", "pids"].into_iter().any(of)
}

/// Where the Pod of this process is; `None` if the process is gone.
fn of_process(pid: u32, cgroups: &Path) -> Option<Result<BTreeSet<Spot>, String>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let inode = |file: std::io::Result<std::fs::Metadata>| file.ok().map(|found| (found.dev(), found.ino()));
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let its = inode(namespace.metadata())?;
    if Some(its) == inode(std::fs::metadata("/proc/thread-self/ns/net")) {
        return Some(group(&groups, cgroups).map(|spot| [spot].into()));
    }
    Some(links(&namespace))
}

/// The group of version 2 that the Pod's kubelet made.
fn group(groups: &str, cgroups: &Path) -> Result<Spot, String> {
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let missing = "its kubelet keeps it in cgroups of version 1, by which nothing in the node's own network is known";
    let pod = unified.and_then(kubelet::pod_of).ok_or(missing)?;
    let path = cgroups.join(pod.trim_start_matches('/'));
    let found = std::fs::metadata(&path).map_err(|error| format!("looking for its cgroup {pod}: {error}"))?;
    Ok(Spot::Cgroup(found.ino(), path))
}

/// The ends here of veth pairs that lead into a namespace.
fn links(namespace: &File) -> Result<BTreeSet<Spot>, String> {
    let mut net = Netlink::open(Family::Route).map_err(|error| text(&error))?;
    let links = net.links().map_err(|error| text(&error))?;
    let number = net.namespace_number(namespace.as_fd()).map_err(|error| text(&error))?;
    let leads = |link: &&Link| link.kind.as_deref() == Some("veth") && link.peer_namespace == number;
    let found: Vec<&Link> = links.iter().filter(leads).filter(|_| number.is_some()).collect();
    if found.is_empty() {
        return Err("the cluster's network gave it no veth pair, and nothing else of a Pod's is seen here".to_owned());
    }
    for link in &found {
        let qdiscs = net.qdiscs(link.index).map_err(|error| text(&error))?;
        // What hangs on it comes after ours, and may read `tc_index` in a way of its own.
        if qdiscs.iter().any(|qdisc| qdisc.kind == "clsact") {
            return Err(format!("{} has filters of somebody else (clsact); it is left alone", link.name));
        }
    }
    Ok(found.into_iter().map(|link| Spot::Link(link.index, link.name.clone())).collect())
}

fn attach(datapath: &mut Datapath, spot: &Spot, uid: &str) -> Result<(), NetError> {
    match spot {
        Spot::Cgroup(_, path) => datapath.attach_host(path, uid),
        Spot::Link(_, name) => datapath.attach_guest(name, uid),
    }
}

fn detach(datapath: &mut Datapath, spot: &Spot) -> Result<(), NetError> {
    match spot {
        Spot::Cgroup(id, _) => datapath.detach_host(*id),
        Spot::Link(_, name) => datapath.detach_guest(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_in_cgroups_of_version_one_alone_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = root.path().join("unified");
        let hosts = Hosts { pods: Some(Pods::new()), ..Hosts::default() };
        assert_eq!(hosts.spots("the-uid", &cgroups), Ok(BTreeSet::new()), "it doesn't run");
        std::fs::create_dir_all(root.path().join("memory/pullpiri/the-uid")).unwrap();
        let why = hosts.spots("the-uid", &cgroups).unwrap_err();
        assert!(why.contains("version 1 alone"), "{why}");
        std::fs::create_dir_all(cgroups.join("pullpiri/the-uid")).unwrap();
        let spots = hosts.spots("the-uid", &cgroups).unwrap();
        assert!(
            matches!(spots.first(), Some(Spot::Cgroup(_, path)) if path.ends_with("pullpiri/the-uid")),
            "{spots:?}"
        );
    }
}
