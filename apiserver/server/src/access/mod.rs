//! Authorisation by roles and bindings, and by what is bound to a node: [`pullpiri_access`] kept in step with the store.
//!
//! One task per sort of object follows the store's changes. Decisions read a lock that is written only when a role, a binding or a bound
//! object changes, so they cost microseconds and take nothing from the write path. Two promises that kube-apiserver doesn't give: a change of
//! a role or binding counts when its write is answered, and nothing is refused because a view is behind a write that this
//! server acknowledged. (Writes through other servers on the same store count when their events arrive.)

pub(crate) mod bootstrap;
mod follow;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pullpiri_access::node::{Nodes, Policy, Spelling};
use pullpiri_access::rbac::{Index, Kind, Rules, Verdict, is_master};
use pullpiri_store::Store;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::UserInfo;
use crate::authz::{Attributes, Authorizer, Decision};
use crate::registry::Resource;

pub use pullpiri_access::node::PolicyError;

/// A view that is still behind after this answers as it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// What nodes may do.
#[derive(Clone, Debug)]
pub struct NodeAccess {
    policy: Policy,
    spelling: Spelling,
}

impl NodeAccess {
    /// A policy as [`Policy::parse`] reads it, and how a user's spelling of its node becomes the name that objects have.
    ///
    /// # Errors
    /// A field that is missing.
    pub fn parse(policy: &Value, spelling: Spelling) -> Result<Self, PolicyError> {
        Ok(Self { policy: Policy::parse(policy)?, spelling })
    }
}

/// One sort of object that decisions depend on: the kinds of RBAC, or a kind that is bound to nodes.
#[derive(Debug)]
struct Source {
    group: String,
    /// Empty: every kind of the group.
    plural: String,
    /// The newest revision of a write by this server.
    written: AtomicU64,
    /// Every write up to this revision counts.
    seen: watch::Sender<u64>,
}

impl Source {
    fn new(group: &str, plural: &str) -> Self {
        // Behind until it was read for the first time.
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
            written: AtomicU64::new(1),
            seen: watch::Sender::new(0),
        }
    }

    fn is_of(&self, group: &str, plural: &str) -> bool {
        self.group == group && (self.plural.is_empty() || self.plural == plural)
    }

    /// The prefix of its keys.
    fn prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        if self.plural.is_empty() { format!("{group}/") } else { format!("{group}/{}/", self.plural) }
    }
}

/// The authoriser.
#[derive(Debug)]
pub struct Access {
    sources: Vec<Source>,
    index: RwLock<Index>,
    nodes: Option<RwLock<Nodes>>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    pub(crate) fn new(nodes: Option<NodeAccess>) -> Self {
        let mut sources = vec![Source::new(pullpiri_access::GROUP, "")];
        if let Some(nodes) = &nodes {
            sources.extend(nodes.policy.bound().map(|(group, plural)| Source::new(group, plural)));
        }
        let nodes = nodes.map(|nodes| RwLock::new(Nodes::new(nodes.policy, nodes.spelling)));
        Self { sources, index: RwLock::default(), nodes }
    }

    /// Starts to follow the store.
    pub(crate) fn start(self: &Arc<Self>, store: &Arc<dyn Store>, tasks: &mut JoinSet<()>) {
        for position in 0..self.sources.len() {
            tasks.spawn(follow::run(Arc::clone(self), position, Arc::clone(store)));
        }
    }

    /// This server wrote an object of this resource.
    pub(crate) fn wrote(&self, resource: &Resource, revision: u64) {
        if let Some(source) = self.sources.iter().find(|source| source.is_of(&resource.group, &resource.plural)) {
            source.written.fetch_max(revision, Ordering::SeqCst);
        }
    }

    /// Takes in an object as it is now.
    fn apply(&self, group: &str, plural: &str, namespace: &str, name: &str, object: Option<&Value>) {
        if group == pullpiri_access::GROUP {
            if let Some(kind) = Kind::of_plural(plural) {
                write(&self.index).apply(kind, namespace, name, object);
            }
        } else if let Some(nodes) = &self.nodes {
            write(nodes).apply(group, plural, namespace, name, object);
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        read(&self.index)
    }

    pub(crate) fn nodes(&self) -> Option<RwLockReadGuard<'_, Nodes>> {
        self.nodes.as_ref().map(read)
    }

    /// Yields whenever roles or bindings changed.
    pub(crate) fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.sources.first().map(|source| source.seen.subscribe())
    }

    async fn wait(&self) -> bool {
        let mut behind = false;
        for source in &self.sources {
            let wanted = source.written.load(Ordering::SeqCst);
            if *source.seen.borrow() >= wanted {
                continue;
            }
            behind = true;
            let mut seen = source.seen.subscribe();
            let caught_up = seen.wait_for(|seen| *seen >= wanted);
            if tokio::time::timeout(PATIENCE, caught_up).await.is_err() {
                tracing::warn!(group = source.group, plural = source.plural, "authorisation is behind the store");
            }
        }
        behind
    }

    /// What nodes' rules say, then what roles say.
    fn decide(&self, attributes: &Attributes<'_>) -> Result<(), String> {
        if is_master(attributes.user) {
            return Ok(());
        }
        let of_node = match self.nodes() {
            None => String::new(),
            Some(nodes) => match nodes.evaluate(attributes) {
                Verdict::Allowed => return Ok(()),
                Verdict::NoOpinion(reason) => reason,
            },
        };
        match self.index().evaluate(attributes) {
            Verdict::Allowed => Ok(()),
            Verdict::NoOpinion(reason) => Err(joined(of_node, &reason)),
        }
    }
}

fn joined(mut first: String, second: &str) -> String {
    if !first.is_empty() && !second.is_empty() {
        first.push('\n');
    }
    first.push_str(second);
    first
}

impl Authorizer for Access {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        match self.decide(attributes) {
            Ok(()) => Decision::Allow,
            Err(reason) => Decision::Deny(reason),
        }
    }

    fn explain(&self, attributes: &Attributes<'_>) -> (Decision, String) {
        if is_master(attributes.user) {
            return (Decision::Allow, String::new());
        }
        let of_node = match self.nodes().map(|nodes| nodes.evaluate(attributes)) {
            Some(Verdict::Allowed) => return (Decision::Allow, String::new()),
            Some(Verdict::NoOpinion(reason)) => reason,
            None => String::new(),
        };
        match self.index().explain(attributes) {
            Ok(reason) => (Decision::Allow, reason),
            Err(reason) => {
                let reason = joined(of_node, &reason);
                (Decision::Deny(reason.clone()), reason)
            }
        }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Option<Rules> {
        let mut rules = self.index().rules_for(user, namespace);
        if self.nodes().is_some_and(|nodes| nodes.identity(user).is_some()) {
            rules.errors.insert(0, NODES_CANNOT_TELL.to_owned());
        }
        Some(rules)
    }

    fn catch_up(&self) -> BoxFuture<'_, bool> {
        self.wait().boxed()
    }
}

/// What is said of a node's rules, which depend on objects.
pub(crate) const NODES_CANNOT_TELL: &str = "node authorizer does not support user rule resolution";
