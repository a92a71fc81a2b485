//! Connections of every listener: the TLS handshake, HTTP/2 or HTTP/1.1, an end in order, and a bound on those whose peer is unknown.
//!
//! A peer is a stranger until it has shown a certificate or a token that is somebody's. Strangers cost descriptors, and an HTTP/2 peer that
//! answers pings would stay for ever. So there is room for a number of them, of which the oldest goes when another comes, and time for each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::{Body, Limits};

/// A client that doesn't finish its handshake gives up its place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, mostly) others get the chance to finish.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams per HTTP/2 connection, as in kube-apiserver.
const MAX_STREAMS: u32 = 250;
/// A dead peer is noticed in this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A request head may take this long to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// What a stranger's connection may still finish when its time is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// Connections whose peer hasn't said who it is.
#[derive(Debug)]
pub(crate) struct Strangers {
    most: usize,
    patience: Duration,
    waiting: Mutex<Waiting>,
    open: Gauge,
    ended: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// The sender tells a connection to make room.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Strangers {
    /// `open` counts them, `ended` those that had to go.
    pub(crate) fn new(limits: &Limits, open: Gauge, ended: Counter) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_unauthenticated_connections.max(1),
            patience: limits.unauthenticated_timeout,
            waiting: Mutex::default(),
            open,
            ended,
        })
    }

    /// Takes in a connection that was just accepted. If there are too many, the oldest is ended.
    pub(crate) fn enter(self: &Arc<Self>) -> (Stranger, Stay) {
        let (make_room, asked_to) = oneshot::channel();
        let mut waiting = self.waiting();
        while waiting.by_age.len() >= self.most
            && let Some((_, oldest)) = waiting.by_age.pop_first()
        {
            self.open.dec();
            self.ended.inc();
            // An error means that it is just ending by itself.
            let _ = oldest.send(());
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, make_room);
        self.open.inc();
        drop(waiting);
        let stay = Stay { asked_to, until: Instant::now() + self.patience, ended: self.ended.clone() };
        (Stranger { number, among: Arc::clone(self) }, stay)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, until it is introduced or dropped.
#[derive(Debug)]
pub(crate) struct Stranger {
    number: u64,
    among: Arc<Strangers>,
}

impl Stranger {
    /// The peer has shown who it is: it may stay.
    pub(crate) fn introduce(&self) {
        if self.among.waiting().by_age.remove(&self.number).is_some() {
            self.among.open.dec();
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.introduce();
    }
}

/// How long a stranger may stay.
#[derive(Debug)]
pub(crate) struct Stay {
    asked_to: oneshot::Receiver<()>,
    until: Instant,
    ended: Counter,
}

impl Stay {
    /// Waits until the connection must end; for ever once its peer is introduced.
    pub(crate) async fn over(self) -> End {
        match timeout_at(self.until, self.asked_to).await {
            Ok(Ok(())) => End::Within(Duration::ZERO),
            Ok(Err(_introduced)) => std::future::pending().await,
            Err(_elapsed) => {
                self.ended.inc();
                End::Within(FAREWELL)
            }
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What is being answered is finished, however long that takes.
    InOrder,
    /// It has so much time to be finished.
    Within(Duration),
}

/// # Errors
/// The handshake failed, or took too long.
pub(crate) async fn handshake(stream: TcpStream, tls: &Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    // Small answers must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY couldn't be set");
    }
    let shaken = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await;
    shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Answers requests until the peer has no more, or `end` says how to stop.
pub(crate) async fn serve<S>(stream: TlsStream<TcpStream>, handler: S, end: impl Future<Output = End>)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), handler));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        end = end => {
            connection.as_mut().graceful_shutdown();
            match end {
                End::InOrder => connection.await,
                End::Within(grace) => timeout(grace, connection).await.unwrap_or(Ok(())),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_makes_room_and_who_is_known_stays() {
        let limits = Limits { max_unauthenticated_connections: 2, ..Limits::default() };
        let (open, ended) = (Gauge::default(), Counter::default());
        let strangers = Strangers::new(&limits, open.clone(), ended.clone());
        let (known, known_stay) = strangers.enter();
        let (_first, first_stay) = strangers.enter();
        known.introduce();
        assert_eq!(open.get(), 1);
        let (_second, second_stay) = strangers.enter();
        let mut first_stay = pin!(first_stay.over());
        assert_eq!(first_stay.as_mut().now_or_never(), None);
        let (third, _third_stay) = strangers.enter();
        assert_eq!(first_stay.await, End::Within(Duration::ZERO), "the oldest goes at once");
        assert_eq!((open.get(), ended.get()), (2, 1));
        // The clock moves by itself to the next thing that is due.
        assert_eq!(second_stay.over().await, End::Within(FAREWELL));
        assert_eq!(known_stay.over().now_or_never(), None, "its time is over, too, but it is known");
        drop(third);
        assert_eq!((open.get(), ended.get()), (1, 2));
    }
}
