use futures::FutureExt;
use kube::client::Body;
use prometheus_client::registry::Registry;
use pullpiri_crds::policy::PolicySpec;
use pullpiri_reconcilers::placement::ObjectName;
use serde_json::json;

use super::*;
use crate::events;

/// A world whose API server answers every request with 404 of an object.
pub(crate) fn world() -> World {
    let service = tower::service_fn(|_: http::Request<Body>| async {
        let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,"details":{"name":"x"}}"#;
        http::Response::builder().status(404).body(Body::from(body.as_bytes().to_vec()))
    });
    let client = Client::new(service, "default");
    let config = Config::new("test", Metrics::register(&mut Registry::default()));
    let (events, _) = events::channel(client.clone(), &config);
    World::new(client, &config, events)
}

#[tokio::test]
async fn a_missing_permission_is_told_as_long_as_something_waits_for_it() {
    let world = world();
    world.health.pending(None);
    let [a, b] = ["a", "b"].map(|name| Key::new("ns", name));
    world.forbidden(Name::package, a.clone(), "nobody may");
    world.forbidden(Name::package, b.clone(), "nobody may");
    world.forbidden(Name::scenario, a.clone(), "nor this");
    assert_eq!(world.health.problems().len(), 2);
    world.allowed(Name::package, a.clone());
    world.allowed(Name::package, Key::new("ns", "another"));
    assert_eq!(world.health.problems().len(), 2, "b still waits");
    // It was deleted, say.
    world.allowed(Name::package, b);
    world.allowed(Name::scenario, a);
    assert_eq!(world.health.ready(), Ok(()));
}

#[tokio::test]
async fn refusals_are_forgotten_with_the_instances_that_they_were_of() {
    let world = world();
    let package = Key::new("ns", "p");
    for instance in ["old", "new"] {
        world.refused(&package, instance.to_owned(), Some("no".to_owned()));
    }
    world.keep_refusals(&package, |instance| instance == "new");
    assert_eq!(world.refusals(&package).into_keys().collect::<Vec<_>>(), ["new"]);
    world.keep_refusals(&package, |_| false);
    assert!(lock(&world.refusals).is_empty());
}

#[tokio::test]
async fn a_policy_that_comes_wakes_the_packages_that_name_it() {
    let world = world();
    for (name, policy) in [("a", "place"), ("b", "another")] {
        let package = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": name, "namespace": "ns"},
            "spec": {"models": [{"name": "m"}], "policy": policy},
        });
        world.observe(serde_json::from_value::<Package>(package).unwrap());
        let key = world.package_queue.next().await;
        world.package_queue.done(&key);
    }
    let mut policy = Policy::new("place", PolicySpec::default());
    policy.metadata.namespace = Some("ns".to_owned());
    world.observe(policy);
    let key = world.package_queue.next().await;
    assert_eq!(key, Key::new("ns", "a"));
    world.package_queue.done(&key);
    assert!(world.package_queue.next().now_or_never().is_none(), "nobody else");
}

#[tokio::test]
async fn what_a_network_leaves_of_a_link_wakes_packages_of_every_namespace() {
    let world = world();
    let node = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": "zone"}, "spec": {},
        "status": {"network": {"backend": "tcx+htb", "linkBps": 100_000_000}},
    });
    world.observe(serde_json::from_value::<NodeRuntime>(node).unwrap());
    let network = |version: &str, nodes: serde_json::Value| {
        let network = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network",
            "metadata": {"name": "n", "namespace": "elsewhere", "uid": "u", "resourceVersion": version},
            "spec": {"qos": {"classes": [
                {"name": "c", "priority": 0, "guarantee": "30M", "selectors": [{"protocol": "UDP"}]},
            ]}},
            "status": {"nodes": nodes},
        });
        serde_json::from_value::<Network>(network).unwrap()
    };
    world.observe(network("1", json!([{"name": "zone", "models": 1, "backend": "tcx+htb", "current": true}])));
    let link = || world.node_views(Timestamp::now()).remove(0).link.unwrap();
    let promised = BTreeMap::from([(ObjectName::new("elsewhere", "n"), 30_000_000)]);
    assert_eq!(link(), Link { rate_bps: 100_000_000, promised });

    let package = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"models": [{"name": "m"}]},
    });
    world.observe(serde_json::from_value::<Package>(package).unwrap());
    let key = world.package_queue.next().await;
    world.package_queue.done(&key);
    world.observe(network("2", json!([])));
    assert_eq!(world.package_queue.next().now_or_never(), Some(key));
    assert_eq!(link().promised, BTreeMap::new());
}
