//! Events (events.k8s.io/v1) for people, published beside the work: they never hold up a reconciliation.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use pullpiri_state::{Notice, Severity};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::{Config, Error};

/// More than that at once is a storm, and the object's history tells the rest.
const CAPACITY: usize = 256;
/// The longest note that the API takes (events.k8s.io/v1).
const NOTE_LENGTH: usize = 1024;

struct Entry {
    controller: &'static str,
    about: ObjectReference,
    notice: Notice,
}

/// Where notices go in.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Entry>,
    metrics: Metrics,
}

/// Where they come out.
pub(crate) struct Publisher {
    receiver: mpsc::Receiver<Entry>,
    client: Client,
    identity: String,
}

pub(crate) fn channel(client: Client, config: &Config) -> (Events, Publisher) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let events = Events { sender, metrics: config.metrics.clone() };
    (events, Publisher { receiver, client, identity: config.identity.clone() })
}

impl Events {
    pub fn publish<K: Resource<DynamicType = ()>>(&self, controller: &'static str, about: &K, notices: Vec<Notice>) {
        for notice in notices {
            let entry = Entry { controller, about: about.object_ref(&()), notice };
            if self.sender.try_send(entry).is_err() {
                self.metrics.events_dropped.inc();
            }
        }
    }

    /// A write that the API server refuses for good: a person has to look.
    pub fn refused<K: Resource<DynamicType = ()>>(&self, controller: &'static str, about: &K, error: &Error) {
        let notice = Notice { severity: Severity::Warning, reason: error.reason(), note: error.chain() };
        self.publish(controller, about, vec![notice]);
    }
}

impl Publisher {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut recorders: Vec<(&'static str, Recorder)> = Vec::new();
        let mut failing = false;
        loop {
            let entry = tokio::select! {
                () = shutdown.cancelled() => return,
                entry = self.receiver.recv() => entry,
            };
            let Some(Entry { controller, about, notice }) = entry else {
                return;
            };
            let recorder = match recorders.iter().position(|(name, _)| *name == controller) {
                Some(i) => &recorders[i].1,
                None => {
                    let reporter =
                        Reporter { controller: controller.to_owned(), instance: Some(self.identity.clone()) };
                    recorders.push((controller, Recorder::new(self.client.clone(), reporter)));
                    match recorders.last() {
                        Some((_, recorder)) => recorder,
                        None => return,
                    }
                }
            };
            let event = Event {
                type_: match notice.severity {
                    Severity::Normal => EventType::Normal,
                    Severity::Warning => EventType::Warning,
                },
                reason: notice.reason.to_owned(),
                note: Some(pullpiri_reconcilers::conditions::bounded(&notice.note, NOTE_LENGTH)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            match recorder.publish(&event, &about).await {
                Ok(()) => failing = false,
                // Once until one gets through again.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(kind = about.kind, name = about.name, %error, "publishing an event failed");
                }
                Err(_) => {}
            }
        }
    }
}
