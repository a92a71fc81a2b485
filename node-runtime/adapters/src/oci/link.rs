//! The adapter's connection to one supervisor.
//!
//! Requests carry an id and wait for the answer with it. Changes that the supervisor tells of go to a channel, in order; after the last
//! of it the channel closes, which is how the supervisor's death is seen.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use pullpiri_node_core::runtime::ContainerObserved;
use pullpiri_node_host::process::Pidfd;
use pullpiri_node_host::socket::{Received, SeqPacket};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::wire::{Answer, Request, What};

/// A new connection.
#[derive(Debug)]
pub(super) struct Opened {
    pub link: Arc<Link>,
    pub reader: Reader,
    pub changes: mpsc::UnboundedReceiver<ContainerObserved>,
    /// Resolves when the supervisor has greeted; fails if it closed the connection without.
    pub greeting: oneshot::Receiver<()>,
}

/// The task that reads the connection; ends with this value.
#[derive(Debug)]
pub(super) struct Reader(tokio::task::AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
    #[error("the pod's supervisor is gone")]
    Closed,
    #[error("the pod's supervisor doesn't answer within {} ms", .0.as_millis())]
    Late(Duration),
}

#[derive(Debug)]
pub(super) struct Link {
    socket: AsyncFd<SeqPacket>,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` once the connection is closed.
    pending: Option<BTreeMap<u64, oneshot::Sender<Answer>>>,
    next: u64,
    /// From the greeting, which comes before any answer.
    pidfd: Option<Arc<Pidfd>>,
}

impl Link {
    /// Takes over a connected socket and reads it until it closes or the reader is dropped.
    pub(super) fn open(socket: SeqPacket) -> io::Result<Opened> {
        socket.set_nonblocking().map_err(|e| e.source)?;
        // Deprecated because an object could close its descriptor while it is registered. This one is owned by the AsyncFd alone and has no
        // way to.
        #[allow(deprecated)]
        let socket = AsyncFd::new(socket)?;
        let link = Arc::new(Self {
            socket,
            shared: Mutex::new(Shared { pending: Some(BTreeMap::new()), next: 1, pidfd: None }),
        });
        let (sender, receiver) = mpsc::unbounded_channel();
        let (greeted, greeting) = oneshot::channel();
        let reader = Arc::clone(&link);
        let task = tokio::spawn(async move {
            reader.read(&sender, greeted).await;
            // Whoever waits learns that there will be no answer.
            reader.shared().pending = None;
        });
        Ok(Opened { link, reader: Reader(task.abort_handle()), changes: receiver, greeting })
    }

    pub(super) fn is_open(&self) -> bool {
        self.shared().pending.is_some()
    }

    /// The supervisor's process, once it has greeted.
    pub(super) fn pidfd(&self) -> Option<Arc<Pidfd>> {
        self.shared().pidfd.clone()
    }

    /// Sends a request and waits for its answer; `Some` for a started container.
    pub(super) async fn ask(&self, what: What, within: Duration) -> Result<Option<ContainerObserved>, LinkError> {
        let asked = async { self.begin(what).await?.wait().await };
        tokio::time::timeout(within, asked).await.unwrap_or(Err(LinkError::Late(within)))
    }

    /// Kills the supervisor, which frees whoever waits for an answer of it.
    pub(super) fn kill(&self) -> io::Result<()> {
        let pidfd = match self.pidfd() {
            Some(pidfd) => pidfd,
            // It has never greeted. Who listens on its socket is known to the kernel.
            None => {
                let pid = self.socket.get_ref().peer().map_err(|e| e.source)?;
                if pid == nix::unistd::getpid() {
                    return Err(io::Error::other("it has said nothing yet, not even who it is"));
                }
                Arc::new(Pidfd::open(pid).map_err(|e| e.source)?)
            }
        };
        pidfd.send_signal(Signal::SIGKILL).map_err(|e| e.source)
    }

    /// Sends a request; the answer may be waited for later.
    pub(super) async fn begin(&self, what: What) -> Result<Pending, LinkError> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut shared = self.shared();
            let id = shared.next;
            shared.next += 1;
            match &mut shared.pending {
                Some(pending) => pending.insert(id, sender),
                None => return Err(LinkError::Closed),
            };
            id
        };
        let bytes = serde_json::to_vec(&Request { id, what })
            .map_err(|e| LinkError::Failed(format!("writing a request: {e}")))?;
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| LinkError::Closed)?;
            match ready.try_io(|socket| socket.get_ref().send(&bytes, &[]).map_err(|e| e.source)) {
                Ok(Ok(())) => return Ok(Pending(receiver)),
                Ok(Err(e)) if e.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                    return Err(LinkError::Refused(format!("the request is too large: {} bytes", bytes.len())));
                }
                Ok(Err(_)) => return Err(LinkError::Closed),
                Err(_would_block) => {}
            }
        }
    }

    async fn read(&self, told: &mpsc::UnboundedSender<ContainerObserved>, greeted: oneshot::Sender<()>) {
        let mut greeted = Some(greeted);
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return };
            let received = ready.try_io(|socket| match socket.get_ref().receive() {
                Ok(Received::Nothing) => Err(io::ErrorKind::WouldBlock.into()),
                Ok(other) => Ok(other),
                Err(e) => Err(e.source),
            });
            let message = match received {
                Ok(Ok(Received::Message(message))) => message,
                Ok(_) => return,
                Err(_would_block) => continue,
            };
            let answer = match serde_json::from_slice::<Answer>(&message.bytes) {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(%error, "a supervisor's message can't be read");
                    continue;
                }
            };
            let id = match answer {
                Answer::Hello { .. } => {
                    let pidfd = message.fds.into_iter().next().map(Pidfd::from_fd);
                    self.shared().pidfd = pidfd.map(Arc::new);
                    let _ = greeted.take().map(|g| g.send(()));
                    continue;
                }
                Answer::Changed { container } => {
                    let _ = told.send(container);
                    continue;
                }
                Answer::Started { id, .. } | Answer::Done { id } | Answer::Failed { id, .. } => id,
            };
            let waiting = self.shared().pending.as_mut().and_then(|p| p.remove(&id));
            if let Some(waiting) = waiting {
                // Who asked may have lost interest.
                let _ = waiting.send(answer);
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    pub(super) async fn wait(self) -> Result<Option<ContainerObserved>, LinkError> {
        match self.0.await {
            Ok(Answer::Started { container, .. }) => Ok(Some(container)),
            Ok(Answer::Failed { refused: true, message, .. }) => Err(LinkError::Refused(message)),
            Ok(Answer::Failed { message, .. }) => Err(LinkError::Failed(message)),
            Ok(_) => Ok(None),
            Err(_) => Err(LinkError::Closed),
        }
    }
}
