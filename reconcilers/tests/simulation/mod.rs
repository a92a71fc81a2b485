//! The simulation: who acts when is drawn from a seed.

mod api;
mod invariants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use kube::Resource;
use pullpiri_crds::instance::{ModelInstance, ModelInstanceStatus, Phase};
use pullpiri_crds::package::DesiredState;
use pullpiri_crds::scenario::{Action as Wish, Truth};
use pullpiri_crds::{Claim, Model, Network, Package, Scenario};
use pullpiri_reconcilers::placement::NodeView;
use pullpiri_reconcilers::scenario::{EdgeFate, Track};
use pullpiri_reconcilers::{package, scenario};

use crate::world::{self, anywhere, at, gear, on_node, selecting, timed};
use api::{Api, Delivery, Objects, Table, merged_meta};

/// The packages: `p` runs as its claims say, `q` as the person says. They share nodes and a Network with five addresses for six of their instances.
pub(super) const PACKAGES: [&str; 2] = ["p", "q"];
/// Their models. The first of each has a real-time task, the others are on the Network.
pub(super) const MODELS: [&str; 6] = ["m0", "m1", "m2", "q0", "q1", "q2"];

/// The package that a model belongs to.
pub(super) fn package_of(model: &str) -> &'static str {
    if model.starts_with('m') { "p" } else { "q" }
}

pub(super) fn shared_network() -> Network {
    world::network(
        "net",
        serde_json::json!({"subnet": {"v4": "10.0.0.0/29"}, "attach": {"matchLabels": {"net": "yes"}}}),
    )
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to draw steps from.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What the controllers know.
#[derive(Default)]
struct Caches {
    scenarios: Objects<Scenario>,
    packages: Objects<Package>,
    models: Objects<Model>,
    claims: Objects<Claim>,
    instances: Objects<ModelInstance>,
}

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_ref().unwrap().parse().unwrap()
}

fn take<K: Resource>(cache: &mut Objects<K>, delivery: &Delivery<K>, graves: &mut BTreeSet<String>) {
    match &delivery.object {
        Some(object) => {
            let newer = cache.get(&delivery.name).is_none_or(|known| version(&**known) < version(&**object));
            if newer && !graves.contains(&delivery.uid) {
                cache.insert(delivery.name.clone(), object.clone());
            }
        }
        None => {
            graves.insert(delivery.uid.clone());
            if cache.get(&delivery.name).is_some_and(|known| known.meta().uid.as_ref() == Some(&delivery.uid)) {
                cache.remove(&delivery.name);
            }
        }
    }
}

/// What is known about a scenario without the code under test: the last known truth, and the time of the last edge.
#[derive(Clone, Debug, Default)]
struct Reference {
    uid: String,
    known: Option<bool>,
    edge: Option<i64>,
}

pub struct Simulation {
    random: Random,
    api: Api,
    caches: Caches,
    graves: BTreeSet<String>,
    tracks: BTreeMap<String, Track>,
    references: BTreeMap<String, Reference>,
    /// The live signal.
    gear: Option<&'static str>,
    /// The signal as the controllers have received it.
    heard: Option<&'static str>,
    nodes: Vec<NodeView>,
    dirty: BTreeSet<(&'static str, String)>,
    transcript: String,
    crashed: bool,
}

type Signals = BTreeMap<(String, String), String>;

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let mut simulation = Self {
            random: Random(seed),
            api: Api::default(),
            caches: Caches::default(),
            graves: BTreeSet::new(),
            tracks: BTreeMap::new(),
            references: BTreeMap::new(),
            gear: None,
            heard: None,
            nodes: vec![timed("a", "0"), timed("b", "0"), timed("c", "0")],
            dirty: BTreeSet::new(),
            transcript: String::new(),
            crashed: false,
        };
        simulation.nodes[1].labels.insert("zone".to_owned(), "x".to_owned());
        simulation.nodes[2].labels.insert("zone".to_owned(), "x".to_owned());
        for name in MODELS {
            simulation.edit_model(name, 0);
        }
        for name in PACKAGES {
            simulation.make_package(name);
        }
        simulation.make_scenario("on", "P", Wish::Launch);
        simulation.make_scenario("off", "D", Wish::Terminate);
        simulation.transcript.clear();
        simulation
    }

    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    fn say(&mut self, text: impl AsRef<str>) {
        let second = self.api.counters.second;
        for line in text.as_ref().lines() {
            writeln!(self.transcript, "{second:>4} {line}").unwrap();
        }
    }

    fn make_scenario(&mut self, name: &str, value: &str, wish: Wish) {
        self.say(format!("person: scenario {name}"));
        let object = world::scenario(name, Some(gear(value)), wish, "p");
        let made = self.api.scenarios.write(&mut self.api.counters, name, |_| (object, true));
        self.references
            .insert(name.to_owned(), Reference { uid: made.metadata.uid.clone().unwrap(), ..Default::default() });
    }

    fn make_package(&mut self, name: &str) {
        self.say(format!("person: package {name}"));
        let object = match name {
            "p" => world::package("p", vec![on_node("m0", "a"), anywhere("m1"), selecting("m2", "zone", "x")]),
            _ => {
                world::running(world::package("q", vec![anywhere("q0"), selecting("q1", "zone", "x"), anywhere("q2")]))
            }
        };
        self.api.packages.write(&mut self.api.counters, name, |_| (object, true));
    }

    /// A model with another image, and with more or less to do in real time, or none of it.
    fn edit_model(&mut self, name: &str, image: usize) {
        let wcet_ms = [3, 5, 8][self.random.below(3)];
        let timed = name.ends_with('0');
        let what = if timed { format!(", a task of {wcet_ms} ms") } else { String::new() };
        self.say(format!("person: model {name} has image {image}{what}"));
        let mut object = world::model(name, &image.to_string());
        if timed {
            let task = serde_json::json!({"wcet": format!("{wcet_ms}ms"), "period": "10ms"});
            object.spec.realtime = serde_json::from_value(task).unwrap();
        } else {
            object.spec.host_network = None;
            object.metadata.labels = Some([("net".to_owned(), "yes".to_owned())].into());
        }
        self.api.models.write(&mut self.api.counters, name, |_| (object, true));
    }

    fn toggle_q(&mut self) {
        let Some(package) = self.api.packages.objects.get("q").cloned() else {
            return;
        };
        let mut next = (*package).clone();
        let stopped = next.spec.desired_state == Some(DesiredState::Stopped);
        next.spec.desired_state = Some(if stopped { DesiredState::Running } else { DesiredState::Stopped });
        self.say(format!("person: package q is to be {:?}", next.spec.desired_state.unwrap()));
        self.api.packages.write(&mut self.api.counters, "q", |_| (next, true));
    }

    /// One step of anybody.
    pub fn step(&mut self) {
        self.api.counters.second += 1;
        match self.random.below(20) {
            0 | 1 => self.signal(),
            2 => self.person(),
            3 if self.random.one_in(2) => self.crash("between reconciliations"),
            3..=6 => self.agent(),
            7 => {
                self.collect();
            }
            8..=13 => {
                self.deliver();
            }
            _ => {
                self.reconcile();
            }
        }
        self.check();
    }

    fn signal(&mut self) {
        let value = [Some("P"), Some("D"), Some("R"), None][self.random.below(4)];
        self.gear = value;
        self.say(format!("signal: gear {}", value.unwrap_or("has no value")));
        self.hear();
    }

    /// The controllers receive the signal and evaluate the conditions; so does the reference.
    fn hear(&mut self) {
        self.heard = self.gear;
        let second = self.api.counters.second;
        let signals = self.signals();
        for (name, track) in &mut self.tracks {
            track.evaluate(&signals, at(second));
            self.dirty.insert(("scenario", name.clone()));
        }
        for name in self.tracks.keys().cloned().collect::<Vec<_>>() {
            self.refer(&name);
        }
    }

    fn signals(&self) -> Signals {
        self.heard.map(|value| (("Gear".to_owned(), "gear".to_owned()), value.to_owned())).into_iter().collect()
    }

    fn refer(&mut self, name: &str) {
        let wanted = if name == "on" { "P" } else { "D" };
        let second = self.api.counters.second;
        // A scenario that was made anew is another one until the controllers have noticed.
        let noticed = self.caches.scenarios.get(name).and_then(|s| s.metadata.uid.clone());
        let Some(reference) = self.references.get_mut(name).filter(|r| Some(&r.uid) == noticed.as_ref()) else {
            return;
        };
        if let Some(value) = self.heard {
            if value == wanted && reference.known != Some(true) {
                reference.edge = Some(second);
            }
            reference.known = Some(value == wanted);
        }
    }

    fn person(&mut self) {
        match self.random.below(6) {
            0 | 1 => {
                let (model, image) = (self.random.below(MODELS.len()), self.random.below(3));
                self.edit_model(MODELS[model], image);
            }
            5 => self.toggle_q(),
            2 => {
                let name = ["on", "off"][self.random.below(2)];
                if self.api.scenarios.objects.contains_key(name) {
                    self.say(format!("person: deletes scenario {name}"));
                    self.api.scenarios.remove(name);
                    self.references.remove(name);
                } else if name == "on" {
                    self.make_scenario("on", "P", Wish::Launch);
                } else {
                    self.make_scenario("off", "D", Wish::Terminate);
                }
            }
            3 => {
                let name = PACKAGES[self.random.below(2)];
                if self.api.packages.objects.contains_key(name) {
                    self.say(format!("person: deletes package {name}"));
                    self.api.packages.remove(name);
                } else {
                    self.make_package(name);
                }
            }
            _ => {
                let name = MODELS[self.random.below(MODELS.len())];
                if self.api.models.objects.contains_key(name) {
                    self.say(format!("person: deletes model {name}"));
                    self.api.models.remove(name);
                }
            }
        }
    }

    /// A node looks after one of its instances.
    fn agent(&mut self) {
        let names: Vec<String> = self.api.instances.objects.keys().cloned().collect();
        if !names.is_empty() {
            let name = names[self.random.below(names.len())].clone();
            self.serve(&name);
        }
    }

    fn serve(&mut self, name: &str) -> bool {
        let instance = self.api.instances.objects[name].clone();
        let phase = instance.status.as_ref().map(|s| s.phase).unwrap_or_default();
        let observed = instance.status.as_ref().and_then(|s| s.observed_generation);
        if instance.metadata.deletion_timestamp.is_some() {
            self.say(format!("node {}: {name} is gone", instance.spec.node_name));
            self.api.instances.remove(name);
            return true;
        }
        let next = if instance.spec.run { Phase::Running } else { Phase::Pending };
        if phase == next && observed == instance.metadata.generation {
            return false;
        }
        self.say(format!("node {}: {name} is {}", instance.spec.node_name, next.as_str()));
        self.api.instances.write(&mut self.api.counters, name, |before| {
            let mut object = before.unwrap().clone();
            object.metadata.finalizers = Some(vec!["pullpiri.io/node".to_owned()]);
            object.status = Some(ModelInstanceStatus {
                phase: next,
                observed_generation: object.metadata.generation,
                ..Default::default()
            });
            (object, false)
        });
        true
    }

    fn collect(&mut self) -> bool {
        let Some((kind, name)) = self.api.orphan() else {
            return false;
        };
        self.say(format!("garbage collection: {kind} {name}"));
        match kind {
            "claim" => {
                self.api.claims.delete(&mut self.api.counters, &name, None);
            }
            _ => {
                self.api.instances.delete(&mut self.api.counters, &name, None);
            }
        }
        true
    }

    /// One change of one kind reaches the controllers; kinds don't wait for each other, and one in eight arrives twice.
    fn deliver(&mut self) -> bool {
        let kinds = [
            self.api.scenarios.changes.len(),
            self.api.packages.changes.len(),
            self.api.models.changes.len(),
            self.api.claims.changes.len(),
            self.api.instances.changes.len(),
        ];
        let waiting: Vec<usize> = (0..kinds.len()).filter(|&kind| kinds[kind] > 0).collect();
        if waiting.is_empty() {
            return false;
        }
        let twice = self.random.one_in(8);
        match waiting[self.random.below(waiting.len())] {
            0 => {
                let delivery = pop(&mut self.api.scenarios, twice);
                take(&mut self.caches.scenarios, &delivery, &mut self.graves);
                self.noticed(&delivery.name);
            }
            1 => {
                let delivery = pop(&mut self.api.packages, twice);
                take(&mut self.caches.packages, &delivery, &mut self.graves);
                self.wake_all();
            }
            2 => {
                let delivery = pop(&mut self.api.models, twice);
                take(&mut self.caches.models, &delivery, &mut self.graves);
                self.wake_all();
            }
            3 => {
                let delivery = pop(&mut self.api.claims, twice);
                take(&mut self.caches.claims, &delivery, &mut self.graves);
                self.wake_all();
            }
            _ => {
                let delivery = pop(&mut self.api.instances, twice);
                take(&mut self.caches.instances, &delivery, &mut self.graves);
                self.wake_all();
            }
        }
        true
    }

    fn wake_all(&mut self) {
        for name in PACKAGES {
            self.dirty.insert(("package", name.to_owned()));
        }
        for name in ["on", "off"] {
            self.dirty.insert(("scenario", name.to_owned()));
        }
    }

    /// The controllers have noticed a scenario, or that it is gone.
    fn noticed(&mut self, name: &str) {
        let second = self.api.counters.second;
        let signals = self.signals();
        match self.caches.scenarios.get(name) {
            Some(scenario) => {
                let claim = self.caches.claims.get(name).map(|c| &**c);
                let fresh = match self.tracks.get_mut(name) {
                    Some(track) => track.follow(scenario, claim),
                    None => {
                        self.tracks.insert(name.to_owned(), Track::start(scenario, claim));
                        true
                    }
                };
                if fresh {
                    self.tracks.get_mut(name).unwrap().evaluate(&signals, at(second));
                    self.refer(name);
                }
            }
            None => {
                self.tracks.remove(name);
            }
        }
        self.wake_all();
    }

    /// The controllers die and come back: they list everything, and remember nothing.
    fn crash(&mut self, when: &str) {
        let with_signals = self.random.one_in(2);
        self.say(format!("controllers: crash {when}{}", if with_signals { "" } else { ", signals are lost too" }));
        if !with_signals {
            self.gear = None;
        }
        self.heard = self.gear;
        self.caches = Caches {
            scenarios: self.api.scenarios.objects.clone(),
            packages: self.api.packages.objects.clone(),
            models: self.api.models.objects.clone(),
            claims: self.api.claims.objects.clone(),
            instances: self.api.instances.objects.clone(),
        };
        self.api.scenarios.changes.clear();
        self.api.packages.changes.clear();
        self.api.models.changes.clear();
        self.api.claims.changes.clear();
        self.api.instances.changes.clear();
        self.tracks.clear();
        self.dirty.clear();
        // What was known and never recorded is forgotten; a claim that was written counts as recorded.
        for (name, reference) in &mut self.references {
            let Some(scenario) =
                self.caches.scenarios.get(name).filter(|s| s.metadata.uid.as_ref() == Some(&reference.uid))
            else {
                continue;
            };
            let status = scenario.status.clone().unwrap_or_default();
            let claim = self
                .caches
                .claims
                .get(name)
                .filter(|c| c.metadata.owner_references.iter().flatten().any(|o| o.uid == reference.uid));
            let claimed = claim.and_then(|c| c.spec.since.clone());
            let written = claimed.is_some() && claimed > status.truth_since;
            reference.known = match status.truth {
                _ if written => Some(true),
                Some(Truth::True) => Some(true),
                Some(Truth::False) => Some(false),
                Some(Truth::Unknown) | None => None,
            };
            reference.edge = claimed.map(|since| since.0.as_second() - at(0).as_second());
        }
        for name in self.caches.scenarios.keys().cloned().collect::<Vec<_>>() {
            self.noticed(&name);
        }
        self.wake_all();
    }

    fn reconcile(&mut self) -> bool {
        let dirty: Vec<_> = self.dirty.iter().cloned().collect();
        if dirty.is_empty() {
            return false;
        }
        let (kind, name) = dirty[self.random.below(dirty.len())].clone();
        self.dirty.remove(&(kind, name.clone()));
        self.crashed = false;
        if kind == "package" {
            self.reconcile_package(&name)
        } else {
            self.reconcile_scenario(&name)
        }
        true
    }

    /// Whether the controllers die at this point.
    fn dies(&mut self) -> bool {
        if !self.crashed && self.random.one_in(25) {
            self.crashed = true;
            self.crash("between two writes");
        }
        self.crashed
    }

    fn scenario_snapshot(&self, name: &str) -> Option<scenario::Snapshot> {
        Some(scenario::Snapshot {
            scenario: self.caches.scenarios.get(name)?.clone(),
            claim: self.caches.claims.get(name).cloned(),
            package: self.caches.packages.get("p").cloned(),
            claims: self.caches.claims.values().cloned().collect(),
            observed: self.tracks.get(name).map(|t| t.observed().clone()).unwrap_or_default(),
        })
    }

    fn reconcile_scenario(&mut self, name: &str) {
        let Some(snapshot) = self.scenario_snapshot(name) else {
            return;
        };
        let plan = scenario::decide(&snapshot, at(self.api.counters.second));
        if !plan.is_empty() {
            self.say(format!("scenario {name}:\n{plan}"));
        }
        for action in &plan.actions {
            match action {
                scenario::Action::ApplyClaim(claim) => {
                    let written = self.api.claims.write(&mut self.api.counters, name, |before| {
                        let mut next = (**claim).clone();
                        next.metadata = merged_meta(before.map(|b| &b.metadata), &claim.metadata);
                        let changed = before.is_none_or(|b| b.spec != next.spec);
                        (next, changed)
                    });
                    self.caches.claims.insert(name.to_owned(), written);
                }
                scenario::Action::DeleteClaim { name, uid, .. } => {
                    let left = self.api.claims.delete(&mut self.api.counters, name, Some(uid));
                    self.graves.insert(uid.clone());
                    match left {
                        Some(claim) => self.caches.claims.insert(name.clone(), claim),
                        None => self.caches.claims.remove(name),
                    };
                }
            }
            self.wake_all();
            if self.dies() {
                return;
            }
        }
        if let EdgeFate::Consumed(number) = plan.edge
            && let Some(track) = self.tracks.get_mut(name)
        {
            track.consumed(snapshot.scenario.metadata.uid.as_deref(), number);
        }
        let uid = snapshot.scenario.metadata.uid.clone();
        if let Some(status) = plan.status
            && self.api.scenarios.objects.get(name).is_some_and(|s| s.metadata.uid == uid)
        {
            let written = self.api.scenarios.write(&mut self.api.counters, name, |before| {
                let mut next = before.unwrap().clone();
                next.status = Some(*status);
                (next, false)
            });
            self.caches.scenarios.insert(name.to_owned(), written);
            self.dirty.insert(("scenario", name.to_owned()));
        }
    }

    fn package_snapshot(&self, name: &str) -> Option<package::Snapshot> {
        let mut nodes = self.nodes.clone();
        for node in &mut nodes {
            node.load = self.caches.instances.values().filter(|i| i.spec.node_name == node.name).count();
        }
        let (instances, neighbours) = self.caches.instances.values().cloned().partition(|i| i.spec.package == name);
        Some(package::Snapshot {
            package: self.caches.packages.get(name)?.clone(),
            claims: self.caches.claims.values().filter(|c| c.spec.package == name).cloned().collect(),
            models: self.caches.models.clone(),
            volumes: BTreeMap::new(),
            schedule: None,
            sharers: Vec::new(),
            networks: [("net".to_owned(), Arc::new(shared_network()))].into(),
            nodes,
            instances,
            neighbours,
            refused: BTreeMap::new(),
            epoch: 1,
        })
    }

    fn reconcile_package(&mut self, package: &str) {
        let Some(snapshot) = self.package_snapshot(package) else {
            return;
        };
        let plan = package::decide(&snapshot, at(self.api.counters.second));
        if !plan.is_empty() {
            self.say(format!("package {package}:\n{plan}"));
        }
        for action in &plan.actions {
            match action {
                package::Action::DeleteInstance { name, uid, .. } => {
                    match self.api.instances.delete(&mut self.api.counters, name, Some(uid)) {
                        Some(left) if left.metadata.uid.as_ref() == Some(uid) => {
                            self.caches.instances.insert(name.clone(), left);
                        }
                        Some(_) => {}
                        None => {
                            self.graves.insert(uid.clone());
                            self.caches.instances.remove(name);
                        }
                    }
                }
                package::Action::ApplyInstance { instance, .. } => {
                    let name = instance.metadata.name.clone().unwrap();
                    let written = self.api.instances.write(&mut self.api.counters, &name, |before| {
                        let mut next = (**instance).clone();
                        next.metadata = merged_meta(before.map(|b| &b.metadata), &instance.metadata);
                        next.status = before.and_then(|b| b.status.clone());
                        let changed = before.is_none_or(|b| b.spec != next.spec);
                        if let Some(before) = before {
                            assert_eq!(before.spec.template, next.spec.template, "a template is immutable");
                            assert!(before.spec.epoch <= next.spec.epoch, "an epoch never falls");
                        }
                        (next, changed)
                    });
                    self.caches.instances.insert(name, written);
                }
            }
            self.wake_all();
            self.check();
            if self.dies() {
                return;
            }
        }
        let uid = snapshot.package.metadata.uid.clone();
        if let Some(status) = plan.status
            && self.api.packages.objects.get(package).is_some_and(|p| p.metadata.uid == uid)
        {
            let written = self.api.packages.write(&mut self.api.counters, package, |before| {
                let mut next = before.unwrap().clone();
                next.status = Some(*status);
                (next, false)
            });
            self.caches.packages.insert(package.to_owned(), written);
            self.wake_all();
        }
    }
}

fn pop<K: Clone>(table: &mut Table<K>, twice: bool) -> Delivery<K> {
    if twice { table.changes[0].clone() } else { table.changes.pop_front().unwrap() }
}
