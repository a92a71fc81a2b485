//! Kills a store under load, again and again, and checks each time that nothing acknowledged is lost: `kill9 [rounds] [seed]`.
//!
//! The child (`kill9 child <file> <round>`) writes with many writers and reports every acknowledged write on its stdout. The parent
//! kills it at a random moment, opens the file, and compares. Prints one JSON line with the number of rounds survived.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use pullpiri_store::redb::{Options, RedbStore};
use pullpiri_store::retention::Retention;
use pullpiri_store::{Change, Expect, Range, Revision, Store as _, WatchItem, Write};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WRITERS: u64 = 16;

/// What a writer puts: it can be told whole from half.
fn value(writer: u64, round: u64, count: u64) -> Vec<u8> {
    let name = format!("{writer}/{round}/{count};");
    let length = 100 + usize::try_from((writer * 131 + count * 17) % 3000).unwrap_or(0);
    name.bytes().cycle().take(length).collect()
}

fn options() -> Options {
    Options { retention: Retention { age: None, revisions: Some(500) }, ..Options::default() }
}

/// Each writer creates, updates and deletes keys of its own, in an order that the parent can recompute.
async fn child(path: &Path, round: u64) -> Result<(), Failure> {
    let store = Arc::new(RedbStore::open(path, options())?);
    // A whole line at once, so that a kill can't tear it.
    let say = |line: String| std::io::stdout().write_all(line.as_bytes());
    say("ready\n".to_owned())?;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for count in 0u64.. {
                let key = format!("k/{writer}/{}", count % 20);
                let change =
                    if count % 7 == 6 { Change::Delete } else { Change::Put(Bytes::from(value(writer, round, count))) };
                let deleted = change == Change::Delete;
                match store.write(Write { key: key.clone().into(), expect: Expect::Any, change }).await {
                    Ok(written) => say(format!("{} {key} {deleted} {count} {writer}\n", written.modified))?,
                    // There was nothing to delete.
                    Err(pullpiri_store::WriteError::Mismatch { .. }) => {}
                    Err(error) => return Err(Failure::from(error)),
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Kills the child when the test ends early.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small generator, so that a seed names a run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The last acknowledged write of a key: its revision, and its value unless it was a deletion.
type Acknowledged = HashMap<String, (u64, Option<Vec<u8>>)>;

async fn round(path: &Path, round: u64, random: &mut Random, acknowledged: &mut Acknowledged) -> Result<u64, Failure> {
    let child = Command::new(std::env::current_exe()?)
        .args(["child", &path.to_string_lossy(), &round.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Guard(child);
    let stdout = child.0.stdout.take().ok_or("the child has no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    if lines.next().transpose()?.as_deref() != Some("ready") {
        return Err("the child didn't start".into());
    }
    let after = Duration::from_micros(500 + random.below(120_000));
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        child.0.kill()
    });
    let mut newest = 0;
    for line in lines {
        let line = line?;
        let fields: Vec<&str> = line.split(' ').collect();
        let [revision, key, deleted, count, writer] = fields.as_slice() else {
            return Err(format!("the child said {line:?}").into());
        };
        let revision: u64 = revision.parse()?;
        let value = (*deleted == "false")
            .then(|| Ok::<_, Failure>(value(writer.parse()?, round, count.parse()?)))
            .transpose()?;
        newest = newest.max(revision);
        let entry = acknowledged.entry((*key).to_owned()).or_default();
        if revision > entry.0 {
            *entry = (revision, value);
        }
    }
    killer.join().map_err(|_| "the killer panicked")??;
    check(path, round, newest, acknowledged).await?;
    Ok(newest)
}

async fn check(path: &Path, round: u64, newest: u64, acknowledged: &mut Acknowledged) -> Result<(), Failure> {
    let store = RedbStore::open(path, options())?;
    store.verify().await?;
    if store.revision() < Revision(newest) {
        return Err(format!("acknowledged {newest}, found {}", store.revision()).into());
    }
    let found = store.list(Range::default()).await?;
    let mut present: HashMap<String, (u64, Option<Vec<u8>>)> =
        found.items.iter().map(|kv| (kv.key.to_string(), (kv.modified.0, Some(kv.value.to_vec())))).collect();
    for (key, (revision, value)) in acknowledged.iter_mut() {
        match present.remove(key) {
            Some((found, bytes)) if found == *revision && bytes == *value => {}
            // Written, but killed before it said so: whole, and from then on as good as acknowledged.
            Some((found, bytes)) if found > *revision && whole(key, round, bytes.as_deref()) => {
                (*revision, *value) = (found, bytes)
            }
            None if value.is_none() => {}
            // Deleted, but killed before it said so: then the log has the deletion.
            None => match deletion(&store, key, *revision).await? {
                Some(deleted) => (*revision, *value) = (deleted, None),
                None => return Err(format!("{key}: acknowledged {revision}, lost").into()),
            },
            Some((found, _)) => {
                return Err(format!("{key}: acknowledged {revision}, found another version, {found}").into());
            }
        }
    }
    for (key, (revision, bytes)) in present {
        if !whole(&key, round, bytes.as_deref()) {
            return Err(format!("{key}: half a value at {revision}").into());
        }
        acknowledged.insert(key, (revision, bytes));
    }
    store.close().await;
    Ok(())
}

/// The revision after `from` at which a key was deleted.
async fn deletion(store: &RedbStore, key: &str, from: u64) -> Result<Option<u64>, Failure> {
    let mut watch = store.watch(key, store.oldest().max(Revision(from))).await?;
    while let Some(item) = watch.next().await {
        match item? {
            WatchItem::Event(event) if *event.key == *key && event.current.is_none() => {
                return Ok(Some(event.revision.0));
            }
            WatchItem::Event(_) => {}
            // That was all there is.
            WatchItem::Progress(_) => break,
        }
    }
    Ok(None)
}

/// Whether a value is one that a writer of this round put under this key.
fn whole(key: &str, round: u64, bytes: Option<&[u8]>) -> bool {
    let Some(bytes) = bytes else { return false };
    let name =
        bytes.split(|byte| *byte == b';').next().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
    let numbers: Vec<u64> = name.split('/').filter_map(|number| number.parse().ok()).collect();
    let [writer, of, count] = numbers.as_slice() else { return false };
    *of == round && *key == format!("k/{writer}/{}", count % 20) && bytes == value(*writer, *of, *count)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, path, round] = arguments.as_slice()
        && mode == "child"
    {
        return child(Path::new(path), round.parse()?).await;
    }
    let rounds: u64 = arguments.first().map_or(Ok(10), |rounds| rounds.parse())?;
    let mut random = Random(arguments.get(1).map_or(Ok(0x5eed), |seed| seed.parse())?);
    let folder = std::env::temp_dir().join(format!("pullpiri-kill9-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("store.redb");
    let mut acknowledged = Acknowledged::new();
    let mut writes = 0;
    for number in 0..rounds {
        writes = round(&path, number, &mut random, &mut acknowledged)
            .await
            .map_err(|failure| format!("round {number}: {failure}; the file is {}", path.display()))?
            .max(writes);
    }
    std::fs::remove_dir_all(&folder)?;
    println!("{{\"name\":\"store_kill9_rounds_without_loss\",\"value\":{rounds},\"acknowledged_writes\":{writes}}}");
    Ok(())
}
