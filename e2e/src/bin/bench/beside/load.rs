//! What both servers are given to do, by the same client: bare HTTP/1.1 over TLS, one connection for each writer and each watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use pullpiri_e2e::E2eError;
use pullpiri_e2e::endpoint::{Connection, Endpoint, Watch};
use serde_json::{Value, json};

/// A ConfigMap as JSON, in bytes.
const OBJECT_BYTES: usize = 2048;
/// In what is sent and comes back of an object of this client, and in no other.
const NAME: &[u8] = b"\"name\":\"object-";
/// Of which so many are not the payload.
const FRAME_BYTES: usize = 160;
const POOL_BYTES: usize = 1 << 20;
const WRITERS: usize = 32;
const WATCHERS: usize = 100;
/// Events that are seen and not counted, while connections and caches warm up.
const WARM: usize = 40;
/// So often a watcher begins again.
const ENDS: usize = 20;
/// For how long writes are watched.
const WATCHED: Duration = Duration::from_secs(4);
/// Until every writer is there.
const PACED_START: Duration = Duration::from_millis(300);
/// Of an object's number in its name.
const DIGITS: usize = 6;
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

/// What a hundred watchers saw.
pub(super) struct FanOut {
    /// From before each write's first byte until each watcher has its event's last one.
    pub times_ms: Vec<f64>,
    /// Watches that the server ended; the watcher went on from what it had seen last.
    pub ended: usize,
}

/// Writes at a steady rate, a hundred watchers.
pub(super) async fn fan_out(
    endpoint: &Endpoint,
    payload: &Payload,
    namespace: &str,
    pace: Duration,
) -> Result<FanOut, E2eError> {
    let path = config_maps(namespace);
    let list = endpoint.connect().await?.get(&path).await?.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let measured = usize::try_from(WATCHED.as_micros() / pace.as_micros().max(1)).unwrap_or(usize::MAX);
    let count = WARM + measured;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let watcher = Watcher::begin(endpoint, &path, version).await?;
        watchers.push(tokio::spawn(watcher.arrivals(count)));
    }
    let began = tokio::time::Instant::now() + PACED_START;
    let mut writers = Vec::new();
    for first in 0..WRITERS {
        let mut connection = endpoint.connect().await?;
        let (payload, namespace, path) = (payload.clone(), namespace.to_owned(), path.clone());
        writers.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for number in (first..count).step_by(WRITERS) {
                let body = payload.config_map(&namespace, number);
                tokio::time::sleep_until(began + pace * u32::try_from(number).unwrap_or(u32::MAX)).await;
                sent.push((number, Instant::now()));
                create(&mut connection, &path, body).await?;
            }
            Ok::<_, E2eError>(sent)
        }));
    }
    let mut sent = vec![None; count];
    for writer in writers {
        for (number, at) in writer.await.map_err(|error| E2eError::failed("a writer", error))?? {
            sent[number] = Some(at);
        }
    }
    let mut fan_out = FanOut { times_ms: Vec::with_capacity(WATCHERS * measured), ended: 0 };
    for watcher in watchers {
        let (arrived, ended) = watcher.await.map_err(|error| E2eError::failed("a watcher", error))??;
        fan_out.ended += ended;
        for (number, seen) in arrived {
            let sent = sent.get(number).copied().flatten().filter(|_| number >= WARM);
            fan_out.times_ms.extend(sent.map(|sent| (seen - sent).as_secs_f64() * 1e3));
        }
    }
    Ok(fan_out)
}

/// A client that goes on where it was when its watch is ended, as clients do.
struct Watcher {
    endpoint: Endpoint,
    path: String,
    version: String,
    watch: Watch,
}

impl Watcher {
    async fn begin(endpoint: &Endpoint, path: &str, version: &str) -> Result<Self, E2eError> {
        let from = format!("{path}?watch=1&resourceVersion={version}");
        let watch = endpoint.connect().await?.watch(&from).await?;
        Ok(Self { endpoint: endpoint.clone(), path: path.to_owned(), version: version.to_owned(), watch })
    }

    /// When each of so many objects of this client was seen, by its number; how often the watch was ended.
    async fn arrivals(mut self, count: usize) -> Result<(Vec<(usize, Instant)>, usize), E2eError> {
        let (mut seen, mut ended) = (Vec::with_capacity(count), 0);
        while seen.len() < count {
            let event = match self.watch.line().await {
                Ok(event) => event,
                Err(_) if ended < ENDS => {
                    ended += 1;
                    self = Self::begin(&self.endpoint, &self.path, &self.version).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            // A namespace gets a ConfigMap of the server's own, too.
            let Some(digits) = after(&event, NAME).and_then(|rest| rest.get(..DIGITS)) else { continue };
            let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            let number = number.ok_or_else(|| E2eError::failed("watching", String::from_utf8_lossy(&event)))?;
            if let Some(rest) = after(&event, b"\"resourceVersion\":\"") {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).copied().collect();
                self.version = String::from_utf8(digits).unwrap_or_default();
            }
            seen.push((number, now));
        }
        Ok((seen, ended))
    }
}

/// What follows the first such bytes.
fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(what.len()).position(|part| part == what)?;
    text.get(at + what.len()..)
}

/// GET until the last byte, in milliseconds.
pub(super) async fn read(connection: &mut Connection, path: &str) -> Result<f64, E2eError> {
    let began = Instant::now();
    connection.drain(path).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// How many of a list's items are this client's.
pub(super) async fn items(connection: &mut Connection, path: &str) -> Result<usize, E2eError> {
    let list = connection.get(path).await?.json();
    let items = list["items"].as_array().ok_or_else(|| E2eError::failed(format!("GET {path}"), &list))?;
    let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
    Ok(names.filter(|name| name.starts_with("object-")).count())
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
