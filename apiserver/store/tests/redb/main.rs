//! What only a store on disk has to bear: restarts, damage, other processes; in [`disk`], disks that fail, wait or are full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod disk;

use std::fs;
use std::ops::Range as Span;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use pullpiri_store::clock::ManualClock;
use pullpiri_store::memory::{self, MemoryStore};
use pullpiri_store::redb::{OpenError, Options, RedbStore};
use pullpiri_store::retention::Retention;
use pullpiri_store::{
    Buffers, Change, Expect, Range, ReadError, Revision, Store, WatchError, WatchItem, WatchStream, Write, WriteError,
};
use tempfile::TempDir;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs") })
}

/// In memory where there is such a place: what is tested here needs a file system, not a disk.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn put(key: &str, value: impl Into<Bytes>) -> Write {
    Write { key: key.into(), expect: Expect::Any, change: Change::Put(value.into()) }
}

fn delete(key: &str) -> Write {
    Write { key: key.into(), expect: Expect::Any, change: Change::Delete }
}

fn forever() -> Options {
    Options { retention: Retention::FOREVER, ..Options::default() }
}

async fn contents(store: &dyn Store, at: Option<u64>) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let page = store.list(Range { at: at.map(Revision), ..Range::default() }).await?;
    Ok(page.items.iter().map(|kv| (kv.key.to_string(), kv.value.to_vec())).collect())
}

async fn next_event(watch: &mut WatchStream) -> u64 {
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchItem::Event(event) => return event.revision.0,
            WatchItem::Progress(_) => {}
        }
    }
}

/// A file with some history in it, closed, and what is in it.
async fn some_file(folder: &Path) -> (PathBuf, Vec<(String, Vec<u8>)>) {
    let path = folder.join("store.redb");
    let store = RedbStore::open(&path, forever()).unwrap();
    for index in 0..120u32 {
        let value = format!("{index}:").repeat(1 + (index as usize * 37) % 300);
        store.write(put(&format!("k/{:02}", index % 40), value)).await.unwrap();
    }
    store.write(delete("k/07")).await.unwrap();
    let contents = contents(&store, None).await.unwrap();
    store.close().await;
    (path, contents)
}

#[test]
fn pages_and_watches_go_on_after_a_restart() {
    let folder = folder();
    block_on(async {
        let (path, _) = some_file(folder.path()).await;
        let store = RedbStore::open(&path, forever()).unwrap();
        let first = store.list(Range { limit: Some(10), ..Range::default() }).await.unwrap();
        assert_eq!((first.revision, first.remaining), (Revision(121), Some(29)));
        store.write(put("k/11", "later")).await.unwrap();
        drop(store);
        let store = RedbStore::open(&path, forever()).unwrap();
        let rest = Range {
            after: first.items.last().map(|kv| Arc::clone(&kv.key)),
            at: Some(first.revision),
            ..Range::default()
        };
        let rest = store.list(rest).await.unwrap();
        assert_eq!(rest.items.len(), 29);
        assert!(rest.items.iter().all(|kv| kv.modified <= first.revision));
        let mut watch = store.watch("k/", Revision(100)).await.unwrap();
        for expected in 101..=122 {
            assert_eq!(next_event(&mut watch).await, expected);
        }
        store.verify().await.unwrap();
    });
}

#[test]
fn compaction_survives_a_restart_in_the_middle() {
    let folder = folder();
    block_on(async {
        let (path, expected) = some_file(folder.path()).await;
        for to in [30, 60, 121] {
            let store = RedbStore::open(&path, forever()).unwrap();
            store.compact(Revision(to)).await.unwrap();
            // Not everything is swept by now.
            drop(store);
            let store = RedbStore::open(&path, forever()).unwrap();
            assert_eq!(store.oldest(), Revision(to));
            assert!(matches!(contents(&store, Some(to - 1)).await, Err(ReadError::Compacted { .. })));
            let verified = store.verify().await.unwrap();
            assert_eq!((verified.revision, verified.oldest, verified.keys), (121, to, 39));
            assert_eq!(contents(&store, None).await.unwrap(), expected);
        }
    });
}

#[test]
fn history_is_swept_in_the_background() {
    let folder = folder();
    block_on(async {
        let store = RedbStore::open(folder.path().join("store.redb"), forever()).unwrap();
        let writes = (0..3000).map(|index: u32| store.write(put(&format!("k/{}", index % 7), "x")));
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
        assert_eq!(store.verify().await.unwrap().entries, 3000);
        store.compact(Revision(3000)).await.unwrap();
        loop {
            let verified = store.verify().await.unwrap();
            if verified.entries == 7 && verified.replaced == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(store.revision(), Revision(3000));
    });
}

#[test]
fn history_ages() {
    let clock = Arc::new(ManualClock::default());
    let retention = Retention { age: Some(Duration::from_secs(80)), revisions: Some(50) };
    let folder = folder();
    block_on(async {
        let options = Options { retention, clock: Arc::clone(&clock) as _, ..Options::default() };
        let store = RedbStore::open(folder.path().join("store.redb"), options).unwrap();
        for _ in 0..3 {
            store.write(put("a", "x")).await.unwrap();
        }
        clock.advance(Duration::from_secs(40));
        store.write(put("a", "y")).await.unwrap();
        clock.advance(Duration::from_secs(39));
        store.compact_aged().await.unwrap();
        assert_eq!(store.oldest(), Revision(0));
        clock.advance(Duration::from_secs(2));
        store.compact_aged().await.unwrap();
        // The fourth is only half as old. (The sample after the first is of the third.)
        assert_eq!(store.oldest(), Revision(3));
        clock.advance(Duration::from_secs(80));
        store.compact_aged().await.unwrap();
        assert_eq!(store.oldest(), Revision(4));
        for _ in 0..60 {
            store.write(put("a", "z")).await.unwrap();
        }
        store.compact_aged().await.unwrap();
        assert_eq!(store.oldest(), Revision(14), "a burst is bounded by its count");

        let store = MemoryStore::with(memory::Options {
            retention,
            clock: Arc::clone(&clock) as _,
            ..memory::Options::default()
        });
        for _ in 0..60 {
            store.write(put("a", "x")).await.unwrap();
        }
        assert_eq!(store.oldest(), Revision(10));
        clock.advance(Duration::from_secs(100));
        store.write(put("a", "x")).await.unwrap();
        assert_eq!(store.oldest(), Revision(60));
        assert_eq!(store.metrics().size_bytes, 2);
    });
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let folder = folder();
    block_on(async {
        let path = folder.path().join("store.redb");
        let store = RedbStore::open(&path, forever()).unwrap();
        store.write(put("a", "1")).await.unwrap();
        let error = RedbStore::open(&path, forever()).unwrap_err();
        assert_eq!(error.to_string(), format!("data file {} is in use by another process", path.display()));
        store.write(put("a", "2")).await.unwrap();
        store.close().await;
        let store = RedbStore::open(&path, forever()).unwrap();
        assert_eq!(store.revision(), Revision(2));
    });
}

#[test]
fn closing_writes_what_is_queued_and_ends_everything_else() {
    let folder = folder();
    block_on(async {
        let path = folder.path().join("store.redb");
        let store = Arc::new(RedbStore::open(&path, forever()).unwrap());
        let mut watch = store.watch("", Revision(0)).await.unwrap();
        let keys: Vec<String> = (0..50).map(|index| format!("k/{index:02}")).collect();
        let writes = futures::future::join_all(keys.iter().map(|key| store.write(put(key, "x"))));
        let (written, ()) = futures::future::join(writes, store.close()).await;
        assert!(written.iter().all(Result::is_ok), "they were queued before the close");
        for expected in 1..=50 {
            assert_eq!(next_event(&mut watch).await, expected);
        }
        let end = loop {
            match watch.next().await.unwrap() {
                Ok(WatchItem::Progress(_)) => {}
                Ok(WatchItem::Event(event)) => panic!("{event:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(end, WatchError::Closed));
        assert!(watch.next().await.is_none());
        assert!(matches!(store.write(put("a", "x")).await, Err(WriteError::Closed)));
        assert!(matches!(store.get("a").await, Err(ReadError::Closed)));
        assert!(matches!(store.compact(Revision(1)).await, Err(ReadError::Closed)));
        assert_eq!(store.health().await.unwrap_err(), "the store is closed");
        store.close().await;
        let again = RedbStore::open(&path, forever()).unwrap();
        assert_eq!(contents(&again, None).await.unwrap().len(), 50);
    });
}

#[test]
fn metrics_count_what_happened() {
    let folder = folder();
    block_on(async {
        let buffers = Buffers { queue_events: 2, ring_events: 2, ..Buffers::default() };
        let store = RedbStore::open(folder.path().join("store.redb"), Options { buffers, ..forever() }).unwrap();
        let watch = store.watch("a", Revision(0)).await.unwrap();
        for _ in 0..10 {
            store.write(put("a", "x")).await.unwrap();
        }
        store.write(delete("b")).await.unwrap_err();
        let metrics = store.metrics();
        assert_eq!((metrics.writes, metrics.refused, metrics.failed, metrics.batches), (10, 1, 0, 10));
        assert_eq!((metrics.commit.count, metrics.commit.buckets.iter().sum()), (10, 10));
        assert_eq!((metrics.revision, metrics.oldest, metrics.watchers, metrics.lagged), (10, 0, 1, 1));
        assert!(metrics.size_bytes > 4096 && metrics.commit.sum > Duration::ZERO);
        drop(watch);
        assert_eq!(store.metrics().watchers, 0);
    });
}

/// Opens a damaged file. Refused, it must say so in one sentence and leave the file alone. Opened, all that can be read must be right.
async fn open_damaged(path: &Path, what: &str, options: Options, expected: &[(String, Vec<u8>)]) -> bool {
    let before = fs::read(path).unwrap();
    match RedbStore::open(path, options) {
        Err(error @ OpenError::Corrupt { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with(&format!("data file {} is corrupt: ", path.display())), "{what}: {message}");
            assert!(message.ends_with("; restore it from a backup or remove it"), "{what}: {message}");
            assert!(!message.contains('\n'), "{what}: {message}");
            assert!(fs::read(path).unwrap() == before, "{what}: the file was changed");
            true
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(store) => {
            match contents(&store, None).await {
                Ok(found) => assert!(found == expected, "{what}: it reads as something else"),
                Err(ReadError::Io { message, .. }) => assert!(message.contains("corrupt"), "{what}: {message}"),
                Err(error) => panic!("{what}: {error}"),
            }
            for (key, value) in expected {
                match store.get(key).await {
                    Ok((found, _)) => assert_eq!(found.map(|kv| kv.value.to_vec()).as_ref(), Some(value), "{what}"),
                    Err(ReadError::Io { .. }) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
            // It may work or not; it may not hang or panic.
            let _ = store.write(put("k/00", "after")).await;
            let _ = store.verify().await;
            false
        }
    }
}

#[test]
fn files_that_are_no_stores_are_refused() {
    let folder = folder();
    let path = folder.path().join("store.redb");
    let noise: Vec<u8> = (0..100_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("one byte", vec![b'r']),
        ("text", b"apiVersion: v1\nkind: Namespace\n".repeat(300)),
        ("noise", noise),
        ("zeros", vec![0; 80_000]),
    ];
    block_on(async {
        for (what, bytes) in cases {
            fs::write(&path, bytes).unwrap();
            assert!(open_damaged(&path, what, forever(), &[]).await, "{what} was opened");
        }
    });
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"], "nothing is left beside it");
}

#[test]
fn truncated_files_are_refused() {
    let folder = folder();
    block_on(async {
        let (path, expected) = some_file(folder.path()).await;
        let whole = fs::read(&path).unwrap();
        let length = whole.len();
        for left in
            [1, 63, 64, 320, 511, 4095, 4096, 8192, length / 4, length / 2, length * 3 / 4, length - 4096, length - 1]
        {
            for check_up_to in [0, u64::MAX] {
                fs::write(&path, &whole[..left]).unwrap();
                let what = format!("cut to {left} of {length}, checked up to {check_up_to}");
                assert!(open_damaged(&path, &what, Options { check_up_to, ..forever() }, &expected).await, "{what}");
            }
        }
    });
}

/// Flips bytes all over a file, one or a run at a time.
fn flip(whole: &[u8], spans: impl Iterator<Item = Span<usize>>, check_up_to: u64) -> (usize, usize) {
    let folder = folder();
    let path = folder.path().join("store.redb");
    let (mut refused, mut all) = (0, 0);
    block_on(async {
        fs::write(&path, whole).unwrap();
        let store = RedbStore::open(&path, forever()).unwrap();
        let expected = contents(&store, None).await.unwrap();
        drop(store);
        for span in spans {
            let mut bytes = whole.to_vec();
            for byte in &mut bytes[span.clone()] {
                *byte ^= 0x5a;
            }
            fs::write(&path, bytes).unwrap();
            let what = format!("flipped {span:?} of {}, checked up to {check_up_to}", whole.len());
            let options = Options { check_up_to, ..forever() };
            refused += usize::from(open_damaged(&path, &what, options, &expected).await);
            all += 1;
        }
    });
    (refused, all)
}

fn closed_file() -> Vec<u8> {
    let folder = folder();
    let (path, _) = block_on(some_file(folder.path()));
    fs::read(path).unwrap()
}

#[test]
fn a_flipped_byte_anywhere_is_found_at_the_open_or_harmless() {
    let whole = closed_file();
    let step = (whole.len() / 120).max(1);
    let header = (0..320).step_by(13).map(|at| at..at + 1);
    let body = (0..120).map(|index| index * step + index % 64).map(|at| at..at + 1);
    let (refused, all) = flip(&whole, header.chain(body), u64::MAX);
    assert!(refused > all / 10, "{refused} of {all} were found");
}

#[test]
fn damage_that_the_open_doesnt_look_for_never_reads_as_something_else() {
    let whole = closed_file();
    let step = whole.len() / 60;
    let spans = (0..60).map(|index| index * step..(index * step + 1 + index * 7).min(whole.len()));
    flip(&whole, spans, 0);
}

#[test]
fn another_format_is_named() {
    let folder = folder();
    let path = folder.path().join("store.redb");
    drop(RedbStore::open(&path, forever()).unwrap());
    let database = ::redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(::redb::TableDefinition::<&str, u64>::new("meta")).unwrap();
        meta.insert("format", 2).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let error = RedbStore::open(&path, forever()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "data file {} has format 2, this version reads 1; use the version that wrote it or restore a backup",
            path.display()
        )
    );
}

#[test]
fn a_missing_folder_is_named() {
    let folder = folder();
    let path = folder.path().join("no/such/store.redb");
    let error = RedbStore::open(&path, forever()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("opening data file {}: ", path.display())), "{error}");
}
