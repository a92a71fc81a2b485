//! From what is wanted and what is there to steps. Deciding on the result of the steps gives none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::network::NetworkMode;
use pullpiri_crds::prefix::Prefix;

use super::shape::{Gso, HtbClass, LinkRate, Tree, tree};
use super::{
    Attachment, BRIDGE_PREFIX, Closed, Forward, Generation, Nat, alias_prefix, bridge, hardware_address, pod_link,
};
use crate::resolve::fnv;
use crate::runtime::PodId;

/// How IPv6 is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V6Forwarding {
    /// By interface (`force_forwarding`, Linux 6.17).
    PerLink,
    /// Only all of the node's interfaces or none; those then take no router advertisements unless told.
    Global,
}

/// The link to other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    pub rate: Option<LinkRate>,
    /// Whether it may get our HTB: the kernel has it and nobody else's queueing discipline is there.
    pub shapeable: bool,
}

/// Whether somebody else has the node forward, by family: what they forward is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    pub v4: bool,
    pub v6: bool,
}

/// What decides how the node's network should be.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub node: &'a str,
    /// What its things are called by.
    pub key: &'a str,
    pub others: Forwards,
    pub attachments: &'a BTreeMap<PodId, Attachment>,
    pub generation: Option<&'a Generation>,
    pub uplink: Option<&'a Uplink>,
    pub v6: V6Forwarding,
}

/// How the node's network should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub alias_prefix: String,
    pub bridges: BTreeMap<String, Bridge>,
    pub pods: BTreeMap<PodId, PodLink>,
    pub routes: BTreeSet<NodeRoute>,
    /// Of `net/`, as `ipv4/conf/<interface>/forwarding`.
    pub settings: BTreeMap<String, String>,
    pub nat: Nat,
    /// The uplink, while the node's networks need it.
    pub uplink: Option<String>,
    pub tree: Option<Tree>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// `<namespace>/<name>`.
    pub network: String,
    pub gateways: BTreeSet<IpAddr>,
}

/// A pod's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub link: String,
    pub bridge: String,
    pub alias: String,
    pub attachment: Attachment,
    pub mtu: u32,
    pub gso: Gso,
}

/// A route of ours, to one address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    pub destination: IpAddr,
    pub link: String,
    pub gateway: Option<IpAddr>,
}

/// An interface as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSeen {
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
    /// As far as wanted; `None`: this kernel has no such setting.
    pub settings: BTreeMap<String, Option<String>>,
    /// What settings of interfaces that aren't ours were before they were changed.
    pub originals: BTreeMap<String, String>,
    /// What was last applied; `None` if that isn't known.
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
    /// Attaches the pod's programs to the node's end, or adopts them.
    /// A pod's port of its bridge, which an earlier release made.
    Isolate {
        pod: PodId,
        link: String,
    },
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
            | Self::Isolate { pod, .. }
            | Self::Resize { pod, .. } => Some(pod),
            _ => None,
        }
    }
}

/// How the node's network should be.
#[must_use]
pub fn desired(input: &Input<'_>) -> Desired {
    let mut desired = Desired { alias_prefix: alias_prefix(input.key), ..Desired::default() };
    let parts = input.generation.map(|generation| generation.parts.as_slice()).unwrap_or_default();
    let classes: Vec<_> = parts.iter().flat_map(|part| &part.classes).collect();
    if let Some(uplink) = input.uplink
        && let Some(rate) = uplink.rate.filter(|_| uplink.shapeable && !classes.is_empty())
    {
        desired.tree = Some(tree(classes.iter().copied(), rate));
    }
    let gso = desired.tree.as_ref().map_or_else(Gso::default, |tree| tree.gso);
    for (pod, attachment) in input.attachments {
        let name = bridge(input.key, &attachment.network);
        let known = desired.bridges.entry(name.clone()).or_default();
        known.network.clone_from(&attachment.network);
        known.gateways.extend(&attachment.gateways);
        let local = |address: &IpAddr| NodeRoute { destination: *address, link: name.clone(), gateway: None };
        desired.routes.extend(attachment.addresses.iter().map(local));
        let json = serde_json::to_vec(attachment).unwrap_or_default();
        let link = PodLink {
            link: pod_link(pod),
            bridge: name,
            alias: format!("{}{pod}/{}", desired.alias_prefix, fnv(&json)),
            attachment: attachment.clone(),
            mtu: input.uplink.map_or(1500, |uplink| uplink.mtu),
            gso,
        };
        desired.pods.insert(pod.clone(), link);
    }
    let local: BTreeSet<IpAddr> = desired.routes.iter().map(|route| route.destination).collect();
    if let Some(uplink) = input.uplink {
        let endpoints = parts.iter().flat_map(|part| &part.endpoints).filter(|endpoint| endpoint.node != input.node);
        for endpoint in endpoints {
            let via: Vec<IpAddr> = endpoint.via.iter().filter_map(|text| text.parse().ok()).collect();
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            // An instance that moves is for a moment here and there: here is known better.
            for destination in addresses.filter(|address| !local.contains(address)) {
                let Some(gateway) = via.iter().find(|via| via.is_ipv4() == destination.is_ipv4()) else { continue };
                let route = NodeRoute { destination, link: uplink.name.clone(), gateway: Some(*gateway) };
                desired.routes.insert(route);
            }
        }
        let is_needed = !desired.pods.is_empty() || desired.tree.is_some();
        desired.uplink = is_needed.then(|| uplink.name.clone());
    }
    desired.nat = nat(input, &local);
    desired.settings = settings(&desired, input);
    desired.nat.closed = closed(&desired, input);
    desired
}

/// What our own settings would forward for others: by family, unless somebody else wants that.
fn closed(desired: &Desired, input: &Input<'_>) -> BTreeSet<Closed> {
    let mut closed = BTreeSet::new();
    let is_set = |key: String| desired.settings.get(&key).is_some_and(|value| value == "1");
    if let Some(uplink) = &desired.uplink {
        let mut one = |v6, is_ours| {
            if is_ours {
                closed.insert(Closed { v6, from: Some(uplink.clone()) });
            }
        };
        one(false, is_set(format!("ipv4/conf/{uplink}/forwarding")) && !input.others.v4);
        one(true, is_set(format!("ipv6/conf/{uplink}/force_forwarding")) && !input.others.v6);
    }
    if is_set("ipv6/conf/all/forwarding".to_owned()) && !input.others.v6 {
        closed.insert(Closed { v6: true, from: None });
    }
    closed
}

fn nat(input: &Input<'_>, local: &BTreeSet<IpAddr>) -> Nat {
    let parts = input.generation.map(|generation| generation.parts.as_slice()).unwrap_or_default();
    let mut forwards: BTreeMap<(u8, u16, bool), Forward> = BTreeMap::new();
    for attachment in input.attachments.values() {
        for port in &attachment.ports {
            for address in &attachment.addresses {
                let (protocol, host_port) = (port.protocol, port.host_port);
                let forward = Forward { protocol, host_port, address: *address, port: port.port };
                forwards.entry((protocol, host_port, address.is_ipv6())).or_insert(forward);
            }
        }
    }
    for port in parts.iter().flat_map(|part| &part.ports) {
        let number = |given: i32| u16::try_from(given).ok().filter(|number| *number > 0);
        let Ok(address) = port.address.parse::<IpAddr>() else { continue };
        let (Ok(protocol), Some(host_port), Some(target)) =
            (u8::try_from(port.protocol), number(port.host_port), number(port.target_port))
        else {
            continue;
        };
        // A port leads nowhere until its pod is attached.
        if local.contains(&address) {
            let forward = Forward { protocol, host_port, address, port: target };
            forwards.entry((protocol, host_port, address.is_ipv6())).or_insert(forward);
        }
    }
    let is_here = |name: &str| input.attachments.values().any(|attachment| attachment.network == name);
    let mut masquerade: Vec<(IpAddr, u8)> = parts
        .iter()
        .flat_map(|part| &part.networks)
        .filter(|network| network.masquerade && network.mode == NetworkMode::Bridge && is_here(&network.name))
        .flat_map(|network| network.v4.iter().chain(&network.v6))
        .filter_map(|text| Prefix::parse(text).ok())
        .map(|prefix| (prefix.network(), prefix.length()))
        .collect();
    masquerade.sort();
    masquerade.dedup();
    let mut pods: BTreeSet<IpAddr> = BTreeSet::new();
    if !masquerade.is_empty() {
        let endpoints = parts.iter().flat_map(|part| &part.endpoints).flat_map(|endpoint| &endpoint.addresses);
        pods.extend(endpoints.filter_map(|text| text.parse::<IpAddr>().ok()));
        pods.extend(local);
    }
    Nat {
        forwards: forwards.into_values().collect(),
        masquerade,
        pods: pods.into_iter().collect(),
        bridges: BRIDGE_PREFIX.to_owned(),
        closed: BTreeSet::new(),
    }
}

fn settings(desired: &Desired, input: &Input<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut set = |key: String, value: &str| {
        settings.insert(key, value.to_owned());
    };
    let has = |bridge: &Bridge, v6: bool| bridge.gateways.iter().any(|gateway| gateway.is_ipv6() == v6);
    for (name, bridge) in &desired.bridges {
        if has(bridge, false) {
            set(format!("ipv4/conf/{name}/forwarding"), "1");
            // A pod can't speak with an address that isn't behind its bridge.
            set(format!("ipv4/conf/{name}/rp_filter"), "1");
            // Packets between pods leave by the bridge that they came from, and shall.
            set(format!("ipv4/conf/{name}/send_redirects"), "0");
            let local = if desired.nat.forwards.is_empty() { "0" } else { "1" };
            set(format!("ipv4/conf/{name}/route_localnet"), local);
        }
        let v6 = has(bridge, true);
        set(format!("ipv6/conf/{name}/disable_ipv6"), if v6 { "0" } else { "1" });
        if v6 {
            set(format!("ipv6/conf/{name}/accept_ra"), "0");
            if input.v6 == V6Forwarding::PerLink {
                set(format!("ipv6/conf/{name}/force_forwarding"), "1");
            }
        }
    }
    let v6 = desired.bridges.values().any(|bridge| has(bridge, true));
    if let Some(uplink) = desired.uplink.as_ref().filter(|_| !desired.bridges.is_empty()) {
        set(format!("ipv4/conf/{uplink}/forwarding"), "1");
        match input.v6 {
            V6Forwarding::PerLink if v6 => set(format!("ipv6/conf/{uplink}/force_forwarding"), "1"),
            // Or it would lose the routes that its router gives it.
            V6Forwarding::Global if v6 => set(format!("ipv6/conf/{uplink}/accept_ra"), "2"),
            V6Forwarding::PerLink | V6Forwarding::Global => {}
        }
    }
    if v6 && input.v6 == V6Forwarding::Global {
        set("ipv6/conf/all/forwarding".to_owned(), "1");
    }
    settings
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
            // The node's end goes up last: one that is down was left half made.
            Some((pod, link)) => {
                seen.up && seen.alias.as_ref() == Some(&link.alias) && observed.namespaces.contains(*pod)
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
    if !observed.guarded.contains(&link.link) {
        steps.push(guard);
    }
    if !seen.isolated {
        steps.push(Step::Isolate { pod: pod.clone(), link: link.link.clone() });
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
