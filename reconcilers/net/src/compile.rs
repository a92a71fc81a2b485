//! From Networks and instances to what each node needs to know.
//!
//! A node is told of the networks that it has an instance of, of all their instances, of the rules that let something in or out there, and
//! of those instances of other networks that these rules name. Nothing else, so that a change elsewhere changes nothing here.
//!
//! Identities: rules and class selectors are predicates on instances. Instances of one network that satisfy the same predicates can't be told
//! apart by any packet's fate, and share a number; so the tables of a kernel grow with what rules tell apart, not with instances.
//!
//! Numbers are kept from one compilation to the next as far as their meaning is the same (see [`crate::numbering`]): networks, rules and
//! classes by name, identities by who has them. So the result depends on the objects and on the node's former policy, and on nothing else.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_crds::network::{NetworkMode, Verdict};
use pullpiri_crds::slice::{SliceClass, SliceEndpoint, SliceNetwork, SlicePort, SliceRule, SliceSelector};
use pullpiri_crds::{ModelInstance, Network, NodeRuntime, Package};

use crate::ObjectName;
use crate::declared::{Declared, Rule, Selector, Source};
use crate::members::{self, Member};
use crate::numbering;
use crate::review::{Problem, Review, review};
use pullpiri_crds::condition::reason;
use pullpiri_crds::prefix::Family;

/// Minor numbers of an HTB's classes are 16 bits, of which the datapath carries 12.
pub const MAX_CLASSES: usize = 4095;
/// Network ids are 16 bits.
const NETWORK_IDS: (i32, i32) = (1, 65535);
/// Above are the datapath's own.
const IDENTITIES: (i32, i32) = (1, i32::MAX);
/// What a NetworkSlice holds of a node's addresses.
const MAX_VIA: usize = 8;

/// What is compiled. In any order.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    pub networks: Vec<&'a Network>,
    pub instances: Vec<&'a ModelInstance>,
    pub nodes: Vec<&'a NodeRuntime>,
    /// They say which instances belong to a network of mode Host.
    pub packages: Vec<&'a Package>,
    /// Models that exist, whether or not they have an instance.
    pub models: BTreeSet<ObjectName>,
}

/// What one node enforces. Lists are ordered; see `pullpiri_crds::slice` for their fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// In lower-case RFC 1123 form.
    pub node: String,
    pub networks: Vec<SliceNetwork>,
    pub endpoints: Vec<SliceEndpoint>,
    pub rules: Vec<SliceRule>,
    pub classes: Vec<SliceClass>,
    pub selectors: Vec<SliceSelector>,
    pub ports: Vec<SlicePort>,
}

impl Compiled {
    /// Entries in all lists.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.networks.len()
            + self.endpoints.len()
            + self.rules.len()
            + self.classes.len()
            + self.selectors.len()
            + self.ports.len()
    }

    /// Whether an endpoint is on this node.
    #[must_use]
    pub fn is_local(&self, endpoint: &SliceEndpoint) -> bool {
        endpoint.node == self.node
    }

    fn sort(&mut self) {
        self.networks.sort_by_key(|n| n.id);
        self.endpoints.sort_by(|a, b| (&a.instance, &a.uid).cmp(&(&b.instance, &b.uid)));
        self.rules.sort_by(|a, b| {
            (a.id, a.from, &a.cidr, a.to, a.first_port).cmp(&(b.id, b.from, &b.cidr, b.to, b.first_port))
        });
        self.classes.sort_by_key(|c| c.id);
        let key = |s: &SliceSelector| (s.class, s.network, s.identity, s.protocol, s.port, s.dscp);
        self.selectors.sort_by_key(key);
        self.selectors.dedup();
        self.ports.sort_by(|a, b| (a.host_port, a.protocol, &a.address).cmp(&(b.host_port, b.protocol, &b.address)));
    }
}

/// What came of a compilation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The nodes that have something to enforce.
    pub nodes: BTreeMap<String, Compiled>,
    pub reviews: BTreeMap<ObjectName, Review>,
}

/// Compiles everything. `previous` is what the nodes were told before; it decides numbers and nothing else.
#[must_use]
pub fn compile(inputs: &Inputs<'_>, previous: &BTreeMap<String, Compiled>) -> Outcome {
    let everyone = members::members(inputs);
    let reviewed = review(inputs, &everyone);
    let mut reviews = reviewed.reviews;
    let (members, strays) = members::addressed(everyone, &reviewed.valid, inputs);
    for stray in strays {
        if let Some(review) = reviews.get_mut(&stray.network) {
            review.degraded.push(Problem { reason: reason::NETWORK_INVALID, message: stray.message });
        }
    }
    let enforced: BTreeMap<&ObjectName, &Declared> =
        reviewed.valid.iter().filter(|(name, _)| reviews.get(*name).is_some_and(|r| r.enforced)).collect();
    let members: Vec<Member<'_>> = members.into_iter().filter(|m| enforced.contains_key(&m.network)).collect();
    let rules = matched_rules(&enforced, &members);
    let nothing = Compiled::default();
    let mut nodes = BTreeMap::new();
    for node in members.iter().map(|member| member.node.as_str()).collect::<BTreeSet<_>>() {
        let view = View::new(node, &enforced, &members, &rules, previous.get(node).unwrap_or(&nothing));
        let (compiled, taken) = view.compile(inputs, &reviewed.by_age);
        for (network, problem) in taken {
            if let Some(review) = reviews.get_mut(&network) {
                review.degraded.push(problem);
            }
        }
        nodes.insert(node.to_owned(), compiled);
    }
    Outcome { nodes, reviews }
}

/// A rule and the members that it is about, as indices.
struct Matched<'a> {
    network: &'a ObjectName,
    rule: &'a Rule,
    /// The network and selector of the senders; none for a prefix.
    source: Option<(ObjectName, &'a Selector)>,
    from: Vec<usize>,
    to: Vec<usize>,
}

/// Every rule that can let something through that its network doesn't let through anyway.
fn matched_rules<'a>(enforced: &BTreeMap<&'a ObjectName, &'a Declared>, members: &[Member<'_>]) -> Vec<Matched<'a>> {
    let mut by_network: BTreeMap<&ObjectName, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        by_network.entry(&member.network).or_default().push(index);
    }
    let matching = |network: &ObjectName, selector: &Selector| -> Vec<usize> {
        let all = by_network.get(network).into_iter().flatten().copied();
        all.filter(|&i| selector.matches(members[i].model, members[i].labels)).collect()
    };
    let mut matched = Vec::new();
    for (name, declared) in enforced {
        for rule in &declared.rules {
            let source = match &rule.from {
                Source::Outside(_) => None,
                Source::Models { network, selector } => {
                    let source = network
                        .as_ref()
                        .map_or_else(|| (*name).clone(), |network| ObjectName::new(&name.namespace, network));
                    if source == **name && declared.internal == Verdict::Allow {
                        continue;
                    }
                    if enforced.get(&source).is_none_or(|network| network.mode == NetworkMode::Host) {
                        continue;
                    }
                    Some((source, selector))
                }
            };
            let from = source.as_ref().map(|(network, selector)| matching(network, selector)).unwrap_or_default();
            let to = matching(name, &rule.to);
            matched.push(Matched { network: name, rule, source, from, to });
        }
    }
    matched
}

/// What one node sees.
struct View<'a> {
    node: &'a str,
    enforced: &'a BTreeMap<&'a ObjectName, &'a Declared>,
    members: &'a [Member<'a>],
    /// The networks with an instance here.
    local: BTreeSet<&'a ObjectName>,
    /// The rules that let something in or out here.
    rules: Vec<&'a Matched<'a>>,
    /// The members that are told of.
    visible: BTreeSet<usize>,
    previous: &'a Compiled,
    networks: BTreeMap<&'a ObjectName, i32>,
    /// By member.
    identities: BTreeMap<usize, i32>,
}

impl<'a> View<'a> {
    fn new(
        node: &'a str,
        enforced: &'a BTreeMap<&'a ObjectName, &'a Declared>,
        members: &'a [Member<'a>],
        rules: &'a [Matched<'a>],
        previous: &'a Compiled,
    ) -> Self {
        let here = |i: &usize| members[*i].node == node;
        let local: BTreeSet<&ObjectName> =
            members.iter().filter(|member| member.node == node).map(|member| &member.network).collect();
        let rules: Vec<&Matched<'_>> =
            rules.iter().filter(|r| r.to.iter().any(here) || (r.from.iter().any(here) && !r.to.is_empty())).collect();
        let mut visible: BTreeSet<usize> =
            (0..members.len()).filter(|&i| local.contains(&members[i].network)).collect();
        for rule in &rules {
            visible.extend(rule.from.iter().chain(&rule.to));
        }
        let mut view = Self {
            node,
            enforced,
            members,
            local,
            rules,
            visible,
            previous,
            networks: BTreeMap::new(),
            identities: BTreeMap::new(),
        };
        view.number_networks();
        view.number_identities();
        view
    }

    fn here(&self, member: usize) -> bool {
        self.members[member].node == self.node
    }

    fn declared(&self, network: &ObjectName) -> Option<&'a Declared> {
        self.enforced.get(network).copied()
    }

    fn number_networks(&mut self) {
        let named: BTreeMap<&str, i32> = self.previous.networks.iter().map(|n| (n.name.as_str(), n.id)).collect();
        // Networks that the node has no instance of aren't listed; their endpoints say which number they had.
        let listed: BTreeSet<i32> = named.values().copied().collect();
        let unlisted = self.previous.endpoints.iter().filter(|endpoint| !listed.contains(&endpoint.network));
        let held: BTreeMap<&str, i32> = unlisted.map(|e| (e.uid.as_str(), e.network)).collect();
        let mut keys: BTreeMap<&ObjectName, Option<i32>> = BTreeMap::new();
        for &i in &self.visible {
            let member = &self.members[i];
            let before = keys.entry(&member.network).or_default();
            *before = before.or_else(|| held.get(member.uid).copied());
        }
        for (network, before) in &mut keys {
            *before = named.get(network.to_string().as_str()).copied().or(*before);
        }
        self.networks = numbering::number(keys, NETWORK_IDS);
    }

    /// Groups the visible members by what can tell them apart.
    fn number_identities(&mut self) {
        let mut predicates: BTreeSet<(&ObjectName, &Selector)> = BTreeSet::new();
        for matched in &self.rules {
            predicates.insert((matched.network, &matched.rule.to));
            predicates.extend(matched.source.as_ref().map(|(network, selector)| (network, *selector)));
        }
        for network in &self.local {
            for class in self.declared(network).iter().flat_map(|declared| &declared.classes) {
                predicates.extend(class.selectors.iter().map(|selector| (*network, &selector.sender)));
            }
        }
        predicates.retain(|(_, selector)| !selector.is_empty());
        let mut by_network: BTreeMap<&ObjectName, Vec<&Selector>> = BTreeMap::new();
        for (network, selector) in predicates {
            by_network.entry(network).or_default().push(selector);
        }
        let mut groups: BTreeMap<(&ObjectName, Vec<&Selector>), Vec<usize>> = BTreeMap::new();
        for &i in &self.visible {
            let member = &self.members[i];
            let satisfied = by_network
                .get(&member.network)
                .into_iter()
                .flatten()
                .copied()
                .filter(|selector| selector.matches(member.model, member.labels))
                .collect();
            groups.entry((&member.network, satisfied)).or_default().push(i);
        }
        let held: BTreeMap<&str, i32> = self.previous.endpoints.iter().map(|e| (e.uid.as_str(), e.identity)).collect();
        let groups: Vec<Vec<usize>> = groups.into_values().collect();
        let votes: Vec<Vec<Option<i32>>> = groups
            .iter()
            .map(|group| group.iter().map(|&i| held.get(self.members[i].uid).copied()).collect())
            .collect();
        for (group, identity) in groups.iter().zip(numbering::number_groups(&votes, IDENTITIES)) {
            self.identities.extend(group.iter().map(|&i| (i, identity)));
        }
    }

    fn compile(self, inputs: &Inputs<'_>, by_age: &[ObjectName]) -> (Compiled, Vec<(ObjectName, Problem)>) {
        let mut compiled = Compiled { node: self.node.to_owned(), ..Compiled::default() };
        compiled.networks = self.slice_networks();
        compiled.endpoints = self.slice_endpoints(inputs);
        compiled.rules = self.slice_rules();
        self.add_classes(by_age, &mut compiled);
        let taken = self.add_ports(by_age, &mut compiled);
        compiled.sort();
        (compiled, taken)
    }

    fn slice_networks(&self) -> Vec<SliceNetwork> {
        let mut networks = Vec::new();
        for name in &self.local {
            let (Some(declared), Some(&id)) = (self.declared(name), self.networks.get(name)) else { continue };
            let prefixes = declared.pool.as_ref().map(crate::ipam::Pool::prefixes).unwrap_or_default();
            let of = |family| prefixes.iter().find(|p| p.family() == family).map(ToString::to_string);
            let gateways = declared.pool.as_ref().map(crate::ipam::Pool::gateways).unwrap_or_default();
            networks.push(SliceNetwork {
                id,
                name: name.to_string(),
                mode: declared.mode,
                v4: of(Family::V4),
                v6: of(Family::V6),
                gateways: gateways.iter().map(ToString::to_string).collect(),
                internal: declared.internal,
                egress: declared.egress,
                masquerade: declared.masquerade,
            });
        }
        networks
    }

    fn slice_endpoints(&self, inputs: &Inputs<'_>) -> Vec<SliceEndpoint> {
        let mut via: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut endpoints = Vec::new();
        for &i in &self.visible {
            let member = &self.members[i];
            let (Some(&network), Some(&identity)) = (self.networks.get(&member.network), self.identities.get(&i))
            else {
                continue;
            };
            let via = via.entry(&member.node).or_insert_with(|| {
                if member.node == self.node { Vec::new() } else { reached_by(inputs, &member.node) }
            });
            endpoints.push(SliceEndpoint {
                instance: member.instance.to_string(),
                uid: member.uid.to_owned(),
                model: member.model.to_owned(),
                network,
                identity,
                addresses: member.addresses.iter().map(ToString::to_string).collect(),
                node: member.node.clone(),
                via: if member.addresses.is_empty() { Vec::new() } else { via.clone() },
            });
        }
        endpoints
    }

    fn slice_rules(&self) -> Vec<SliceRule> {
        let held: BTreeMap<&str, i32> = self.previous.rules.iter().map(|r| (r.name.as_str(), r.id)).collect();
        let name = |matched: &Matched<'_>| format!("{}/{}", matched.network, matched.rule.name);
        let keys = self.rules.iter().map(|matched| {
            let name = name(matched);
            let before = held.get(name.as_str()).copied();
            (name, before)
        });
        let numbers = numbering::number(keys, IDENTITIES);
        let mut rules = Vec::new();
        for matched in &self.rules {
            let name = name(matched);
            let Some(&id) = numbers.get(&name) else { continue };
            let to = self.identities_of(&matched.to);
            let entry = |from: i32, cidr: Option<String>, to: i32, (first, last): (u16, u16)| SliceRule {
                id,
                name: name.clone(),
                from,
                cidr,
                to,
                protocol: matched.rule.protocol.into(),
                first_port: first.into(),
                last_port: last.into(),
            };
            for range in &matched.rule.ports {
                match &matched.rule.from {
                    Source::Outside(prefix) => {
                        for (&to, _) in to.iter().filter(|(_, here)| **here) {
                            rules.push(entry(0, Some(prefix.to_string()), to, *range));
                        }
                    }
                    Source::Models { .. } => {
                        for (&from, from_here) in &self.identities_of(&matched.from) {
                            for (&to, _) in to.iter().filter(|(_, to_here)| *from_here || **to_here) {
                                rules.push(entry(from, None, to, *range));
                            }
                        }
                    }
                }
            }
        }
        rules
    }

    /// The identities of members, and whether some of each are here.
    fn identities_of(&self, members: &[usize]) -> BTreeMap<i32, bool> {
        let mut identities = BTreeMap::new();
        for &i in members {
            if let Some(&identity) = self.identities.get(&i) {
                *identities.entry(identity).or_default() |= self.here(i);
            }
        }
        identities
    }

    fn add_classes(&self, by_age: &[ObjectName], compiled: &mut Compiled) {
        let networks: Vec<(&ObjectName, &Declared)> = by_age
            .iter()
            .filter(|name| self.local.contains(name))
            .filter_map(|name| Some((name, self.declared(name)?)))
            .collect();
        let held: BTreeMap<&str, i32> = self.previous.classes.iter().map(|c| (c.name.as_str(), c.id)).collect();
        let names: Vec<Vec<String>> = networks
            .iter()
            .map(|(name, declared)| declared.classes.iter().map(|class| format!("{name}/{}", class.name)).collect())
            .collect();
        let before: Vec<Vec<Option<i32>>> =
            names.iter().map(|list| list.iter().map(|name| held.get(name.as_str()).copied()).collect()).collect();
        let numbers = numbering::number_ascending(&before);
        for (((network, declared), names), numbers) in networks.iter().zip(names).zip(numbers) {
            let Some(&network_id) = self.networks.get(network) else { continue };
            for ((class, name), id) in declared.classes.iter().zip(names).zip(numbers) {
                compiled.classes.push(SliceClass {
                    id,
                    name,
                    priority: class.priority,
                    guarantee_bps: i64::try_from(class.guarantee_bps).unwrap_or(i64::MAX),
                    ceiling_bps: class.ceiling_bps.map(|bps| i64::try_from(bps).unwrap_or(i64::MAX)),
                    dscp: class.dscp,
                });
                for selector in &class.selectors {
                    for identity in self.senders(network, &selector.sender) {
                        compiled.selectors.push(SliceSelector {
                            class: id,
                            identity,
                            network: network_id,
                            protocol: selector.protocol.into(),
                            port: selector.port.into(),
                            dscp: selector.dscp,
                        });
                    }
                }
            }
        }
    }

    /// The identities of those instances here that a selector means; 0 stands for all.
    fn senders(&self, network: &ObjectName, selector: &Selector) -> BTreeSet<i32> {
        if selector.is_empty() {
            return [0].into();
        }
        self.identities
            .iter()
            .filter(|(i, _)| {
                let member = &self.members[**i];
                self.here(**i) && member.network == *network && selector.matches(member.model, member.labels)
            })
            .map(|(_, identity)| *identity)
            .collect()
    }

    /// What shall be published here, the oldest network's first: the ports of its spec, then those of its models' containers. A host port,
    /// a protocol, a target port and the member that it leads to.
    fn wanted_ports<'b>(&'b self, by_age: &'b [ObjectName]) -> Vec<(&'b ObjectName, (u16, u8, u16), &'b Member<'b>)> {
        let mut wanted = Vec::new();
        for network in by_age.iter().filter(|name| self.local.contains(name)) {
            let here = || {
                let visible = self.visible.iter().filter(|&&i| self.here(i));
                visible.map(|&i| &self.members[i]).filter(|member| member.network == *network)
            };
            for port in self.declared(network).iter().flat_map(|declared| &declared.ports) {
                let selected = here().filter(|member| port.to.matches(member.model, member.labels));
                wanted.extend(
                    selected.map(|member| (network, (port.host_port, port.protocol, port.target_port), member)),
                );
            }
            wanted.extend(here().flat_map(|member| member.ports.iter().map(move |port| (network, *port, member))));
        }
        wanted
    }

    /// Publishes ports; of several that want the same the first one gets it, and the others are told.
    fn add_ports(&self, by_age: &[ObjectName], compiled: &mut Compiled) -> Vec<(ObjectName, Problem)> {
        let mut owners: BTreeMap<(u16, u8, Family), (&ObjectName, &ObjectName, u16)> = BTreeMap::new();
        let mut problems = Vec::new();
        for (network, (host_port, protocol, target_port), member) in self.wanted_ports(by_age) {
            let mut taken = None;
            for address in &member.addresses {
                let key = (host_port, protocol, Family::of(*address));
                match owners.get(&key) {
                    Some((_, owner, target)) if **owner == member.instance && *target == target_port => {}
                    Some((network, owner, _)) => taken = Some((*network, *owner)),
                    None => {
                        owners.insert(key, (network, &member.instance, target_port));
                        compiled.ports.push(SlicePort {
                            host_port: host_port.into(),
                            protocol: protocol.into(),
                            address: address.to_string(),
                            target_port: target_port.into(),
                        });
                    }
                }
            }
            if let Some((owner_network, owner)) = taken {
                let protocol = if protocol == crate::declared::UDP { "UDP" } else { "TCP" };
                let message = format!(
                    "port {host_port}/{protocol} of node {} leads to {} of network {owner_network}; {} isn't reached by it",
                    self.node, owner.name, member.instance.name
                );
                problems.push(((*network).clone(), Problem { reason: reason::HOST_PORT_TAKEN, message }));
            }
        }
        problems
    }
}

/// The addresses by which other nodes reach a node's pods.
fn reached_by(inputs: &Inputs<'_>, node: &str) -> Vec<String> {
    let network = members::runtime(inputs, node).and_then(|node| node.status.as_ref()?.network.as_ref());
    network.map(|network| network.addresses.iter().take(MAX_VIA).cloned().collect()).unwrap_or_default()
}
