//! Tables: what `kubectl get` prints is made here, because only the server knows a kind's columns.
//!
//! A custom resource has its CRD's `additionalPrinterColumns` after the name; a built-in kind has the columns that kube-apiserver
//! gives it. Cells are JSON values of the column's type; ages are texts as of `now`.

pub mod age;
mod builtin;

use jiff::Timestamp;
use pullpiri_apply::schema::path::JsonPath;
use serde_json::{Value, json};

use crate::builtin::text;
use crate::registry::{Column, Origin, Resource};

/// The description of age columns.
pub const AGE: &str = "When the server created the object: RFC 3339, UTC. Set by the server, read-only.";
const NAME: &str = "The object's name, unique within its namespace and kind; it can't change.";

/// `columnDefinitions` of a `Table` of this resource.
#[must_use]
pub fn column_definitions(resource: &Resource) -> Value {
    if let Some(columns) = builtin::columns(resource) {
        return columns;
    }
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
    let others = resource.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    Value::Array(std::iter::once(name).chain(others).collect())
}

/// One row's cells, in the order of [`column_definitions`].
#[must_use]
pub fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if resource.origin == Origin::BuiltIn
        && let Some(cells) = builtin::cells(resource, object, now)
    {
        return cells;
    }
    let name = json!(text(object, &["metadata", "name"]));
    std::iter::once(name).chain(resource.columns.iter().map(|column| cell(column, object, now))).collect()
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    // Parsed for each cell: a few hundred nanoseconds, against keeping parsed paths for every version of every CRD.
    let Ok(path) = JsonPath::parse(&column.json_path) else { return Value::Null };
    let Some(value) = path.first(object) else { return Value::Null };
    match (column.kind.as_str(), value) {
        ("integer", Value::Number(number)) => whole(number),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => value.clone(),
        ("string", _) => Value::String(path.text(object)),
        ("date", Value::String(time)) => Value::String(age::since(Some(time), now)),
        _ => Value::Null,
    }
}

/// An integer cell: fractions are cut off.
fn whole(number: &serde_json::Number) -> Value {
    if number.is_f64() {
        let text = number.as_f64().map(|float| format!("{:.0}", float.trunc())).unwrap_or_default();
        text.parse::<i64>().map_or(Value::Null, Value::from)
    } else {
        Value::Number(number.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::resources_of;

    fn now() -> Timestamp {
        "2026-01-01T00:10:30Z".parse().unwrap()
    }

    fn builtin(group: &str, plural: &str) -> Resource {
        crate::builtin::resources().into_iter().find(|r| r.group == group && r.plural == plural).unwrap()
    }

    fn headers(resource: &Resource) -> Vec<String> {
        column_definitions(resource)
            .as_array()
            .unwrap()
            .iter()
            .map(|column| {
                format!("{}{}", column["name"].as_str().unwrap(), if column["priority"] == 1 { "*" } else { "" })
            })
            .collect()
    }

    #[test]
    fn custom_columns_take_their_type() {
        let crd = json!({"spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "additionalPrinterColumns": [
                {"name": "Text", "type": "string", "jsonPath": ".spec.text"},
                {"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1},
                {"name": "Ratio", "type": "number", "jsonPath": ".spec.ratio"},
                {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
                {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ]}],
        }});
        let resource = resources_of(&crd, Origin::Virtual).unwrap().remove(0);
        assert_eq!(headers(&resource), ["Name", "Text", "Count*", "Ratio", "On", "Ready", "Age"]);
        let object = json!({
            "metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"text": ["a", 1], "count": 3.7, "ratio": 2, "on": true},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]},
        });
        assert_eq!(
            Value::Array(cells(&resource, &object, now())),
            json!(["w", "[\"a\",1]", 3, 2, true, "False", "10m"])
        );
        let bare = json!({"metadata": {"name": "w"}, "spec": {"text": null, "count": "many", "on": "yes"}});
        assert_eq!(Value::Array(cells(&resource, &bare, now())), json!(["w", null, null, null, null, null, null]));
    }

    #[test]
    fn builtin_tables_print_as_the_real_server_does() {
        let meta = json!({"name": "n", "creationTimestamp": "2026-01-01T00:10:00Z"});
        let row = |resource: &Resource, object: Value| Value::Array(cells(resource, &object, now()));

        let namespaces = builtin("", "namespaces");
        assert_eq!(headers(&namespaces), ["Name", "Status", "Age"]);
        assert_eq!(
            row(&namespaces, json!({"metadata": meta, "status": {"phase": "Active"}})),
            json!(["n", "Active", "30s"])
        );

        let maps = builtin("", "configmaps");
        assert_eq!(headers(&maps), ["Name", "Data", "Age"]);
        assert_eq!(
            row(&maps, json!({"metadata": meta, "data": {"a": ""}, "binaryData": {"b": ""}})),
            json!(["n", 2, "30s"])
        );

        let secrets = builtin("", "secrets");
        assert_eq!(headers(&secrets), ["Name", "Type", "Data", "Age"]);
        assert_eq!(row(&secrets, json!({"metadata": meta, "type": "Opaque"})), json!(["n", "Opaque", 0, "30s"]));

        assert_eq!(headers(&builtin("", "serviceaccounts")), ["Name", "Age"]);

        let leases = builtin("coordination.k8s.io", "leases");
        assert_eq!(headers(&leases), ["Name", "Holder", "Age"]);
        assert_eq!(
            row(&leases, json!({"metadata": meta, "spec": {"holderIdentity": "me"}})),
            json!(["n", "me", "30s"])
        );

        let crds = builtin("apiextensions.k8s.io", "customresourcedefinitions");
        assert_eq!(
            headers(&crds),
            ["Name", "Scope", "Versions", "Created At", "Group*", "Kind*", "ShortNames*", "Established*"]
        );
        let crd = json!({
            "metadata": meta,
            "spec": {"group": "g", "scope": "Cluster", "names": {"kind": "K"}, "versions": [
                {"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true}, {"name": "v3", "served": false},
            ]},
            "status": {"acceptedNames": {"shortNames": ["k", "ks"]}, "conditions": [{"type": "Established", "status": "True"}]},
        });
        assert_eq!(
            row(&crds, crd),
            json!(["n", "Cluster", "v1(storage),v2", "2026-01-01T00:10:00Z", "g", "K", "k,ks", true])
        );
        let quotas = builtin("", "resourcequotas");
        assert_eq!(headers(&quotas), ["Name", "Request", "Limit", "Age"]);
        let quota = json!({
            "metadata": meta, "spec": {"hard": {"secrets": "3", "limits.cpu": "2"}}, "status": {"used": {"secrets": "1"}},
        });
        assert_eq!(row(&quotas, quota), json!(["n", "secrets: 1/3", "limits.cpu: 0/2", "30s"]));
    }

    #[test]
    fn both_views_of_events_print_alike() {
        let core = builtin("", "events");
        assert_eq!(
            headers(&core),
            [
                "Last Seen",
                "Type",
                "Reason",
                "Object",
                "Subobject*",
                "Source*",
                "Message",
                "First Seen*",
                "Count*",
                "Name*"
            ]
        );
        let mut event = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " went up \n",
            "involvedObject": {"kind": "Package", "name": "p", "fieldPath": "spec"},
            "source": {"component": "c", "host": "h"}, "count": 4,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:10:00Z",
        });
        let expected = json!(["30s", "Normal", "Started", "package/p", "spec", "c, h", "went up", "10m", 4, "e"]);
        assert_eq!(Value::Array(cells(&core, &event, now())), expected);
        let view = builtin("events.k8s.io", "events");
        view.strategy.to_shown(&mut event);
        assert_eq!(Value::Array(cells(&view, &event, now())), expected);

        let single = json!({
            "metadata": {"name": "e"}, "type": "Warning", "reason": "R", "involvedObject": {"kind": "Node"},
            "eventTime": "2026-01-01T00:10:20.5Z", "reportingComponent": "r",
        });
        assert_eq!(
            Value::Array(cells(&core, &single, now())),
            json!(["10s", "Warning", "R", "node", "", "r", "", "10s", 1, "e"])
        );
    }
}
