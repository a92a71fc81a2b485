//! The ConfigMaps and Secrets that instances refer to: one watch for each, while somebody needs it.
//!
//! One object at a time, not a namespace: a node may read what its instances name and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_core::snapshot::{Content, DataKind, DataObject, DataRef, DataState};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::node::Message;
use crate::retry::{Refusals, Retry};

pub(crate) struct References {
    client: Client,
    messages: mpsc::Sender<Message>,
    needs: BTreeMap<PodId, BTreeSet<DataRef>>,
    /// Dropping a guard ends the watch.
    watches: BTreeMap<DataRef, DropGuard>,
}

impl References {
    pub fn new(client: Client, messages: mpsc::Sender<Message>) -> Self {
        Self { client, messages, needs: BTreeMap::new(), watches: BTreeMap::new() }
    }

    /// From now on `id` needs these. What nobody needs any more is returned.
    pub fn need(&mut self, id: &PodId, refs: BTreeSet<DataRef>) -> Vec<DataRef> {
        let same = self.needs.get(id).map_or(refs.is_empty(), |known| *known == refs);
        if same {
            return Vec::new();
        }
        for data in &refs {
            if !self.watches.contains_key(data) {
                let stop = CancellationToken::new();
                tokio::spawn(watch(self.client.clone(), data.clone(), self.messages.clone(), stop.clone()));
                self.watches.insert(data.clone(), stop.drop_guard());
            }
        }
        if refs.is_empty() {
            self.needs.remove(id);
        } else {
            self.needs.insert(id.clone(), refs);
        }
        let needed: BTreeSet<&DataRef> = self.needs.values().flatten().collect();
        let unneeded: Vec<DataRef> = self.watches.keys().filter(|data| !needed.contains(data)).cloned().collect();
        for data in &unneeded {
            self.watches.remove(data);
        }
        unneeded
    }

    /// Whether anybody still needs it; what a watch told before it ended may come after.
    pub fn is_needed(&self, data: &DataRef) -> bool {
        self.watches.contains_key(data)
    }

    /// Who needs it.
    pub fn needers(&self, data: &DataRef) -> Vec<PodId> {
        self.needs.iter().filter(|(_, refs)| refs.contains(data)).map(|(id, _)| id.clone()).collect()
    }
}

async fn watch(client: Client, data: DataRef, messages: mpsc::Sender<Message>, stop: CancellationToken) {
    match data.kind {
        DataKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(client, &data.namespace);
            follow(api, data, messages, stop, |object| {
                let text = object.data.unwrap_or_default().into_iter();
                let text = text.map(|(key, text)| (key, Content::from(text.into_bytes())));
                let bytes = object.binary_data.unwrap_or_default().into_iter();
                text.chain(bytes.map(|(key, bytes)| (key, Content(bytes)))).collect()
            })
            .await;
        }
        DataKind::Secret => {
            let api: Api<Secret> = Api::namespaced(client, &data.namespace);
            follow(api, data, messages, stop, |object| {
                object.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, Content(bytes))).collect()
            })
            .await;
        }
    }
}

async fn follow<K>(
    api: Api<K>,
    data: DataRef,
    messages: mpsc::Sender<Message>,
    stop: CancellationToken,
    entries: fn(K) -> BTreeMap<String, Content>,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut states = std::pin::pin!(watcher::watch_object(api, &data.name).backoff(Retry::default()));
    let mut refusals = Refusals::default();
    loop {
        let state = tokio::select! {
            () = stop.cancelled() => return,
            state = states.next() => state,
        };
        let state = match state {
            None => return,
            Some(Err(error)) => {
                debug!(%data, %error, "can't be watched");
                let Some(message) = refusal(&error, &mut refusals) else { continue };
                warn!(%data, "can't be read, and is asked for again: {message}");
                DataState::Refused { message }
            }
            Some(Ok(None)) => {
                refusals.passed();
                DataState::Absent
            }
            Some(Ok(Some(object))) => {
                refusals.passed();
                let version = object.meta().resource_version.clone().unwrap_or_default();
                DataState::Present(DataObject { version, entries: entries(object) })
            }
        };
        if messages.send(Message::Data(data.clone(), state)).await.is_err() {
            return;
        }
    }
}

/// That this node may not read it, if that is news.
fn refusal(error: &watcher::Error, refusals: &mut Refusals) -> Option<String> {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return None,
    };
    let said = refusals.news(error)?;
    let is_forbidden = matches!(error, kube::Error::Api(status) if status.code == 403);
    Some(if is_forbidden { format!("{said} (chart: rbac.dataNamespaces)") } else { said })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_servers_words_once() {
        let forbidden = || {
            let status = Status::failure("configmaps \"c\" is forbidden", "Forbidden").with_code(403);
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        let mut refusals = Refusals::default();
        let told: Vec<String> = (0..20).filter_map(|_| refusal(&forbidden(), &mut refusals)).collect();
        assert_eq!(told, ["configmaps \"c\" is forbidden (chart: rbac.dataNamespaces)"]);
        assert_eq!(refusal(&watcher::Error::NoResourceVersion, &mut refusals), None);
    }
}
