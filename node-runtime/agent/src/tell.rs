//! Events about instances, for people. They are told in order by one task; what doesn't fit into its queue is counted and dropped, since an Event is
//! no record: status and history are.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use pullpiri_crds::ModelInstance;
use pullpiri_node_core::plan;
use tokio::sync::mpsc;
use tracing::debug;

use crate::FIELD_MANAGER;
use crate::metrics::Metrics;
use crate::retry::{Retry, Verdict, judge};

/// As many wait for an API server that is away.
const QUEUE: usize = 512;
/// An Event that could not be told for so long tells nobody anything.
const STALE: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(crate) struct Teller {
    events: mpsc::Sender<Event>,
    node: String,
    metrics: Metrics,
}

impl Teller {
    pub fn start(client: Client, node: String, metrics: Metrics) -> Self {
        let (events, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(tell(client, receiver));
        Self { events, node, metrics }
    }

    pub fn tell(&self, about: &ModelInstance, event: &plan::Event) {
        let metadata = &about.metadata;
        let object = ObjectReference {
            api_version: Some("pullpiri.io/v1alpha1".to_owned()),
            kind: Some("ModelInstance".to_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..Default::default()
        };
        self.send(self.event(object, event.reason, event.warning, &event.note));
    }

    /// A warning about this node's NodeRuntime. Events of what is in no namespace are in `default`.
    pub fn tell_node(&self, reason: &'static str, note: &str) {
        let object = ObjectReference {
            api_version: Some("pullpiri.io/v1alpha1".to_owned()),
            kind: Some("NodeRuntime".to_owned()),
            name: Some(self.node.clone()),
            ..Default::default()
        };
        self.send(self.event(object, reason, true, note));
    }

    fn send(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.metrics.events_dropped.inc();
        }
    }

    fn event(&self, about: ObjectReference, reason: &str, is_warning: bool, note: &str) -> Event {
        let now = Timestamp::now();
        let name = about.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                // As the field names them: the object's name and a number that doesn't repeat.
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..Default::default()
            },
            involved_object: about,
            type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            // Kubernetes takes 1 KiB.
            message: Some(note.chars().take(250).collect()),
            action: Some(reason.to_owned()),
            event_time: Some(MicroTime(now)),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            source: Some(EventSource { component: Some(FIELD_MANAGER.to_owned()), host: Some(self.node.clone()) }),
            reporting_component: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        }
    }
}

async fn tell(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut waiting: VecDeque<Event> = VecDeque::new();
    let mut retry = Retry::default();
    loop {
        let Some(event) = waiting.pop_front() else {
            match events.recv().await {
                Some(event) => waiting.push_back(event),
                None => return,
            }
            continue;
        };
        let since = event.event_time.as_ref().map_or(Duration::ZERO, |at| {
            Duration::try_from(Timestamp::now().duration_since(at.0)).unwrap_or(Duration::ZERO)
        });
        if since > STALE {
            continue;
        }
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => retry.succeeded(),
            Err(error) => match judge(&error) {
                Verdict::Transient => {
                    waiting.push_front(event);
                    tokio::time::sleep(retry.delay()).await;
                }
                // Its namespace is going, or it was told already.
                Verdict::Gone | Verdict::Conflict => {}
                Verdict::Refused => debug!(%error, "an Event was refused"),
            },
        }
    }
}
