//! The layout of the data file, and every read from it.
//!
//! | table | key → value | grows |
//! |---|---|---|
//! | `log` | revision → entry with the value ([`super::record`]) | at its end |
//! | `current` | key → revision of its newest version | a few bytes per key |
//! | `history` | (key, revision of a replaced version) → the revision that replaced it | until compaction |
//! | `meta` | `format`, `oldest` (what may be read), `swept` (up to where compaction has cleaned up) | never |
//!
//! A value is written once, at the end of the log, and never moved: an update costs one entry and two small index
//! changes, and a burst of writes fills neighbouring pages. Reading the present goes through `current` alone, whatever the
//! history holds; reading the past merges `current` and `history`.
//!
//! Invariants ([`Snapshot::verify`] checks them): the log holds every revision in `(swept, revision]`; each version is either the one
//! in `current`, or in `history` with the revision that replaced it, or gone because that revision is swept; `swept ≤ oldest ≤ revision`.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition,
};

use super::error::Fault;
use super::record::{Kind, Record};
use crate::hub::Chunk;
use crate::{Event, KeyValue, Range, Revision};

pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const CURRENT: TableDefinition<'_, &str, u64> = TableDefinition::new("current");
pub(super) const HISTORY: TableDefinition<'_, (&str, u64), u64> = TableDefinition::new("history");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

pub(super) const FORMAT: u64 = 1;

/// A step of a watch through the log ends after so many entries or bytes, so that it neither holds a snapshot
/// for long nor takes much memory.
const CHUNK_ENTRIES: usize = 2048;
const CHUNK_BYTES: usize = 1 << 20;

/// The store as of one commit. Shared by all readers until the next commit.
pub(super) struct Snapshot {
    log: ReadOnlyTable<u64, &'static [u8]>,
    current: ReadOnlyTable<&'static str, u64>,
    history: ReadOnlyTable<(&'static str, u64), u64>,
    pub(super) revision: u64,
    pub(super) oldest: u64,
    pub(super) swept: u64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("oldest", &self.oldest)
            .finish_non_exhaustive()
    }
}

/// What [`super::RedbStore::verify`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub keys: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Versions that were replaced and can still be read (or aren't swept yet).
    pub replaced: u64,
    pub revision: u64,
    pub oldest: u64,
}

/// Makes the tables of a new data file.
pub(super) fn initialize(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    transaction.open_table(LOG)?;
    transaction.open_table(CURRENT)?;
    transaction.open_table(HISTORY)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("oldest", 0)?;
        meta.insert("swept", 0)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Whether the file has any table: a new one has none.
pub(super) fn is_blank(database: &Database) -> Result<bool, Fault> {
    let transaction = database.begin_read()?;
    Ok(transaction.list_tables()?.next().is_none())
}

fn meta(transaction: &ReadTransaction, name: &str) -> Result<u64, Fault> {
    let table = transaction.open_table(META)?;
    let value = table.get(name)?.map(|value| value.value());
    value.ok_or_else(|| Fault::Corrupt(format!("it has no {name} mark")))
}

fn keys_from(range: &Range) -> Bound<&str> {
    match &range.after {
        Some(after) if **after >= *range.prefix => Bound::Excluded(after),
        _ => Bound::Included(range.prefix.as_str()),
    }
}

impl Snapshot {
    pub(super) fn take(database: &Database) -> Result<Self, Fault> {
        let transaction = database.begin_read()?;
        let format = meta(&transaction, "format")?;
        if format != FORMAT {
            return Err(Fault::Format(format));
        }
        let oldest = meta(&transaction, "oldest")?;
        let swept = meta(&transaction, "swept")?;
        let log = transaction.open_table(LOG)?;
        let newest = log.last()?.map_or(0, |(revision, _)| revision.value());
        if swept > oldest {
            return Err(Fault::Corrupt(format!("it was swept up to {swept}, beyond its oldest revision {oldest}")));
        }
        Ok(Self {
            log,
            current: transaction.open_table(CURRENT)?,
            history: transaction.open_table(HISTORY)?,
            // The newest entry may be a deletion that was swept.
            revision: newest.max(oldest),
            oldest,
            swept,
        })
    }

    fn version(&self, key: &str, modified: u64) -> Result<KeyValue, Fault> {
        let entry = self.log.get(modified)?.ok_or_else(|| lost(modified))?;
        let record = Record::decode(modified, entry.value())?;
        if record.key != key || record.kind != Kind::Put {
            return Err(Fault::Corrupt(format!("revision {modified} isn't a version of {key}")));
        }
        Ok(record.version(modified, Arc::from(key)))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, Fault> {
        let modified = self.current.get(key)?.map(|modified| modified.value());
        modified.map(|modified| self.version(key, modified)).transpose()
    }

    /// A page as of `at`: its items, and how many keys come after it (counted only with a limit).
    pub(super) fn list(&self, range: &Range, at: u64) -> Result<(Vec<KeyValue>, Option<u64>), Fault> {
        let mut items = Vec::new();
        let mut remaining = 0u64;
        let mut visit = |key: &str, modified: u64| {
            if range.limit.is_none_or(|limit| items.len() < limit) {
                items.push(self.version(key, modified)?);
            } else {
                remaining += 1;
            }
            Ok::<(), Fault>(())
        };
        if at == self.revision {
            for entry in self.current.range::<&str>((keys_from(range), Bound::Unbounded))? {
                let (key, modified) = entry?;
                if !key.value().starts_with(&range.prefix) {
                    break;
                }
                visit(key.value(), modified.value())?;
            }
        } else {
            for entry in self.merged(range, at)? {
                let (key, modified) = entry?;
                visit(&key, modified)?;
            }
        }
        Ok((items, range.limit.map(|_| remaining)))
    }

    /// The keys of a range that existed at `at`, each with its version then, in order.
    fn merged<'a>(
        &self,
        range: &'a Range,
        at: u64,
    ) -> Result<Merge<impl Iterator<Item = Entry> + 'a, impl Iterator<Item = Entry> + 'a>, Fault> {
        let from = keys_from(range);
        let still_current = self
            .current
            .range::<&str>((from, Bound::Unbounded))?
            .map(|entry| entry.map(|(key, modified)| (key.value().to_owned(), modified.value())))
            .take_while(|entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(&range.prefix)))
            .filter(move |entry| entry.as_ref().map_or(true, |(_, modified)| *modified <= at));
        let from = match from {
            Bound::Excluded(after) => Bound::Excluded((after, u64::MAX)),
            Bound::Included(first) => Bound::Included((first, 0)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let since_replaced = self
            .history
            .range::<(&str, u64)>((from, Bound::Unbounded))?
            .map(|entry| {
                entry.map(|(version, replaced)| {
                    let (key, modified) = version.value();
                    (key.to_owned(), modified, replaced.value())
                })
            })
            .take_while(|entry| entry.as_ref().map_or(true, |(key, ..)| key.starts_with(&range.prefix)))
            .filter(move |entry| {
                entry.as_ref().map_or(true, |(_, modified, replaced)| *modified <= at && at < *replaced)
            })
            .map(|entry| entry.map(|(key, modified, _)| (key, modified)));
        Ok(Merge { one: still_current.peekable(), other: since_replaced.peekable() })
    }

    /// Events of keys with `prefix` after revision `after`, which is not before [`Self::oldest`].
    pub(super) fn events(&self, prefix: &str, after: u64) -> Result<Chunk, Fault> {
        let mut events = Vec::new();
        let mut through = after;
        let mut bytes = 0;
        for entry in self.log.range::<u64>((Bound::Excluded(after), Bound::Unbounded))?.take(CHUNK_ENTRIES) {
            let (revision, entry) = entry?;
            let revision = revision.value();
            if through.checked_add(1) != Some(revision) {
                return Err(lost(through.saturating_add(1)));
            }
            through = revision;
            let record = Record::decode(revision, entry.value())?;
            if !record.key.starts_with(prefix) {
                continue;
            }
            let key: Arc<str> = Arc::from(record.key);
            let previous = match record.previous {
                0 => None,
                previous => Some(self.version(&key, previous)?),
            };
            bytes += record.value.len() + previous.as_ref().map_or(0, |previous| previous.value.len());
            let current = (record.kind == Kind::Put).then(|| record.version(revision, Arc::clone(&key)));
            events.push(Arc::new(Event { revision: Revision(revision), key, current, previous }));
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        Ok(Chunk { events, through })
    }

    /// Reads everything and checks that the tables agree with one another.
    pub(super) fn verify(&self) -> Result<Verified, Fault> {
        let broken = |what: String| Err(Fault::Corrupt(what));
        let mut counts = Verified { revision: self.revision, oldest: self.oldest, ..Verified::default() };
        let mut expected = self.swept;
        for entry in self.log.iter()? {
            let (revision, entry) = entry?;
            let revision = revision.value();
            let record = Record::decode(revision, entry.value())?;
            counts.entries += 1;
            if revision > self.swept {
                expected = expected.saturating_add(1);
                if revision != expected {
                    return broken(format!("revision {expected} is missing"));
                }
                if record.previous != 0 {
                    let replaced = self.history.get((record.key, record.previous))?.map(|replaced| replaced.value());
                    if replaced != Some(revision) {
                        return broken(format!(
                            "revision {revision} replaced {}, history says {replaced:?}",
                            record.previous
                        ));
                    }
                }
            } else if record.kind == Kind::Delete {
                return broken(format!("the deletion {revision} is left over"));
            }
            if record.kind == Kind::Put {
                let newest = self.current.get(record.key)?.map(|modified| modified.value());
                let replaced = self.history.get((record.key, revision))?.map(|replaced| replaced.value());
                if (newest == Some(revision)) == replaced.is_some() {
                    return broken(format!("revision {revision}: its key is at {newest:?}, replaced by {replaced:?}"));
                }
            }
        }
        if expected != self.revision {
            return broken(format!("the log ends at {expected}, not at {}", self.revision));
        }
        for entry in self.current.iter()? {
            let (key, modified) = entry?;
            counts.keys += 1;
            self.version(key.value(), modified.value())?;
        }
        for entry in self.history.iter()? {
            let (version, replaced) = entry?;
            let (key, modified) = version.value();
            counts.replaced += 1;
            if replaced.value() <= self.swept || replaced.value() <= modified {
                return broken(format!("{key} at {modified} is left over, replaced by {}", replaced.value()));
            }
            self.version(key, modified)?;
        }
        Ok(counts)
    }
}

fn lost(revision: u64) -> Fault {
    Fault::Corrupt(format!("revision {revision} is missing"))
}

type Entry = Result<(String, u64), StorageError>;

/// Two ordered streams as one. A key is in at most one of them: at any revision it has one version.
struct Merge<A: Iterator<Item = Entry>, B: Iterator<Item = Entry>> {
    one: Peekable<A>,
    other: Peekable<B>,
}

impl<A: Iterator<Item = Entry>, B: Iterator<Item = Entry>> Iterator for Merge<A, B> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        match (self.one.peek(), self.other.peek()) {
            (Some(Ok((one, _))), Some(Ok((other, _)))) if one > other => self.other.next(),
            (None, _) | (_, Some(Err(_))) => self.other.next(),
            (Some(_), _) => self.one.next(),
        }
    }
}
