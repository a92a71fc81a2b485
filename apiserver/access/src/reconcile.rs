//! Keeping a wished role or binding, as kube-apiserver keeps its defaults: what is missing is added, what was added stays, and an object whose
//! annotation [`AUTOUPDATE`] is `false` is left alone.

use serde_json::{Map, Value, json};

use crate::rbac::RoleRef;
use crate::rule::{self, Rule};
use crate::text;

/// The annotation that opts out.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What has to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Nothing,
    /// Write this object in the place of the present one.
    Update(Value),
    /// The role of a binding can't be changed: delete the present object, and create the wished one.
    Replace,
}

/// From what is there to what is wished. Both are of the same kind and name.
#[must_use]
pub fn reconcile(present: &Value, wished: &Value) -> Step {
    if present.pointer("/metadata/annotations").and_then(|all| all.get(AUTOUPDATE)).and_then(Value::as_str)
        == Some("false")
    {
        return Step::Nothing;
    }
    let is_binding = wished.get("roleRef").is_some();
    if is_binding && RoleRef::of(present) != RoleRef::of(wished) {
        return Step::Replace;
    }
    let mut next = present.clone();
    for field in ["annotations", "labels"] {
        merge_metadata(&mut next, wished, field);
    }
    if is_binding {
        add_subjects(&mut next, wished)
    } else {
        add_rules(&mut next, wished)
    }
    if next == *present { Step::Nothing } else { Step::Update(next) }
}

/// What is there wins.
fn merge_metadata(next: &mut Value, wished: &Value, field: &str) {
    let Some(wished) = wished.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_object)
    else {
        return;
    };
    let Some(metadata) = next.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let present = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
    let Some(present) = present.as_object_mut() else { return };
    for (key, value) in wished {
        present.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn list<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let fields = object.as_object_mut()?;
    let list = fields.entry(field).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
}

fn add_subjects(next: &mut Value, wished: &Value) {
    let same = |one: &Value, other: &Value| {
        ["kind", "name", "namespace", "apiGroup"].iter().all(|field| text(one, &[field]) == text(other, &[field]))
    };
    let wished = wished.get("subjects").and_then(Value::as_array);
    for subject in wished.into_iter().flatten() {
        let there = next.get("subjects").and_then(Value::as_array);
        if there.into_iter().flatten().any(|other| same(other, subject)) {
            continue;
        }
        if let Some(subjects) = list(next, "subjects") {
            subjects.push(subject.clone());
        }
    }
}

fn add_rules(next: &mut Value, wished: &Value) {
    let rule = |object: &Value| object.get("aggregationRule").filter(|rule| !rule.is_null()).cloned();
    match (rule(next), rule(wished)) {
        (Some(_), None) => {
            if let Some(fields) = next.as_object_mut() {
                fields.remove("aggregationRule");
            }
        }
        (_, Some(aggregation)) => {
            let selectors =
                aggregation.get("clusterRoleSelectors").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(fields) = next.as_object_mut() {
                let present = fields.entry("aggregationRule").or_insert(Value::Null);
                if !present.is_object() {
                    *present = json!({});
                }
                if let Some(present) = list(present, "clusterRoleSelectors") {
                    for selector in selectors {
                        if !present.contains(&selector) {
                            present.push(selector);
                        }
                    }
                }
            }
        }
        (None, None) => {}
    }
    let missing = rule::missing(&Rule::of_role(next), &Rule::of_role(wished));
    if !missing.is_empty()
        && let Some(rules) = list(next, "rules")
    {
        rules.extend(missing.iter().map(Rule::to_value));
    }
}
