//! Connections of an aggregated API: who asks, may they, and here or at the leader.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Role;
use super::forward::Forwarder;
use super::review::Reviewer;
use super::trust::{Peer, Trust};
use crate::auth::UserInfo;
use crate::authz::{Attributes, ResourceAttributes};
use crate::http::respond;
use crate::http::route::{ResourcePath, Route, Verb, route};
use crate::http::{Body, method_not_allowed};
use crate::rest::query::Query;
use crate::status::Status;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 250;
/// A signal is at most 256 fields of 1 KiB.
const MAX_BODY_BYTES: usize = 1024 * 1024;

struct State {
    reviewer: Reviewer,
    forwarder: Forwarder,
    role: watch::Receiver<Role>,
}

/// Accepts connections until dropped. Before there is something to trust, nobody is let in.
pub(super) async fn accept(
    listener: TcpListener,
    client: Client,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    role: watch::Receiver<Role>,
) {
    let state = Arc::new(State { reviewer: Reviewer::new(client), forwarder: Forwarder::default(), role });
    // Dropped with us, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match trust.borrow().clone() {
                    Some(trust) => {
                        connections.spawn(serve(stream, trust, Arc::clone(&state)));
                    }
                    None => drop(stream),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection couldn't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(stream: TcpStream, trust: Arc<Trust>, state: Arc<State>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY couldn't be set");
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&trust.tls));
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let peer = Arc::new(trust.peer(stream.get_ref().1.peer_certificates().unwrap_or_default()));
    let handler = service_fn(move |request: Request<Incoming>| {
        let (state, trust, peer) = (Arc::clone(&state), Arc::clone(&trust), Arc::clone(&peer));
        async move {
            let answer = answer(&state, &trust, &peer, request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|status| respond::status(&status, false)))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), handler).await {
        tracing::debug!(error, "a connection ended early");
    }
}

async fn answer(
    state: &State,
    trust: &Arc<Trust>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let path = route(head.uri.path());
    if matches!(path, Route::Health { .. }) {
        return Ok(respond::text(StatusCode::OK, "text/plain; charset=utf-8", "ok"));
    }
    let user = match peer {
        Peer::FrontProxy => trust.headers.user(&head.headers).map(Arc::new),
        Peer::Replica => super::identity::Headers::default().user(&head.headers).map(Arc::new),
        Peer::Person(user) => Some(Arc::clone(user)),
        Peer::Unknown => None,
    };
    let user = user.ok_or_else(Status::unauthorized)?;
    let role = state.role.borrow().clone();
    let nobody =
        || Status::service_unavailable("no replica of the controllers leads at the moment").with_retry_after(1);
    match role {
        Role::Leading { server, acts } if acts() => {
            check(state, &user, &path, &head).await?;
            let bytes = whole(body).await?;
            head.extensions.insert::<Arc<UserInfo>>(user);
            Ok(server.service().respond(Request::from_parts(head, Full::new(bytes))).await)
        }
        // What came from a replica goes no further: that one knows no better than we do.
        Role::Following { address } if *peer != Peer::Replica => {
            let bytes = whole(body).await?;
            state.forwarder.forward(&address, trust, &user, head, bytes).await
        }
        Role::Leading { .. } | Role::Following { .. } | Role::Unknown => Err(nobody()),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Status> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::request_entity_too_large(format_args!("limit is {MAX_BODY_BYTES}")))
        }
        Err(error) => Err(Status::bad_request(format!("the request's body couldn't be read: {error}"))),
    }
}

async fn check(state: &State, user: &UserInfo, asked: &Route, head: &http::request::Parts) -> Result<(), Status> {
    let nowhere = ResourcePath::default();
    let path = if let Route::Resource(path) = asked { path } else { &nowhere };
    let verb = Verb::of(&head.method, path, &Query::parse(head.uri.query())).ok_or_else(method_not_allowed)?;
    let method = method(&head.method);
    let resource = matches!(asked, Route::Resource(_)).then(|| ResourceAttributes {
        group: &path.group,
        version: &path.version,
        plural: &path.plural,
        subresource: &path.subresource,
        namespace: path.namespace.as_deref(),
        name: path.name.as_deref(),
        fields: Vec::new(),
    });
    let verb = if resource.is_some() { verb.name() } else { &method };
    state.reviewer.check(&Attributes { user, verb, path: head.uri.path(), resource }).await
}

fn method(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}
