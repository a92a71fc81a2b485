//! From what is wanted and what is there to steps. Deciding on the result of the steps gives none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{Bridge, Desired, NodeRoute, PodLink};
use super::shape::{Gso, HtbClass};
use super::{BRIDGE_PREFIX, Nat, hardware_address};
use crate::runtime::PodId;

/// An interface as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSeen {
    /// Another one of its name has another.
    pub index: u32,
    pub up: bool,
    pub master: Option<String>,
    pub alias: Option<String>,
    pub gso: Gso,
    /// Whether it hears its bridge alone, and none of its other ports.
    pub isolated: bool,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All interfaces of the node.
    pub links: BTreeMap<String, LinkSeen>,
    /// Addresses of our bridges.
    pub addresses: BTreeSet<(String, IpAddr)>,
    /// Routes of ours.
    pub routes: BTreeSet<NodeRoute>,
    pub namespaces: BTreeSet<PodId>,
    /// Interfaces whose programs were attached, or adopted, by this process.
    pub guarded: BTreeSet<String>,
    /// Pods' interfaces that this process saw whole. One that is down since then was set down by somebody.
    pub whole: BTreeSet<String>,
    /// As far as wanted; `None`: this kernel has no such setting.
    pub settings: BTreeMap<String, Option<String>>,
    /// What settings of interfaces that aren't ours were before they were changed.
    pub originals: BTreeMap<String, String>,
    /// What was last applied, if it is there as it was applied; else `None`.
    pub nat: Option<Nat>,
    pub trees: BTreeMap<String, TreeSeen>,
}

/// Our HTB on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeSeen {
    pub classes: BTreeMap<u32, HtbClass>,
    /// Classes that have a queue of their own.
    pub queues: BTreeSet<u32>,
    /// Of the interface before.
    pub gso: Gso,
}

/// One operation. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Unguard {
        link: String,
    },
    DeleteLink {
        link: String,
    },
    DeleteNamespace {
        pod: PodId,
    },
    DeleteRoute(NodeRoute),
    MakeBridge {
        link: String,
        alias: String,
        address: [u8; 6],
    },
    AddAddress {
        link: String,
        address: IpAddr,
    },
    DeleteAddress {
        link: String,
        address: IpAddr,
    },
    Set {
        key: String,
        value: String,
    },
    /// Back to what it was.
    Restore {
        key: String,
        value: String,
    },
    Up {
        link: String,
    },
    MakeNamespace {
        pod: PodId,
    },
    /// The pair, both ends down, the node's a port of the bridge.
    MakeVeth {
        pod: PodId,
        link: Box<PodLink>,
        addresses: [[u8; 6]; 2],
    },
    /// The node's end is a port of the bridge again, which it isn't any more or which was made anew.
    Join {
        pod: PodId,
        link: String,
        bridge: String,
    },
    /// A pod's port of its bridge, which an earlier release made.
    Isolate {
        pod: PodId,
        link: String,
    },
    /// Attaches the pod's programs to the node's end, or adopts them.
    Guard {
        pod: PodId,
        link: String,
    },
    /// The pod's end: addresses, routes, settings.
    Configure {
        pod: PodId,
        link: Box<PodLink>,
    },
    /// Both ends.
    Resize {
        pod: PodId,
        link: String,
        gso: Gso,
    },
    AddRoute(NodeRoute),
    MakeTree {
        link: String,
    },
    SetClass {
        link: String,
        class: HtbClass,
    },
    MakeQueue {
        link: String,
        class: u32,
        packets: u32,
    },
    DeleteClass {
        link: String,
        class: u32,
    },
    DeleteTree {
        link: String,
    },
    ResizeUplink {
        link: String,
        gso: Gso,
    },
    GuardUplink {
        link: String,
        shaped: bool,
    },
    Translate(Nat),
}

impl Step {
    /// The pod that it is done for, if it is for one alone.
    #[must_use]
    pub fn pod(&self) -> Option<&PodId> {
        match self {
            Self::DeleteNamespace { pod }
            | Self::MakeNamespace { pod }
            | Self::MakeVeth { pod, .. }
            | Self::Guard { pod, .. }
            | Self::Configure { pod, .. }
            | Self::Join { pod, .. }
            | Self::Isolate { pod, .. }
            | Self::Resize { pod, .. } => Some(pod),
            _ => None,
        }
    }
}

/// What is to be done, in order: removals first; what a pod needs before the pod's end goes up.
#[must_use]
pub fn steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let rebuilt = remove(desired, observed, &mut steps);
    for (name, bridge) in &desired.bridges {
        let alias = format!("{}{}", desired.alias_prefix, bridge.network);
        if observed.links.get(name).is_none_or(|seen| seen.alias.as_ref() != Some(&alias)) {
            steps.push(Step::MakeBridge { link: name.clone(), alias, address: hardware_address(name) });
        }
    }
    // Before addresses: one of them is whether there are any of IPv6.
    set(desired, observed, &mut steps);
    for (name, bridge) in &desired.bridges {
        address_bridge(name, bridge, observed, &mut steps);
    }
    for (pod, link) in &desired.pods {
        make_pod(pod, link, observed, rebuilt.contains(&link.link), &mut steps);
    }
    let missing = desired.routes.difference(&observed.routes);
    steps.extend(missing.cloned().map(Step::AddRoute));
    shape(desired, observed, &mut steps);
    let leaving = observed.originals.iter().filter(|(key, _)| !desired.settings.contains_key(*key));
    steps.extend(leaving.map(|(key, value)| Step::Restore { key: key.clone(), value: value.clone() }));
    let same = match &observed.nat {
        Some(applied) => *applied == desired.nat || applied.is_empty() && desired.nat.is_empty(),
        None => false,
    };
    if !same {
        steps.push(Step::Translate(desired.nat.clone()));
    }
    steps
}

/// Removes what isn't wanted, or not as it is. The interfaces of pods that are made anew.
fn remove(desired: &Desired, observed: &Observed, steps: &mut Vec<Step>) -> BTreeSet<String> {
    let mut rebuilt = BTreeSet::new();
    let wanted: BTreeMap<&String, (&PodId, &PodLink)> =
        desired.pods.iter().map(|(pod, link)| (&link.link, (pod, link))).collect();
    let is_ours = |link: &LinkSeen| link.alias.as_ref().is_some_and(|alias| alias.starts_with(&desired.alias_prefix));
    // Before interfaces, which would take theirs with them, so that it is said.
    let stale = observed.routes.difference(&desired.routes);
    steps.extend(stale.cloned().map(Step::DeleteRoute));
    let (bridges, pods): (Vec<_>, Vec<_>) =
        observed.links.iter().partition(|(name, _)| name.starts_with(BRIDGE_PREFIX));
    for (name, seen) in pods {
        let is_as_wanted = match wanted.get(name) {
            // The node's end goes up last: one that was never up was left half made.
            Some((pod, link)) => {
                (seen.up || observed.whole.contains(name))
                    && seen.alias.as_ref() == Some(&link.alias)
                    && observed.namespaces.contains(*pod)
            }
            None => !is_ours(seen),
        };
        if !is_as_wanted {
            if observed.guarded.contains(name) || is_ours(seen) {
                steps.push(Step::Unguard { link: name.clone() });
            }
            steps.push(Step::DeleteLink { link: name.clone() });
            rebuilt.insert(name.clone());
        }
    }
    for pod in &observed.namespaces {
        let is_kept = desired.pods.get(pod).is_some_and(|link| !rebuilt.contains(&link.link));
        if !is_kept {
            steps.push(Step::DeleteNamespace { pod: pod.clone() });
        }
    }
    for (name, seen) in bridges {
        if is_ours(seen) && !desired.bridges.contains_key(name) {
            steps.push(Step::DeleteLink { link: name.clone() });
        }
    }
    rebuilt
}

fn address_bridge(name: &str, bridge: &Bridge, observed: &Observed, steps: &mut Vec<Step>) {
    for address in &bridge.gateways {
        if !observed.addresses.contains(&(name.to_owned(), *address)) {
            steps.push(Step::AddAddress { link: name.to_owned(), address: *address });
        }
    }
    for (link, address) in &observed.addresses {
        // The kernel's own.
        let is_link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if link == name && !bridge.gateways.contains(address) && !is_link_local {
            steps.push(Step::DeleteAddress { link: name.to_owned(), address: *address });
        }
    }
    if observed.links.get(name).is_none_or(|seen| !seen.up) {
        steps.push(Step::Up { link: name.to_owned() });
    }
}

fn set(desired: &Desired, observed: &Observed, steps: &mut Vec<Step>) {
    for (key, value) in &desired.settings {
        match observed.settings.get(key) {
            Some(None) => {}
            Some(Some(known)) if known == value => {}
            Some(Some(_)) | None => steps.push(Step::Set { key: key.clone(), value: value.clone() }),
        }
    }
}

fn make_pod(pod: &PodId, link: &PodLink, observed: &Observed, rebuilt: bool, steps: &mut Vec<Step>) {
    let seen = observed.links.get(&link.link).filter(|_| !rebuilt);
    let guard = Step::Guard { pod: pod.clone(), link: link.link.clone() };
    let Some(seen) = seen else {
        steps.push(Step::MakeNamespace { pod: pod.clone() });
        let addresses = [hardware_address(&link.link), hardware_address(&pod.0)];
        steps.push(Step::MakeVeth { pod: pod.clone(), link: Box::new(link.clone()), addresses });
        steps.push(guard);
        steps.push(Step::Configure { pod: pod.clone(), link: Box::new(link.clone()) });
        steps.push(Step::Up { link: link.link.clone() });
        return;
    };
    let is_port = seen.master.as_ref() == Some(&link.bridge);
    if !is_port {
        steps.push(Step::Join { pod: pod.clone(), link: link.link.clone(), bridge: link.bridge.clone() });
    }
    // A port that has become another's is like any other's; and the programs know which bridge it is of.
    if !is_port || !seen.isolated {
        steps.push(Step::Isolate { pod: pod.clone(), link: link.link.clone() });
    }
    if !is_port || !observed.guarded.contains(&link.link) {
        steps.push(guard);
    }
    if !seen.up {
        steps.push(Step::Up { link: link.link.clone() });
    }
    if seen.gso != link.gso {
        steps.push(Step::Resize { pod: pod.clone(), link: link.link.clone(), gso: link.gso });
    }
}

/// Classes are changed where they are: what waits in them stays.
fn shape(desired: &Desired, observed: &Observed, steps: &mut Vec<Step>) {
    let wanted = desired.uplink.as_ref().zip(desired.tree.as_ref());
    for (link, seen) in &observed.trees {
        if wanted.is_none_or(|(name, _)| name != link) {
            // First: with the tree goes the record of what was before.
            if observed.links.get(link).is_some_and(|now| now.gso != seen.gso) {
                steps.push(Step::ResizeUplink { link: link.clone(), gso: seen.gso });
            }
            steps.push(Step::DeleteTree { link: link.clone() });
        }
    }
    if let Some((link, tree)) = wanted {
        let none = TreeSeen::default();
        let known = observed.trees.get(link);
        if known.is_none() {
            steps.push(Step::MakeTree { link: link.clone() });
        }
        let seen = known.unwrap_or(&none);
        for class in std::iter::once(&tree.root).chain(&tree.classes) {
            if seen.classes.get(&class.handle).is_none_or(|seen| !is_same(seen, class)) {
                steps.push(Step::SetClass { link: link.clone(), class: *class });
            }
            if class.handle != tree.root.handle && !seen.queues.contains(&class.handle) {
                let packets = super::shape::queue_packets(class.ceiling_bps);
                steps.push(Step::MakeQueue { link: link.clone(), class: class.handle, packets });
            }
        }
        for handle in seen.classes.keys() {
            if *handle != tree.root.handle && !tree.classes.iter().any(|class| class.handle == *handle) {
                steps.push(Step::DeleteClass { link: link.clone(), class: *handle });
            }
        }
        if observed.links.get(link).is_none_or(|now| now.gso != tree.gso) {
            steps.push(Step::ResizeUplink { link: link.clone(), gso: tree.gso });
        }
    }
    if let Some(link) = &desired.uplink
        && (!observed.guarded.contains(link) || desired.tree.is_some() != observed.trees.contains_key(link))
    {
        steps.push(Step::GuardUplink { link: link.clone(), shaped: desired.tree.is_some() });
    }
    for link in &observed.guarded {
        let is_pod = desired.pods.values().any(|pod| pod.link == *link) || link.starts_with("pplp");
        if !is_pod && desired.uplink.as_ref() != Some(link) {
            steps.push(Step::Unguard { link: link.clone() });
        }
    }
}

/// The kernel keeps rates in bytes per second and bursts in ticks of 64 ns.
fn is_same(seen: &HtbClass, wanted: &HtbClass) -> bool {
    let kept = |class: &HtbClass| HtbClass {
        rate_bps: class.rate_bps / 8,
        ceiling_bps: class.ceiling_bps / 8,
        burst_ns: class.burst_ns >> 6,
        ceiling_burst_ns: class.ceiling_burst_ns >> 6,
        // The kernel tells the root's parent as the interface's root.
        parent: 0,
        ..*class
    };
    kept(seen) == kept(wanted)
}
