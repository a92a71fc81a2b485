//! What the node task is told, and what it makes of it: the snapshot changes, and instances become dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pullpiri_crds::ModelInstance;
use pullpiri_crds::model::Adapter;
use pullpiri_crds::node::RuntimeStatus;
use pullpiri_node_adapters::RuntimeEvent;
use pullpiri_node_core::memory::FailureKind;
use pullpiri_node_core::runtime::{PodId, PodObserved};
use pullpiri_node_core::snapshot::AdapterState;
use tracing::{debug, info, warn};

use super::{Message, Node};
use crate::instances::Told;
use crate::pods::{Listed, fold, fold_container};
use crate::report::is_older;
use crate::{pods, realtime};

impl Node {
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Instance(told) => self.hear(told),
            Message::Data(data, state) => {
                if self.references.is_needed(&data) {
                    self.dirty.extend(self.references.needers(&data));
                    self.snapshot.data.insert(data, state);
                }
            }
            Message::Listed(adapter, listed) => self.listed(adapter, listed),
            Message::Runtime(adapter, event) => self.happened(adapter, event),
            Message::Acted(id, acted) => self.acted(id, acted),
            Message::Written(object) => {
                // One that is gone meanwhile doesn't come back by this.
                let id = PodId(object.metadata.uid.clone().unwrap_or_default());
                if self.snapshot.instances.get(&id).is_some_and(|instance| instance.object.is_some()) {
                    self.upsert(object, false);
                }
            }
            Message::Realtime(news) => self.hear_of_threads(news),
            Message::Network(state) => {
                self.snapshot.network = state;
                self.dirty.extend(self.snapshot.instances.keys().cloned());
                self.sweep = true;
            }
        }
    }

    fn hear_of_threads(&mut self, news: realtime::News) {
        let Some(instance) = self.snapshot.instances.get_mut(&news.id) else { return };
        if let Some(about) = instance.object.clone().or_else(|| instance.memory.accepted.clone().map(Arc::new)) {
            for event in &news.events {
                self.teller.tell(&about, event);
            }
        }
        if news.report.is_some() {
            instance.realtime = news.report;
            self.dirty.insert(news.id);
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Init => self.listing = Some(BTreeSet::new()),
            Told::Listed(object) => {
                if let (Some(id), Some(listing)) = (self.upsert(object, true), &mut self.listing) {
                    listing.insert(id);
                }
            }
            Told::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                for (id, instance) in &mut self.snapshot.instances {
                    if !listed.contains(id) {
                        instance.object = None;
                        self.dirty.insert(id.clone());
                    }
                }
                if !self.snapshot.synced {
                    debug!(instances = listed.len(), "the API server told what is wanted");
                }
                self.snapshot.synced = true;
                self.sweep = true;
            }
            Told::Applied(object) => {
                self.upsert(object, false);
            }
            Told::Deleted(uid) => {
                let id = PodId(uid);
                if let Some(instance) = self.snapshot.instances.get_mut(&id) {
                    instance.object = None;
                    self.dirty.insert(id);
                }
            }
            Told::Unreadable(uid) => {
                // What was accepted before goes on.
                let id = PodId(uid);
                if let Some(listing) = &mut self.listing {
                    listing.insert(id.clone());
                }
                if let Some(instance) = self.snapshot.instances.get_mut(&id)
                    && instance.object.is_none()
                {
                    instance.object = instance.memory.accepted.clone().map(Arc::new);
                }
            }
        }
    }

    fn upsert(&mut self, mut object: Box<ModelInstance>, listed: bool) -> Option<PodId> {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        // It names files.
        if uid.is_empty() || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            warn!(uid, name = object.metadata.name, "a ModelInstance's UID isn't one; it is left alone");
            return None;
        }
        let id = PodId(uid);
        let instance = self.snapshot.instances.entry(id.clone()).or_default();
        let version = |object: &ModelInstance| object.metadata.resource_version.clone().unwrap_or_default();
        if !listed && instance.object.as_ref().is_some_and(|known| is_older(&version(&object), &version(known))) {
            return None;
        }
        object.metadata.managed_fields = None;
        instance.object = Some(Arc::from(object));
        self.dirty.insert(id.clone());
        Some(id)
    }

    fn listed(&mut self, adapter: Adapter, listed: Listed) {
        self.asking.remove(&adapter);
        self.unlisted.remove(&adapter);
        let (state, status) = match listed {
            Ok((info, pods)) => {
                self.replace_pods(adapter, pods);
                let status =
                    RuntimeStatus { name: adapter, available: true, version: Some(info.version), message: None };
                (AdapterState::Ready, status)
            }
            Err(error) => {
                let message = match error {
                    pullpiri_node_adapters::RuntimeError::Unavailable { message, .. } => message,
                    error => error.to_string(),
                };
                let shown: String = message.chars().take(1024).collect();
                let status = RuntimeStatus { name: adapter, available: false, version: None, message: Some(shown) };
                (AdapterState::Unavailable { message }, status)
            }
        };
        let known = self.snapshot.node.adapters.insert(adapter, state.clone());
        if known.as_ref() != Some(&state) {
            match &state {
                AdapterState::Ready => info!(runtime = adapter.as_str(), version = status.version, "runtime is ready"),
                AdapterState::Unavailable { message } => {
                    info!(runtime = adapter.as_str(), message, "runtime isn't available")
                }
            }
        }
        self.facts.send_if_modified(|facts| {
            if status.available {
                facts.worked.insert(adapter);
            }
            match facts.runtimes.iter_mut().find(|runtime| runtime.name == adapter) {
                Some(known) if *known == status => return false,
                Some(known) => *known = status,
                None => facts.runtimes.push(status),
            }
            facts.runtimes.sort_by_key(|runtime| runtime.name);
            true
        });
        for instance in self.snapshot.instances.values_mut() {
            instance.memory.retry(FailureKind::RuntimeMissing);
            instance.memory.retry(FailureKind::ImageMissing);
        }
        self.dirty.extend(self.snapshot.instances.keys().cloned());
        self.sweep = true;
    }

    /// Takes a list over, but for pods that are being worked on and for what events told in the meantime.
    fn replace_pods(&mut self, adapter: Adapter, pods: Vec<PodObserved>) {
        let mut listed: BTreeMap<PodId, PodObserved> = pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        let busy = &self.busy;
        self.snapshot.pods.retain(|(id, on), known| {
            if *on != adapter || busy.contains_key(id) {
                return true;
            }
            let Some(mut pod) = listed.remove(id) else { return false };
            if pod.hash == known.hash {
                for container in std::mem::take(&mut known.containers) {
                    if pod.containers.iter().any(|listed| listed.name == container.name) {
                        fold_container(&mut pod, container);
                    }
                }
            }
            *known = pod;
            true
        });
        for (id, pod) in listed {
            if !self.busy.contains_key(&id) {
                self.snapshot.pods.insert((id, adapter), pod);
            }
        }
    }

    fn happened(&mut self, adapter: Adapter, event: RuntimeEvent) {
        let id = match &event {
            RuntimeEvent::Container { pod, .. } | RuntimeEvent::Sandbox { pod } => pod.clone(),
            RuntimeEvent::Resync => return,
        };
        if let Some(waiting) = self.busy.get_mut(&id) {
            waiting.push((adapter, event));
            return;
        }
        if !fold(&mut self.snapshot.pods, adapter, event) && self.asking.insert(adapter) {
            self.ask(adapter);
        }
        self.dirty.insert(id);
    }

    /// Lists an adapter's pods again.
    fn ask(&self, adapter: Adapter) {
        let Some(runtime) = self.executor.runtime(adapter).cloned() else { return };
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let listed = pods::ask(runtime.as_ref()).await;
            let _ = messages.send(Message::Listed(adapter, listed)).await;
        });
    }
}
