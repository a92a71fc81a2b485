//! The store over real etcd clusters: members that die, freeze and are cut off, compaction by others, TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "../etcd_cluster/mod.rs"]
mod etcd_cluster;
mod faults;
mod history;
mod single;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use pullpiri_store::etcd::{EtcdStore, Options, Timeouts};
use pullpiri_store::retention::Retention;
use pullpiri_store::{Buffers, Change, Expect, Store as _, WatchError, WatchItem, WatchStream, Write};

/// Long enough for the slowest machine; nothing waits this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);

fn options(servers: Vec<String>) -> Options {
    Options {
        retention: Retention::FOREVER,
        buffers: Buffers { progress_interval: Duration::from_millis(5), ..Buffers::default() },
        timeouts: Timeouts { attempt: Duration::from_secs(1), request: Duration::from_secs(8) },
        ..Options::new(servers)
    }
}

async fn open(servers: Vec<String>) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::open(options(servers)).await.unwrap())
}

fn put(key: &str, expect: Expect, value: &str) -> Write {
    Write { key: key.into(), expect, change: Change::Put(Bytes::from(value.to_owned())) }
}

async fn set(store: &EtcdStore, key: &str, value: &str) -> u64 {
    store.write(put(key, Expect::Any, value)).await.unwrap().modified.0
}

async fn item(watch: &mut WatchStream) -> Result<WatchItem, WatchError> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch says nothing").expect("the watch ended")
}
