//! Edges: a condition that becomes true.
//!
//! An edge is a True that finds no True on record. The record is the last *known* truth, and it outlives us in the scenario's status: a
//! signal that loses its value (the usual state after a restart, since signals are never stored) doesn't change it. So a restart refires
//! nothing, while a scenario that was never known to hold fires on the first sample that makes it hold, in whichever order scenario and
//! signal arrived.
//!
//! Samples are evaluated one by one, in order, as they arrive. Reconciling may lag behind: an edge is kept, with its time and the
//! values that made it, until it was acted on, even if the condition has become false again. Edges that pile up count as one, the latest.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use pullpiri_condition::{Evaluation, Field, Undecided, Values, evaluate, fields};
use pullpiri_crds::claim::Claim;
use pullpiri_crds::scenario::{ObservedValue, Scenario, ScenarioCondition, Truth};

use crate::ownership::{self, Ownership};
use crate::time;

/// A condition that became true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub at: MicroTime,
    pub because: Vec<ObservedValue>,
    /// Tells edges of one track apart.
    pub number: u64,
}

/// What is known about a condition when a scenario is reconciled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The last known truth, from the record or since; `None` if it was never known.
    pub known: Option<bool>,
    /// The present truth; `None` before the first evaluation.
    pub truth: Option<Truth>,
    pub values: Vec<ObservedValue>,
    pub undecided: Vec<Undecided>,
    /// The edge that waits to be acted on.
    pub edge: Option<Edge>,
}

/// Whether an evaluation shows a reconciler anything new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluated {
    /// An edge was seen.
    Fired,
    /// The truth, or why it is unknown, changed.
    Changed,
    Unchanged,
}

/// One scenario's condition, from sample to sample.
#[derive(Clone, Debug)]
pub struct Track {
    uid: Option<String>,
    condition: Option<ScenarioCondition>,
    observed: Observed,
    edges: u64,
}

impl Track {
    /// Starts from the truth on record.
    ///
    /// The claim counts as a record too: it is written before the status, and one that is newer than the status tells of an edge that
    /// was acted on just before a crash.
    #[must_use]
    pub fn start(scenario: &Scenario, claim: Option<&Claim>) -> Self {
        let status = scenario.status.as_ref();
        let mine = claim.filter(|claim| ownership::of(&claim.metadata, scenario) == Ownership::Mine);
        let claimed = mine.and_then(|claim| claim.spec.since.as_ref());
        let known = match status.and_then(|s| s.truth) {
            _ if claimed.is_some() && claimed > status.and_then(|s| s.truth_since.as_ref()) => Some(true),
            Some(Truth::True) => Some(true),
            Some(Truth::False) => Some(false),
            Some(Truth::Unknown) | None => None,
        };
        Self {
            uid: scenario.metadata.uid.clone(),
            condition: scenario.spec.condition.clone(),
            observed: Observed { known, ..Observed::default() },
            edges: 0,
        }
    }

    /// Follows an edited scenario. Returns whether the condition is another one and wants evaluation.
    pub fn follow(&mut self, scenario: &Scenario, claim: Option<&Claim>) -> bool {
        if self.uid != scenario.metadata.uid {
            *self = Self::start(scenario, claim);
            return true;
        }
        if self.condition == scenario.spec.condition {
            return false;
        }
        self.condition.clone_from(&scenario.spec.condition);
        // An edge of the old condition is none of the new one.
        self.observed.edge = None;
        true
    }

    /// The fields that the condition reads.
    #[must_use]
    pub fn fields(&self) -> Vec<Field> {
        self.condition.iter().flat_map(fields).collect()
    }

    /// Evaluates the condition over the values that are known at `at`.
    pub fn evaluate(&mut self, values: &impl Values, at: Timestamp) -> Evaluated {
        let Some(condition) = &self.condition else {
            return Evaluated::Unchanged;
        };
        let Evaluation { truth, values, undecided } = evaluate(condition, values);
        let known = match truth {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Unknown => None,
        };
        let fired = known == Some(true) && self.observed.known != Some(true);
        let changed = self.observed.truth != Some(truth) || self.observed.undecided != undecided;
        if fired {
            self.edges += 1;
            self.observed.edge = Some(Edge { at: time::micro(at), because: values.clone(), number: self.edges });
        }
        if known.is_some() {
            self.observed.known = known;
        }
        self.observed.truth = Some(truth);
        self.observed.values = values;
        self.observed.undecided = undecided;
        match (fired, changed) {
            (true, _) => Evaluated::Fired,
            (false, true) => Evaluated::Changed,
            (false, false) => Evaluated::Unchanged,
        }
    }

    #[must_use]
    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Forgets the edge with this number, of the scenario with this UID: it was acted on. A later one, or that of a successor, stays.
    pub fn consumed(&mut self, uid: Option<&str>, number: u64) {
        if self.uid.as_deref() == uid && self.observed.edge.as_ref().is_some_and(|edge| edge.number == number) {
            self.observed.edge = None;
        }
    }
}
