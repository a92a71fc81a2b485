//! The status of a Schedule: what was proven of its tasks, written by one package of those that name it.

use jiff::Timestamp;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::schedule::ScheduleStatus;

use super::admission::Admission;
use super::snapshot::Snapshot;
use crate::conditions::{self, Verdict, Wanted};

/// The whole status of the package's Schedule, if it changes.
///
/// Of several packages that name one Schedule the first by name writes: two that took turns would never come to rest.
pub(super) fn status(snapshot: &Snapshot, admission: &Admission, now: Timestamp) -> Option<ScheduleStatus> {
    let schedule = snapshot.schedule.as_ref()?;
    let package = snapshot.package.metadata.name.clone()?;
    if snapshot.sharers.iter().any(|other| *other < package) {
        return None;
    }
    let (wanted, tasks) = match admission {
        Admission::Nothing => return None,
        Admission::Proven { message, proofs, .. } => {
            (Wanted::new(kind::SCHEDULABLE, Verdict::True, reason::PROVEN, message.clone()), proofs)
        }
        Admission::Refused { reason, message, proofs } => {
            (Wanted::new(kind::SCHEDULABLE, Verdict::False, reason, message.clone()), proofs)
        }
    };
    let before = schedule.status.clone().unwrap_or_default();
    let generation = schedule.metadata.generation;
    let next = ScheduleStatus {
        observed_generation: generation,
        package: Some(package),
        tasks: tasks.clone(),
        conditions: conditions::compute(&before.conditions, vec![wanted], generation, now),
    };
    let on_record =
        ScheduleStatus { conditions: conditions::of_same_types(&before.conditions, &next.conditions), ..before };
    (next != on_record).then_some(next)
}
