//! Power cuts, simulated: a disk that forgets what was not synced, and a run that cuts the power under load and checks what is left.
//!
//! The disk holds what a sync made durable, and beside it every later write, split into sectors. When the power goes, each of those
//! sectors is left with any one of its versions since the last sync, the old one included, independently of the others; and the length of the
//! file is any one it had. So writes appear to be reordered, torn and lost as a disk's cache may do it, but what was synced stays. A
//! sector is written whole or not at all.
//!
//! After each cut the store is opened on what is left, and checked: every acknowledged write is there with its revision and value, every
//! other one is whole or absent, revisions are dense and the tables agree ([`RedbStore::verify`]).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use redb::StorageBackend;

use crate::redb::{Options, RedbStore, Storage};
use crate::retention::Retention;
use crate::{Change, Event, Expect, Revision, Store as _, WatchItem, Write, WriteError};

/// What a disk writes at once, in bytes.
const SECTOR: usize = 512;

/// A small generator (xorshift), so that a seed names a run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Spread, because neighbouring seeds begin alike, and never 0, which would stay 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11).checked_rem(limit).unwrap_or(0)
    }
}

/// A disk with one file on it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the file reads as while the power is on.
    now: Vec<u8>,
    durable: Vec<u8>,
    /// The versions since the last sync of each sector, by number.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The lengths since the last sync.
    lengths: Vec<usize>,
    /// Changes and syncs until the power goes; `None`: it stays.
    left: Option<u64>,
    at: At,
    hit: Hit,
    off: bool,
}

/// What becomes of the operation during which the power goes. Whoever asked for it doesn't learn it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hit {
    #[default]
    Lost,
    Done,
}

/// Which operation the power goes with, once it is time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    #[default]
    Any,
    /// The next sync: the moment that decides.
    Sync,
}

impl State {
    /// Counts an operation that a power cut may hit. Whether it still takes effect, and what is to be answered.
    fn tick(&mut self, is: At) -> io::Result<io::Result<()>> {
        self.powered()?;
        if let Some(left) = &mut self.left
            && (*left > 1 || self.at == At::Any || is == At::Sync)
        {
            *left = left.saturating_sub(1);
            self.off |= *left == 0;
        }
        let answer = self.powered();
        if self.hit == Hit::Done { Ok(answer) } else { answer.map(Ok) }
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }
}

fn beyond() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the file")
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power will go with the `operations`th change or sync from now on, or with the first sync after it.
    pub fn cut_after(&self, operations: u64, at: At, hit: Hit) {
        let mut state = self.lock();
        state.left = Some(operations.max(1));
        state.at = at;
        state.hit = hit;
    }

    /// Cuts the power now, if it is still on, and switches it on again: what is left of the file.
    #[must_use]
    pub fn restart(&self, random: &mut Random) -> Self {
        let mut state = self.lock();
        state.off = true;
        let mut left = state.durable.clone();
        // Some cuts lose everything, some nothing, most something.
        let keep = [0, 100, 50, 10, 90].get(usize::try_from(random.below(5)).unwrap_or(0)).copied().unwrap_or(50);
        let pick = usize::try_from(random.below(u64::try_from(state.lengths.len() + 1).unwrap_or(1))).unwrap_or(0);
        if keep == 100 {
            left.resize(state.now.len(), 0);
        } else if let Some(length) = pick.checked_sub(1).and_then(|index| state.lengths.get(index)) {
            left.resize(*length, 0);
        }
        for (number, versions) in &state.unsynced {
            if random.below(100) >= keep {
                continue;
            }
            let newest = u64::try_from(versions.len()).unwrap_or(1);
            let version = if keep == 100 { newest - 1 } else { random.below(newest) };
            let version = usize::try_from(version).unwrap_or(0);
            let start = number * SECTOR;
            if let (Some(version), Some(rest)) = (versions.get(version), left.get_mut(start..)) {
                let length = version.len().min(rest.len());
                rest.iter_mut().zip(version.iter().take(length)).for_each(|(byte, new)| *byte = *new);
            }
        }
        let state = State { now: left.clone(), durable: left, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        let state = self.lock();
        state.powered()?;
        u64::try_from(state.now.len()).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        state.powered()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        out.copy_from_slice(state.now.get(start..start + out.len()).ok_or_else(beyond)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let answer = state.tick(At::Any)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.now.resize(len, 0);
        state.lengths.push(len);
        answer
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        let answer = state.tick(At::Sync)?;
        let State { now, durable, unsynced, lengths, .. } = &mut *state;
        durable.resize(now.len(), 0);
        for number in std::mem::take(unsynced).into_keys() {
            let start = number * SECTOR;
            let end = (start + SECTOR).min(now.len());
            if let (Some(new), Some(old)) = (now.get(start..end), durable.get_mut(start..end)) {
                old.copy_from_slice(new);
            }
        }
        lengths.clear();
        answer
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let answer = state.tick(At::Any)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let State { now, unsynced, .. } = &mut *state;
        now.get_mut(start..start + data.len()).ok_or_else(beyond)?.copy_from_slice(data);
        for number in start / SECTOR..(start + data.len()).div_ceil(SECTOR) {
            let from = number * SECTOR;
            let sector = now.get(from..(from + SECTOR).min(now.len())).unwrap_or_default();
            unsynced.entry(number).or_default().push(sector.to_vec());
        }
        answer
    }
}

impl Storage for Disk {
    fn path(&self) -> &Path {
        Path::new("simulated disk")
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.lock().powered()?;
        Ok(Box::new(self.clone()))
    }

    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub cuts: u64,
    /// Writes that were acknowledged before a cut, and found after it.
    pub acknowledged: u64,
    /// Writes that were not acknowledged but had become durable, whole.
    pub unacknowledged_kept: u64,
    /// The most changes a disk had pending when it was cut, in sectors.
    pub most_unsynced: u64,
}

/// What was written between two cuts.
#[derive(Debug, Default)]
struct Written {
    acknowledged: BTreeMap<u64, (String, Option<Vec<u8>>)>,
    /// Begun and not answered.
    begun: BTreeMap<u64, (String, Option<Vec<u8>>)>,
}

const WRITERS: u64 = 8;
const KEYS: u64 = 24;

/// Cuts the power `cuts` times under load, and checks after each.
///
/// # Errors
/// What was lost or broken, and at which cut.
pub fn run(cuts: u64, seed: u64) -> Result<Summary, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("starting a runtime: {error}"))?;
    runtime.block_on(async {
        let mut random = Random::new(seed);
        let mut summary = Summary::default();
        let mut disk = Disk::default();
        for cut in 0..cuts {
            // Mostly a disk that has been through cuts before.
            if cut % 16 == 0 {
                disk = Disk::default();
                let store = open(&disk, Retention::FOREVER)?;
                store.close().await;
            }
            disk = one(&disk, &mut random, &mut summary)
                .await
                .map_err(|error| format!("seed {seed}, cut {cut}: {error}"))?;
            summary.cuts += 1;
        }
        Ok(summary)
    })
}

fn open(disk: &Disk, retention: Retention) -> Result<RedbStore, String> {
    // A small cache makes redb write back early, between the syncs.
    let options = Options { retention, cache_bytes: 64 << 10, ..Options::default() };
    RedbStore::open_on(Arc::new(disk.clone()), options).map_err(|error| error.to_string())
}

async fn one(disk: &Disk, random: &mut Random, summary: &mut Summary) -> Result<Disk, String> {
    let retention = Retention { age: None, revisions: (random.below(2) == 0).then(|| 20 + random.below(100)) };
    let store = Arc::new(open(disk, retention)?);
    let before = current(&store).await?;
    let hit = if random.below(2) == 0 { Hit::Lost } else { Hit::Done };
    let at = if random.below(2) == 0 { At::Any } else { At::Sync };
    disk.cut_after(1 + random.below(400), at, hit);
    let written = load(&store, random).await;
    summary.most_unsynced = summary.most_unsynced.max(u64::try_from(disk.lock().unsynced.len()).unwrap_or(u64::MAX));
    drop(store);
    let left = disk.restart(random);

    let store = open(&left, retention)?;
    store.verify().await.map_err(|error| error.to_string())?;
    compare(&store, before, &written, summary).await?;
    store.close().await;
    Ok(left)
}

type Contents = BTreeMap<String, (u64, Vec<u8>)>;

async fn current(store: &RedbStore) -> Result<(u64, Contents), String> {
    let page = store.list(crate::Range::default()).await.map_err(|error| error.to_string())?;
    let items = page.items.iter().map(|kv| (kv.key.to_string(), (kv.modified.0, kv.value.to_vec())));
    Ok((page.revision.0, items.collect()))
}

/// Writes until the power goes.
async fn load(store: &Arc<RedbStore>, random: &mut Random) -> Written {
    let written = Arc::new(Mutex::new(Written::default()));
    let next = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (store, written, next) = (Arc::clone(store), Arc::clone(&written), Arc::clone(&next));
        let mut random = Random::new(random.below(u64::MAX) ^ writer);
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let key = format!("k/{:02}", random.below(KEYS));
                let value = (random.below(6) != 0).then(|| {
                    let length = usize::try_from(random.below(3000)).unwrap_or(0);
                    format!("{number};").into_bytes().into_iter().cycle().take(length).collect::<Vec<u8>>()
                });
                let content = (key.clone(), value.clone());
                let lock = || written.lock().unwrap_or_else(PoisonError::into_inner);
                lock().begun.insert(number, content.clone());
                let change = value.map_or(Change::Delete, |value| Change::Put(Bytes::from(value)));
                match store.write(Write { key: key.into(), expect: Expect::Any, change }).await {
                    Ok(done) => {
                        let mut written = lock();
                        written.begun.remove(&number);
                        written.acknowledged.insert(done.modified.0, content);
                    }
                    Err(WriteError::Mismatch { .. }) => {
                        lock().begun.remove(&number);
                    }
                    // The power is off.
                    Err(_) => return,
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *written)
}

/// Compares what is on the disk with what was written since `before`.
async fn compare(
    store: &RedbStore,
    before: (u64, Contents),
    written: &Written,
    summary: &mut Summary,
) -> Result<(), String> {
    let (start, mut contents) = before;
    let (revision, found) = current(store).await?;
    let last = written.acknowledged.keys().next_back().copied().unwrap_or(start);
    if revision < last {
        return Err(format!("revision {last} was acknowledged, the store is at {revision}"));
    }
    let oldest = store.oldest().0.max(start);
    let log = events(store, oldest, revision).await?;
    for at in start + 1..=revision {
        let acknowledged = written.acknowledged.get(&at);
        let content = match (acknowledged, log.get(&at)) {
            (acknowledged, Some(event)) => {
                let value = event.current.as_ref().map(|kv| kv.value.to_vec());
                let content = (event.key.to_string(), value);
                match acknowledged {
                    Some(expected) if *expected == content => summary.acknowledged += 1,
                    Some(_) => return Err(format!("revision {at} isn't what was acknowledged")),
                    None if written.begun.values().any(|begun| *begun == content) => summary.unacknowledged_kept += 1,
                    None => return Err(format!("revision {at} is of a write that nobody made")),
                }
                content
            }
            // Compacted.
            (Some(content), None) if at <= oldest => content.clone(),
            (None, None) if at <= oldest => return Err(format!("revision {at} was compacted but never acknowledged")),
            (_, None) => return Err(format!("revision {at} is not in the log")),
        };
        match content {
            (key, Some(value)) => contents.insert(key, (at, value)),
            (key, None) => contents.remove(&key),
        };
    }
    if contents != found {
        return Err("the current versions aren't what the history leads to".to_owned());
    }
    Ok(())
}

async fn events(store: &RedbStore, from: u64, to: u64) -> Result<BTreeMap<u64, Arc<Event>>, String> {
    let mut events = BTreeMap::new();
    let mut watch = store.watch("", Revision(from)).await.map_err(|error| error.to_string())?;
    while let Some(item) = watch.next().await {
        match item.map_err(|error| error.to_string())? {
            WatchItem::Event(event) => events.insert(event.revision.0, event),
            WatchItem::Progress(Revision(reached)) if reached >= to => break,
            WatchItem::Progress(_) => None,
        };
    }
    Ok(events)
}
