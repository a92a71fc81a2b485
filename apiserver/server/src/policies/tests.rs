use std::sync::Arc;

use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::registry::Resource;
use crate::{ApiServer, Config};

const GROUP: &str = "admissionregistration.k8s.io";

struct World {
    _server: ApiServer,
    objects: Objects,
}

impl World {
    async fn new() -> Self {
        let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
        Self { objects: server.objects(), _server: server }
    }

    fn resource(&self, group: &str, plural: &str) -> Arc<Resource> {
        self.objects.registry().snapshot().stored(group, plural).cloned().unwrap()
    }

    async fn policy(&self, name: &str, spec: Value) {
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]});
        let mut policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": [rule]}}});
        for (field, value) in spec.as_object().unwrap() {
            policy["spec"][field] = value.clone();
        }
        let resource = self.resource(GROUP, "validatingadmissionpolicies");
        self.objects.create(&resource, None, policy).await.unwrap();
    }

    async fn bind(&self, policy: &str, spec: Value) {
        let mut binding = json!({"metadata": {"name": format!("{policy}-binding")}, "spec": {"policyName": policy, "validationActions": ["Deny"]}});
        for (field, value) in spec.as_object().unwrap() {
            binding["spec"][field] = value.clone();
        }
        let resource = self.resource(GROUP, "validatingadmissionpolicybindings");
        self.objects.create(&resource, None, binding).await.unwrap();
    }

    async fn map(&self, name: &str, data: Value) -> Result<Value, String> {
        let map = json!({"metadata": {"name": name}, "data": data});
        let created = self.objects.create(&self.resource("", "configmaps"), Some("default"), map).await;
        created.map_err(|status| format!("{} {}", status.code().as_u16(), status.message()))
    }

    /// Tries until the policy is in force; the refusal.
    async fn refused(&self, prefix: &str, data: Value) -> String {
        for attempt in 0..2000 {
            if let Err(refusal) = self.map(&format!("{prefix}-{attempt}"), data.clone()).await {
                return refusal;
            }
            tokio::task::yield_now().await;
        }
        panic!("nothing is refused");
    }
}

#[tokio::test]
async fn a_bound_policy_refuses_with_its_message_and_reason() {
    let world = World::new().await;
    let validations = json!([
        {"expression": "!has(object.data) || size(object.data) < 2", "message": "one key at most", "reason": "Forbidden"},
    ]);
    world.policy("small", json!({"validations": validations})).await;
    assert!(world.map("unbound", json!({"a": "1", "b": "2"})).await.is_ok(), "a policy that isn't bound does nothing");
    world.bind("small", json!({})).await;
    let refusal = world.refused("big", json!({"a": "1", "b": "2"})).await;
    assert!(refusal.starts_with("403 configmaps \"big-"), "{refusal}");
    assert!(
        refusal.ends_with("is forbidden: ValidatingAdmissionPolicy 'small' with binding 'small-binding' denied request: one key at most"),
        "{refusal}"
    );
    assert!(world.map("one", json!({"a": "1"})).await.is_ok());
}

#[tokio::test]
async fn variables_conditions_params_and_message_expressions() {
    let world = World::new().await;
    world.map("limits", json!({"most": "2"})).await.unwrap();
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "only-guarded", "expression": "object.metadata.name.startsWith('guarded')"}],
        "variables": [
            {"name": "count", "expression": "has(object.data) ? size(object.data) : 0"},
            {"name": "most", "expression": "int(params.data.most)"},
        ],
        "validations": [{
            "expression": "variables.count <= variables.most",
            "messageExpression": "'%d keys, %d allowed'.format([variables.count, variables.most])",
        }],
    });
    world.policy("params", spec).await;
    world
        .bind(
            "params",
            json!({"paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}),
        )
        .await;
    let many = json!({"a": "1", "b": "2", "c": "3"});
    let refusal = world.refused("guarded", many.clone()).await;
    assert!(refusal.starts_with("422 "), "{refusal}");
    assert!(refusal.ends_with("denied request: 3 keys, 2 allowed"), "{refusal}");
    assert!(world.map("other", many).await.is_ok(), "the condition leaves it out");
    assert!(world.map("guarded-small", json!({"a": "1"})).await.is_ok());
}

#[tokio::test]
async fn what_cant_be_evaluated_is_refused_or_ignored_as_the_policy_says() {
    let world = World::new().await;
    let validations = json!([{"expression": "object.data.absent == '1'"}]);
    world.policy("ignores", json!({"validations": validations, "failurePolicy": "Ignore"})).await;
    world.bind("ignores", json!({})).await;
    world.policy("fails", json!({"validations": validations})).await;
    world.bind("fails", json!({})).await;
    let refusal = world.refused("x", json!({"a": "1"})).await;
    assert!(refusal.contains("'fails'"), "{refusal}");
    assert!(
        refusal.contains("expression 'object.data.absent == '1'' resulted in error: no such key: absent"),
        "{refusal}"
    );
}

#[tokio::test]
async fn the_status_says_what_the_type_checker_found() {
    let world = World::new().await;
    let validations = json!([{"expression": "object.data['a'] > 1"}, {"expression": "object.datum == 1"}]);
    world.policy("confused", json!({"validations": validations})).await;
    let resource = world.resource(GROUP, "validatingadmissionpolicies");
    let status = async {
        loop {
            let (mut changes, _) = world.objects.changes(None).await.unwrap();
            let policy = world.objects.get(&resource, None, "confused").await.unwrap();
            if policy.pointer("/status/typeChecking").is_some() {
                return policy["status"].clone();
            }
            futures::StreamExt::next(&mut changes).await;
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(20), status).await.expect("it is checked");
    assert_eq!(status["observedGeneration"], 1);
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    assert!(warnings[0]["warning"].as_str().unwrap().contains("'_>_' applied to '(string, int)'"));
    assert!(warnings[1]["warning"].as_str().unwrap().contains("undefined field 'datum'"));
}
