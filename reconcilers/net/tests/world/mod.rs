//! Networks, instances and nodes for tests, written out or drawn at random.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use pullpiri_crds::instance::{InstanceNetwork, Template};
use pullpiri_crds::model::ModelSpec;
use pullpiri_crds::network::{
    AllowRule, Egress, NetworkSpec, Peer, PublishedPort, Qos, QosClass, QosSelector, RuleProtocol, Subnet, Target,
    Verdict,
};
use pullpiri_crds::node::{NodeNetwork, NodeRuntimeSpec, NodeRuntimeStatus};
use pullpiri_crds::quantity::Quantity;
use pullpiri_crds::{ModelInstance, ModelInstanceSpec, Network, NodeRuntime};
use pullpiri_net::ipam::Pool;
use pullpiri_net::{Inputs, ObjectName};

pub const NS: &str = "default";

#[derive(Clone, Debug, Default)]
pub struct World {
    pub networks: Vec<Network>,
    pub instances: Vec<ModelInstance>,
    pub nodes: Vec<NodeRuntime>,
}

impl World {
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            networks: self.networks.iter().collect(),
            instances: self.instances.iter().collect(),
            nodes: self.nodes.iter().collect(),
            models: MODELS.iter().map(|model| ObjectName::new(NS, *model)).collect(),
            ..Inputs::default()
        }
    }

    /// The instance gets the lowest free addresses of its network.
    pub fn place(&mut self, name: &str, model: &str, labels: &[(&str, &str)], network: &str, node: &str) {
        let spec = &self.networks.iter().find(|n| n.metadata.name.as_deref() == Some(network)).unwrap().spec;
        let pool = Pool::new(spec.subnet.as_ref().unwrap()).unwrap();
        let used: BTreeSet<_> = self
            .instances
            .iter()
            .filter_map(|i| i.spec.network.as_ref())
            .flat_map(|n| n.addresses.iter().map(|a| a.parse().unwrap()))
            .collect();
        let texts = |addresses: Vec<std::net::IpAddr>| addresses.iter().map(ToString::to_string).collect();
        let joined = InstanceNetwork {
            name: network.to_owned(),
            addresses: texts(pool.allocate(&used).unwrap()),
            gateways: texts(pool.gateways()),
        };
        self.instances.push(instance(name, model, labels, Some(joined), node));
    }
}

pub fn network(name: &str, spec: NetworkSpec) -> Network {
    let mut network = Network::new(name, spec);
    network.metadata.namespace = Some(NS.to_owned());
    network
}

pub fn subnet(v4: &str, v6: Option<&str>) -> Option<Subnet> {
    Some(Subnet { v4: Some(v4.to_owned()), v6: v6.map(str::to_owned) })
}

pub fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn instance(
    name: &str,
    model: &str,
    pairs: &[(&str, &str)],
    network: Option<InstanceNetwork>,
    node: &str,
) -> ModelInstance {
    let host = network.is_none();
    let spec = ModelInstanceSpec {
        package: "p".to_owned(),
        model: model.to_owned(),
        node_name: node.to_owned(),
        template: Arc::new(Template {
            labels: labels(pairs),
            spec: ModelSpec { host_network: Some(host), ..ModelSpec::default() },
            ..Template::default()
        }),
        run: true,
        epoch: 1,
        realtime: Vec::new(),
        network,
    };
    let mut instance = ModelInstance::new(name, spec);
    instance.metadata.namespace = Some(NS.to_owned());
    instance.metadata.uid = Some(format!("uid-{name}"));
    instance
}

/// With an address of IPv6 beside the one of IPv4.
pub fn node(name: &str, address: &str, link_bps: Option<i64>) -> NodeRuntime {
    let last = address.rsplit('.').next().unwrap_or_default();
    let mut node = NodeRuntime::new(name, NodeRuntimeSpec::default());
    node.status = Some(NodeRuntimeStatus {
        network: Some(NodeNetwork {
            backend: "tcx+htb".to_owned(),
            uplink: Some("eth0".to_owned()),
            link_bps,
            addresses: vec![address.to_owned(), format!("fd09::{last}")],
            generation: None,
        }),
        ..NodeRuntimeStatus::default()
    });
    node
}

pub fn rule(from: Peer, to: Option<&str>, protocol: Option<RuleProtocol>, ports: &[&str]) -> AllowRule {
    AllowRule {
        name: None,
        from,
        to: to.map(|model| Target { model: Some(model.to_owned()), ..Target::default() }),
        ports: ports.iter().map(|p| (*p).to_owned()).collect(),
        protocol,
    }
}

pub fn from_model(model: &str, network: Option<&str>) -> Peer {
    Peer { model: Some(model.to_owned()), network: network.map(str::to_owned), ..Peer::default() }
}

pub fn class(name: &str, guarantee: Option<&str>, selectors: Vec<QosSelector>) -> QosClass {
    QosClass {
        name: name.to_owned(),
        priority: 0,
        guarantee: guarantee.map(|g| Quantity(g.to_owned())),
        ceiling: None,
        dscp: None,
        selectors,
    }
}

pub const MODELS: [&str; 5] = ["brake", "sensor", "video", "screen", "log"];
pub const NODES: [&str; 3] = ["hpc", "zone", "rear"];

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    proptest::sample::subsequence(vec![("role", "a"), ("tier", "x"), ("side", "l")], 0..=3)
}

fn selector_labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    proptest::sample::subsequence(vec![("role", "a"), ("tier", "x"), ("side", "r")], 0..=1).prop_map(|p| labels(&p))
}

fn model_name() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(proptest::sample::select(MODELS.to_vec()).prop_map(str::to_owned))
}

fn protocol() -> impl Strategy<Value = Option<RuleProtocol>> {
    proptest::option::of(proptest::sample::select(vec![RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Icmp]))
}

fn allow_rule() -> impl Strategy<Value = AllowRule> {
    let other = proptest::option::of(proptest::sample::select(vec!["net0", "net1", "net2", "absent"]));
    let cidr = proptest::option::weighted(
        0.3,
        proptest::sample::select(vec!["0.0.0.0/0", "::/0", "192.0.2.0/24", "198.51.100.7/32", "10.0.0.0/8"]),
    );
    let ports = proptest::sample::select(vec![vec![], vec!["80"], vec!["7000-7002"], vec!["1-100", "50-200", "9000"]]);
    (model_name(), selector_labels(), other, cidr, model_name(), selector_labels(), protocol(), ports).prop_map(
        |(model, match_labels, network, cidr, to, to_labels, protocol, ports)| {
            let from = match cidr {
                Some(cidr) => Peer { cidr: Some(cidr.to_owned()), ..Peer::default() },
                None => Peer { model, match_labels, network: network.map(str::to_owned), cidr: None },
            };
            let with_ports = matches!(protocol, Some(RuleProtocol::Tcp | RuleProtocol::Udp));
            AllowRule {
                name: None,
                from,
                to: Some(Target { model: to, match_labels: to_labels }),
                ports: if with_ports { ports.into_iter().map(str::to_owned).collect() } else { Vec::new() },
                protocol,
            }
        },
    )
}

fn qos_class() -> impl Strategy<Value = Vec<QosSelector>> {
    let one =
        (model_name(), selector_labels(), proptest::option::of(proptest::sample::select(vec![80, 7001])), 0..4_u8)
            .prop_map(|(model, match_labels, port, kind)| QosSelector {
                model,
                match_labels,
                port,
                protocol: (kind == 1).then_some(RuleProtocol::Udp),
                // So that a selector is never empty.
                dscp: (kind == 2 || port.is_none()).then_some(i32::from(kind)),
            });
    proptest::collection::vec(one, 1..3)
}

fn spec(index: usize) -> impl Strategy<Value = NetworkSpec> {
    let dual = any::<bool>();
    let rules = proptest::collection::vec(allow_rule(), 0..6);
    let classes = proptest::collection::vec(qos_class(), 0..4);
    let ports = proptest::collection::vec((proptest::sample::select(vec![80, 8080]), any::<bool>()), 0..3);
    (dual, any::<bool>(), proptest::option::of(any::<bool>()), rules, classes, ports).prop_map(
        move |(dual, deny, egress, allow, classes, ports)| NetworkSpec {
            subnet: subnet(&format!("10.{index}.0.0/24"), dual.then_some(format!("fd00:{index}::/64")).as_deref()),
            internal: deny.then_some(Verdict::Deny),
            egress: egress.map(|masquerade| Egress { masquerade }),
            allow,
            qos: (!classes.is_empty()).then(|| Qos {
                classes: classes.into_iter().enumerate().map(|(i, s)| class(&format!("c{i}"), Some("1M"), s)).collect(),
            }),
            ports: ports
                .into_iter()
                .map(|(host_port, udp)| PublishedPort {
                    host_port,
                    target_port: Some(7001),
                    protocol: udp.then_some(pullpiri_crds::model::Protocol::Udp),
                    to: Target { model: None, match_labels: labels(&[("role", "a")]) },
                })
                .collect(),
            ..NetworkSpec::default()
        },
    )
}

/// Up to three bridged networks on three nodes, and up to 14 instances.
pub fn world() -> impl Strategy<Value = World> {
    let placements = proptest::collection::vec(
        (0..MODELS.len(), pairs(), 0..3_usize, proptest::sample::select(NODES.to_vec())),
        0..14,
    );
    (spec(0), spec(1), spec(2), 1..=3_usize, placements).prop_map(|(a, b, c, count, placements)| {
        let mut world = World {
            networks: [a, b, c]
                .into_iter()
                .take(count)
                .enumerate()
                .map(|(i, spec)| network(&format!("net{i}"), spec))
                .collect(),
            nodes: NODES
                .iter()
                .zip(1..)
                .map(|(name, i)| node(name, &format!("192.0.2.{i}"), Some(1_000_000_000)))
                .collect(),
            instances: Vec::new(),
        };
        for (i, (model, pairs, net, node)) in placements.into_iter().enumerate() {
            let model = MODELS[model];
            world.place(&format!("{model}-{i}"), model, &pairs, &format!("net{}", net % count), node);
        }
        world
    })
}
