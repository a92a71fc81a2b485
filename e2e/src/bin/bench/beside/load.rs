//! What both servers are given to do, by the same client: bare HTTP/1.1 over TLS, one connection for each writer and each watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use pullpiri_e2e::E2eError;
use pullpiri_e2e::endpoint::{Connection, Endpoint};
use serde_json::{Value, json};

/// A ConfigMap as JSON, in bytes.
const OBJECT_BYTES: usize = 2048;
/// Of which so many are not the payload.
const FRAME_BYTES: usize = 160;
const POOL_BYTES: usize = 1 << 20;
const WRITERS: usize = 32;
const WATCHERS: usize = 100;
/// Events that are seen and not counted, while connections and caches warm up.
const WARM: usize = 20;
const EVENTS: usize = 200;
/// From one write to the next: what both servers bear, so that no queue grows.
const PACE: Duration = Duration::from_millis(25);

/// Text that no compression and no sharing of equal values makes smaller.
#[derive(Clone, Debug)]
pub(super) struct Payload(Arc<str>);

impl Payload {
    /// xorshift64 (Marsaglia, 2003), six bits a letter.
    pub(super) fn new() -> Self {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let letters = (0..POOL_BYTES).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % 64).map_or('A', |at| char::from(LETTERS[at]))
        });
        Self(letters.collect::<String>().into())
    }

    fn config_map(&self, namespace: &str, number: usize) -> Bytes {
        let length = OBJECT_BYTES - FRAME_BYTES;
        let from = number.wrapping_mul(7919) % (POOL_BYTES - length);
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("object-{number:06}"), "namespace": namespace},
            "data": {"payload": &self.0[from..from + length]},
        });
        Bytes::from(object.to_string())
    }
}

pub(super) fn config_maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// POST of one object.
pub(super) async fn create(connection: &mut Connection, path: &str, body: Bytes) -> Result<(), E2eError> {
    let answer = connection.request(Method::POST, path, "application/json", body).await?;
    if answer.status == StatusCode::CREATED {
        return Ok(());
    }
    Err(E2eError::failed(format!("POST {path}"), String::from_utf8_lossy(&answer.body)))
}

pub(super) async fn create_namespace(endpoint: &Endpoint, name: &str) -> Result<(), E2eError> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    create(&mut endpoint.connect().await?, "/api/v1/namespaces", object.to_string().into()).await
}

/// Creates so many objects in a namespace from 32 connections that are open already; how long it took.
pub(super) async fn fill(
    endpoint: &Endpoint,
    payload: &Payload,
    namespace: &str,
    count: usize,
) -> Result<Duration, E2eError> {
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        let mut connection = endpoint.connect().await?;
        connection.get("/readyz").await?;
        connections.push(connection);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut writers = Vec::new();
    for mut connection in connections {
        let (next, payload, namespace) = (Arc::clone(&next), payload.clone(), namespace.to_owned());
        writers.push(tokio::spawn(async move {
            let path = config_maps(&namespace);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<(), E2eError>(());
                }
                create(&mut connection, &path, payload.config_map(&namespace, number)).await?;
            }
        }));
    }
    for writer in writers {
        writer.await.map_err(|error| E2eError::failed("a writer", error))??;
    }
    Ok(began.elapsed())
}

/// One writer, a hundred watchers: from before each write's first byte until each watcher has its event's last one, in milliseconds.
pub(super) async fn fan_out(endpoint: &Endpoint, payload: &Payload, namespace: &str) -> Result<Vec<f64>, E2eError> {
    let path = config_maps(namespace);
    let mut writer = endpoint.connect().await?;
    let list = writer.get(&path).await?.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let from = format!("{path}?watch=1&resourceVersion={version}");
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = endpoint.connect().await?.watch(&from).await?;
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::with_capacity(WARM + EVENTS);
            for _ in 0..WARM + EVENTS {
                let event = watch.line().await?;
                if !event.starts_with(b"{\"type\":\"ADDED\"") {
                    return Err(E2eError::failed("watching", String::from_utf8_lossy(&event)));
                }
                seen.push(Instant::now());
            }
            Ok(seen)
        }));
    }
    let mut clock = tokio::time::interval(PACE);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent = Vec::with_capacity(WARM + EVENTS);
    for number in 0..WARM + EVENTS {
        let body = payload.config_map(namespace, number);
        clock.tick().await;
        sent.push(Instant::now());
        create(&mut writer, &path, body).await?;
    }
    let mut took = Vec::with_capacity(WATCHERS * EVENTS);
    for watcher in watchers {
        let seen = watcher.await.map_err(|error| E2eError::failed("a watcher", error))??;
        let lags = sent.iter().zip(seen).skip(WARM).map(|(sent, seen)| (seen - *sent).as_secs_f64() * 1e3);
        took.extend(lags);
    }
    Ok(took)
}

/// GET until the last byte, in milliseconds.
pub(super) async fn read(connection: &mut Connection, path: &str) -> Result<f64, E2eError> {
    let began = Instant::now();
    connection.drain(path).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// How many items a list answers with.
pub(super) async fn items(connection: &mut Connection, path: &str) -> Result<usize, E2eError> {
    let list = connection.get(path).await?.json();
    let count = list["items"].as_array().map(Vec::len);
    count.ok_or_else(|| E2eError::failed(format!("GET {path}"), list))
}

/// Creates our CustomResourceDefinitions, and waits until they are served.
pub(super) async fn install(endpoint: &Endpoint) -> Result<(), E2eError> {
    let mut connection = endpoint.connect().await?;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut served = Vec::new();
    for definition in pullpiri_crds::all() {
        served.push(format!("/apis/{}/v1alpha1/{}", definition.spec.group, definition.spec.names.plural));
        let definition: Value =
            serde_json::to_value(definition).map_err(|error| E2eError::failed("printing a CRD", error))?;
        create(&mut connection, path, definition.to_string().into()).await?;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    for path in served {
        loop {
            let answer = connection.get(&path).await?;
            if answer.status.is_success() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(E2eError::failed(format!("GET {path}"), answer.status));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}
