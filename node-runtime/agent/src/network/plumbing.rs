//! The node's network as a whole: what it should be, brought about. Blocking; one caller at a time.
//!
//! Every change ends in [`Plumbing::converge`]: look, decide in the core, do what differs. What fails for one pod holds up no other, and a
//! pod's interface goes up only after its programs are there.

mod act;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pullpiri_ebpf::net::{Datapath, ensure_bpffs, policy, probe};
use pullpiri_node_core::network::names;
use pullpiri_node_core::network::{
    Attachment, Desired, Forwards, Generation, Input, Nat, NodeState, Observed, Step, V6Forwarding, desired, key,
    metric, pod_link, steps, table,
};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Family, Netlink, nat, sysctl};
use tracing::{debug, info, warn};

use super::disk::{Disk, Record};
use super::drift::Drift;
use super::hosts::{Hosts, Pods};
use super::kernel::{self, Place};
use super::uplink::{self, Found, Said, Server};
use super::{NetworkConfig, adopt};

/// Where BPF programs and maps are pinned, below a directory of the node's key.
const PINS: &str = "/sys/fs/bpf/pullpiri";
const BPFFS: &str = "/sys/fs/bpf";
const CLOSED: &str = "this node's network was taken away";
/// A capability's bit in `/proc/self/status`.
const CAP_NET_ADMIN: u32 = 12;

/// What went wrong, as text: it ends in a condition.
pub type Outcome = Result<(), String>;

/// A pod that is attached or detached just now, and its addresses.
type Asked<'a> = (&'a PodId, &'a [IpAddr]);

/// What is to be tried again later by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    Nothing,
    /// The link to other nodes isn't known, or not how fast it is: its carrier or a default route may come without notice.
    Link,
    Failure,
}

/// What this node can do, found by trying, once.
#[derive(Clone, Debug, Default)]
pub(super) struct Support {
    /// Why pods can't be attached.
    pub missing: Option<String>,
    pub htb: Option<String>,
    pub nat: Option<String>,
}

/// The network of one node, brought about. It belongs to the network namespace of the threads that call it.
pub struct Plumbing {
    node: String,
    /// What its things are called by.
    key: String,
    installation: String,
    namespaces: PathBuf,
    cgroups: PathBuf,
    pins: PathBuf,
    disk: Disk,
    record: Record,
    pub(super) said: Said,
    server: Server,
    pub(super) support: Support,
    attachments: BTreeMap<PodId, Attachment>,
    generation: Option<Generation>,
    /// The generation that the kernel holds.
    pub(super) applied: Option<i64>,
    datapath: Option<Datapath>,
    /// Interfaces with their programs, and their indices.
    guarded: BTreeMap<String, u32>,
    /// Pods' interfaces that were up.
    whole: BTreeSet<String>,
    nat: Option<Nat>,
    /// How our table of nftables looked when `nat` was applied.
    print: Option<u64>,
    /// What was last brought about as a whole.
    held: Option<Desired>,
    pub(super) drift: Drift,
    /// Workloads whose network isn't ours, which have classes.
    pub(super) hosts: Hosts,
    pub(super) uplink: Result<Found, String>,
    /// What failed last, but for single pods.
    pub(super) failure: Option<String>,
    /// Why others may route through this node.
    pub(super) unclosed: Option<String>,
    /// Everything was taken away, and stays so.
    closed: bool,
}

impl std::fmt::Debug for Plumbing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plumbing")
            .field("node", &self.node)
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

pub(super) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

impl Plumbing {
    /// Knows what is on disk; touches nothing.
    #[must_use]
    pub fn new(node: &str, data_dir: &Path, config: NetworkConfig) -> Self {
        let NetworkConfig { uplink, link_rate_bps, api_server } = config;
        let said = Said { spec: None, interface: uplink, rate_bps: link_rate_bps };
        let disk = Disk::new(data_dir);
        let record = disk.record();
        let installation = disk.installation();
        let key = key(node, &installation);
        Self {
            node: node.to_owned(),
            namespaces: data_dir.join("netns"),
            cgroups: adopt::unified(Path::new("/sys/fs/cgroup")),
            pins: Path::new(PINS).join(&key),
            key,
            installation,
            attachments: disk.attachments(),
            generation: disk.generation(),
            nat: (!record.translated).then(Nat::default),
            disk,
            record,
            said,
            server: Server::new(api_server.as_deref()),
            support: Support::default(),
            applied: None,
            datapath: None,
            guarded: BTreeMap::new(),
            whole: BTreeSet::new(),
            print: None,
            held: None,
            drift: Drift::default(),
            hosts: Hosts::default(),
            uplink: Err("it hasn't been looked for yet".to_owned()),
            failure: None,
            unclosed: None,
            closed: false,
        }
    }

    /// Finds out what this node can do, and takes over what an earlier process left.
    pub fn open(&mut self) {
        // Where no service manager mounted one; what comes of it the probe tells.
        if let Err(error) = ensure_bpffs(Path::new(BPFFS)) {
            debug!(error = text(&error), "there is no bpffs");
        }
        if let Err(error) = self.disk.note_installation(&self.installation) {
            warn!(%error, "which installation this is can't be noted; after a move of its data directory it would begin anew");
        }
        self.support = self.probe();
        let Support { missing, htb, nat } = &self.support;
        info!(
            pods = missing.as_deref().unwrap_or("yes"),
            classes = htb.as_deref().unwrap_or("yes"),
            translation = nat.as_deref().unwrap_or("yes"),
            "what this node can do for Networks"
        );
        let _ = self.converge();
    }

    fn probe(&self) -> Support {
        let capable = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim().to_owned();
            Some(u64::from_str_radix(&line, 16).ok()? >> CAP_NET_ADMIN & 1 == 1)
        });
        if capable == Some(false) {
            let lacking = "this node can't attach pods to Networks: it runs without CAP_NET_ADMIN".to_owned();
            return Support { missing: Some(lacking.clone()), htb: Some(lacking.clone()), nat: Some(lacking) };
        }
        let support = probe(&self.pins);
        let missing = support.missing().map(|reason| format!("this node can't attach pods to Networks: {reason}"));
        let scratch = self.namespaces.with_file_name("netns-probe");
        Support {
            missing,
            htb: uplink::probe_htb(&scratch).err(),
            nat: nat::probe().err().map(|error| format!("ports and masquerading need nftables: {error}")),
        }
    }

    /// What deciding on pods has to know.
    #[must_use]
    pub fn state(&self) -> NodeState {
        NodeState {
            namespaces: self.support.missing.is_none().then(|| self.namespaces.clone()),
            missing: self.support.missing.clone(),
            attached: self.attachments.keys().cloned().collect(),
        }
    }

    /// Gives a pod its place.
    ///
    /// # Errors
    /// Why it couldn't, as text.
    pub fn attach(&mut self, pod: &PodId, attachment: &Attachment) -> Outcome {
        if let Some(missing) = &self.support.missing {
            return Err(missing.clone());
        }
        if self.closed {
            return Err(CLOSED.to_owned());
        }
        if self.attachments.get(pod) != Some(attachment) {
            // First: what a crash leaves half made is found by it.
            let written = self.disk.write_attachment(pod, Some(attachment));
            written.map_err(|error| format!("noting the pod's network: {error}"))?;
            self.attachments.insert(pod.clone(), attachment.clone());
        }
        match self.converge_for(Some((pod, &attachment.addresses))).remove(pod) {
            Some(failure) => Err(failure),
            None => self.failure.clone().filter(|_| !self.guarded.contains_key(&pod_link(pod))).map_or(Ok(()), Err),
        }
    }

    /// Takes everything of a pod away.
    ///
    /// # Errors
    /// What is left, as text.
    pub fn detach(&mut self, pod: &PodId) -> Outcome {
        if self.closed {
            return Err(CLOSED.to_owned());
        }
        let attachment = self.attachments.remove(pod);
        let addresses = attachment.as_ref().map(|known| known.addresses.as_slice()).unwrap_or_default();
        if let Some(failure) = self.converge_for(Some((pod, addresses))).remove(pod) {
            if let Some(attachment) = attachment {
                self.attachments.insert(pod.clone(), attachment);
            }
            return Err(failure);
        }
        match std::fs::remove_file(names::path(&self.namespaces, pod)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("removing the pod's names: {error}"));
            }
            _ => {}
        }
        self.disk.write_attachment(pod, None).map_err(|error| format!("forgetting the pod's network: {error}"))
    }

    /// Takes a generation of slices; `None`: there are none any more.
    pub fn take(&mut self, generation: Option<Generation>) {
        if self.generation == generation {
            return;
        }
        let older =
            self.generation.as_ref().zip(generation.as_ref()).is_some_and(|(known, new)| new.number < known.number);
        if older {
            debug!(
                "the API server tells an older generation of NetworkSlices than this node has; it was restored, or they were"
            );
        }
        if let Err(error) = self.disk.write_generation(generation.as_ref()) {
            warn!(%error, "the NetworkSlices can't be kept on disk; a boot without the API server would use older ones");
        }
        self.generation = generation;
        self.applied = None;
        self.drift.settle();
        let _ = self.converge();
    }

    /// Takes away what is left when no pod is attached any more. What is on disk brings the rest back at the next start.
    pub fn close(&mut self) {
        let generation = self.generation.take();
        let _ = self.converge();
        self.generation = generation;
        self.closed = true;
    }

    /// Whether the pod is in a network that isn't ours and has its class.
    pub(super) fn has_host(&self, pod: &PodId) -> bool {
        self.hosts.has(&pod.0)
    }

    /// Learns which Pods the node's kubelet runs.
    pub fn know(&mut self, pods: Pods) {
        if self.hosts.tell(pods) {
            let _ = self.converge();
        }
    }

    /// What failed last, but for single pods.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What is to be tried again later, but for single pods.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let lacks_link = self.uplink.as_ref().map_or(true, |found| found.uplink.rate.is_none());
        match &self.failure {
            _ if self.closed => Pending::Nothing,
            Some(_) => Pending::Failure,
            None if lacks_link => Pending::Link,
            None => Pending::Nothing,
        }
    }

    /// Whether there is something here that somebody may change. A node without it isn't looked at.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.closed && (!self.attachments.is_empty() || self.generation.is_some() || self.record != Record::default())
    }

    /// Steps by which something was put right that others had changed.
    #[must_use]
    pub fn repairs(&self) -> u64 {
        self.drift.repairs
    }

    /// The name of the node's table of nftables; `None` without nftables.
    #[must_use]
    pub fn table(&self) -> Option<String> {
        self.support.nat.is_none().then(|| table(&self.key))
    }

    /// Makes the network what it should be; what failed, by pod. Other failures are kept.
    pub fn converge(&mut self) -> BTreeMap<PodId, String> {
        self.converge_for(None)
    }

    fn converge_for(&mut self, asked: Option<Asked<'_>>) -> BTreeMap<PodId, String> {
        let mut failures = BTreeMap::new();
        let outcome = self.try_converge(asked, &mut failures);
        if let (Err(failure), Some((pod, _))) = (&outcome, asked) {
            // It broke off before anything was done.
            failures.entry(pod.clone()).or_insert_with(|| failure.clone());
        }
        self.failure = outcome.unwrap_or_else(Some);
        if let Some(failure) = &self.failure {
            warn!(failure, "the node's network isn't as it should be");
        }
        for (pod, failure) in &failures {
            warn!(%pod, failure, "a pod's network isn't as it should be");
        }
        failures
    }

    /// What failed that is no pod's; an error if it didn't come to doing anything.
    fn try_converge(
        &mut self,
        asked: Option<Asked<'_>>,
        failures: &mut BTreeMap<PodId, String>,
    ) -> Result<Option<String>, String> {
        if self.closed {
            return Ok(None);
        }
        let mut net = Netlink::open(Family::Route).map_err(|error| text(&error))?;
        let record = &self.record;
        let htb = self.support.htb.clone().map_or(Ok(()), Err);
        let ours = |name: &str| record.trees.contains_key(name);
        let before = self.uplink.as_ref().ok();
        let found = uplink::find(&mut net, &self.said, &mut self.server, before, ours, &htb);
        let found = found.unwrap_or_else(|error| Err(text(&error)));
        if let Some(reason) = uplink::news(&self.said, &self.uplink, &found) {
            warn!(reason, "the link to other nodes isn't there; it is looked for until it is");
        }
        self.uplink = found;
        if self.support.missing.is_some() && self.record == Record::default() {
            return Ok(None);
        }
        let has_force = sysctl::read("ipv6/conf/all/force_forwarding").ok().flatten().is_some();
        let input = Input {
            node: &self.node,
            key: &self.key,
            others: self.forwarders(),
            attachments: &self.attachments,
            generation: self.generation.as_ref().filter(|_| self.support.missing.is_none()),
            uplink: self.uplink.as_ref().ok().map(|found| &found.uplink),
            v6: if has_force { V6Forwarding::PerLink } else { V6Forwarding::Global },
        };
        let mut wanted = desired(&input);
        let mut trouble: Option<String> = None;
        self.unclosed = self.support.nat.clone().filter(|_| !wanted.nat.closed.is_empty());
        if let Some(reason) = self.support.nat.clone().filter(|_| !wanted.nat.is_empty()) {
            trouble = wanted.nat.translates().then_some(reason);
            wanted.nat = Nat::default();
        }
        let key = self.key.clone();
        let namespaces = self.namespaces.clone();
        let place = Place { key: &key, namespaces: &namespaces, metric: metric(&key) };
        let mut observed = kernel::observe(&mut net, place, &wanted, &self.record).map_err(|error| text(&error))?;
        self.complete(&mut observed);
        let is_held = self.held.as_ref() == Some(&wanted);
        let needs_programs = !self.attachments.is_empty() || wanted.uplink.is_some();
        if needs_programs && self.datapath.is_none() {
            let opened = Datapath::open_or_load(&self.pins).map_err(|error| text(&error));
            self.datapath = Some(opened.inspect_err(|failure| {
                // Nothing may start unguarded.
                for pod in self.attachments.keys() {
                    failures.insert(pod.clone(), failure.clone());
                }
            })?);
            let released = self.datapath.as_mut().map(|opened| adopt::release(opened, &wanted));
            trouble = trouble.or(released.and_then(Result::err).map(|error| text(&error)));
        }
        let mut broken: BTreeSet<String> = BTreeSet::new();
        for step in steps(&wanted, &observed) {
            debug!("{step}");
            // What rests on a step that failed is left for the next time, which would take it as done otherwise.
            let is_blocked = match &step {
                Step::Up { link } | Step::DeleteLink { link } => broken.contains(link),
                step => step.pod().is_some_and(|pod| broken.contains(&pod_link(pod))),
            };
            if is_blocked {
                continue;
            }
            let outcome = self.do_step(&mut net, place, &step);
            if is_held && outcome.is_ok() {
                self.drift.repaired(&step);
            }
            if let Err(failure) = outcome {
                match self.owner(&step, asked) {
                    Some(pod) => {
                        if !matches!(step, Step::AddRoute(_) | Step::DeleteRoute(_)) {
                            broken.insert(pod_link(&pod));
                        }
                        failures.entry(pod).or_insert(failure);
                    }
                    None => trouble = Some(trouble.map_or(failure.clone(), |first| first)),
                }
            }
        }
        if let Err(failure) = self.tell_names() {
            trouble.get_or_insert(failure);
        }
        if let Err(failure) = self.enforce() {
            trouble.get_or_insert(failure);
        }
        if trouble.is_none() && failures.is_empty() {
            self.held = Some(wanted);
        }
        Ok(trouble)
    }

    /// What is known of what the kernel has, as far as it is still the same.
    fn complete(&mut self, observed: &mut Observed) {
        let links = &observed.links;
        self.guarded.retain(|link, index| links.get(link).is_some_and(|seen| seen.index == *index));
        self.whole.retain(|link| self.guarded.contains_key(link));
        let up = self.guarded.keys().filter(|link| links.get(*link).is_some_and(|seen| seen.up));
        self.whole.extend(up.cloned());
        observed.guarded = self.guarded.keys().cloned().collect();
        observed.whole.clone_from(&self.whole);
        let is_there = self.nat.as_ref().is_some_and(|nat| nat.is_empty() || self.fingerprint() == self.print);
        observed.nat = self.nat.clone().filter(|_| is_there);
    }

    /// How our table of nftables looks.
    fn fingerprint(&self) -> Option<u64> {
        let read = nat::fingerprint(&table(&self.key));
        read.inspect_err(|error| warn!(error = text(error), "our table of nftables can't be read")).ok().flatten()
    }

    /// Whether somebody else has the node forward: all of it, or the uplink before it was ours.
    fn forwarders(&self) -> Forwards {
        let is_on = |key: &str| sysctl::read(key).ok().flatten().is_some_and(|value| value == "1");
        let is_theirs = |key: &str| is_on(key) && !self.record.settings.contains_key(key);
        let uplink = self.uplink.as_ref().map(|found| found.uplink.name.as_str()).unwrap_or_default();
        let of_uplink = |key: &str| !uplink.is_empty() && is_theirs(&format!("{key}/{uplink}/forwarding"));
        Forwards {
            v4: is_theirs("ipv4/conf/all/forwarding") || of_uplink("ipv4/conf"),
            v6: is_theirs("ipv6/conf/all/forwarding")
                || !uplink.is_empty() && is_theirs(&format!("ipv6/conf/{uplink}/force_forwarding")),
        }
    }

    /// Whose step this is, of pods that are attached and the one that is asked for.
    fn owner(&self, step: &Step, asked: Option<Asked<'_>>) -> Option<PodId> {
        if let Some(pod) = step.pod() {
            return Some(pod.clone());
        }
        let is_its = |pod: &PodId, addresses: &[IpAddr]| match step {
            Step::Unguard { link } | Step::DeleteLink { link } | Step::Up { link } => *link == pod_link(pod),
            Step::AddRoute(route) | Step::DeleteRoute(route) => {
                route.gateway.is_none() && addresses.contains(&route.destination)
            }
            _ => false,
        };
        let known = self.attachments.iter().map(|(pod, attachment)| (pod, attachment.addresses.as_slice()));
        asked.into_iter().chain(known).find(|(pod, addresses)| is_its(pod, addresses)).map(|(pod, _)| pod.clone())
    }

    /// The names that each pod knows its peers by. Written in place: containers have the very file.
    fn tell_names(&self) -> Outcome {
        for (pod, attachment) in &self.attachments {
            let path = names::path(&self.namespaces, pod);
            let text = names::text(attachment, self.generation.as_ref());
            if std::fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
                continue;
            }
            let written =
                path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
            written.map_err(|error| format!("writing {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Puts the generation in force, and the classes of workloads in the node's own network.
    fn enforce(&mut self) -> Outcome {
        let is_idle = self.attachments.is_empty() && self.generation.is_none();
        if is_idle {
            self.applied = None;
            self.hosts.clear();
            if let Some(datapath) = self.datapath.take() {
                self.guarded.clear();
                datapath.remove().map_err(|error| text(&error))?;
            }
            return Ok(());
        }
        let Some(generation) = &self.generation else { return Ok(()) };
        let Some(datapath) = &mut self.datapath else {
            // Nothing here needs it.
            self.applied = Some(generation.number);
            return Ok(());
        };
        if self.applied != Some(generation.number) {
            let compiled = policy::from_slices(&generation.parts).map_err(|error| text(&error))?;
            datapath.apply(&compiled).map_err(|error| text(&error))?;
            self.applied = Some(generation.number);
            info!(generation = generation.number, rules = compiled.rules.len(), "network rules in force");
        }
        self.hosts.classify(datapath, generation, &self.node, &self.cgroups).map_err(|error| text(&error))
    }

    /// The family over which pods here and pods of other nodes don't reach each other: the link has no address of it.
    pub(super) fn missing_family(&self) -> Option<&'static str> {
        let found = self.uplink.as_ref().ok()?;
        let parts = self.generation.as_ref().map(|generation| generation.parts.as_slice()).unwrap_or_default();
        let elsewhere = parts.iter().flat_map(|part| &part.endpoints).filter(|endpoint| endpoint.node != self.node);
        let theirs: Vec<IpAddr> =
            elsewhere.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok()).collect();
        [("IPv4", true), ("IPv6", false)].into_iter().find_map(|(family, is_v4)| {
            let has = |addresses: &[IpAddr]| addresses.iter().any(|address| address.is_ipv4() == is_v4);
            let is_used = self.attachments.values().any(|pod| has(&pod.addresses)) && has(&theirs);
            (is_used && !has(&found.addresses)).then_some(family)
        })
    }

    /// What the datapath counted, with the name of each class by its minor number.
    #[must_use]
    pub fn counters(&self) -> Option<(pullpiri_ebpf::net::Counters, BTreeMap<u16, String>)> {
        let counters = self.datapath.as_ref()?.counters().ok()?;
        let parts = self.generation.as_ref().map(|generation| generation.parts.as_slice()).unwrap_or_default();
        let classes = parts.iter().flat_map(|part| &part.classes);
        let names = classes.filter_map(|class| Some((u16::try_from(class.id).ok()?, class.name.clone()))).collect();
        Some((counters, names))
    }
}

#[cfg(test)]
mod tests;
