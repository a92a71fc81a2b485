//! How fast the store on disk is: `throughput [writers] [writes] [value bytes]` prints one JSON line per figure.
//!
//! The file lies in the current directory (its file system is what is measured) and is removed at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use pullpiri_store::redb::{Options, RedbStore};
use pullpiri_store::{Change, Expect, Range, Revision, Store as _, Write};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn report(name: &str, value: f64, unit: &str) {
    println!("{{\"name\":\"{name}\",\"value\":{value:.3},\"unit\":\"{unit}\"}}");
}

fn argument(index: usize, default: u64) -> Result<u64, Failure> {
    Ok(std::env::args().nth(index).map_or(Ok(default), |value| value.parse())?)
}

/// Spreads the keys as names of objects are spread.
fn key(index: u64) -> String {
    let spread = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("/registry/pullpiri.io/packages/default/{spread:016x}")
}

async fn write_all(
    store: &Arc<RedbStore>,
    writers: u64,
    writes: u64,
    value: &Bytes,
    expect: Expect,
) -> Result<f64, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (store, next, value) = (Arc::clone(store), Arc::clone(&next), value.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= writes {
                    return Ok::<(), Failure>(());
                }
                let write = Write { key: key(index).into(), expect, change: Change::Put(value.clone()) };
                store.write(write).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
}

/// What the writer thread has used of a CPU, in seconds: tells what a write costs even when others keep the machine busy.
fn writer_cpu() -> Option<f64> {
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let Some((_, fields)) = stat.split_once("(store-writer) ") else { continue };
        let ticks = |index| fields.split(' ').nth(index).and_then(|ticks| ticks.parse::<f64>().ok());
        // utime and stime; Linux counts 100 ticks a second.
        return Some((ticks(11)? + ticks(12)?) / 100.0);
    }
    None
}

fn rate(count: u64, seconds: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let (writers, writes, size) = (argument(1, 32)?, argument(2, 60_000)?, argument(3, 2048)?);
    let path = std::env::current_dir()?.join(format!("throughput-{}.redb", std::process::id()));
    let start = Instant::now();
    let store = Arc::new(RedbStore::open(&path, Options::default())?);
    report("create_file", start.elapsed().as_secs_f64() * 1e3, "ms");
    let value = Bytes::from(vec![b'x'; usize::try_from(size)?]);

    let seconds = write_all(&store, writers, writes, &value, Expect::Absent).await?;
    let metrics = store.metrics();
    report("durable_creates", rate(writes, seconds), "1/s");
    if let Some(cpu) = writer_cpu() {
        report("writer_cpu_per_create", cpu * 1e6 / rate(writes, 1.0), "us");
    }
    report("writes_per_fsync", rate(metrics.writes, f64::from(u32::try_from(metrics.batches)?)), "1");
    report(
        "commit_mean",
        metrics.commit.sum.as_secs_f64() * 1e3 / f64::from(u32::try_from(metrics.commit.count)?),
        "ms",
    );
    report("resident", resident_mib(), "MiB");
    let seconds = write_all(&store, writers, writes / 4, &value, Expect::Any).await?;
    report("durable_updates", rate(writes / 4, seconds), "1/s");
    let seconds = write_all(&store, 1, 500, &value, Expect::Any).await?;
    report("durable_updates_one_writer", rate(500, seconds), "1/s");

    let start = Instant::now();
    for index in 0..10_000 {
        store.get(&key(index % writes)).await?;
    }
    report("gets", rate(10_000, start.elapsed().as_secs_f64()), "1/s");
    let start = Instant::now();
    let page = store.list(Range { limit: Some(500), ..Range::default() }).await?;
    report("list_page_of_500", start.elapsed().as_secs_f64() * 1e3, "ms");
    let start = Instant::now();
    let all = store.list(Range { at: Some(Revision(page.revision.0 - 100)), ..Range::default() }).await?.items.len();
    report("list_all_in_the_past", start.elapsed().as_secs_f64() * 1e3, "ms");
    report("objects", rate(u64::try_from(all)?, 1.0), "1");
    report("file", rate(store.metrics().size_bytes / 1024, 1024.0), "MiB");

    store.close().await;
    drop(store);
    let start = Instant::now();
    let store = RedbStore::open(&path, Options::default())?;
    report("open_closed_file", start.elapsed().as_secs_f64() * 1e3, "ms");
    drop(store);
    std::fs::remove_file(&path)?;
    Ok(())
}
