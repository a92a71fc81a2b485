//! A Network as it was declared, read into what is compiled: every text parsed, every default filled in.
//!
//! The schema and its CEL rules refuse most of what is refused here; but a reconciler trusts no API server with what a kernel enforces.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_crds::Network;
use pullpiri_crds::model::Protocol;
use pullpiri_crds::network::{AllowRule, NetworkMode, NetworkSpec, PublishedPort, QosClass, RuleProtocol, Verdict};
use pullpiri_crds::prefix::Prefix;
use pullpiri_crds::rate::bits_per_second;

use crate::ipam::{self, Pool};
use crate::{FieldError, ObjectName};

/// IP protocol numbers (IANA); 1 stands for ICMPv6 too, 0 for all.
pub const ANY: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// The code points there are (RFC 2474: 6 bits).
const MAX_DSCP: i32 = 63;
const MAX_PRIORITY: i32 = 7;

/// A Network that contradicts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub name: ObjectName,
    pub mode: NetworkMode,
    /// Under Bridge.
    pub pool: Option<Pool>,
    pub internal: Verdict,
    pub egress: bool,
    pub masquerade: bool,
    pub rules: Vec<Rule>,
    /// In the order in which they are tried.
    pub classes: Vec<Class>,
    pub ports: Vec<Port>,
}

/// Which models: all that are set must match; nothing set matches every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub model: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    #[must_use]
    pub fn matches(&self, model: &str, labels: &BTreeMap<String, String>) -> bool {
        self.model.as_ref().is_none_or(|wanted| wanted == model)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.model.is_none() && self.labels.is_empty()
    }
}

/// New connections that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    pub from: Source,
    pub to: Selector,
    pub protocol: u8,
    /// Destination ports, both ends included, ascending and apart.
    pub ports: Vec<(u16, u16)>,
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Models of a network of this namespace; of the rule's own, if none is named.
    Models { network: Option<String>, selector: Selector },
    /// Addresses outside of all networks.
    Outside(Prefix),
}

/// A share of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    pub priority: i32,
    pub guarantee_bps: u64,
    pub ceiling_bps: Option<u64>,
    pub dscp: Option<i32>,
    pub selectors: Vec<ClassSelector>,
}

/// What belongs to a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSelector {
    pub sender: Selector,
    pub protocol: u8,
    /// Source or destination; 0: all.
    pub port: u16,
    pub dscp: Option<i32>,
}

/// A port of the nodes that leads to models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub host_port: u16,
    pub target_port: u16,
    pub protocol: u8,
    pub to: Selector,
}

/// Reads a Network.
///
/// # Errors
/// Every field that can't be used as it is, so that one look tells all of them.
pub fn read(network: &Network) -> Result<Declared, Vec<FieldError>> {
    let spec = &network.spec;
    let mut errors = Vec::new();
    let mode = ipam::mode(spec);
    let pool = match (mode, &spec.subnet) {
        (NetworkMode::Bridge, Some(subnet)) => Pool::new(subnet).map_err(|error| errors.push(error)).ok(),
        (NetworkMode::Bridge, None) => {
            errors.push(FieldError::new("spec.subnet", "mode Bridge needs a subnet"));
            None
        }
        (NetworkMode::Host, _) => {
            errors.extend(unusable_on_host(spec));
            None
        }
    };
    let rules = rules(&spec.allow, &mut errors);
    let classes = spec.qos.as_ref().map(|qos| classes(&qos.classes, &mut errors)).unwrap_or_default();
    let ports = spec.ports.iter().enumerate().filter_map(|(i, port)| published(i, port, &mut errors)).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Declared {
        name: name_of(network),
        mode,
        pool,
        internal: spec.internal.unwrap_or_default(),
        egress: spec.egress.is_some(),
        masquerade: spec.egress.as_ref().is_some_and(|egress| egress.masquerade),
        rules,
        classes,
        ports,
    })
}

/// The namespace and name of a Network.
#[must_use]
pub fn name_of(network: &Network) -> ObjectName {
    let meta = &network.metadata;
    ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// What mode Host can't honour: nothing stands between a model and the node's own network.
fn unusable_on_host(spec: &NetworkSpec) -> impl Iterator<Item = FieldError> {
    let why = "mode Host uses the node's network, whose traffic isn't filtered; only qos and attach have an effect";
    [
        ("spec.subnet", spec.subnet.is_some()),
        ("spec.ports", !spec.ports.is_empty()),
        ("spec.egress", spec.egress.is_some()),
        ("spec.internal", spec.internal == Some(Verdict::Deny)),
        ("spec.allow", !spec.allow.is_empty()),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(move |(field, _)| FieldError::new(field, why))
}

fn rules(given: &[AllowRule], errors: &mut Vec<FieldError>) -> Vec<Rule> {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut rules = Vec::new();
    for (i, rule) in given.iter().enumerate() {
        let name = rule.name.clone().unwrap_or_else(|| format!("allow[{i}]"));
        if let Some(first) = names.get(&name) {
            let message = format!("{name:?} is the name of allow[{first}] too");
            errors.push(FieldError::new(format!("spec.allow[{i}].name"), message));
            continue;
        }
        names.insert(name.clone(), i);
        let field = |part: &str| format!("spec.allow[{i}].{part}");
        let protocol = rule.protocol.map_or(ANY, number);
        let mut ports = Vec::new();
        for (k, text) in rule.ports.iter().enumerate() {
            match port_range(text) {
                Ok(range) => ports.push(range),
                Err(message) => errors.push(FieldError::new(format!("{}[{k}]", field("ports")), message)),
            }
        }
        if !rule.ports.is_empty() && protocol != TCP && protocol != UDP {
            errors.push(FieldError::new(field("ports"), "ports need protocol TCP or UDP"));
        }
        let peer = &rule.from;
        let from = match &peer.cidr {
            None => Source::Models {
                network: peer.network.clone(),
                selector: Selector { model: peer.model.clone(), labels: peer.match_labels.clone() },
            },
            Some(_) if peer.model.is_some() || peer.network.is_some() || !peer.match_labels.is_empty() => {
                errors.push(FieldError::new(field("from"), "cidr excludes model, matchLabels and network"));
                continue;
            }
            Some(cidr) => match Prefix::parse(cidr) {
                Ok(prefix) => Source::Outside(prefix),
                Err(error) => {
                    errors.push(FieldError::new(field("from.cidr"), error.to_string()));
                    continue;
                }
            },
        };
        let to = rule.to.clone().unwrap_or_default();
        let to = Selector { model: to.model, labels: to.match_labels };
        let ports = if ports.is_empty() { vec![(0, u16::MAX)] } else { joined(ports) };
        rules.push(Rule { name, from, to, protocol, ports });
    }
    rules
}

/// `80` or `8000-8100`.
fn port_range(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("{text:?}: expected ports from 1 to 65535, as 80 or 8000-8100");
    let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(bad);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("{text:?}: the first port {first} is above the last {last}"));
    }
    Ok((first, last))
}

/// Ranges in ascending order, those that touch as one.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut apart: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match apart.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => apart.push((first, last)),
        }
    }
    apart
}

fn classes(given: &[QosClass], errors: &mut Vec<FieldError>) -> Vec<Class> {
    let mut names = BTreeSet::new();
    let mut classes = Vec::new();
    for (i, class) in given.iter().enumerate() {
        let field = |part: &str| format!("spec.qos.classes[{i}].{part}");
        if !names.insert(&class.name) {
            errors.push(FieldError::new(field("name"), format!("{:?} is there twice", class.name)));
        }
        let mut rate = |part: &str, given: Option<&pullpiri_crds::quantity::Quantity>, least| {
            let parsed = given.map(|given| bits_per_second(&given.0, least)).transpose();
            parsed.map_err(|error| errors.push(FieldError::new(field(part), error.to_string()))).unwrap_or_default()
        };
        let guarantee_bps = rate("guarantee", class.guarantee.as_ref(), 0).unwrap_or(0);
        let ceiling_bps = rate("ceiling", class.ceiling.as_ref(), 1);
        if let Some(ceiling) = ceiling_bps.filter(|&ceiling| ceiling < guarantee_bps) {
            let message = format!("guarantee {guarantee_bps} bit/s exceeds ceiling {ceiling} bit/s");
            errors.push(FieldError::new(field("guarantee"), message));
        }
        for (part, value, most) in [("priority", Some(class.priority), MAX_PRIORITY), ("dscp", class.dscp, MAX_DSCP)] {
            if let Some(value) = value.filter(|value| !(0..=most).contains(value)) {
                errors.push(FieldError::new(field(part), format!("{value} isn't within 0 to {most}")));
            }
        }
        if class.selectors.is_empty() {
            errors.push(FieldError::new(field("selectors"), "a class needs at least one selector"));
        }
        let selectors = class_selectors(i, class, errors);
        classes.push(Class {
            name: class.name.clone(),
            priority: class.priority,
            guarantee_bps,
            ceiling_bps,
            dscp: class.dscp,
            selectors,
        });
    }
    classes
}

fn class_selectors(class_index: usize, class: &QosClass, errors: &mut Vec<FieldError>) -> Vec<ClassSelector> {
    let mut selectors = Vec::new();
    for (k, given) in class.selectors.iter().enumerate() {
        let field = |part: &str| format!("spec.qos.classes[{class_index}].selectors[{k}]{part}");
        let sender = Selector { model: given.model.clone(), labels: given.match_labels.clone() };
        if sender.is_empty() && given.port.is_none() && given.protocol.is_none() && given.dscp.is_none() {
            let message = "a selector needs at least one of model, matchLabels, port, protocol and dscp";
            errors.push(FieldError::new(field(""), message));
        }
        let port = given.port.map(|port| port_number(port).map_err(|message| FieldError::new(field(".port"), message)));
        let port = port.transpose().map_err(|error| errors.push(error)).unwrap_or_default().unwrap_or(0);
        if let Some(dscp) = given.dscp.filter(|dscp| !(0..=MAX_DSCP).contains(dscp)) {
            errors.push(FieldError::new(field(".dscp"), format!("{dscp} isn't within 0 to {MAX_DSCP}")));
        }
        let protocol = given.protocol.map_or(ANY, number);
        if port != 0 && protocol == ICMP {
            errors.push(FieldError::new(field(".port"), "ICMP has no ports"));
        }
        selectors.push(ClassSelector { sender, protocol, port, dscp: given.dscp });
    }
    selectors
}

fn published(index: usize, port: &PublishedPort, errors: &mut Vec<FieldError>) -> Option<Port> {
    let field = |part: &str| format!("spec.ports[{index}].{part}");
    let mut number = |part: &str, given: i32| {
        port_number(given).map_err(|message| errors.push(FieldError::new(field(part), message))).ok()
    };
    let host_port = number("hostPort", port.host_port);
    let target_port = number("targetPort", port.target_port.unwrap_or(port.host_port));
    let (host_port, target_port) = (host_port?, target_port?);
    let protocol = match port.protocol {
        None | Some(Protocol::Tcp) => TCP,
        Some(Protocol::Udp) => UDP,
    };
    let to = Selector { model: port.to.model.clone(), labels: port.to.match_labels.clone() };
    if to.is_empty() {
        errors.push(FieldError::new(field("to"), "model or matchLabels must be set"));
        return None;
    }
    Some(Port { host_port, target_port, protocol, to })
}

fn port_number(given: i32) -> Result<u16, String> {
    u16::try_from(given)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| format!("{given}: expected a port from 1 to 65535"))
}

const fn number(protocol: RuleProtocol) -> u8 {
    match protocol {
        RuleProtocol::Tcp => TCP,
        RuleProtocol::Udp => UDP,
        RuleProtocol::Icmp => ICMP,
    }
}
