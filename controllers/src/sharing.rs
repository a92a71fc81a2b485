//! What packages share: the time of the nodes' CPUs, the addresses of Networks, and the nodes' links.
//!
//! Two packages that are decided at the same time could both be given what is there once. So a plan that takes something shared is decided
//! and carried out in its turn, one at a time: the answers to its writes are in the cache before the next one is decided. A write that
//! may or may not have reached the API server counts as done until its package was reconciled without an error.
//!
//! Whoever was refused for want of something shared is woken when some of it is given back. A package is entered here before it looks, so that
//! what is given back while it decides isn't missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pullpiri_crds::ModelInstance;
use pullpiri_crds::instance::InstanceTask;
use pullpiri_reconcilers::package::holds;

use crate::cache::{Change, Key};

/// Which Networks a package waits for an address of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thirst {
    /// It is being decided: any.
    Any,
    Of(BTreeSet<String>),
}

#[derive(Debug, Default)]
struct Inner {
    /// Packages with real-time tasks.
    timed: BTreeSet<Key>,
    thirsty: BTreeMap<Key, Thirst>,
    /// Packages for which a node's link had too little left, or which are being decided.
    crowded: BTreeSet<Key>,
    /// What was written without an answer.
    /// By package and the instance's name: the last try counts.
    unanswered: BTreeMap<Key, BTreeMap<Key, Arc<ModelInstance>>>,
}

/// The packages that share.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

impl Sharing {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What the lock guards is whole between any two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to decide and to carry out a plan that takes something shared.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// A package is about to look.
    pub fn looks(&self, package: &Key, has_tasks: bool) {
        let mut inner = self.lock();
        if has_tasks {
            inner.timed.insert(package.clone());
        } else {
            inner.timed.remove(package);
        }
        inner.thirsty.insert(package.clone(), Thirst::Any);
        inner.crowded.insert(package.clone());
    }

    /// It has decided; these Networks had no address left for it, or a node's link had too little.
    pub fn decided(&self, package: &Key, starved: &BTreeSet<String>, is_crowded: bool) {
        let mut inner = self.lock();
        if !is_crowded {
            inner.crowded.remove(package);
        }
        if starved.is_empty() {
            inner.thirsty.remove(package);
        } else {
            inner.thirsty.insert(package.clone(), Thirst::Of(starved.clone()));
        }
    }

    /// Nobody knows whether this was written.
    pub fn unanswered(&self, package: &Key, instance: ModelInstance) {
        let key = Key::of(&instance);
        self.lock().unanswered.entry(package.clone()).or_default().insert(key, Arc::new(instance));
    }

    /// What it wrote is known.
    pub fn answered(&self, package: &Key) {
        self.lock().unanswered.remove(package);
    }

    /// What any package may have written.
    pub fn unknown(&self) -> Vec<Arc<ModelInstance>> {
        self.lock().unanswered.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// What other packages may have written.
    pub fn unknown_to(&self, package: &Key) -> Vec<Arc<ModelInstance>> {
        let inner = self.lock();
        inner
            .unanswered
            .iter()
            .filter(|(other, _)| *other != package)
            .flat_map(|(_, all)| all.values())
            .cloned()
            .collect()
    }

    pub fn forget(&self, package: &Key) {
        let mut inner = self.lock();
        inner.timed.remove(package);
        inner.thirsty.remove(package);
        inner.crowded.remove(package);
        inner.unanswered.remove(package);
    }

    /// The other packages that have to look because an instance changed.
    pub fn concerned(&self, change: &Change<ModelInstance>) -> Vec<Key> {
        let (before, after) = (change.before.as_deref(), change.after.as_deref());
        let Some(of) = before.or(after) else {
            return Vec::new();
        };
        let namespace = of.metadata.namespace.clone().unwrap_or_default();
        let own = Key::new(namespace.clone(), of.spec.package.clone());
        let inner = self.lock();
        let mut keys = BTreeSet::new();
        if held(before) != held(after) {
            keys.extend(inner.timed.iter().cloned());
        }
        if let Some(given) = before.and_then(|i| i.spec.network.as_ref())
            && after.and_then(|i| i.spec.network.as_ref()) != Some(given)
        {
            let waits = |thirst: &Thirst| match thirst {
                Thirst::Any => true,
                Thirst::Of(networks) => networks.contains(&given.name),
            };
            let waiting = inner.thirsty.iter().filter(|(key, thirst)| key.namespace == namespace && waits(thirst));
            keys.extend(waiting.map(|(key, _)| key.clone()));
        }
        // Its Network's status may never have told of it. With the others it tells when the last one has gone.
        if after.is_none() {
            keys.extend(inner.crowded.iter().cloned());
        }
        keys.remove(&own);
        keys.into_iter().collect()
    }
}

/// The real-time tasks that an instance holds.
fn held(instance: Option<&ModelInstance>) -> &[InstanceTask] {
    instance.filter(|i| holds(i)).map_or(&[], |i| &i.spec.realtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn instance(package: &str, spec: &Value) -> ModelInstance {
        let mut whole = json!({
            "package": package, "model": "m", "nodeName": "n",
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
        });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance",
            "metadata": {"name": package, "namespace": "ns", "generation": 1}, "spec": whole,
        }))
        .unwrap()
    }

    fn task() -> Value {
        json!({"realtime": [{
            "name": "t", "policy": "FIFO", "priority": 5, "cpu": 0, "wcetNs": 1, "periodNs": 9, "deadlineNs": 9, "responseTimeNs": 1,
        }]})
    }

    fn change(before: Option<ModelInstance>, after: Option<ModelInstance>) -> Change<ModelInstance> {
        Change { before: before.map(Arc::new), after: after.map(Arc::new) }
    }

    #[test]
    fn who_has_tasks_looks_when_others_take_or_give_back_time() {
        let sharing = Sharing::default();
        let (a, b) = (Key::new("ns", "a"), Key::new("elsewhere", "b"));
        sharing.looks(&a, true);
        sharing.looks(&b, true);
        let c = Key::new("ns", "c");
        sharing.looks(&c, false);
        for key in [&a, &b, &c] {
            sharing.decided(key, &BTreeSet::new(), false);
        }
        let timed = instance("a", &task());
        assert_eq!(sharing.concerned(&change(None, Some(timed.clone()))), std::slice::from_ref(&b));
        assert_eq!(sharing.concerned(&change(Some(timed.clone()), None)), std::slice::from_ref(&b));
        assert!(sharing.concerned(&change(Some(timed.clone()), Some(timed.clone()))).is_empty());
        // A stop gives back nothing until the node has stopped it.
        let mut stopping = timed.clone();
        stopping.spec.run = false;
        stopping.metadata.generation = Some(2);
        stopping.status = serde_json::from_value(json!({"phase": "Running", "observedGeneration": 2})).unwrap();
        assert!(sharing.concerned(&change(Some(timed), Some(stopping.clone()))).is_empty());
        let mut stopped = stopping.clone();
        stopped.status = serde_json::from_value(json!({"phase": "Pending", "observedGeneration": 2})).unwrap();
        assert_eq!(sharing.concerned(&change(Some(stopping), Some(stopped))), std::slice::from_ref(&b));
        sharing.forget(&b);
        assert!(sharing.concerned(&change(None, Some(instance("a", &task())))).is_empty());
    }

    #[test]
    fn who_had_no_address_looks_when_one_is_given_back() {
        let sharing = Sharing::default();
        let joined =
            instance("a", &json!({"network": {"name": "n1", "addresses": ["10.0.0.2"], "gateways": ["10.0.0.1"]}}));
        let (b, c) = (Key::new("ns", "b"), Key::new("ns", "c"));
        sharing.looks(&b, false);
        sharing.looks(&c, false);
        assert_eq!(sharing.concerned(&change(Some(joined.clone()), None)), [b.clone(), c.clone()], "they are looking");
        sharing.decided(&b, &["n1".to_owned()].into(), false);
        sharing.decided(&c, &["n2".to_owned()].into(), false);
        assert_eq!(sharing.concerned(&change(Some(joined.clone()), None)), std::slice::from_ref(&b));
        assert!(sharing.concerned(&change(None, Some(joined.clone()))).is_empty());
        sharing.decided(&b, &BTreeSet::new(), false);
        assert!(sharing.concerned(&change(Some(joined), None)).is_empty());
    }

    #[test]
    fn whom_a_link_had_too_little_left_for_looks_when_any_instance_goes() {
        let sharing = Sharing::default();
        let (b, gone) = (Key::new("elsewhere", "b"), instance("a", &json!({})));
        sharing.looks(&b, false);
        assert_eq!(sharing.concerned(&change(Some(gone.clone()), None)), std::slice::from_ref(&b), "it is looking");
        sharing.decided(&b, &BTreeSet::new(), true);
        assert!(sharing.concerned(&change(Some(gone.clone()), Some(gone.clone()))).is_empty());
        assert_eq!(sharing.concerned(&change(Some(gone.clone()), None)), std::slice::from_ref(&b));
        sharing.decided(&b, &BTreeSet::new(), false);
        assert!(sharing.concerned(&change(Some(gone), None)).is_empty());
    }

    #[test]
    fn a_write_without_an_answer_counts_for_others_until_it_is_answered() {
        let sharing = Sharing::default();
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        sharing.unanswered(&a, instance("a", &task()));
        assert_eq!(sharing.unknown_to(&b).len(), 1);
        // Tried again, it is still one; the last try counts.
        let mut again = instance("a", &task());
        again.spec.realtime[0].wcet_ns = 2;
        sharing.unanswered(&a, again);
        let unknown = sharing.unknown_to(&b);
        assert_eq!((unknown.len(), unknown[0].spec.realtime[0].wcet_ns), (1, 2));
        assert!(sharing.unknown_to(&a).is_empty());
        sharing.answered(&a);
        assert!(sharing.unknown_to(&b).is_empty());
    }
}
