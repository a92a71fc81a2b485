//! From instances and their generation to how the node's network should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::network::NetworkMode;
use pullpiri_crds::prefix::Prefix;

use super::shape::{Gso, LinkRate, Tree, tree};
use super::{Attachment, BRIDGE_PREFIX, Closed, Forward, Generation, Nat, alias_prefix, bridge, pod_link};
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
