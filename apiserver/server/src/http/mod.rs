//! HTTP in front of the verbs: who asks, what for, in which form, within which limits.
//!
//! [`ApiService`] is a tower service, so the same code answers a TLS connection, a test and the in-process client. A request is
//! authenticated by the [`UserInfo`] in its extensions, which only a listener or an in-process client can put there.

mod access;
pub(crate) mod body;
mod handle;
mod health;
mod limits;
pub(crate) mod negotiate;
pub(crate) mod protobuf;
pub(crate) mod respond;
pub(crate) mod route;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::watch;

pub use self::limits::Limits;
use self::limits::{InFlight, Watches};
use crate::auth::UserInfo;
use crate::discovery::Discovery;
use crate::metrics::{Metrics, ResourceLabels};
use crate::openapi::OpenApi;
use crate::rest::query::Query;
use crate::rest::{Rest, Warnings};
use crate::status::Status;
use crate::tokens::Tokens;
pub use body::Body;
use route::{ResourcePath, Route, Verb};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The API server as a service: any request in, always a response.
#[derive(Clone, Debug)]
pub struct ApiService(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) rest: Arc<Rest>,
    pub(crate) tokens: Arc<Tokens>,
    limits: Limits,
    in_flight: InFlight,
    watches: Arc<Watches>,
    discovery: Discovery,
    openapi: OpenApi,
    pub(crate) metrics: Arc<Metrics>,
    /// True once the server stops: watches end.
    shutdown: watch::Receiver<bool>,
}

/// A request whose head has been understood.
struct Asked {
    head: Parts,
    query: Query,
    route: Route,
    verb: Verb,
    user: Option<Arc<UserInfo>>,
}

impl Asked {
    fn is_watch(&self) -> bool {
        self.verb == Verb::Watch && matches!(self.route, Route::Resource(_))
    }

    /// What anyone may ask.
    fn is_open(&self) -> bool {
        matches!(self.route, Route::Health { .. } | Route::Version)
    }

    fn pretty(&self) -> bool {
        negotiate::accept(&self.head.headers, &self.query, negotiate::Answer::One).is_ok_and(|form| form.pretty)
    }
}

impl ApiService {
    pub(crate) fn new(
        rest: Arc<Rest>,
        tokens: Arc<Tokens>,
        limits: Limits,
        metrics: Arc<Metrics>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let in_flight = InFlight::new(&limits, Arc::clone(&metrics));
        let watches = Watches::new(&limits, Arc::clone(&metrics));
        Self(Arc::new(Inner {
            rest,
            tokens,
            limits,
            in_flight,
            watches,
            discovery: Discovery,
            openapi: OpenApi,
            metrics,
            shutdown,
        }))
    }

    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.metrics)
    }

    /// Answers one request.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let inner = &self.0;
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let asked = match inner.understand(head) {
            Ok(asked) => asked,
            Err(status) => return respond::status(&status, false),
        };
        let pretty = asked.pretty();
        let verb = inner.metric_verb(&asked);
        let labels = inner.labels(&asked.route);
        let is_watch = asked.is_watch();
        let is_head = asked.head.method == Method::HEAD;
        let outcome = inner.limited(asked, body).await;
        let mut response = outcome.unwrap_or_else(|status| respond::status(&status, pretty));
        let took = (!is_watch).then(|| started.elapsed());
        tracing::debug!(verb, resource = &*labels.resource, code = response.status().as_u16(), took = ?took, "answered");
        inner.metrics.answered(verb, &labels, response.status().as_u16(), took);
        if is_head {
            let length = http_body::Body::size_hint(response.body()).exact();
            *response.body_mut() = Body::whole(Bytes::new());
            if let Some(length) = length {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        response
    }
}

impl Inner {
    fn understand(&self, head: Parts) -> Result<Asked, Status> {
        let query = Query::parse(head.uri.query());
        let route = route::route(head.uri.path());
        let nowhere = ResourcePath::default();
        let path = if let Route::Resource(path) = &route { path } else { &nowhere };
        let verb = Verb::of(&head.method, path, &query).ok_or_else(method_not_allowed)?;
        let user = head.extensions.get::<Arc<UserInfo>>().cloned();
        Ok(Asked { head, query, route, verb, user })
    }

    /// Bounded labels: a resource that the registry doesn't know is `other`.
    fn labels(&self, route: &Route) -> ResourceLabels {
        let (group, resource) = match route {
            Route::Resource(path) => {
                let known = self.rest.registry.snapshot().get(&path.group, &path.version, &path.plural).is_some();
                if known { (path.group.as_str(), path.plural.as_str()) } else { ("", "other") }
            }
            Route::Health { endpoint, .. } => ("", *endpoint),
            Route::Version => ("", "version"),
            Route::Metrics => ("", "metrics"),
            Route::Discovery | Route::Index => ("", "discovery"),
            Route::OpenApi => ("", "openapi"),
            Route::OpenIdConfiguration | Route::OpenIdKeys => ("", "openid"),
            Route::Unknown => ("", "other"),
        };
        ResourceLabels { group: group.into(), resource: resource.into() }
    }

    fn metric_verb(&self, asked: &Asked) -> &'static str {
        asked.verb.name()
    }

    /// Authentication, limits, time and panics around the handling of a request.
    async fn limited<B>(&self, asked: Asked, body: B) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let user = self.admit(&asked).await?;
        let timeout = self.timeout(&asked)?;
        if asked.is_open() {
            return self.open(&asked).await;
        }
        let permit = if asked.is_watch() { None } else { Some(self.in_flight.enter(&asked.head.method)?) };
        let work = async {
            let bytes = read_body(body, &asked.head, self.limits.max_body_bytes).await?;
            let warnings = Warnings::default();
            // Boxed, so that the futures of the callers stay small.
            let handled: BoxFuture<'_, _> = handle::handle(self, &asked, &user, bytes, &warnings).boxed();
            let outcome = AssertUnwindSafe(handled).catch_unwind().await;
            let mut response = match outcome {
                Ok(Ok(response)) => response,
                Ok(Err(status)) => respond::status(&status, asked.pretty()),
                Err(panic) => {
                    self.metrics.panics.inc();
                    let what = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("unknown");
                    tracing::error!(method = %asked.head.method, uri = %asked.head.uri, panic = what, "a handler panicked");
                    let message = "This request caused apiserver to panic. Look in the logs for details.";
                    let status = Status::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
                    respond::status(&status, asked.pretty())
                }
            };
            respond::add_warnings(response.headers_mut(), warnings.take());
            Ok(response)
        };
        let response = match timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout", 1))),
        };
        drop(permit);
        response
    }

    fn timeout(&self, asked: &Asked) -> Result<Option<Duration>, Status> {
        if asked.is_watch() || matches!((asked.verb, &asked.route), (Verb::DeleteCollection, Route::Resource(_))) {
            return Ok(None);
        }
        let most = self.limits.request_timeout;
        match asked.query.get("timeout") {
            None | Some("") => Ok(Some(most)),
            Some(text) => match limits::parse_duration(text) {
                Some(Duration::ZERO) => Ok(Some(most)),
                Some(given) => Ok(Some(given.min(most))),
                None => Err(Status::bad_request("invalid timeout specified in the request URL")),
            },
        }
    }

    /// What needs no authentication.
    async fn open(&self, asked: &Asked) -> Result<Response<Body>, Status> {
        if asked.verb.is_mutating() {
            return Err(method_not_allowed());
        }
        match &asked.route {
            Route::Health { endpoint, check } => {
                let stopping = *self.shutdown.borrow();
                health::answer(&self.rest, stopping, endpoint, check.as_deref(), &asked.query).await
            }
            _ => handle::version(self.rest.now()),
        }
    }
}

pub(crate) fn method_not_allowed() -> Status {
    Status::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
    .with_details(Some(crate::status::Details::default()))
}

pub(crate) fn no_such_resource() -> Status {
    Status::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
        .with_details(Some(crate::status::Details::default()))
}

/// A body beyond the limit is read on and thrown away up to so many times the limit: a client that still sends would take an early answer for a broken
/// connection.
const DRAINED: usize = 8;

async fn read_body<B>(body: B, head: &Parts, limit: usize) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let too_large = || Status::request_entity_too_large(format_args!("limit is {limit}"));
    if matches!(head.method, Method::GET | Method::HEAD) || body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut body = pin!(body);
    let mut collected = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Status::bad_request(format!("the request's body couldn't be read: {}", error.into())))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            collected.extend_from_slice(&data);
        } else if length > limit.saturating_mul(DRAINED) {
            break;
        }
    }
    if length > limit { Err(too_large()) } else { Ok(collected.freeze()) }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        async move { Ok(service.respond(request).await) }.boxed()
    }
}
