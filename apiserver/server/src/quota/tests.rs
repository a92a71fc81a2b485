use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pullpiri_store::memory::MemoryStore;
use pullpiri_store::{
    Change, Expect, KeyValue, Page, Range, ReadError, Revision, Store, WatchStream, Write, WriteError,
};
use serde_json::{Value, json};

use crate::objects::{DeleteOptions, Objects, Subresource};
use crate::registry::Resource;
use crate::{ApiServer, Config};

struct World {
    server: ApiServer,
    objects: Objects,
}

async fn world() -> World {
    world_on(Arc::new(MemoryStore::new())).await
}

async fn world_on(store: Arc<dyn Store>) -> World {
    let server = ApiServer::open(Config::new(store)).await.unwrap();
    let objects = server.objects();
    World { server, objects }
}

impl World {
    fn resource(&self, plural: &str) -> Arc<Resource> {
        self.server.registry().snapshot().stored("", plural).cloned().unwrap()
    }

    async fn quota(&self, name: &str, hard: Value) {
        let quota = json!({"metadata": {"name": name}, "spec": {"hard": hard}});
        self.objects.create(&self.resource("resourcequotas"), Some("default"), quota).await.unwrap();
    }

    async fn secret(&self, name: &str) -> Result<Value, String> {
        let secret = json!({"metadata": {"name": name}});
        let created = self.objects.create(&self.resource("secrets"), Some("default"), secret).await;
        created.map_err(|status| status.message().to_owned())
    }

    /// Waits until the quota's status says so.
    async fn used(&self, quota: &str, name: &str, amount: &str) {
        let resource = self.resource("resourcequotas");
        let settled = async {
            loop {
                let (mut changes, _) = self.objects.changes(None).await.unwrap();
                let now = self.objects.get(&resource, Some("default"), quota).await.unwrap();
                if now["status"]["used"][name] == amount {
                    break;
                }
                futures::StreamExt::next(&mut changes).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), settled).await.expect("the quota is counted");
    }
}

#[tokio::test]
async fn a_quota_follows_what_is_made_and_deleted() {
    let world = world().await;
    world.quota("q", json!({"secrets": "1", "count/secrets": "5", "pods": "3", "cpu": "500m", "count/a.b": "1"})).await;
    world.used("q", "secrets", "0").await;
    world.used("q", "pods", "0").await;
    world.secret("a").await.unwrap();
    world.used("q", "secrets", "1").await;
    let refused = world.secret("b").await.unwrap_err();
    assert_eq!(
        refused,
        "secrets \"b\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1"
    );
    let secrets = world.resource("secrets");
    world.objects.delete(&secrets, Some("default"), "a", DeleteOptions::default()).await.unwrap();
    world.used("q", "count/secrets", "0").await;
    world.secret("b").await.unwrap();
    let quota = world.objects.get(&world.resource("resourcequotas"), Some("default"), "q").await.unwrap();
    assert_eq!(quota["status"]["hard"], quota["spec"]["hard"]);
    assert!(quota["status"]["used"].get("count/a.b").is_none(), "a kind that isn't served isn't counted");
}

#[tokio::test]
async fn many_at_once_get_no_more_than_there_is() {
    let world = Arc::new(world().await);
    world.quota("q", json!({"secrets": "10"})).await;
    let names = (0..40).map(|index| format!("s{index}"));
    let tasks: Vec<_> = names
        .map(|name| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.secret(&name).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!(made, 10);
    world.used("q", "secrets", "10").await;
}

#[tokio::test]
async fn a_creation_that_fails_is_given_back_and_a_written_status_is_put_right() {
    let world = world().await;
    world.quota("q", json!({"secrets": "2"})).await;
    world.secret("a").await.unwrap();
    assert!(world.secret("a").await.unwrap_err().contains("already exists"));
    world.used("q", "secrets", "1").await;
    world.secret("b").await.unwrap();
    let edit = |quota: &mut Value| {
        quota["status"] = json!({"hard": {"secrets": "7"}, "used": {"secrets": "0"}});
        true
    };
    let resource = world.resource("resourcequotas");
    world.objects.modify(&resource, Subresource::Status, Some("default"), "q", &edit).await.unwrap();
    world.used("q", "secrets", "2").await;
}

/// A store in which somebody else writes quota `b` once right before it is written.
#[derive(Debug, Default)]
struct Contended {
    store: MemoryStore,
    armed: AtomicBool,
}

impl Store for Contended {
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>> {
        async move {
            if write.key.ends_with("resourcequotas/default/b") && self.armed.swap(false, Ordering::SeqCst) {
                let (there, _) = self.store.get(&write.key).await.unwrap();
                let there = there.unwrap();
                let (key, expect) = (Arc::clone(&there.key), Expect::At(there.modified));
                self.store.write(Write { key, expect, change: Change::Put(there.value) }).await.unwrap();
            }
            self.store.write(write).await
        }
        .boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>> {
        self.store.get(key)
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.store.list(range)
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>> {
        self.store.watch(prefix, from)
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

#[tokio::test]
async fn a_quota_is_charged_once_though_another_was_written_meanwhile() {
    let store = Arc::new(Contended::default());
    let world = world_on(Arc::clone(&store) as Arc<dyn Store>).await;
    for quota in ["a", "b"] {
        world.quota(quota, json!({"secrets": "1"})).await;
        world.used(quota, "secrets", "0").await;
    }
    store.armed.store(true, Ordering::SeqCst);
    assert!(world.secret("x").await.is_ok());
    assert!(!store.armed.load(Ordering::SeqCst));
    world.used("a", "secrets", "1").await;
    world.used("b", "secrets", "1").await;
}

#[tokio::test]
async fn limits_hold_from_the_moment_a_quota_is_there() {
    let world = world().await;
    world.quota("q", json!({"configmaps": "1"})).await;
    let map = json!({"metadata": {"name": "x"}});
    let maps = world.resource("configmaps");
    let mut refused = 0;
    for name in ["x", "y"] {
        let mut map = map.clone();
        map["metadata"]["name"] = json!(name);
        refused += usize::from(world.objects.create(&maps, Some("default"), map).await.is_err());
    }
    assert!(refused >= 1, "what was there before is counted too");
}
