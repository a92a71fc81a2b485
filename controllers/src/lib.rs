//! The IO shell of the control plane: watches, work queues, writes. What is to be done is decided in `pullpiri-reconcilers`.
//!
//! How a signal becomes a claim and a claim becomes instances, without a timer in between:
//!
//! ```text
//! SignalSource → SignalSink (bounded) → Hub: evaluates each sample in order → queue of scenarios
//! API watches  → Cache (one per kind; also fed by the answers to our own writes) → queues of scenarios, packages, nodes, networks
//! queue → observe (from the caches) → decide (pure) → execute (server-side apply) → back into the caches
//! ```
//!
//! Invariants:
//! * Nothing is decided before every cache has seen a whole list: an object that wasn't listed yet isn't one that doesn't exist.
//! * The answer to a write enters the cache before the next decision on the same object, so no decision is made on what we overwrote.
//! * What packages share is given out one plan at a time.
//! * One object is reconciled by one task at a time; failures come back with a jittered, growing delay of their own.
//! * Nothing is written that is written already, and there is no periodic resync.
//!
//! Where several processes could act, [`lead`] says which of them does: it runs [`Controllers`] for the length of a term, with a client whose
//! writes end with it. Every write to a ModelInstance carries the term's number as its epoch.

mod cache;
mod control;
mod error;
mod events;
mod execute;
pub mod health;
pub mod lead;
mod metrics;
mod queue;
mod sharing;
pub mod signal;
mod templates;
mod watch;
mod world;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use error::{Class, Error};
pub use metrics::Metrics;

use crate::health::Health;
use crate::lead::Reign;
use crate::signal::{ApiSignals, Hub, SignalSink, SignalSource};
use crate::world::World;

/// How the controllers run.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least that is the epoch of what is written; a node refuses one below one that it has seen. Without a `reign`, it becomes that of the
    /// newest instance there is.
    pub epoch: i64,
    /// Our holding of the controllers' Lease, where there is one: its transitions are the epoch.
    pub reign: Option<Reign>,
    /// Who we are, in Events.
    pub identity: String,
    pub metrics: Metrics,
    /// Where is told what doesn't work.
    pub health: Health,
}

impl Config {
    /// The configuration of the one and only controller process.
    #[must_use]
    pub fn new(identity: impl Into<String>, metrics: Metrics) -> Self {
        Self { epoch: 1, reign: None, identity: identity.into(), metrics, health: Health::default() }
    }
}

/// The controllers of Scenarios, Packages, Networks and NodeRuntimes.
#[derive(Debug)]
pub struct Controllers;

impl Controllers {
    /// Runs until `shutdown`. The API server may be absent, or lack our resources, at any time: it is waited for.
    pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) {
        let signals = ApiSignals::new(client.clone());
        Self::run_with(client, config, signals, shutdown).await;
    }

    /// As [`Controllers::run`], with signals from elsewhere.
    pub async fn run_with(
        client: kube::Client,
        config: Config,
        signals: impl SignalSource,
        shutdown: CancellationToken,
    ) {
        let shutdown = shutdown.child_token();
        let _stops_all_when_dropped = shutdown.clone().drop_guard();
        let (events, published) = events::channel(client.clone(), &config);
        let (sink, samples) = SignalSink::channel(config.metrics.clone());
        config.health.clear();
        let told = async {
            if let Some(reign) = &config.reign {
                reign.tell(config.health.clone(), shutdown.clone()).await;
            }
        };
        let world = Arc::new(World::new(client, &config, events));
        tokio::join!(
            Box::pin(watch::run(&world, &shutdown)),
            Box::pin(control::run(&world, &shutdown)),
            Hub::run(Arc::clone(&world), samples, shutdown.clone()),
            Box::pin(signals.run(sink, shutdown.clone())),
            Box::pin(published.run(shutdown.clone())),
            Box::pin(told),
        );
    }
}
