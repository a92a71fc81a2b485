//! The Network reconciler: plans as text, and a small world in which they are carried out, cut off and answered by nodes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../net/tests/world/mod.rs"]
mod nets;

use std::sync::Arc;

use jiff::Timestamp;
use nets::{World, class, from_model, labels, network, node, rule, subnet};
use proptest::prelude::*;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::network::{NetworkSpec, Peer, Qos, QosSelector, RuleProtocol, Verdict};
use pullpiri_crds::{Network, NetworkSlice};
use pullpiri_net::slices;
use pullpiri_reconcilers::conditions;
use pullpiri_reconcilers::network::{Action, Plan, Snapshot, decide};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn snapshot(world: &World) -> Snapshot {
    Snapshot {
        networks: world.networks.iter().cloned().map(Arc::new).collect(),
        instances: world.instances.iter().cloned().map(Arc::new).collect(),
        nodes: world.nodes.iter().cloned().map(Arc::new).collect(),
        models: world.inputs().models,
        ..Snapshot::default()
    }
}

/// Carries out one action as the API server would.
fn act(snapshot: &mut Snapshot, action: &Action) {
    match action {
        Action::ApplySlice(slice) => {
            let name = slice.metadata.name.clone();
            let uid = snapshot.slices.iter().find(|s| s.metadata.name == name).and_then(|s| s.metadata.uid.clone());
            snapshot.slices.retain(|s| s.metadata.name != name);
            let mut slice = NetworkSlice::clone(slice);
            slice.metadata.uid = uid.or_else(|| name.map(|name| format!("uid-{name}")));
            snapshot.slices.push(Arc::new(slice));
        }
        Action::DeleteSlice { uid, .. } => snapshot.slices.retain(|s| s.metadata.uid.as_ref() != Some(uid)),
    }
}

fn carry_out(snapshot: &mut Snapshot, plan: &Plan) {
    for action in &plan.actions {
        act(snapshot, action);
    }
    for write in &plan.statuses {
        if let Some(status) = &write.status {
            let name = &write.network.metadata.name;
            let network = snapshot.networks.iter_mut().find(|n| n.metadata.name == *name).unwrap();
            let mut written = Network::clone(network);
            written.status = Some((**status).clone());
            *network = Arc::new(written);
        }
    }
}

/// Every node takes the generation that it was told, if it has all parts of it.
fn nodes_take(snapshot: &mut Snapshot) {
    for node in &mut snapshot.nodes {
        let name = node.metadata.name.clone().unwrap();
        let told = slices::join(snapshot.slices.iter().map(|s| &s.spec).filter(|s| s.node_name == name));
        let mut said = (**node).clone();
        said.status.as_mut().unwrap().network.as_mut().unwrap().generation =
            told.ok().map(|(generation, _)| generation);
        *node = Arc::new(said);
    }
}

fn settle(snapshot: &mut Snapshot) {
    for _ in 0..8 {
        nodes_take(snapshot);
        let plan = decide(snapshot, now());
        if plan.is_empty() {
            return;
        }
        carry_out(snapshot, &plan);
    }
    panic!("doesn't come to rest: {}", decide(snapshot, now()));
}

fn condition(snapshot: &Snapshot, name: &str, kind: &str) -> (String, String, String) {
    let network = snapshot.networks.iter().find(|n| n.metadata.name.as_deref() == Some(name)).unwrap();
    let found = conditions::find(&network.status.as_ref().unwrap().conditions, kind).unwrap().clone();
    (found.status, found.reason, found.message)
}

fn brake_and_video() -> World {
    let mut world = World {
        nodes: vec![node("hpc", "192.0.2.1", Some(100_000_000)), node("zone", "192.0.2.2", None)],
        ..World::default()
    };
    let udp = QosSelector { protocol: Some(RuleProtocol::Udp), port: Some(7001), ..QosSelector::default() };
    let video = QosSelector { model: Some("video".to_owned()), ..QosSelector::default() };
    let sensor = Peer { match_labels: labels(&[("role", "sensor")]), ..Peer::default() };
    world.networks.push(network(
        "chassis",
        NetworkSpec {
            subnet: subnet("10.20.0.0/24", Some("fd00:20::/64")),
            internal: Some(Verdict::Deny),
            allow: vec![
                rule(sensor, Some("brake"), Some(RuleProtocol::Udp), &["7001"]),
                rule(from_model("video", None), Some("screen"), Some(RuleProtocol::Tcp), &["7002"]),
            ],
            qos: Some(Qos {
                classes: vec![class("control", Some("20M"), vec![udp]), class("video", Some("10M"), vec![video])],
            }),
            ..NetworkSpec::default()
        },
    ));
    world.place("brake-1", "brake", &[("role", "brake")], "chassis", "hpc");
    world.place("video-1", "video", &[], "chassis", "hpc");
    world.place("sensor-1", "sensor", &[("role", "sensor")], "chassis", "zone");
    world.place("screen-1", "screen", &[], "chassis", "zone");
    world
}

#[test]
fn golden_first_plan_and_the_next() {
    let mut snapshot = snapshot(&brake_and_video());
    let first = decide(&snapshot, now());
    insta::assert_snapshot!("network_first", first.to_string());
    carry_out(&mut snapshot, &first);
    assert!(decide(&snapshot, now()).is_empty(), "{}", decide(&snapshot, now()));
    nodes_take(&mut snapshot);
    let taken = decide(&snapshot, now());
    insta::assert_snapshot!("network_taken", taken.to_string());
    carry_out(&mut snapshot, &taken);
    assert_eq!(decide(&snapshot, now()).to_string(), "nothing\n");
}

#[test]
fn golden_a_network_that_contradicts_itself_takes_its_slices_with_it() {
    let mut snapshot = snapshot(&brake_and_video());
    settle(&mut snapshot);
    let mut network = (*snapshot.networks[0]).clone();
    network.spec.allow[0].ports = vec!["90-80".to_owned()];
    network.metadata.generation = Some(2);
    snapshot.networks[0] = Arc::new(network);
    let plan = decide(&snapshot, now());
    insta::assert_snapshot!("network_invalid", plan.to_string());
    carry_out(&mut snapshot, &plan);
    assert!(snapshot.slices.is_empty());
}

#[test]
fn generations_rise_with_changes_and_never_fall() {
    let mut world = brake_and_video();
    let mut state = snapshot(&world);
    settle(&mut state);
    let generation = |state: &Snapshot, node: &str| {
        state.slices.iter().find(|s| s.spec.node_name == node).map(|s| s.spec.generation)
    };
    assert_eq!((generation(&state, "hpc"), generation(&state, "zone")), (Some(1), Some(1)));
    // One more instance of a network that both nodes have: both are told.
    world.place("log-1", "log", &[], "chassis", "zone");
    state.instances.push(Arc::new(world.instances.last().unwrap().clone()));
    settle(&mut state);
    assert_eq!((generation(&state, "hpc"), generation(&state, "zone")), (Some(2), Some(2)));
    // Nobody is left on one of them, and somebody comes back before the kernel there has forgotten.
    let gone: Vec<_> = state.instances.extract_if(.., |i| i.spec.node_name == "zone").collect();
    let plan = decide(&state, now());
    assert!(plan.to_string().contains("delete NetworkSlice zone-0"), "{plan}");
    carry_out(&mut state, &plan);
    state.instances.extend(gone);
    let plan = decide(&state, now());
    carry_out(&mut state, &plan);
    assert_eq!(generation(&state, "zone"), Some(3));
    assert_eq!(generation(&state, "hpc"), Some(4));
}

#[test]
fn slices_of_others_and_of_nodes_that_are_gone() {
    let mut state = snapshot(&brake_and_video());
    settle(&mut state);
    let mut theirs = (*state.slices[0]).clone();
    theirs.metadata.name = Some("by-hand".to_owned());
    theirs.metadata.labels = None;
    state.slices.push(Arc::new(theirs));
    assert!(decide(&state, now()).is_empty());
    state.nodes.retain(|node| node.metadata.name.as_deref() != Some("zone"));
    let plan = decide(&state, now());
    assert!(plan.to_string().contains("delete NetworkSlice zone-0"), "{plan}");
    carry_out(&mut state, &plan);
    assert_eq!(state.slices.len(), 2);
    // Whoever changes a slice of ours is corrected, under a new generation.
    let tampered = state.slices.iter().position(|s| s.metadata.name.as_deref() == Some("hpc-0")).unwrap();
    let mut slice = (*state.slices[tampered]).clone();
    slice.spec.rules.clear();
    state.slices[tampered] = Arc::new(slice);
    settle(&mut state);
    let corrected = state.slices.iter().find(|s| s.metadata.name.as_deref() == Some("hpc-0")).unwrap();
    assert!(!corrected.spec.rules.is_empty());
    assert!(corrected.spec.generation > 1);
}

#[test]
fn conditions_say_what_is_wrong() {
    let mut world = brake_and_video();
    world.networks[0].spec.allow.push(rule(from_model("ghost", None), None, None, &[]));
    let mut state = snapshot(&world);
    let plan = decide(&state, now());
    carry_out(&mut state, &plan);
    let (status, why, said) = condition(&state, "chassis", kind::READY);
    assert_eq!((status.as_str(), why.as_str()), ("False", reason::STARTING), "{said}");
    assert_eq!(condition(&state, "chassis", kind::PROGRESSING).0, "True");
    let (status, why, said) = condition(&state, "chassis", kind::RESOLVED);
    assert_eq!((status.as_str(), why.as_str()), ("False", reason::SELECTOR_UNKNOWN));
    assert_eq!(
        said,
        "spec.allow[2].from.model: \"ghost\": no Model has this name; what names it has no effect as a whole, and nothing new is placed into this \
         Network"
    );
    settle(&mut state);
    assert_eq!(condition(&state, "chassis", kind::READY).0, "True");
    assert_eq!(condition(&state, "chassis", kind::PROGRESSING).0, "False");
    // A node that can't share its link, and one that can't do anything.
    for (node, backend) in state.nodes.iter_mut().zip(["tcx", "none"]) {
        let mut said = (**node).clone();
        said.status.as_mut().unwrap().network.as_mut().unwrap().backend = backend.to_owned();
        *node = Arc::new(said);
    }
    settle(&mut state);
    let (status, why, said) = condition(&state, "chassis", kind::DEGRADED);
    assert_eq!((status.as_str(), why.as_str()), ("True", reason::NO_QOS));
    assert_eq!(said, "node hpc (tcx) doesn't share its link by classes; node zone does nothing for Networks");
}

#[test]
fn a_node_without_an_address_of_a_family_is_told() {
    let mut world = brake_and_video();
    for node in &mut world.nodes {
        node.status.as_mut().unwrap().network.as_mut().unwrap().addresses.truncate(1);
    }
    let mut state = snapshot(&world);
    settle(&mut state);
    let (status, why, said) = condition(&state, "chassis", kind::DEGRADED);
    assert_eq!((status.as_str(), why.as_str()), ("True", reason::FAMILY_MISSING), "{said}");
    for node in ["hpc", "zone"] {
        assert!(said.contains(&format!("node {node} has no IPv6 address on its link")), "{said}");
    }
    assert_eq!(condition(&state, "chassis", kind::READY).0, "True", "IPv4 passes");
    for (node, address) in state.nodes.iter_mut().zip(["fd09::1", "fd09::2"]) {
        let mut said = (**node).clone();
        said.status.as_mut().unwrap().network.as_mut().unwrap().addresses.push(address.to_owned());
        *node = Arc::new(said);
    }
    settle(&mut state);
    assert_eq!(condition(&state, "chassis", kind::DEGRADED).0, "False");
}

#[test]
fn guarantees_beyond_the_link_are_refused_with_numbers() {
    let mut world = brake_and_video();
    world.nodes[0] = node("hpc", "192.0.2.1", Some(25_000_000));
    let mut state = snapshot(&world);
    settle(&mut state);
    let (status, why, said) = condition(&state, "chassis", kind::READY);
    assert_eq!((status.as_str(), why.as_str()), ("False", reason::GUARANTEE_EXCEEDS_LINK));
    assert!(said.contains("30000000") && said.contains("25000000") && said.contains("hpc"), "{said}");
    assert!(state.slices.iter().all(|slice| slice.spec.classes.is_empty() && !slice.spec.rules.is_empty()));
}

#[test]
fn networks_of_the_node_that_declare_nothing_need_nothing() {
    let mut world = World { nodes: vec![node("hpc", "192.0.2.1", None)], ..World::default() };
    world.networks.push(network("plain", NetworkSpec::default()));
    let mut state = snapshot(&world);
    settle(&mut state);
    assert!(state.slices.is_empty());
    assert_eq!(condition(&state, "plain", kind::READY).0, "True");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// From any world to any other, cut off anywhere: it comes to rest, at what a fresh start says too but for numbers.
    #[test]
    fn any_world_is_reached_from_any_other(before in nets::world(), after in nets::world(), cut in 0..6_usize) {
        let mut state = snapshot(&before);
        settle(&mut state);
        let next = snapshot(&after);
        let slices = state.slices.clone();
        let highest = |state: &Snapshot, node: &str| {
            state.slices.iter().filter(|s| s.spec.node_name == node).map(|s| s.spec.generation).max()
        };
        let nodes = state.nodes.clone();
        state = Snapshot { slices, nodes, ..next };
        let reached: Vec<_> = nets::NODES.iter().map(|node| highest(&state, node)).collect();
        let plan = decide(&state, now());
        for action in plan.actions.iter().take(cut) {
            act(&mut state, action);
        }
        settle(&mut state);
        for (node, reached) in nets::NODES.iter().zip(reached) {
            let mine: Vec<_> = state.slices.iter().map(|s| &s.spec).filter(|s| s.node_name == **node).collect();
            if mine.is_empty() {
                continue;
            }
            let (generation, compiled) = slices::join(mine.iter().copied()).unwrap();
            prop_assert!(Some(generation) >= reached && Some(generation) <= reached.max(Some(0)).map(|g| g + 1));
            let fresh = pullpiri_net::compile(&after.inputs(), &std::collections::BTreeMap::new()).nodes;
            let fresh = &fresh[*node];
            prop_assert_eq!(fresh.entries(), compiled.entries());
        }
    }
}
