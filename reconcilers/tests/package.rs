//! Packages: golden plans of the main situations.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pullpiri_crds::instance::{ModelInstanceStatus, Phase};
use pullpiri_crds::package::{DesiredState, PackageModel, PackageState};
use pullpiri_crds::policy::{Policy, PolicySpec};
use pullpiri_crds::scenario::Action;
use pullpiri_crds::volume::{Volume, VolumeSpec};
use pullpiri_crds::{Network, network::NetworkSpec};
use pullpiri_reconcilers::package::{self, Snapshot, decide, resolve};
use pullpiri_reconcilers::placement::{NodeView, Readiness, Schedulability};
use world::{
    anywhere, apply_package, at, claim, model, node, on_node, package, package_snapshot, report, running, selecting,
    settle,
};

fn state(snapshot: &Snapshot) -> PackageState {
    snapshot.package.status.as_ref().unwrap().state
}

fn condition<'a>(snapshot: &'a Snapshot, kind: &str) -> &'a Condition {
    snapshot.package.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == kind).unwrap()
}

fn bms() -> Snapshot {
    package_snapshot(
        package("bms", vec![on_node("blis", "ZONE"), on_node("mavd", "HPC")]),
        &[model("blis", "localhost/blis:1.0"), model("mavd", "localhost/mavd:1.0")],
        &[node("hpc"), node("zone")],
    )
}

#[test]
fn from_a_claim_to_running_paused_and_back() {
    let mut snapshot = bms();
    let mut text = String::from("# no claim\n");
    text += &settle(&mut snapshot, 0);
    text += "# claimed\n";
    snapshot.claims = vec![Arc::new(claim("eco", Action::Update, "bms", 0, 10))];
    text += &settle(&mut snapshot, 10);
    text += "# running\n";
    report(&mut snapshot, Phase::Running);
    text += &settle(&mut snapshot, 20);
    text += "# terminated by a later claim\n";
    snapshot.claims.push(Arc::new(claim("off", Action::Terminate, "bms", 0, 30)));
    text += &settle(&mut snapshot, 30);
    report(&mut snapshot, Phase::Running);
    text += &settle(&mut snapshot, 40);
    text += "# launched again\n";
    snapshot.claims.push(Arc::new(claim("on", Action::Launch, "bms", 1, 5)));
    text += &settle(&mut snapshot, 50);
    insta::assert_snapshot!(text);
}

#[test]
fn a_new_template_replaces_the_old_instance_only_when_it_is_gone() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    snapshot.models.insert("blis".to_owned(), Arc::new(model("blis", "localhost/blis:2.0")));
    let plan = decide(&snapshot, at(10));
    insta::assert_snapshot!(plan.to_string());
    // A node that takes its time to remove it: the object stays until its finalizer is done.
    let mut lingering = snapshot.clone();
    for instance in &mut lingering.instances {
        if instance.spec.model == "blis" {
            let mut leaving = (**instance).clone();
            leaving.metadata.deletion_timestamp = Some(Time(at(10)));
            *instance = Arc::new(leaving);
        }
    }
    let waiting = decide(&lingering, at(11));
    assert!(waiting.actions.is_empty(), "{waiting}");
    apply_package(&mut snapshot, &plan);
    let then = decide(&snapshot, at(12));
    assert_eq!(then.actions.len(), 1, "{then}");
    assert!(matches!(&then.actions[0], package::Action::ApplyInstance { instance, .. } if instance.spec.run));
}

#[test]
fn what_is_missing_is_named_and_heals() {
    let mut snapshot = package_snapshot(
        running(package(
            "bms",
            vec![world::with_volume(on_node("blis", "ZONE"), "bms-volume", "bms-network"), on_node("gone", "GPU")],
        )),
        &[model("blis", "localhost/blis:1.0")],
        &[node("zone")],
    );
    let text = settle(&mut snapshot, 0);
    insta::assert_snapshot!(text);
    assert_eq!(state(&snapshot), PackageState::Error);
    snapshot.volumes.insert("bms-volume".to_owned(), Arc::new(Volume::new("bms-volume", VolumeSpec::default())));
    snapshot.networks.insert("bms-network".to_owned(), Arc::new(Network::new("bms-network", NetworkSpec::default())));
    snapshot.models.insert("gone".to_owned(), Arc::new(model("gone", "x")));
    snapshot.nodes.push(node("gpu"));
    settle(&mut snapshot, 10);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 20);
    assert_eq!(state(&snapshot), PackageState::Running);
    assert_eq!(condition(&snapshot, "Resolved").status, "True");
    assert_eq!(condition(&snapshot, "Placed").status, "True");
}

#[test]
fn what_runs_survives_the_loss_of_its_model() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    snapshot.models.clear();
    let plan = decide(&snapshot, at(6));
    assert!(plan.actions.is_empty(), "{plan}");
    apply_package(&mut snapshot, &plan);
    assert_eq!(state(&snapshot), PackageState::Running);
    assert_eq!(condition(&snapshot, "Resolved").reason, "ModelNotFound");
    // It still stops when it should.
    let mut stopped = (*snapshot.package).clone();
    stopped.spec.desired_state = Some(DesiredState::Stopped);
    snapshot.package = Arc::new(stopped);
    settle(&mut snapshot, 7);
    assert!(snapshot.instances.iter().all(|i| !i.spec.run));
}

#[test]
fn policies_are_refused_by_name() {
    let mut snapshot = bms();
    let mut spec = running((*snapshot.package).clone());
    spec.spec.policy = Some("place".to_owned());
    snapshot.package = Arc::new(spec);
    settle(&mut snapshot, 0);
    assert!(snapshot.instances.is_empty());
    let placed = condition(&snapshot, "Placed");
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "PolicyUnsupported"));
    assert!(placed.message.contains("place"), "{}", placed.message);
    let resolved = condition(&snapshot, "Resolved");
    assert_eq!((resolved.status.as_str(), resolved.reason.as_str()), ("False", "PolicyNotFound"));
    assert_eq!(resolved.message, "policy place doesn't exist");
    snapshot.policy = Some(Arc::new(Policy::new("place", PolicySpec::default())));
    settle(&mut snapshot, 1);
    assert_eq!(condition(&snapshot, "Resolved").status, "True");
    assert_eq!(condition(&snapshot, "Placed").reason, "PolicyUnsupported");
    assert_eq!(state(&snapshot), PackageState::Error);
}

#[test]
fn phases_add_up_to_a_state() {
    use Phase::{Failed, Pending, Running, Succeeded, Unknown};
    for (phases, expected, ready) in [
        ([Running, Running], PackageState::Running, "2/2"),
        ([Running, Pending], PackageState::Updating, "1/2"),
        ([Running, Failed], PackageState::Degraded, "1/2"),
        ([Running, Succeeded], PackageState::Running, "1/2"),
        ([Succeeded, Succeeded], PackageState::Exited, "0/2"),
        ([Succeeded, Failed], PackageState::Degraded, "0/2"),
        ([Failed, Failed], PackageState::Error, "0/2"),
        ([Unknown, Running], PackageState::Degraded, "1/2"),
        ([Unknown, Failed], PackageState::Error, "0/2"),
        ([Pending, Failed], PackageState::Updating, "0/2"),
    ] {
        let mut snapshot = bms();
        snapshot.package = Arc::new(running((*snapshot.package).clone()));
        settle(&mut snapshot, 0);
        for (instance, phase) in snapshot.instances.iter_mut().zip(phases) {
            let mut next = (**instance).clone();
            next.status = Some(ModelInstanceStatus { phase, observed_generation: Some(1), ..Default::default() });
            *instance = Arc::new(next);
        }
        settle(&mut snapshot, 5);
        let status = snapshot.package.status.as_ref().unwrap();
        assert_eq!((status.state, status.ready.as_deref()), (expected, Some(ready)), "{phases:?}");
        assert_eq!(condition(&snapshot, "Ready").status == "True", expected == PackageState::Running);
        assert_eq!(condition(&snapshot, "Progressing").status == "True", expected == PackageState::Updating);
    }
}

#[test]
fn what_a_node_reports_of_an_older_generation_is_no_outcome() {
    for (run, phase, behind, expected) in [
        (true, Phase::Succeeded, true, PackageState::Updating),
        (true, Phase::Succeeded, false, PackageState::Exited),
        (true, Phase::Failed, true, PackageState::Updating),
        (false, Phase::Pending, true, PackageState::Updating),
        (false, Phase::Pending, false, PackageState::Paused),
    ] {
        let mut snapshot = bms();
        snapshot.package = Arc::new(running((*snapshot.package).clone()));
        settle(&mut snapshot, 0);
        let mut stopped = (*snapshot.package).clone();
        stopped.spec.desired_state = Some(if run { DesiredState::Running } else { DesiredState::Stopped });
        snapshot.package = Arc::new(stopped);
        for instance in &mut snapshot.instances {
            let mut next = (**instance).clone();
            next.spec.run = run;
            next.metadata.generation = Some(2);
            let observed_generation = Some(if behind { 1 } else { 2 });
            next.status = Some(ModelInstanceStatus { phase, observed_generation, ..Default::default() });
            *instance = Arc::new(next);
        }
        settle(&mut snapshot, 5);
        assert_eq!(state(&snapshot), expected, "run={run} {phase:?} behind={behind}");
    }
}

#[test]
fn a_condition_keeps_its_time_until_its_status_flips() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    let time = |snapshot: &Snapshot| condition(snapshot, "Ready").last_transition_time.0;
    settle(&mut snapshot, 10);
    assert_eq!(time(&snapshot), at(10));
    report(&mut snapshot, Phase::Failed);
    settle(&mut snapshot, 20);
    // Another reason and message, the same status.
    assert_eq!((condition(&snapshot, "Ready").reason.as_str(), time(&snapshot)), ("ContainerFailed", at(10)));
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 30);
    assert_eq!((condition(&snapshot, "Ready").status.as_str(), time(&snapshot)), ("True", at(30)));
}

#[test]
fn an_instance_that_waiting_does_not_cure_is_a_failure_with_its_message() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    let mut stuck = (*snapshot.instances[0]).clone();
    stuck.status = Some(ModelInstanceStatus {
        phase: Phase::Pending,
        observed_generation: Some(1),
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: "ImageMissing".to_owned(),
            message: "image localhost/blis:1.0 isn't on the node".to_owned(),
            last_transition_time: Time(at(1)),
            observed_generation: Some(1),
        }],
        ..Default::default()
    });
    snapshot.instances[0] = Arc::new(stuck);
    settle(&mut snapshot, 5);
    assert_eq!(state(&snapshot), PackageState::Degraded);
    let ready = condition(&snapshot, "Ready");
    assert_eq!(ready.reason, "ImageMissing");
    assert!(ready.message.contains("image localhost/blis:1.0 isn't on the node"), "{}", ready.message);
}

/// Of the first instance, which runs or not: a condition of its node's.
fn tell(snapshot: &mut Snapshot, phase: Phase, (kind, reason, message): (&str, &str, &str)) {
    let mut told = (*snapshot.instances[0]).clone();
    told.status = Some(ModelInstanceStatus {
        phase,
        observed_generation: told.metadata.generation,
        conditions: vec![Condition {
            type_: kind.to_owned(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(at(1)),
            observed_generation: told.metadata.generation,
        }],
        ..Default::default()
    });
    snapshot.instances[0] = Arc::new(told);
}

#[test]
fn an_instance_that_was_stopped_for_its_misses_is_no_update_under_way() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    let said = "task ctl missed its deadline of 10ms once; its budget is 0";
    tell(&mut snapshot, Phase::Pending, ("Ready", "MissBudgetSpent", said));
    settle(&mut snapshot, 5);
    assert_eq!(state(&snapshot), PackageState::Degraded);
    let name = snapshot.instances[0].metadata.name.clone().unwrap();
    let degraded = condition(&snapshot, "Degraded");
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "MissBudgetSpent"));
    assert_eq!(degraded.message, format!("1/2 instances run; instance {name} was stopped: {said}"));
    assert_eq!(condition(&snapshot, "Ready").reason, "MissBudgetSpent");
    assert_eq!(condition(&snapshot, "Progressing").status, "False");
}

#[test]
fn an_instance_that_still_stops_though_it_is_wished_again_does_not_run() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    tell(&mut snapshot, Phase::Running, ("Ready", "Stopping", "its containers are being stopped"));
    settle(&mut snapshot, 5);
    assert_eq!(state(&snapshot), PackageState::Updating);
    assert_eq!(condition(&snapshot, "Ready").status, "False");
    assert_eq!(snapshot.package.status.as_ref().unwrap().ready.as_deref(), Some("1/2"));
}

#[test]
fn threads_that_have_not_what_was_proven_degrade_their_package() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    tell(&mut snapshot, Phase::Running, ("RealTime", "Starting", "task ctl: its thread sleeps"));
    settle(&mut snapshot, 10);
    assert_eq!(condition(&snapshot, "Degraded").status, "False", "it has just started");
    tell(&mut snapshot, Phase::Running, ("RealTime", "NoRealTime", "task ctl: EBUSY"));
    settle(&mut snapshot, 15);
    let name = snapshot.instances[0].metadata.name.clone().unwrap();
    let degraded = condition(&snapshot, "Degraded");
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "NoRealTime"));
    assert_eq!(degraded.message, format!("model blis: instance {name}: task ctl: EBUSY"));
    assert_eq!((condition(&snapshot, "Ready").status.as_str(), state(&snapshot)), ("True", PackageState::Running));
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 20);
    assert_eq!(condition(&snapshot, "Degraded").status, "False");
}

#[test]
fn a_silent_node_is_unknown_and_keeps_its_instances() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    snapshot.nodes[0].readiness = Readiness::NotReady;
    assert!(decide(&snapshot, at(49)).is_empty(), "what a node said that isn't ready holds");
    snapshot.nodes[0].readiness = Readiness::Silent;
    let plan = decide(&snapshot, at(50));
    assert!(plan.actions.is_empty(), "{plan}");
    insta::assert_snapshot!(plan.to_string());
}

#[test]
fn the_highest_priority_then_the_latest_then_the_first_name_decides() {
    use pullpiri_reconcilers::claims::winner;
    let made = |name: &str, priority: i32, since: Option<i64>, created: i64| {
        let mut claim = claim(name, Action::Launch, "p", priority, 0);
        claim.spec.since = since.map(world::micro);
        claim.metadata.creation_timestamp = Some(Time(at(created)));
        Arc::new(claim)
    };
    let mut leaving = (*made("z", 9, Some(9), 0)).clone();
    leaving.metadata.deletion_timestamp = Some(Time(at(1)));
    let leaving = Arc::new(leaving);
    for (what, claims, expected) in [
        ("priority", vec![made("a", 1, Some(9), 0), made("b", 2, Some(1), 0)], "b"),
        ("since", vec![made("a", 1, Some(1), 0), made("b", 1, Some(2), 0)], "b"),
        ("creation stands in for since", vec![made("a", 1, Some(3), 0), made("b", 1, None, 4)], "b"),
        ("name", vec![made("b", 1, Some(1), 0), made("a", 1, Some(1), 0), made("c", 1, Some(1), 0)], "a"),
        ("on its way out", vec![made("a", 1, Some(1), 0), leaving.clone()], "a"),
    ] {
        let name = |claims: &[Arc<pullpiri_crds::Claim>]| winner(claims).and_then(|c| c.metadata.name.clone());
        let backwards: Vec<_> = claims.iter().rev().cloned().collect();
        assert_eq!((name(&claims).as_deref(), name(&backwards).as_deref()), (Some(expected), Some(expected)), "{what}");
    }
    assert!(winner(&[leaving]).is_none());
}

#[test]
fn placement_table() {
    let labelled = |name: &str, zone: &str| {
        let mut node = node(name);
        node.labels.insert("zone".to_owned(), zone.to_owned());
        node
    };
    let silent = |mut node: NodeView| {
        node.readiness = Readiness::NotReady;
        node
    };
    let closed = |mut node: NodeView| {
        node.schedulability = Schedulability::Closed;
        node
    };
    let loaded = |mut node: NodeView, load: usize| {
        node.load = load;
        node
    };
    for (what, entry, nodes, expected) in [
        ("by name, in any spelling", on_node("m", "My_Zone"), vec![node("my-zone"), node("b")], "my-zone"),
        ("by name, silent", on_node("m", "a"), vec![silent(node("a")), node("b")], "NodeNotReady"),
        ("by name, closed", on_node("m", "a"), vec![closed(node("a"))], "NodeUnschedulable"),
        ("by name, missing", on_node("m", "a"), vec![node("b")], "NodeNotFound"),
        (
            "by selector, all",
            selecting("m", "zone", "x"),
            vec![labelled("b", "x"), labelled("a", "x"), labelled("c", "y")],
            "a b",
        ),
        (
            "by selector, one silent",
            selecting("m", "zone", "x"),
            vec![labelled("a", "x"), silent(labelled("b", "x"))],
            "a NodeNotReady",
        ),
        ("by selector, none", selecting("m", "zone", "z"), vec![labelled("a", "x")], "NoNodeMatches"),
        (
            "anywhere, least loaded",
            anywhere("m"),
            vec![loaded(node("a"), 2), loaded(node("b"), 1), loaded(node("c"), 1)],
            "b",
        ),
        ("anywhere, none free", anywhere("m"), vec![silent(node("a")), closed(node("b"))], "NodeNotReady"),
        ("anywhere, no nodes", anywhere("m"), vec![], "NoNodeMatches"),
    ] {
        let mut snapshot = package_snapshot(running(package("p", vec![entry])), &[model("m", "i")], &nodes);
        settle(&mut snapshot, 0);
        let mut got: Vec<String> = snapshot.instances.iter().map(|i| i.spec.node_name.clone()).collect();
        if condition(&snapshot, "Placed").status != "True" {
            got.push(condition(&snapshot, "Placed").reason.clone());
        }
        assert_eq!(got.join(" "), expected, "{what}");
    }
}

#[test]
fn models_without_a_node_spread_and_stay() {
    let entries: Vec<PackageModel> = (0..4).map(|i| anywhere(&format!("m{i}"))).collect();
    let models: Vec<_> = (0..4).map(|i| model(&format!("m{i}"), "i")).collect();
    let mut snapshot = package_snapshot(running(package("p", entries)), &models, &[node("a"), node("b")]);
    settle(&mut snapshot, 0);
    let on = |snapshot: &Snapshot, node: &str| snapshot.instances.iter().filter(|i| i.spec.node_name == node).count();
    assert_eq!((on(&snapshot, "a"), on(&snapshot, "b")), (2, 2));
    // An emptier node draws nothing away; neither does silence.
    snapshot.nodes.push(node("c"));
    snapshot.nodes[0].readiness = Readiness::NotReady;
    snapshot.nodes[0].load = 2;
    snapshot.nodes[1].load = 9;
    settle(&mut snapshot, 5);
    assert_eq!((on(&snapshot, "a"), on(&snapshot, "b"), on(&snapshot, "c")), (2, 2, 0));
    // A node that is removed does.
    snapshot.nodes.remove(0);
    settle(&mut snapshot, 10);
    assert_eq!((on(&snapshot, "a"), on(&snapshot, "b"), on(&snapshot, "c")), (0, 2, 2));
}

#[test]
fn dropped_models_and_predecessors_are_removed_before_anything_is_added() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    // The same package, made anew: another UID, other models.
    let mut anew = running(package("bms", vec![on_node("blis", "ZONE")]));
    anew.metadata.uid = Some("uid-anew".to_owned());
    snapshot.package = Arc::new(anew);
    let text = settle(&mut snapshot, 10);
    insta::assert_snapshot!(text);
    assert_eq!(snapshot.instances.len(), 1);
}

#[test]
fn a_strangers_instance_is_left_alone() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    let mut foreign = (*snapshot.instances[0]).clone();
    foreign.metadata.owner_references = None;
    snapshot.instances = vec![Arc::new(foreign.clone())];
    settle(&mut snapshot, 5);
    assert!(snapshot.instances.iter().any(|i| **i == foreign));
    assert_eq!(condition(&snapshot, "Placed").reason, "NameTaken");
}

#[test]
fn what_the_api_server_refuses_is_told_and_tried_again() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    let name = decide(&snapshot, at(0)).actions.into_iter().find_map(|action| match action {
        package::Action::ApplyInstance { instance, .. } if instance.spec.model == "blis" => instance.metadata.name,
        _ => None,
    });
    snapshot.refused.insert(name.unwrap(), "spec.template: too long".to_owned());
    let plan = decide(&snapshot, at(1));
    assert_eq!(plan.actions.len(), 2, "{plan}");
    let status = plan.status.unwrap();
    let placed = status.conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "InstanceRefused"));
    assert!(placed.message.ends_with("spec.template: too long"), "{}", placed.message);
    assert!(status.models[0].message.as_ref().unwrap().contains("spec.template: too long"));
}

#[test]
fn a_newer_leader_is_given_way_to() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    snapshot.epoch = 7;
    settle(&mut snapshot, 0);
    snapshot.epoch = 6;
    snapshot.models.clear();
    snapshot.claims.clear();
    let plan = decide(&snapshot, at(5));
    assert!(plan.is_empty());
    assert_eq!(plan.superseded_by, Some(7));
}

#[test]
fn a_new_leader_puts_its_epoch_on_what_it_keeps() {
    let mut snapshot = bms();
    snapshot.package = Arc::new(running((*snapshot.package).clone()));
    settle(&mut snapshot, 0);
    snapshot.epoch = 2;
    let plan = decide(&snapshot, at(5));
    assert_eq!(plan.actions.len(), 2, "{plan}");
    assert!(
        plan.actions.iter().all(
            |a| matches!(a, package::Action::ApplyInstance { instance, why: "epoch" } if instance.spec.epoch == 2)
        )
    );
    settle(&mut snapshot, 5);
    assert!(decide(&snapshot, at(6)).is_empty());
}

#[test]
fn a_deleted_package_is_left_to_garbage_collection() {
    let mut snapshot = bms();
    let mut leaving = running((*snapshot.package).clone());
    leaving.metadata.deletion_timestamp = Some(Time(at(0)));
    snapshot.package = Arc::new(leaving);
    assert!(decide(&snapshot, at(1)).is_empty());
}

#[test]
fn templates_take_volumes_from_the_package_and_leave_kubectls_annotations() {
    let mut blis = model("blis", "i");
    blis.metadata.annotations = Some(
        [("kubectl.kubernetes.io/last-applied-configuration", "{}"), ("io.piccolo/x", "y")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    );
    blis.spec.containers[0].volume_mounts = vec![pullpiri_crds::model::VolumeMount {
        name: "bms-volume".to_owned(),
        mount_path: "/data".to_owned(),
        ..Default::default()
    }];
    let entry = world::with_volume(on_node("blis", "a"), "bms-volume", "net");
    let mut snapshot = package_snapshot(package("p", vec![entry.clone(), on_node("blis", "a")]), &[blis], &[node("a")]);
    snapshot.volumes.insert("bms-volume".to_owned(), Arc::new(Volume::new("bms-volume", VolumeSpec::default())));
    snapshot.networks.insert("net".to_owned(), Arc::new(Network::new("net", NetworkSpec::default())));
    let template = resolve(&entry, &snapshot).unwrap();
    assert_eq!(template.annotations.keys().collect::<Vec<_>>(), ["io.piccolo/x"]);
    assert!(template.spec.volumes[0].empty_dir.is_some());
    let missing = resolve(&on_node("blis", "a"), &snapshot).unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        "model blis: container main mounts bms-volume, which is neither a volume of the model nor the one that its package gives it"
    );
}
