//! What holds at every moment, and what is true once everything has settled.

use std::collections::BTreeSet;

use pullpiri_crds::package::{DesiredRun, PackageState};
use pullpiri_crds::scenario::{ScenarioState, Truth};
use pullpiri_reconcilers::claims;

use super::Simulation;
use crate::world::micro;

impl Simulation {
    /// What holds at every moment.
    pub(super) fn check(&self) {
        let mut slots = BTreeSet::new();
        for instance in self.api.instances.objects.values() {
            let slot = (instance.spec.model.clone(), instance.spec.node_name.clone());
            assert!(slots.insert(slot.clone()), "two instances of {slot:?}\n{}", self.transcript);
            let owners = instance.metadata.owner_references.as_ref().unwrap();
            assert_eq!(owners.len(), 1, "owners of {:?}\n{}", instance.metadata.name, self.transcript);
        }
        for claim in self.api.claims.objects.values() {
            let owners = claim.metadata.owner_references.as_ref().unwrap();
            assert_eq!(owners.len(), 1, "owners of claim {:?}\n{}", claim.metadata.name, self.transcript);
        }
    }

    /// The person rests; everybody else works until nothing is left to do. Then what is, is what was asked for.
    /// Returns the package's state, if there is a package.
    pub fn settle(&mut self) -> Option<PackageState> {
        self.say("settling");
        let mut rounds = 0;
        loop {
            self.api.counters.second += 1;
            let mut busy = false;
            while self.deliver() {
                busy = true;
            }
            while self.reconcile() {
                busy = true;
                self.check();
                rounds += 1;
                assert!(rounds < 2000, "doesn't settle\n{}", self.transcript);
            }
            while self.collect() {
                busy = true;
            }
            for name in self.api.instances.objects.keys().cloned().collect::<Vec<_>>() {
                busy |= self.serve(&name);
            }
            self.check();
            if !busy {
                break;
            }
        }
        self.verify();
        let package = self.api.packages.objects.get("p")?;
        package.status.as_ref().map(|status| status.state)
    }

    fn verify(&mut self) {
        let story = self.transcript.clone();
        for name in ["on", "off"] {
            let claim = self.api.claims.objects.get(name);
            let Some(reference) = self.references.get(name) else {
                assert!(claim.is_none(), "a claim without a scenario\n{story}");
                continue;
            };
            let since = claim.and_then(|c| c.spec.since.clone());
            assert_eq!(since, reference.edge.map(micro), "claim of {name}: {reference:?}\n{story}");
            let status = self.api.scenarios.objects[name].status.clone().unwrap();
            assert_eq!(status.claim.is_some(), claim.is_some(), "{story}");
            let truth = match reference.known {
                Some(true) => Truth::True,
                Some(false) => Truth::False,
                None => Truth::Unknown,
            };
            assert_eq!(status.truth, Some(truth), "truth of {name}\n{story}");
            if claim.is_none() {
                assert_eq!(status.state, ScenarioState::Waiting, "{story}");
            }
        }
        let claims: Vec<_> = self.api.claims.objects.values().cloned().collect();
        let desired = claims::winner(&claims).map_or(DesiredRun::Stopped, |c| claims::wish(c.spec.action));
        let Some(package) = self.api.packages.objects.get("p") else {
            assert!(self.api.instances.objects.is_empty(), "instances without a package\n{story}");
            return;
        };
        let status = package.status.as_ref().unwrap();
        assert_eq!(status.desired, Some(desired), "{story}");
        let resolved = (0..3).all(|m| self.api.models.objects.contains_key(&format!("m{m}")));
        let running = self.api.instances.objects.values().filter(|i| i.spec.run).count();
        match desired {
            DesiredRun::Stopped => {
                assert_eq!(running, 0, "{story}");
                assert!(
                    matches!(status.state, PackageState::Idle | PackageState::Paused),
                    "{:?}\n{story}",
                    status.state
                );
            }
            DesiredRun::Running if resolved => {
                assert_eq!((running, status.state), (4, PackageState::Running), "{story}");
                let winner = claims::winner(&claims).unwrap();
                let scenario = &self.api.scenarios.objects[winner.metadata.name.as_ref().unwrap()];
                assert_eq!(scenario.status.as_ref().unwrap().state, ScenarioState::Completed, "{story}");
                for instance in self.api.instances.objects.values() {
                    let model = &self.api.models.objects[&instance.spec.model];
                    assert_eq!(instance.spec.template.spec, model.spec, "{story}");
                }
            }
            DesiredRun::Running => {}
        }
    }
}
