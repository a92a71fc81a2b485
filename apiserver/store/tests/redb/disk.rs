//! Disks that fail when told to, wait until they are let go, or are full.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pullpiri_store::redb::{Options, RedbStore, Storage};
use pullpiri_store::{Expect, Revision, Store as _, Write, WriteError};

use super::{block_on, contents, delete, folder, forever, next_event, put};

/// A file on a disk that fails when told to.
#[derive(Debug)]
struct Flaky {
    path: PathBuf,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Writes and syncs that go well before the next failure; counts down. `u64::MAX`: none fails.
    good: AtomicU64,
    /// Whether the failing sync has taken effect all the same.
    late: std::sync::atomic::AtomicBool,
    reads: std::sync::atomic::AtomicBool,
    /// Before each sync, and before each opening.
    gate: Gate,
}

/// Where the disk stops, once, until it is let go.
#[derive(Debug, Default)]
struct Gate {
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Open,
    Shut,
    /// Somebody stands before it.
    Reached,
    /// Nobody let it go.
    Forgotten,
}

impl Gate {
    fn pass(&self) {
        let mut place = self.place.lock().unwrap();
        if *place != Place::Shut {
            return;
        }
        *place = Place::Reached;
        let waits = |place: &mut Place| *place == Place::Reached;
        let (mut place, waited) = self.changed.wait_timeout_while(place, Duration::from_secs(20), waits).unwrap();
        if waited.timed_out() {
            *place = Place::Forgotten;
        }
    }

    fn set(&self, place: Place) {
        *self.place.lock().unwrap() = place;
        self.changed.notify_all();
    }

    fn is(&self, place: Place) -> bool {
        *self.place.lock().unwrap() == place
    }

    /// Waits until the disk has stopped.
    async fn reached(&self) {
        while self.is(Place::Shut) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[derive(Debug)]
struct FlakyFile {
    inner: ::redb::backends::FileBackend,
    faults: Arc<Faults>,
}

impl Faults {
    fn hit(&self) -> bool {
        let counted = self.good.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |good| match good {
            u64::MAX => None,
            0 => Some(u64::MAX),
            good => Some(good - 1),
        });
        counted == Ok(0)
    }
}

fn broken() -> io::Error {
    io::Error::other("bad sector")
}

impl ::redb::StorageBackend for FlakyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.faults.reads.swap(false, Ordering::SeqCst) { Err(broken()) } else { self.inner.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.faults.hit() { Err(broken()) } else { self.inner.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.gate.pass();
        let hit = self.faults.hit();
        if !hit || self.faults.late.load(Ordering::SeqCst) {
            self.inner.sync_data()?;
        }
        if hit { Err(broken()) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.faults.hit() { Err(broken()) } else { self.inner.write(offset, data) }
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

impl Storage for Flaky {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> io::Result<Box<dyn ::redb::StorageBackend>> {
        self.faults.gate.pass();
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let inner = ::redb::backends::FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(FlakyFile { inner, faults: Arc::clone(&self.faults) }))
    }

    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_io_error_is_answered_truly_and_the_store_goes_on() {
    let folder = folder();
    let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
    let storage = Arc::new(Flaky { path: folder.path().join("store.redb"), faults: Arc::clone(&faults) });
    block_on(async {
        let store = RedbStore::open_on(storage, forever()).unwrap();
        let mut watch = store.watch("", Revision(0)).await.unwrap();
        store.write(put("base", "x")).await.unwrap();
        let mut expected = vec!["base".to_owned()];
        let (mut failed, mut late) = (0, 0);
        for round in 0..60u64 {
            faults.late.store(round % 2 == 0, Ordering::SeqCst);
            faults.good.store(round / 3, Ordering::SeqCst);
            // Some that share a batch, one of them refused.
            let keys: Vec<String> = (0..4).map(|index| format!("k/{round:02}/{index}")).collect();
            let refused = Write { expect: Expect::Absent, ..put("base", "y") };
            let writes = keys.iter().map(|key| store.write(put(key, key.clone())));
            let (answers, _) = futures::future::join(futures::future::join_all(writes), store.write(refused)).await;
            let hit = faults.good.swap(u64::MAX, Ordering::SeqCst) == u64::MAX;
            for (key, answer) in keys.iter().zip(answers) {
                match answer {
                    Ok(_) => {
                        late += usize::from(hit);
                        expected.push(key.clone());
                    }
                    Err(WriteError::Io { .. }) => {
                        assert!(hit, "{key} failed without a fault");
                        failed += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            // Whatever was answered is what there is, at once.
            let found: Vec<String> = contents(&store, None).await.unwrap().into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, expected, "round {round}");
        }
        assert!(failed > 20 && late > 0, "{failed} failed, {late} went well in spite of a fault");
        assert_eq!(store.revision().0, expected.len() as u64, "no failed write used a revision");
        for revision in 1..=expected.len() as u64 {
            assert_eq!(next_event(&mut watch).await, revision);
        }
        assert!(store.metrics().reopened > 5);
        store.write(put("last", "x")).await.unwrap();
        store.health().await.unwrap();
        store.verify().await.unwrap();
    });
}

#[test]
fn a_failed_read_heals() {
    let folder = folder();
    let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
    let storage = Arc::new(Flaky { path: folder.path().join("store.redb"), faults: Arc::clone(&faults) });
    block_on(async {
        // Nothing stays in a cache of this size.
        let store = RedbStore::open_on(storage, Options { cache_bytes: 0, ..forever() }).unwrap();
        for index in 0..50 {
            store.write(put(&format!("k/{index:02}"), "x".repeat(2000))).await.unwrap();
        }
        for _ in 0..3 {
            faults.reads.store(true, Ordering::SeqCst);
            // This one fails, or has been started over.
            let _ = contents(&store, None).await;
            assert!(!faults.reads.load(Ordering::SeqCst), "the fault was hit");
            assert_eq!(contents(&store, None).await.unwrap().len(), 50);
            store.write(put("k/00", "y")).await.unwrap();
        }
        store.health().await.unwrap();
    });
}

#[test]
fn readers_do_not_wait_for_the_check_of_a_disk() {
    let folder = folder();
    let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
    let storage = Arc::new(Flaky { path: folder.path().join("store.redb"), faults: Arc::clone(&faults) });
    block_on(async {
        let store = RedbStore::open_on(storage, forever()).unwrap();
        store.write(put("a", "x")).await.unwrap();
        faults.good.store(0, Ordering::SeqCst);
        store.write(put("b", "x")).await.unwrap_err();
        faults.gate.set(Place::Shut);
        let (health, ()) = futures::future::join(store.health(), async {
            faults.gate.reached().await;
            assert!(faults.gate.is(Place::Reached));
            assert!(store.get("a").await.unwrap().0.is_some());
            assert_eq!(contents(&store, None).await.unwrap().len(), 1);
            let still_there = faults.gate.is(Place::Reached);
            faults.gate.set(Place::Open);
            assert!(still_there, "read while the disk was busy");
        })
        .await;
        health.unwrap();
    });
}

/// With one thread for everything: if a reader held it while the database is being reopened, nobody would open the gate.
#[test]
fn whoever_finds_the_database_unusable_waits_on_no_thread_of_the_runtime() {
    let folder = folder();
    let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
    let storage = Arc::new(Flaky { path: folder.path().join("store.redb"), faults: Arc::clone(&faults) });
    block_on(async {
        let store = RedbStore::open_on(storage, Options { cache_bytes: 0, ..forever() }).unwrap();
        for index in 0..50 {
            store.write(put(&format!("k/{index:02}"), "x".repeat(2000))).await.unwrap();
        }
        faults.gate.set(Place::Shut);
        faults.reads.store(true, Ordering::SeqCst);
        let read = async { while store.get("k/07").await.is_err() {} };
        let let_go = async {
            faults.gate.reached().await;
            let reached = faults.gate.is(Place::Reached);
            faults.gate.set(Place::Open);
            reached
        };
        let ((), reached) = futures::future::join(read, let_go).await;
        assert!(reached, "the reader held the only thread");
        assert!(store.metrics().reopened > 0);
    });
}

/// Runs in a thread whose mounts are its own, with a small file system at `folder`; false when that can't be had.
fn with_small_disk(bytes: u64, check: impl FnOnce(&Path) + Send + 'static) -> bool {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let folder = folder();
    let path = folder.path().to_owned();
    // The threads that the check starts inherit the namespace; it goes with the last of them.
    let thread = std::thread::spawn(move || {
        let none: Option<&str> = None;
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .and_then(|()| {
                mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={bytes}").as_str()))
            });
        if let Err(error) = mounted {
            println!("skipped: mounting a small file system: {error}");
            return false;
        }
        check(&path);
        true
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again() {
    with_small_disk(12 << 20, |folder| {
        block_on(async {
            let path = folder.join("store.redb");
            let store = RedbStore::open(&path, forever()).unwrap();
            let value = Bytes::from(vec![7; 60_000]);
            let mut written = 0;
            let error = loop {
                match store.write(put(&format!("k/{written:04}"), value.clone())).await {
                    Ok(_) => written += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(&error, WriteError::NoSpace { .. }), "{error}");
            let WriteError::NoSpace { room: Some(room), .. } = &error else { panic!("{error:?}") };
            let free = room.free.unwrap();
            // The value twice, and a reserve of a mebibyte.
            assert_eq!(room.needed, (1 << 20) + 2 * (value.len() as u64 + 6));
            assert!(free < room.needed && free > (1 << 20) / 2, "{room:?}");
            let numbers = format!("{} KiB are free, 1142 KiB are needed", free / 1024);
            assert_eq!(
                error.to_string(),
                format!(
                    "no space left for k/{written:04} in {}: {numbers}, of which 1024 KiB stay free for deletions",
                    path.display()
                )
            );
            assert!(written > 40, "{written}");
            let health = store.health().await.unwrap_err();
            assert!(health.contains("no space left") && health.contains(&numbers), "{health}");
            // Readable, and stubborn.
            for _ in 0..20 {
                assert!(matches!(store.write(put("k/0000", value.clone())).await, Err(WriteError::NoSpace { .. })));
                assert_eq!(contents(&store, None).await.unwrap().len(), written);
            }
            // Deletions still work: the reserve is for them.
            store.write(delete("k/0000")).await.unwrap();
            assert_eq!(contents(&store, None).await.unwrap().len(), written - 1);
            // Now someone else takes the rest of the disk.
            let ballast = folder.join("ballast");
            fill(&ballast);
            for index in 0..20 {
                let answer = store.write(delete(&format!("k/{:04}", index + 1))).await;
                if answer.is_err() {
                    assert!(matches!(answer, Err(WriteError::NoSpace { .. })), "{answer:?}");
                }
                contents(&store, None).await.unwrap();
            }
            let left = contents(&store, None).await.unwrap();
            // Reopened on a full disk, it still reads.
            drop(store);
            let store = RedbStore::open(&path, forever()).unwrap();
            assert_eq!(contents(&store, None).await.unwrap(), left);
            assert!(matches!(store.write(put("a", value.clone())).await, Err(WriteError::NoSpace { .. })));
            fs::remove_file(&ballast).unwrap();
            store.compact(store.revision()).await.unwrap();
            // Room comes from what was deleted, once it is swept.
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while store.write(put("a", "there is room")).await.is_err() {
                assert!(std::time::Instant::now() < deadline, "it never becomes writable again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            store.health().await.unwrap();
            store.verify().await.unwrap();
        });
    });
}

#[test]
fn a_new_file_on_a_full_disk_says_how_much_it_takes() {
    with_small_disk(64 << 10, |folder| {
        let path = folder.join("store.redb");
        drop(RedbStore::open(&path, forever()).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(folder.join("ballast"), vec![0; 56 << 10]).unwrap();
        let error = RedbStore::open(&path, forever()).unwrap_err();
        let told = format!("no space left for data file {}: 8 KiB are free, 64 KiB are needed", path.display());
        assert_eq!(error.to_string(), told);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "nothing is left of it");
    });
}

/// Takes what is left of a disk.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// A disk whose free space can't be told beforehand: the writes run into its end.
#[derive(Debug)]
struct Blind(Flaky);

impl Storage for Blind {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> io::Result<Box<dyn ::redb::StorageBackend>> {
        self.0.open()
    }

    fn free(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A disk that says of itself that so many bytes are free.
#[derive(Debug)]
struct Claiming(Flaky, u64);

impl Storage for Claiming {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> io::Result<Box<dyn ::redb::StorageBackend>> {
        self.0.open()
    }

    fn free(&self) -> io::Result<u64> {
        Ok(self.1)
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_large_takes_no_room_from_what_is_small() {
    let folder = folder();
    let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
    let file = Flaky { path: folder.path().join("store.redb"), faults };
    block_on(async {
        let store = RedbStore::open_on(Arc::new(Claiming(file, (1 << 20) + 50_000)), forever()).unwrap();
        let large = Bytes::from(vec![7; 30_000]);
        // Many at once share batches, whatever the writer's pace.
        let writes = (0..100).map(|index| {
            let value = if index % 2 == 0 { large.clone() } else { Bytes::from_static(b"small") };
            store.write(put(&format!("k/{index:04}"), value))
        });
        for (index, answer) in futures::future::join_all(writes).await.into_iter().enumerate() {
            match answer {
                Err(WriteError::NoSpace { room: Some(room), .. }) => {
                    assert!(index % 2 == 0 && room.free == Some((1 << 20) + 50_000), "{index}: {room:?}");
                }
                answer => assert!(index % 2 == 1 && answer.is_ok(), "{index}: {answer:?}"),
            }
        }
        assert_eq!(contents(&store, None).await.unwrap().len(), 50);
    });
}

#[test]
fn a_disk_that_fills_up_under_a_write_leaves_the_store_readable() {
    with_small_disk(6 << 20, |folder| {
        let faults = Arc::new(Faults { good: AtomicU64::new(u64::MAX), ..Faults::default() });
        let storage = Arc::new(Blind(Flaky { path: folder.join("store.redb"), faults }));
        let ballast = folder.join("ballast");
        block_on(async {
            let store = RedbStore::open_on(storage, forever()).unwrap();
            fs::write(&ballast, vec![0; 3 << 20]).unwrap();
            let value = Bytes::from(vec![7; 30_000]);
            let mut written = 0;
            let error = loop {
                match store.write(put(&format!("k/{written:04}"), value.clone())).await {
                    Ok(_) => written += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(&error, WriteError::NoSpace { .. }), "{error}");
            for _ in 0..5 {
                assert_eq!(contents(&store, None).await.unwrap().len(), written);
                assert!(matches!(store.write(put("b", value.clone())).await, Err(WriteError::NoSpace { .. })));
            }
            fs::remove_file(&ballast).unwrap();
            // Nobody has to write for it to be well again.
            store.health().await.unwrap();
            store.write(put("b", value.clone())).await.unwrap();
            assert_eq!(store.revision().0, written as u64 + 1);
            store.health().await.unwrap();
            store.verify().await.unwrap();
        });
    });
}
