//! What a CRD object says, as registry entries: one for each served version.

use std::sync::Arc;

use serde_json::{Value, json};

use super::naming::Names;
use crate::builtin::text;
use crate::registry::{Column, Custom, Origin, Resource, Scale, SchemaCell, Scope, UpsertOnUpdate, Virtual};

/// The entries of a CRD. Names are the accepted ones when the CRD has any (a stored one), the requested ones otherwise (a virtual
/// resource's description). The schemas are kept as JSON text and parsed when first needed.
///
/// # Errors
/// Says which field doesn't have the form of `apiextensions.k8s.io/v1`.
pub fn resources_of(crd: &Value, origin: Origin) -> Result<Vec<Resource>, String> {
    let spec = crd.get("spec").ok_or("spec: expected an object, found nothing")?;
    let group = text(spec, &["group"]);
    let requested = names_at(crd, "/spec/names")?;
    let accepted = names_at(crd, "/status/acceptedNames").unwrap_or_default();
    let mut names = if accepted.plural.is_empty() || accepted.kind.is_empty() { requested } else { accepted };
    if names.singular.is_empty() {
        names.singular = names.kind.to_lowercase();
    }
    if names.list_kind.is_empty() {
        names.list_kind = format!("{}List", names.kind);
    }
    let scope = match text(spec, &["scope"]) {
        "Namespaced" => Scope::Namespaced,
        "Cluster" => Scope::Cluster,
        other => return Err(format!("spec.scope: expected Namespaced or Cluster, found {other:?}")),
    };
    let versions = spec.get("versions").and_then(Value::as_array).ok_or("spec.versions: expected a list")?;
    let served: Vec<&Value> = versions.iter().filter(|version| flag(version, "served")).collect();
    // Objects convert between versions by their apiVersion alone, so any served version can stand for the stored one.
    let stored = served.iter().position(|version| flag(version, "storage")).unwrap_or(0);
    let since = text(crd, &["metadata", "resourceVersion"]).parse().unwrap_or(0);
    let terminating = crd.pointer("/metadata/deletionTimestamp").is_some();
    Ok(served
        .into_iter()
        .enumerate()
        .map(|(index, version)| {
            let name = text(version, &["name"]);
            Resource {
                group: group.to_owned(),
                version: name.to_owned(),
                kind: names.kind.clone(),
                list_kind: names.list_kind.clone(),
                plural: names.plural.clone(),
                singular: names.singular.clone(),
                short_names: names.short_names.clone(),
                categories: names.categories.clone(),
                scope,
                origin: origin.clone(),
                terminating,
                has_status: version.pointer("/subresources/status").is_some(),
                scale: version.pointer("/subresources/scale").map(scale),
                columns: columns(version),
                selectable_fields: strings(version, "selectableFields", "jsonPath"),
                schema: schema(version),
                counts_generation: true,
                upsert_on_update: match origin {
                    // A PUT of a virtual object is a sample, whether or not it was there.
                    Origin::Virtual => UpsertOnUpdate::Create,
                    Origin::BuiltIn | Origin::Crd(_) => UpsertOnUpdate::Refuse,
                },
                since,
                deprecation_warning: flag(version, "deprecated").then(|| {
                    let warning = text(version, &["deprecationWarning"]);
                    if warning.is_empty() {
                        format!("{group}/{name} {} is deprecated", names.kind)
                    } else {
                        warning.to_owned()
                    }
                }),
                storage: index == stored,
                strategy: match origin {
                    Origin::Virtual => &Virtual,
                    Origin::BuiltIn | Origin::Crd(_) => &Custom,
                },
            }
        })
        .collect())
}

pub(super) fn names_at(crd: &Value, pointer: &str) -> Result<Names, String> {
    let path = pointer.trim_start_matches('/').replace('/', ".");
    let names = crd.pointer(pointer).ok_or_else(|| format!("{path}: expected an object, found nothing"))?;
    serde_json::from_value(names.clone()).map_err(|error| format!("{path}: {error}"))
}

fn flag(of: &Value, key: &str) -> bool {
    of.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn strings(version: &Value, list: &str, field: &str) -> Vec<String> {
    let items = version.get(list).and_then(Value::as_array).into_iter().flatten();
    items.map(|item| text(item, &[field]).to_owned()).filter(|text| !text.is_empty()).collect()
}

fn scale(of: &Value) -> Scale {
    let label_selector = text(of, &["labelSelectorPath"]);
    Scale {
        spec_replicas_path: text(of, &["specReplicasPath"]).to_owned(),
        status_replicas_path: text(of, &["statusReplicasPath"]).to_owned(),
        label_selector_path: (!label_selector.is_empty()).then(|| label_selector.to_owned()),
    }
}

/// The printer columns beside the name; the age alone when a CRD gives none.
fn columns(version: &Value) -> Vec<Column> {
    let given =
        version.get("additionalPrinterColumns").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    if given.is_empty() {
        return vec![Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: crate::table::AGE.to_owned(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        }];
    }
    given
        .iter()
        .map(|column| {
            let json_path = text(column, &["jsonPath"]);
            let description = text(column, &["description"]);
            Column {
                name: text(column, &["name"]).to_owned(),
                kind: text(column, &["type"]).to_owned(),
                format: text(column, &["format"]).to_owned(),
                description: if description.is_empty() {
                    format!("Custom resource definition column (in JSONPath format): {json_path}")
                } else {
                    description.to_owned()
                },
                priority: column
                    .get("priority")
                    .and_then(Value::as_i64)
                    .and_then(|priority| i32::try_from(priority).ok())
                    .unwrap_or(0),
                json_path: json_path.to_owned(),
            }
        })
        .collect()
}

fn schema(version: &Value) -> SchemaCell {
    let given = version.pointer("/schema/openAPIV3Schema");
    let open = || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let json: Box<str> = given.cloned().unwrap_or_else(open).to_string().into();
    // The text was made from a value above, so it parses.
    SchemaCell::new(move || Arc::new(serde_json::from_str(&json).unwrap_or(Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn crd() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com", "resourceVersion": "7"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
                "versions": [
                    {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true},
                    {"name": "v1", "served": true, "storage": true,
                     "schema": {"openAPIV3Schema": {"type": "object"}},
                     "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.r", "statusReplicasPath": ".status.r"}},
                     "additionalPrinterColumns": [{"name": "R", "type": "integer", "jsonPath": ".spec.r", "priority": 1}],
                     "selectableFields": [{"jsonPath": ".spec.color"}]},
                    {"name": "v0", "served": false, "storage": false},
                ],
            },
        })
    }

    #[test]
    fn each_served_version_is_an_entry() {
        let resources = resources_of(&crd(), Origin::Crd("u".to_owned())).unwrap();
        let [old, new] = resources.as_slice() else { panic!("{resources:?}") };
        assert_eq!((old.version.as_str(), old.storage, old.has_status), ("v1alpha1", false, false));
        assert_eq!(old.deprecation_warning.as_deref(), Some("example.com/v1alpha1 Widget is deprecated"));
        assert_eq!(old.columns[0].name, "Age");
        assert_eq!((new.version.as_str(), new.storage, new.has_status), ("v1", true, true));
        assert_eq!((new.list_kind.as_str(), new.singular.as_str()), ("WidgetList", "widget"));
        assert_eq!(new.scale.as_ref().unwrap().label_selector_path, None);
        assert_eq!(new.columns[0].description, "Custom resource definition column (in JSONPath format): .spec.r");
        assert_eq!(new.selectable_fields, [".spec.color"]);
        assert_eq!((new.since, new.terminating), (7, false));
        assert_eq!(*new.schema.published(), json!({"type": "object"}));
        assert_eq!(old.schema.published()["x-kubernetes-preserve-unknown-fields"], true);
    }

    #[test]
    fn accepted_names_win_and_bad_forms_say_where() {
        let mut object = crd();
        object["status"] = json!({"acceptedNames": {"plural": "widgets", "kind": "Widget"}});
        let resources = resources_of(&object, Origin::Virtual).unwrap();
        assert!(resources[0].short_names.is_empty());
        object["spec"]["scope"] = json!("Galaxy");
        assert_eq!(
            resources_of(&object, Origin::Virtual).unwrap_err(),
            "spec.scope: expected Namespaced or Cluster, found \"Galaxy\""
        );
    }
}
