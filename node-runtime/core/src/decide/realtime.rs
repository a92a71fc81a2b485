//! What becomes of an instance whose real-time tasks missed more deadlines than they may.

use std::collections::BTreeSet;
use std::time::Duration;

use pullpiri_crds::ModelInstance;
use pullpiri_crds::condition::reason;
use pullpiri_crds::schedule::OnMiss;

use super::{Desired, Pass, grace};
use crate::memory::{Memory, Terminated};
use crate::plan::{Action, StopReason};
use crate::realtime::Spent;
use crate::resolve;
use crate::runtime::{ContainerStateObserved, PodObserved};

/// A container that misses its deadlines isn't given its whole grace: what it controls is waiting.
const MAX_GRACE: Duration = Duration::from_secs(1);

/// Of a spec, without its epoch.
fn spec_hash(accepted: &ModelInstance) -> String {
    let mut spec = accepted.spec.clone();
    spec.epoch = 0;
    resolve::fnv(&serde_json::to_vec(&spec).unwrap_or_default())
}

/// Whether it was stopped for its misses, under the spec that it has now.
pub(super) fn is_terminated(memory: &Memory, accepted: &ModelInstance) -> bool {
    memory.terminated.as_ref().is_some_and(|terminated| terminated.spec_hash == spec_hash(accepted))
}

impl Pass<'_> {
    /// The tasks that spent their budgets under the spec that is accepted, in containers that still run.
    fn spent(&self, accepted: &ModelInstance) -> Vec<Spent> {
        let report = self.instance.realtime.as_ref();
        let report = report.filter(|report| report.generation == accepted.metadata.generation);
        let runs = |spent: &Spent| {
            self.pods().flat_map(|pod| &pod.containers).any(|container| {
                let pid = u32::try_from(spent.pid).ok();
                container.name == spent.container
                    && matches!(container.state, ContainerStateObserved::Running { pid: now, .. } if Some(now) == pid)
            })
        };
        report.map(|report| report.spent.iter().filter(|spent| runs(spent)).cloned().collect()).unwrap_or_default()
    }

    /// Remembers that it is to be stopped, or that another spec lets it run again.
    pub(super) fn decide_termination(&mut self, desired: Desired, accepted: &ModelInstance) -> Desired {
        if self.memory.terminated.is_some() && !is_terminated(&self.memory, accepted) {
            self.memory.terminated = None;
        }
        if desired != Desired::Run {
            return desired;
        }
        let Some(spent) = self.spent(accepted).into_iter().find(|spent| spent.on_miss == OnMiss::Terminate) else {
            return desired;
        };
        self.event(reason::MISS_BUDGET_SPENT, true, format!("{}: stopped until its spec changes", spent.message));
        self.memory.terminated = Some(Terminated { spec_hash: spec_hash(accepted), message: spent.message });
        Desired::Stop
    }

    pub(super) fn why_stopped(&self) -> StopReason {
        if self.memory.terminated.is_some() { StopReason::DeadlinesMissed } else { StopReason::NotWanted }
    }

    /// Ends containers that are to be restarted for their misses; whether there are any.
    pub(super) fn decide_ends(&mut self, pod: &PodObserved, accepted: &ModelInstance) -> bool {
        let mut spent = self.spent(accepted);
        spent.retain(|spent| spent.on_miss == OnMiss::Restart);
        // Several tasks of one container end it once, whatever lies between them.
        let mut containers = BTreeSet::new();
        spent.retain(|spent| containers.insert(spent.container.clone()));
        for spent in &spent {
            let Ok(pid) = u32::try_from(spent.pid) else { continue };
            let run = self.memory.containers.get_mut(&spent.container).and_then(|container| container.run.as_mut());
            let known = run.is_some_and(|run| std::mem::replace(&mut run.ended_to_restart, true));
            if !known {
                let note = format!("{}: container {} is restarted", spent.message, spent.container);
                self.event(reason::MISS_BUDGET_SPENT, true, note);
            }
            self.plan.actions.push(Action::EndContainer {
                pod: self.id.clone(),
                adapter: pod.adapter,
                container: spent.container.clone(),
                pid,
                grace: grace(accepted).min(MAX_GRACE),
            });
        }
        !spent.is_empty()
    }
}
