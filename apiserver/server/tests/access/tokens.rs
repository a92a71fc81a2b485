//! Tokens of service accounts: issued, bound, ended.

use super::*;

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

fn token_request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

#[tokio::test]
async fn tokens_of_service_accounts() {
    let admin = cluster().await;
    admin.post(ACCOUNTS, &account("robot")).await.expect(201);
    let path = format!("{ACCOUNTS}/robot/token");
    let issued = admin.post(&path, &token_request(json!({}))).await.expect(201);
    assert_eq!(issued["spec"]["expirationSeconds"], 3600);
    assert_eq!(issued["metadata"]["name"], "robot");
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let robot = admin.anonymous().with_token(&token);
    refused(
        &robot.get(CONFIG_MAPS).await,
        "configmaps is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"configmaps\" in API group \"\" in \
         the namespace \"default\"",
    );
    let mut grant = binding("robots", "view", json!({"kind": "ServiceAccount", "name": "robot"}));
    grant["kind"] = json!("RoleBinding");
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &grant).await.expect(201);
    robot.get(CONFIG_MAPS).await.expect(200);
    robot.get("/openid/v1/jwks").await.expect(200);
    let configuration = robot.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(configuration["issuer"], "https://kubernetes.default.svc.cluster.local");

    let review = |token: &str, audiences: Value| {
        let spec = json!({"token": token, "audiences": audiences});
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let admin = admin.clone();
        async move { admin.post(&format!("{WHO}/tokenreviews"), &review).await.expect(201)["status"].clone() }
    };
    let status = review(&token, json!([])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert!(
        status["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI=")
    );
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));

    // For others only.
    let issued =
        admin.post(&path, &token_request(json!({"audiences": ["vault"], "expirationSeconds": 600}))).await.expect(201);
    let other = issued["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(admin.anonymous().with_token(&other).get(CONFIG_MAPS).await.code, 401);
    assert_eq!(review(&other, json!(["vault", "x"])).await["audiences"], json!(["vault"]));
    assert!(
        review(&other, json!([])).await["error"].as_str().unwrap().contains("token audiences [\"vault\"] is invalid")
    );

    let nobody = json!({"user": {}, "error": "invalid bearer token"});
    for junk in ["x", "a.b.c"] {
        assert_eq!(review(junk, json!([])).await, nobody, "{junk}");
    }

    let (code, _, message) = admin.post(&path, &token_request(json!({"expirationSeconds": 60}))).await.failure();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a duration less \
         than 10 minutes"
    );
    assert_eq!(admin.post(&format!("{ACCOUNTS}/absent/token"), &token_request(json!({}))).await.code, 404);
    assert_eq!(admin.get(&path).await.code, 405);
    for junk in ["", "x", "a.b.c", &token[..token.len() - 4]] {
        assert_eq!(admin.anonymous().with_token(junk).get(CONFIG_MAPS).await.code, 401, "{junk}");
    }

    // A namesake is somebody else.
    admin.delete(&format!("{ACCOUNTS}/robot")).await.expect(200);
    assert_eq!(robot.get(CONFIG_MAPS).await.code, 401);
    admin.post(ACCOUNTS, &account("robot")).await.expect(201);
    assert_eq!(robot.get(CONFIG_MAPS).await.code, 401);
}

#[tokio::test]
async fn tokens_end_with_time_and_with_what_they_are_bound_to() {
    let clock = Arc::new(support_clock::Clock::default());
    let shared = Arc::clone(&clock);
    let admin = api_with(move |config| {
        config.authorizer = None;
        config.clock = shared;
    })
    .await
    .as_user("admin", &["system:masters"]);
    admin.post(ACCOUNTS, &account("robot")).await.expect(201);
    let path = format!("{ACCOUNTS}/robot/token");
    let whoami = format!("{MAY}/selfsubjectaccessreviews");
    let question = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"verb": "get", "path": "/"}}});
    let token = |issued: Value| admin.anonymous().with_token(issued["status"]["token"].as_str().unwrap());

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    admin.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    let bound = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "s"}});
    let by_secret = token(admin.post(&path, &token_request(bound)).await.expect(201));
    let by_time = token(admin.post(&path, &token_request(json!({"expirationSeconds": 600}))).await.expect(201));
    by_secret.post(&whoami, &question).await.expect(201);
    by_time.post(&whoami, &question).await.expect(201);
    admin.delete("/api/v1/namespaces/default/secrets/s").await.expect(200);
    assert_eq!(by_secret.post(&whoami, &question).await.code, 401);
    clock.advance(Duration::from_secs(655));
    by_time.post(&whoami, &question).await.expect(201);
    clock.advance(Duration::from_secs(10));
    assert_eq!(by_time.post(&whoami, &question).await.code, 401);

    let pod = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}});
    assert_eq!(admin.post(&path, &token_request(pod)).await.failure().2, "pods \"p\" not found");
    let other = json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "p"}});
    assert_eq!(
        admin.post(&path, &token_request(other)).await.failure().2,
        "cannot bind token to object of type apps/v1, Kind=Deployment"
    );
}

mod support_clock {
    use std::sync::Mutex;
    use std::time::Duration;

    /// Goes when it is told to.
    #[derive(Debug)]
    pub struct Clock(Mutex<jiff::Timestamp>);

    impl Default for Clock {
        fn default() -> Self {
            Self(Mutex::new("2026-11-25T00:00:00Z".parse().unwrap()))
        }
    }

    impl Clock {
        pub fn advance(&self, by: Duration) {
            let mut now = self.0.lock().unwrap();
            *now += by;
        }
    }

    impl pullpiri_apiserver::clock::Clock for Clock {
        fn now(&self) -> jiff::Timestamp {
            *self.0.lock().unwrap()
        }
    }
}
