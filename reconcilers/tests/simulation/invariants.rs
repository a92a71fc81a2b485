//! What holds at every moment, and what is true once everything has settled.

use std::collections::BTreeSet;
use std::sync::Arc;

use pullpiri_crds::ModelInstance;
use pullpiri_crds::package::{DesiredRun, DesiredState, PackageState};
use pullpiri_crds::scenario::{ScenarioState, Truth};
use pullpiri_reconcilers::claims;
use pullpiri_reconcilers::package::holds;
use pullpiri_reconcilers::placement::NodeView;
use pullpiri_rt::{Node, Placed, Placement, PriorityAssignment, Proof, Request, Task};

use super::{MODELS, PACKAGES, Simulation, package_of};
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
        let mut addresses = BTreeSet::new();
        for network in self.api.instances.objects.values().filter_map(|i| i.spec.network.as_ref()) {
            for address in &network.addresses {
                assert!(addresses.insert(address), "two instances have {address}\n{}", self.transcript);
            }
        }
        for node in &self.nodes {
            let proof = proven(node, self.api.instances.objects.values().filter(|i| holds(i)), None);
            let missing: Vec<_> = proof.existing.iter().filter(|verdict| !verdict.schedulable).collect();
            assert!(missing.is_empty(), "node {}: {missing:?}\n{}", node.name, self.transcript);
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

    /// Why packages that should run don't, or not wholly.
    pub fn refusals(&self) -> Vec<String> {
        let running = self.api.packages.objects.values().filter_map(|p| p.status.as_ref());
        running
            .filter(|status| status.desired == Some(DesiredRun::Running))
            .flat_map(|status| status.conditions.iter().filter(|c| c.status == "False"))
            .filter(|c| ["Placed", "Schedulable"].contains(&c.type_.as_str()))
            .map(|c| c.reason.clone())
            .collect()
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
        for name in PACKAGES {
            let desired = match (name, self.api.packages.objects.get(name)) {
                ("p", _) => desired,
                (_, Some(q)) if q.spec.desired_state == Some(DesiredState::Stopped) => DesiredRun::Stopped,
                (_, _) => DesiredRun::Running,
            };
            self.verify_package(name, desired);
        }
        let winner = claims::winner(&claims);
        let state = self.api.packages.objects.get("p").and_then(|p| Some(p.status.as_ref()?.state));
        if let Some(winner) = winner.filter(|_| state == Some(PackageState::Running) && desired == DesiredRun::Running)
        {
            let scenario = &self.api.scenarios.objects[winner.metadata.name.as_ref().unwrap()];
            assert_eq!(scenario.status.as_ref().unwrap().state, ScenarioState::Completed, "{story}");
        }
    }

    fn verify_package(&self, name: &str, desired: DesiredRun) {
        let story = &self.transcript;
        let mine: Vec<_> = self.api.instances.objects.values().filter(|i| i.spec.package == name).collect();
        let Some(package) = self.api.packages.objects.get(name) else {
            assert!(mine.is_empty(), "instances without a package\n{story}");
            return;
        };
        let status = package.status.as_ref().unwrap();
        assert_eq!(status.desired, Some(desired), "{story}");
        let models = MODELS.into_iter().filter(|model| package_of(model) == name);
        let resolved = models.clone().all(|model| self.api.models.objects.contains_key(model));
        let running = mine.iter().filter(|i| i.spec.run).count();
        if desired == DesiredRun::Stopped {
            assert_eq!(running, 0, "{story}");
            assert!(matches!(status.state, PackageState::Idle | PackageState::Paused), "{:?}\n{story}", status.state);
            return;
        }
        if !resolved {
            return;
        }
        // What it didn't get there really isn't.
        let reason = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind && c.status == "False");
        if let Some(refused) = reason("Schedulable") {
            return self.verify_refusal(name, &refused.message);
        }
        if let Some(refused) = reason("Placed") {
            assert_eq!(refused.reason, "PoolExhausted", "{story}");
            let used = self.api.instances.objects.values().filter(|i| i.spec.network.is_some()).count();
            assert_eq!(used, 5, "an address was left\n{story}");
            return;
        }
        assert_eq!((running, status.state), (4, PackageState::Running), "{story}");
        for instance in mine {
            let model = &self.api.models.objects[&instance.spec.model];
            let wanted = pullpiri_crds::ModelSpec { realtime: None, ..model.spec.clone() };
            assert_eq!(instance.spec.template.spec, wanted, "{story}");
            let wcet = model.spec.realtime.as_ref().map(|r| pullpiri_crds::duration::parse_ns(&r.wcet).unwrap());
            let given = instance.spec.realtime.first().map(|task| task.wcet_ns.unsigned_abs());
            assert_eq!(given, wcet, "{story}");
            assert_eq!(instance.spec.network.is_some(), wcet.is_none(), "{story}");
        }
    }

    /// No node that the package's task may be on has the time for it.
    fn verify_refusal(&self, name: &str, message: &str) {
        let model = if name == "p" { "m0" } else { "q0" };
        let realtime = self.api.models.objects[model].spec.realtime.clone().unwrap();
        let task = pullpiri_rt::from_model(model, &realtime).unwrap();
        let bound =
            self.api.instances.objects.values().find(|i| i.spec.model == model).map(|i| i.spec.node_name.clone());
        let only = if name == "p" { Some("a".to_owned()) } else { bound };
        for node in self.nodes.iter().filter(|node| only.as_ref().is_none_or(|only| *only == node.name)) {
            let others = self.api.instances.objects.values().filter(|i| i.spec.package != name && holds(i));
            let proof = proven(node, others, Some(task.clone()));
            assert!(!proof.schedulable, "{name} would fit on {}: {message}\n{}", node.name, self.transcript);
        }
    }
}

/// What the analysis says of the tasks of these instances on a node, and of one more.
fn proven<'a>(node: &NodeView, instances: impl Iterator<Item = &'a Arc<ModelInstance>>, more: Option<Task>) -> Proof {
    let existing = instances
        .filter(|i| i.spec.node_name == node.name)
        .flat_map(|i| {
            let placed = |task| Placed::from_instance(&node.name, &i.spec.model, task).unwrap();
            i.spec.realtime.iter().map(placed).collect::<Vec<_>>()
        })
        .collect();
    pullpiri_rt::admit(&Request {
        tasks: more.into_iter().collect(),
        priority_assignment: PriorityAssignment::Explicit,
        placement: Placement::FirstFit,
        nodes: vec![Node::from_runtime(&node.name, node.realtime.as_ref().unwrap()).unwrap()],
        existing,
    })
}
