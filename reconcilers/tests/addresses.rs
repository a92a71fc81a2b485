//! Addresses: who joins which Network, and what address it gets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pullpiri_crds::instance::{InstanceNetwork, Phase};
use pullpiri_crds::model::Model;
use pullpiri_crds::network::Network;
use pullpiri_crds::package::PackageModel;
use pullpiri_net::ObjectName;
use pullpiri_reconcilers::package::{Snapshot, decide, promised};
use pullpiri_reconcilers::placement::Link;
use serde_json::json;
use world::{at, model, network, node, on_node, package, package_snapshot, report, running, settle};

fn condition<'a>(snapshot: &'a Snapshot, kind: &str) -> &'a Condition {
    snapshot.package.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == kind).unwrap()
}

/// A model with a network namespace of its own.
fn own(name: &str, app: &str) -> Model {
    let mut model = model(name, "i");
    model.spec.host_network = None;
    model.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
    model
}

fn given(name: &str, network: &str) -> PackageModel {
    let mut entry = on_node(name, "a");
    entry.resources = serde_json::from_value(json!({"network": network})).unwrap();
    entry
}

fn put(snapshot: &mut Snapshot, network: Network) {
    snapshot.networks.insert(network.metadata.name.clone().unwrap(), Arc::new(network));
}

fn joined<'a>(snapshot: &'a Snapshot, model: &str) -> Option<&'a InstanceNetwork> {
    snapshot.instances.iter().find(|i| i.spec.model == model).unwrap().spec.network.as_ref()
}

fn addresses(snapshot: &Snapshot, model: &str) -> Vec<String> {
    joined(snapshot, model).map(|network| network.addresses.clone()).unwrap_or_default()
}

fn vehicle() -> Snapshot {
    let mut snapshot = package_snapshot(
        running(package(
            "p",
            vec![given("brake", "control"), given("sensor", "control"), on_node("video", "a"), on_node("host", "a")],
        )),
        &[own("brake", "brake"), own("sensor", "sensor"), own("video", "media"), model("host", "i")],
        &[node("a")],
    );
    put(&mut snapshot, network("control", json!({"subnet": {"v4": "10.20.0.0/24", "v6": "fd00:20::/64"}})));
    put(
        &mut snapshot,
        network("media", json!({"subnet": {"v4": "10.30.0.0/29"}, "attach": {"matchLabels": {"app": "media"}}})),
    );
    put(&mut snapshot, network("plain", json!({})));
    snapshot
}

#[test]
fn models_join_by_name_or_by_label_and_get_the_lowest_addresses() {
    let mut snapshot = vehicle();
    let text = settle(&mut snapshot, 0);
    insta::assert_snapshot!(text);
    assert_eq!(addresses(&snapshot, "brake"), ["10.20.0.2", "fd00:20::2"]);
    assert_eq!(addresses(&snapshot, "sensor"), ["10.20.0.3", "fd00:20::3"]);
    let video = joined(&snapshot, "video").unwrap();
    assert_eq!(
        (video.name.as_str(), &video.addresses[..], &video.gateways[..]),
        ("media", &["10.30.0.2".to_owned()][..], &["10.30.0.1".to_owned()][..])
    );
    assert!(joined(&snapshot, "host").is_none(), "it has the node's network");
}

#[test]
fn a_network_of_the_nodes_gives_no_address_and_a_label_still_counts() {
    let mut snapshot = package_snapshot(
        running(package("p", vec![given("m", "plain"), given("n", "plain")])),
        &[own("m", "x"), own("n", "y")],
        &[node("a")],
    );
    put(&mut snapshot, network("plain", json!({})));
    let attach = |subnet: &str| json!({"subnet": {"v4": subnet}, "attach": {"matchLabels": {"app": "x"}}});
    put(&mut snapshot, network("second", attach("10.2.0.0/24")));
    put(&mut snapshot, network("first", attach("10.1.0.0/24")));
    settle(&mut snapshot, 0);
    assert_eq!(addresses(&snapshot, "m"), ["10.1.0.2"], "the first by name");
    assert!(joined(&snapshot, "n").is_none());
}

#[test]
fn addresses_of_others_are_left_and_an_exhausted_pool_says_so() {
    let mut snapshot = vehicle();
    snapshot.networks.clear();
    put(&mut snapshot, network("control", json!({"subnet": {"v4": "10.20.0.0/29"}})));
    let mut other = vehicle();
    other.package = Arc::new(running(package("q", vec![given("brake", "control"), given("sensor", "control")])));
    other.networks.clone_from(&snapshot.networks);
    settle(&mut other, 0);
    snapshot.neighbours.clone_from(&other.instances);
    // The same Network's name in another namespace is another Network.
    let mut elsewhere = (*other.instances[0]).clone();
    elsewhere.metadata.namespace = Some("elsewhere".to_owned());
    elsewhere.spec.network.as_mut().unwrap().addresses = vec!["10.20.0.4".to_owned()];
    snapshot.neighbours.push(Arc::new(elsewhere));
    settle(&mut snapshot, 0);
    assert_eq!(addresses(&snapshot, "brake"), ["10.20.0.4"]);
    assert_eq!(addresses(&snapshot, "sensor"), ["10.20.0.5"]);

    // .6 is the last; .7 is the broadcast address.
    let mut third = vehicle();
    third.package = Arc::new(running(package("r", vec![given("brake", "control"), given("sensor", "control")])));
    third.networks.clone_from(&snapshot.networks);
    third.neighbours = other.instances.iter().chain(&snapshot.instances).cloned().collect();
    let plan = decide(&third, at(0));
    assert_eq!(plan.starved, BTreeSet::from(["control".to_owned()]));
    settle(&mut third, 0);
    assert_eq!(third.instances.len(), 1, "a model that has an address is placed");
    let placed = condition(&third, "Placed");
    assert_eq!(placed.reason, "PoolExhausted");
    assert_eq!(
        placed.message,
        "model sensor: network control: subnet 10.20.0.0/29 has 5 addresses for models and 5 are in use"
    );
    // As soon as one is given back, it is taken.
    third.neighbours.remove(0);
    settle(&mut third, 10);
    assert_eq!(
        (addresses(&third, "brake"), addresses(&third, "sensor")),
        (vec!["10.20.0.6".to_owned()], vec!["10.20.0.2".to_owned()])
    );
}

#[test]
fn an_instance_keeps_its_address_as_long_as_it_lives() {
    let mut snapshot = vehicle();
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    // The first is gone; the second stays where it is.
    let mut package = (*snapshot.package).clone();
    package.spec.models.remove(0);
    snapshot.package = Arc::new(package);
    settle(&mut snapshot, 10);
    assert_eq!(addresses(&snapshot, "sensor"), ["10.20.0.3", "fd00:20::3"]);
    // A Network that is lost stops nothing; it is only told of.
    snapshot.networks.remove("media");
    let plan = decide(&snapshot, at(20));
    assert!(plan.actions.is_empty(), "{plan}");
    // One whose addresses are others' now makes new ones necessary.
    let before = snapshot.instances.iter().find(|i| i.spec.model == "sensor").unwrap().metadata.uid.clone();
    put(&mut snapshot, network("control", json!({"subnet": {"v4": "10.99.0.0/24"}})));
    let text = settle(&mut snapshot, 30);
    assert!(text.contains("delete ModelInstance p-sensor"), "{text}");
    assert_eq!(addresses(&snapshot, "sensor"), ["10.99.0.2"]);
    assert!(before.is_some());
}

#[test]
fn a_network_that_is_gone_while_models_run_in_it_is_told_by_model_and_name() {
    let mut snapshot = vehicle();
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    assert_eq!(condition(&snapshot, "Resolved").status, "True");
    let media = snapshot.networks.remove("media").unwrap();
    let control = snapshot.networks.remove("control").unwrap();
    let text = settle(&mut snapshot, 10);
    assert!(!text.contains("ModelInstance"), "what runs goes on: {text}");
    let resolved = condition(&snapshot, "Resolved");
    assert_eq!((resolved.status.as_str(), resolved.reason.as_str()), ("False", "NetworkNotFound"));
    assert_eq!(
        resolved.message,
        "model brake: network control doesn't exist; model sensor: network control doesn't exist; model video: network media doesn't exist",
        "whether the package names it or it attached by labels, and once each"
    );
    let degraded = condition(&snapshot, "Degraded");
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "NetworkNotFound"));
    let video = snapshot.instances.iter().find(|i| i.spec.model == "video").unwrap();
    let said = format!(
        "model video: network media doesn't exist: instance {} runs on and has no traffic",
        video.metadata.name.as_deref().unwrap()
    );
    assert!(degraded.message.contains(&said), "{}", degraded.message);
    let models = &snapshot.package.status.as_ref().unwrap().models;
    assert_eq!(models[2].message.as_deref(), Some("model video: network media doesn't exist"));
    assert_eq!(condition(&snapshot, "Ready").status, "True", "it runs");

    // They are there again: the addresses are the same.
    snapshot.networks.extend([("media".to_owned(), media), ("control".to_owned(), control)]);
    let text = settle(&mut snapshot, 20);
    assert!(!text.contains("ModelInstance"), "{text}");
    assert_eq!(condition(&snapshot, "Resolved").status, "True");
    assert_eq!(condition(&snapshot, "Degraded").status, "False");
    assert_eq!(addresses(&snapshot, "video"), ["10.30.0.2"]);

    // What is stopped lacks nothing, and starts without a Network that isn't there.
    snapshot.networks.remove("media");
    let mut package = (*snapshot.package).clone();
    package.spec.desired_state = Some(pullpiri_crds::package::DesiredState::Stopped);
    snapshot.package = Arc::new(package);
    settle(&mut snapshot, 30);
    assert_eq!(condition(&snapshot, "Resolved").status, "True");
}

#[test]
fn a_network_that_comes_late_is_joined() {
    let mut snapshot = vehicle();
    let media = snapshot.networks.remove("media").unwrap();
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    assert!(joined(&snapshot, "video").is_none());
    snapshot.networks.insert("media".to_owned(), media);
    let text = settle(&mut snapshot, 10);
    assert!(text.contains("delete ModelInstance p-video"), "{text}");
    assert_eq!(addresses(&snapshot, "video"), ["10.30.0.2"]);
}

#[test]
fn a_network_that_cannot_be_used_takes_nobody_in() {
    for (reason, seen, refused) in [
        ("SubnetOverlaps", 1, true),
        ("GuaranteeExceedsLink", 1, true),
        ("NetworkInvalid", 1, true),
        ("SubnetOverlaps", 0, false),
        ("SomethingElse", 1, false),
    ] {
        let mut snapshot = vehicle();
        let mut media =
            network("media", json!({"subnet": {"v4": "10.30.0.0/29"}, "attach": {"matchLabels": {"app": "media"}}}));
        media.status = Some(pullpiri_crds::NetworkStatus {
            observed_generation: Some(seen),
            conditions: vec![Condition {
                type_: "Ready".to_owned(),
                status: "False".to_owned(),
                reason: reason.to_owned(),
                message: "10.30.0.0/29 shares addresses with network x".to_owned(),
                last_transition_time: Time(at(0)),
                observed_generation: Some(seen),
            }],
            ..Default::default()
        });
        put(&mut snapshot, media);
        settle(&mut snapshot, 0);
        assert_eq!(snapshot.instances.len(), if refused { 3 } else { 4 }, "{reason}");
        if refused {
            let placed = condition(&snapshot, "Placed");
            assert_eq!(placed.reason, reason);
            assert_eq!(placed.message, "model video: network media: 10.30.0.0/29 shares addresses with network x");
        }
    }
}

/// A class by the names of two models, in a bridged Network and in one of the node's.
fn naming(name: &str, subnet: Option<&str>) -> Network {
    let selectors = json!([{"model": "brake"}, {"model": "ghost"}]);
    let mut spec = json!({"qos": {"classes": [{"name": "c", "priority": 0, "selectors": selectors}]}});
    match subnet {
        Some(subnet) => spec["subnet"] = json!({"v4": subnet}),
        None => spec["mode"] = json!("Host"),
    }
    network(name, spec)
}

#[test]
fn nothing_new_is_placed_into_a_network_that_names_what_is_not_there() {
    let entries = vec![given("brake", "control"), given("host", "plain"), on_node("video", "a")];
    let models = [own("brake", "brake"), model("host", "i"), own("video", "media")];
    let mut snapshot = package_snapshot(running(package("p", entries)), &models, &[node("a")]);
    put(&mut snapshot, naming("control", Some("10.20.0.0/24")));
    put(&mut snapshot, naming("plain", None));
    settle(&mut snapshot, 0);
    assert_eq!(snapshot.instances.len(), 1, "what is in no such Network is placed");
    let placed = condition(&snapshot, "Placed");
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "SelectorUnknown"));
    for (model, network) in [("brake", "control"), ("host", "plain")] {
        let field = "spec.qos.classes[0].selectors[1].model: \"ghost\"";
        let said = format!("model {model}: network {network}: {field}: no Model has this name");
        assert!(placed.message.contains(&said), "{}", placed.message);
    }
    // It exists.
    snapshot.named.insert("ghost".to_owned());
    settle(&mut snapshot, 10);
    assert_eq!(snapshot.instances.len(), 3);
    assert_eq!(condition(&snapshot, "Placed").status, "True");

    // It is gone: what runs stays as it is, and what is newer waits.
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 20);
    snapshot.named.clear();
    let plan = decide(&snapshot, at(30));
    assert!(plan.actions.is_empty(), "{plan}");
    let mut newer = own("brake", "brake");
    newer.spec.containers[0].image = "newer".to_owned();
    snapshot.models.insert("brake".to_owned(), Arc::new(newer));
    let text = settle(&mut snapshot, 40);
    assert!(!text.contains("delete ModelInstance"), "{text}");
    assert_eq!(condition(&snapshot, "Placed").reason, "SelectorUnknown");
    assert_eq!(addresses(&snapshot, "brake"), ["10.20.0.2"]);
    // An instance of a Model that was deleted still makes its name known.
    let mut ghost = (**snapshot.instances.iter().find(|i| i.spec.model == "brake").unwrap()).clone();
    ghost.spec.model = "ghost".to_owned();
    snapshot.neighbours.push(Arc::new(ghost));
    let text = settle(&mut snapshot, 50);
    assert!(text.contains("delete ModelInstance p-brake"), "{text}");
    assert_eq!(condition(&snapshot, "Placed").status, "True");
}

#[test]
fn a_network_that_a_rule_names_has_to_be_there() {
    let rule = json!({"subnet": {"v4": "10.20.0.0/24"}, "allow": [{"from": {"network": "cabin"}}]});
    let mut snapshot = package_snapshot(
        running(package("p", vec![given("brake", "control")])),
        &[own("brake", "brake")],
        &[node("a")],
    );
    put(&mut snapshot, network("control", rule));
    settle(&mut snapshot, 0);
    let placed = condition(&snapshot, "Placed");
    assert!(placed.message.contains("spec.allow[0].from.network: \"cabin\": no Network"), "{}", placed.message);
    put(&mut snapshot, network("cabin", json!({"mode": "Host"})));
    settle(&mut snapshot, 10);
    assert!(condition(&snapshot, "Placed").message.contains("\"cabin\": is the node's own network"));
    put(&mut snapshot, network("cabin", json!({"subnet": {"v4": "10.30.0.0/24"}})));
    settle(&mut snapshot, 20);
    assert_eq!((snapshot.instances.len(), condition(&snapshot, "Placed").status.as_str()), (1, "True"));
}

/// A bridged Network, or one of the node's, that guarantees this.
fn guaranteeing(name: &str, subnet: Option<&str>, guarantee: &str) -> Network {
    let mut spec = json!({"qos": {"classes": [{"name": "c", "priority": 0, "guarantee": guarantee, "selectors": [{"protocol": "UDP"}]}]}});
    match subnet {
        Some(subnet) => spec["subnet"] = json!({"v4": subnet}),
        None => spec["mode"] = json!("Host"),
    }
    network(name, spec)
}

/// A link of 100 Mbit/s of which another namespace's Network has 25.
fn link() -> Link {
    Link { rate_bps: 100_000_000, promised: [(ObjectName::new("elsewhere", "media"), 25_000_000)].into() }
}

#[test]
fn guarantees_beyond_the_link_are_refused_before_anything_is_placed() {
    let mut snapshot = package_snapshot(
        running(package("p", vec![given("brake", "control"), given("host", "plain")])),
        &[own("brake", "brake"), model("host", "i")],
        &[node("a")],
    );
    snapshot.nodes[0].link = Some(link());
    put(&mut snapshot, guaranteeing("control", Some("10.20.0.0/24"), "90M"));
    put(&mut snapshot, guaranteeing("plain", None, "80M"));
    settle(&mut snapshot, 0);
    assert!(snapshot.instances.is_empty());
    let placed = condition(&snapshot, "Placed");
    assert_eq!(placed.reason, "GuaranteeExceedsLink");
    for (model, network, own) in [("brake", "control", 90), ("host", "plain", 80)] {
        let said = format!(
            "model {model}: network {network}: its guarantees of {own}000000 bit/s and 25000000 bit/s of other Networks exceed the link of node \
             a, which has 100000000 bit/s"
        );
        assert!(placed.message.contains(&said), "{}", placed.message);
    }

    // What is given back is enough for one of them, and not for the other beside it.
    snapshot.nodes[0].link.as_mut().unwrap().promised.clear();
    settle(&mut snapshot, 10);
    assert_eq!(snapshot.instances.len(), 1);
    assert_eq!(addresses(&snapshot, "brake"), ["10.20.0.2"]);
    assert!(condition(&snapshot, "Placed").message.contains("80000000 bit/s and 90000000 bit/s of other Networks"));
    // Who is there stays, whatever the link becomes, and others may join what is there already.
    snapshot.nodes[0].link.as_mut().unwrap().rate_bps = 10_000_000;
    let mut package = (*snapshot.package).clone();
    package.spec.models[1] = given("sensor", "control");
    snapshot.package = Arc::new(package);
    snapshot.models.insert("sensor".to_owned(), Arc::new(own("sensor", "sensor")));
    settle(&mut snapshot, 20);
    assert_eq!(snapshot.instances.len(), 2);
}

#[test]
fn nothing_is_refused_for_a_link_that_nobody_knows_or_for_classes_that_are_not_applied() {
    let mut snapshot = package_snapshot(
        running(package("p", vec![given("brake", "control")])),
        &[own("brake", "brake")],
        &[node("a")],
    );
    let mut control = guaranteeing("control", Some("10.20.0.0/24"), "90M");
    put(&mut snapshot, control.clone());
    settle(&mut snapshot, 0);
    assert_eq!(snapshot.instances.len(), 1);

    let mut status = pullpiri_crds::network::NetworkStatus { observed_generation: Some(1), ..Default::default() };
    status.nodes =
        serde_json::from_value(json!([{"name": "a", "models": 1, "backend": "tcx+htb", "current": true}])).unwrap();
    control.status = Some(status.clone());
    assert_eq!(promised(&control), (90_000_000, BTreeSet::from(["a".to_owned()])));
    status.conditions = vec![Condition {
        type_: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: "GuaranteeExceedsLink".to_owned(),
        message: String::new(),
        last_transition_time: Time(at(0)),
        observed_generation: Some(1),
    }];
    control.status = Some(status);
    assert_eq!(promised(&control), (0, BTreeSet::new()));
}
