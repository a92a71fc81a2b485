//! kube-rs against the server, without a socket: typed objects, watcher, reflector, Controller and finalizer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use pullpiri_apiserver::auth::UserInfo;
use serde_json::json;
use support::PATIENCE;

async fn client() -> (support::Api, kube::Client) {
    let api = support::api().await.with_widgets().await;
    let client = api.server.client(UserInfo::new("controller", ["system:masters".to_owned()]));
    (api, client)
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() }
}

#[tokio::test]
async fn typed_calls() {
    let (_server, client) = client().await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "37");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<_> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let error = maps.create(&PostParams::default(), &config_map("a")).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert!(status.is_already_exists());
    let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let applied = maps.patch("a", &PatchParams::apply("tests"), &Patch::Apply(&patch)).await.unwrap();
    assert_eq!(applied.data, Some(BTreeMap::from([("k".to_owned(), "v".to_owned())])));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let groups = client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|group| group.name == "test.pullpiri.io"));
}

#[tokio::test]
async fn watcher_and_reflector_see_everything_in_both_strategies() {
    for streaming in [false, true] {
        let (_server, client) = client().await;
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        maps.create(&PostParams::default(), &config_map("before")).await.unwrap();
        let config = if streaming { watcher::Config::default().streaming_lists() } else { watcher::Config::default() };
        let (store, writer) = reflector::store();
        let events = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects();
        let mut events = std::pin::pin!(events);
        for expected in ["before", "after"] {
            let object = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap().unwrap();
            assert_eq!(object.metadata.name.as_deref(), Some(expected));
            if expected == "before" {
                maps.create(&PostParams::default(), &config_map("after")).await.unwrap();
            }
        }
        assert_eq!(store.state().len(), 2, "streaming: {streaming}");
    }
}

#[tokio::test]
async fn a_controller_reconciles_and_a_finalizer_cleans_up() {
    let (_server, client) = client().await;
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("test.pullpiri.io", "v1", "Widget"), "widgets");
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let applied = Arc::new(AtomicUsize::new(0));
    let cleaned = Arc::new(tokio::sync::Notify::new());

    struct Context {
        widgets: Api<DynamicObject>,
        applied: Arc<AtomicUsize>,
        cleaned: Arc<tokio::sync::Notify>,
    }
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Failed(String);

    async fn reconcile(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, Failed> {
        finalizer(&context.widgets, "test.pullpiri.io/cleanup", object, |event| async {
            match event {
                Event::Apply(object) => {
                    let status = json!({"status": {"phase": "Ready"}});
                    let name = object.metadata.name.clone().unwrap_or_default();
                    context
                        .widgets
                        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                        .await
                        .map_err(|error| Failed(error.to_string()))?;
                    context.applied.fetch_add(1, Ordering::SeqCst);
                }
                Event::Cleanup(_) => context.cleaned.notify_one(),
            }
            Ok::<_, Failed>(Action::await_change())
        })
        .await
        .map_err(|error| Failed(error.to_string()))
    }

    let context =
        Arc::new(Context { widgets: widgets.clone(), applied: Arc::clone(&applied), cleaned: Arc::clone(&cleaned) });
    let running = Controller::new_with(widgets.clone(), watcher::Config::default(), resource)
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(50)), context)
        .for_each(|_| async {});
    let running = tokio::spawn(running);

    let object: DynamicObject = serde_json::from_value(support::widget("w", &json!({"size": 1}))).unwrap();
    widgets.create(&PostParams::default(), &object).await.unwrap();
    let ready = kube::runtime::wait::await_condition(widgets.clone(), "w", |object: Option<&DynamicObject>| {
        object.is_some_and(|object| object.data["status"]["phase"] == "Ready")
    });
    tokio::time::timeout(PATIENCE, ready).await.expect("reconciled").unwrap();
    assert!(applied.load(Ordering::SeqCst) >= 1);

    let uid = widgets.get("w").await.unwrap().metadata.uid.unwrap();
    widgets.delete("w", &DeleteParams::default()).await.unwrap();
    tokio::time::timeout(PATIENCE, cleaned.notified()).await.expect("cleaned up");
    let gone = kube::runtime::wait::await_condition(widgets, "w", kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.expect("gone").unwrap();
    running.abort();
}
