//! The specification of what happens to a packet on a node, as code: slow, plain, and independent of any datapath. The datapath is
//! checked packet by packet against it.
//!
//! A packet is looked at where it passes between a pod and its node: as the pod sends it (before any address is translated), or as the pod
//! is to receive it (after the address of a published port was translated). It is taken for the first of a connection: what answers an allowed packet
//! passes by itself, which is the state that the datapath keeps.
//!
//! Who is who. An *endpoint* is an address of an instance in the policy. A *gateway* is this node's own address in one of its networks. The
//! other addresses of the node's networks are *vacant*. Everything else is *outside*: also this node's other addresses, and pods of
//! networks that this node has nothing to do with.
//!
//! What passes, in the order in which it is tried:
//!
//! 1. What has no end at a pod of this node isn't filtered. (Multicast and the like is taken to be on its way to or from one.)
//! 2. IPv6 neighbour discovery (RFC 4861: ICMPv6 133 to 137) between a pod and its own link: its gateway, addresses of its own network, link-local
//!    and multicast ones. Otherwise nothing passes to or from multicast, broadcast, link-local and unspecified addresses.
//! 3. From endpoint to endpoint: inside of a network if its `internal` says Allow; else by a rule from the sender's identity to the receiver's.
//! 4. From a pod to its own gateway: an ICMP echo request, and published ports of the node.
//! 5. From a gateway to a pod: an ICMP echo request, and published ports.
//! 6. From a pod to the outside: if its network has `egress`.
//! 7. From the outside to a pod: by a rule whose `cidr` holds the sender; and published ports.
//!
//! Nothing else does. A published port is (host port, protocol) as a pod sees it at its gateway, and (address, target port, protocol) where it arrives.
//! It is for the outside and the node: a model that another model publishes a port of still needs a rule to reach it directly.

use std::net::IpAddr;

use pullpiri_crds::network::Verdict as Internal;
use pullpiri_crds::prefix::Prefix;
use pullpiri_crds::slice::{SliceEndpoint, SliceNetwork, SliceRule, SliceSelector};

use crate::compile::Compiled;
use crate::declared::{ICMP, ICMPV6, TCP, UDP};

/// A packet's headers, as far as they decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The IP protocol number, after IPv6 extension headers.
    pub protocol: u8,
    /// Of TCP and UDP.
    pub source_port: u16,
    pub destination_port: u16,
    /// Of ICMP and ICMPv6.
    pub icmp_type: u8,
    /// The code point that the sender set (RFC 2474).
    pub dscp: u8,
}

impl Packet {
    const fn has_ports(&self) -> bool {
        self.protocol == TCP || self.protocol == UDP
    }

    const fn is_echo_request(&self) -> bool {
        matches!((self.protocol, self.icmp_type), (ICMP, 8) | (ICMPV6, 128))
    }

    const fn is_neighbour_discovery(&self) -> bool {
        self.protocol == ICMPV6 && matches!(self.icmp_type, 133..=137)
    }
}

/// Whether a packet passes, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed(Allowed),
    Denied(Denied),
}

impl Verdict {
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// What lets a packet pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Neither end is a pod of this node.
    NotFiltered,
    NeighbourDiscovery,
    /// What is inside of a network, by its id and name.
    Internal {
        id: i32,
        network: String,
    },
    /// A rule, by its id and name.
    Rule {
        id: i32,
        name: String,
    },
    /// An ICMP echo request to or from the gateway.
    GatewayEcho,
    /// A published port of the node.
    Published {
        host_port: u16,
    },
    /// The network's egress.
    Egress {
        network: String,
    },
}

/// Why a packet doesn't pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No rule allows it.
    NoRule,
    /// The sender's network has no egress.
    NoEgress,
    /// An address of a network that no instance has.
    Vacant,
    /// Multicast, broadcast, link-local or unspecified.
    Scope,
    /// The sender and receiver are of different families, which no packet is.
    Families,
}

/// The class that a packet is sent in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassName {
    pub id: i32,
    pub name: String,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub verdict: Verdict,
    /// If an instance sends it.
    pub class: Option<ClassName>,
}

/// Who has an address.
#[derive(Clone, Copy)]
enum Party<'a> {
    Endpoint(&'a SliceEndpoint),
    Gateway(&'a SliceNetwork),
    Vacant,
    /// Of no network and of no use as an end of a connection.
    Scoped,
    Outside,
}

/// What becomes of a packet on the policy's node.
#[must_use]
pub fn evaluate(policy: &Compiled, packet: &Packet) -> Evaluation {
    let sender = party(policy, packet.source);
    let class = match sender {
        Party::Endpoint(endpoint) => class(policy, endpoint, packet),
        Party::Gateway(_) | Party::Vacant | Party::Scoped | Party::Outside => None,
    };
    let receiver = party(policy, packet.destination);
    Evaluation { verdict: verdict(policy, packet, sender, receiver), class }
}

fn verdict(policy: &Compiled, packet: &Packet, sender: Party<'_>, receiver: Party<'_>) -> Verdict {
    use Party::{Endpoint, Gateway, Outside, Scoped, Vacant};
    let denied = Verdict::Denied;
    if packet.source.is_ipv4() != packet.destination.is_ipv4() {
        return denied(Denied::Families);
    }
    let local = |party: Party<'_>| matches!(party, Endpoint(endpoint) if policy.is_local(endpoint));
    // A multicast's receivers and a link-local address' owner may well be here.
    if !local(sender) && !local(receiver) && !matches!(receiver, Scoped) && !matches!(sender, Scoped) {
        return Verdict::Allowed(Allowed::NotFiltered);
    }
    if packet.is_neighbour_discovery() && on_one_link(policy, packet, sender, receiver) {
        return Verdict::Allowed(Allowed::NeighbourDiscovery);
    }
    match (sender, receiver) {
        (Scoped, _) | (_, Scoped) => denied(Denied::Scope),
        (Endpoint(from), Endpoint(to)) => between(policy, packet, from, to),
        (Endpoint(from), Gateway(gateway)) => {
            if gateway.id != from.network {
                denied(Denied::NoRule)
            } else if packet.is_echo_request() {
                Verdict::Allowed(Allowed::GatewayEcho)
            } else {
                published_here(policy, packet).unwrap_or(denied(Denied::NoRule))
            }
        }
        (Gateway(_), Endpoint(_)) if packet.is_echo_request() => Verdict::Allowed(Allowed::GatewayEcho),
        (Gateway(_), Endpoint(_)) => arrives_published(policy, packet).unwrap_or(denied(Denied::NoRule)),
        (Endpoint(from), Outside) => match network(policy, from.network) {
            Some(network) if network.egress => Verdict::Allowed(Allowed::Egress { network: network.name.clone() }),
            Some(_) | None => denied(Denied::NoEgress),
        },
        (Outside, Endpoint(to)) => rule(policy, packet, 0, to.identity)
            .map(|rule| Verdict::Allowed(Allowed::Rule { id: rule.id, name: rule.name.clone() }))
            .or_else(|| arrives_published(policy, packet))
            .unwrap_or(denied(Denied::NoRule)),
        (Vacant, _) | (_, Vacant) => denied(Denied::Vacant),
        (Gateway(_) | Outside, Gateway(_) | Outside) => Verdict::Allowed(Allowed::NotFiltered),
    }
}

fn between(policy: &Compiled, packet: &Packet, from: &SliceEndpoint, to: &SliceEndpoint) -> Verdict {
    if from.network == to.network
        && let Some(network) = network(policy, from.network)
        && network.internal == Internal::Allow
    {
        return Verdict::Allowed(Allowed::Internal { id: network.id, network: network.name.clone() });
    }
    match rule(policy, packet, from.identity, to.identity) {
        Some(rule) => Verdict::Allowed(Allowed::Rule { id: rule.id, name: rule.name.clone() }),
        None => Verdict::Denied(Denied::NoRule),
    }
}

/// The rule of the lowest id that allows a packet between two identities; from 0 if the sender is outside.
fn rule<'a>(policy: &'a Compiled, packet: &Packet, from: i32, to: i32) -> Option<&'a SliceRule> {
    policy
        .rules
        .iter()
        .filter(|rule| rule.from == from && rule.to == to)
        .filter(|rule| from != 0 || rule.cidr.as_deref().is_some_and(|cidr| holds(cidr, packet.source)))
        .filter(|rule| protocol_matches(rule.protocol, packet.protocol))
        .filter(|rule| {
            let all = rule.first_port == 0 && rule.last_port == i32::from(u16::MAX);
            let port = i32::from(packet.destination_port);
            all || (packet.has_ports() && (rule.first_port..=rule.last_port).contains(&port))
        })
        .min_by_key(|rule| rule.id)
}

/// The class of a packet that an instance sends: the first one that has a selector for it.
#[must_use]
pub fn class(policy: &Compiled, sender: &SliceEndpoint, packet: &Packet) -> Option<ClassName> {
    let matches = |selector: &&SliceSelector| {
        let ports = [packet.source_port, packet.destination_port].map(i32::from);
        selector.network == sender.network
            && (selector.identity == 0 || selector.identity == sender.identity)
            && protocol_matches(selector.protocol, packet.protocol)
            && (selector.port == 0 || (packet.has_ports() && ports.contains(&selector.port)))
            && selector.dscp.is_none_or(|dscp| dscp == i32::from(packet.dscp))
    };
    let id = policy.selectors.iter().filter(matches).map(|selector| selector.class).min()?;
    let class = policy.classes.iter().find(|class| class.id == id)?;
    Some(ClassName { id, name: class.name.clone() })
}

fn protocol_matches(wanted: i32, given: u8) -> bool {
    wanted == 0 || wanted == i32::from(given) || (wanted == i32::from(ICMP) && given == ICMPV6)
}

/// A pod's packet to a published port of its own node.
fn published_here(policy: &Compiled, packet: &Packet) -> Option<Verdict> {
    let port = policy.ports.iter().find(|port| {
        port.protocol == i32::from(packet.protocol)
            && port.host_port == i32::from(packet.destination_port)
            && port.address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() == packet.destination.is_ipv4())
    })?;
    published(port.host_port)
}

/// A packet that a published port leads to a pod.
fn arrives_published(policy: &Compiled, packet: &Packet) -> Option<Verdict> {
    let port = policy.ports.iter().find(|port| {
        port.protocol == i32::from(packet.protocol)
            && port.target_port == i32::from(packet.destination_port)
            && port.address.parse() == Ok(packet.destination)
    })?;
    published(port.host_port)
}

fn published(host_port: i32) -> Option<Verdict> {
    let host_port = u16::try_from(host_port).ok()?;
    Some(Verdict::Allowed(Allowed::Published { host_port }))
}

/// Whether neighbour discovery between these two stays between a pod of this node and its own link.
fn on_one_link(policy: &Compiled, packet: &Packet, sender: Party<'_>, receiver: Party<'_>) -> bool {
    let on_link_of = |network: i32, party: Party<'_>, address: IpAddr| match party {
        Party::Endpoint(other) => other.network == network,
        Party::Gateway(gateway) => gateway.id == network,
        Party::Vacant => {
            self::network(policy, network).is_some_and(|n| n.v6.as_deref().is_some_and(|p| holds(p, address)))
        }
        Party::Scoped => true,
        Party::Outside => false,
    };
    match (sender, receiver) {
        (Party::Endpoint(pod), other) if policy.is_local(pod) => on_link_of(pod.network, other, packet.destination),
        (other, Party::Endpoint(pod)) if policy.is_local(pod) => on_link_of(pod.network, other, packet.source),
        // Before a pod has an address it asks from :: or its link-local one.
        (Party::Scoped, Party::Scoped | Party::Gateway(_)) | (Party::Gateway(_), Party::Scoped) => true,
        _ => false,
    }
}

fn party(policy: &Compiled, address: IpAddr) -> Party<'_> {
    let is = |text: &String| text.parse() == Ok(address);
    if let Some(endpoint) = policy.endpoints.iter().find(|endpoint| endpoint.addresses.iter().any(is)) {
        return Party::Endpoint(endpoint);
    }
    if let Some(network) = policy.networks.iter().find(|network| network.gateways.iter().any(is)) {
        return Party::Gateway(network);
    }
    if policy.networks.iter().any(|n| [&n.v4, &n.v6].into_iter().flatten().any(|prefix| holds(prefix, address))) {
        return Party::Vacant;
    }
    let scoped = match address {
        IpAddr::V4(v4) => {
            v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_link_local() || v4.is_loopback()
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_loopback(),
    };
    if scoped { Party::Scoped } else { Party::Outside }
}

fn network(policy: &Compiled, id: i32) -> Option<&SliceNetwork> {
    policy.networks.iter().find(|network| network.id == id)
}

fn holds(prefix: &str, address: IpAddr) -> bool {
    Prefix::parse(prefix).is_ok_and(|prefix| prefix.contains(address))
}
