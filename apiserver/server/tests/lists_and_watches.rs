//! Lists over a consistent snapshot, and watches: selectors, bookmarks, transitions, expiry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use pullpiri_store::memory::MemoryStore;
use pullpiri_store::{KeyValue, Page, Range, ReadError, Revision, Store, WatchItem, WatchStream, Write, WriteError};
use serde_json::{Value, json};
use support::{CONFIG_MAPS, WIDGETS, api, config_map, widget};

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_show_one_moment() {
    let api = api().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.post(CONFIG_MAPS, &config_map(name, &json!({}))).await.expect(201);
    }
    let first = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.delete(&format!("{CONFIG_MAPS}/d")).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("c2", &json!({}))).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{CONFIG_MAPS}?limit=10&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c", "d", "e"], "as of the first page");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    let refused = api.get(&format!("{CONFIG_MAPS}?limit=1&continue=junk")).await.failure();
    assert_eq!(refused.0, 400);
    let exact = first["metadata"]["resourceVersion"].as_str().unwrap();
    let then = api.get(&format!("{CONFIG_MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&then), ["a", "b", "c", "d", "e"]);
    let (code, reason, message) = api.get(&format!("{CONFIG_MAPS}?resourceVersion=99999")).await.failure();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert!(message.starts_with("Timeout: Too large resource version: 99999, current: "), "{message}");
}

#[tokio::test]
async fn pages_of_few_that_match_among_many_hold_each_once() {
    let api = api().await;
    for number in 0..60 {
        let mut object = config_map(&format!("{number:02}"), &json!({}));
        let tier = if number % 7 == 3 { "x" } else { "y" };
        object["metadata"]["labels"] = json!({"tier": tier});
        api.post(CONFIG_MAPS, &object).await.expect(201);
    }
    for limit in 1..=9 {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("{CONFIG_MAPS}?labelSelector=tier%3Dx&limit={limit}{token}")).await.expect(200);
            assert!(page["metadata"].get("remainingItemCount").is_none(), "nobody knows how many of the rest match");
            let names = names(&page);
            let next = page["metadata"].get("continue").and_then(Value::as_str).map(str::to_owned);
            assert!(names.len() == limit || (names.len() < limit && next.is_none()), "{limit}: {names:?}");
            found.extend(names);
            let Some(next) = next else { break };
            token = format!("&continue={next}");
        }
        assert_eq!(found, ["03", "10", "17", "24", "31", "38", "45", "52", "59"], "{limit}");
    }
}

#[tokio::test]
async fn an_expired_page_can_go_on_inconsistently() {
    use pullpiri_store::Store as _;
    let store = std::sync::Arc::new(pullpiri_store::memory::MemoryStore::new());
    let shared = store.clone();
    let api = support::api_with(move |config| config.store = shared).await;
    for name in ["a", "b", "c"] {
        api.post(CONFIG_MAPS, &config_map(name, &json!({}))).await.expect(201);
    }
    let first = api.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("d", &json!({}))).await.expect(201);
    store.compact(store.revision()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let answer = api.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await;
    let (code, reason, message) = answer.failure();
    assert_eq!((code, reason.as_str()), (410, "Expired"));
    assert!(
        message.starts_with("The provided continue parameter is too old to display a consistent list result."),
        "{message}"
    );
    let token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = api.get(&format!("{CONFIG_MAPS}?limit=5&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["b", "c", "d"]);
    // A watch from before says so in an event.
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("), "{event}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn selectors_select() {
    let api = api().await.with_widgets().await;
    for (name, color, tier) in [("a", "red", "x"), ("b", "green", "x"), ("c", "red", "y")] {
        let mut object = widget(name, &json!({"color": color}));
        object["metadata"]["labels"] = json!({"tier": tier});
        api.post(WIDGETS, &object).await.expect(201);
    }
    let cases = [
        ("labelSelector=tier%3Dx", vec!["a", "b"]),
        ("labelSelector=tier%20in%20(y,z)", vec!["c"]),
        ("labelSelector=!tier", vec![]),
        ("fieldSelector=spec.color%3Dred", vec!["a", "c"]),
        ("fieldSelector=spec.color!%3Dred", vec!["b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
        ("fieldSelector=metadata.name%3Da,metadata.name%3Db", vec![]),
        ("fieldSelector=metadata.name%3Da,metadata.name%3Da", vec!["a"]),
        ("fieldSelector=metadata.namespace%3Ddefault,metadata.namespace%3Dother", vec![]),
        ("labelSelector=tier%3Dx&fieldSelector=spec.color%3Dred", vec!["a"]),
        ("labelSelector=tier%3Dx&limit=1", vec!["a"]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&api.get(&format!("{WIDGETS}?{query}")).await.expect(200)), expected, "{query}");
    }
    // Across namespaces.
    assert_eq!(names(&api.get("/apis/test.pullpiri.io/v1/widgets").await.expect(200)), ["a", "b", "c"]);
    assert_eq!(api.get(&format!("{WIDGETS}?labelSelector=a%20b")).await.failure().0, 400);
}

#[tokio::test]
async fn a_watch_follows_its_selector() {
    let api = api().await;
    let mut object = config_map("a", &json!({}));
    object["metadata"]["labels"] = json!({"tier": "x"});
    api.post(CONFIG_MAPS, &object).await.expect(201);
    let from = api.get(CONFIG_MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&labelSelector=tier%3Dx")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let label = |tier: &str| json!({"metadata": {"labels": {"tier": tier}}});
    api.patch("merge-patch", &path, &json!({"data": {"k": "v"}})).await.expect(200);
    assert_eq!(watch.line().await, "MODIFIED a");
    let left = api.patch("merge-patch", &path, &label("y")).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["tier"], "x", "as it was last seen");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    api.patch("merge-patch", &path, &json!({"data": {"k": "w"}})).await.expect(200);
    api.patch("merge-patch", &path, &label("x")).await.expect(200);
    assert_eq!(watch.line().await, "ADDED a");
    api.delete(&path).await.expect(200);
    assert_eq!(watch.line().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_may_begin_with_the_present() {
    let api = api().await;
    for name in ["a", "b"] {
        api.post(CONFIG_MAPS, &config_map(name, &json!({}))).await.expect(201);
    }
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.line().await, "ADDED a");
    assert_eq!(watch.line().await, "ADDED b");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.post(CONFIG_MAPS, &config_map("c", &json!({}))).await.expect(201);
    assert_eq!(watch.line().await, "ADDED c");
    // From nowhere, without asking: the present state too, but no bookmark.
    let mut plain = api.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    for name in ["a", "b", "c"] {
        assert_eq!(plain.line().await, format!("ADDED {name}"));
    }
    // One object.
    let mut one = api.watch(&format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    assert_eq!(one.line().await, "ADDED b");
    // As a table: the columns come once.
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let response = api.open("GET", &format!("{CONFIG_MAPS}?watch=1"), &table, "").await;
    assert_eq!(response.status(), 200);
}

/// A store in which something happens all the time, for a while: long enough to be waited for, and with an end should nobody notice.
#[derive(Debug, Default)]
struct Restless {
    store: MemoryStore,
    over: Arc<AtomicBool>,
}

impl Store for Restless {
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>> {
        self.store.write(write)
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>> {
        self.store.get(key)
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.store.list(range)
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>> {
        if !prefix.contains("configmaps") {
            return self.store.watch(prefix, from);
        }
        let (over, revision, started) = (Arc::clone(&self.over), self.revision(), Instant::now());
        let item = move || {
            over.fetch_or(started.elapsed() > support::PATIENCE, Ordering::SeqCst);
            (!over.load(Ordering::SeqCst)).then_some(Ok(WatchItem::Progress(revision)))
        };
        let items: WatchStream = futures::stream::iter(std::iter::from_fn(item)).boxed();
        futures::future::ok(items).boxed()
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        self.store.compact(revision)
    }

    fn oldest(&self) -> Revision {
        self.store.oldest()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        self.store.health()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_though_there_is_always_another_event() {
    let store = Arc::new(Restless::default());
    let over = Arc::clone(&store.over);
    let api = support::api_with(|config| config.store = store).await;
    assert!(api.watch(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1")).await.next().await.is_none());
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    api.server.stop();
    assert!(watch.next().await.is_none());
    assert!(!over.load(Ordering::SeqCst), "it ended before the events did");
}

#[tokio::test]
async fn a_user_has_so_many_watches_and_no_more() {
    let api = support::api_with(|config| config.limits.max_watches_per_user = 2).await;
    let path = format!("{CONFIG_MAPS}?watch=true");
    let (first, _second) = (api.watch(&path).await, api.watch(&path).await);
    let refused = api.get(&path).await;
    assert_eq!(refused.failure().0, 429);
    assert_eq!(refused.headers["retry-after"], "5");
    let _other = api.as_user("other", &[]).watch(&path).await;
    drop(first);
    let _third = api.watch(&path).await;
}

#[tokio::test]
async fn watches_end_when_asked() {
    let api = api().await;
    let mut over = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1&timeoutSeconds=-1")).await;
    assert!(over.next().await.is_none(), "its time is over");
    let mut timed = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1")).await;
    assert!(timed.next().await.is_none());
    let mut open = api.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    api.server.stop();
    assert!(open.next().await.is_none());
}

#[tokio::test]
async fn long_lists_are_streamed_and_compressed() {
    let api = api().await;
    let filler = "x".repeat(1000);
    for index in 0..600 {
        api.post(CONFIG_MAPS, &config_map(&format!("c{index:04}"), &json!({"k": filler}))).await.expect(201);
    }
    let plain = api.get(CONFIG_MAPS).await;
    assert!(plain.headers.get("content-encoding").is_none());
    let list = plain.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 600);
    let packed = api.raw("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["items"], list["items"]);
    let small = api.raw("GET", &format!("{CONFIG_MAPS}?limit=1"), &[("accept-encoding", "gzip")], "").await;
    assert!(small.headers.get("content-encoding").is_none());
}
