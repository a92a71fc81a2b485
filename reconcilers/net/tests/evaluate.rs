//! The reference evaluator: a table of who may talk to whom, and a comparison with the rules as they were declared.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use pullpiri_crds::model::Protocol;
use pullpiri_crds::network::{
    Egress, NetworkSpec, Peer, PublishedPort, Qos, QosSelector, RuleProtocol, Target, Verdict as Internal,
};
use pullpiri_crds::prefix::Prefix;
use pullpiri_crds::{ModelInstance, Network};
use pullpiri_net::evaluate::{Allowed, Denied, class};
use pullpiri_net::{Compiled, Packet, Verdict, compile, evaluate};
use world::{World, from_model, labels, network, node, rule, subnet};

fn packet(source: &str, destination: &str, protocol: u8, port: u16) -> Packet {
    Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: if protocol == 6 || protocol == 17 { 40_000 } else { 0 },
        destination_port: port,
        icmp_type: 8,
        dscp: 0,
    }
}

/// Two networks on one node: `open` with egress and a published port, `shut` that lets in three things.
fn policy() -> Compiled {
    let mut world = World { nodes: vec![node("a", "192.0.2.1", None)], ..World::default() };
    world.networks.push(network(
        "open",
        NetworkSpec {
            subnet: subnet("10.1.0.0/24", Some("fd01::/64")),
            egress: Some(Egress { masquerade: true }),
            ports: vec![PublishedPort {
                host_port: 8080,
                target_port: Some(80),
                protocol: Some(Protocol::Tcp),
                to: Target { model: None, match_labels: labels(&[("role", "web")]) },
            }],
            ..NetworkSpec::default()
        },
    ));
    let outside = Peer { cidr: Some("198.51.100.0/24".to_owned()), ..Peer::default() };
    world.networks.push(network(
        "shut",
        NetworkSpec {
            subnet: subnet("10.2.0.0/24", Some("fd02::/64")),
            internal: Some(Internal::Deny),
            allow: vec![
                rule(from_model("web", Some("open")), Some("brake"), Some(RuleProtocol::Tcp), &["7000-7002", "22"]),
                rule(outside, Some("brake"), Some(RuleProtocol::Udp), &["53"]),
                rule(from_model("brake", None), None, Some(RuleProtocol::Icmp), &[]),
            ],
            ..NetworkSpec::default()
        },
    ));
    // 10.1.0.2 and .3; 10.2.0.2 and .3.
    world.place("web", "web", &[("role", "web")], "open", "a");
    world.place("log", "log", &[], "open", "a");
    world.place("brake", "brake", &[], "shut", "a");
    world.place("screen", "screen", &[], "shut", "a");
    compile(&world.inputs(), &BTreeMap::new()).nodes.remove("a").unwrap()
}

#[test]
fn who_may_talk_to_whom() {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMP: u8 = 1;
    let policy = policy();
    for (source, destination, protocol, port, expected) in [
        // Inside of a network.
        ("10.1.0.2", "10.1.0.3", TCP, 1, "internal default/open"),
        ("fd01::2", "fd01::3", UDP, 9, "internal default/open"),
        ("10.2.0.2", "10.2.0.3", TCP, 1, "NoRule"),
        ("10.2.0.2", "10.2.0.3", ICMP, 0, "rule default/shut/allow[2]"),
        ("10.2.0.3", "10.2.0.2", ICMP, 0, "NoRule"),
        // Between networks.
        ("10.1.0.2", "10.2.0.2", TCP, 7000, "rule default/shut/allow[0]"),
        ("10.1.0.2", "10.2.0.2", TCP, 7002, "rule default/shut/allow[0]"),
        ("10.1.0.2", "10.2.0.2", TCP, 22, "rule default/shut/allow[0]"),
        ("fd01::2", "fd02::2", TCP, 22, "rule default/shut/allow[0]"),
        ("10.1.0.2", "10.2.0.2", TCP, 7003, "NoRule"),
        ("10.1.0.2", "10.2.0.2", UDP, 7000, "NoRule"),
        ("10.1.0.3", "10.2.0.2", TCP, 7000, "NoRule"),
        ("10.2.0.2", "10.1.0.2", TCP, 7000, "NoRule"),
        // The outside.
        ("10.1.0.2", "203.0.113.9", TCP, 443, "egress default/open"),
        ("10.1.0.2", "192.0.2.1", TCP, 443, "egress default/open"),
        ("10.2.0.2", "203.0.113.9", TCP, 443, "NoEgress"),
        ("198.51.100.7", "10.2.0.2", UDP, 53, "rule default/shut/allow[1]"),
        ("198.51.101.7", "10.2.0.2", UDP, 53, "NoRule"),
        ("198.51.100.7", "10.2.0.3", UDP, 53, "NoRule"),
        ("198.51.100.7", "10.1.0.2", TCP, 80, "published 8080"),
        ("198.51.100.7", "10.1.0.2", TCP, 8080, "NoRule"),
        ("10.2.0.2", "10.1.0.2", TCP, 80, "NoRule"),
        // Gateways.
        ("10.1.0.2", "10.1.0.1", ICMP, 0, "echo"),
        ("10.1.0.1", "10.1.0.2", ICMP, 0, "echo"),
        ("fd01::2", "fd01::1", 58, 0, "NoRule"),
        ("10.1.0.2", "10.1.0.1", TCP, 8080, "published 8080"),
        ("10.1.0.2", "10.1.0.1", TCP, 22, "NoRule"),
        ("10.2.0.2", "10.2.0.1", TCP, 8080, "published 8080"),
        ("10.2.0.2", "10.1.0.1", ICMP, 0, "NoRule"),
        ("10.1.0.1", "10.1.0.2", TCP, 80, "published 8080"),
        ("10.1.0.1", "10.1.0.3", TCP, 80, "NoRule"),
        // Nobody's addresses.
        ("10.1.0.2", "10.1.0.77", TCP, 1, "Vacant"),
        ("10.1.0.2", "10.1.0.255", UDP, 1, "Vacant"),
        ("10.1.0.2", "10.2.0.77", TCP, 1, "Vacant"),
        ("10.1.0.77", "10.1.0.2", TCP, 1, "Vacant"),
        ("10.1.0.2", "224.0.0.1", UDP, 1, "Scope"),
        ("10.1.0.2", "255.255.255.255", UDP, 67, "Scope"),
        ("fe80::1", "fd01::2", UDP, 1, "Scope"),
        ("10.1.0.2", "fd01::3", TCP, 1, "Families"),
        // Not ours.
        ("198.51.100.7", "192.0.2.1", TCP, 22, "not filtered"),
        ("192.0.2.1", "10.1.0.1", TCP, 22, "not filtered"),
    ] {
        let packet = packet(source, destination, protocol, port);
        let said = match evaluate(&policy, &packet).verdict {
            Verdict::Allowed(Allowed::NotFiltered) => "not filtered".to_owned(),
            Verdict::Allowed(Allowed::NeighbourDiscovery) => "discovery".to_owned(),
            Verdict::Allowed(Allowed::Internal { network, .. }) => format!("internal {network}"),
            Verdict::Allowed(Allowed::Rule { name, .. }) => format!("rule {name}"),
            Verdict::Allowed(Allowed::GatewayEcho) => "echo".to_owned(),
            Verdict::Allowed(Allowed::Published { host_port }) => format!("published {host_port}"),
            Verdict::Allowed(Allowed::Egress { network }) => format!("egress {network}"),
            Verdict::Denied(denied) => format!("{denied:?}"),
        };
        assert_eq!(said, expected, "{source} → {destination} {protocol}/{port}");
    }
}

#[test]
fn neighbours_are_discovered_on_their_own_link_only() {
    let policy = policy();
    let verdict = |source: &str, destination: &str, icmp_type| {
        evaluate(&policy, &Packet { icmp_type, ..packet(source, destination, 58, 0) }).verdict
    };
    let passes = Verdict::Allowed(Allowed::NeighbourDiscovery);
    for (source, destination) in [
        ("fd02::2", "ff02::1:ff00:1"),
        ("fd02::2", "fd02::1"),
        ("fd02::1", "fd02::2"),
        ("fd02::2", "fd02::3"),
        ("fd02::2", "fd02::77"),
        ("fe80::1", "fd02::2"),
        ("::", "ff02::1:ff00:2"),
    ] {
        assert_eq!(verdict(source, destination, 135), passes, "{source} → {destination}");
    }
    assert_eq!(verdict("fd02::2", "fd01::2", 135), Verdict::Denied(Denied::NoRule));
    assert_eq!(verdict("fd02::2", "2001:db8::1", 136), Verdict::Denied(Denied::NoEgress));
    assert_eq!(
        verdict("fd02::2", "fd02::3", 128),
        Verdict::Allowed(Allowed::Rule { id: 3, name: "default/shut/allow[2]".to_owned() })
    );
    assert_eq!(verdict("fd02::2", "ff02::1", 128), Verdict::Denied(Denied::Scope));
    assert_eq!(verdict("fd02::2", "fd02::1", 128), Verdict::Allowed(Allowed::GatewayEcho));
}

#[test]
fn the_first_class_that_matches_takes_a_packet() {
    let mut world = World { nodes: vec![node("a", "192.0.2.1", None)], ..World::default() };
    let any = QosSelector::default;
    let classes = vec![
        world::class("marked", None, vec![QosSelector { dscp: Some(46), protocol: Some(RuleProtocol::Udp), ..any() }]),
        world::class("port", None, vec![QosSelector { port: Some(7001), ..any() }]),
        world::class("video", None, vec![QosSelector { model: Some("video".to_owned()), ..any() }]),
        world::class("icmp", None, vec![QosSelector { protocol: Some(RuleProtocol::Icmp), ..any() }]),
    ];
    let spec =
        NetworkSpec { subnet: subnet("10.1.0.0/24", None), qos: Some(Qos { classes }), ..NetworkSpec::default() };
    world.networks.push(network("net", spec));
    world.place("video", "video", &[], "net", "a");
    world.place("log", "log", &[], "net", "a");
    let policy = compile(&world.inputs(), &BTreeMap::new()).nodes.remove("a").unwrap();
    let (video, log) = ("10.1.0.2", "10.1.0.3");
    let name = |packet: Packet| evaluate(&policy, &packet).class.map(|c| c.name.replace("default/net/", ""));
    let of = |sender: &str| packet(sender, "10.1.0.9", 17, 1);
    assert_eq!(name(of(log)), None);
    assert_eq!(name(Packet { dscp: 46, ..of(log) }).as_deref(), Some("marked"));
    assert_eq!(name(Packet { dscp: 46, protocol: 6, ..of(log) }), None);
    assert_eq!(name(Packet { destination_port: 7001, ..of(log) }).as_deref(), Some("port"));
    assert_eq!(name(Packet { source_port: 7001, ..of(video) }).as_deref(), Some("port"));
    assert_eq!(name(Packet { source_port: 7001, protocol: 132, ..of(log) }), None, "no ports that we know of");
    assert_eq!(name(of(video)).as_deref(), Some("video"));
    assert_eq!(name(Packet { protocol: 58, ..of(log) }).as_deref(), Some("icmp"));
    assert_eq!(name(packet("203.0.113.1", log, 17, 7001)), None, "nobody of ours sends it");
    let video = policy.endpoints.iter().find(|e| e.model == "video").unwrap();
    assert_eq!(class(&policy, video, &of("10.1.0.99")).unwrap().id, 3);
}

/// Whether the rules as declared let a connection through, in the plainest way.
fn declared(networks: &[Network], from: &ModelInstance, to: &ModelInstance, packet: &Packet) -> bool {
    let of = |i: &ModelInstance| i.spec.network.as_ref().unwrap().name.clone();
    let spec = &networks.iter().find(|n| n.metadata.name == Some(of(to))).unwrap().spec;
    if of(from) == of(to) && spec.internal != Some(Internal::Deny) {
        return true;
    }
    let labels = |wanted: &BTreeMap<String, String>, i: &ModelInstance| {
        wanted.iter().all(|(k, v)| i.spec.template.labels.get(k) == Some(v))
    };
    spec.allow.iter().any(|rule| {
        let peer = &rule.from;
        let target = rule.to.clone().unwrap_or_default();
        peer.cidr.is_none()
            && peer.network.clone().unwrap_or(of(to)) == of(from)
            && peer.model.as_ref().is_none_or(|m| *m == from.spec.model)
            && labels(&peer.match_labels, from)
            && target.model.as_ref().is_none_or(|m| *m == to.spec.model)
            && labels(&target.match_labels, to)
            && passes(rule.protocol, &rule.ports, packet)
    })
}

fn passes(protocol: Option<RuleProtocol>, ports: &[String], packet: &Packet) -> bool {
    let fits = match protocol {
        None => true,
        Some(RuleProtocol::Tcp) => packet.protocol == 6,
        Some(RuleProtocol::Udp) => packet.protocol == 17,
        Some(RuleProtocol::Icmp) => packet.protocol == 1 || packet.protocol == 58,
    };
    fits && (ports.is_empty()
        || ports.iter().any(|text| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&packet.destination_port)
        }))
}

fn first_class(spec: &NetworkSpec, sender: &ModelInstance, packet: &Packet) -> Option<String> {
    let ports = matches!(packet.protocol, 6 | 17);
    spec.qos.iter().flat_map(|q| &q.classes).find_map(|class| {
        let hit = class.selectors.iter().any(|s| {
            s.model.as_ref().is_none_or(|m| *m == sender.spec.model)
                && s.match_labels.iter().all(|(k, v)| sender.spec.template.labels.get(k) == Some(v))
                && s.port.is_none_or(|p| {
                    ports && (i32::from(packet.source_port) == p || i32::from(packet.destination_port) == p)
                })
                && passes(s.protocol, &[], packet)
                && s.dscp.is_none_or(|d| d == i32::from(packet.dscp))
        });
        hit.then(|| class.name.clone())
    })
}

fn any_packet() -> impl Strategy<Value = (u8, u16, u16, u8)> {
    (
        proptest::sample::select(vec![1, 6, 17, 58, 132]),
        proptest::sample::select(vec![0, 80, 7001, 7002, 150, 9000, 9001]),
        proptest::sample::select(vec![40_000, 80, 7001]),
        0..4_u8,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What was compiled, evaluated on either node, says what was declared.
    #[test]
    fn compiled_rules_say_what_was_declared(world in world::world(), packets in proptest::collection::vec(any_packet(), 4)) {
        let nodes = compile(&world.inputs(), &BTreeMap::new()).nodes;
        for from in &world.instances {
            for to in world.instances.iter().filter(|to| to.metadata.name != from.metadata.name) {
                for (protocol, destination_port, source_port, dscp) in &packets {
                    let first = |i: &ModelInstance| i.spec.network.as_ref().unwrap().addresses[0].parse::<IpAddr>().unwrap();
                    let packet = Packet {
                        source: first(from), destination: first(to), protocol: *protocol, source_port: *source_port,
                        destination_port: *destination_port, icmp_type: 0, dscp: *dscp,
                    };
                    let expected = declared(&world.networks, from, to, &packet);
                    let receiver = &nodes[&to.spec.node_name];
                    let knows = |policy: &Compiled, i: &ModelInstance| {
                        let name = format!("default/{}", i.metadata.name.as_ref().unwrap());
                        policy.endpoints.iter().any(|e| e.instance == name)
                    };
                    if knows(receiver, from) {
                        prop_assert_eq!(evaluate(receiver, &packet).verdict.is_allowed(), expected);
                    } else {
                        prop_assert!(!expected, "a sender that may is known to the receiver's node");
                    }
                    let sender = &nodes[&from.spec.node_name];
                    let evaluation = evaluate(sender, &packet);
                    if knows(sender, to) {
                        prop_assert_eq!(evaluation.verdict.is_allowed(), expected);
                    } else {
                        prop_assert!(!expected, "a receiver that one may reach is known to the sender's node");
                    }
                    let network = &from.spec.network.as_ref().unwrap().name;
                    let spec = &world.networks.iter().find(|n| n.metadata.name.as_ref() == Some(network)).unwrap().spec;
                    let class = evaluation.class.map(|c| c.name.rsplit_once('/').unwrap().1.to_owned());
                    prop_assert_eq!(class, first_class(spec, from, &packet));
                }
            }
        }
    }

    /// From the outside: by a rule with a prefix, or by a published port.
    #[test]
    fn the_outside_comes_in_by_prefix_or_published_port(world in world::world(), given in any_packet(), source in any::<u32>()) {
        let nodes = compile(&world.inputs(), &BTreeMap::new()).nodes;
        for to in &world.instances {
            let joined = to.spec.network.as_ref().unwrap();
            let policy = &nodes[&to.spec.node_name];
            for source in [IpAddr::from(source.to_be_bytes()), "192.0.2.77".parse().unwrap(), "198.51.100.7".parse().unwrap()] {
                let ours = Prefix::parse("10.0.0.0/14").unwrap();
                let IpAddr::V4(v4) = source else { continue };
                if ours.contains(source) || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_link_local() || v4.is_loopback() {
                    continue;
                }
                let packet = Packet {
                    source, destination: joined.addresses[0].parse().unwrap(), protocol: given.0, source_port: given.2,
                    destination_port: given.1, icmp_type: 0, dscp: given.3,
                };
                let spec = &world.networks.iter().find(|n| n.metadata.name.as_ref() == Some(&joined.name)).unwrap().spec;
                let by_rule = spec.allow.iter().any(|rule| {
                    let target = rule.to.clone().unwrap_or_default();
                    rule.from.cidr.as_ref().is_some_and(|cidr| Prefix::parse(cidr).unwrap().contains(source))
                        && target.model.as_ref().is_none_or(|m| *m == to.spec.model)
                        && target.match_labels.iter().all(|(k, v)| to.spec.template.labels.get(k) == Some(v))
                        && passes(rule.protocol, &rule.ports, &packet)
                });
                match evaluate(policy, &packet).verdict {
                    Verdict::Allowed(Allowed::Rule { .. }) => prop_assert!(by_rule),
                    Verdict::Allowed(Allowed::Published { host_port }) => {
                        prop_assert!(!by_rule);
                        prop_assert!(spec.ports.iter().any(|p| p.host_port == i32::from(host_port)) && packet.destination_port == 7001);
                    }
                    Verdict::Denied(Denied::NoRule) => prop_assert!(!by_rule),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }

    #[test]
    fn anything_can_be_asked(world in world::world(), a in any::<u128>(), b in any::<u128>(), given in any_packet()) {
        for policy in compile(&world.inputs(), &BTreeMap::new()).nodes.values() {
            let packet = Packet {
                source: IpAddr::from(a.to_be_bytes()), destination: IpAddr::from(b.to_be_bytes()), protocol: given.0,
                source_port: given.2, destination_port: given.1, icmp_type: given.3, dscp: 0,
            };
            let _total = evaluate(policy, &packet);
        }
    }
}
