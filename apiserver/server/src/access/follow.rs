//! One source of access decisions, followed from its list on; listed again after a gap.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pullpiri_store::{KeyValue, Range, ReadError, Revision, Store, WatchItem};
use serde_json::Value;

use super::Access;
use crate::rest::key;

/// How many objects are read at once.
const PAGE: usize = 256;
/// How long to wait when the store can't be read.
const RETRY: Duration = Duration::from_millis(500);

/// Follows until the store is closed.
pub(super) async fn run(access: Arc<Access>, position: usize, store: Arc<dyn Store>) {
    let mut follower = Follower { access, position, store, known: HashSet::new() };
    loop {
        match follower.follow().await {
            Ok(()) => {}
            Err(ReadError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "roles and bindings can't be read, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Follower {
    access: Arc<Access>,
    position: usize,
    store: Arc<dyn Store>,
    /// The keys of what is taken in.
    known: HashSet<Arc<str>>,
}

impl Follower {
    async fn follow(&mut self) -> Result<(), ReadError> {
        let access = Arc::clone(&self.access);
        let Some(source) = access.sources.get(self.position) else { return Err(ReadError::Closed) };
        let prefix = source.prefix();
        let mut gone = std::mem::take(&mut self.known);
        let mut range = Range { prefix: prefix.clone(), limit: Some(PAGE), ..Range::default() };
        let from = loop {
            let page = self.store.list(range.clone()).await?;
            for kv in &page.items {
                gone.remove(&kv.key);
                self.put(&kv.key, Some(kv));
            }
            if !page.more {
                break page.revision;
            }
            range.after = page.items.last().map(|kv| Arc::clone(&kv.key));
            range.at = Some(page.revision);
        };
        for key in gone {
            self.put(&key, None);
        }
        // An empty store is at revision 0, and read all the same.
        source.seen.send_replace(from.0.max(1));
        let mut events = self.store.watch(&prefix, from).await?;
        while let Some(item) = events.next().await {
            let Revision(revision) = match item {
                Ok(WatchItem::Event(event)) => {
                    self.put(&event.key, event.current.as_ref());
                    event.revision
                }
                Ok(WatchItem::Progress(revision)) => revision,
                Err(error) => {
                    tracing::debug!(%error, "the stream of roles and bindings has a gap");
                    return Ok(());
                }
            };
            source.seen.send_if_modified(|seen| {
                let newer = revision > *seen;
                *seen = revision.max(*seen);
                newer
            });
        }
        Ok(())
    }

    fn put(&mut self, key: &Arc<str>, kv: Option<&KeyValue>) {
        let Some(parts) = key::parse(key) else { return };
        let object: Option<Value> = kv.and_then(|kv| {
            let parsed = serde_json::from_slice(&kv.value);
            parsed
                .inspect_err(|error| tracing::warn!(%error, %key, "an object can't be read, and gives no access"))
                .ok()
        });
        if object.is_some() {
            self.known.insert(Arc::clone(key));
        } else {
            self.known.remove(key);
        }
        let namespace = parts.namespace.unwrap_or_default();
        self.access.apply(parts.group, parts.plural, namespace, parts.name, object.as_ref());
    }
}
