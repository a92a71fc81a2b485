//! The controllers: what they decide they write, one write at a time, and they may die in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pullpiri_reconcilers::scenario::EdgeFate;
use pullpiri_reconcilers::{package, scenario};

use super::api::merged_meta;
use super::{Simulation, shared_network};
use crate::world::at;

impl Simulation {
    pub(super) fn reconcile(&mut self) -> bool {
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
            policy: None,
            sharers: Vec::new(),
            networks: [("net".to_owned(), Arc::new(shared_network()))].into(),
            named: BTreeSet::new(),
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
