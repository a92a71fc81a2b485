//! The status of a scenario: a function of what was observed and what this decision does about it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use pullpiri_condition::{Why, invalid_terms};
use pullpiri_crds::claim::Claim;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::package::{DesiredRun, DesiredState, Package, PackageState};
use pullpiri_crds::scenario::{ScenarioState, ScenarioStatus, Truth};
use pullpiri_state::{Notice, Progress, ScenarioEvent, ScenarioMachine};

use super::decide::{Firing, Held};
use super::snapshot::Snapshot;
use crate::conditions::{self, Verdict, Wanted};
use crate::{claims, time};

/// How the target stands to the scenario's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    NoClaim,
    /// Something else decides, and differently; the text says what.
    Overridden(String),
    NoTarget,
    NotYet,
    AsWished,
}

/// The whole status, and what to tell people about how it came to be.
pub(super) fn compute(
    snapshot: &Snapshot,
    held: Held<'_>,
    firing: &Firing,
    claim: Option<&Claim>,
    now: Timestamp,
) -> (ScenarioStatus, Vec<Notice>) {
    let scenario = &*snapshot.scenario;
    let before = scenario.status.clone().unwrap_or_default();
    let at = time::micro(now);
    let standing = standing(snapshot, claim);
    let fired = matches!(firing, Firing::Yes { .. } | Firing::Recorded);

    let mut progress = Progress::<ScenarioMachine>::resume(before.state, &before.history);
    for (event, reason, note) in events(snapshot, before.state, fired, &standing) {
        // The events are chosen by state, so none is refused; if one were, the state on record would stand.
        let _ = progress.fire(event, &at, reason, &note);
    }
    let (state, history, notices) = progress.finish();
    let (truth, truth_since) = truth(snapshot, &before, firing, &at);
    let values = if truth_since == before.truth_since && before.truth.is_some() && !moved_condition(snapshot, &before) {
        before.values.clone()
    } else {
        snapshot.observed.values.clone()
    };
    let wanted = vec![ready(snapshot, held, state, &standing)];
    let status = ScenarioStatus {
        observed_generation: scenario.metadata.generation,
        state,
        truth,
        truth_since,
        claim: claim.and_then(|c| c.metadata.name.clone()),
        values,
        history,
        conditions: conditions::compute(&before.conditions, wanted, scenario.metadata.generation, now),
    };
    (status, notices)
}

/// Whether what is on record is what we would write; what others added to it is left out.
pub(super) fn same(on_record: &ScenarioStatus, next: &ScenarioStatus) -> bool {
    let ours = conditions::of_same_types(&on_record.conditions, &next.conditions);
    *next == ScenarioStatus { conditions: ours, ..on_record.clone() }
}

/// Whether the values on record belong to an older condition.
fn moved_condition(snapshot: &Snapshot, before: &ScenarioStatus) -> bool {
    before.observed_generation != snapshot.scenario.metadata.generation
}

/// The truth on record and since when.
fn truth(
    snapshot: &Snapshot,
    before: &ScenarioStatus,
    firing: &Firing,
    at: &MicroTime,
) -> (Option<Truth>, Option<MicroTime>) {
    let next = match firing {
        // Until the edge can be acted on, nothing on record may say that it was.
        Firing::Blocked => match before.truth {
            Some(Truth::True) => Truth::Unknown,
            Some(Truth::False) => Truth::False,
            Some(Truth::Unknown) | None => Truth::Unknown,
        },
        Firing::No | Firing::Yes { .. } | Firing::Recorded => {
            if snapshot.scenario.spec.condition.is_none() {
                Truth::True
            } else {
                match snapshot.observed.known {
                    Some(true) => Truth::True,
                    Some(false) => Truth::False,
                    None => Truth::Unknown,
                }
            }
        }
    };
    let acted = matches!(firing, Firing::Yes { .. } | Firing::Recorded);
    if before.truth == Some(next) && !acted {
        (before.truth, before.truth_since.clone())
    } else {
        (Some(next), Some(at.clone()))
    }
}

/// How things stand once this decision is carried out: judged by the claims, not by a Package status that may lag behind them.
fn standing(snapshot: &Snapshot, claim: Option<&Claim>) -> Standing {
    let Some(claim) = claim else {
        return Standing::NoClaim;
    };
    let Some(package) = snapshot.package.as_deref() else {
        return Standing::NoTarget;
    };
    let wish = claims::wish(claim.spec.action);
    match package.spec.desired_state.unwrap_or_default() {
        DesiredState::OnClaim => {
            let mut all: Vec<Arc<Claim>> =
                snapshot.claims.iter().filter(|c| c.metadata.name != claim.metadata.name).cloned().collect();
            all.push(Arc::new(claim.clone()));
            if let Some(winner) = claims::winner(&all)
                && claims::wish(winner.spec.action) != wish
            {
                let name = winner.metadata.name.as_deref().unwrap_or_default();
                return Standing::Overridden(format!("claim {name} decides: {}", winner.spec.action.as_str()));
            }
        }
        forced @ (DesiredState::Running | DesiredState::Stopped) => {
            let forced_run = if forced == DesiredState::Running { DesiredRun::Running } else { DesiredRun::Stopped };
            if forced_run != wish {
                return Standing::Overridden(format!(
                    "spec.desiredState of package {} is {forced:?}",
                    claim.spec.package
                ));
            }
        }
    }
    if as_wished(package, wish) { Standing::AsWished } else { Standing::NotYet }
}

fn as_wished(package: &Package, wish: DesiredRun) -> bool {
    let Some(status) = &package.status else {
        return false;
    };
    let reached = match wish {
        DesiredRun::Running => matches!(status.state, PackageState::Running | PackageState::Exited),
        DesiredRun::Stopped => matches!(status.state, PackageState::Idle | PackageState::Paused),
    };
    reached && status.desired == Some(wish) && status.observed_generation == package.metadata.generation
}

type Event = (ScenarioEvent, &'static str, String);

fn events(snapshot: &Snapshot, state: ScenarioState, fired: bool, standing: &Standing) -> Vec<Event> {
    use ScenarioState::{Allowed, Completed, Denied, Idle, Satisfied, Waiting};
    let target = &snapshot.scenario.spec.target;
    let action = snapshot.scenario.spec.action.as_str();
    let fire = |why| (ScenarioEvent::Fire, why, format!("{action} {target}"));
    let achieve = || (ScenarioEvent::Achieve, reason::COMPLETED, format!("package {target} is as wished"));
    let holds = snapshot.observed.truth == Some(Truth::True) || snapshot.scenario.spec.condition.is_none();
    let mut events = Vec::new();
    let mut state = state;
    if fired {
        events.push(fire(reason::CONDITION_MET));
        state = Satisfied;
    }
    match (state, standing) {
        (Idle | Waiting, Standing::NoClaim) => {
            let unknown = !snapshot.observed.undecided.is_empty();
            let why = if unknown { reason::WAITING_FOR_SIGNAL } else { reason::CONDITION_NOT_MET };
            events.push((ScenarioEvent::Watch, why, String::new()));
        }
        (Satisfied | Allowed | Denied | Completed, Standing::NoClaim) => {
            events.push((ScenarioEvent::Withdraw, reason::CLAIM_WITHDRAWN, "its claim was deleted".to_owned()));
        }
        (Idle | Waiting, Standing::AsWished) => events.extend([fire(reason::CLAIMED), achieve()]),
        (Idle | Waiting, Standing::NotYet | Standing::NoTarget) => events.push(fire(reason::CLAIMED)),
        (Idle, Standing::Overridden(_)) => {
            events.push((ScenarioEvent::Watch, reason::OVERRIDDEN, String::new()));
        }
        (Waiting, Standing::Overridden(_)) => {}
        (Satisfied | Allowed, Standing::AsWished) => events.push(achieve()),
        // What was achieved stays so until something else decides: the Package itself tells how it fares.
        (Completed, Standing::AsWished | Standing::NotYet | Standing::NoTarget)
        | (Satisfied | Allowed, Standing::NotYet | Standing::NoTarget)
        | (Denied, Standing::AsWished | Standing::NotYet | Standing::NoTarget) => {}
        // While the condition holds it remains satisfied, if in vain.
        (Satisfied | Allowed | Denied, Standing::Overridden(_)) if holds => {}
        (Satisfied | Allowed | Denied | Completed, Standing::Overridden(why)) => {
            events.push((ScenarioEvent::Override, reason::OVERRIDDEN, why.clone()));
        }
    }
    events
}

fn ready(snapshot: &Snapshot, held: Held<'_>, state: ScenarioState, standing: &Standing) -> Wanted {
    let scenario = &*snapshot.scenario;
    let name = scenario.metadata.name.as_deref().unwrap_or_default();
    let target = &scenario.spec.target;
    let wanted = |verdict, reason, message: String| Wanted::new(kind::READY, verdict, reason, message);
    if matches!(held, Held::Taken) {
        let message =
            format!("claim {name} exists and isn't this scenario's; it is left alone and the scenario can't act");
        return wanted(Verdict::False, reason::CLAIM_NAME_TAKEN, message);
    }
    if let Some(condition) = &scenario.spec.condition {
        let invalid = invalid_terms(condition);
        if !invalid.is_empty() {
            let message = invalid.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return wanted(Verdict::False, reason::CONDITION_INVALID, message);
        }
    }
    if snapshot.package.is_none() {
        return wanted(Verdict::False, reason::TARGET_NOT_FOUND, format!("package {target} doesn't exist"));
    }
    if let Standing::Overridden(why) = standing {
        return wanted(Verdict::False, reason::OVERRIDDEN, why.clone());
    }
    match state {
        ScenarioState::Completed => wanted(Verdict::True, reason::COMPLETED, format!("package {target} is as wished")),
        ScenarioState::Satisfied | ScenarioState::Allowed => wanted(
            Verdict::True,
            reason::CLAIMED,
            format!("claim {name} is written; package {target} isn't as wished yet"),
        ),
        ScenarioState::Denied => wanted(Verdict::False, reason::POLICY_DENIED, "a policy denies the action".to_owned()),
        ScenarioState::Idle | ScenarioState::Waiting => {
            let undecided = &snapshot.observed.undecided;
            if snapshot.observed.truth == Some(Truth::True) || scenario.spec.condition.is_none() {
                let message = "its claim was deleted; it acts again at the next edge".to_owned();
                return wanted(Verdict::Unknown, reason::CLAIM_WITHDRAWN, message);
            }
            if undecided.is_empty() {
                return wanted(Verdict::True, reason::CONDITION_NOT_MET, "the condition doesn't hold".to_owned());
            }
            let compared = undecided.iter().any(|u| u.why != Why::NoValue);
            let why = if compared { reason::NOT_COMPARABLE } else { reason::WAITING_FOR_SIGNAL };
            let message = undecided.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            wanted(Verdict::Unknown, why, message)
        }
    }
}
