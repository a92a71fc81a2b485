//! From an edge to a claim.
//!
//! The claim is written before the status: a crash in between leaves a claim that the status doesn't know, and whoever comes next takes the
//! claim for the record that it is (see [`super::Track::start`]). The other order would lose the claim.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use pullpiri_crds::claim::{Claim, ClaimSpec};
use pullpiri_crds::names::LABEL_SCENARIO;
use pullpiri_crds::scenario::{ObservedValue, Scenario, Truth};

use super::plan::{Action, EdgeFate, Plan};
use super::snapshot::Snapshot;
use super::status;
use crate::ownership::{self, Ownership};
use crate::{naming, time};

/// How the claim that has the scenario's name stands to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held<'a> {
    Nothing,
    Mine(&'a Claim),
    /// It is on its way out, or an earlier scenario of this name left it: the name will be free.
    Leaving(&'a Claim),
    /// A person made it.
    Taken,
}

/// What this decision makes of the edge.
#[derive(Clone, Debug)]
pub(super) enum Firing {
    /// Nothing fires.
    No,
    /// The claim is (to be) written.
    Yes { since: MicroTime, because: Vec<ObservedValue> },
    /// The claim was written, but not recorded, before a crash.
    Recorded,
    /// Another claim has the name.
    Blocked,
}

/// What is to be done about a scenario.
#[must_use]
pub fn decide(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let scenario = &*snapshot.scenario;
    if scenario.metadata.deletion_timestamp.is_some() {
        // Its claim vanishes with it: it is the claim's owner.
        return Plan::default();
    }
    let held = held(snapshot);
    let firing = firing(snapshot, held, now);
    let mut plan = Plan { edge: fate(snapshot, &firing), ..Plan::default() };
    let claim = claim(scenario, held, &firing);
    match held {
        Held::Mine(current) => {
            if let Some(wanted) = &claim
                && (wanted.spec != current.spec || !ownership::carries(&current.metadata, &wanted.metadata))
            {
                plan.actions.push(Action::ApplyClaim(Box::new(wanted.clone())));
            }
        }
        Held::Nothing => {
            if let Some(wanted) = &claim {
                plan.actions.push(Action::ApplyClaim(Box::new(wanted.clone())));
            }
        }
        Held::Leaving(old) => {
            // Garbage collection would do it too; an edge that waits is worth not waiting for that.
            if matches!(firing, Firing::Blocked) && old.metadata.deletion_timestamp.is_none() {
                plan.actions.push(Action::DeleteClaim {
                    namespace: old.metadata.namespace.clone().unwrap_or_default(),
                    name: old.metadata.name.clone().unwrap_or_default(),
                    uid: old.metadata.uid.clone().unwrap_or_default(),
                });
            }
        }
        Held::Taken => {}
    }
    let (next, notices) = status::compute(snapshot, held, &firing, claim.as_ref(), now);
    if scenario.status.as_ref().is_none_or(|on_record| !status::same(on_record, &next)) {
        plan.status = Some(Box::new(next));
    }
    plan.notices = notices;
    plan
}

fn held(snapshot: &Snapshot) -> Held<'_> {
    let Some(claim) = snapshot.claim.as_deref() else {
        return Held::Nothing;
    };
    match ownership::of(&claim.metadata, &*snapshot.scenario) {
        Ownership::Mine if claim.metadata.deletion_timestamp.is_none() => Held::Mine(claim),
        Ownership::Mine | Ownership::Predecessor => Held::Leaving(claim),
        Ownership::Foreign => Held::Taken,
    }
}

fn firing(snapshot: &Snapshot, held: Held<'_>, now: Timestamp) -> Firing {
    let scenario = &*snapshot.scenario;
    let status = scenario.status.as_ref();
    let recorded = status.and_then(|s| s.truth);
    let generation = scenario.metadata.generation;
    if scenario.spec.condition.is_none() {
        // At once, once per generation.
        if recorded == Some(Truth::True) && status.and_then(|s| s.observed_generation) == generation {
            return Firing::No;
        }
        return match held {
            Held::Mine(claim) if claim.spec.scenario_generation == generation => Firing::Recorded,
            Held::Mine(_) | Held::Nothing => Firing::Yes { since: time::micro(now), because: Vec::new() },
            Held::Leaving(_) | Held::Taken => Firing::Blocked,
        };
    }
    let Some(edge) = &snapshot.observed.edge else {
        return Firing::No;
    };
    match held {
        Held::Mine(_) | Held::Nothing => Firing::Yes { since: edge.at.clone(), because: edge.because.clone() },
        Held::Leaving(_) | Held::Taken => Firing::Blocked,
    }
}

fn fate(snapshot: &Snapshot, firing: &Firing) -> EdgeFate {
    match (&snapshot.observed.edge, firing) {
        (Some(_), Firing::Blocked) => EdgeFate::Kept,
        (Some(edge), Firing::No | Firing::Yes { .. } | Firing::Recorded) => EdgeFate::Consumed(edge.number),
        (None, _) => EdgeFate::None,
    }
}

/// The claim as it should be: fresh from an edge, or the latched one, following an edited scenario. `None` if there should be none yet.
fn claim(scenario: &Scenario, held: Held<'_>, firing: &Firing) -> Option<Claim> {
    let (since, because) = match (firing, held) {
        (Firing::Yes { since, because }, _) => (Some(since.clone()), because.clone()),
        (Firing::No | Firing::Recorded, Held::Mine(claim)) => (claim.spec.since.clone(), claim.spec.because.clone()),
        (Firing::Blocked, _) | (Firing::No | Firing::Recorded, Held::Nothing | Held::Leaving(_) | Held::Taken) => {
            return None;
        }
    };
    let name = scenario.metadata.name.clone().unwrap_or_default();
    let spec = ClaimSpec {
        package: scenario.spec.target.clone(),
        action: scenario.spec.action,
        priority: Some(scenario.spec.priority.unwrap_or(0)),
        since,
        scenario: Some(name.clone()),
        scenario_generation: scenario.metadata.generation,
        because,
    };
    let mut claim = Claim::new(&name, spec);
    claim.metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: scenario.metadata.namespace.clone(),
        labels: Some([(LABEL_SCENARIO.to_owned(), naming::label_value(&name))].into()),
        owner_references: Some(vec![ownership::reference(scenario)]),
        ..ObjectMeta::default()
    };
    Some(claim)
}
