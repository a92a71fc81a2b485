//! One member: what a cluster's faults don't need.

use std::path::Path;
use std::sync::Arc;

use etcd_client::{Client, DeleteOptions};
use pullpiri_store::etcd::{ClientFiles, EtcdStore, Tls};
use pullpiri_store::retention::Retention;
use pullpiri_store::{Buffers, Expect, Range, ReadError, Revision, Store as _, WatchError, WatchItem, WriteError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::etcd_cluster::{self, Certificates, Cluster};
use crate::{DEADLINE, item, open, options, put, set};

/// The revision of the next event.
async fn next(watch: &mut pullpiri_store::WatchStream) -> u64 {
    loop {
        if let WatchItem::Event(event) = item(watch).await.unwrap() {
            return event.revision.0;
        }
    }
}

#[tokio::test]
async fn a_compaction_that_the_feed_has_not_read_ends_watches_instead_of_skipping() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::of_three().await;
    let servers = cluster.servers();
    // Two servers that know one member each, and the first is cut off from its own.
    let here = open(vec![servers[0].clone()]).await;
    let there = open(vec![servers[1].clone()]).await;
    let written = set(&here, "a", "1").await;
    let mut watch = here.watch("a", Revision(0)).await.unwrap();
    assert_eq!(next(&mut watch).await, written);
    cluster.hide(0, true);
    // What the member has sent already would arrive after the cut.
    let deadline = std::time::Instant::now() + DEADLINE;
    while here.metrics().reopened == 0 {
        assert!(std::time::Instant::now() < deadline, "the watch's silence isn't noticed");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut head = 0;
    for index in 0..50 {
        head = set(&there, "a", &index.to_string()).await;
    }
    there.compact(Revision(head)).await.unwrap();
    cluster.hide(0, false);
    let mut last = written;
    let end = loop {
        match item(&mut watch).await {
            // What is still underway may come, in order.
            Ok(WatchItem::Event(event)) => {
                assert_eq!(event.revision.0, last + 1);
                last += 1;
            }
            Ok(WatchItem::Progress(through)) => assert!(through.0 <= last, "{through} without events"),
            Err(error) => break error,
        }
        assert!(last < head, "nothing was compacted that it needed");
    };
    assert!(matches!(end, WatchError::Lagged { last: delivered } if delivered.0 == last), "{end:?}");
    let Err(error) = here.watch("a", Revision(last)).await else { panic!("a watch of what is gone") };
    assert!(
        matches!(error, ReadError::Compacted { requested, oldest } if requested.0 == last && oldest.0 == head),
        "{error:?}"
    );
    let error = here.list(Range { at: Some(Revision(last)), ..Range::default() }).await.unwrap_err();
    assert!(matches!(error, ReadError::Compacted { oldest, .. } if oldest.0 == head), "{error:?}");
    assert_eq!(here.oldest(), Revision(head));
    // A client lists again, and goes on.
    let page = here.list(Range::default()).await.unwrap();
    let mut again = here.watch("a", page.revision).await.unwrap();
    let more = set(&there, "a", "more").await;
    assert_eq!(next(&mut again).await, more);
}

#[tokio::test]
async fn history_is_compacted_by_retention() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single();
    let mut options = options(cluster.servers());
    options.retention = Retention { age: Some(std::time::Duration::from_millis(400)), revisions: Some(50) };
    let store = EtcdStore::open(options).await.unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    let mut last = 0;
    for index in 0..300 {
        last = set(&store, "a", &index.to_string()).await;
        assert_eq!(next(&mut watch).await, last);
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    while store.oldest().0 < last {
        assert!(std::time::Instant::now() < deadline, "{} of {last}", store.oldest());
        tokio::task::yield_now().await;
    }
    assert_eq!(store.get("a").await.unwrap().0.unwrap().modified.0, last);
    let Err(error) = store.watch("", Revision(1)).await else { panic!("a watch of what is gone") };
    assert!(matches!(error, ReadError::Compacted { .. }), "{error:?}");
    // A server that starts later knows it from etcd.
    assert_eq!(open(cluster.servers()).await.oldest().0, store.oldest().0);
}

#[tokio::test]
async fn a_transaction_of_somebody_else_arrives_whole() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single();
    let mut tiny = options(cluster.servers());
    tiny.buffers = Buffers { ring_events: 3, ring_bytes: 600, queue_events: 2, ..tiny.buffers };
    let stores = [open(cluster.servers()).await, std::sync::Arc::new(EtcdStore::open(tiny).await.unwrap())];
    let mut expected = Vec::new();
    for key in ["b/1", "b/2", "b/3", "b/4", "b/5"] {
        set(&stores[0], key, "x").await;
        expected.push((6, key.to_owned()));
    }
    let mut watches = Vec::new();
    for store in &stores {
        watches.push(store.watch("b/", Revision(5)).await.unwrap());
    }
    let mut client = Client::connect(cluster.servers(), None).await.unwrap();
    let range = DeleteOptions::new().with_range("/pullpiri/objects/c");
    client.delete("/pullpiri/objects/b", Some(range)).await.unwrap();
    // Not one of ours, and no value of ours.
    client.put("/other", "x", None).await.unwrap();
    let after = set(&stores[0], "b/6", "x").await;
    assert_eq!(after, 8, "somebody else's revision is one, too");
    expected.push((8, "b/6".to_owned()));
    for store in &stores {
        watches.push(store.watch("b/", Revision(5)).await.unwrap());
    }
    for mut watch in watches {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            if let WatchItem::Event(event) = item(&mut watch).await.unwrap() {
                assert_eq!(event.current.is_none(), event.revision.0 == 6);
                seen.push((event.revision.0, event.key.to_string()));
            }
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn any_number_of_watches_is_one_of_etcds() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single();
    let store = open(cluster.servers()).await;
    let mut watches = Vec::new();
    for index in 0..100 {
        watches.push(store.watch(&format!("k/{}", index % 10), Revision(0)).await.unwrap());
    }
    set(&store, "k/3", "x").await;
    let mut woken = watches.remove(3);
    assert_eq!(next(&mut woken).await, 1);
    let address = cluster.servers()[0].trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let watchers = answer.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total ")).unwrap();
    assert_eq!(watchers, "1");
}

#[tokio::test]
async fn two_prefixes_know_nothing_of_each_other() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single();
    let mut other = options(cluster.servers());
    other.prefix = "pullpiri/objects2".to_owned();
    let (one, other) = (open(cluster.servers()).await, EtcdStore::open(other).await.unwrap());
    set(&one, "a", "1").await;
    set(&other, "a", "2").await;
    assert_eq!(one.list(Range::default()).await.unwrap().items.len(), 1);
    assert_eq!(&*other.get("a").await.unwrap().0.unwrap().value, b"2");
    assert_eq!(one.shared("pki").await.unwrap(), None);
    assert_eq!(one.share("pki", b"mine".to_vec()).await.unwrap(), b"mine");
    let again = open(cluster.servers()).await;
    assert_eq!(again.share("pki", b"yours".to_vec()).await.unwrap(), b"mine");
    assert_eq!(again.shared("pki").await.unwrap(), Some(b"mine".to_vec()));
    assert_eq!(other.shared("pki").await.unwrap(), None);
}

#[tokio::test]
async fn without_etcd_everything_says_so_in_bounded_time_and_goes_on_afterwards() {
    if etcd_cluster::missing() {
        return;
    }
    let mut cluster = Cluster::single();
    let mut short = options(cluster.servers());
    short.timeouts.request = std::time::Duration::from_secs(1);
    let store = EtcdStore::open(short.clone()).await.unwrap();
    set(&store, "a", "1").await;
    let mut watch = store.watch("a", Revision(1)).await.unwrap();
    store.health().await.unwrap();
    cluster.kill(0);
    let server = cluster.servers()[0].clone();
    let outage = async {
        let error = store.health().await.unwrap_err();
        assert!(error.contains(&server) && error.to_lowercase().contains("refused"), "{error}");
        let error = store.get("a").await.unwrap_err().to_string();
        assert!(error.contains(&server), "{error}");
        let error = store.write(put("b", Expect::Absent, "x")).await.unwrap_err().to_string();
        assert!(error.starts_with("writing b: "), "{error}");
        let error = EtcdStore::open(short).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("etcd at {server}: ")), "{error}");
    };
    tokio::time::timeout(DEADLINE, outage).await.unwrap();
    cluster.start(0);
    let deadline = std::time::Instant::now() + DEADLINE;
    while let Err(error) = store.health().await {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    let written = set(&store, "a", "2").await;
    assert_eq!(next(&mut watch).await, written);
    let large = "x".repeat(10_200_000);
    let error = store.write(put("large", Expect::Absent, &large)).await.unwrap_err().to_string();
    assert!(error.contains("too large"), "{error}");
}

#[tokio::test]
async fn a_full_etcd_is_said_and_stays_readable() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single_with(None, &["--quota-backend-bytes", "4000000"]);
    let store = open(cluster.servers()).await;
    let value = "x".repeat(1_000_000);
    let mut written = 0;
    let error = loop {
        match store.write(put(&format!("k{written}"), Expect::Absent, &value)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 20, "no limit");
    };
    assert!(matches!(error, WriteError::NoSpace { .. }), "{error:?}");
    let alarm = store.health().await.unwrap_err();
    assert!(alarm.contains("NOSPACE"), "{alarm}");
    assert_eq!(store.list(Range::default()).await.unwrap().items.len(), written);
}

#[tokio::test]
async fn a_full_etcd_still_deletes() {
    if etcd_cluster::missing() {
        return;
    }
    let cluster = Cluster::single_with(None, &["--quota-backend-bytes", "4000000"]);
    let store = open(cluster.servers()).await;
    let value = "x".repeat(1_000_000);
    let mut written = Vec::new();
    while let Ok(kv) = store.write(put(&format!("k{}", written.len()), Expect::Absent, &value)).await {
        written.push(kv);
        assert!(written.len() < 20, "no limit");
    }
    assert!(written.len() > 2, "{}", written.len());
    let full = store.list(Range::default()).await.unwrap().revision;
    let mut watch = store.watch("", full).await.unwrap();
    let delete = |kv: &pullpiri_store::KeyValue, expect| pullpiri_store::Write {
        key: Arc::clone(&kv.key),
        expect,
        change: pullpiri_store::Change::Delete,
    };
    for kv in &written[..2] {
        let deleted = store.write(delete(kv, Expect::At(kv.modified))).await.unwrap();
        assert_eq!(next(&mut watch).await, deleted.modified.0);
        assert_eq!(deleted.value.len(), value.len());
    }
    let absent = store.write(delete(&written[0], Expect::At(written[0].modified))).await.unwrap_err();
    assert!(matches!(absent, WriteError::Mismatch { .. }), "{absent:?}");
    let puts = store.write(put("another", Expect::Absent, "1")).await.unwrap_err();
    assert!(matches!(puts, WriteError::NoSpace { .. }), "{puts:?}");
    // Whoever comes later lists again: nothing tells what was deleted last.
    let later = open(cluster.servers()).await;
    let listed = later.list(Range::default()).await.unwrap();
    assert_eq!(listed.items.len(), written.len() - 2);
    assert!(later.watch("", full).await.is_err());
    assert!(later.watch("", listed.revision).await.is_ok());
}

/// A CA, and a certificate of it that serves 127.0.0.1 and identifies a client.
fn certificates(folder: &Path, name: &str) -> Certificates {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |file: &str, text: String| {
        let path = folder.join(format!("{name}-{file}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    Certificates {
        ca: write("ca.crt", ca.pem()),
        certificate: write("leaf.crt", leaf.pem()),
        key: write("leaf.key", key.serialize_pem()),
    }
}

#[tokio::test]
async fn tls_proves_both_sides() {
    if etcd_cluster::missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (ours, foreign) = (certificates(folder.path(), "ours"), certificates(folder.path(), "foreign"));
    let cluster = Cluster::single_with(Some(&ours), &[]);
    let with = |ca: &Certificates, client: Option<&Certificates>| {
        let client = client
            .map(|files| ClientFiles { certificate_file: files.certificate.clone(), key_file: files.key.clone() });
        let mut options = options(cluster.servers());
        options.tls = Some(Tls { ca_file: ca.ca.clone(), client });
        options
    };
    let store = EtcdStore::open(with(&ours, Some(&ours))).await.unwrap();
    set(&store, "a", "1").await;
    let mut watch = store.watch("a", Revision(0)).await.unwrap();
    assert_eq!(next(&mut watch).await, 1);
    for (ca, client) in [(&ours, None), (&ours, Some(&foreign)), (&foreign, Some(&ours))] {
        let mut options = with(ca, client);
        options.timeouts.request = std::time::Duration::from_millis(300);
        let error = EtcdStore::open(options).await.unwrap_err().to_string();
        assert!(error.starts_with("etcd at https://127.0.0.1:"), "{error}");
    }
    let mut plain = options(cluster.servers());
    let error = EtcdStore::open(plain.clone()).await.unwrap_err().to_string();
    assert!(error.contains("https needs the CA"), "{error}");
    plain.tls = Some(Tls { ca_file: folder.path().join("none.crt"), client: None });
    let error = EtcdStore::open(plain).await.unwrap_err().to_string();
    assert!(error.starts_with("reading ") && error.contains("none.crt"), "{error}");
}
