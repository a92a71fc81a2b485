//! TLS connections: accepted, authenticated by their client certificate, served over HTTP/2 or HTTP/1.1, ended in order.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::auth::{UserInfo, certificate};
use crate::http::ApiService;

/// A client that doesn't finish its handshake gives up its place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, mostly) others get the chance to finish.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams per HTTP/2 connection, as in kube-apiserver.
const MAX_STREAMS: u32 = 250;
/// A dead peer is noticed in this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A request head may take this long to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);

/// Accepts connections until `shutdown` is true, then waits for those that are open, at most for `grace`.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: ApiService,
    mut shutdown: watch::Receiver<bool>,
    grace: Duration,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, acceptor.clone(), service.clone(), shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection couldn't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "connections were cut after the grace period");
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, service: ApiService, mut shutdown: watch::Receiver<bool>) {
    // Small answers must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY couldn't be set");
    }
    let metrics = service.metrics();
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake_failures.inc();
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            metrics.handshake_failures.inc();
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(<[_]>::first).and_then(certificate::user).map(Arc::new);
    let handler = service_fn(move |mut request: Request<Incoming>| {
        let service = service.clone();
        if let Some(user) = &user {
            request.extensions_mut().insert::<Arc<UserInfo>>(Arc::clone(user));
        }
        async move { Ok::<_, std::convert::Infallible>(service.respond(request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    metrics.connections.inc();
    let connection = builder.serve_connection(TokioIo::new(stream), handler);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = shutdown.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    metrics.connections.dec();
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}
