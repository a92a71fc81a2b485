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
    let mut away = false;
    loop {
        let was_away = away;
        match follow_once(client, owner, events).await {
            Ok(()) => {
                delay = FIRST_RETRY;
                away = false;
            }
            Err(error) => {
                debug!(%error, "podman's events can't be read");
                away = true;
            }
        }
        // A service that ends closes its streams before it stops answering: only the second look finds it gone.
        if !(was_away && away) && events.send(RuntimeEvent::Resync).await.is_err() {
            return;
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
                before: None,
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_service_that_goes_away_after_its_stream_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut events = listen(Client::new(&socket, Duration::from_secs(60)), "test".to_owned());
        let limit = Duration::from_secs(30);
        let mut next = async || tokio::time::timeout(limit, events.next()).await.expect("an event");
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        assert_eq!(next().await, Some(RuntimeEvent::Resync), "the stream began");
        drop(stream);
        assert_eq!(next().await, Some(RuntimeEvent::Resync), "the stream broke; the service still answers");
        drop(listener);
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(next().await, Some(RuntimeEvent::Resync), "and now it doesn't");
    }
}
