use std::collections::BTreeSet;

use super::*;
use crate::registry::Registry;

fn resources() -> Arc<Resources> {
    let registry = Registry::new(crate::builtin::resources());
    registry.extend(crate::crd::resources_of(&crate::crd::sample(), Origin::Crd("uid".to_owned())).unwrap());
    registry.snapshot()
}

fn get(path: &str, headers: &[(&str, &str)]) -> Result<Response<Bytes>, Status> {
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    OpenApi.serve(&resources(), &parts)
}

fn document(path: &str) -> Value {
    serde_json::from_slice(get(path, &[("accept", "application/json")]).unwrap().body()).unwrap()
}

fn references(node: &Value, prefix: &str, out: &mut BTreeSet<String>) {
    match node {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                out.insert(target.strip_prefix(prefix).unwrap_or_else(|| panic!("{target}")).to_owned());
            }
            map.values().for_each(|child| references(child, prefix, out));
        }
        Value::Array(items) => items.iter().for_each(|child| references(child, prefix, out)),
        _ => {}
    }
}

#[test]
fn the_index_leads_to_documents_that_never_change() {
    let index = document("/openapi/v3");
    let names: Vec<&String> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "api/v1",
            "apis/admissionregistration.k8s.io/v1",
            "apis/apiextensions.k8s.io/v1",
            "apis/authentication.k8s.io/v1",
            "apis/authorization.k8s.io/v1",
            "apis/coordination.k8s.io/v1",
            "apis/events.k8s.io/v1",
            "apis/example.com/v1",
            "apis/example.com/v1alpha1",
            "apis/rbac.authorization.k8s.io/v1",
        ]
    );
    for name in names {
        let url = index["paths"][name]["serverRelativeURL"].as_str().unwrap();
        let response = get(url, &[]).unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        let etag = response.headers()[header::ETAG].to_str().unwrap();
        assert!(url.ends_with(etag.trim_matches('"')));
        assert_eq!(get(url, &[("if-none-match", etag)]).unwrap().status(), StatusCode::NOT_MODIFIED);
        let document: Value = serde_json::from_slice(response.body()).unwrap();
        let mut targets = BTreeSet::new();
        references(&document, "#/components/schemas/", &mut targets);
        for target in targets {
            assert!(document["components"]["schemas"].get(&target).is_some(), "{name}: {target}");
        }
    }
    let moved = get("/openapi/v3/api/v1?hash=OLD", &[]).unwrap();
    assert_eq!(moved.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(moved.headers()[header::LOCATION], index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap());
    assert_eq!(get("/openapi/v3/apis/absent/v1", &[]).unwrap_err().code(), StatusCode::NOT_FOUND);
}

#[test]
fn a_custom_resource_is_published_whole_in_v3() {
    let document = document("/openapi/v3/apis/example.com/v1");
    insta::assert_json_snapshot!("v3-widget", document["components"]["schemas"]["com.example.v1.Widget"]);
    insta::assert_json_snapshot!(
        "v3-widget-patch",
        document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"]
    );
    let paths: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters").map(
                move |(method, operation)| format!("{method} {path} {}", operation["operationId"].as_str().unwrap()),
            )
        })
        .collect();
    insta::assert_json_snapshot!("v3-paths", paths);
}

#[test]
fn a_custom_resource_is_published_for_old_clients_in_v2() {
    let document = document("/openapi/v2");
    assert_eq!(document["swagger"], "2.0");
    insta::assert_json_snapshot!("v2-widget", document["definitions"]["com.example.v1.Widget"]);
    // With any property listed, kubectl would refuse all others.
    assert_eq!(
        document["definitions"]["com.example.v1alpha1.Widget"],
        json!({"type": "object", "x-kubernetes-group-version-kind": [
            {"group": "example.com", "kind": "Widget", "version": "v1alpha1"}]})
    );
    let mut targets = BTreeSet::new();
    references(&document, "#/definitions/", &mut targets);
    for target in targets {
        assert!(document["definitions"].get(&target).is_some(), "{target}");
    }
}

#[test]
fn operations_have_ids_of_their_own() {
    let document = document("/openapi/v2");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters") {
            assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
        }
    }
    for known in [
        "listCoreV1ConfigMapForAllNamespaces",
        "deleteCoreV1CollectionNamespacedConfigMap",
        "deleteEventsV1CollectionNamespacedEvent",
        "deleteApiextensionsV1CollectionCustomResourceDefinition",
        "replaceCoreV1NamespaceFinalize",
        "patchCoordinationV1NamespacedLease",
        "createApiextensionsV1CustomResourceDefinition",
        "readExampleComV1NamespacedWidgetScale",
    ] {
        assert!(ids.contains(&format!("\"{known}\"")), "{known}: {ids:?}");
    }
}

#[test]
fn encodings_are_negotiated() {
    for accept in
        [PROTOBUF, OLD_PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf;q=1,application/json"]
    {
        let response = get("/openapi/v2", &[("accept", accept)]).unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROTOBUF);
        // Field 1, a string: the Swagger version.
        assert_eq!(&response.body()[..5], b"\x0a\x032.0");
        let etag = response.headers()[header::ETAG].to_str().unwrap();
        let again = get("/openapi/v2", &[("accept", accept), ("if-none-match", etag)]).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let json = get("/openapi/v2", &[("accept", "application/json"), ("if-none-match", etag)]).unwrap();
        assert_eq!(json.status(), StatusCode::OK);
    }
    assert_eq!(get("/openapi/v2", &[("accept", "text/html")]).unwrap_err().code(), StatusCode::NOT_ACCEPTABLE);
}
