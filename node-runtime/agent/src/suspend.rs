//! Stopping every workload because the node stops: the instances stay wanted and start again with the node, but for those that had
//! ended for good.

use std::collections::BTreeSet;
use std::time::Duration;

use pullpiri_crds::model::Adapter;
use pullpiri_node_core::memory::{self, Failure, FailureKind, Memory};
use pullpiri_node_core::plan::StopReason;
use pullpiri_node_core::restart::{Backoff, wanted};
use pullpiri_node_core::runtime::{PodId, PodObserved};
use pullpiri_node_core::{Action, Snapshot};
use tracing::warn;

use crate::AgentError;
use crate::act::{Acted, Executor, surely};

/// For a pod that nobody knows.
const GRACE: Duration = Duration::from_secs(10);

/// A runtime that didn't answer before gets so much longer than the pod's grace period.
const UNREADY: Duration = Duration::from_secs(5);

/// What ends one pod.
#[derive(Debug)]
pub(crate) struct Stop {
    pub id: PodId,
    /// For people: `namespace/name`.
    pub name: String,
    /// Stop, then remove, then detach from its network.
    pub actions: Vec<Action>,
    /// How long to wait; `None` if the runtime answers and is taken at its word.
    pub limit: Option<Duration>,
}

/// For each pod that is there or, as its runtime doesn't answer, may be there.
pub(crate) fn stops(snapshot: &Snapshot) -> Vec<Stop> {
    let observed =
        snapshot.pods.values().map(|pod| (pod.id.clone(), pod.adapter, format!("{}/{}", pod.namespace, pod.name)));
    let unseen = snapshot.instances.iter().filter_map(|(id, one)| {
        let adapter = one.memory.adapter.filter(|adapter| !snapshot.node.is_ready(*adapter))?;
        if snapshot.pods.contains_key(&(id.clone(), adapter)) {
            return None;
        }
        let has_run = one.memory.containers.values().any(|container| container.run.is_some());
        let metadata = one.memory.accepted.as_ref().map(|accepted| &accepted.metadata).filter(|_| has_run)?;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        Some((id.clone(), adapter, format!("{}/{}", part(&metadata.namespace), part(&metadata.name))))
    });
    observed.chain(unseen).map(|(id, adapter, name)| stop(snapshot, id, adapter, name)).collect()
}

fn stop(snapshot: &Snapshot, id: PodId, adapter: Adapter, name: String) -> Stop {
    let accepted = snapshot.instances.get(&id).and_then(|instance| instance.memory.accepted.as_ref());
    let grace = accepted.map_or(GRACE, pullpiri_node_core::decide::grace);
    let why = StopReason::NotWanted;
    let detach = snapshot.network.attached.contains(&id).then(|| Action::Detach { pod: id.clone() });
    let ends =
        [Action::StopPod { pod: id.clone(), adapter, grace, why }, Action::RemovePod { pod: id.clone(), adapter, why }];
    let limit = (!snapshot.node.is_ready(adapter)).then(|| grace.saturating_add(UNREADY));
    Stop { id, name, actions: ends.into_iter().chain(detach).collect(), limit }
}

/// Carries it out.
pub(crate) async fn carry_out(executor: Executor, stop: Stop) -> (Stop, Acted) {
    let work = stop.actions.clone();
    let acting = surely(&stop.actions, async move { executor.act(work).await });
    let acted = match stop.limit {
        None => acting.await,
        Some(limit) => tokio::time::timeout(limit, acting).await.unwrap_or_else(|_| {
            let message = format!("its runtime didn't answer within {} s", limit.as_secs());
            let failure = Failure { kind: FailureKind::RuntimeMissing, message };
            let first = stop.actions.first().map(|action| (action.clone(), Err(failure)));
            Acted { outcomes: first.into_iter().collect(), effects: Vec::new() }
        }),
    };
    (stop, acted)
}

/// The pods that weren't stopped.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub ids: BTreeSet<PodId>,
    names: Vec<String>,
    of: usize,
}

impl Left {
    /// Takes down what came of one stop, and says if it failed.
    pub fn note(&mut self, stop: &Stop, acted: &Acted) {
        self.of += 1;
        let Some((action, failure)) =
            acted.outcomes.iter().find_map(|(action, outcome)| outcome.as_ref().err().map(|failure| (action, failure)))
        else {
            return;
        };
        warn!(pod = stop.name, error = failure.message, "a pod couldn't be stopped: {action}");
        self.ids.insert(stop.id.clone());
        self.names.push(stop.name.clone());
    }

    pub fn or_error(mut self) -> Result<(), AgentError> {
        if self.names.is_empty() {
            return Ok(());
        }
        self.names.sort();
        Err(AgentError::WorkloadsLeft { left: self.names.len(), of: self.of, names: self.names.join(", ") })
    }
}

pub(crate) fn remember_exits(memory: &mut Memory, pod: &PodObserved, backoff: &Backoff) {
    let _ = memory::observe(memory, pod, backoff);
}

/// Those that had ended before, as their policy wants them to stay, stay ended.
pub(crate) fn suspend(memory: &mut Memory) {
    let policy =
        memory.accepted.as_ref().and_then(|accepted| accepted.spec.template.spec.restart_policy).unwrap_or_default();
    // Being stopped ends with a signal's code: that isn't an end of its own.
    memory.suspended(|exit| !wanted(policy, exit) && exit.code < 128);
}
