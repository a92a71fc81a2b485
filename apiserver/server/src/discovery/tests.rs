use super::*;
use crate::registry::Registry;

/// A registry with the built-in kinds and one CRD of two versions.
fn resources() -> Arc<Resources> {
    let registry = Registry::new(crate::builtin::resources());
    registry.extend(crate::crd::resources_of(&crate::crd::sample(), Origin::Crd("uid".to_owned())).unwrap());
    registry.snapshot()
}

fn get(path: &str, headers: &[(&str, &str)]) -> Result<Response<Bytes>, Status> {
    let mut request = http::Request::get(path).header("host", "127.0.0.1:6443");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    Discovery.serve(&resources(), &parts)
}

fn document(path: &str, accept: &str) -> Value {
    let headers: &[(&str, &str)] = if accept.is_empty() { &[] } else { &[("accept", accept)] };
    serde_json::from_slice(get(path, headers).unwrap().body()).unwrap()
}

#[test]
fn separate_documents() {
    insta::assert_json_snapshot!("api", document("/api", ""));
    insta::assert_json_snapshot!("api-v1", document("/api/v1", ""));
    insta::assert_json_snapshot!("apis", document("/apis/", "application/json, */*"));
    insta::assert_json_snapshot!("group", document("/apis/example.com", ""));
    insta::assert_json_snapshot!("group-version", document("/apis/example.com/v1", ""));
}

#[test]
fn aggregated_documents() {
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
              application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    insta::assert_json_snapshot!("aggregated-api", document("/api", v2));
    insta::assert_json_snapshot!("aggregated-apis", document("/apis", v2));
    assert_eq!(document("/apis", old)["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    assert_eq!(document("/apis", old)["items"], document("/apis", v2)["items"]);
}

#[test]
fn an_unchanged_document_is_not_sent_again() {
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let first = get("/apis", &[accept]).unwrap();
    assert_eq!(
        first.headers()[header::CONTENT_TYPE],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
    let second = get("/apis", &[accept, ("if-none-match", &etag)]).unwrap();
    assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
    assert!(second.body().is_empty());
    let third = get("/apis", &[accept, ("if-none-match", "\"other\"")]).unwrap();
    assert_eq!(third.body(), first.body());
}

#[test]
fn what_is_not_there_says_so() {
    for path in ["/apis/absent.example.com", "/apis/example.com/v9", "/api/v2", "/api/v1/x/y"] {
        let status = get(path, &[]).unwrap_err();
        assert_eq!((status.code(), status.reason()), (StatusCode::NOT_FOUND, "NotFound"), "{path}");
    }
    let status = get("/apis", &[("accept", "application/vnd.kubernetes.protobuf")]).unwrap_err();
    assert_eq!(status.code(), StatusCode::NOT_ACCEPTABLE);
}

#[test]
fn both_views_of_events_are_stored_alike() {
    let hash = |path: &str| {
        let list = document(path, "");
        let events = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "events").unwrap().clone();
        events["storageVersionHash"].clone()
    };
    // The value that every Kubernetes cluster shows.
    assert_eq!(hash("/api/v1"), "r2yiGXH7wu8=");
    assert_eq!(hash("/apis/events.k8s.io/v1"), "r2yiGXH7wu8=");
}
