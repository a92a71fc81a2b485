//! What watches saw and what writers were told, held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use pullpiri_store::{Event, WatchItem, WatchStream};

use crate::item;

/// (revision, key, value or deletion)
pub type Version = (u64, String, Option<String>);

/// What writers were told. Values are unique, so that each tells whose write it is.
#[derive(Debug, Default)]
pub struct Told {
    pub acknowledged: Mutex<Vec<Version>>,
    /// (key, value or deletion) of what may have happened.
    pub unknown: Mutex<Vec<(String, Option<String>)>>,
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

/// An event and the version that it replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: Version,
    pub previous: Option<(u64, String)>,
}

impl From<&Event> for Seen {
    fn from(event: &Event) -> Self {
        let value = event.current.as_ref().map(|kv| text(&kv.value));
        let previous = event.previous.as_ref().map(|kv| (kv.modified.0, text(&kv.value)));
        Self { version: (event.revision.0, event.key.to_string(), value), previous }
    }
}

/// Reads a watch up to and including `last`'s revision, which is one of its events.
pub async fn read(mut watch: WatchStream, last: tokio::sync::watch::Receiver<Option<u64>>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut last = last;
    loop {
        let done = *last.borrow();
        if seen.last().is_some_and(|seen| Some(seen.version.0) == done) {
            return seen;
        }
        tokio::select! {
            item = item(&mut watch) => match item.unwrap() {
                WatchItem::Event(event) => seen.push(Seen::from(&*event)),
                WatchItem::Progress(through) => {
                    assert!(seen.last().is_none_or(|seen| seen.version.0 <= through.0));
                }
            },
            changed = last.changed() => changed.unwrap(),
        }
    }
}

/// The whole history is what writers were told, and hangs together.
pub fn check(history: &[Seen], told: &Told) {
    let mut state: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut values = BTreeSet::new();
    for (index, seen) in history.iter().enumerate() {
        let (revision, key, value) = &seen.version;
        assert_eq!(*revision, index as u64 + 1, "dense");
        assert_eq!(state.get(key), seen.previous.as_ref(), "before {:?}", seen.version);
        match value {
            Some(value) => {
                assert!(values.insert(value.clone()), "{value} was written twice");
                state.insert(key.clone(), (*revision, value.clone()));
            }
            None => assert!(state.remove(key).is_some(), "nothing to delete at {revision}"),
        }
    }
    let acknowledged = told.acknowledged.lock().unwrap();
    let mut of_revision = BTreeMap::new();
    for version in acknowledged.iter() {
        let happened = usize::try_from(version.0 - 1).ok().and_then(|index| history.get(index));
        assert_eq!(happened.map(|seen| &seen.version), Some(version), "an acknowledged write is lost");
        assert!(of_revision.insert(version.0, ()).is_none(), "revision {} was acknowledged twice", version.0);
    }
    // Whatever else happened is something whose writer was told that it may have.
    let mut unknown: Vec<(String, Option<String>)> = told.unknown.lock().unwrap().clone();
    for Seen { version: (revision, key, value), .. } in history {
        if !of_revision.contains_key(revision) {
            let found = unknown.iter().position(|(of, change)| of == key && change == value);
            unknown.swap_remove(found.unwrap_or_else(|| panic!("nobody wrote {key} {value:?} at {revision}")));
        }
    }
    // Nobody's increment is lost: each counts on from the one before.
    let mut count = 0;
    for Seen { version: (_, key, value), .. } in history.iter().filter(|seen| seen.version.1 == "counter") {
        count += 1;
        let value = value.as_deref().unwrap();
        assert_eq!(value.split_once(' ').unwrap().0, count.to_string(), "{key}");
    }
}
