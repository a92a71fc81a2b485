//! One transaction: the writes of a batch, each seeing the ones before it, and a step of compaction.

use std::sync::Arc;

use redb::{ReadableTable as _, Table, WriteTransaction};

use super::error::Fault;
use super::record::{Kind, Record};
use super::tables::{CURRENT, HISTORY, LOG, META};
use crate::{Change, Event, Expect, KeyValue, Revision, Write};

/// The tables, open for writing.
pub(super) struct Batch<'t> {
    log: Table<'t, u64, &'static [u8]>,
    current: Table<'t, &'static str, u64>,
    history: Table<'t, (&'static str, u64), u64>,
    meta: Table<'t, &'static str, u64>,
    /// The newest revision, counting this batch's.
    pub(super) revision: u64,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Outcome {
    Done(Arc<Event>),
    /// The expectation doesn't hold; this is what is there.
    Refused(Option<KeyValue>),
    /// The record can't be stored at all.
    TooLarge,
}

/// Keys and values beyond this together are refused, far above what an API server lets through; redb's own limit is 3 GiB.
const MAX_RECORD: usize = 1 << 30;

impl<'t> Batch<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, revision: u64) -> Result<Self, Fault> {
        Ok(Self {
            log: transaction.open_table(LOG)?,
            current: transaction.open_table(CURRENT)?,
            history: transaction.open_table(HISTORY)?,
            meta: transaction.open_table(META)?,
            revision,
        })
    }

    pub(super) fn apply(&mut self, write: &Write) -> Result<Outcome, Fault> {
        let key = &write.key;
        let newest = self.current.get(&**key)?.map(|modified| modified.value());
        let previous = match newest {
            Some(modified) => {
                let entry = self.log.get(modified)?;
                let entry =
                    entry.as_ref().ok_or_else(|| Fault::Corrupt(format!("revision {modified} is missing")))?.value();
                Some(Record::decode(modified, entry)?.version(modified, Arc::clone(key)))
            }
            None => None,
        };
        let holds = match (write.expect, newest) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::At(expected), Some(modified)) => expected.0 == modified,
            (Expect::Absent, Some(_)) | (Expect::At(_), None) => false,
        };
        if !holds || (write.change == Change::Delete && previous.is_none()) {
            return Ok(Outcome::Refused(previous));
        }

        let revision = self.revision + 1;
        let (kind, value) = match &write.change {
            Change::Put(value) => (Kind::Put, &**value),
            Change::Delete => (Kind::Delete, [].as_slice()),
        };
        let created = previous.as_ref().map_or(revision, |previous| previous.created.0);
        let record = Record { kind, created, previous: newest.unwrap_or(0), key, value };
        let Some(length) = record.encoded_len().filter(|length| *length <= MAX_RECORD) else {
            return Ok(Outcome::TooLarge);
        };
        let mut entry = self.log.insert_reserve(revision, length)?;
        if record.encode(revision, entry.as_mut()).is_none() {
            return Err(Fault::Io(format!("encoding revision {revision}: its length doesn't fit")));
        }
        drop(entry);
        match kind {
            Kind::Put => self.current.insert(&**key, revision)?,
            Kind::Delete => self.current.remove(&**key)?,
        };
        if let Some(modified) = newest {
            self.history.insert((&**key, modified), revision)?;
        }
        self.revision = revision;
        let current = match &write.change {
            Change::Put(value) => Some(KeyValue {
                key: Arc::clone(key),
                value: value.clone(),
                created: Revision(created),
                modified: Revision(revision),
            }),
            Change::Delete => None,
        };
        Ok(Outcome::Done(Arc::new(Event { revision: Revision(revision), key: Arc::clone(key), current, previous })))
    }

    /// Makes `oldest` the oldest readable revision.
    pub(super) fn forget_before(&mut self, oldest: u64) -> Result<(), Fault> {
        self.meta.insert("oldest", oldest)?;
        Ok(())
    }

    /// Removes what the at most `limit` revisions after `swept` replaced; up to where it came.
    pub(super) fn sweep(&mut self, swept: u64, oldest: u64, limit: usize) -> Result<u64, Fault> {
        let mut gone = Vec::new();
        for entry in self.log.range(swept.saturating_add(1)..=oldest)?.take(limit) {
            let (revision, entry) = entry?;
            let record = Record::decode(revision.value(), entry.value())?;
            gone.push((revision.value(), record.kind, record.previous, record.key.to_owned()));
        }
        let mut reached = if gone.len() < limit { oldest } else { swept };
        for (revision, kind, previous, key) in gone {
            if previous != 0 {
                self.log.remove(previous)?;
                self.history.remove((key.as_str(), previous))?;
            }
            if kind == Kind::Delete {
                self.log.remove(revision)?;
            }
            reached = reached.max(revision);
        }
        self.mark_swept(reached)?;
        Ok(reached)
    }

    pub(super) fn mark_swept(&mut self, swept: u64) -> Result<(), Fault> {
        self.meta.insert("swept", swept)?;
        Ok(())
    }
}
