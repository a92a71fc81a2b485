//! podman's event stream: one line of JSON each time a container starts or ends.
//!
//! An event only says that something happened; how the container is now is asked. Whenever the stream begins or breaks, what was
//! missed is made up for by a list ([`RuntimeEvent::Resync`]).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodId, Timestamp};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

use super::http::{Client, HttpError, encode, filters};
use super::observe::{self, Inspected};
use super::spec::label;
use crate::RuntimeEvent;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// How far back the stream begins. What is told twice is looked at twice.
const OVERLAP: Duration = Duration::from_secs(1);
/// Events that may wait for the listener.
const QUEUE: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    action: String,
    actor: Actor,
    #[serde(rename = "timeNano", default)]
    time_nano: i64,
}

impl Line {
    /// As podman has it, or as docker does: which one it prints differs from release to release.
    fn is_end(&self) -> bool {
        matches!(self.action.as_str(), "died" | "die")
    }
}

#[derive(Debug, Deserialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: BTreeMap<String, String>,
}

pub(super) fn listen(client: Client, owner: String) -> BoxStream<'static, RuntimeEvent> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let stop = sender.clone();
        tokio::select! {
            () = stop.closed() => {}
            () = follow(&client, &owner, &sender) => {}
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|event| (event, receiver)) }).boxed()
}

/// Connects again and again, until nobody listens.
async fn follow(client: &Client, owner: &str, events: &mpsc::Sender<RuntimeEvent>) {
    let mut delay = FIRST_RETRY;
    loop {
        match follow_once(client, owner, events).await {
            Ok(()) => {
                delay = FIRST_RETRY;
                if events.send(RuntimeEvent::Resync).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(%error, "podman's events can't be read"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_RETRY);
    }
}

/// Until the stream breaks. An error if there was none.
async fn follow_once(client: &Client, owner: &str, events: &mpsc::Sender<RuntimeEvent>) -> Result<(), HttpError> {
    let wanted = json!({
        "type": ["container"],
        "event": ["start", "died"],
        "label": [format!("{}={owner}", label::OWNER)],
    });
    // podman answers before it listens: what happens in between is told because it is asked for.
    let since = jiff::Timestamp::now().checked_sub(OVERLAP).unwrap_or_default();
    let path = format!("/events?stream=true&since={}&{}", encode(&since.to_string()), filters(&wanted));
    let mut body = client.stream(&path).await?;
    if events.send(RuntimeEvent::Resync).await.is_err() {
        return Ok(());
    }
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
            if let Some(event) = happened(client, line).await
                && events.send(event).await.is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn happened(client: &Client, line: Line) -> Option<RuntimeEvent> {
    let pod = PodId(line.actor.attributes.get(label::POD)?.clone());
    let Some(name) = line.actor.attributes.get(label::CONTAINER) else {
        // The infra container.
        return line.is_end().then_some(RuntimeEvent::Sandbox { pod });
    };
    match client.get::<Inspected>(&format!("/containers/{}/json", encode(&line.actor.id))).await {
        Ok(inspected) => {
            let (pod, container) = observe::container(&inspected)?;
            Some(RuntimeEvent::Container { pod, container })
        }
        Err(error) if error.is_not_found() && line.is_end() => {
            // Removed meanwhile: all that is known is what the event says.
            let attributes = &line.actor.attributes;
            let number = |key: &str| attributes.get(key).and_then(|text| text.parse::<i32>().ok());
            let at = Timestamp(line.time_nano);
            let exit = Exit {
                code: number("containerExitCode").unwrap_or(255),
                oom_killed: false,
                started_at: at,
                finished_at: at,
            };
            let container = ContainerObserved {
                name: name.clone(),
                attempt: attributes.get(label::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0),
                state: ContainerStateObserved::Exited(exit),
                container_id: line.actor.id,
                image_id: String::new(),
            };
            Some(RuntimeEvent::Container { pod, container })
        }
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            debug!(%error, "a container can't be looked at");
            Some(RuntimeEvent::Resync)
        }
    }
}
