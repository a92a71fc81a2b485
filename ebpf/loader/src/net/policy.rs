//! One generation of one node's policy, as the datapath takes it. The shapes follow NetworkSlice (`crds/src/slice.rs`), parsed.
//!
//! Units: ports and protocols are numbers of the wire; identities and ids mean something within one generation only. Names are what lasts.

use std::net::IpAddr;

use pullpiri_crds::network::Verdict;
use pullpiri_crds::prefix::{Prefix, PrefixError};
use pullpiri_crds::slice::{Incomplete, NetworkSliceSpec, whole};

/// A slice that can't be understood. A generation is taken whole or not at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SliceError {
    #[error("reading network slices: {0}")]
    Slices(#[from] Incomplete),
    #[error("reading network slices: {field} is {value}, {expected} was expected")]
    Field { field: String, value: String, expected: &'static str },
    #[error("reading network slices: {field}: {source}")]
    Prefix {
        field: String,
        #[source]
        source: PrefixError,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// From 1.
    pub id: u16,
    /// `<namespace>/<name>`.
    pub name: String,
    pub subnets: Vec<Prefix>,
    /// This node's addresses in it.
    pub gateways: Vec<IpAddr>,
    /// What is allowed inside without a rule.
    pub internal: Verdict,
    /// Whether its models may talk to addresses outside of all networks.
    pub egress: Verdict,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Here,
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `<namespace>/<ModelInstance>`.
    pub instance: String,
    pub uid: String,
    pub network: u16,
    /// From 1, below 2^31.
    pub identity: u32,
    /// None with the node's own network.
    pub addresses: Vec<IpAddr>,
    pub place: Place,
}

/// Where a rule lets connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Identity(u32),
    /// Addresses outside of all networks.
    Outside(Prefix),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// From 1. The lowest that matches is the one that counts.
    pub id: u32,
    /// `<namespace>/<network>/<rule>`: what it is counted under.
    pub name: String,
    pub from: Source,
    pub to: u32,
    /// 0: all; 1: ICMP and ICMPv6.
    pub protocol: u8,
    pub first_port: u16,
    pub last_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// 1 to 4095: the minor number in the uplink's HTB, and the order in which classes are tried.
    pub id: u16,
    /// `<namespace>/<network>/<class>`: what it is counted under.
    pub name: String,
    /// The code point that its packets get.
    pub dscp: Option<u8>,
}

/// Every field that is set must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub class: u16,
    pub network: u16,
    pub identity: Option<u32>,
    pub protocol: Option<u8>,
    /// Source or destination.
    pub port: Option<u16>,
    pub dscp: Option<u8>,
}

/// A port of this node that leads to a pod here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    pub host_port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// The pod's.
    pub address: IpAddr,
    pub target_port: u16,
}

/// Everything that one node enforces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    pub generation: u64,
    pub networks: Vec<Network>,
    pub endpoints: Vec<Endpoint>,
    pub rules: Vec<Rule>,
    pub classes: Vec<Class>,
    pub selectors: Vec<Selector>,
    pub ports: Vec<PublishedPort>,
}

/// Reads all slices of one node and one generation.
///
/// # Errors
/// When parts are missing or of different generations or nodes, or a field is out of its bounds.
pub fn from_slices(slices: &[NetworkSliceSpec]) -> Result<Compiled, SliceError> {
    let slices = whole(slices)?;
    let generation = slices.first().map_or(0, |slice| slice.generation);
    let mut compiled = Compiled { generation: number("generation", generation)?, ..Compiled::default() };
    for slice in slices {
        read_slice(slice, &mut compiled)?;
    }
    Ok(compiled)
}

fn read_slice(slice: &NetworkSliceSpec, compiled: &mut Compiled) -> Result<(), SliceError> {
    for (i, network) in slice.networks.iter().enumerate() {
        let field = |name: &str| format!("networks[{i}].{name}");
        compiled.networks.push(Network {
            id: number(&field("id"), network.id)?,
            name: network.name.clone(),
            subnets: [("v4", &network.v4), ("v6", &network.v6)]
                .into_iter()
                .filter_map(|(name, text)| text.as_deref().map(|text| prefix(&field(name), text)))
                .collect::<Result<_, _>>()?,
            gateways: addresses(&field("gateways"), &network.gateways)?,
            internal: network.internal,
            egress: if network.egress { Verdict::Allow } else { Verdict::Deny },
        });
    }
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        let field = |name: &str| format!("endpoints[{i}].{name}");
        compiled.endpoints.push(Endpoint {
            instance: endpoint.instance.clone(),
            uid: endpoint.uid.clone(),
            network: number(&field("network"), endpoint.network)?,
            identity: number(&field("identity"), endpoint.identity)?,
            addresses: addresses(&field("addresses"), &endpoint.addresses)?,
            place: if endpoint.node == slice.node_name { Place::Here } else { Place::Elsewhere },
        });
    }
    for (i, rule) in slice.rules.iter().enumerate() {
        let field = |name: &str| format!("rules[{i}].{name}");
        let name = || rule.name.clone();
        let (id, to) = (number(&field("id"), rule.id)?, number(&field("to"), rule.to)?);
        let protocol = number(&field("protocol"), rule.protocol)?;
        let first_port = number(&field("firstPort"), rule.first_port)?;
        let last_port = number(&field("lastPort"), rule.last_port)?;
        let mut push = |from| compiled.rules.push(Rule { id, name: name(), from, to, protocol, first_port, last_port });
        match (rule.from, &rule.cidr) {
            (0, Some(cidr)) => push(Source::Outside(prefix(&field("cidr"), cidr)?)),
            // Nobody's addresses.
            (0, None) => {}
            (from, _) => push(Source::Identity(number(&field("from"), from)?)),
        }
    }
    for (i, class) in slice.classes.iter().enumerate() {
        let field = |name: &str| format!("classes[{i}].{name}");
        compiled.classes.push(Class {
            id: number(&field("id"), class.id)?,
            name: class.name.clone(),
            dscp: class.dscp.map(|dscp| number(&field("dscp"), dscp)).transpose()?,
        });
    }
    for (i, selector) in slice.selectors.iter().enumerate() {
        let field = |name: &str| format!("selectors[{i}].{name}");
        let identity: u32 = number(&field("identity"), selector.identity)?;
        let protocol: u8 = number(&field("protocol"), selector.protocol)?;
        let port: u16 = number(&field("port"), selector.port)?;
        compiled.selectors.push(Selector {
            class: number(&field("class"), selector.class)?,
            network: number(&field("network"), selector.network)?,
            identity: (identity != 0).then_some(identity),
            protocol: (protocol != 0).then_some(protocol),
            port: (port != 0).then_some(port),
            dscp: selector.dscp.map(|dscp| number(&field("dscp"), dscp)).transpose()?,
        });
    }
    for (i, port) in slice.ports.iter().enumerate() {
        let field = |name: &str| format!("ports[{i}].{name}");
        compiled.ports.push(PublishedPort {
            host_port: number(&field("hostPort"), port.host_port)?,
            protocol: number(&field("protocol"), port.protocol)?,
            address: address(&field("address"), &port.address)?,
            target_port: number(&field("targetPort"), port.target_port)?,
        });
    }
    Ok(())
}

fn number<From: Copy + ToString, To: TryFrom<From>>(field: &str, value: From) -> Result<To, SliceError> {
    To::try_from(value).map_err(|_| SliceError::Field {
        field: field.to_owned(),
        value: value.to_string(),
        expected: "a number of that field's width",
    })
}

fn prefix(field: &str, text: &str) -> Result<Prefix, SliceError> {
    Prefix::parse(text).map_err(|source| SliceError::Prefix { field: field.to_owned(), source })
}

fn address(field: &str, text: &str) -> Result<IpAddr, SliceError> {
    text.parse().map_err(|_| SliceError::Field {
        field: field.to_owned(),
        value: text.to_owned(),
        expected: "an IP address",
    })
}

fn addresses(field: &str, texts: &[String]) -> Result<Vec<IpAddr>, SliceError> {
    texts.iter().map(|text| address(field, text)).collect()
}

#[cfg(test)]
mod tests {
    use pullpiri_crds::slice::SliceRule;

    use super::*;

    #[test]
    fn a_prefix_with_host_bits_is_refused_with_its_field() {
        let rule = |cidr: &str| SliceRule {
            id: 1,
            name: "default/drive/maps".to_owned(),
            from: 0,
            cidr: Some(cidr.to_owned()),
            to: 1,
            protocol: 0,
            first_port: 0,
            last_port: 65535,
        };
        let read = |cidr: &str| {
            let slice = NetworkSliceSpec { count: 1, rules: vec![rule(cidr)], ..NetworkSliceSpec::default() };
            from_slices(&[slice])
        };
        let from = read("10.0.0.0/8").unwrap().rules[0].from;
        assert_eq!(from, Source::Outside(Prefix::of("10.0.0.0".parse().unwrap(), 8)));
        for (bad, said) in [
            ("10.1.2.3/8", "the network is 10.0.0.0/8"),
            ("10.0.0.0/33", "longer than the 32 bits"),
            ("10.0.0.0", "is no network"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("rules[0].cidr") && error.contains(bad) && error.contains(said), "{error}");
        }
    }
}
