//! The controllers' client: every request has an end, every write passes the gate, and a server that is busy says when to come back.
//!
//! It is put around a client that exists, so that it is the same in process and over the network.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use thiserror::Error;

use super::gate::Gate;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer takes at most this long; of a watch, its beginning. Longer than a slow API server takes, shorter than anybody waits.
const LIMIT: Duration = Duration::from_secs(30);
/// More than that nobody is told to wait: what was busy may be idle much sooner.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The lease is somebody else's, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not sent, or not waited for: this process doesn't hold the controllers' lease")]
pub struct GateClosed;

/// The API server asks to come back later.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the API server is busy ({code}) and asks to come back in {} s", retry_after.as_secs())]
pub struct Busy {
    pub code: u16,
    pub retry_after: Duration,
}

/// No answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no answer within {} s", .0.as_secs())]
struct Unanswered(Duration);

/// A client whose writes pass `gate`.
#[must_use]
pub fn guarded(client: Client, gate: Gate) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Guarded { client, gate }, namespace)
}

struct Guarded {
    client: Client,
    gate: Gate,
}

impl tower::Service<Request<Body>> for Guarded {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, gate) = (self.client.clone(), self.gate.clone());
        Box::pin(async move {
            if matches!(*request.method(), Method::GET | Method::HEAD) {
                read(&client, request).await
            } else {
                write(&client, &gate, request).await
            }
        })
    }
}

async fn read(client: &Client, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let is_watch = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
    let answer = async {
        let response = client.send(request).await?;
        if is_watch { not_busy(response) } else { whole(not_busy(response)?).await }
    };
    tokio::time::timeout(LIMIT, answer).await.map_err(|_| Unanswered(LIMIT))?
}

async fn write(client: &Client, gate: &Gate, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let answer = async {
        let time = gate.time_for_a_write();
        if !gate.is_open() {
            return Err(GateClosed.into());
        }
        let response = client.send(given_up_after(request, time)).await?;
        whole(not_busy(response)?).await
    };
    tokio::select! {
        biased;
        () = gate.closed() => Err(GateClosed.into()),
        answer = tokio::time::timeout(LIMIT, answer) => answer.map_err(|_| Unanswered(LIMIT))?,
    }
}

/// Tells the API server to give a request up in time (`timeout=`, in whole seconds; at least one).
fn given_up_after(mut request: Request<Body>, time: Option<Duration>) -> Request<Body> {
    let Some(seconds) = time.map(|time| time.min(LIMIT).as_secs().max(1)) else { return request };
    let uri = request.uri();
    let Some(path) = uri.path_and_query() else { return request };
    let text = path.as_str().trim_end_matches(['?', '&']);
    let joint = if text.contains('?') { '&' } else { '?' };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{text}{joint}timeout={seconds}s").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// The whole answer, within the time that the caller gives.
async fn whole(response: Response<Body>) -> Result<Response<Body>, BoxError> {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    Ok(Response::from_parts(head, Body::from(bytes)))
}

fn not_busy(response: Response<Body>) -> Result<Response<Body>, BoxError> {
    let busy = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    match retry_after(response.headers()).filter(|_| busy) {
        Some(retry_after) => Err(Busy { code: response.status().as_u16(), retry_after }.into()),
        None => Ok(response),
    }
}

/// In seconds (RFC 9110, section 10.2.3; Kubernetes never sends a date).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// How long the API server asked to wait, if it did.
pub(crate) fn asked_to_wait(error: &kube::Error) -> Option<Duration> {
    match error {
        kube::Error::Service(cause) => cause.downcast_ref::<Busy>().map(|busy| busy.retry_after),
        kube::Error::Api(status) => {
            let seconds =
                status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)?;
            Some(Duration::from_secs(seconds.into()).min(LONGEST_WAIT))
        }
        _ => None,
    }
}

/// Whether a request wasn't sent, or not waited for, because the lease isn't ours.
pub(crate) fn is_gate_closed(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(cause) if cause.is::<GateClosed>())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;
    use tokio::time::Instant;

    use super::*;
    use crate::lead::Keeper;

    /// An API server that takes 5 s to answer, with `code` and a header.
    fn slow(code: u16, count: &Arc<AtomicUsize>) -> Client {
        let count = Arc::clone(count);
        let service = tower::service_fn(move |request: Request<Body>| {
            let count = Arc::clone(&count);
            async move {
                if *request.method() != Method::GET {
                    assert!(request.uri().query().unwrap_or_default().contains("timeout="), "{}", request.uri());
                }
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(5)).await;
                let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
                let response = Response::builder().status(code).header("retry-after", "7");
                Ok::<_, Infallible>(response.body(Body::from(body.as_bytes().to_vec())).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn open(keeper: &Keeper, seconds: u64) {
        let at = |s| Instant::now() + Duration::from_secs(s);
        keeper.open_until(at(seconds), at(seconds + 5));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_an_open_gate_only() {
        let sent = Arc::new(AtomicUsize::new(0));
        let (keeper, gate) = Keeper::closed();
        let maps: Api<ConfigMap> = Api::default_namespaced(guarded(slow(200, &sent), gate));
        let map = ConfigMap::default();
        let error = maps.create(&PostParams::default(), &map).await.unwrap_err();
        assert!(is_gate_closed(&error), "{error:?}");
        assert_eq!(sent.load(Ordering::SeqCst), 0);
        // Reads do without.
        assert!(maps.get("a").await.is_ok());
        // Half way the gate closes: not waited for.
        open(&keeper, 3);
        let start = Instant::now();
        let error = maps.create(&PostParams::default(), &map).await.unwrap_err();
        assert!(is_gate_closed(&error), "{error:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        // Renewed meanwhile: waited for.
        open(&keeper, 3);
        let params = PostParams::default();
        let (written, ()) = tokio::join!(maps.create(&params, &map), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            open(&keeper, 9);
        });
        assert!(written.is_ok(), "{written:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_says_when_to_come_back() {
        let sent = Arc::new(AtomicUsize::new(0));
        let (keeper, gate) = Keeper::closed();
        open(&keeper, 100);
        let maps: Api<ConfigMap> = Api::default_namespaced(guarded(slow(429, &sent), gate));
        let error = maps.create(&PostParams::default(), &ConfigMap::default()).await.unwrap_err();
        assert_eq!(asked_to_wait(&error), Some(Duration::from_secs(7)), "{error:?}");
        let error = maps.get("a").await.unwrap_err();
        assert_eq!(asked_to_wait(&error), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_server_is_told_when_to_give_up() {
        let uri = |given: &str, time| {
            given_up_after(Request::builder().uri(given).body(Body::empty()).unwrap(), time).uri().to_string()
        };
        let seconds = |s| Some(Duration::from_millis(s));
        assert_eq!(uri("/api/v1/x", seconds(9_900)), "/api/v1/x?timeout=9s");
        assert_eq!(uri("/api/v1/x?", seconds(10)), "/api/v1/x?timeout=1s");
        assert_eq!(uri("/api/v1/x?&force=true", seconds(90_000)), "/api/v1/x?&force=true&timeout=30s");
        assert_eq!(uri("/api/v1/x?a=b", None), "/api/v1/x?a=b");
    }
}
