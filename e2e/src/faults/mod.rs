//! A proxy between a client and an API server that makes what goes wrong in the world: outages, slow answers, refusals, answers that are lost, watches that
//! are cut or late, clocks that are wrong. It also keeps account of every write that passed.
//!
//! Plain HTTP/1.1 on loopback towards the client, whatever `kube::Client` speaks towards the server, so the same proxy stands before a server in
//! this process and before a real kube-apiserver. Faults change while it runs.

mod lease;
mod relay;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::E2eError;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Connections are closed, those that are open too.
    pub down: bool,
    /// Before a request is passed on.
    pub delay: Duration,
    /// Of so many requests, every one but watches' beginnings counted, one is refused.
    pub refuse: Option<Refuse>,
    /// Of so many writes, one is done and its answer lost.
    pub lose_answer_every: Option<u64>,
    /// A watch is cut after so long.
    pub cut_watches: Option<Duration>,
    /// Of so many watches, one is told that its version is gone.
    pub gone_every: Option<u64>,
    /// Events of watches come so much later.
    pub stale: Duration,
    /// Requests whose path contains this are forbidden.
    pub forbid: Option<String>,
    /// The times that this client writes to the controllers' Lease are so many seconds wrong.
    pub skew_seconds: i64,
}

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refuse {
    pub code: u16,
    pub retry_after: Option<u64>,
    pub every: u64,
}

/// A write that reached the server.
#[derive(Clone, Debug)]
pub struct Written {
    /// When it was passed on.
    pub at: Instant,
    pub method: Method,
    /// Without the query.
    pub path: String,
    pub body: Value,
    /// What the server answered.
    pub status: u16,
}

impl Written {
    /// Whether it is the heartbeat of a leader.
    #[must_use]
    pub fn is_election(&self) -> bool {
        self.path.contains("/leases/pullpiri-controllers") || self.path.ends_with("/leases")
    }

    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

struct State {
    upstream: Client,
    faults: watch::Receiver<Faults>,
    requests: AtomicU64,
    writes: AtomicU64,
    watches: AtomicU64,
    reads: AtomicU64,
    written: Mutex<Vec<Written>>,
}

/// A running proxy; dropping it ends it.
pub struct Proxy {
    pub address: SocketAddr,
    faults: watch::Sender<Faults>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts one before `upstream`, as whose user everything is done.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(upstream: Client) -> Result<Self, E2eError> {
        let failed = |error: std::io::Error| E2eError::failed("starting a proxy", error);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (faults, changes) = watch::channel(Faults::default());
        let state = Arc::new(State {
            upstream,
            faults: changes,
            requests: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            watches: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            written: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, faults, state, task })
    }

    /// From now on this goes wrong, and nothing else.
    pub fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// What was written through it, in the order in which it was answered.
    #[must_use]
    pub fn written(&self) -> Vec<Written> {
        lock(&self.state).clone()
    }

    /// How many reads and watches were asked for.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.reads.load(Ordering::SeqCst)
    }

    /// A kubeconfig that leads to it, in `folder`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn kubeconfig(&self, folder: &Path, name: &str) -> Result<PathBuf, E2eError> {
        let path = folder.join(format!("{name}.yaml"));
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: \"http://{}\"}}\nusers:\n- name: u\n  user: {{}}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n",
            self.address
        );
        std::fs::write(&path, text).map_err(|error| E2eError::failed(format!("writing {}", path.display()), error))?;
        Ok(path)
    }

    /// A client that goes through it, once per request.
    ///
    /// # Errors
    /// None in practice.
    pub fn client(&self) -> Result<Client, E2eError> {
        let failed = |error: String| E2eError::failed("making a client of the proxy", error);
        let url = format!("http://{}", self.address).parse().map_err(|error| failed(format!("{error}")))?;
        let mut config = kube::Config::new(url);
        config.default_retry = false;
        Client::try_from(config).map_err(|error| failed(error.to_string()))
    }
}

fn lock(state: &State) -> MutexGuard<'_, Vec<Written>> {
    state.written.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let mut faults = state.faults.clone();
                    let service = service_fn(move |request| relay::relay(Arc::clone(&state), request));
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        // However it ends: a broken connection is what this is for.
                        _ended = connection => {}
                        _down = faults.wait_for(|faults| faults.down) => {}
                    }
                });
            }
        }
    }
}
