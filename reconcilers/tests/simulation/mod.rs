//! The simulation: who acts when is drawn from a seed.

mod api;
mod controllers;
mod invariants;
mod people;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kube::Resource;
use pullpiri_crds::instance::ModelInstance;
use pullpiri_crds::scenario::{Action as Wish, Truth};
use pullpiri_crds::{Claim, Model, Network, Package, Scenario};
use pullpiri_reconcilers::placement::NodeView;
use pullpiri_reconcilers::scenario::Track;

use crate::world::{self, at, timed};
use api::{Api, Delivery, Objects, Table};

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
}

fn pop<K: Clone>(table: &mut Table<K>, twice: bool) -> Delivery<K> {
    if twice { table.changes[0].clone() } else { table.changes.pop_front().unwrap() }
}
