//! What the writer thread does when the disk is full or fails.
//!
//! A full disk is found before redb stumbles over it: a batch is let through only if there is room, with a reserve that puts can't touch, so that
//! deletions, compaction and an orderly close still work. When the disk fails under a batch nevertheless, redb refuses
//! further work until it is opened again. This thread does that, and then looks whether the batch made it to the disk, so that the
//! writers get a true answer.

use std::sync::Arc;

use super::super::batch::Batch;
use super::super::error::{Fault, guarded};
use super::super::shared::{DatabaseState, Trouble, lock};
use super::super::storage::open_database;
use super::super::tables::Snapshot;
use super::{Request, Writer, count, size};
use crate::memory::written;
use crate::{Change, Event, Expect, Room, Write, WriteError};

/// Free space that a put leaves to deletions, compaction and an orderly close.
const RESERVE: u64 = 1 << 20;
/// Free space that a batch of deletions needs for the pages it rewrites.
pub(super) const RESERVE_FOR_DELETIONS: u64 = 256 << 10;

impl Writer {
    /// Refuses what would fill the disk: a full disk is found before redb stumbles over it. Whether all of it fits.
    pub(super) fn refuse_without_room(&mut self, batch: &mut Vec<Request>) -> bool {
        // Each value is written once, and the pages of three trees around it.
        let written = |request: &Request| count(size(&request.write)).saturating_mul(2);
        let all = batch.iter().map(written).fold(RESERVE, u64::saturating_add);
        if self.short_of(all, RESERVE).is_none() {
            return true;
        }
        let for_deletions = self.short_of(RESERVE_FOR_DELETIONS, 0);
        let mut needed = RESERVE;
        let mut refused = Vec::new();
        for request in std::mem::take(batch) {
            let with_this = needed.saturating_add(written(&request));
            let short = match request.write.change {
                Change::Delete => for_deletions,
                Change::Put(_) => self.short_of(with_this, RESERVE),
            };
            match short {
                Some(room) => refused.push((request, room)),
                None => {
                    needed = with_this;
                    batch.push(request);
                }
            }
        }
        let all_fit = refused.is_empty();
        let store = self.shared.storage.path().display().to_string();
        lock(&self.shared.metrics).failed += count(refused.len());
        for (Request { write, answer, _room }, room) in refused {
            self.shared.set_trouble(Trouble::Full(Some(room)));
            let _ = answer.send(Err(WriteError::NoSpace { key: write.key, store: store.clone(), room: Some(room) }));
        }
        all_fit
    }

    /// What is missing, unless `needed` bytes are free. If it can't be told, the write will.
    pub(super) fn short_of(&self, needed: u64, reserve: u64) -> Option<Room> {
        let storage = &self.shared.storage;
        match storage.free() {
            Ok(free) if free < needed => return Some(Room { needed, reserve, free: Some(free) }),
            _ if !self.suspicious => return None,
            _ => {}
        }
        let refused = storage.probe(needed).is_err_and(|error| matches!(Fault::io(&error), Fault::NoSpace));
        refused.then_some(Room { needed, reserve, free: None })
    }

    pub(super) fn fail(&mut self, batch: &mut Vec<Request>, fault: &Fault) {
        let store = self.shared.storage.path().display().to_string();
        let message = fault.message();
        let full = matches!(fault, Fault::NoSpace);
        // If there seems to be room, the next one has to ask for it.
        self.suspicious |= full;
        self.shared.set_trouble(if full { Trouble::Full(None) } else { Trouble::Failed(message.clone()) });
        lock(&self.shared.metrics).failed += count(batch.len());
        for Request { write, answer, _room } in batch.drain(..) {
            let error = match fault {
                Fault::NoSpace => WriteError::NoSpace { key: write.key, store: store.clone(), room: None },
                _ => WriteError::Io { key: write.key, message: message.clone() },
            };
            let _ = answer.send(Err(error));
        }
        for (_, answer) in self.compactions.drain(..) {
            let _ = answer.send(Err(Fault::Io(message.clone())));
        }
    }

    /// Answers a batch whose commit failed but is on the disk: its events are in the log, in the order of its writes.
    pub(super) fn answer_from_disk(&mut self, batch: &mut Vec<Request>, before: u64) {
        let mut events = Vec::new();
        let mut through = before;
        while through < self.revision {
            let Ok(snapshot) = self.shared.snapshot() else { break };
            match guarded(|| snapshot.events("", through)) {
                Ok(chunk) if chunk.through > through => {
                    through = chunk.through;
                    events.extend(chunk.events);
                }
                _ => break,
            }
        }
        self.shared.hub.publish(&events);
        lock(&self.shared.metrics).writes += count(events.len());
        let mut events = events.into_iter().peekable();
        for Request { write, answer, _room } in batch.drain(..) {
            // A refused write left no event, so an event that isn't of this write is of a later one.
            let result = match events.next_if(|event| made_by(event, &write)) {
                Some(event) => Ok(written(&event)),
                None => Err(WriteError::Io {
                    key: write.key,
                    message: "the data file was reopened after an IO error; the write didn't take place".to_owned(),
                }),
            };
            let _ = answer.send(result);
        }
    }

    /// After a reader found the database unusable.
    pub(super) fn reopen_if_poisoned(&mut self) {
        let usable = {
            let slot = self.shared.slot();
            match &slot.database {
                DatabaseState::Open(database) => {
                    guarded(|| Snapshot::take(database)).is_ok()
                        && guarded(|| Ok(database.begin_write()?.abort()?)).is_ok()
                }
                DatabaseState::Broken(_) | DatabaseState::Closed => false,
            }
        };
        if !usable {
            self.reopen();
        }
    }

    /// Finds out whether a write would be durable now, after one was not: by making one that changes nothing.
    pub(super) fn check(&mut self) {
        self.reopen_if_poisoned();
        // More than the reserve, or the next put would be refused again.
        if self.short_of(RESERVE * 2, RESERVE).is_some() {
            return;
        }
        let result = guarded(|| {
            // Readers begin while it is being committed.
            let transaction = match &self.shared.slot().database {
                DatabaseState::Open(database) => database.begin_write()?,
                DatabaseState::Broken(_) | DatabaseState::Closed => return Err(Fault::Io("it isn't open".to_owned())),
            };
            Batch::open(&transaction, self.revision)?.mark_swept(self.swept)?;
            Ok(transaction.commit()?)
        });
        self.shared.forget_snapshot();
        match result {
            Ok(()) => self.shared.set_trouble(Trouble::None),
            Err(_) => self.reopen(),
        }
    }

    pub(super) fn reopen_if_broken(&mut self) {
        if matches!(self.shared.slot().database, DatabaseState::Broken(_)) {
            self.reopen();
        }
    }

    /// Closes the database and opens it again, which is what redb wants after an IO error. Readers wait meanwhile.
    pub(super) fn reopen(&mut self) {
        let storage = Arc::clone(&self.shared.storage);
        self.shared.forget_snapshot();
        let mut slot = self.shared.slot();
        let name = storage.path().display().to_string();
        let old = std::mem::replace(&mut slot.database, DatabaseState::Broken(format!("{name} is being reopened")));
        let reopened = guarded(|| {
            drop(old);
            let database = open_database(&*storage, self.options.cache_bytes, u64::MAX)?;
            let snapshot = Snapshot::take(&database)?;
            Ok((database, snapshot.revision, snapshot.oldest, snapshot.swept))
        });
        match reopened {
            Ok((database, revision, oldest, swept)) if revision >= self.revision => {
                slot.database = DatabaseState::Open(database);
                drop(slot);
                (self.revision, self.swept) = (revision, swept);
                self.shared.advance(revision);
                if oldest > self.oldest {
                    self.oldest = oldest;
                    self.shared.forgot(oldest);
                }
                lock(&self.shared.metrics).reopened += 1;
                tracing::warn!(file = name, %revision, "reopened the data file after an IO error");
            }
            Ok((_, revision, ..)) => {
                // What was acknowledged is gone: the disk lied, or someone replaced the file.
                let message = format!(
                    "{name} went back from revision {} to {revision}; restore it from a backup and restart",
                    self.revision
                );
                tracing::error!(message);
                slot.database = DatabaseState::Broken(message.clone());
                drop(slot);
                self.shared.set_trouble(Trouble::Failed(message));
            }
            Err(fault) => {
                let message = fault.message();
                tracing::error!(file = name, error = message, "reopening the data file failed");
                slot.database = DatabaseState::Broken(message.clone());
                drop(slot);
                self.shared.set_trouble(Trouble::Failed(message));
            }
        }
    }
}

/// Whether an event is what a write does.
fn made_by(event: &Event, write: &Write) -> bool {
    event.key == write.key
        && match (&write.change, &event.current) {
            (Change::Put(value), Some(current)) => current.value == *value,
            (Change::Delete, None) => true,
            _ => false,
        }
        && match write.expect {
            Expect::Any => true,
            Expect::Absent => event.previous.is_none(),
            Expect::At(revision) => event.previous.as_ref().map(|previous| previous.modified) == Some(revision),
        }
}
