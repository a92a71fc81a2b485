//! Create, read, update, patch and delete over raw HTTP: status codes, reasons and texts as kube-apiserver gives them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{CONFIG_MAPS, WIDGETS, api, config_map, widget};

#[tokio::test]
async fn a_config_map_from_create_to_delete() {
    let api = api().await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert!(metadata["uid"].as_str().unwrap().len() == 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let version = metadata["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(metadata["managedFields"][0]["operation"], "Update");
    assert_eq!(metadata["managedFields"][0]["fieldsV1"], json!({"f:data": {".": {}, "f:k": {}}}));

    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(api.get(&path).await.expect(200), made);

    // The same again writes nothing.
    let same = api.put(&path, &made).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], version.as_str());

    let mut changed = made.clone();
    changed["data"]["k"] = json!("w");
    let changed = api.put(&path, &changed).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], version.as_str());
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);

    let (code, reason, message) = api.put(&path, &made).await.failure();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let gone = api.delete(&path).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    assert_eq!(api.get(&path).await.failure(), (404, "NotFound".to_owned(), "configmaps \"a\" not found".to_owned()));
}

#[tokio::test]
async fn refusals_have_kubernetes_codes_and_texts() {
    let api = api().await;
    api.post(CONFIG_MAPS, &config_map("taken", &json!({}))).await.expect(201);
    let other_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
    let other_version = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let other_namespace =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "kube-system"}});
    let cases: Vec<(&str, String, Value, u16, &str, &str)> = vec![
        (
            "POST",
            CONFIG_MAPS.into(),
            config_map("taken", &json!({})),
            409,
            "AlreadyExists",
            "configmaps \"taken\" already exists",
        ),
        (
            "POST",
            "/api/v1/namespaces/nowhere/configmaps".into(),
            config_map("x", &json!({})),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            "POST",
            CONFIG_MAPS.into(),
            other_version,
            400,
            "BadRequest",
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\"",
        ),
        (
            "POST",
            CONFIG_MAPS.into(),
            other_namespace,
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "PUT",
            format!("{CONFIG_MAPS}/b"),
            config_map("a", &json!({})),
            400,
            "BadRequest",
            "the name of the object (a) does not match the name on the URL (b)",
        ),
        ("PUT", format!("{CONFIG_MAPS}/b"), config_map("b", &json!({})), 404, "NotFound", "configmaps \"b\" not found"),
        ("DELETE", format!("{CONFIG_MAPS}/b"), Value::Null, 404, "NotFound", "configmaps \"b\" not found"),
        (
            "GET",
            "/api/v1/namespaces/default/nothings".into(),
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "POST",
            "/api/v1/configmaps".into(),
            config_map("x", &json!({})),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default".into(),
            Value::Null,
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "GET",
            format!("{CONFIG_MAPS}?limit=x"),
            Value::Null,
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "GET",
            format!("{CONFIG_MAPS}?fieldSelector=spec.foo%3D1"),
            Value::Null,
            400,
            "BadRequest",
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
    ];
    for (method, path, body, code, reason, message) in cases {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = api.raw(method, &path, &[("content-type", "application/json")], body).await;
        assert_eq!(answer.failure(), (code, reason.to_owned(), message.to_owned()), "{method} {path}");
    }
    let answer = api.post(CONFIG_MAPS, &other_kind).await;
    assert_eq!(answer.code, 400, "{}", answer.text());
}

#[tokio::test]
async fn media_types_are_negotiated() {
    let api = api().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n";
    let made = api
        .raw("POST", CONFIG_MAPS, &[("content-type", "application/yaml"), ("accept", "application/yaml")], yaml)
        .await;
    assert_eq!(made.code, 201, "{}", made.text());
    assert!(made.text().contains("kind: ConfigMap"), "{}", made.text());
    let cbor = [("content-type", "application/cbor")];
    let refused = api.raw("POST", CONFIG_MAPS, &cbor, "x").await.failure();
    assert_eq!((refused.0, refused.1.as_str()), (415, "UnsupportedMediaType"));
    let refused = api.raw("GET", CONFIG_MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await.failure();
    assert_eq!((refused.0, refused.1.as_str()), (406, "NotAcceptable"));
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let list = api.raw("GET", CONFIG_MAPS, &partial, "").await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((&list["items"][0]["kind"], &list["items"][0]["metadata"]["name"]), (&Value::Null, &json!("y")));
    assert!(list["items"][0].get("data").is_none());
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let list = api.raw("GET", CONFIG_MAPS, &table, "").await.expect(200);
    assert_eq!((list["kind"].as_str(), list["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("y")));
    assert_eq!(list["rows"][0]["object"]["metadata"]["name"], "y");
}

#[tokio::test]
async fn patches() {
    let api = api().await.with_widgets().await;
    api.post(WIDGETS, &widget("w", &json!({"size": 1, "parts": [{"name": "a", "count": 1}]}))).await.expect(201);
    let path = format!("{WIDGETS}/w");
    let merged = api.patch("merge-patch", &path, &json!({"spec": {"size": 2}})).await.expect(200);
    assert_eq!(merged["spec"]["size"], 2);
    let patched = api
        .patch("json-patch", &path, &json!([{"op": "test", "path": "/spec/size", "value": 2}, {"op": "replace", "path": "/spec/size", "value": 3}]))
        .await
        .expect(200);
    assert_eq!(patched["spec"]["size"], 3);
    assert_eq!(patched["metadata"]["generation"], 3);
    let refused = api.patch("json-patch", &path, &json!([{"op": "test", "path": "/spec/size", "value": 9}])).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    let refused = api.patch("strategic-merge-patch", &path, &json!({})).await.failure();
    assert_eq!(refused.0, 415, "custom resources have none");
    let conflict = api.patch("merge-patch", &path, &json!({"metadata": {"resourceVersion": "1"}})).await.failure();
    assert_eq!((conflict.0, conflict.1.as_str()), (409, "Conflict"));

    // Strategic merge on a built-in kind.
    api.post(CONFIG_MAPS, &config_map("s", &json!({"a": "1", "b": "2"}))).await.expect(201);
    let strategic =
        api.patch("strategic-merge-patch", &format!("{CONFIG_MAPS}/s"), &json!({"data": {"a": null, "c": "3"}})).await;
    assert_eq!(strategic.expect(200)["data"], json!({"b": "2", "c": "3"}));
}

#[tokio::test]
async fn server_side_apply_creates_shares_and_conflicts() {
    let api = api().await.with_widgets().await;
    let path = format!("{WIDGETS}/w?fieldManager=one");
    let config = widget("w", &json!({"size": 1}));
    let made = api.patch("apply", &path, &config).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made["spec"]["color"], "red", "defaulted");
    let again = api.patch("apply", &path, &config).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let other = format!("{WIDGETS}/w?fieldManager=two");
    let refused = api.patch("apply", &other, &widget("w", &json!({"size": 2}))).await;
    let status = refused.json();
    assert_eq!(refused.failure().0, 409);
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\": .spec.size");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced =
        api.patch("apply", &format!("{other}&force=true"), &widget("w", &json!({"size": 2}))).await.expect(200);
    assert_eq!(forced["spec"]["size"], 2);
    let nameless = api.patch("apply", &format!("{WIDGETS}/w"), &config).await.failure();
    assert_eq!(nameless.0, 422);
    assert!(nameless.2.contains("fieldManager: Required value: is required for apply patch"), "{}", nameless.2);
    let yaml = "apiVersion: test.pullpiri.io/v1\nkind: Widget\nmetadata:\n  name: y\nspec:\n  size: 5\n";
    let made = api
        .raw(
            "PATCH",
            &format!("{WIDGETS}/y?fieldManager=one"),
            &[("content-type", "application/apply-patch+yaml")],
            yaml,
        )
        .await
        .expect(201);
    assert_eq!(made["spec"]["size"], 5);
}

#[tokio::test]
async fn status_is_apart_and_generation_counts_desire() {
    let api = api().await.with_widgets().await;
    let mut object = widget("w", &json!({"size": 1}));
    object["status"] = json!({"phase": "Lies"});
    let made = api.post(WIDGETS, &object).await.expect(201);
    assert!(made.get("status").is_none());
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{WIDGETS}/w");
    let mut report = made.clone();
    report["status"] = json!({"phase": "Ready"});
    report["spec"]["size"] = json!(50);
    report["metadata"]["labels"] = json!({"x": "y"});
    let reported = api.put(&format!("{path}/status"), &report).await.expect(200);
    assert_eq!(reported["status"]["phase"], "Ready");
    assert_eq!(reported["spec"]["size"], 1);
    assert!(reported["metadata"].get("labels").is_none());
    assert_eq!(reported["metadata"]["generation"], 1);
    assert_eq!(reported["metadata"]["managedFields"][1]["subresource"], "status");
    let mut wish = reported.clone();
    wish["spec"]["size"] = json!(2);
    wish["status"] = json!({"phase": "Lies"});
    let wished = api.put(&path, &wish).await.expect(200);
    assert_eq!(wished["status"]["phase"], "Ready");
    assert_eq!(wished["metadata"]["generation"], 2);
    let labelled = api.patch("merge-patch", &path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    let (code, _, message) = api.put(&path, &widget("w", &json!({"size": 3}))).await.failure();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "widgets.test.pullpiri.io \"w\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
}

#[tokio::test]
async fn scale() {
    let api = api().await.with_widgets().await;
    api.post(WIDGETS, &widget("w", &json!({"replicas": 2}))).await.expect(201);
    let path = format!("{WIDGETS}/w/scale");
    let mut scale = api.get(&path).await.expect(200);
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(2)));
    scale["spec"]["replicas"] = json!(5);
    assert_eq!(api.put(&path, &scale).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, &scale).await.failure().0, 409);
    let patched = api.patch("merge-patch", &path, &json!({"spec": {"replicas": 7}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 7);
    assert_eq!(api.get(&format!("{WIDGETS}/w")).await.expect(200)["spec"]["replicas"], 7);
}

#[tokio::test]
async fn unknown_and_duplicate_fields() {
    let api = api().await.with_widgets().await;
    let body = r#"{"apiVersion":"test.pullpiri.io/v1","kind":"Widget","metadata":{"name":"NAME"},"spec":{"size":1,"size":2,"nope":1}}"#;
    let send = |query: &'static str, name: &'static str| {
        let api = api.clone();
        async move {
            let body = body.replace("NAME", name);
            api.raw("POST", &format!("{WIDGETS}{query}"), &[("content-type", "application/json")], body).await
        }
    };
    let warned = send("", "a").await;
    assert_eq!(
        warned.warnings(),
        ["299 - \"duplicate field \\\"spec.size\\\"\"", "299 - \"unknown field \\\"spec.nope\\\"\""]
    );
    let made = warned.expect(201);
    assert_eq!(made["spec"], json!({"size": 2, "color": "red"}));
    assert!(send("?fieldValidation=Ignore", "b").await.warnings().is_empty());
    let (code, reason, message) = send("?fieldValidation=Strict", "c").await.failure();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    assert_eq!(
        message,
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.size\", unknown field \"spec.nope\""
    );
}

#[tokio::test]
async fn schema_violations_are_causes() {
    let api = api().await.with_widgets().await;
    let answer = api.post(WIDGETS, &widget("w", &json!({"size": 1000, "color": "mauve"}))).await;
    let status = answer.json();
    assert_eq!(answer.failure().0, 422);
    let causes: Vec<(&str, &str)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["reason"].as_str().unwrap(), cause["field"].as_str().unwrap()))
        .collect();
    assert!(causes.contains(&("FieldValueInvalid", "spec.size")), "{status}");
    assert!(causes.contains(&("FieldValueNotSupported", "spec.color")), "{status}");
    assert_eq!(status["details"]["kind"], "Widget");
    let answer = api.post(WIDGETS, &widget("w", &json!({"size": 13}))).await;
    assert!(answer.failure().2.contains("13 brings bad luck"), "{}", answer.text());
    let answer = api.post(WIDGETS, &widget("Not_A_Name", &json!({"size": 1}))).await;
    let (code, _, message) = answer.failure();
    assert_eq!(code, 422, "{message}");
    assert!(message.contains("metadata.name: Invalid value: \"Not_A_Name\""), "{message}");
    let answer = api.post(WIDGETS, &widget("", &json!({"size": 1}))).await;
    assert!(answer.failure().2.contains("name or generateName is required"), "{}", answer.text());
}

#[tokio::test]
async fn dry_runs_leave_nothing() {
    let api = api().await;
    let made = api.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", &json!({}))).await.expect(201);
    assert!(made["metadata"]["uid"].is_string());
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.failure().0, 404);
    let real = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    assert_eq!(api.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", &json!({}))).await.failure().0, 409);
    let patched = api
        .patch("merge-patch", &format!("{CONFIG_MAPS}/a?dryRun=All"), &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    assert_eq!(patched["data"]["x"], "y");
    api.delete(&format!("{CONFIG_MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), real);
    let refused = api.delete(&format!("{CONFIG_MAPS}/a?dryRun=Maybe")).await.failure();
    assert_eq!(refused.0, 422);
}

#[tokio::test]
async fn names_are_generated() {
    let api = api().await;
    let template = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let made = api.post(CONFIG_MAPS, &template).await.expect(201);
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
        assert!(names.insert(name));
    }
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object() {
    let api = api().await.with_widgets().await;
    let mut object = widget("w", &json!({"size": 1}));
    object["metadata"]["finalizers"] = json!(["test.pullpiri.io/hold"]);
    api.post(WIDGETS, &object).await.expect(201);
    let path = format!("{WIDGETS}/w");
    let held = api.delete(&path).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(held["metadata"]["generation"], 2);
    let again = api.delete(&path).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], held["metadata"]["resourceVersion"], "marked once");
    let exists = api.post(WIDGETS, &object).await.failure();
    assert_eq!(exists.2, "object is being deleted: widgets.test.pullpiri.io \"w\" already exists");
    let added =
        api.patch("merge-patch", &path, &json!({"metadata": {"finalizers": ["test.pullpiri.io/hold", "x/y"]}})).await;
    assert_eq!(added.code, 422, "no new finalizers on a deleted object: {}", added.text());
    let last = api.patch("json-patch", &path, &json!([{"op": "remove", "path": "/metadata/finalizers"}])).await;
    last.expect(200);
    assert_eq!(api.get(&path).await.failure().0, 404);
}

#[tokio::test]
async fn deletions_check_their_preconditions() {
    let api = api().await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let delete = |preconditions: Value| {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}).to_string();
        let (api, path) = (api.clone(), path.clone());
        async move { api.raw("DELETE", &path, &[("content-type", "application/json")], body).await }
    };
    let refused = delete(json!({"uid": "other"})).await.failure();
    assert_eq!(refused.0, 409);
    assert!(
        refused.2.contains("the UID in the precondition (other) does not match the UID in record"),
        "{}",
        refused.2
    );
    assert_eq!(delete(json!({"resourceVersion": "1"})).await.failure().0, 409);
    delete(json!({"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}))
        .await
        .expect(200);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let api = api().await;
    for (name, tier) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name, &json!({}));
        object["metadata"]["labels"] = json!({"tier": tier});
        api.post(CONFIG_MAPS, &object).await.expect(201);
    }
    let deleted = api.delete(&format!("{CONFIG_MAPS}?labelSelector=tier%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = api.get(CONFIG_MAPS).await.expect(200);
    let names: Vec<&str> =
        left["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn only_health_and_version_are_open() {
    let api = api().await;
    let anyone = api.anonymous();
    for path in ["/livez", "/readyz", "/readyz?verbose", "/readyz/ping", "/version"] {
        assert_eq!(anyone.get(path).await.code, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", CONFIG_MAPS, "/metrics", "/openapi/v2", "/nope"] {
        assert_eq!(
            anyone.get(path).await.failure(),
            (401, "Unauthorized".to_owned(), "Unauthorized".to_owned()),
            "{path}"
        );
    }
    assert!(api.get("/readyz?verbose").await.text().ends_with("readyz check passed\n"));
    assert_eq!(api.get("/version").await.expect(200)["minor"], "37");
    assert!(api.get("/metrics").await.text().contains("pullpiri_apiserver_requests_total"));
    assert_eq!(api.get("/nope").await.failure().0, 404);
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let api = api().await;
    let body = "x".repeat(4 * 1024 * 1024);
    let (code, reason, message) = api.raw("POST", CONFIG_MAPS, &[], body).await.failure();
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(message, "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn the_in_flight_limit_answers_429() {
    let api = support::api_with(|config| config.limits.max_mutating_in_flight = 0).await;
    let answer = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    assert_eq!(answer.headers["retry-after"], "1");
    let (code, reason, message) = answer.failure();
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(message, "Too many requests, please try again later.");
    assert!(
        api.get("/metrics").await.text().contains("pullpiri_apiserver_requests_dropped_total{kind=\"mutating\"} 1")
    );
}
