//! The interface of signal sources.

use std::collections::BTreeMap;
use std::future::Future;

use thiserror::Error;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// Samples that may wait for evaluation: a burst of every signal of a large vehicle.
const CAPACITY: usize = 4096;

/// All fields of one signal at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub topic: String,
    /// Field → value as text.
    pub fields: BTreeMap<String, String>,
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Sample(Sample),
    /// The signal has no value any more.
    Gone {
        topic: String,
    },
}

/// The sink was closed: the controllers are stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("hand over a sample: the controllers have stopped")]
pub struct Closed;

/// Where a source puts what it receives. Clones feed the same queue.
#[derive(Clone, Debug)]
pub struct SignalSink {
    sender: mpsc::Sender<Update>,
    metrics: Metrics,
}

impl SignalSink {
    pub(crate) fn channel(metrics: Metrics) -> (Self, mpsc::Receiver<Update>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self { sender, metrics }, receiver)
    }

    /// Hands an update over, waiting while the queue is full. Updates of one caller stay in order.
    ///
    /// # Errors
    /// [`Closed`] once the controllers have stopped.
    pub async fn send(&self, update: Update) -> Result<(), Closed> {
        match self.sender.try_send(update) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Closed),
            Err(TrySendError::Full(update)) => {
                self.metrics.sink_full.inc();
                self.sender.send(update).await.map_err(|_| Closed)
            }
        }
    }
}

/// Where signals come from. A source reconnects by itself and runs until it is told to stop.
pub trait SignalSource: Send + 'static {
    fn run(self, sink: SignalSink, shutdown: CancellationToken) -> impl Future<Output = ()> + Send;
}
