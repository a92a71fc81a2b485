//! How a pod goes: stopped while something runs, removed once nothing does, its network and its files after it.

use std::time::Duration;

use pullpiri_crds::ModelInstance;

use super::{Blocked, Pass, grace, has_finalizer};
use crate::memory::Memory;
use crate::plan::{Action, FinalizerChange, LedgerChange, ObjectChange, Plan, StopReason};
use crate::runtime::{ContainerStateObserved, PodObserved};

/// Stopping was tried this often before the pod is removed by force.
const STOP_ATTEMPTS: u32 = 2;

/// Stop while something runs, remove once nothing does.
pub(super) fn removal(pod: &PodObserved, grace: Duration, why: StopReason) -> Action {
    let runs = |state: &ContainerStateObserved| matches!(state, ContainerStateObserved::Running { .. });
    if pod.sandbox_alive && pod.containers.iter().any(|container| runs(&container.state)) {
        Action::StopPod { pod: pod.id.clone(), adapter: pod.adapter, grace, why }
    } else {
        Action::RemovePod { pod: pod.id.clone(), adapter: pod.adapter, why }
    }
}

impl Pass<'_> {
    /// Nothing of the instance is left but its files, its finalizer and what is remembered.
    pub(super) fn leave(mut self) -> Plan {
        if self.pods().next().is_some() {
            // Nobody knows what it was: it is removed as unknown.
            return self.plan;
        }
        if self.snapshot.network.attached.contains(self.id) {
            match self.wait_after_failure("") {
                Some(at) => self.plan.requeue(at),
                None => self.plan.actions.push(Action::Detach { pod: self.id.clone() }),
            }
            return self.plan;
        }
        if self.snapshot.directories.contains(self.id) {
            self.plan.actions.push(Action::RemoveFiles { pod: self.id.clone() });
            if let Some(at) = self.wait_after_failure("") {
                self.plan.actions.clear();
                self.plan.requeue(at);
            }
            return self.plan;
        }
        if self.instance.memory != Memory::default() {
            self.plan.ledger.insert(self.id.clone(), LedgerChange::Forget);
        }
        if self.instance.object.as_ref().is_some_and(|object| has_finalizer(object)) {
            let change = ObjectChange { status: None, finalizer: Some(FinalizerChange::Remove) };
            self.plan.objects.insert(self.id.clone(), change);
        }
        self.plan
    }

    pub(super) fn decide_removal(&mut self, accepted: &ModelInstance, why: StopReason, uncertain: Option<Blocked>) {
        let pods: Vec<&PodObserved> = self.pods().collect();
        if pods.is_empty() {
            // Where nobody can look, a pod may still use it.
            if uncertain.is_none() {
                self.detach();
            }
            self.blocked = uncertain;
        }
        for pod in pods {
            self.remove(pod, grace(accepted), why);
        }
    }

    pub(super) fn remove(&mut self, pod: &PodObserved, grace: Duration, why: StopReason) {
        if let Some(at) = self.wait_after_failure("") {
            self.plan.requeue(at);
            return;
        }
        let stubborn = self.memory.failures.get("").is_some_and(|failure| failure.count >= STOP_ATTEMPTS);
        let action = match removal(pod, grace, why) {
            Action::StopPod { pod, adapter, why, .. } if stubborn => Action::RemovePod { pod, adapter, why },
            action => action,
        };
        if matches!(action, Action::StopPod { .. }) {
            self.event("Killing", false, format!("stopping the containers: {why}"));
        }
        let removes = matches!(action, Action::RemovePod { .. });
        self.memory.stopping |= match why {
            StopReason::NotWanted | StopReason::Deleted | StopReason::DeadlinesMissed | StopReason::Outdated => true,
            // What had ended for good has, and another pod of it may be there.
            StopReason::Broken | StopReason::Duplicate | StopReason::Unknown => false,
        };
        self.plan.actions.push(action);
        // Its successor gets a namespace that nobody has touched.
        if removes && self.snapshot.network.attached.contains(self.id) {
            self.plan.actions.push(Action::Detach { pod: self.id.clone() });
        }
    }

    fn detach(&mut self) {
        if !self.snapshot.network.attached.contains(self.id) {
            return;
        }
        match self.wait_after_failure("") {
            Some(at) => self.plan.requeue(at),
            None => self.plan.actions.push(Action::Detach { pod: self.id.clone() }),
        }
    }
}
