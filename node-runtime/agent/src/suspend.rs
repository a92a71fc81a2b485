//! Stopping every workload because the node stops: the instances stay wanted and start again with the node, but for those that had
//! ended for good.

use pullpiri_node_core::memory::{self, Memory};
use pullpiri_node_core::plan::StopReason;
use pullpiri_node_core::restart::{Backoff, wanted};
use pullpiri_node_core::runtime::PodObserved;
use pullpiri_node_core::{Action, Snapshot};
use std::time::Duration;

/// For a pod that nobody knows.
const GRACE: Duration = Duration::from_secs(10);

/// For each pod: stop, then remove, then detach from its network.
pub(crate) fn stops(snapshot: &Snapshot) -> Vec<Vec<Action>> {
    let mut all = Vec::new();
    for pod in snapshot.pods.values().filter(|pod| snapshot.node.is_ready(pod.adapter)) {
        let accepted = snapshot.instances.get(&pod.id).and_then(|instance| instance.memory.accepted.as_ref());
        let grace = accepted.map_or(GRACE, pullpiri_node_core::decide::grace);
        let (pod, adapter, why) = (pod.id.clone(), pod.adapter, StopReason::NotWanted);
        let detach = snapshot.network.attached.contains(&pod).then(|| Action::Detach { pod: pod.clone() });
        let actions =
            [Action::StopPod { pod: pod.clone(), adapter, grace, why }, Action::RemovePod { pod, adapter, why }];
        all.push(actions.into_iter().chain(detach).collect());
    }
    all
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
