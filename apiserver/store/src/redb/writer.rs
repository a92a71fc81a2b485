//! The one thread that changes the data file.
//!
//! It drains the queue, applies everything it found there in one transaction and makes that durable with one fsync, so the
//! more writers wait, the fewer fsyncs each costs. Then, in this order: readers see the commit, watches are told, writers are answered.
//! Compaction rides along in steps, so that it never holds up a batch for long.
//!
//! What it does when the disk fails is in [`recovery`].

mod recovery;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use redb::Durability;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::recovery::RESERVE_FOR_DELETIONS;
use super::batch::{Batch, Outcome};
use super::error::{Fault, guarded};
use super::shared::{DatabaseState, Shared, Trouble, lock};
use super::{Message, Options};
use crate::memory::written;
use crate::retention::Ages;
use crate::{Change, Event, KeyValue, Write, WriteError};

/// A batch ends at so many writes, or so many bytes of values: it bounds how long the first of them waits.
const BATCH_WRITES: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// Revisions swept per batch at least; twice the batch if that is more, so that compaction keeps pace.
const SWEEP_MIN: usize = 64;
/// Revisions swept at once when nobody waits.
const SWEEP_IDLE: usize = 512;

/// How long to wait before trying again to open a file that couldn't be reopened.
const RETRY: Duration = Duration::from_secs(1);

/// The longest wait for writers that are about to come back.
const LINGER_MAX: Duration = Duration::from_millis(2);

/// A write that waits for its turn.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<KeyValue, WriteError>>,
    /// Its share of the queue, given back when it is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Message>,
    options: Options,
    ages: Ages,
    revision: u64,
    oldest: u64,
    swept: u64,
    /// Where `oldest` has been asked to go, and who waits for it.
    compact_to: u64,
    compactions: Vec<(u64, CompactionAnswer)>,
    closing: Option<Option<oneshot::Sender<()>>>,
    /// A write hit a full disk although there seemed to be room.
    suspicious: bool,
    pace: Pace,
}

/// When to wait a little for more writes. Without it, writers that each wait for their answer fall into two camps, one in the
/// queue while the other is being committed, and every fsync serves only half of them.
#[derive(Debug, Default)]
struct Pace {
    /// How many writers there seem to be: those who were answered last, and those who were waiting then.
    writers: usize,
    /// What a commit takes, averaged over the last few.
    commit: Duration,
}

impl Pace {
    fn record(&mut self, writers: usize, commit: Duration) {
        self.writers = writers;
        self.commit = (self.commit * 7 + commit) / 8;
    }

    /// How long to wait for more at most, when `waited` went by until the first write came.
    fn patience(&self, waited: Duration) -> Duration {
        // Whoever was answered that long ago has something else to do.
        if waited > self.commit { Duration::ZERO } else { (self.commit / 4).min(LINGER_MAX) }
    }
}

/// Closes the store when the writer thread dies of a panic.
struct Bereaved(Arc<Shared>);

impl Drop for Bereaved {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .set_trouble(Trouble::Damaged("its writer thread stopped by a panic; restart the process".to_owned()));
            self.0.slot().database = DatabaseState::Closed;
            self.0.forget_snapshot();
            self.0.hub.close();
        }
    }
}

/// What a committed batch did.
struct Committed {
    outcomes: Vec<Outcome>,
    revision: u64,
    oldest: u64,
    swept: u64,
    /// How long the disk took; `None` when there was nothing to write.
    took: Option<Duration>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, queue: Receiver<Message>, options: Options, swept: u64) -> Self {
        let (revision, oldest) = (shared.revision(), shared.oldest());
        let mut ages = Ages::new(options.retention);
        ages.note(options.clock.now(), revision);
        Self {
            shared,
            queue,
            options,
            ages,
            revision,
            oldest,
            swept,
            compact_to: oldest,
            compactions: Vec::new(),
            closing: None,
            suspicious: false,
            pace: Pace::default(),
        }
    }

    pub(super) fn run(mut self) {
        // If this thread should ever panic, whoever waits must learn that nothing will come.
        let _bereaved = Bereaved(Arc::clone(&self.shared));
        let mut batch = Vec::new();
        loop {
            self.collect(&mut batch);
            self.age();
            let idle = batch.is_empty();
            if !idle || self.compact_to > self.oldest || self.swept < self.oldest {
                self.turn(&mut batch);
            }
            self.answer_compactions();
            if let Some(closed) = self.closing.take() {
                return self.close(closed);
            }
        }
    }

    fn age(&mut self) {
        let horizon = self.ages.horizon(self.options.clock.now(), self.revision);
        self.compact_to = self.compact_to.max(horizon);
    }

    /// How long there is nothing to do but to wait for a message; `None`: forever.
    fn patience(&self) -> Option<Duration> {
        if matches!(self.shared.slot().database, DatabaseState::Broken(_)) {
            return Some(RETRY);
        }
        if self.compact_to > self.oldest || self.swept < self.oldest {
            // After a failure it waits, else it goes on at once.
            return Some(if self.shared.trouble().is_some() { RETRY } else { Duration::ZERO });
        }
        self.ages.due().map(|due| due.saturating_sub(self.options.clock.now()))
    }

    /// Waits for something to do and takes all there is, up to a batch.
    fn collect(&mut self, batch: &mut Vec<Request>) {
        let idle_since = self.options.clock.now();
        let first = match self.patience() {
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => self.queue.recv_timeout(patience),
        };
        let mut next = first;
        let mut bytes = 0;
        let mut deadline = None;
        loop {
            match next {
                Ok(message) => bytes += self.take(message, batch),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.closing = Some(None),
            }
            if self.closing.is_some() || batch.len() >= BATCH_WRITES || bytes >= BATCH_BYTES {
                return;
            }
            next = match self.queue.try_recv() {
                Ok(message) => Ok(message),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {
                    let now = self.options.clock.now();
                    let deadline =
                        *deadline.get_or_insert_with(|| now + self.pace.patience(now.saturating_sub(idle_since)));
                    let left = deadline.saturating_sub(now);
                    if batch.is_empty() || batch.len() >= self.pace.writers || left.is_zero() {
                        return;
                    }
                    self.queue.recv_timeout(left)
                }
            };
        }
    }

    /// Takes in a message; the bytes it adds to the batch.
    fn take(&mut self, message: Message, batch: &mut Vec<Request>) -> usize {
        match message {
            Message::Write(request) => {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                let bytes = size(&request.write);
                batch.push(request);
                return bytes;
            }
            Message::Compact(to, answer) => {
                self.compact_to = self.compact_to.max(to);
                self.compactions.push((to, answer));
            }
            Message::Reopen(_done) => self.reopen_if_poisoned(),
            Message::Check(answer) => {
                self.check();
                let _ = answer.send(());
            }
            Message::Tick(answer) => {
                self.age();
                self.compactions.push((self.compact_to, answer));
            }
            Message::Close(answer) => self.closing = Some(Some(answer)),
        }
        0
    }

    /// One batch, from the queue to the answers.
    fn turn(&mut self, batch: &mut Vec<Request>) {
        self.reopen_if_broken();
        let all_fit = self.refuse_without_room(batch);
        if batch.is_empty() && self.short_of(RESERVE_FOR_DELETIONS, 0).is_some() {
            // Compaction needs a few pages before it frees any.
            self.fail(batch, &Fault::NoSpace);
            return;
        }
        let before = self.revision;
        match guarded(|| self.transact(batch)) {
            Ok(committed) => self.succeed(batch, committed, all_fit),
            Err(fault) => {
                tracing::error!(
                    file = %self.shared.storage.path().display(), error = fault.message(), writes = batch.len(),
                    "a batch of writes failed"
                );
                self.reopen();
                if self.revision > before {
                    // The disk failed after the point of no return: everything is there.
                    self.answer_from_disk(batch, before);
                } else {
                    self.fail(batch, &fault);
                }
            }
        }
    }

    fn answer_compactions(&mut self) {
        let oldest = self.oldest;
        for (_, answer) in self.compactions.extract_if(.., |(to, _)| *to <= oldest) {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(Ok(()));
        }
    }

    fn transact(&self, batch: &[Request]) -> Result<Committed, Fault> {
        self.shared.forget_snapshot();
        let mut transaction = match &self.shared.slot().database {
            DatabaseState::Open(database) => database.begin_write()?,
            DatabaseState::Broken(message) => return Err(Fault::Io(message.clone())),
            DatabaseState::Closed => return Err(Fault::Io("the store is closed".to_owned())),
        };
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|error| Fault::Io(format!("asking for durability: {error}")))?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut tables = Batch::open(&transaction, self.revision)?;
        for request in batch {
            outcomes.push(tables.apply(&request.write)?);
        }
        let oldest = self.compact_to.max(self.oldest);
        if oldest > self.oldest {
            tables.forget_before(oldest)?;
        }
        let mut swept = self.swept;
        if swept < oldest {
            let limit = if batch.is_empty() { SWEEP_IDLE } else { SWEEP_MIN.max(batch.len().saturating_mul(2)) };
            swept = tables.sweep(swept, oldest, limit)?;
        }
        let revision = tables.revision;
        drop(tables);
        let wrote = revision > self.revision || oldest > self.oldest || swept > self.swept;
        let start = self.options.clock.now();
        if wrote {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        let took = self.options.clock.now().saturating_sub(start);
        Ok(Committed { outcomes, revision, oldest, swept, took: wrote.then_some(took) })
    }

    /// `all_fit`: no write was refused for want of room.
    fn succeed(&mut self, batch: &mut Vec<Request>, committed: Committed, all_fit: bool) {
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        for (request, outcome) in batch.drain(..).zip(committed.outcomes) {
            let Request { write, answer, _room } = request;
            let result = match outcome {
                Outcome::Done(event) => {
                    let result = written(&event);
                    events.push(event);
                    Ok(result)
                }
                Outcome::Refused(current) => {
                    Err(WriteError::Mismatch { key: write.key, expected: write.expect, current })
                }
                Outcome::TooLarge => Err(WriteError::Io {
                    key: write.key,
                    message: "key and value are too long; at most 1 GiB together fits".to_owned(),
                }),
            };
            answers.push((answer, result, _room));
        }
        self.revision = committed.revision;
        self.swept = committed.swept;
        self.shared.advance(committed.revision);
        if committed.oldest > self.oldest {
            self.oldest = committed.oldest;
            self.shared.forgot(committed.oldest);
        }
        if let Some(took) = committed.took {
            let waiting = self.shared.waiting.load(Ordering::Relaxed);
            self.pace.record(answers.len().saturating_add(waiting), took);
            self.shared.forget_snapshot();
            self.ages.note(self.options.clock.now(), self.revision);
            if all_fit {
                self.suspicious = false;
                self.shared.set_trouble(Trouble::None);
            }
        }
        {
            let mut metrics = lock(&self.shared.metrics);
            let (written, all) = (count(events.len()), count(answers.len()));
            metrics.writes += written;
            metrics.refused += all.saturating_sub(written);
            if let Some(took) = committed.took {
                metrics.batches += 1;
                metrics.commit.record(took);
            }
        }
        self.shared.hub.publish(&events);
        for (answer, result, _room) in answers {
            // A writer that no longer waits has its write all the same.
            let _ = answer.send(result);
        }
    }

    fn close(self, closed: Option<oneshot::Sender<()>>) {
        let old = {
            let mut slot = self.shared.slot();
            std::mem::replace(&mut slot.database, DatabaseState::Closed)
        };
        self.shared.forget_snapshot();
        self.shared.set_trouble(Trouble::Closed);
        self.shared.hub.close();
        if let DatabaseState::Open(database) = old
            && let Err(fault) = guarded(|| Ok(database.close()?))
        {
            // Everything acknowledged is durable all the same; the next open takes longer.
            tracing::warn!(file = %self.shared.storage.path().display(), error = fault.message(), "closing the data file failed");
        }
        // Free the queue first, so that those who are still waiting in it learn it.
        drop(self.queue);
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }
}

fn size(write: &Write) -> usize {
    let value = match &write.change {
        Change::Put(value) => value.len(),
        Change::Delete => 0,
    };
    write.key.len().saturating_add(value)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Where a compaction's end is reported.
pub(super) type CompactionAnswer = oneshot::Sender<Result<(), Fault>>;
/// Dropped when the reopening is over.
pub(super) type Reopened = Sender<()>;
