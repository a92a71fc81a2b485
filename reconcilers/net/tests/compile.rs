//! What nodes are told: of what concerns them, in numbers that stay, whatever the order in which objects are given.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::ModelInstanceStatus;
use pullpiri_crds::model::{Adapter, Container, ContainerPort};
use pullpiri_crds::network::{NetworkMode, NetworkSpec, Peer, PublishedPort, Qos, QosSelector, RuleProtocol, Verdict};
use pullpiri_net::slices::{self, Incomplete};
use pullpiri_net::{Compiled, ObjectName, Outcome, compile};
use world::{World, class, from_model, instance, labels, network, node, rule, subnet};

fn nothing() -> BTreeMap<String, Compiled> {
    BTreeMap::new()
}

fn review<'a>(outcome: &'a Outcome, name: &str) -> &'a pullpiri_net::Review {
    &outcome.reviews[&ObjectName::new(world::NS, name)]
}

fn messages(outcome: &Outcome, name: &str) -> Vec<String> {
    review(outcome, name).invalid.iter().map(|p| format!("{}: {}", p.reason, p.message)).collect()
}

/// The example brake-and-video: a sensor and a screen on one node, a brake and a video on another.
fn brake_and_video() -> World {
    let mut world = World::default();
    let udp = QosSelector { protocol: Some(RuleProtocol::Udp), port: Some(7001), ..QosSelector::default() };
    let sender = |model: &str| QosSelector { model: Some(model.to_owned()), ..QosSelector::default() };
    world.networks.push(network(
        "chassis",
        NetworkSpec {
            subnet: subnet("10.20.0.0/24", Some("fd00:20::/64")),
            internal: Some(Verdict::Deny),
            allow: vec![
                rule(
                    Peer { match_labels: labels(&[("role", "sensor")]), ..Peer::default() },
                    Some("brake"),
                    Some(RuleProtocol::Udp),
                    &["7001"],
                ),
                rule(from_model("video", None), Some("screen"), Some(RuleProtocol::Tcp), &["7002"]),
            ],
            qos: Some(Qos {
                classes: vec![
                    class("control", Some("20M"), vec![udp]),
                    class("video", Some("10M"), vec![sender("video"), sender("screen")]),
                ],
            }),
            ..NetworkSpec::default()
        },
    ));
    world.nodes = vec![node("hpc", "192.0.2.1", Some(100_000_000)), node("zone", "192.0.2.2", None)];
    world.place("brake-1", "brake", &[("role", "brake")], "chassis", "hpc");
    world.place("video-1", "video", &[], "chassis", "hpc");
    world.place("sensor-1", "sensor", &[("role", "sensor")], "chassis", "zone");
    world.place("sensor-2", "sensor", &[("role", "sensor")], "chassis", "zone");
    world.place("screen-1", "screen", &[], "chassis", "zone");
    world
}

#[test]
fn a_node_is_told_what_it_needs() {
    let world = brake_and_video();
    let outcome = compile(&world.inputs(), &nothing());
    let hpc = &outcome.nodes["hpc"];
    assert_eq!(hpc.networks.len(), 1);
    let net = &hpc.networks[0];
    assert_eq!((net.id, net.name.as_str(), net.v4.as_deref()), (1, "default/chassis", Some("10.20.0.0/24")));
    assert_eq!(net.gateways, ["10.20.0.1", "fd00:20::1"]);
    assert!(!net.egress && net.internal == Verdict::Deny);
    let endpoint = |name: &str| hpc.endpoints.iter().find(|e| e.instance == format!("default/{name}")).unwrap();
    assert_eq!(endpoint("brake-1").addresses, ["10.20.0.2", "fd00:20::2"]);
    assert_eq!(endpoint("brake-1").via, [""; 0]);
    assert_eq!(endpoint("sensor-1").via, ["192.0.2.2", "fd09::2"]);
    assert_eq!(endpoint("sensor-1").identity, endpoint("sensor-2").identity, "no rule tells them apart");
    let identities: BTreeSet<i32> = hpc.endpoints.iter().map(|e| e.identity).collect();
    assert_eq!(identities, (1..=4).collect());
    assert_eq!(hpc.rules.len(), 2);
    let readings = &hpc.rules[0];
    assert_eq!(readings.name, "default/chassis/allow[0]");
    assert_eq!((readings.from, readings.to), (endpoint("sensor-1").identity, endpoint("brake-1").identity));
    assert_eq!((readings.protocol, readings.first_port, readings.last_port), (17, 7001, 7001));
    let classes: Vec<_> = hpc.classes.iter().map(|c| (c.id, c.name.as_str(), c.guarantee_bps)).collect();
    assert_eq!(classes, [(1, "default/chassis/control", 20_000_000), (2, "default/chassis/video", 10_000_000)]);
    // Of the video class only the sender that is here.
    let selectors: Vec<_> = hpc.selectors.iter().map(|s| (s.class, s.identity, s.protocol, s.port)).collect();
    assert_eq!(selectors, [(1, 0, 17, 7001), (2, endpoint("video-1").identity, 0, 0)]);
    assert_eq!(review(&outcome, "chassis").members, [("hpc".to_owned(), 2), ("zone".to_owned(), 3)].into());
    assert_eq!(review(&outcome, "chassis").addresses, 5);
}

#[test]
fn what_does_not_concern_a_node_does_not_reach_it() {
    let mut world = brake_and_video();
    world
        .networks
        .push(network("other", NetworkSpec { subnet: subnet("10.21.0.0/24", None), ..NetworkSpec::default() }));
    world.nodes.push(node("rear", "192.0.2.3", None));
    let before = compile(&world.inputs(), &nothing());
    world.place("log-1", "log", &[], "other", "rear");
    world.place("log-2", "log", &[], "other", "rear");
    let after = compile(&world.inputs(), &before.nodes);
    assert_eq!(before.nodes["hpc"], after.nodes["hpc"]);
    assert_eq!(before.nodes["zone"], after.nodes["zone"]);
    let rear = &after.nodes["rear"];
    assert_eq!((rear.networks.len(), rear.endpoints.len(), rear.rules.len(), rear.classes.len()), (1, 2, 0, 0));
    assert_eq!(rear.endpoints[0].identity, rear.endpoints[1].identity);
}

#[test]
fn a_rule_from_another_network_tells_both_sides() {
    let mut world =
        World { nodes: vec![node("a", "192.0.2.1", None), node("b", "192.0.2.2", None)], ..World::default() };
    let spec = |v4: &str, allow| NetworkSpec { subnet: subnet(v4, None), allow, ..NetworkSpec::default() };
    world
        .networks
        .push(network("in", spec("10.1.0.0/24", vec![rule(from_model("log", Some("out")), Some("brake"), None, &[])])));
    world.networks.push(network("out", spec("10.2.0.0/24", vec![])));
    world.place("brake-1", "brake", &[], "in", "a");
    world.place("screen-1", "screen", &[], "in", "a");
    world.place("log-1", "log", &[], "out", "b");
    world.place("video-1", "video", &[], "out", "b");
    let outcome = compile(&world.inputs(), &nothing());
    let names = |node: &str| -> Vec<&str> {
        outcome.nodes[node].endpoints.iter().map(|e| e.instance.strip_prefix("default/").unwrap()).collect()
    };
    assert_eq!(names("a"), ["brake-1", "log-1", "screen-1"]);
    assert_eq!(names("b"), ["brake-1", "log-1", "video-1"]);
    for node in ["a", "b"] {
        let compiled = &outcome.nodes[node];
        assert_eq!(compiled.rules.len(), 1);
        assert_eq!(compiled.networks.len(), 1, "only networks with an instance here");
        assert_ne!(compiled.endpoints[0].network, compiled.endpoints[1].network);
    }
}

#[test]
fn numbers_stay_when_something_else_changes() {
    let mut world = brake_and_video();
    let before = compile(&world.inputs(), &nothing());
    // A rule in front of the others, and a class too.
    let spec = &mut world.networks[0].spec;
    for (i, rule) in spec.allow.iter_mut().enumerate() {
        rule.name = Some(format!("r{i}"));
    }
    let named = compile(&world.inputs(), &before.nodes);
    let spec = &mut world.networks[0].spec;
    let mut first = rule(from_model("screen", None), Some("video"), None, &[]);
    first.name = Some("first".to_owned());
    spec.allow.insert(0, first);
    let after = compile(&world.inputs(), &named.nodes);
    let of = |outcome: &Outcome, name: &str| {
        let node = &outcome.nodes["hpc"];
        let rule = node.rules.iter().find(|r| r.name == format!("default/chassis/{name}")).unwrap().clone();
        (rule.id, rule.from, rule.to)
    };
    assert_eq!(of(&named, "r0"), of(&after, "r0"));
    assert_eq!(of(&named, "r1"), of(&after, "r1"));
    assert_eq!(named.nodes["hpc"].endpoints, after.nodes["hpc"].endpoints);
}

#[test]
fn networks_that_contradict_themselves_compile_to_nothing() {
    let mut world = brake_and_video();
    let spec = &mut world.networks[0].spec;
    spec.allow[0].ports = vec!["0".to_owned(), "90-80".to_owned(), "65536".to_owned()];
    spec.allow[1].from.cidr = Some("192.0.2.0/24".to_owned());
    let qos = spec.qos.as_mut().unwrap();
    qos.classes[0].ceiling = Some(pullpiri_crds::quantity::Quantity("10M".to_owned()));
    qos.classes[1].name = "control".to_owned();
    qos.classes[1].selectors[0] = QosSelector::default();
    let outcome = compile(&world.inputs(), &nothing());
    assert!(outcome.nodes.is_empty());
    assert_eq!(
        messages(&outcome, "chassis"),
        [
            "NetworkInvalid: spec.allow[0].ports[0]: \"0\": expected ports from 1 to 65535, as 80 or 8000-8100",
            "NetworkInvalid: spec.allow[0].ports[1]: \"90-80\": the first port 90 is above the last 80",
            "NetworkInvalid: spec.allow[0].ports[2]: \"65536\": expected ports from 1 to 65535, as 80 or 8000-8100",
            "NetworkInvalid: spec.allow[1].from: cidr excludes model, matchLabels and network",
            "NetworkInvalid: spec.qos.classes[0].guarantee: guarantee 20000000 bit/s exceeds ceiling 10000000 bit/s",
            "NetworkInvalid: spec.qos.classes[1].name: \"control\" is there twice",
            "NetworkInvalid: spec.qos.classes[1].selectors[0]: a selector needs at least one of model, matchLabels, port, protocol and dscp",
        ]
    );
}

#[test]
fn of_two_subnets_that_overlap_the_older_stays() {
    let mut world = brake_and_video();
    world
        .networks
        .push(network("also", NetworkSpec { subnet: subnet("10.20.0.128/25", None), ..NetworkSpec::default() }));
    world
        .networks
        .push(network("link", NetworkSpec { subnet: subnet("192.0.2.0/30", None), ..NetworkSpec::default() }));
    let outcome = compile(&world.inputs(), &nothing());
    // Equally old: the first by name.
    assert!(messages(&outcome, "also").is_empty());
    assert_eq!(
        messages(&outcome, "chassis"),
        [
            "SubnetOverlaps: spec.subnet.v4: 10.20.0.0/24 overlaps 10.20.0.128/25 of Network default/also, which is older"
        ]
    );
    assert_eq!(
        messages(&outcome, "link"),
        [
            "SubnetOverlaps: spec.subnet.v4: 192.0.2.0/30 holds 192.0.2.1, the address of node hpc",
            "SubnetOverlaps: spec.subnet.v4: 192.0.2.0/30 holds 192.0.2.2, the address of node zone",
        ]
    );
    assert!(outcome.nodes.is_empty(), "its endpoints are denied: {:?}", outcome.nodes);
    // One that is older by its creation stays, whatever it is called.
    let made: pullpiri_crds::Network = serde_json::from_value(serde_json::json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "spec": {},
        "metadata": {"name": "also", "creationTimestamp": "2026-01-01T00:00:00Z"},
    }))
    .unwrap();
    let also = world.networks.iter_mut().find(|n| n.metadata.name.as_deref() == Some("also")).unwrap();
    also.metadata.creation_timestamp = made.metadata.creation_timestamp;
    let outcome = compile(&world.inputs(), &nothing());
    assert!(messages(&outcome, "chassis").is_empty());
    assert!(messages(&outcome, "also")[0].contains("overlaps 10.20.0.0/24 of Network default/chassis"));
}

#[test]
fn guarantees_beyond_a_link_take_the_classes_and_nothing_else() {
    let mut world = brake_and_video();
    world.nodes[0] = node("hpc", "192.0.2.1", Some(25_000_000));
    let outcome = compile(&world.inputs(), &nothing());
    let problem = review(&outcome, "chassis").unshared.clone().unwrap();
    assert_eq!(problem.reason, reason::GUARANTEE_EXCEEDS_LINK);
    assert!(problem.message.contains("30000000 bit/s") && problem.message.contains("25000000 bit/s"), "{problem:?}");
    for node in ["hpc", "zone"] {
        let compiled = &outcome.nodes[node];
        assert!(compiled.classes.is_empty() && compiled.selectors.is_empty());
        assert_eq!(compiled.rules.len(), 2);
    }
}

#[test]
fn guarantees_that_no_node_could_keep_are_refused_before_anybody_is_placed() {
    let mut world = brake_and_video();
    world.instances.clear();
    let refused = |world: &World| review(&compile(&world.inputs(), &nothing()), "chassis").unshared.clone();
    world.nodes[0] = node("hpc", "192.0.2.1", Some(25_000_000));
    assert_eq!(refused(&world), None, "the link of zone isn't known");
    world.nodes[1] = node("zone", "192.0.2.2", Some(29_999_999));
    let problem = refused(&world).unwrap();
    assert!(problem.message.contains("30000000 bit/s") && problem.message.contains("29999999 bit/s"), "{problem:?}");
    world.nodes[1] = node("zone", "192.0.2.2", Some(30_000_000));
    assert_eq!(refused(&world), None);
}

#[test]
fn models_and_networks_that_are_not_there_are_named() {
    let mut world = brake_and_video();
    let spec = &mut world.networks[0].spec;
    spec.allow.push(rule(from_model("ghost", Some("nowhere")), Some("phantom"), None, &[]));
    spec.qos.as_mut().unwrap().classes[1].selectors[1].model = Some("spook".to_owned());
    let before = compile(&world.inputs(), &nothing());
    assert_eq!(
        review(&before, "chassis").unresolved,
        [
            "spec.allow[2].from.model: \"ghost\": no Model has this name",
            "spec.allow[2].from.network: \"nowhere\": no Network has this name, or it isn't valid",
            "spec.allow[2].to.model: \"phantom\": no Model has this name",
            "spec.qos.classes[1].selectors[1].model: \"spook\": no Model has this name",
        ]
    );
    assert_eq!(before.nodes["hpc"].rules.len(), 2);
    let classes = |outcome: &Outcome| -> Vec<String> {
        outcome.nodes["zone"].classes.iter().map(|class| class.name.clone()).collect()
    };
    let whole = classes(&compile(&brake_and_video().inputs(), &nothing()));
    assert_eq!(classes(&before), whole[..1], "no class is applied in part");
    assert!(before.nodes["zone"].selectors.iter().all(|s| s.class == before.nodes["zone"].classes[0].id));
    let mut inputs = world.inputs();
    inputs.models.insert(ObjectName::new(world::NS, "spook"));
    let after = compile(&inputs, &nothing());
    assert_eq!(review(&after, "chassis").unresolved.len(), 3);
    assert_eq!(classes(&after), whole);
}

#[test]
fn published_ports_lead_to_instances_here_and_one_of_each_number() {
    let mut world = brake_and_video();
    let port = |host_port, pairs: &[(&str, &str)]| PublishedPort {
        host_port,
        target_port: Some(80),
        protocol: None,
        to: pullpiri_crds::network::Target { model: None, match_labels: labels(pairs) },
    };
    world.networks[0].spec.ports = vec![port(8080, &[("role", "sensor")]), port(9090, &[("role", "brake")])];
    let outcome = compile(&world.inputs(), &nothing());
    let ports = |node: &str| -> Vec<(i32, &str, i32)> {
        outcome.nodes[node].ports.iter().map(|p| (p.host_port, p.address.as_str(), p.target_port)).collect()
    };
    assert_eq!(ports("hpc"), [(9090, "10.20.0.2", 80), (9090, "fd00:20::2", 80)]);
    assert_eq!(ports("zone"), [(8080, "10.20.0.4", 80), (8080, "fd00:20::4", 80)]);
    let degraded = &review(&outcome, "chassis").degraded;
    assert_eq!(degraded.len(), 1);
    assert_eq!(degraded[0].reason, reason::HOST_PORT_TAKEN);
    assert_eq!(
        degraded[0].message,
        "port 8080/TCP of node zone leads to sensor-1 of network default/chassis; sensor-2 isn't reached by it"
    );
}

#[test]
fn ports_of_containers_are_published_after_those_of_the_network() {
    let mut world = brake_and_video();
    let given = |host_port, container_port| ContainerPort { host_port, container_port, protocol: None, name: None };
    let container = Container { ports: vec![given(Some(8080), 80), given(None, 81)], ..Container::default() };
    for instance in &mut world.instances {
        if instance.spec.model == "brake" {
            Arc::make_mut(&mut instance.spec.template).spec.containers = vec![container.clone()];
        }
    }
    let outcome = compile(&world.inputs(), &nothing());
    let ports: Vec<_> =
        outcome.nodes["hpc"].ports.iter().map(|p| (p.host_port, p.address.as_str(), p.target_port)).collect();
    assert_eq!(ports, [(8080, "10.20.0.2", 80), (8080, "fd00:20::2", 80)]);
    assert!(outcome.nodes["zone"].ports.is_empty());
}

#[test]
fn the_nodes_own_network_has_classes_only() {
    let mut world = World { nodes: vec![node("hpc", "192.0.2.1", None)], ..World::default() };
    let selector = QosSelector { model: Some("video".to_owned()), ..QosSelector::default() };
    let qos = Some(Qos { classes: vec![class("video", None, vec![selector])] });
    let attach = Some(pullpiri_crds::network::LabelSelector { match_labels: labels(&[("kind", "av")]) });
    let spec = NetworkSpec { mode: Some(NetworkMode::Host), qos, attach, ..NetworkSpec::default() };
    world.networks.push(network("host", spec.clone()));
    world.networks.push(network("plain", NetworkSpec { qos: None, ..spec }));
    world.instances.push(instance("video-1", "video", &[("kind", "av")], None, "hpc"));
    world.instances.push(instance("log-1", "log", &[], None, "hpc"));
    let outcome = compile(&world.inputs(), &nothing());
    let hpc = &outcome.nodes["hpc"];
    assert_eq!(hpc.networks.len(), 1);
    assert_eq!(hpc.networks[0].mode, NetworkMode::Host);
    assert_eq!(hpc.endpoints.len(), 1);
    assert!(hpc.endpoints[0].addresses.is_empty());
    assert_eq!((hpc.selectors[0].class, hpc.selectors[0].identity), (1, hpc.endpoints[0].identity));
    assert!(!review(&outcome, "plain").enforced);
    assert!(review(&outcome, "host").degraded.is_empty());
    // What podman runs isn't in a cgroup that the node knows.
    let by = |adapter| Some(ModelInstanceStatus { runtime: Some(adapter), ..ModelInstanceStatus::default() });
    world.instances[0].status = by(Adapter::Oci);
    assert!(review(&compile(&world.inputs(), &nothing()), "host").degraded.is_empty());
    world.instances[0].status = by(Adapter::Podman);
    let degraded = review(&compile(&world.inputs(), &nothing()), "host").degraded.clone();
    assert_eq!((degraded.len(), degraded[0].reason), (1, reason::NO_QOS));
    assert!(degraded[0].message.contains("video-1 on node hpc runs under podman"), "{}", degraded[0].message);
    // A Pod on the cluster's network has classes as one in the node's own; whatever else has a network of its own hasn't.
    let set = |world: &mut World, host: Option<bool>, runtime: Option<Adapter>, told: Option<Adapter>| {
        let mut object = serde_json::to_value(&world.instances[0]).unwrap();
        let spec = &mut object["spec"]["template"]["spec"];
        (spec["hostNetwork"], spec["runtime"]) = (host.into(), serde_json::to_value(runtime).unwrap());
        world.instances[0] = serde_json::from_value(object).unwrap();
        world.instances[0].status = told.and_then(by);
    };
    let pod = Some(Adapter::Kubernetes);
    set(&mut world, Some(true), None, pod);
    assert!(review(&compile(&world.inputs(), &nothing()), "host").degraded.is_empty());
    for (runtime, told, is_in) in
        [(None, pod, true), (pod, None, true), (None, None, false), (None, Some(Adapter::Oci), false)]
    {
        set(&mut world, None, runtime, told);
        assert_eq!(compile(&world.inputs(), &nothing()).nodes.contains_key("hpc"), is_in, "{runtime:?} {told:?}");
    }
    set(&mut world, Some(true), None, None);
    // A rule there can't be kept.
    world.networks[0].spec.internal = Some(Verdict::Deny);
    let outcome = compile(&world.inputs(), &nothing());
    assert!(messages(&outcome, "host")[0].starts_with("NetworkInvalid: spec.internal: mode Host"));
    assert!(outcome.nodes.is_empty());
}

#[test]
fn an_address_is_nobodys_twice() {
    let mut world = brake_and_video();
    let stolen = world.instances[0].spec.network.clone();
    world.instances.push(instance("thief", "log", &[], stolen, "zone"));
    let mut outside = world.instances[0].spec.network.clone().unwrap();
    outside.addresses = vec!["10.99.0.2".to_owned()];
    world.instances.push(instance("lost", "log", &[], Some(outside), "zone"));
    let outcome = compile(&world.inputs(), &nothing());
    assert_eq!(outcome.nodes["hpc"].endpoints.len(), 5);
    let said: Vec<&str> = review(&outcome, "chassis").degraded.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "instance lost has 10.99.0.2, which the subnet doesn't give to models; it is attached to nothing",
            "instance thief has 10.20.0.2, which brake-1 has too; it is attached to nothing",
        ]
    );
}

#[test]
fn a_large_policy_overflows_into_further_slices() {
    let mut world = brake_and_video();
    world.networks[0].spec.subnet = subnet("10.20.0.0/16", None);
    world.instances.clear();
    for i in 0..1500 {
        world.place(&format!("brake-{i:04}"), "brake", &[], "chassis", if i % 2 == 0 { "hpc" } else { "zone" });
    }
    let compiled = &compile(&world.inputs(), &nothing()).nodes["hpc"];
    let cut = slices::cut(compiled, 7).unwrap();
    assert_eq!(cut.len(), 2);
    for slice in &cut {
        assert_eq!((slice.generation, slice.count), (7, 2));
    }
    assert_eq!(slices::join(cut.iter().rev()).unwrap(), (7, compiled.clone()));
    assert_eq!(slices::join(&cut[1..]), Err(Incomplete::Missing { index: 0, count: 2, generation: 7 }));
    let mut mixed = cut.clone();
    mixed[1].generation = 8;
    assert_eq!(slices::join(&mixed), Err(Incomplete::Generations(7, 8)));
    let huge =
        Compiled { rules: vec![compiled.rules.first().cloned().unwrap_or_else(dummy); 256_001], ..Compiled::default() };
    assert_eq!(slices::cut(&huge, 1), Err(slices::TooLarge::Entries(256_001)));
}

fn dummy() -> pullpiri_crds::slice::SliceRule {
    pullpiri_crds::slice::SliceRule {
        id: 1,
        name: String::new(),
        from: 1,
        cidr: None,
        to: 1,
        protocol: 0,
        first_port: 0,
        last_port: 65535,
    }
}

/// A pseudo-random order.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, usize::try_from(seed >> 33).unwrap() % (i + 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn order_does_not_matter_and_compiling_again_changes_nothing(world in world::world(), seed in any::<u64>()) {
        let outcome = compile(&world.inputs(), &nothing());
        let mut shuffled = world.clone();
        shuffle(&mut shuffled.networks, seed);
        shuffle(&mut shuffled.instances, seed ^ 1);
        shuffle(&mut shuffled.nodes, seed ^ 2);
        prop_assert_eq!(&compile(&shuffled.inputs(), &nothing()), &outcome);
        prop_assert_eq!(&compile(&shuffled.inputs(), &outcome.nodes), &outcome);
    }

    #[test]
    fn slices_joined_are_what_was_cut(world in world::world(), generation in 1..i64::MAX) {
        for compiled in compile(&world.inputs(), &nothing()).nodes.into_values() {
            let cut = slices::cut(&compiled, generation).unwrap();
            prop_assert_eq!(slices::join(&cut).unwrap(), (generation, compiled));
        }
    }

    #[test]
    fn numbers_refer_and_are_unique(world in world::world()) {
        for (name, node) in compile(&world.inputs(), &nothing()).nodes {
            let identities: BTreeSet<i32> = node.endpoints.iter().map(|e| e.identity).collect();
            for rule in &node.rules {
                prop_assert!(rule.from == 0 && rule.cidr.is_some() || identities.contains(&rule.from) && rule.cidr.is_none());
                prop_assert!(identities.contains(&rule.to) && rule.id > 0);
            }
            let classes: BTreeSet<i32> = node.classes.iter().map(|c| c.id).collect();
            prop_assert_eq!(classes.len(), node.classes.len());
            for selector in &node.selectors {
                prop_assert!(classes.contains(&selector.class));
                prop_assert!(selector.identity == 0 || identities.contains(&selector.identity));
                prop_assert!(node.networks.iter().any(|n| n.id == selector.network));
            }
            let networks: BTreeSet<i32> = node.networks.iter().map(|n| n.id).collect();
            for identity in identities {
                let of: BTreeSet<i32> = node.endpoints.iter().filter(|e| e.identity == identity).map(|e| e.network).collect();
                prop_assert_eq!(of.len(), 1, "an identity is of one network");
            }
            for endpoint in &node.endpoints {
                prop_assert!(endpoint.node != name || networks.contains(&endpoint.network));
            }
        }
    }

    /// Whatever changes: what was numbered before and still means the same keeps its number.
    #[test]
    fn rules_and_networks_keep_their_numbers(before in world::world(), after in world::world()) {
        let before = compile(&before.inputs(), &nothing());
        let after = compile(&after.inputs(), &before.nodes);
        for (name, node) in &after.nodes {
            let Some(old) = before.nodes.get(name) else { continue };
            for rule in &node.rules {
                if let Some(same) = old.rules.iter().find(|r| r.name == rule.name) {
                    prop_assert_eq!(same.id, rule.id);
                }
            }
            for network in &node.networks {
                if let Some(same) = old.networks.iter().find(|n| n.name == network.name) {
                    prop_assert_eq!(same.id, network.id);
                }
            }
            // In declared order within each network.
            let declared = |name: &str| name.rsplit_once('/').map(|(n, c)| (n.to_owned(), c.to_owned())).unwrap();
            let order: Vec<_> = node.classes.iter().map(|c| declared(&c.name)).collect();
            for pair in order.iter().flat_map(|a| order.iter().map(move |b| (a, b))) {
                let position = |x| order.iter().position(|y| y == x);
                prop_assert!(pair.0.0 != pair.1.0 || (pair.0.1 < pair.1.1) == (position(pair.0) < position(pair.1)) || pair.0 == pair.1);
            }
        }
    }
}
