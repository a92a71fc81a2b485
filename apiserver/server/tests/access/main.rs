//! Authorisation, tokens, impersonation and the questions about them, over a server with its roles in force.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use pullpiri_apiserver::access::NodeAccess;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use support::{Answer, Api, CONFIG_MAPS, WIDGETS, api_with, config_map, widget};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const MAY: &str = "/apis/authorization.k8s.io/v1";
const WHO: &str = "/apis/authentication.k8s.io/v1";

/// As an administrator.
async fn cluster() -> Api {
    api_with(|config| config.authorizer = None).await.as_user("admin", &["system:masters"])
}

fn cluster_role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    })
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name})
}

/// Gives a user a role in `default`.
async fn grant(admin: &Api, name: &str, role: &str) {
    let mut binding = binding(&format!("{name}-{role}"), role, user(name));
    binding["kind"] = json!("RoleBinding");
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.expect(201);
}

/// Gives a user rules everywhere.
async fn grant_rules(admin: &Api, name: &str, rules: Value) {
    let role = format!("{name}-rules");
    admin.post(&format!("{RBAC}/clusterroles"), &cluster_role(&role, rules)).await.expect(201);
    let mut binding = binding(&role, &role, user(name));
    binding["kind"] = json!("ClusterRoleBinding");
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
}

#[track_caller]
fn refused(answer: &Answer, message: &str) {
    assert_eq!(answer.failure(), (403, "Forbidden".to_owned(), message.to_owned()));
}

#[tokio::test]
async fn nobody_may_anything_until_a_role_says_so() {
    let admin = cluster().await.with_widgets().await;
    let eve = admin.as_user("eve", &["crew"]);
    let cases = [
        (
            eve.get(CONFIG_MAPS).await,
            "configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"",
        ),
        (
            eve.get("/api/v1/namespaces/default").await,
            "namespaces \"default\" is forbidden: User \"eve\" cannot get resource \"namespaces\" in API group \"\" in the namespace \
             \"default\"",
        ),
        (
            eve.get("/api/v1/secrets?watch=1").await,
            "secrets is forbidden: User \"eve\" cannot watch resource \"secrets\" in API group \"\" at the cluster scope",
        ),
        (
            eve.patch("merge-patch", &format!("{WIDGETS}/w/status"), &json!({})).await,
            "widgets.test.pullpiri.io \"w\" is forbidden: User \"eve\" cannot patch resource \"widgets/status\" in API group \
             \"test.pullpiri.io\" in the namespace \"default\"",
        ),
        (
            eve.get("/api/v1/namespaces/default/pods/x").await,
            "pods \"x\" is forbidden: User \"eve\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (eve.get("/metrics").await, "forbidden: User \"eve\" cannot get path \"/metrics\""),
        (eve.get("/").await, "forbidden: User \"eve\" cannot get path \"/\""),
    ];
    for (answer, message) in cases {
        refused(&answer, message);
    }
    for path in
        ["/api", "/apis", "/api/v1", "/apis/test.pullpiri.io/v1", "/openapi/v3", "/version", "/readyz", "/healthz"]
    {
        assert_eq!(eve.get(path).await.code, 200, "{path}");
    }

    grant(&admin, "eve", "view").await;
    eve.get(CONFIG_MAPS).await.expect(200);
    eve.get("/api/v1/namespaces/default").await.expect(200);
    assert_eq!(eve.get("/api/v1/configmaps").await.code, 403);
    assert_eq!(eve.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.code, 403);
    grant(&admin, "eve", "edit").await;
    eve.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    // What is taken away is gone when the answer is there.
    admin.delete(&format!("{RBAC}/namespaces/default/rolebindings/eve-edit")).await.expect(200);
    assert_eq!(eve.post(CONFIG_MAPS, &config_map("b", &json!({}))).await.code, 403);
}

#[tokio::test]
async fn without_credentials_health_and_version_alone() {
    let admin = cluster().await;
    let anyone = admin.anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/version"] {
        assert_eq!(anyone.get(path).await.code, 200, "{path}");
    }
    refused(&anyone.get("/livez/ping").await, "forbidden: User \"system:anonymous\" cannot get path \"/livez/ping\"");
    for path in ["/api", CONFIG_MAPS, "/metrics", "/openid/v1/jwks"] {
        assert_eq!(anyone.get(path).await.failure().0, 401, "{path}");
    }
    // Roles decide about it, as about everything.
    let path = format!("{RBAC}/clusterrolebindings/system:public-info-viewer");
    let patch = json!({"subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}]});
    admin.patch("merge-patch", &path, &patch).await.expect(200);
    refused(&anyone.get("/livez").await, "forbidden: User \"system:anonymous\" cannot get path \"/livez\"");
}

#[tokio::test]
async fn names_and_verbs_that_only_rules_have() {
    let admin = cluster().await;
    let eve = admin.as_user("eve", &[]);
    let named = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "list", "watch", "update"]}]);
    grant_rules(&admin, "eve", named).await;
    admin.post(CONFIG_MAPS, &config_map("mine", &json!({}))).await.expect(201);
    eve.get(&format!("{CONFIG_MAPS}/mine")).await.expect(200);
    assert_eq!(eve.get(&format!("{CONFIG_MAPS}/other")).await.code, 403);
    assert_eq!(eve.get(CONFIG_MAPS).await.code, 403);
    // A list or watch of one object is about that object.
    eve.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dmine")).await.expect(200);
    assert_eq!(eve.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dother")).await.code, 403);
    // An update that would create is a create, too.
    let bob = admin.as_user("bob", &[]);
    grant_rules(
        &admin,
        "bob",
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update", "patch"]}]),
    )
    .await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let message = "leases.coordination.k8s.io \"l\" is forbidden: User \"bob\" cannot create resource \"leases\" in API group \
                   \"coordination.k8s.io\" in the namespace \"default\"";
    refused(&bob.put(path, &lease).await, message);
    refused(&bob.patch("apply", &format!("{path}?fieldManager=x"), &lease).await, message);
    admin.put(path, &lease).await.expect(201);
    bob.put(path, &lease).await.expect(200);
}

#[tokio::test]
async fn nobody_grants_what_it_does_not_hold() {
    let admin = cluster().await;
    let eve = admin.as_user("eve", &[]);
    grant(&admin, "eve", "admin").await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": rules});
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    eve.post(&roles, &role(secrets)).await.expect(201);
    refused(
        &eve.put(&format!("{roles}/r"), &role(everything.clone())).await,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"eve\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}",
    );
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let bind = |name: &str, role: &str| {
        let mut binding = binding(name, role, user("bob"));
        binding["kind"] = json!("RoleBinding");
        binding
    };
    eve.post(&bindings, &bind("ok", "edit")).await.expect(201);
    assert_eq!(eve.post(&bindings, &bind("no", "cluster-admin")).await.failure().0, 403);
    let absent = eve.post(&bindings, &bind("no", "absent")).await.failure();
    assert_eq!(
        absent,
        (404, "NotFound".to_owned(), "clusterrole.rbac.authorization.k8s.io \"absent\" not found".to_owned())
    );
    // Garbage collection's fields are free to change.
    let patch = json!({"metadata": {"finalizers": ["a.b/c"]}});
    eve.patch("merge-patch", &format!("{bindings}/ok"), &patch).await.expect(200);

    grant_rules(&admin, "eve",
            json!([
                {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"], "verbs": ["escalate", "create", "update"]},
                {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"], "verbs": ["bind"]},
            ]),
        )
        .await;
    eve.put(&format!("{roles}/r"), &role(everything)).await.expect(200);
    eve.post(&bindings, &bind("yes", "cluster-admin")).await.expect(201);
    // Gathering can give anything.
    let bob = admin.as_user("bob", &[]);
    grant_rules(
        &admin,
        "bob",
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create"]}]),
    )
    .await;
    let mut gathering = cluster_role("g", Value::Null);
    gathering["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    refused(
        &bob.post(&format!("{RBAC}/clusterroles"), &gathering).await,
        "clusterroles.rbac.authorization.k8s.io \"g\" is forbidden: must have cluster-admin privileges to use the aggregationRule",
    );
    // A binding's role stays.
    let changed = eve.put(&format!("{bindings}/ok"), &bind("ok", "view")).await.failure();
    assert_eq!(changed.0, 422);
    assert!(changed.2.ends_with("field is immutable"), "{changed:?}");
}

#[tokio::test]
async fn roles_that_gather_are_written_and_defaults_come_back() {
    let store = Arc::new(MemoryStore::new());
    let open = |store: Arc<MemoryStore>| {
        api_with(move |config| {
            config.authorizer = None;
            config.store = store;
        })
    };
    let admin = open(Arc::clone(&store)).await.as_user("admin", &["system:masters"]);
    let mut widgets = cluster_role(
        "widgets",
        json!([{"apiGroups": ["test.pullpiri.io"], "resources": ["widgets"], "verbs": ["get"]}]),
    );
    widgets["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    admin.post(&format!("{RBAC}/clusterroles"), &widgets).await.expect(201);
    for role in ["view", "edit", "admin"] {
        let path = format!("{RBAC}/clusterroles/{role}");
        admin.until(&path, |role| role["rules"].to_string().contains("widgets")).await;
    }
    admin.delete(&format!("{RBAC}/clusterroles/system:discovery")).await.expect(200);
    let protected = format!("{RBAC}/clusterroles/system:basic-user");
    let patch =
        json!({"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    admin.patch("merge-patch", &protected, &patch).await.expect(200);
    admin.server.stop();

    let admin = open(store).await.as_user("admin", &["system:masters"]);
    admin.get(&format!("{RBAC}/clusterroles/system:discovery")).await.expect(200);
    assert_eq!(admin.get(&protected).await.expect(200)["rules"], json!([]));
    // The rest wasn't touched.
    let path = format!("{RBAC}/clusterroles/cluster-admin");
    let before = admin.get(&path).await.expect(200)["metadata"]["resourceVersion"].clone();
    let latest = admin.get(&format!("{RBAC}/clusterroles")).await.expect(200);
    assert!(
        before.as_str().unwrap().parse::<u64>().unwrap()
            < latest["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    );
}

#[tokio::test]
async fn questions_about_access() {
    let admin = cluster().await;
    let eve = admin.as_user("eve", &["crew"]);
    grant(&admin, "eve", "view").await;
    let ask = |attributes: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": attributes});
    let own = format!("{MAY}/selfsubjectaccessreviews");
    let question =
        ask(json!({"resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "default"}}));
    let answer = eve.post(&own, &question).await.expect(201);
    assert_eq!(
        answer["status"],
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"eve-view/default\" of ClusterRole \"view\" to User \"eve\""})
    );
    assert_eq!(answer["spec"], question["spec"]);
    let question =
        ask(json!({"resourceAttributes": {"verb": "delete", "resource": "configmaps", "namespace": "default"}}));
    assert_eq!(eve.post(&own, &question).await.expect(201)["status"], json!({"allowed": false}));
    let question = ask(json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}));
    assert_eq!(admin.post(&own, &question).await.expect(201)["status"], json!({"allowed": true}));
    let (code, _, message) = eve.post(&own, &ask(json!({}))).await.failure();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        ".authorization.k8s.io \"\" is invalid: spec: Invalid value: null: exactly one of nonResourceAttributes or \
         resourceAttributes must be specified"
    );
    assert_eq!(admin.get(&own).await.code, 405);

    let about = |kind: &str, extra: Value| {
        let mut spec = json!({"user": "eve", "groups": ["crew"], "resourceAttributes": {"verb": "get", "resource": "configmaps", "namespace": "default"}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
    };
    let others = format!("{MAY}/subjectaccessreviews");
    assert_eq!(
        admin.post(&others, &about("SubjectAccessReview", json!({}))).await.expect(201)["status"]["allowed"],
        true
    );
    assert_eq!(eve.post(&others, &about("SubjectAccessReview", json!({}))).await.code, 403);
    let nobody = about("SubjectAccessReview", json!({"user": "", "groups": []}));
    assert_eq!(admin.post(&others, &nobody).await.code, 422);
    let local = format!("{MAY}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(
        admin.post(&local, &about("LocalSubjectAccessReview", json!({}))).await.expect(201)["status"]["allowed"],
        true
    );
    let elsewhere = json!({"resourceAttributes": {"verb": "get", "resource": "configmaps", "namespace": "other"}});
    assert_eq!(admin.post(&local, &about("LocalSubjectAccessReview", elsewhere)).await.code, 422);

    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let status = eve.post(&format!("{MAY}/selfsubjectrulesreviews"), &rules).await.expect(201)["status"].clone();
    assert_eq!(status["incomplete"], false);
    let text = status.to_string();
    for part in ["selfsubjectreviews", "configmaps", "/openapi/*"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = eve.post(&format!("{WHO}/selfsubjectreviews"), &who).await.expect(201);
    assert_eq!(answer["status"]["userInfo"], json!({"username": "eve", "groups": ["crew", "system:authenticated"]}));
}

#[tokio::test]
async fn acting_as_somebody_else() {
    let admin = cluster().await;
    grant(&admin, "vic", "view").await;
    let whoami = |api: &Api, headers: Vec<(&'static str, &'static str)>| {
        let api = api.clone();
        async move {
            let mut headers = headers;
            headers.push(("content-type", "application/json"));
            let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
            api.raw("POST", &format!("{WHO}/selfsubjectreviews"), &headers, body).await
        }
    };
    let info = whoami(
        &admin,
        vec![
            ("impersonate-user", "vic"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-x.io%2fscope", "s"),
        ],
    )
    .await
    .expect(201)["status"]["userInfo"]
        .clone();
    assert_eq!(
        info,
        json!({"username": "vic", "uid": "7", "groups": ["a", "b", "system:authenticated"], "extra": {"x.io/scope": ["s"]}})
    );
    let info = whoami(&admin, vec![("impersonate-user", "system:serviceaccount:demo:robot")]).await.expect(201);
    assert_eq!(
        info["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:demo", "system:authenticated"])
    );
    let as_vic = [("impersonate-user", "vic")];
    assert_eq!(admin.raw("GET", CONFIG_MAPS, &as_vic, "").await.code, 200);
    assert_eq!(admin.raw("GET", "/api/v1/secrets", &as_vic, "").await.code, 403);
    let (code, _, message) = whoami(&admin, vec![("impersonate-group", "g")]).await.failure();
    assert_eq!(code, 400);
    assert_eq!(
        message,
        "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"g\"}, Extra:map[string][]string(nil)} without impersonating a \
         user name"
    );

    let eve = admin.as_user("eve", &[]);
    refused(
        &eve.raw("GET", CONFIG_MAPS, &as_vic, "").await,
        "configmaps is forbidden: User \"eve\" cannot impersonate-on:user-info:list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\"",
    );
    grant_rules(
        &admin,
        "eve",
        json!([{"apiGroups": [""], "resources": ["users"], "resourceNames": ["vic"], "verbs": ["impersonate"]}]),
    )
    .await;
    assert_eq!(eve.raw("GET", CONFIG_MAPS, &as_vic, "").await.code, 200);
    assert_eq!(eve.raw("GET", CONFIG_MAPS, &[("impersonate-user", "admin")], "").await.code, 403);
    assert_eq!(
        eve.raw("GET", CONFIG_MAPS, &[("impersonate-user", "vic"), ("impersonate-group", "system:masters")], "")
            .await
            .code,
        403
    );

    // Constrained: this user, for lists alone.
    let bob = admin.as_user("bob", &[]);
    grant_rules(&admin, "bob",
            json!([
                {"apiGroups": ["authentication.k8s.io"], "resources": ["users", "groups"], "verbs": ["impersonate:user-info"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]},
            ]),
        )
        .await;
    assert_eq!(bob.raw("GET", CONFIG_MAPS, &as_vic, "").await.code, 200);
    assert_eq!(bob.raw("GET", &format!("{CONFIG_MAPS}/x"), &as_vic, "").await.code, 403);
    let (code, _, message) = bob
        .raw("GET", CONFIG_MAPS, &[("impersonate-user", "vic"), ("impersonate-group", "system:masters")], "")
        .await
        .failure();
    assert_eq!(code, 403);
    assert!(message.ends_with("impersonating the system:masters group is not allowed"), "{message}");
}

#[tokio::test]
async fn a_node_sees_what_is_bound_to_it() {
    let policy = json!({
        "userPrefix": "system:node:", "group": "system:nodes",
        "own": [{"apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": "kube-node-lease", "name": "{node}",
                 "verbs": ["get", "create", "update"], "writes": ["spec"]}],
        "bound": [{"apiGroup": "test.pullpiri.io", "resource": "widgets", "field": "spec.color", "verbs": ["get", "list", "watch", "patch"],
                   "statusVerbs": ["patch"], "writes": ["metadata.finalizers[a.b/c]"],
                   "references": [{"apiGroup": "", "resource": "configmaps", "paths": ["spec.parts[].name"]}]}],
        "rules": [],
    });
    let nodes = NodeAccess::parse(&policy, |name| Some(name.to_lowercase())).unwrap();
    let admin = api_with(move |config| {
        config.authorizer = None;
        config.nodes = Some(nodes);
    })
    .await
    .as_user("admin", &["system:masters"])
    .with_widgets()
    .await;
    let red = admin.as_user("system:node:RED", &["system:nodes"]);
    let maps = ["a", "b"];
    for name in maps {
        admin.post(CONFIG_MAPS, &config_map(name, &json!({}))).await.expect(201);
    }
    let unrelated = "no relationship found between node 'red' and this object";
    let message = |why: &str| {
        format!(
            "configmaps \"a\" is forbidden: User \"system:node:RED\" cannot get resource \"configmaps\" in API group \"\" in the namespace \
             \"default\": {why}"
        )
    };
    refused(&red.get(&format!("{CONFIG_MAPS}/a")).await, &message(unrelated));
    // Right after the write that binds, every time.
    for round in 0..20 {
        let name = format!("w{round}");
        admin.post(WIDGETS, &widget(&name, &json!({"color": "red", "parts": [{"name": "a"}]}))).await.expect(201);
        red.get(&format!("{WIDGETS}/{name}")).await.expect(200);
        red.get(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    }
    assert_eq!(red.get(&format!("{CONFIG_MAPS}/b")).await.code, 403);
    admin.post(WIDGETS, &widget("green", &json!({"color": "green", "parts": [{"name": "b"}]}))).await.expect(201);
    assert_eq!(red.get(&format!("{WIDGETS}/green")).await.code, 403);
    let listed = red.get("/apis/test.pullpiri.io/v1/widgets?fieldSelector=spec.color%3Dred").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 20);
    assert_eq!(red.get("/apis/test.pullpiri.io/v1/widgets").await.code, 403);
    assert_eq!(red.get("/apis/test.pullpiri.io/v1/widgets?fieldSelector=spec.color%3Dgreen").await.code, 403);

    let status = json!({"status": {"phase": "Running"}});
    red.patch("merge-patch", &format!("{WIDGETS}/w0/status"), &status).await.expect(200);
    refused(
        &red.patch("merge-patch", &format!("{WIDGETS}/green/status"), &status).await,
        "widgets.test.pullpiri.io \"green\" is forbidden: node \"red\" can only write the status of widgets with spec.color set to itself",
    );
    red.patch("merge-patch", &format!("{WIDGETS}/w0"), &json!({"metadata": {"finalizers": ["a.b/c"]}}))
        .await
        .expect(200);
    let others = [
        json!({"spec": {"size": 3}}),
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"metadata": {"finalizers": ["a.b/c", "a.b/d"]}}),
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"}]}}),
    ];
    for other in others {
        refused(
            &red.patch("merge-patch", &format!("{WIDGETS}/w0"), &other).await,
            "widgets.test.pullpiri.io \"w0\" is forbidden: node \"red\" can only change metadata.finalizers[a.b/c] of widgets, and their status",
        );
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    // By way of the status nothing else changes, whoever it is.
    let sneaky = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}, "status": {"phase": "Failed"}});
    let told = red.patch("merge-patch", &format!("{WIDGETS}/w0/status"), &sneaky).await.expect(200);
    assert_eq!((&told["metadata"]["labels"], &told["metadata"]["annotations"]), (&Value::Null, &Value::Null));
    refused(
        &red.post(leases, &json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "red", "labels": {"a": "b"}}})).await,
        "leases.coordination.k8s.io \"red\" is forbidden: node \"red\" can only change spec of leases, and their status",
    );
    assert_eq!(
        red.patch("merge-patch", &format!("{WIDGETS}/absent/status"), &status).await.code,
        404,
        "not there is no question of access"
    );

    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}});
    red.post(leases, &lease("red")).await.expect(201);
    assert_eq!(red.post(leases, &lease("green")).await.code, 403);
    red.put(&format!("{leases}/red"), &lease("red")).await.expect(200);
    assert_eq!(red.put(&format!("{leases}/green"), &lease("green")).await.code, 403);
    assert_eq!(red.get("/api/v1/namespaces/default/secrets").await.code, 403);
}

#[tokio::test]
async fn an_in_process_client_has_no_more_than_its_user() {
    let admin = cluster().await;
    let client = admin.server.client(UserInfo::new("eve", []));
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::default_namespaced(client);
    let kube::Error::Api(status) = maps.list(&kube::api::ListParams::default()).await.unwrap_err() else {
        panic!("no status")
    };
    assert_eq!(status.code, 403);
}
