//! Objects for tests, built the way the API server would hold them.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use pullpiri_crds::Network;
use pullpiri_crds::claim::{Claim, ClaimSpec};
use pullpiri_crds::instance::{ModelInstanceStatus, Phase};
use pullpiri_crds::model::{Container, Model, ModelSpec};
use pullpiri_crds::node::NodeRealtime;
use pullpiri_crds::package::{DesiredState, ModelResources, Package, PackageModel, PackageSpec};
use pullpiri_crds::scenario::{Action, Express, Operands, Scenario, ScenarioCondition, ScenarioSpec, Term};
use pullpiri_crds::schedule::{Schedule, SchedulingPolicy};
use pullpiri_reconcilers::placement::{NodeView, Readiness, Schedulability};
use pullpiri_reconcilers::{package, scenario};

pub const NS: &str = "default";

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn micro(second: i64) -> MicroTime {
    MicroTime(at(second))
}

pub fn term(express: Express, value: &str, topic: &str, field: &str) -> Term {
    Term {
        express,
        value: value.to_owned(),
        operands: Operands { source_type: Some("DDS".to_owned()), name: field.to_owned(), value: topic.to_owned() },
    }
}

pub fn gear(value: &str) -> ScenarioCondition {
    ScenarioCondition::One(term(Express::Eq, value, "Gear", "gear"))
}

pub fn scenario(name: &str, condition: Option<ScenarioCondition>, action: Action, target: &str) -> Scenario {
    let mut scenario =
        Scenario::new(name, ScenarioSpec { condition, action, target: target.to_owned(), priority: None });
    scenario.metadata.namespace = Some(NS.to_owned());
    scenario.metadata.uid = Some(format!("uid-scenario-{name}"));
    scenario.metadata.generation = Some(1);
    scenario
}

pub fn claim(name: &str, action: Action, package: &str, priority: i32, since: i64) -> Claim {
    let mut claim = Claim::new(
        name,
        ClaimSpec {
            package: package.to_owned(),
            action,
            priority: Some(priority),
            since: Some(micro(since)),
            scenario: None,
            scenario_generation: None,
            because: Vec::new(),
        },
    );
    claim.metadata.namespace = Some(NS.to_owned());
    claim.metadata.uid = Some(format!("uid-claim-{name}"));
    claim
}

pub fn model(name: &str, image: &str) -> Model {
    let mut model = Model::new(
        name,
        ModelSpec {
            containers: vec![Container { name: "main".to_owned(), image: image.to_owned(), ..Container::default() }],
            host_network: Some(true),
            ..ModelSpec::default()
        },
    );
    model.metadata.namespace = Some(NS.to_owned());
    model
}

pub fn on_node(model: &str, node: &str) -> PackageModel {
    PackageModel { name: model.to_owned(), node: Some(node.to_owned()), node_selector: None, resources: None }
}

pub fn anywhere(model: &str) -> PackageModel {
    PackageModel { name: model.to_owned(), node: None, node_selector: None, resources: None }
}

pub fn selecting(model: &str, key: &str, value: &str) -> PackageModel {
    PackageModel {
        name: model.to_owned(),
        node: None,
        node_selector: Some([(key.to_owned(), value.to_owned())].into()),
        resources: None,
    }
}

pub fn with_volume(mut entry: PackageModel, volume: &str, network: &str) -> PackageModel {
    entry.resources = Some(ModelResources { volume: Some(volume.to_owned()), network: Some(network.to_owned()) });
    entry
}

pub fn package(name: &str, models: Vec<PackageModel>) -> Package {
    let spec = PackageSpec { models, pattern: Vec::new(), policy: None, schedule: None, desired_state: None };
    let mut package = Package::new(name, spec);
    package.metadata.namespace = Some(NS.to_owned());
    package.metadata.uid = Some(format!("uid-package-{name}"));
    package.metadata.generation = Some(1);
    package
}

pub fn running(mut package: Package) -> Package {
    package.spec.desired_state = Some(DesiredState::Running);
    package
}

pub fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        readiness: Readiness::Ready,
        schedulability: Schedulability::Open,
        load: 0,
        realtime: None,
        link: None,
    }
}

pub fn package_snapshot(package: Package, models: &[Model], nodes: &[NodeView]) -> package::Snapshot {
    package::Snapshot {
        package: Arc::new(package),
        claims: Vec::new(),
        models: models.iter().map(|m| (m.metadata.name.clone().unwrap(), Arc::new(m.clone()))).collect(),
        volumes: BTreeMap::new(),
        schedule: None,
        policy: None,
        sharers: Vec::new(),
        networks: BTreeMap::new(),
        named: BTreeSet::new(),
        nodes: nodes.to_vec(),
        instances: Vec::new(),
        neighbours: Vec::new(),
        refused: BTreeMap::new(),
        epoch: 1,
    }
}

/// A node whose kernel gives containers FIFO, RR and DEADLINE on these CPUs, with 95 % of each.
pub fn timed(name: &str, cpus: &str) -> NodeView {
    let realtime = NodeRealtime {
        cpus: cpus.to_owned(),
        policies: vec![SchedulingPolicy::Fifo, SchedulingPolicy::RoundRobin, SchedulingPolicy::Deadline],
        fixed_priority_ppm: 950_000,
        fixed_priority_window_ns: 1_000_000_000,
        group_ppm: None,
        deadline_ppm: 900_000,
        exclusive_cpusets: true,
        exclusive_per_container: false,
        monitor: true,
    };
    NodeView { realtime: Some(realtime), ..node(name) }
}

/// A Schedule as its manifest is written.
pub fn schedule(name: &str, spec: serde_json::Value) -> Schedule {
    let mut schedule = Schedule::new(name, serde_json::from_value(spec).unwrap());
    schedule.metadata.namespace = Some(NS.to_owned());
    schedule.metadata.uid = Some(format!("uid-schedule-{name}"));
    schedule.metadata.generation = Some(1);
    schedule
}

pub fn network(name: &str, spec: serde_json::Value) -> Network {
    let mut network = Network::new(name, serde_json::from_value(spec).unwrap());
    network.metadata.namespace = Some(NS.to_owned());
    network.metadata.generation = Some(1);
    network
}

pub fn scenario_snapshot(scenario: Scenario, target: Option<Package>) -> scenario::Snapshot {
    scenario::Snapshot {
        scenario: Arc::new(scenario),
        claim: None,
        package: target.map(Arc::new),
        claims: Vec::new(),
        observed: scenario::Observed::default(),
    }
}

/// What isn't ready is nowhere said to be as declared.
fn agrees_with_itself(conditions: &[Condition]) {
    let of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    let says_well = |kind: &&str| of(kind).status == "False" && of(kind).reason == "AsDeclared";
    let is_ready = of("Ready").status == "True";
    assert!(is_ready || !["Progressing", "Degraded"].iter().any(says_well), "{conditions:#?}");
}

/// Decides, applies and prints, until nothing is left to do.
pub fn settle(snapshot: &mut package::Snapshot, second: i64) -> String {
    let mut text = String::new();
    for step in 0..6 {
        let plan = package::decide(snapshot, at(second + step));
        text.push_str(&plan.to_string());
        if plan.is_empty() {
            return text;
        }
        text.push_str("--\n");
        apply_package(snapshot, &plan);
    }
    panic!("doesn't settle:\n{text}");
}

/// What the API server and garbage collection make of a package's plan.
pub fn apply_package(snapshot: &mut package::Snapshot, plan: &package::Plan) {
    for action in &plan.actions {
        match action {
            package::Action::DeleteInstance { name, uid, .. } => snapshot
                .instances
                .retain(|i| i.metadata.name.as_ref() != Some(name) || i.metadata.uid.as_ref() != Some(uid)),
            package::Action::ApplyInstance { instance, .. } => {
                let mut next = (**instance).clone();
                let name = next.metadata.name.clone().unwrap();
                if let Some(slot) = snapshot.instances.iter_mut().find(|i| i.metadata.name.as_ref() == Some(&name)) {
                    next.metadata.uid.clone_from(&slot.metadata.uid);
                    next.metadata.generation = slot.metadata.generation.map(|g| g + i64::from(slot.spec != next.spec));
                    next.status.clone_from(&slot.status);
                    *slot = Arc::new(next);
                } else {
                    next.metadata.uid = Some(format!("uid-{name}"));
                    next.metadata.generation = Some(1);
                    snapshot.instances.push(Arc::new(next));
                }
            }
        }
    }
    if let Some((schedule, status)) = snapshot.schedule.as_mut().zip(plan.schedule.as_ref()) {
        let mut next = (**schedule).clone();
        next.status = Some((**status).clone());
        *schedule = Arc::new(next);
    }
    if let Some(status) = &plan.status {
        agrees_with_itself(&status.conditions);
        let mut package = (*snapshot.package).clone();
        package.status = Some((**status).clone());
        snapshot.package = Arc::new(package);
    }
}

/// What the nodes make of it: every instance is in `phase` if it should run, else stopped.
pub fn report(snapshot: &mut package::Snapshot, phase: Phase) {
    for instance in &mut snapshot.instances {
        let mut next = (**instance).clone();
        let phase = if next.spec.run { phase } else { Phase::Pending };
        next.status = Some(ModelInstanceStatus {
            observed_generation: next.metadata.generation,
            phase,
            ..ModelInstanceStatus::default()
        });
        *instance = Arc::new(next);
    }
}

/// What the API server makes of a scenario's plan.
pub fn apply_scenario(snapshot: &mut scenario::Snapshot, plan: &scenario::Plan) {
    for action in &plan.actions {
        match action {
            scenario::Action::ApplyClaim(claim) => {
                let mut claim = (**claim).clone();
                claim.metadata.uid = Some("uid-claim".to_owned());
                let name = claim.metadata.name.clone();
                let claim = Arc::new(claim);
                snapshot.claims.retain(|c| c.metadata.name != name);
                snapshot.claims.push(claim.clone());
                snapshot.claim = Some(claim);
            }
            scenario::Action::DeleteClaim { name, .. } => {
                snapshot.claims.retain(|c| c.metadata.name.as_ref() != Some(name));
                snapshot.claim = None;
            }
        }
    }
    if let Some(status) = &plan.status {
        let mut scenario = (*snapshot.scenario).clone();
        scenario.status = Some((**status).clone());
        snapshot.scenario = Arc::new(scenario);
    }
    if let scenario::EdgeFate::Consumed(_) = plan.edge {
        snapshot.observed.edge = None;
    }
}
