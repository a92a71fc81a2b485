//! Two API servers on one etcd cluster: one to their clients, and either may die.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

#[path = "../../apiserver/store/tests/etcd_cluster/mod.rs"]
mod etcd_cluster;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_cluster::Cluster;
use http::{Method, StatusCode};
use pullpiri_e2e::endpoint::{Endpoint, Watch};
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use pullpiri_e2e::wait_for;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn start(folder: &Path, name: &str, servers: &str) -> Pullpiri {
    let extra = ["--etcd-servers", servers];
    Pullpiri::start("apiserver", &folder.join(name), free_address().unwrap(), &extra).unwrap()
}

fn config_map(name: &str) -> Bytes {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string().into()
}

/// Creates ConfigMaps at one server until told to stop; the names of those that were acknowledged.
async fn create(endpoints: Vec<Endpoint>, writer: usize, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Vec<String> {
    let mut created = Vec::new();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("w{writer}-{count}");
        // A client goes to the other server when its own doesn't answer.
        for endpoint in &endpoints {
            let Ok(mut connection) = endpoint.connect().await else { continue };
            let answer = connection.request(Method::POST, CONFIG_MAPS, "application/json", config_map(&name)).await;
            if answer.is_ok_and(|answer| answer.status == StatusCode::CREATED) {
                created.push(name.clone());
                done.fetch_add(1, Ordering::Relaxed);
            }
            break;
        }
    }
    created
}

/// What a watch of ConfigMaps has seen, resumed at whatever server there is.
async fn follow(endpoints: Vec<Endpoint>, mut from: u64, end: Arc<AtomicBool>, last: String) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    let mut turn = 0;
    while !end.load(Ordering::Relaxed) {
        turn += 1;
        let Ok(connection) = endpoints[turn % endpoints.len()].connect().await else { continue };
        let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=5");
        let Ok(mut watch) = connection.watch(&path).await else { continue };
        while let Some(event) = next(&mut watch).await {
            assert_eq!(event["type"], "ADDED", "{event}");
            let metadata = &event["object"]["metadata"];
            from = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
            let name = metadata["name"].as_str().unwrap().to_owned();
            let done = name == last;
            seen.push((from, name));
            if done {
                return seen;
            }
        }
    }
    seen
}

async fn next(watch: &mut Watch) -> Option<Value> {
    tokio::time::timeout(LIMIT, watch.next()).await.expect("the watch says nothing").ok()
}

async fn progress(done: &AtomicU64, what: &str) {
    let before = done.load(Ordering::Relaxed);
    let grown = || async move {
        let now = done.load(Ordering::Relaxed);
        if now >= before + 40 { Ok(()) } else { Err(format!("{} writes", now - before)) }
    };
    wait_for(what, LIMIT, grown).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_api_servers_are_one_and_either_may_die() {
    if etcd_cluster::missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::of_three().await;
    let servers = cluster.servers().join(",");
    // Both at once: one CA comes of it.
    let (mut one, mut two) = (start(folder.path(), "one", &servers), start(folder.path(), "two", &servers));
    let endpoints = [one.ready().await.unwrap(), two.ready().await.unwrap()];
    let pki = |server: &Pullpiri, file: &str| std::fs::read(server.data_dir.join("pki").join(file)).unwrap();
    for file in ["ca.crt", "ca.key", "sa.key"] {
        assert_eq!(pki(&one, file), pki(&two, file), "{file}");
    }
    assert!(!one.data_dir.join("store.redb").exists());

    // What one acknowledged, the other shows, at once.
    let (mut first, mut second) = (endpoints[0].connect().await.unwrap(), endpoints[1].connect().await.unwrap());
    let mut present = String::new();
    for index in 0..20 {
        let name = format!("at-once-{index}");
        let answer = first.request(Method::POST, CONFIG_MAPS, "application/json", config_map(&name)).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
        present = answer.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let path = format!("{CONFIG_MAPS}?resourceVersion={present}");
        let list = second.get(&path).await.unwrap();
        assert_eq!(list.status, StatusCode::OK, "{}", list.json());
        assert!(list.json()["items"].as_array().unwrap().iter().any(|item| item["metadata"]["name"] == *name));
        // The other server may not have heard of the revision yet.
        let watch = endpoints[1].connect().await.unwrap();
        watch.watch(&format!("{path}&watch=1&timeoutSeconds=1")).await.unwrap();
    }
    let from: u64 = present.parse().unwrap();

    let (stop, end, done) = (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    let mut watches = tokio::task::JoinSet::new();
    for number in 0..4 {
        let mut mine = endpoints.to_vec();
        mine.rotate_left(number % 2);
        writers.spawn(create(mine.clone(), number, Arc::clone(&stop), Arc::clone(&done)));
        watches.spawn(follow(mine, from, Arc::clone(&end), "last".to_owned()));
    }
    progress(&done, "before any fault").await;
    one.kill9();
    progress(&done, "the first API server killed").await;
    let address = one.address;
    let data_dir = one.data_dir.clone();
    one = Pullpiri::start("apiserver", &data_dir, address, &["--etcd-servers", &servers]).unwrap();
    one.ready().await.unwrap();
    two.kill9();
    progress(&done, "the second API server killed").await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    progress(&done, "the leader of etcd killed").await;
    cluster.start(leader);
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    while let Some(created) = writers.join_next().await {
        acknowledged.extend(created.unwrap());
    }
    let mut first = endpoints[0].connect().await.unwrap();
    let answer = first.request(Method::POST, CONFIG_MAPS, "application/json", config_map("last")).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    acknowledged.insert("last".to_owned());
    let mut histories = Vec::new();
    while let Some(seen) = watches.join_next().await {
        histories.push(seen.unwrap());
    }
    end.store(true, Ordering::Relaxed);
    let list = first.get(CONFIG_MAPS).await.unwrap().json();
    let mut listed: Vec<(u64, String)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let metadata = &item["metadata"];
            let revision = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
            (revision, metadata["name"].as_str().unwrap().to_owned())
        })
        .filter(|(revision, _)| *revision > from)
        .collect();
    listed.sort();
    let names: BTreeSet<String> = listed.iter().map(|(_, name)| name.clone()).collect();
    assert!(acknowledged.is_subset(&names), "lost: {:?}", acknowledged.difference(&names).collect::<Vec<_>>());
    for seen in &histories {
        assert_eq!(*seen, listed, "each object once, in order");
    }
    println!("{} created, {} acknowledged, {} watches alike", listed.len(), acknowledged.len(), histories.len());
    assert_eq!(one.stop(), Some(0));
}

#[tokio::test]
async fn what_is_wrong_with_etcd_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data").display().to_string();
    let run = |extra: &[&str]| {
        let base = ["apiserver", "--data-dir", &data_dir, "--listen", "127.0.0.1:0"];
        let output = Command::new(process::binary().unwrap()).args(base).args(extra).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let nobody = format!("http://{}", free_address().unwrap());
    let (code, text) = run(&["--etcd-servers", &nobody]);
    assert_eq!(code, Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("pullpiri: ")).unwrap();
    assert!(line.contains(&format!("etcd at {nobody}: ")) && line.contains("refused"), "{line}");
    let (_, text) = run(&["--etcd-servers", "10.0.0.1:2379"]);
    assert!(text.contains("expected http://HOST:PORT or https://HOST:PORT"), "{text}");
    let (code, _) = run(&["--etcd-cafile", "/nonexistent"]);
    assert_eq!(code, Some(2), "a certificate without servers");
    if etcd_cluster::missing() {
        return;
    }
    // A data directory that has a CA of its own.
    let cluster = Cluster::single();
    let servers = cluster.servers().join(",");
    let mut one = start(folder.path(), "one", &servers);
    one.ready().await.unwrap();
    let mut alone = Pullpiri::start("apiserver", &folder.path().join("data"), free_address().unwrap(), &[]).unwrap();
    alone.ready().await.unwrap();
    assert_eq!(alone.stop(), Some(0));
    let (code, text) = run(&["--etcd-servers", &servers]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("isn't the one of the cluster in etcd"), "{text}");
}
