//! The server's own controllers over a memory store: garbage collection, namespace deletion, the CRD life cycle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, WIDGETS, api, api_with, config_map, widget, widgets};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAMESPACES: &str = "/api/v1/namespaces";

/// Watches one object until it is as wanted, and returns it.
async fn until(api: &Api, collection: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut watch = api.watch(&format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let event = watch.next().await.expect("an event, not the end");
        if event["type"] != "DELETED" && wanted(&event["object"]) {
            return event["object"].clone();
        }
    }
}

/// Watches one object until it isn't there.
async fn gone(api: &Api, collection: &str, name: &str) {
    let mut watch = api.watch(&format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}")).await;
    if api.get(&format!("{collection}/{name}")).await.code == 404 {
        return;
    }
    while watch.next().await.expect("an event, not the end")["type"] != "DELETED" {}
}

fn owned(name: &str, owners: &[(&Value, bool)]) -> Value {
    let references: Vec<Value> = owners
        .iter()
        .map(|(owner, blocks)| {
            json!({
                "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks,
            })
        })
        .collect();
    let mut map = config_map(name, &json!({}));
    map["metadata"]["ownerReferences"] = Value::Array(references);
    map
}

async fn make(api: &Api, object: Value) -> Value {
    api.post(CONFIG_MAPS, &object).await.expect(201)
}

async fn delete(api: &Api, name: &str, policy: &str) {
    let answer = api.delete(&format!("{CONFIG_MAPS}/{name}?propagationPolicy={policy}")).await;
    assert!(answer.code.is_success(), "{}", answer.text());
}

fn holding(mut object: Value, finalizer: &str) -> Value {
    object["metadata"]["finalizers"] = json!([finalizer]);
    object
}

async fn release(api: &Api, collection: &str, name: &str) {
    let patch = json!({"metadata": {"finalizers": null}});
    let answer = api.patch("merge-patch", &format!("{collection}/{name}"), &patch).await;
    assert!(answer.code.is_success(), "{}", answer.text());
}

#[tokio::test]
async fn background_deletes_dependents_of_dependents() {
    let api = api().await;
    let owner = make(&api, config_map("owner", &json!({}))).await;
    let child = make(&api, owned("child", &[(&owner, false)])).await;
    make(&api, owned("grandchild", &[(&child, true)])).await;
    let bystander = make(&api, config_map("bystander", &json!({}))).await;
    make(&api, owned("shared", &[(&owner, false), (&bystander, false)])).await;
    delete(&api, "owner", "Background").await;
    gone(&api, CONFIG_MAPS, "grandchild").await;
    gone(&api, CONFIG_MAPS, "child").await;
    // One owner is left, so only the reference goes.
    let shared = until(&api, CONFIG_MAPS, "shared", |object| {
        object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 1)
    })
    .await;
    assert_eq!(shared["metadata"]["ownerReferences"][0]["name"], "bystander");
    api.get(&format!("{CONFIG_MAPS}/bystander")).await.expect(200);
}

#[tokio::test]
async fn foreground_waits_for_what_blocks() {
    let api = api().await;
    let owner = make(&api, config_map("owner", &json!({}))).await;
    make(&api, holding(owned("blocking", &[(&owner, true)]), "test.pullpiri.io/hold")).await;
    make(&api, owned("free", &[(&owner, false)])).await;
    delete(&api, "owner", "Foreground").await;
    gone(&api, CONFIG_MAPS, "free").await;
    until(&api, CONFIG_MAPS, "blocking", |object| object["metadata"]["deletionTimestamp"].is_string()).await;
    let waiting = api.get(&format!("{CONFIG_MAPS}/owner")).await.expect(200);
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    release(&api, CONFIG_MAPS, "blocking").await;
    gone(&api, CONFIG_MAPS, "owner").await;
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/blocking")).await.code, 404);
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let api = api().await;
    let owner = make(&api, config_map("owner", &json!({}))).await;
    make(&api, owned("orphan", &[(&owner, true)])).await;
    delete(&api, "owner", "Orphan").await;
    gone(&api, CONFIG_MAPS, "owner").await;
    let orphan = api.get(&format!("{CONFIG_MAPS}/orphan")).await.expect(200);
    assert!(orphan["metadata"].get("ownerReferences").is_none(), "{orphan}");
    assert!(orphan["metadata"].get("deletionTimestamp").is_none());
}

#[tokio::test]
async fn cycles_and_absent_owners_are_collected() {
    let api = api().await;
    let a = make(&api, config_map("a", &json!({}))).await;
    let b = make(&api, owned("b", &[(&a, true)])).await;
    let patch = json!({"metadata": {"ownerReferences": owned("", &[(&b, true)])["metadata"]["ownerReferences"]}});
    api.patch("merge-patch", &format!("{CONFIG_MAPS}/a"), &patch).await.expect(200);
    delete(&api, "a", "Foreground").await;
    gone(&api, CONFIG_MAPS, "a").await;
    gone(&api, CONFIG_MAPS, "b").await;

    // Never there, and there under another UID.
    let mut ghost = a.clone();
    ghost["metadata"]["uid"] = json!("99999999-0000-0000-0000-000000000000");
    make(&api, owned("of-a-ghost", &[(&ghost, false)])).await;
    gone(&api, CONFIG_MAPS, "of-a-ghost").await;
    let mut double = make(&api, config_map("double", &json!({}))).await;
    double["metadata"]["uid"] = json!("99999999-0000-0000-0000-000000000001");
    make(&api, owned("of-a-double", &[(&double, false)])).await;
    gone(&api, CONFIG_MAPS, "of-a-double").await;
}

#[tokio::test]
async fn an_owner_in_another_namespace_is_none_and_says_so() {
    let api = api().await;
    let owner = make(&api, config_map("owner", &json!({}))).await;
    let elsewhere = "/api/v1/namespaces/kube-public/configmaps";
    api.post(elsewhere, &owned("stray", &[(&owner, false)])).await.expect(201);
    gone(&api, elsewhere, "stray").await;
    let events = api.get("/api/v1/namespaces/kube-public/events?fieldSelector=reason%3DOwnerRefInvalidNamespace").await;
    let events = events.expect(200);
    assert_eq!(events["items"][0]["involvedObject"]["name"], "stray", "{events}");
    // For those in its own namespace it is still an owner.
    make(&api, owned("child", &[(&owner, false)])).await;
    api.post(elsewhere, &owned("another", &[(&owner, false)])).await.expect(201);
    gone(&api, elsewhere, "another").await;
    api.get(&format!("{CONFIG_MAPS}/owner")).await.expect(200);
    let child = api.get(&format!("{CONFIG_MAPS}/child")).await.expect(200);
    assert!(child["metadata"].get("deletionTimestamp").is_none());
    delete(&api, "owner", "Background").await;
    gone(&api, CONFIG_MAPS, "child").await;
}

#[tokio::test]
async fn owners_of_a_kind_that_comes_later() {
    let api = api().await;
    let owner = json!({"apiVersion": "test.pullpiri.io/v1", "kind": "Widget",
                       "metadata": {"name": "w", "uid": "99999999-0000-0000-0000-000000000002"}});
    make(&api, owned("early", &[(&owner, false)])).await;
    // Nobody knows Widgets yet, so nobody can say that this one is absent.
    make(&api, owned("fence", &[(&owner, false)])).await;
    api.get(&format!("{CONFIG_MAPS}/early")).await.expect(200);
    let api = api.with_widgets().await;
    gone(&api, CONFIG_MAPS, "early").await;
    gone(&api, CONFIG_MAPS, "fence").await;
}

#[tokio::test]
async fn every_namespace_has_what_it_needs_and_gets_it_back() {
    let api = api_with(|config| config.root_ca = Some(Arc::from("PEM"))).await;
    let names: Vec<Value> = api.get(NAMESPACES).await.expect(200)["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["metadata"]["name"].clone())
        .collect();
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        assert!(names.contains(&json!(name)), "{names:?}");
    }
    api.post(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}}))
        .await
        .expect(201);
    let (accounts, maps) = ("/api/v1/namespaces/new/serviceaccounts", "/api/v1/namespaces/new/configmaps");
    let account = until(&api, accounts, "default", |_| true).await;
    let map = until(&api, maps, "kube-root-ca.crt", |_| true).await;
    assert_eq!(map["data"], json!({"ca.crt": "PEM"}));
    api.delete(&format!("{accounts}/default")).await.expect(200);
    until(&api, accounts, "default", |object| object["metadata"]["uid"] != account["metadata"]["uid"]).await;
    let edited = json!({"data": {"ca.crt": "forged"}});
    api.patch("merge-patch", &format!("{maps}/kube-root-ca.crt"), &edited).await.expect(200);
    until(&api, maps, "kube-root-ca.crt", |object| object["data"]["ca.crt"] == "PEM").await;
}

#[tokio::test]
async fn a_namespace_goes_with_everything_in_it() {
    let api = api().await.with_widgets().await;
    api.post(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}}))
        .await
        .expect(201);
    let maps = "/api/v1/namespaces/doomed/configmaps";
    let widgets = "/apis/test.pullpiri.io/v1/namespaces/doomed/widgets";
    api.post(maps, &config_map("a", &json!({}))).await.expect(201);
    api.post(widgets, &holding(widget("held", &json!({})), "test.pullpiri.io/hold")).await.expect(201);

    let answer = api.delete(&format!("{NAMESPACES}/doomed")).await.expect(200);
    assert_eq!(answer["status"]["phase"], "Terminating", "{answer}");
    let remaining = until(&api, NAMESPACES, "doomed", |object| {
        object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "NamespaceFinalizersRemaining" && condition["status"] == "True")
    })
    .await;
    let message = |kind: &str| {
        let conditions = remaining["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == kind).unwrap()["message"].clone()
    };
    assert_eq!(
        message("NamespaceContentRemaining"),
        "Some resources are remaining: widgets.test.pullpiri.io has 1 resource instances"
    );
    assert_eq!(
        message("NamespaceFinalizersRemaining"),
        "Some content in the namespace has finalizers remaining: test.pullpiri.io/hold in 1 resource instances"
    );
    gone(&api, maps, "a").await;
    let (code, reason, message) = api.post(maps, &config_map("late", &json!({}))).await.failure();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"), "{message}");

    release(&api, widgets, "held").await;
    gone(&api, NAMESPACES, "doomed").await;
    // And may come again, empty but for what every namespace has.
    api.post(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}}))
        .await
        .expect(201);
    assert_eq!(api.get(widgets).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn finalize_takes_over_finalizers_alone() {
    let api = api().await;
    let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "held"},
                               "spec": {"finalizers": ["test.pullpiri.io/hold"]}});
    let made = api.post(NAMESPACES, &namespace).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["test.pullpiri.io/hold", "kubernetes"]));
    api.delete(&format!("{NAMESPACES}/held")).await.expect(200);
    until(&api, NAMESPACES, "held", |object| object["spec"]["finalizers"] == json!(["test.pullpiri.io/hold"])).await;
    namespace["metadata"]["labels"] = json!({"ignored": "yes"});
    namespace["spec"]["finalizers"] = json!([]);
    let answer = api.put(&format!("{NAMESPACES}/held/finalize"), &namespace).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    gone(&api, NAMESPACES, "held").await;
}

fn condition<'a>(crd: &'a Value, kind: &str) -> &'a Value {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn an_established_crd_is_served_at_once() {
    let api = api().await;
    let mut watch = api.watch(&format!("{CRDS}?watch=true")).await;
    api.post(CRDS, &widgets()).await.expect(201);
    loop {
        let event = watch.next().await.unwrap();
        if condition(&event["object"], "Established")["status"] == "True" {
            break;
        }
    }
    // No retries: whoever saw the condition can use the kind.
    api.post(WIDGETS, &widget("w", &json!({"size": 3}))).await.expect(201);
    let crd = api.get(&format!("{CRDS}/widgets.test.pullpiri.io")).await.expect(200);
    assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(condition(&crd, "NamesAccepted")["reason"], "NoConflicts");
    let groups = api.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "test.pullpiri.io"));
}

#[tokio::test]
async fn a_changed_schema_counts_from_the_next_write() {
    let api = api().await.with_widgets().await;
    api.post(WIDGETS, &widget("big", &json!({"size": 101}))).await.failure();
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/maximum",
                        "value": 200}]);
    api.patch("json-patch", &format!("{CRDS}/widgets.test.pullpiri.io"), &patch).await.expect(200);
    let mut registry = api.server.registry().subscribe();
    let published = |resources: &Arc<pullpiri_apiserver::registry::Resources>| {
        resources.get("test.pullpiri.io", "v1", "widgets").is_some_and(|resource| {
            resource.schema.published().pointer("/properties/spec/properties/size/maximum") == Some(&json!(200))
        })
    };
    tokio::time::timeout(support::PATIENCE, registry.wait_for(published)).await.unwrap().unwrap();
    api.post(WIDGETS, &widget("big", &json!({"size": 101}))).await.expect(201);
}

#[tokio::test]
async fn names_go_to_the_first_and_are_freed_with_it() {
    let api = api().await.with_widgets().await;
    let mut rival = widgets();
    rival["metadata"]["name"] = json!("gadgets.test.pullpiri.io");
    rival["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget", "listKind": "GadgetList", "shortNames": ["gd"]});
    api.post(CRDS, &rival).await.expect(201);
    let name = "gadgets.test.pullpiri.io";
    let refused = until(&api, CRDS, name, |crd| condition(crd, "NamesAccepted")["status"] == "False").await;
    assert_eq!(condition(&refused, "NamesAccepted")["reason"], "KindConflict");
    assert_eq!(condition(&refused, "NamesAccepted")["message"], "\"Widget\" is already in use");
    assert_eq!(condition(&refused, "Established")["reason"], "NotAccepted");
    assert_eq!(api.get("/apis/test.pullpiri.io/v1/gadgets").await.code, 404);

    api.delete(&format!("{CRDS}/widgets.test.pullpiri.io")).await.expect(200);
    until(&api, CRDS, name, |crd| condition(crd, "Established")["status"] == "True").await;
    api.get("/apis/test.pullpiri.io/v1/gadgets").await.expect(200);
    assert_eq!(api.get("/apis/test.pullpiri.io/v1/widgets").await.code, 404);
}

#[tokio::test]
async fn a_deleted_crd_takes_its_instances_along() {
    let api = api().await.with_widgets().await;
    for index in 0..20 {
        api.post(WIDGETS, &widget(&format!("w{index}"), &json!({}))).await.expect(201);
    }
    api.post(WIDGETS, &holding(widget("held", &json!({})), "test.pullpiri.io/hold")).await.expect(201);
    let mut instances = api.watch(&format!("{WIDGETS}?watch=true&resourceVersion=0")).await;
    let name = "widgets.test.pullpiri.io";
    let deleted = api.delete(&format!("{CRDS}/{name}")).await.expect(200);
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]), "{deleted}");
    until(&api, CRDS, name, |crd| condition(crd, "Terminating")["reason"] == "InstanceDeletionInProgress").await;
    gone(&api, WIDGETS, "w19").await;
    // Still readable, no longer writable.
    api.get(&format!("{WIDGETS}/held")).await.expect(200);
    let (code, reason, _) = api.post(WIDGETS, &widget("late", &json!({}))).await.failure();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));

    release(&api, WIDGETS, "held").await;
    gone(&api, CRDS, name).await;
    // The watch ends with the kind.
    while let Some(event) = instances.next().await {
        assert_ne!(event["type"], "ERROR", "{event}");
    }
    assert_eq!(api.get(WIDGETS).await.code, 404);
    let api = api.with_widgets().await;
    assert_eq!(api.get(WIDGETS).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_bad_crd_says_which_field() {
    let api = api().await;
    let mut crd = widgets();
    crd["spec"]["scope"] = json!("Galaxy");
    crd["spec"]["versions"][0]["schema"] = json!({});
    let (code, reason, message) = api.post(CRDS, &crd).await.failure();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.contains("spec.scope: Unsupported value: \"Galaxy\""), "{message}");
    assert!(message.contains("spec.versions[0].schema.openAPIV3Schema: Required value"), "{message}");
}

#[tokio::test]
async fn events_are_one_thing_in_two_views() {
    let api = api().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let made = api
        .post(
            events,
            &json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
                "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"kind": "Package", "namespace": "default", "name": "p"},
                "reason": "Started", "action": "Start", "type": "Normal", "note": "up",
                "reportingController": "pullpiri.io/test", "reportingInstance": "test-1",
            }),
        )
        .await
        .expect(201);
    assert_eq!(made["note"], "up");
    let core = api.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("up"), &json!("p")));
    assert_eq!(core["metadata"]["uid"], made["metadata"]["uid"]);
    let found = api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let found = api.get(&format!("{events}?fieldSelector=regarding.name%3Dq")).await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 0);
    api.delete(&format!("{events}/e")).await.expect(200);
    assert_eq!(api.get("/api/v1/namespaces/default/events/e").await.code, 404);
}

#[tokio::test]
async fn secrets_encode_what_is_plain() {
    let api = api().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    let made = api.post(secrets, &secret).await.expect(201);
    assert_eq!((&made["data"], &made["type"]), (&json!({"a": "Yg=="}), &json!("Opaque")));
    assert!(made.get("stringData").is_none());
    let found = api.get(&format!("{secrets}?fieldSelector=type%3DOpaque")).await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_restart_serves_stored_kinds_at_once() {
    let store: Arc<dyn pullpiri_store::Store> = Arc::new(pullpiri_store::memory::MemoryStore::new());
    let first = api_with(|config| config.store = Arc::clone(&store)).await.with_widgets().await;
    first.post(WIDGETS, &widget("w", &json!({"size": 3}))).await.expect(201);
    first.server.stop();
    let second = api_with(|config| config.store = Arc::clone(&store)).await;
    let found = second.get(&format!("{WIDGETS}/w")).await.expect(200);
    assert_eq!(found["spec"], json!({"size": 3, "color": "red"}));
    // The entry made at start is the one that stays: nothing is registered, and compiled, twice.
    let entry = || second.server.registry().snapshot().get("test.pullpiri.io", "v1", "widgets").cloned().unwrap();
    let before = entry();
    let mut fence = widgets();
    fence["metadata"]["name"] = json!("fences.test.pullpiri.io");
    fence["spec"]["names"] =
        json!({"plural": "fences", "singular": "fence", "kind": "Fence", "listKind": "FenceList", "shortNames": []});
    second.server.install(vec![fence]).await.unwrap();
    assert!(Arc::ptr_eq(&before, &entry()));
}

#[tokio::test]
async fn what_was_left_undone_is_done_after_a_restart() {
    let store: Arc<dyn pullpiri_store::Store> = Arc::new(pullpiri_store::memory::MemoryStore::new());
    let first = api_with(|config| config.store = Arc::clone(&store)).await.with_widgets().await;
    first
        .post(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}}))
        .await
        .expect(201);
    first.post("/api/v1/namespaces/doomed/configmaps", &config_map("a", &json!({}))).await.expect(201);
    first.post(WIDGETS, &widget("w", &json!({}))).await.expect(201);
    let owner = make(&first, config_map("owner", &json!({}))).await;
    make(&first, owned("child", &[(&owner, true)])).await;
    let waiting = make(&first, config_map("waiting", &json!({}))).await;
    make(&first, owned("blocking", &[(&waiting, true)])).await;
    make(&first, owned("free", &[(&waiting, false)])).await;
    let leaving = make(&first, config_map("leaving", &json!({}))).await;
    make(&first, owned("orphan", &[(&leaving, false)])).await;
    // The controllers end; deletions are still taken.
    first.server.stop();
    delete(&first, "owner", "Background").await;
    delete(&first, "waiting", "Foreground").await;
    delete(&first, "leaving", "Orphan").await;
    first.delete(&format!("{NAMESPACES}/doomed")).await.expect(200);
    first.delete(&format!("{CRDS}/widgets.test.pullpiri.io")).await.expect(200);

    let second = api_with(|config| config.store = Arc::clone(&store)).await;
    for name in ["child", "blocking", "free", "waiting", "leaving"] {
        gone(&second, CONFIG_MAPS, name).await;
    }
    let orphan = second.get(&format!("{CONFIG_MAPS}/orphan")).await.expect(200);
    assert!(orphan["metadata"].get("ownerReferences").is_none(), "{orphan}");
    gone(&second, NAMESPACES, "doomed").await;
    gone(&second, CRDS, "widgets.test.pullpiri.io").await;
}
