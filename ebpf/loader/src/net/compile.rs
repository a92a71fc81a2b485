//! From a policy to the entries of the kernel's tables.
//!
//! Method: rules between two identities become disjoint ranges over `protocol << 16 | port` (a sweep over their ends, the lowest rule id where several
//! overlap), so that a packet costs one look-up of the pair and a binary search among that pair's ranges, however many rules there are in all.
//! A prefix of a rule gets an identity of its own and the rules of every prefix that covers it: the trie's longest match then knows all that
//! apply. Single addresses go to the hash.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::network::Verdict;
use pullpiri_crds::prefix::Prefix;
use pullpiri_crds::slice::MAX_NAMES;

use super::layout::{
    ANY_DSCP, CIDR_IDENTITY, ClassValue, EGRESS, ENDPOINT, GATEWAY, INTERNAL, Identity, Key, LOCAL, MAX_PREFIXES,
    MAX_RANGES, Pair, PrefixBody, Range, SUBNET, Value, address_bytes, host_address,
};
use super::policy::{Compiled, Endpoint, Network, Place, Rule, Selector, Source};

/// Protocols whose ports rules may name: TCP, UDP.
const WITH_PORTS: [u8; 2] = [6, 17];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A policy that the tables can't hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    #[error("compiling generation {generation}: {count} prefixes, {MAX_PREFIXES} fit")]
    Prefixes { generation: u64, count: usize },
    #[error("compiling generation {generation}: more than {MAX_RANGES} ranges of ports")]
    Ranges { generation: u64 },
    #[error("compiling generation {generation}: {count} names of rules, classes, networks and ports, {MAX_NAMES} fit")]
    Names { generation: u64, count: usize },
    #[error("compiling generation {generation}: {what} names {number}, which it doesn't have")]
    Unknown { generation: u64, what: String, number: u32 },
}

/// What is counted under one name for as long as the name is in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    Rule(String),
    Class(String),
    /// What a network allows inside.
    Internal(String),
    /// A published port of the node.
    Port {
        host_port: u16,
        protocol: u8,
    },
}

impl Counted {
    /// Unique among its kind.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Rule(name) | Self::Class(name) | Self::Internal(name) => name.clone(),
            Self::Port { host_port, protocol } => format!("{host_port}/{protocol}"),
        }
    }
}

/// The entries of one generation.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tables {
    pub exact: BTreeMap<Key, Value>,
    /// `(bits, body)` with `bits` of family and address.
    pub prefixes: Vec<(u32, PrefixBody, Identity)>,
    pub ranges: Vec<Range>,
}

/// Everything that is counted in this generation, in order.
#[must_use]
pub fn counted(policy: &Compiled) -> BTreeSet<Counted> {
    let rules = policy.rules.iter().map(|rule| Counted::Rule(rule.name.clone()));
    let classes = policy.classes.iter().map(|class| Counted::Class(class.name.clone()));
    let internal = policy.networks.iter().filter(|network| network.internal == Verdict::Allow);
    let ports = policy.ports.iter().map(|port| Counted::Port { host_port: port.host_port, protocol: port.protocol });
    rules.chain(classes).chain(ports).chain(internal.map(|network| Counted::Internal(network.name.clone()))).collect()
}

/// Fills the tables; `counters` says where each name is counted.
///
/// # Errors
/// When something doesn't fit, or an entry names what isn't there.
pub fn compile(policy: &Compiled, counters: &BTreeMap<Counted, u32>) -> Result<Tables, CompileError> {
    let mut tables = Tables::default();
    let networks: BTreeMap<u16, &Network> = policy.networks.iter().map(|network| (network.id, network)).collect();
    let counter = |what: Counted| counters.get(&what).copied().unwrap_or(0);
    let mut subnets: Vec<(Prefix, Identity)> = Vec::new();
    for network in &policy.networks {
        for subnet in &network.subnets {
            subnets.push((*subnet, Identity { network: network.id, flags: SUBNET, ..Identity::default() }));
        }
        for gateway in &network.gateways {
            let identity = Identity { network: network.id, flags: GATEWAY, ..Identity::default() };
            tables.exact.insert(Key::address(address_bytes(*gateway)), identity.into());
        }
    }
    let shapes = Shapes::of(&policy.selectors);
    for endpoint in &policy.endpoints {
        let identity = identity_of(endpoint, networks.get(&endpoint.network).copied(), &shapes, &counter);
        if endpoint.addresses.is_empty() {
            tables.exact.insert(Key::address(host_address(&endpoint.uid)), identity.into());
        }
        for address in &endpoint.addresses {
            tables.exact.insert(Key::address(address_bytes(*address)), identity.into());
        }
    }
    compile_classes(policy, &counter, &mut tables)?;
    for port in &policy.ports {
        let value = Value::published(counter(Counted::Port { host_port: port.host_port, protocol: port.protocol }));
        tables.exact.insert(Key::arrives(port.protocol, port.target_port, port.address), value);
        tables.exact.insert(Key::published(port.protocol, port.host_port, port.address), value);
    }
    let outside = number_prefixes(policy, &subnets, &mut tables);
    let mut trie: Vec<(Prefix, Identity)> = subnets;
    trie.extend(
        outside.iter().filter(|(prefix, _)| !prefix.is_single()).map(|(prefix, identity)| (*prefix, *identity)),
    );
    if trie.len() > MAX_PREFIXES {
        return Err(CompileError::Prefixes { generation: policy.generation, count: trie.len() });
    }
    tables.prefixes = trie.into_iter().map(|(prefix, identity)| prefix_entry(prefix, identity)).collect();
    compile_rules(policy, &outside, &counter, &mut tables)?;
    Ok(tables)
}

/// Networks without an instance here aren't described: their endpoints have no shares in them.
fn identity_of(
    endpoint: &Endpoint,
    network: Option<&Network>,
    shapes: &Shapes,
    counter: &impl Fn(Counted) -> u32,
) -> Identity {
    let mut flags = ENDPOINT;
    if endpoint.place == Place::Here {
        flags |= LOCAL;
    }
    if network.is_some_and(|network| network.internal == Verdict::Allow) {
        flags |= INTERNAL;
    }
    if network.is_some_and(|network| network.egress == Verdict::Allow) {
        flags |= EGRESS;
    }
    Identity {
        identity: endpoint.identity,
        network: endpoint.network,
        flags,
        shapes: shapes.for_endpoint(endpoint),
        counter: network.map_or(0, |network| counter(Counted::Internal(network.name.clone()))),
    }
}

/// Which shapes of selectors an endpoint's packets have to be looked up under.
struct Shapes {
    any: BTreeMap<u16, u32>,
    exact: BTreeMap<(u16, u32), u32>,
}

impl Shapes {
    fn of(selectors: &[Selector]) -> Self {
        let mut shapes = Self { any: BTreeMap::new(), exact: BTreeMap::new() };
        for selector in selectors {
            let entry = match selector.identity {
                Some(identity) => shapes.exact.entry((selector.network, identity)).or_default(),
                None => shapes.any.entry(selector.network).or_default(),
            };
            *entry |= 1 << shape(selector);
        }
        shapes
    }

    fn for_endpoint(&self, endpoint: &Endpoint) -> u32 {
        let exact = self.exact.get(&(endpoint.network, endpoint.identity)).copied().unwrap_or(0);
        exact | self.any.get(&endpoint.network).copied().unwrap_or(0)
    }
}

fn shape(selector: &Selector) -> u32 {
    u32::from(selector.identity.is_some())
        | u32::from(selector.protocol.is_some()) << 1
        | u32::from(selector.port.is_some()) << 2
        | u32::from(selector.dscp.is_some()) << 3
}

fn compile_classes(
    policy: &Compiled,
    counter: &impl Fn(Counted) -> u32,
    tables: &mut Tables,
) -> Result<(), CompileError> {
    for class in &policy.classes {
        let value = ClassValue {
            id: u32::from(class.id),
            dscp: u32::from(class.dscp.unwrap_or(ANY_DSCP)),
            counter: counter(Counted::Class(class.name.clone())),
            unused: 0,
        };
        tables.exact.insert(Key::class(class.id), value.into());
    }
    for selector in &policy.selectors {
        let class = tables.exact.get(&Key::class(selector.class)).copied().ok_or_else(|| CompileError::Unknown {
            generation: policy.generation,
            what: "a selector".to_owned(),
            number: u32::from(selector.class),
        })?;
        let key = Key::selector(
            selector.identity.unwrap_or(0),
            selector.network,
            selector.port.unwrap_or(0),
            selector.protocol.map_or(0, normalised),
            selector.dscp.unwrap_or(ANY_DSCP),
        );
        let entry = tables.exact.entry(key).or_insert(class);
        // The first class that matches: ids are the order. The first word is the id.
        if class.words[0] < entry.words[0] {
            *entry = class;
        }
    }
    Ok(())
}

/// Prefixes of rules that say something: each an identity; single ones enter the hash here.
fn number_prefixes(
    policy: &Compiled,
    subnets: &[(Prefix, Identity)],
    tables: &mut Tables,
) -> BTreeMap<Prefix, Identity> {
    let mut wanted: BTreeSet<Prefix> = BTreeSet::new();
    for rule in &policy.rules {
        if let Source::Outside(prefix) = rule.from
            && !subnets.iter().any(|(subnet, _)| subnet.covers(&prefix))
        {
            wanted.insert(prefix);
        }
    }
    let mut numbered = BTreeMap::new();
    for (prefix, number) in wanted.into_iter().zip(CIDR_IDENTITY..) {
        let identity = Identity { identity: number, ..Identity::default() };
        if prefix.is_single() {
            let key = Key::address(address_bytes(prefix.network()));
            if tables.exact.contains_key(&key) || is_scoped(prefix.network()) {
                continue;
            }
            tables.exact.insert(key, identity.into());
        }
        numbered.insert(prefix, identity);
    }
    numbered
}

/// No end of a connection, whatever rules say: as `is_scoped` in `pharos.bpf.c`.
fn is_scoped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_link_local() || v4.is_loopback()
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

fn prefix_entry(prefix: Prefix, identity: Identity) -> (u32, PrefixBody, Identity) {
    let mut body = PrefixBody::default();
    match prefix.network() {
        IpAddr::V4(v4) => {
            body.family = 4;
            for (to, from) in body.address.iter_mut().zip(v4.octets()) {
                *to = from;
            }
        }
        IpAddr::V6(v6) => {
            body.family = 6;
            body.address = v6.octets();
        }
    }
    (8 + u32::from(prefix.length()), body, identity)
}

/// One rule's part in one pair.
#[derive(Clone, Copy)]
struct Span {
    first: u32,
    last: u32,
    rule: u32,
    counter: u32,
}

fn compile_rules(
    policy: &Compiled,
    outside: &BTreeMap<Prefix, Identity>,
    counter: &impl Fn(Counted) -> u32,
    tables: &mut Tables,
) -> Result<(), CompileError> {
    let mut pairs: BTreeMap<(u32, u32), Vec<Span>> = BTreeMap::new();
    let mut by_prefix: BTreeMap<Prefix, Vec<&Rule>> = BTreeMap::new();
    for rule in &policy.rules {
        match rule.from {
            Source::Identity(from) => {
                pairs
                    .entry((from, rule.to))
                    .or_default()
                    .extend(spans(rule, counter(Counted::Rule(rule.name.clone()))));
            }
            Source::Outside(prefix) => by_prefix.entry(prefix).or_default().push(rule),
        }
    }
    for (prefix, identity) in outside {
        for length in 0..=prefix.length() {
            for rule in by_prefix.get(&Prefix::of(prefix.network(), length)).into_iter().flatten() {
                let spans = spans(rule, counter(Counted::Rule(rule.name.clone())));
                pairs.entry((identity.identity, rule.to)).or_default().extend(spans);
            }
        }
    }
    for ((from, to), spans) in pairs {
        let first = tables.ranges.len();
        tables.ranges.extend(disjoint(spans));
        if tables.ranges.len() > MAX_RANGES {
            return Err(CompileError::Ranges { generation: policy.generation });
        }
        let narrow = |n: usize| u32::try_from(n).map_err(|_| CompileError::Ranges { generation: policy.generation });
        let pair = Pair { first: narrow(first)?, count: narrow(tables.ranges.len() - first)?, unused: [0; 2] };
        tables.exact.insert(Key::pair(from, to), pair.into());
    }
    Ok(())
}

/// ICMPv6 is ICMP to rules.
fn normalised(protocol: u8) -> u8 {
    if protocol == ICMPV6 { ICMP } else { protocol }
}

/// Ranges over `protocol << 16 | port` that a rule allows.
fn spans(rule: &Rule, counter: u32) -> Vec<Span> {
    let all = rule.first_port == 0 && rule.last_port == u16::MAX;
    let (low, high) = (u32::from(rule.first_port), u32::from(rule.last_port));
    let span = |first, last| Span { first, last, rule: rule.id, counter };
    let of = |protocol: u8| span(u32::from(protocol) << 16 | low, u32::from(protocol) << 16 | high);
    match (normalised(rule.protocol), all) {
        _ if low > high => Vec::new(),
        (0, true) => vec![span(0, u32::from(u8::MAX) << 16 | 0xffff)],
        (0, false) => WITH_PORTS.into_iter().map(of).collect(),
        (protocol, false) if !WITH_PORTS.contains(&protocol) => Vec::new(),
        (protocol, _) => vec![of(protocol)],
    }
}

/// The same ports, each once: the lowest rule id where several overlap; neighbours that are counted alike become one.
fn disjoint(spans: Vec<Span>) -> Vec<Range> {
    if let [only] = spans.as_slice() {
        return vec![Range { first: only.first, last: only.last, counter: only.counter, unused: 0 }];
    }
    let mut starts: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    let mut ends: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    for span in spans {
        starts.entry(span.first).or_default().push((span.rule, span.counter));
        ends.entry(span.last + 1).or_default().push((span.rule, span.counter));
    }
    let points: BTreeSet<u32> = starts.keys().chain(ends.keys()).copied().collect();
    let points: Vec<u32> = points.into_iter().collect();
    // How many spans of each rule hold here.
    let mut active: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let mut ranges: Vec<Range> = Vec::new();
    for (point, next) in points.iter().zip(points.iter().skip(1).chain(std::iter::once(&u32::MAX))) {
        for ended in ends.get(point).into_iter().flatten() {
            if let Some(count) = active.get_mut(ended) {
                *count -= 1;
                if *count == 0 {
                    active.remove(ended);
                }
            }
        }
        for started in starts.get(point).into_iter().flatten() {
            *active.entry(*started).or_default() += 1;
        }
        let Some(((_, counter), _)) = active.first_key_value() else { continue };
        let last = next - 1;
        match ranges.last_mut() {
            Some(before) if before.counter == *counter && before.last + 1 == *point => before.last = last,
            _ => ranges.push(Range { first: *point, last, counter: *counter, unused: 0 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: u32, protocol: u8, first_port: u16, last_port: u16) -> Rule {
        Rule { id, name: format!("r{id}"), from: Source::Identity(1), to: 2, protocol, first_port, last_port }
    }

    fn ranges(rules: &[Rule]) -> Vec<(u32, u32, u32)> {
        let spans = rules.iter().flat_map(|rule| spans(rule, rule.id)).collect();
        disjoint(spans).into_iter().map(|range| (range.first, range.last, range.counter)).collect()
    }

    #[test]
    fn the_lowest_rule_wins_where_ranges_overlap() {
        let tcp = |port: u32| 6 << 16 | port;
        let rules = [rule(2, 6, 10, 100), rule(1, 6, 50, 60), rule(3, 6, 90, 200), rule(4, 6, 201, 300)];
        let expected = vec![
            (tcp(10), tcp(49), 2),
            (tcp(50), tcp(60), 1),
            (tcp(61), tcp(100), 2),
            (tcp(101), tcp(200), 3),
            (tcp(201), tcp(300), 4),
        ];
        assert_eq!(ranges(&rules), expected);
    }

    #[test]
    fn neighbours_that_count_alike_become_one() {
        assert_eq!(ranges(&[rule(1, 6, 0, 9), rule(1, 6, 10, 19)]), vec![(6 << 16, 6 << 16 | 19, 1)]);
        assert_eq!(ranges(&[rule(1, 0, 0, 65535), rule(2, 6, 80, 80)]), vec![(0, 0x00ff_ffff, 1)]);
        assert_eq!(ranges(&[rule(1, 0, 80, 80)]).len(), WITH_PORTS.len());
        assert_eq!(ranges(&[rule(1, 6, 9, 8)]), vec![]);
    }

    #[test]
    fn a_narrow_prefix_has_the_rules_of_the_wide_one() {
        let outside =
            |id, cidr: &str, port| Rule { from: Source::Outside(cidr.parse().unwrap()), ..rule(id, 6, port, port) };
        let policy = Compiled {
            generation: 1,
            rules: vec![
                outside(1, "192.0.2.0/24", 80),
                outside(2, "192.0.0.0/16", 443),
                outside(3, "192.0.2.7/32", 22),
            ],
            ..Compiled::default()
        };
        let counters = counted(&policy).into_iter().zip(1..).collect();
        let tables = compile(&policy, &counters).unwrap();
        assert_eq!(tables.prefixes.len(), 2);
        let count_of =
            |number: u32| tables.exact.get(&Key::pair(CIDR_IDENTITY + number, 2)).map(|value| value.words[1]).unwrap();
        // In order: 192.0.0.0/16, 192.0.2.0/24, 192.0.2.7/32.
        assert_eq!((count_of(0), count_of(1), count_of(2)), (1, 2, 3));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let policy = Compiled {
            generation: 4,
            selectors: vec![Selector { class: 9, network: 1, identity: None, protocol: None, port: None, dscp: None }],
            ..Compiled::default()
        };
        let error = compile(&policy, &BTreeMap::new()).unwrap_err();
        assert_eq!(error.to_string(), "compiling generation 4: a selector names 9, which it doesn't have");
    }
}
