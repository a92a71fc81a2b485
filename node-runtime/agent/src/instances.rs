//! The watch of this node's ModelInstances.

use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client};
use pullpiri_crds::ModelInstance;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::node::Message;
use crate::watching::Watch;

/// What the watch tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// A list begins.
    Init,
    /// Of the list.
    Listed(Box<ModelInstance>),
    /// What wasn't listed isn't there.
    InitDone,
    Applied(Box<ModelInstance>),
    Deleted(String),
    /// It is there, but can't be read; by UID.
    Unreadable(String),
}

/// Watches until `stop`. An object that can't be read is left out, with a line in the log, and holds up no other.
pub(crate) async fn watch(
    client: Client,
    node: String,
    messages: mpsc::Sender<Message>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let api: Api<DeserializeGuard<ModelInstance>> = Api::all(client);
    let mut events = Watch::of(api, &format!("spec.nodeName={node}"));
    let mut away = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let told = match event {
            None => return,
            Some(Err(error)) => {
                metrics.connected.set(0);
                if !away {
                    debug!(%error, "the API server doesn't answer; what runs goes on");
                }
                away = true;
                continue;
            }
            Some(Ok(event)) => match event {
                watcher::Event::Init => Told::Init,
                watcher::Event::InitDone => {
                    metrics.connected.set(1);
                    if away {
                        info!("in contact with the API server again");
                        away = false;
                    }
                    Told::InitDone
                }
                watcher::Event::InitApply(DeserializeGuard(Ok(object))) => Told::Listed(Box::new(object)),
                watcher::Event::Apply(DeserializeGuard(Ok(object))) => {
                    away = false;
                    Told::Applied(Box::new(object))
                }
                watcher::Event::Delete(DeserializeGuard(Ok(object))) => {
                    Told::Deleted(object.metadata.uid.unwrap_or_default())
                }
                watcher::Event::Delete(DeserializeGuard(Err(invalid))) => {
                    Told::Deleted(invalid.metadata.uid.unwrap_or_default())
                }
                watcher::Event::InitApply(DeserializeGuard(Err(invalid)))
                | watcher::Event::Apply(DeserializeGuard(Err(invalid))) => {
                    let name = invalid.metadata.name.clone().unwrap_or_default();
                    let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
                    warn!(namespace, name, error = invalid.error, "a ModelInstance can't be read by this version");
                    Told::Unreadable(invalid.metadata.uid.unwrap_or_default())
                }
            },
        };
        if messages.send(Message::Instance(told)).await.is_err() {
            return;
        }
    }
}
