//! Three members, two API servers' stores, writers and watches on both, and one fault after the other. `ETCD_ROUNDS` makes it longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pullpiri_store::etcd::EtcdStore;
use pullpiri_store::{Change, Expect, KeyValue, Revision, Store as _, Write, WriteError};
use tokio::task::JoinSet;

use crate::etcd_cluster::{self, Cluster};
use crate::history::{Seen, Told, check, read};
use crate::{DEADLINE, open, put};

#[derive(Debug, Default)]
struct Shared {
    told: Told,
    /// Acknowledged writes by store.
    done: [AtomicU64; 2],
    stop: AtomicBool,
    slowest_ms: AtomicU64,
}

struct Writer {
    name: String,
    index: usize,
    store: Arc<EtcdStore>,
    shared: Arc<Shared>,
    count: u64,
}

impl Writer {
    async fn get(&self, key: &str) -> Option<KeyValue> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.store.get(key).await {
                Ok((found, _)) => return found,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// One write, and what it was told is noted; `None` if it isn't known to have taken place.
    async fn write(&mut self, key: &str, expect: Expect, value: Option<String>) -> Option<KeyValue> {
        let change = value.clone().map_or(Change::Delete, |value| Change::Put(Bytes::from(value)));
        let began = Instant::now();
        let result = self.store.write(Write { key: key.into(), expect, change }).await;
        let took = u64::try_from(began.elapsed().as_millis()).unwrap();
        self.shared.slowest_ms.fetch_max(took, Ordering::Relaxed);
        self.count += 1;
        match result {
            Ok(written) => {
                self.shared.done[self.index].fetch_add(1, Ordering::Relaxed);
                self.shared.told.acknowledged.lock().unwrap().push((written.modified.0, key.to_owned(), value));
                Some(written)
            }
            // The others promise that nothing happened.
            Err(WriteError::Mismatch { .. } | WriteError::Io { .. }) => None,
            Err(WriteError::Unknown { .. }) => {
                self.shared.told.unknown.lock().unwrap().push((key.to_owned(), value));
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Creates, updates and deletes keys of its own.
    async fn own(mut self) {
        while !self.stopped() {
            let key = format!("own/{}/{}", self.name, self.count % 5);
            let mut present = self.get(&key).await;
            for _ in 0..4 {
                let value = (self.count % 4 != 3 || present.is_none()).then(|| format!("{}.{}", self.name, self.count));
                let expect = present.as_ref().map_or(Expect::Absent, |kv| Expect::At(kv.modified));
                let deleted = value.is_none();
                present = match self.write(&key, expect, value).await {
                    Some(_) if deleted => None,
                    Some(written) => Some(written),
                    None => self.get(&key).await,
                };
            }
        }
    }

    /// Counts on, with everybody else.
    async fn counter(mut self) {
        while !self.stopped() {
            let present = self.get("counter").await;
            let count: u64 = present
                .as_ref()
                .map_or(0, |kv| String::from_utf8_lossy(&kv.value).split_once(' ').unwrap().0.parse().unwrap());
            let expect = present.map_or(Expect::Absent, |kv| Expect::At(kv.modified));
            let value = format!("{} {}.{}", count + 1, self.name, self.count);
            self.write("counter", expect, Some(value)).await;
        }
    }
}

/// Waits until both stores have acknowledged `more` writes.
async fn progress(shared: &Shared, what: &str, more: u64) {
    let before = [0, 1].map(|index: usize| shared.done[index].load(Ordering::Relaxed));
    let began = Instant::now();
    loop {
        let now = [0, 1].map(|index: usize| shared.done[index].load(Ordering::Relaxed));
        if now.iter().zip(before).all(|(now, before)| *now >= before + more) {
            println!("{what}: {more} writes on both stores after {} ms", began.elapsed().as_millis());
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: no progress, {before:?} → {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn torment(cluster: &mut Cluster, shared: &Shared) {
    let leader = cluster.leader().await;
    cluster.kill(leader);
    progress(shared, "leader killed", 60).await;
    cluster.start(leader);

    let leader = cluster.leader().await;
    cluster.freeze(leader);
    progress(shared, "leader frozen", 60).await;
    cluster.thaw(leader);
    progress(shared, "leader thawed", 60).await;

    let leader = cluster.leader().await;
    cluster.isolate(leader, true);
    progress(shared, "leader partitioned from its peers", 60).await;
    cluster.isolate(leader, false);

    // The member whose clients are cut off is the one that the first store began with, or went to.
    cluster.leader().await;
    for index in 0..2 {
        cluster.hide(index, true);
        progress(shared, "member hidden from clients", 60).await;
        cluster.hide(index, false);
    }
    let follower = (cluster.leader().await + 1) % 3;
    cluster.freeze(follower);
    progress(shared, "follower frozen", 60).await;
    cluster.thaw(follower);
    cluster.leader().await;
}

/// What a watch was opened on, and all that it saw.
type Watched = (u64, &'static str, Vec<Seen>);

/// One more write of this key, which then is the last one.
async fn last_write(store: &EtcdStore, key: &str, shared: &Shared) -> u64 {
    loop {
        let present = store.get(key).await.unwrap().0;
        let text = present.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).unwrap_or_default();
        let count: u64 = text.split_once(' ').map_or(0, |(count, _)| count.parse().unwrap());
        let expect = present.map_or(Expect::Absent, |kv| Expect::At(kv.modified));
        let value = format!("{} last.{key}", count + 1);
        if let Ok(written) = store.write(put(key, expect, &value)).await {
            let version = (written.modified.0, key.to_owned(), Some(value));
            shared.told.acknowledged.lock().unwrap().push(version);
            return written.modified.0;
        }
    }
}

async fn run(rounds: u32) {
    let mut cluster = Cluster::of_three().await;
    let servers = cluster.servers();
    let mut turned = servers.clone();
    turned.rotate_left(1);
    let stores = [open(servers.clone()).await, open(turned).await];
    let shared = Arc::new(Shared::default());
    let (counter_end, counter_last) = tokio::sync::watch::channel(None);
    let (end, last) = tokio::sync::watch::channel(None);
    let mut watches: JoinSet<Watched> = JoinSet::new();
    let mut writers = JoinSet::new();
    for (index, store) in stores.iter().enumerate() {
        for (prefix, last) in [("", &last), ("own/", &last), ("counter", &counter_last)] {
            let (stream, last) = (store.watch(prefix, Revision(0)).await.unwrap(), last.clone());
            watches.spawn(async move { (0, prefix, read(stream, last).await) });
        }
        for number in 0..4 {
            let (store, shared) = (Arc::clone(store), Arc::clone(&shared));
            let writer = Writer { name: format!("w{index}{number}"), index, store, shared, count: 0 };
            if number == 0 {
                writers.spawn(writer.counter())
            } else {
                writers.spawn(writer.own())
            };
        }
    }
    for _ in 0..rounds {
        torment(&mut cluster, &shared).await;
        // Somebody who comes late, and somebody who comes back.
        for store in &stores {
            let present = store.revision().0;
            for from in [0, present / 2, present] {
                let (stream, last) = (store.watch("own/", Revision(from)).await.unwrap(), last.clone());
                watches.spawn(async move { (from, "own/", read(stream, last).await) });
            }
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    counter_end.send_replace(Some(last_write(&stores[0], "counter", &shared).await));
    end.send_replace(Some(last_write(&stores[0], "own/last", &shared).await));
    // The history as etcd has it, read by somebody who has seen nothing of all that.
    let fresh = open(servers).await;
    let history = read(fresh.watch("", Revision(0)).await.unwrap(), last).await;
    check(&history, &shared.told);
    let mut alike = 0;
    while let Some(watched) = watches.join_next().await {
        let (from, prefix, seen) = watched.unwrap();
        let expected = |seen: &&Seen| seen.version.0 > from && seen.version.1.starts_with(prefix);
        assert!(seen.iter().eq(history.iter().filter(expected)), "a watch of {prefix:?} from {from} differs");
        alike += 1;
    }
    println!(
        "{} events, {} acknowledged, {} unknown, {alike} watches alike, slowest write {} ms",
        history.len(),
        shared.told.acknowledged.lock().unwrap().len(),
        shared.told.unknown.lock().unwrap().len(),
        shared.slowest_ms.load(Ordering::Relaxed)
    );
}

#[test]
fn no_acknowledged_write_is_lost_and_no_event_missed_repeated_or_reordered() {
    if etcd_cluster::missing() {
        return;
    }
    let rounds = std::env::var("ETCD_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(rounds));
}
