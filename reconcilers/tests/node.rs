//! Nodes: heartbeats by lease, and what is said about a node that falls silent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pullpiri_crds::instance::{ModelInstance, ModelInstanceSpec, ModelInstanceStatus, Phase};
use pullpiri_crds::{NodeRuntime, NodeRuntimeSpec, NodeRuntimeStatus};
use pullpiri_reconcilers::node::{Action, Heartbeat, Pulse, Snapshot, abandoned, decide};
use pullpiri_reconcilers::placement::Readiness;
use world::{at, micro};

fn lease(renewed: i64, lasts: Option<i32>) -> LeaseSpec {
    LeaseSpec { renew_time: Some(micro(renewed)), lease_duration_seconds: lasts, ..LeaseSpec::default() }
}

fn node(ready: &str, reason: &str) -> NodeRuntime {
    let mut node = NodeRuntime::new("zone", NodeRuntimeSpec::default());
    node.status = Some(NodeRuntimeStatus {
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: ready.to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: Time(at(0)),
            observed_generation: None,
        }],
        ..Default::default()
    });
    node
}

fn instance(name: &str, phase: Option<Phase>) -> Arc<ModelInstance> {
    let spec = ModelInstanceSpec {
        package: "p".to_owned(),
        model: "m".to_owned(),
        node_name: "zone".to_owned(),
        template: Arc::default(),
        run: true,
        epoch: 1,
        realtime: Vec::new(),
        network: None,
    };
    let mut instance = ModelInstance::new(name, spec);
    instance.metadata.namespace = Some(world::NS.to_owned());
    instance.status = phase.map(|phase| ModelInstanceStatus { phase, ..Default::default() });
    Arc::new(instance)
}

#[test]
fn a_pulse_is_judged_by_our_own_clock_after_the_first_sight() {
    // The node's clock is an hour behind.
    let mut heartbeat = Heartbeat::first(&lease(-3600, Some(10)), at(0));
    assert_eq!(heartbeat.pulse(at(0)), Pulse::Unheard { until: at(10) });
    assert_eq!(heartbeat.pulse(at(10)), Pulse::Silent);
    assert!(heartbeat.again(&lease(-3590, Some(10)), at(12)));
    assert_eq!(heartbeat.pulse(at(12)), Pulse::Alive { until: at(22) });
    assert!(!heartbeat.again(&lease(-3590, Some(10)), at(20)), "the same lease seen again is no heartbeat");
    assert_eq!(heartbeat.pulse(at(22)), Pulse::Silent);
    // A clock that is ahead doesn't make it immortal.
    let ahead = Heartbeat::first(&lease(9000, None), at(0));
    assert_eq!(ahead.pulse(at(39)), Pulse::Alive { until: at(40) });
    assert_eq!(ahead.pulse(at(40)), Pulse::Silent);
}

#[test]
fn a_fresh_lease_counts_from_its_own_time() {
    let heartbeat = Heartbeat::first(&lease(-5, Some(10)), at(0));
    assert_eq!(heartbeat.pulse(at(0)), Pulse::Alive { until: at(5) });
    assert_eq!(heartbeat.pulse(at(5)), Pulse::Unheard { until: at(10) });
}

#[test]
fn readiness_needs_a_pulse_and_the_nodes_own_word() {
    let alive = Pulse::Alive { until: at(9) };
    for (node, pulse, expected) in [
        (node("True", "Heartbeat"), alive, Readiness::Ready),
        (NodeRuntime::default_named(), alive, Readiness::Ready),
        (node("False", "RuntimeMissing"), alive, Readiness::NotReady),
        (node("Unknown", "HeartbeatLost"), alive, Readiness::Ready),
        (node("True", "Heartbeat"), Pulse::Silent, Readiness::Silent),
        (node("True", "Heartbeat"), Pulse::Unheard { until: at(9) }, Readiness::NotReady),
    ] {
        assert_eq!(Snapshot::readiness(&node, pulse), expected, "{node:?} {pulse:?}");
    }
}

trait DefaultNamed {
    fn default_named() -> Self;
}

impl DefaultNamed for NodeRuntime {
    fn default_named() -> Self {
        NodeRuntime::new("zone", NodeRuntimeSpec::default())
    }
}

#[test]
fn falling_silent_and_answering_again() {
    let instances = vec![
        instance("b", Some(Phase::Running)),
        instance("a", Some(Phase::Failed)),
        instance("c", Some(Phase::Unknown)),
        instance("d", None),
    ];
    let mut snapshot = Snapshot { node: Arc::new(node("True", "Heartbeat")), pulse: Pulse::Silent, instances };
    let silent = decide(&snapshot, at(1));
    let mut text = silent.to_string();
    // Once said, it isn't said again.
    let Action::NodeCondition { condition, .. } = &silent.actions[0] else { panic!("{silent}") };
    snapshot.node = Arc::new(node(&condition.status, &condition.reason));
    snapshot.instances = vec![instance("a", Some(Phase::Unknown))];
    assert!(decide(&snapshot, at(2)).is_empty());
    snapshot.pulse = Pulse::Alive { until: at(3).saturating_add(SignedDuration::from_secs(40)).unwrap() };
    text += &decide(&snapshot, at(3)).to_string();
    snapshot.node = Arc::new(node("True", "Heartbeat"));
    text += &decide(&snapshot, at(4)).to_string();
    insta::assert_snapshot!(text);
}

#[test]
fn a_node_that_speaks_for_itself_is_not_talked_over() {
    let pulse = Pulse::Alive { until: at(9) };
    let snapshot = Snapshot { node: Arc::new(node("False", "RuntimeMissing")), pulse, instances: Vec::new() };
    assert!(decide(&snapshot, at(1)).is_empty());
    let unheard = Snapshot { pulse: Pulse::Unheard { until: at(9) }, ..snapshot };
    let plan = decide(&unheard, at(1));
    assert!(plan.is_empty());
    assert_eq!(plan.look_again_at, Some(at(9)));
    assert!(!decide(&unheard, at(9)).is_empty());
}

#[test]
fn only_what_is_on_its_way_out_is_let_go_when_its_node_was_removed() {
    let mut leaving = (*instance("a", Some(Phase::Running))).clone();
    leaving.metadata.finalizers = Some(vec!["other/finalizer".to_owned(), "pullpiri.io/node".to_owned()]);
    let staying = Arc::new(leaving.clone());
    leaving.metadata.deletion_timestamp = Some(Time(at(0)));
    let plan = abandoned(&[staying, Arc::new(leaving), instance("b", None)]);
    assert_eq!(plan.actions.len(), 1);
    let Action::ReleaseInstance { name, finalizers, .. } = &plan.actions[0] else { panic!("{plan}") };
    assert_eq!((name.as_str(), finalizers.as_slice()), ("a", ["other/finalizer".to_owned()].as_slice()));
}
