//! What an expression of a policy may name: `object` and `oldObject`, `request`, `namespaceObject`, `params` where the policy has a kind of them,
//! and `variables` where there are some. Types of Kubernetes 1.37 (`k8s.io/apiserver/pkg/admission/plugin/cel/compile.go`), as schemas.

use std::sync::LazyLock;

use pullpiri_apply::schema::Schema;
use pullpiri_apply::schema::cel::expression::Names;
use serde_json::{Value, json};

fn schema(value: &Value) -> Schema {
    // Both are written here.
    Schema::parse(value).unwrap_or_default()
}

fn object(fields: &Value) -> Value {
    json!({"type": "object", "properties": fields})
}

static REQUEST: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let kind = object(&json!({"group": text, "version": text, "kind": text}));
    let resource = object(&json!({"group": text, "version": text, "resource": text}));
    let extra = json!({"type": "object", "additionalProperties": texts});
    schema(&object(&json!({
        "kind": kind, "resource": resource, "subResource": text,
        "requestKind": kind, "requestResource": resource, "requestSubResource": text,
        "name": text, "namespace": text, "operation": text,
        "userInfo": object(&json!({"username": text, "uid": text, "groups": texts, "extra": extra})),
        "dryRun": {"type": "boolean"},
        // Of any type.
        "options": {"x-kubernetes-int-or-string": true},
    })))
});

static NAMESPACE: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let time = json!({"type": "string", "format": "date-time"});
    let by_name = json!({"type": "object", "additionalProperties": text});
    let number = json!({"type": "integer"});
    let condition = json!({"status": text, "type": text, "lastTransitionTime": time, "message": text, "reason": text});
    schema(&object(&json!({
        "metadata": object(&json!({
            "name": text, "generateName": text, "namespace": text, "labels": by_name, "annotations": by_name, "UID": text,
            "creationTimestamp": time, "deletionGracePeriodSeconds": number, "deletionTimestamp": time, "generation": number,
            "resourceVersion": text, "finalizers": texts,
        })),
        "spec": object(&json!({"finalizers": texts})),
        "status": object(&json!({"conditions": {"type": "array", "items": object(&condition)}, "phase": text})),
    })))
});

/// What every expression may name beside the objects.
fn common(names: Names<'_>) -> Names<'_> {
    names.with_part("request", &REQUEST).with_part("namespaceObject", &NAMESPACE)
}

/// What may be named, of objects of any kind.
pub(crate) fn of_any_kind(spec: &Value) -> Names<'static> {
    let objects: &[&str] =
        if spec.get("paramKind").is_some() { &["object", "oldObject", "params"] } else { &["object", "oldObject"] };
    common(Names::untyped(objects))
}

/// What may be named, of objects of this schema; with the schema of the parameters, if it is known.
pub(crate) fn of_kind<'s>(spec: &Value, kind: &'s Schema, params: Option<&'s Schema>) -> Names<'s> {
    let names = match (params, spec.get("paramKind")) {
        (Some(params), Some(_)) => Names::untyped(&[]).with_object("params", params),
        (None, Some(_)) => Names::untyped(&["params"]),
        (_, None) => Names::untyped(&[]),
    };
    common(names.with_object("object", kind).with_object("oldObject", kind))
}

#[cfg(test)]
mod tests {
    use pullpiri_apply::schema::cel::expression::{Wanted, compile};
    use serde_json::json;

    use super::of_any_kind;

    #[test]
    fn requests_and_namespaces_have_their_fields() {
        let names = of_any_kind(&json!({}));
        for (source, refusal) in [
            ("request.userInfo.extra['a'].size() > 1 && request.options.x == 1 && request.kind.group == ''", ""),
            ("namespaceObject.metadata.labels['a'] == 'b' && namespaceObject.status.phase == 'Active'", ""),
            ("request.nope == 1", "undefined field 'nope'"),
            ("request.userInfo.username == 1", "no matching overload for '_==_' applied to '(string, int)'"),
            ("namespaceObject.metadata.nope == 'a'", "undefined field 'nope'"),
            ("params.x == 1", "undeclared reference to 'params'"),
        ] {
            let refused = compile(source, &names, Wanted::Bool).err().unwrap_or_default();
            assert!(refused.contains(refusal) && refused.is_empty() == refusal.is_empty(), "{source}: {refused}");
        }
        assert!(compile("params.x == 1", &of_any_kind(&json!({"paramKind": {}})), Wanted::Bool).is_ok());
    }
}
