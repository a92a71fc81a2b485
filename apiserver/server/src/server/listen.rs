//! A listener of the server: who is at the other end, and an end in order.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::auth::{UserInfo, certificate};
use crate::connection::{self, ACCEPT_PAUSE, End, Stay, Stranger, Strangers};
use crate::http::ApiService;

/// Accepts connections until `shutdown` is true, then waits for those that are open, at most for `grace`.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: ApiService,
    strangers: Arc<Strangers>,
    mut shutdown: watch::Receiver<bool>,
    grace: Duration,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let tls = Arc::clone(&tls);
                connections.spawn(serve(stream, tls, service.clone(), strangers.enter(), shutdown.clone()));
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

async fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    service: ApiService,
    (stranger, stay): (Stranger, Stay),
    mut shutdown: watch::Receiver<bool>,
) {
    let metrics = service.metrics();
    let mut over = pin!(stay.over());
    let shaken = tokio::select! {
        shaken = connection::handshake(stream, &tls) => shaken,
        _ = over.as_mut() => return,
    };
    let stream = match shaken {
        Ok(stream) => stream,
        Err(error) => {
            metrics.handshake_failures.inc();
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(<[_]>::first).and_then(certificate::user).map(Arc::new);
    if user.is_some() {
        stranger.introduce();
    }
    let stranger = Arc::new(stranger);
    let handler = service_fn(move |mut request: Request<Incoming>| {
        let service = service.clone();
        if let Some(user) = &user {
            request.extensions_mut().insert::<Arc<UserInfo>>(Arc::clone(user));
        } else {
            // A token may introduce it.
            request.extensions_mut().insert::<Arc<Stranger>>(Arc::clone(&stranger));
        }
        async move { Ok::<_, Infallible>(service.respond(request).await) }
    });
    metrics.connections.inc();
    let end = async {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => End::InOrder,
            end = over => end,
        }
    };
    connection::serve(stream, handler, end).await;
    metrics.connections.dec();
}
