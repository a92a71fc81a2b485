//! One request, passed on with its faults.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Faults, Refuse, State, Written, lease, lock};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The connection breaks.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut by the proxy")
}

fn nth(counter: &std::sync::atomic::AtomicU64, every: u64) -> bool {
    counter.fetch_add(1, Ordering::SeqCst) % every.max(1) == every.max(1) - 1
}

pub(super) async fn relay(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let faults = state.faults.borrow().clone();
    if faults.down {
        return Err(broken());
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| broken())?.to_bytes();
    let is_watch = head.uri.query().is_some_and(|query| query.contains("watch=true"));
    let is_write = !matches!(head.method, Method::GET | Method::HEAD);
    if !is_write {
        state.reads.fetch_add(1, Ordering::SeqCst);
    }
    tokio::time::sleep(faults.delay).await;
    if faults.forbid.as_ref().is_some_and(|part| head.uri.path().contains(part.as_str())) {
        let mut body = status(403, "Forbidden");
        body["message"] = format!("User \"somebody\" cannot {} {}", head.method, head.uri.path()).into();
        return Ok(answer(403, &body));
    }
    if let Some(refuse) = faults.refuse.filter(|_| !is_watch)
        && nth(&state.requests, refuse.every)
    {
        return Ok(refused(refuse));
    }
    if is_watch && faults.gone_every.is_some_and(|every| nth(&state.watches, every)) {
        return Ok(gone());
    }
    let path = head.uri.path().to_owned();
    let is_election = path.contains("/leases/pullpiri-controllers") || path.ends_with("/leases");
    let body = if faults.skew_seconds != 0 && is_write && is_election {
        lease::skewed(&body, faults.skew_seconds)
    } else {
        body
    };
    let (method, sent, at) = (head.method.clone(), body.clone(), Instant::now());
    let response = state.upstream.send(passed_on(head, body)).await.map_err(|_| broken())?;
    if is_write {
        let status = response.status().as_u16();
        let body = serde_json::from_slice(&sent).unwrap_or_default();
        lock(&state).push(Written { at, method, path, body, status });
        if faults.lose_answer_every.is_some_and(|every| nth(&state.writes, every)) {
            return Err(broken());
        }
    }
    let (mut head, body) = response.into_parts();
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    if is_watch {
        return Ok(Response::from_parts(head, watched(body, &faults, Arc::clone(&state))));
    }
    let whole = body.collect().await.map_err(|_| broken())?.to_bytes();
    Ok(Response::from_parts(head, full(whole)))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn passed_on(mut head: Parts, body: Bytes) -> Request<kube::client::Body> {
    for name in [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    let mut request = Request::new(kube::client::Body::from(body));
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    if let Some(path) = head.uri.path_and_query() {
        *request.uri_mut() = path.clone().into();
    }
    request
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("refused by the proxy ({code})"),
    })
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn refused(refuse: Refuse) -> Response<Body> {
    let reason = match refuse.code {
        409 => "Conflict",
        429 => "TooManyRequests",
        403 => "Forbidden",
        _ => "InternalError",
    };
    let mut response = answer(refuse.code, &status(refuse.code, reason));
    if let Some(seconds) = refuse.retry_after {
        response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from(seconds));
    }
    response
}

/// A watch that begins with the news that it can't.
fn gone() -> Response<Body> {
    answer(200, &json!({"type": "ERROR", "object": status(410, "Expired")}))
}

/// A watch, later than it was, and cut.
fn watched(body: kube::client::Body, faults: &Faults, state: Arc<State>) -> Body {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Result<Bytes, io::Error>)>();
    let (stale, cut) = (faults.stale, faults.cut_watches);
    let mut changes = state.faults.clone();
    tokio::spawn(async move {
        let mut chunks = body.into_data_stream();
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = sender.closed() => return,
            };
            let Some(chunk) = chunk else { return };
            if sender.send((Instant::now() + stale, chunk.map_err(|_| broken()))).is_err() {
                return;
            }
        }
    });
    let chunks = async_stream(async move |emit: mpsc::Sender<Result<Frame<Bytes>, io::Error>>| {
        let end = async {
            match cut {
                Some(after) => tokio::time::sleep(after).await,
                // A watch that was begun in better times is cut too.
                None => {
                    let after = match changes.wait_for(|faults| faults.cut_watches.is_some()).await {
                        Ok(faults) => faults.cut_watches,
                        Err(_) => None,
                    };
                    tokio::time::sleep(after.unwrap_or(Duration::MAX)).await;
                }
            }
        };
        tokio::pin!(end);
        loop {
            let next = tokio::select! {
                next = receiver.recv() => next,
                () = &mut end => {
                    let _gone = emit.send(Err(broken())).await;
                    return;
                }
            };
            let Some((due, chunk)) = next else { return };
            tokio::time::sleep_until(due.into()).await;
            if emit.send(chunk.map(Frame::data)).await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// What a task emits, as a stream; the task ends when nobody reads.
fn async_stream<T, F>(work: impl FnOnce(mpsc::Sender<T>) -> F) -> impl futures::Stream<Item = T> + Send
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(work(sender));
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}
