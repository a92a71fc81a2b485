//! Quotas: what a namespace holds is counted, and what would be too much is refused.
//!
//! Two parts share one [`Quotas`]. The plugin ([`admission`]) charges a creation to the quotas of its namespace right before the object is
//! stored; the controller ([`controller`]) counts what is there and writes that into `status`, so that deletions, failed creations and
//! changed limits show up. Units are whole objects.
//!
//! Invariant: while a charge is between its entry in `status.used` and the stored object, nobody's count replaces that entry. A namespace's
//! `epoch` changes with every charge that begins or ends, and a count is written only if the epoch is still that of its beginning.

pub(crate) mod admission;
pub(crate) mod controller;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pullpiri_store::{Range, ReadError, Store};
use tokio::sync::Notify;

use crate::registry::{Resource, Resources};
use crate::rest::key;

/// Plurals of the core group that a quota may name without `count/`.
const COUNTED: [&str; 7] =
    ["configmaps", "secrets", "resourcequotas", "services", "pods", "persistentvolumeclaims", "replicationcontrollers"];

/// What the plugin and the controller tell each other.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    state: Mutex<State>,
    /// Somebody put a namespace into `dirty`.
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether `ledgers` knows every quota.
    complete: bool,
    /// By namespace.
    ledgers: BTreeMap<Arc<str>, Ledger>,
    /// Namespaces to be counted again.
    dirty: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Quotas that are there, or are about to be.
    names: BTreeSet<Arc<str>>,
    charging: u32,
    epoch: u64,
    /// One charge at a time: more would only collide in the store.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Quotas {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The quotas of a namespace; `None`: not known yet.
    fn names(&self, namespace: &str) -> Option<Vec<Arc<str>>> {
        let state = self.state();
        let ledger = state.ledgers.get(namespace);
        state.complete.then(|| ledger.map(|ledger| ledger.names.iter().cloned().collect()).unwrap_or_default())
    }

    fn learn(&self, namespace: &str, name: &str) {
        self.state().ledgers.entry(namespace.into()).or_default().names.insert(name.into());
    }

    fn forget(&self, namespace: &str, name: &str) {
        let mut state = self.state();
        let Some(ledger) = state.ledgers.get_mut(namespace) else { return };
        ledger.names.remove(name);
        if ledger.names.is_empty() && ledger.charging == 0 {
            state.ledgers.remove(namespace);
        }
    }

    /// These are all; what is about to be made stays.
    fn complete(&self) {
        self.state().complete = true;
    }

    fn namespaces(&self) -> Vec<Arc<str>> {
        self.state().ledgers.keys().cloned().collect()
    }

    fn has_any(&self, namespace: &str) -> bool {
        self.state().ledgers.get(namespace).is_some_and(|ledger| !ledger.names.is_empty())
    }

    /// The epoch of a namespace in which nothing is being charged.
    fn settled(&self, namespace: &str) -> Option<u64> {
        match self.state().ledgers.get(namespace) {
            None => Some(0),
            Some(ledger) => (ledger.charging == 0).then_some(ledger.epoch),
        }
    }

    fn turn(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.state().ledgers.entry(namespace.into()).or_default().turn)
    }

    fn begin(self: &Arc<Self>, namespace: &str) -> Charge {
        let namespace: Arc<str> = namespace.into();
        let mut state = self.state();
        let ledger = state.ledgers.entry(Arc::clone(&namespace)).or_default();
        ledger.charging = ledger.charging.saturating_add(1);
        ledger.epoch = ledger.epoch.wrapping_add(1);
        drop(state);
        Charge { quotas: Arc::clone(self), namespace }
    }

    fn take_dirty(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.state().dirty)
    }
}

/// A creation that is charged and not stored yet. When it is dropped, its namespace is counted again.
#[derive(Debug)]
pub struct Charge {
    quotas: Arc<Quotas>,
    namespace: Arc<str>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.quotas.state();
        if let Some(ledger) = state.ledgers.get_mut(&self.namespace) {
            ledger.charging = ledger.charging.saturating_sub(1);
            ledger.epoch = ledger.epoch.wrapping_add(1);
        }
        state.dirty.insert(Arc::clone(&self.namespace));
        drop(state);
        self.quotas.woken.notify_one();
    }
}

/// The group and plural that a resource is counted under: those of its storage.
fn home(resource: &Resource) -> (&str, &str) {
    resource.strategy.view_of().unwrap_or((&resource.group, &resource.plural))
}

/// The names under which a quota may limit a resource.
fn names_of(resource: &Resource) -> Vec<String> {
    let (group, plural) = home(resource);
    let mut names = vec![if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }];
    if group.is_empty() && COUNTED.contains(&plural) {
        names.push(plural.to_owned());
    }
    names
}

/// The resource that a quota's name counts; `None` for what isn't counted or isn't served.
fn resource_of<'a>(resources: &'a Resources, name: &str) -> Option<&'a Arc<Resource>> {
    let (plural, group) = match name.strip_prefix("count/") {
        Some(counted) => counted.split_once('.').unwrap_or((counted, "")),
        None => (COUNTED.contains(&name).then_some(name)?, ""),
    };
    resources.stored(group, plural).filter(|resource| resource.is_namespaced())
}

/// How many objects of a resource a namespace holds.
async fn count(store: &dyn Store, resource: &Resource, namespace: &str) -> Result<u64, ReadError> {
    let range = Range { prefix: key::prefix(resource, Some(namespace)), limit: Some(1), ..Range::default() };
    let page = store.list(range).await?;
    Ok(u64::try_from(page.items.len()).unwrap_or(u64::MAX).saturating_add(page.remaining.unwrap_or(0)))
}

#[cfg(test)]
mod tests;
