//! The question, and its answer from what a cluster holds.

use std::net::IpAddr;

use pullpiri_crds::names::same_node;
use pullpiri_crds::slice::SliceEndpoint;
use pullpiri_crds::{ModelInstance, Network, NetworkSlice, NodeRuntime};
use pullpiri_net::evaluate::{Allowed, Denied, class};
use pullpiri_net::{Compiled, Packet, Verdict, declared, evaluate, slices};

/// An ephemeral port (RFC 6056), which no selector names by accident.
const SOURCE_PORT: u16 = 0;
const ECHO_V4: u8 = 8;
const ECHO_V6: u8 = 128;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) namespace: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) port: u16,
    /// TCP, UDP or ICMP, as a number of IPv4.
    pub(crate) protocol: u8,
}

impl Question {
    pub(crate) fn parse(namespace: &str, from: &str, to: &str, port: &str) -> Result<Self, String> {
        let bad = || format!("{port:?}: expected PORT/PROTO with a port from 1 to 65535 and TCP or UDP, or ICMP");
        let (port, protocol) = match port.split_once('/') {
            None if port.eq_ignore_ascii_case("icmp") => (0, declared::ICMP),
            None => return Err(bad()),
            Some((number, protocol)) => {
                let number = number.parse().ok().filter(|&number| number > 0).ok_or_else(bad)?;
                match protocol.to_ascii_uppercase().as_str() {
                    "TCP" => (number, declared::TCP),
                    "UDP" => (number, declared::UDP),
                    _ => return Err(bad()),
                }
            }
        };
        Ok(Self { namespace: namespace.to_owned(), from: from.to_owned(), to: to.to_owned(), port, protocol })
    }
}

/// What the API server holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) networks: Vec<Network>,
    pub(crate) instances: Vec<ModelInstance>,
    pub(crate) slices: Vec<NetworkSlice>,
    pub(crate) nodes: Vec<NodeRuntime>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// `<namespace>/<ModelInstance>`; none for an address that no instance has.
    pub(crate) instance: Option<String>,
    pub(crate) address: Option<IpAddr>,
}

/// What one node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) node: String,
    pub(crate) generation: i64,
    /// What its kernel holds.
    pub(crate) held: Option<i64>,
    pub(crate) verdict: Verdict,
}

/// The class at the sender's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InClass {
    pub(crate) id: i32,
    pub(crate) name: String,
    pub(crate) priority: i32,
    pub(crate) guarantee_bps: i64,
    pub(crate) ceiling_bps: Option<i64>,
    pub(crate) node: String,
}

/// The answer for one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
    pub(crate) checks: Vec<Check>,
    /// Why it is denied before any node looks.
    pub(crate) obstacle: Option<String>,
    pub(crate) class: Option<InClass>,
}

impl Answer {
    pub(crate) fn is_allowed(&self) -> bool {
        self.obstacle.is_none() && !self.checks.is_empty() && self.checks.iter().all(|check| check.verdict.is_allowed())
    }

    /// The check that decides: the first that denies, else the receiver's, where rules are enforced.
    pub(crate) fn decisive(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.verdict.is_allowed()).or_else(|| self.checks.last())
    }
}

#[derive(Clone, Copy)]
enum Party<'a> {
    /// With the one of its addresses that was asked for, if one was.
    Instance(&'a ModelInstance, Option<IpAddr>),
    Address(IpAddr),
}

/// Answers for every pair of instances that the question means.
pub(crate) fn explain(cluster: &Cluster, question: &Question) -> Result<Vec<Answer>, String> {
    let from = cluster.parties(&question.namespace, &question.from)?;
    let to = cluster.parties(&question.namespace, &question.to)?;
    let mut answers = Vec::new();
    for from in &from {
        for to in &to {
            if let (Party::Instance(a, _), Party::Instance(b, _)) = (from, to)
                && a.metadata.name == b.metadata.name
                && a.metadata.namespace == b.metadata.namespace
            {
                continue;
            }
            answers.push(cluster.answer(question, *from, *to)?);
        }
    }
    if answers.is_empty() {
        return Err(format!("{} and {} are the same instance", question.from, question.to));
    }
    Ok(answers)
}

impl Cluster {
    /// The instance of a name, else the instances of a model, else an address.
    fn parties(&self, namespace: &str, name: &str) -> Result<Vec<Party<'_>>, String> {
        if let Ok(address) = name.parse::<IpAddr>() {
            let owner = self.instances.iter().find(|i| own_addresses(i).contains(&address));
            return Ok(vec![owner.map_or(Party::Address(address), |owner| Party::Instance(owner, Some(address)))]);
        }
        let mut here: Vec<&ModelInstance> =
            self.instances.iter().filter(|i| i.metadata.namespace.as_deref() == Some(namespace)).collect();
        here.sort_by_key(|i| &i.metadata.name);
        let named: Vec<Party<'_>> = here
            .iter()
            .filter(|i| i.metadata.name.as_deref() == Some(name))
            .map(|i| Party::Instance(i, None))
            .collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let of_model: Vec<Party<'_>> =
            here.iter().filter(|i| i.spec.model == name).map(|i| Party::Instance(i, None)).collect();
        if of_model.is_empty() {
            return Err(format!("namespace {namespace} has no ModelInstance {name} and none of a Model {name}"));
        }
        Ok(of_model)
    }

    fn answer(&self, question: &Question, from: Party<'_>, to: Party<'_>) -> Result<Answer, String> {
        // A published port of a node leads on to an instance.
        let onward = match to {
            Party::Address(address) => self.published(from, address, question)?.map(|on| (address, on)),
            Party::Instance(..) => None,
        };
        let (target, port) = match onward {
            Some((_, (arrives, port))) => {
                let owner = self.instances.iter().find(|i| own_addresses(i).contains(&arrives));
                (owner.map_or(to, |owner| Party::Instance(owner, Some(arrives))), port)
            }
            None => (to, question.port),
        };
        let sources = self.addresses(from, target);
        let targets = self.addresses(target, from);
        let pairs: Vec<(IpAddr, IpAddr)> = sources
            .iter()
            .filter_map(|a| targets.iter().find(|b| a.is_ipv4() == b.is_ipv4()).map(|b| (*a, *b)))
            .collect();
        // Of the families that both have, one over which their nodes reach each other.
        let passable = pairs.iter().find(|(a, _)| self.gap(from, target, *a).is_none());
        let pair = passable.or_else(|| pairs.first()).copied();
        let mut answer = Answer {
            from: End { instance: name_of(from), address: pair.map(|(a, _)| a).or_else(|| sources.first().copied()) },
            to: End { instance: name_of(target), address: pair.map(|(_, b)| b).or_else(|| targets.first().copied()) },
            port,
            protocol: match question.protocol {
                declared::TCP => "TCP",
                declared::UDP => "UDP",
                _ => "ICMP",
            },
            checks: Vec::new(),
            obstacle: self.obstacle(from).or_else(|| self.obstacle(target)),
            class: None,
        };
        let Some((source, destination)) = pair else {
            answer.obstacle.get_or_insert_with(|| "they have no addresses of the same family".to_owned());
            return Ok(answer);
        };
        let icmp = question.protocol == declared::ICMP;
        let packet = |source: IpAddr, destination, destination_port| Packet {
            source,
            destination,
            protocol: if icmp && source.is_ipv6() { declared::ICMPV6 } else { question.protocol },
            source_port: SOURCE_PORT,
            destination_port,
            icmp_type: if source.is_ipv6() { ECHO_V6 } else { ECHO_V4 },
            dscp: 0,
        };
        // Between the two looks at it what goes to a published port is translated.
        let leaves = match onward {
            Some((published, _)) => packet(source, published, question.port),
            None => packet(source, destination, port),
        };
        let arrives = match onward {
            Some(_) => packet(self.seen_as(from, target, source)?, destination, port),
            None => leaves,
        };
        self.check(&mut answer, (from, &leaves), (target, &arrives))?;
        answer.obstacle = answer.obstacle.or_else(|| self.gap(from, target, source));
        if answer.checks.is_empty() && answer.obstacle.is_none() {
            let ends = format!("{} and {}", question.from, question.to);
            return Err(format!("neither of {ends} is in a bridged Network: nothing stands between them"));
        }
        Ok(answer)
    }

    /// Asks the sender's node, then the receiver's: each of the packet as it is there.
    fn check(
        &self,
        answer: &mut Answer,
        (from, leaves): (Party<'_>, &Packet),
        (to, arrives): (Party<'_>, &Packet),
    ) -> Result<(), String> {
        for (party, packet, sends) in [(from, leaves, true), (to, arrives, false)] {
            let Party::Instance(instance, _) = party else { continue };
            let node = &instance.spec.node_name;
            let Some((generation, policy)) = self.policy(node)? else { continue };
            let Some(endpoint) = endpoint(&policy, instance) else { continue };
            if sends && let Some(found) = class(&policy, endpoint, packet) {
                let declared = policy.classes.iter().find(|class| class.id == found.id);
                answer.class = declared.map(|class| InClass {
                    id: class.id,
                    name: class.name.clone(),
                    priority: class.priority,
                    guarantee_bps: class.guarantee_bps,
                    ceiling_bps: class.ceiling_bps,
                    node: policy.node.clone(),
                });
            }
            let is_asked = leaves == arrives && answer.checks.iter().any(|check| check.node == policy.node);
            if instance.spec.network.is_none() || is_asked {
                continue;
            }
            answer.checks.push(Check {
                held: self.held(node),
                generation,
                verdict: evaluate(&policy, packet).verdict,
                node: policy.node,
            });
        }
        Ok(())
    }

    /// Why nothing passes between the nodes of two instances over the family of an address, whatever the rules say.
    fn gap(&self, from: Party<'_>, to: Party<'_>, address: IpAddr) -> Option<String> {
        let (Party::Instance(from, _), Party::Instance(to, _)) = (from, to) else { return None };
        let nodes = [&from.spec.node_name, &to.spec.node_name];
        if same_node(nodes[0], nodes[1]) || from.spec.network.is_none() || to.spec.network.is_none() {
            return None;
        }
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        nodes.into_iter().find_map(|name| {
            let node = self.nodes.iter().find(|node| is_node(node, name))?;
            node.status.as_ref()?.network.as_ref()?;
            let lacks = !uplink_addresses(node).iter().any(|own| own.is_ipv4() == address.is_ipv4());
            lacks.then(|| {
                format!("nothing passes between their nodes over {family}: node {name} has no such address on its link")
            })
        })
    }

    /// Why nothing reaches or leaves an instance, whatever the rules say.
    fn obstacle(&self, party: Party<'_>) -> Option<String> {
        let Party::Instance(instance, _) = party else { return None };
        let name = instance.metadata.name.as_deref().unwrap_or_default();
        let Some(joined) = &instance.spec.network else {
            let host = instance.spec.template.spec.host_network == Some(true);
            return (!host).then(|| format!("{name} is in no network"));
        };
        let network = self.networks.iter().find(|network| {
            network.metadata.name.as_deref() == Some(&joined.name)
                && network.metadata.namespace == instance.metadata.namespace
        });
        let Some(network) = network else {
            return Some(format!("Network {} of {name} doesn't exist", joined.name));
        };
        let told = self.policy(&instance.spec.node_name).ok().flatten();
        if told.is_some_and(|(_, policy)| endpoint(&policy, instance).is_some()) {
            return None;
        }
        let conditions = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready = conditions.iter().find(|c| c.type_ == pullpiri_crds::condition::kind::READY);
        let why = ready.map(|c| format!(": Ready={} {}: {}", c.status, c.reason, c.message)).unwrap_or_default();
        Some(format!("node {} wasn't told of {name} in Network {}{why}", instance.spec.node_name, joined.name))
    }

    /// The addresses that a packet between two carries for the first.
    fn addresses(&self, party: Party<'_>, other: Party<'_>) -> Vec<IpAddr> {
        let instance = match party {
            Party::Address(address) | Party::Instance(_, Some(address)) => return vec![address],
            Party::Instance(instance, None) => instance,
        };
        let own = own_addresses(instance);
        if !own.is_empty() || instance.spec.template.spec.host_network != Some(true) {
            return own;
        }
        // A node talks to its own pods from their gateway.
        if let Party::Instance(other, _) = other
            && same_node(&other.spec.node_name, &instance.spec.node_name)
            && let Some(joined) = &other.spec.network
        {
            return joined.gateways.iter().filter_map(|gateway| gateway.parse().ok()).collect();
        }
        let node = self.nodes.iter().find(|node| is_node(node, &instance.spec.node_name));
        node.map(uplink_addresses).unwrap_or_default()
    }

    /// The address that a packet to a published port arrives with at another node, where what leaves the sender's network may have its node's.
    fn seen_as(&self, from: Party<'_>, to: Party<'_>, source: IpAddr) -> Result<IpAddr, String> {
        let (Party::Instance(from, _), Party::Instance(to, _)) = (from, to) else { return Ok(source) };
        let name = &from.spec.node_name;
        if same_node(name, &to.spec.node_name) {
            return Ok(source);
        }
        let Some((_, policy)) = self.policy(name)? else { return Ok(source) };
        let network = endpoint(&policy, from).map(|endpoint| endpoint.network);
        let masquerades = policy.networks.iter().any(|other| Some(other.id) == network && other.masquerade);
        let node = self.nodes.iter().find(|node| is_node(node, name)).filter(|_| masquerades);
        let own = node.map(uplink_addresses).unwrap_or_default();
        Ok(own.into_iter().find(|own| own.is_ipv4() == source.is_ipv4()).unwrap_or(source))
    }

    /// The node that has an address: on its link, or as the gateway of whoever asks.
    fn addressed(&self, from: Party<'_>, address: IpAddr) -> Option<&str> {
        if let Party::Instance(instance, _) = from
            && let Some(joined) = &instance.spec.network
            && joined.gateways.iter().any(|gateway| gateway.parse() == Ok(address))
        {
            let here = self.nodes.iter().find(|node| is_node(node, &instance.spec.node_name));
            return here?.metadata.name.as_deref();
        }
        self.nodes.iter().find(|node| uplink_addresses(node).contains(&address))?.metadata.name.as_deref()
    }

    /// Where a port of a node leads.
    fn published(
        &self,
        from: Party<'_>,
        address: IpAddr,
        question: &Question,
    ) -> Result<Option<(IpAddr, u16)>, String> {
        let Some(node) = self.addressed(from, address) else { return Ok(None) };
        let Some((_, policy)) = self.policy(node)? else { return Ok(None) };
        Ok(policy.ports.iter().find_map(|port| {
            let arrives: IpAddr = port.address.parse().ok()?;
            let asked = port.host_port == i32::from(question.port) && port.protocol == i32::from(question.protocol);
            (asked && arrives.is_ipv4() == address.is_ipv4())
                .then_some((arrives, u16::try_from(port.target_port).ok()?))
        }))
    }

    /// What a node was told.
    fn policy(&self, node: &str) -> Result<Option<(i64, Compiled)>, String> {
        let of_node: Vec<_> =
            self.slices.iter().map(|slice| &slice.spec).filter(|spec| same_node(&spec.node_name, node)).collect();
        if of_node.is_empty() {
            return Ok(None);
        }
        slices::join(of_node).map(Some).map_err(|error| format!("NetworkSlices of node {node}: {error}"))
    }

    fn held(&self, node: &str) -> Option<i64> {
        self.nodes.iter().find(|n| is_node(n, node))?.status.as_ref()?.network.as_ref()?.generation
    }
}

fn is_node(node: &NodeRuntime, name: &str) -> bool {
    node.metadata.name.as_deref().is_some_and(|own| same_node(own, name))
}

fn uplink_addresses(node: &NodeRuntime) -> Vec<IpAddr> {
    let network = node.status.as_ref().and_then(|status| status.network.as_ref());
    network.iter().flat_map(|network| &network.addresses).filter_map(|address| address.parse().ok()).collect()
}

fn own_addresses(instance: &ModelInstance) -> Vec<IpAddr> {
    let joined = instance.spec.network.as_ref();
    joined.iter().flat_map(|joined| &joined.addresses).filter_map(|address| address.parse().ok()).collect()
}

fn endpoint<'a>(policy: &'a Compiled, instance: &ModelInstance) -> Option<&'a SliceEndpoint> {
    policy.endpoints.iter().find(|endpoint| Some(&endpoint.uid) == instance.metadata.uid.as_ref())
}

fn name_of(party: Party<'_>) -> Option<String> {
    match party {
        Party::Instance(instance, _) => Some(format!(
            "{}/{}",
            instance.metadata.namespace.as_deref().unwrap_or_default(),
            instance.metadata.name.as_deref().unwrap_or_default()
        )),
        Party::Address(_) => None,
    }
}

/// A verdict as a CamelCase word and a sentence's end.
pub(crate) fn describe(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Allowed(allowed) => match allowed {
            Allowed::NotFiltered => ("NotFiltered", "no model of this node is involved".to_owned()),
            Allowed::NeighbourDiscovery => ("NeighbourDiscovery", "neighbour discovery".to_owned()),
            Allowed::Internal { network, .. } => ("Internal", format!("what stays inside of network {network}")),
            Allowed::Rule { id, name } => ("Rule", format!("rule {name} (id {id})")),
            Allowed::GatewayEcho => ("GatewayEcho", "echo requests to and from the gateway".to_owned()),
            Allowed::Published { host_port } => ("Published", format!("published port {host_port}")),
            Allowed::Egress { network } => ("Egress", format!("the egress of network {network}")),
        },
        Verdict::Denied(denied) => match denied {
            Denied::NoRule => ("NoRule", "no rule allows it".to_owned()),
            Denied::NoEgress => ("NoEgress", "the sender's network has no egress".to_owned()),
            Denied::Vacant => ("Vacant", "no instance has the address".to_owned()),
            Denied::Scope => ("Scope", "multicast, broadcast or link-local".to_owned()),
            Denied::Families => ("Families", "IPv4 and IPv6 don't meet".to_owned()),
        },
    }
}
