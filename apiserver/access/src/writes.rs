//! What of an object a node may change, when it may write the object: the parts that a policy lists, and nothing beside them. Its status has
//! an endpoint of its own.
//!
//! A part is a path, `spec` or `metadata.labels`, with the one key of a map or the one item of a list that is meant behind it:
//! `metadata.finalizers[example.com/node]`. Labels have owners: who runs the cluster says by them what may run where, so some are out of a
//! node's reach even where it may write labels.

use std::fmt;

use serde_json::{Map, Value};

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    path: Vec<String>,
    /// A key, or an item.
    only: Option<String>,
}

impl Part {
    fn parse(text: &str) -> Self {
        let (path, only) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((path, only)) => (path, Some(only.to_owned())),
            None => (text, None),
        };
        Self { path: path.split('.').map(str::to_owned).collect(), only }
    }

    /// Takes the part out of an object, with the map or list around it when nothing else is in there.
    fn take_out(&self, object: &mut Value) {
        let Some((last, way)) = self.path.split_last() else { return };
        let parent = way.iter().try_fold(object, |at, field| at.get_mut(field));
        let Some(fields) = parent.and_then(Value::as_object_mut) else { return };
        let is_empty = match (&self.only, fields.get_mut(last)) {
            (None, _) => true,
            (Some(key), Some(Value::Object(map))) => {
                map.remove(key);
                map.is_empty()
            }
            (Some(item), Some(Value::Array(items))) => {
                items.retain(|one| one != item);
                items.is_empty()
            }
            (Some(_), _) => false,
        };
        if is_empty {
            fields.remove(last);
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path.join("."))?;
        self.only.as_ref().map_or(Ok(()), |only| write!(f, "[{only}]"))
    }
}

/// Labels that others set.
#[derive(Clone, Debug, Default)]
struct Reserved {
    /// `kubernetes.io`: the prefixes of keys, with all domains below.
    domains: Vec<String>,
    /// Keys in these domains that a node sets all the same; with a slash at the end, all of that prefix.
    but: Vec<String>,
}

impl Reserved {
    fn holds(&self, key: &str) -> bool {
        let Some((prefix, _)) = key.split_once('/') else { return false };
        let within = |domain: &String| {
            prefix.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let is_given = |given: &String| given == key || (given.ends_with('/') && key.starts_with(given.as_str()));
        self.domains.iter().any(within) && !self.but.iter().any(is_given)
    }
}

/// The parts that may change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    parts: Vec<Part>,
    reserved: Reserved,
}

/// What the server itself writes with every change.
const OF_SERVER: [&str; 3] = ["managedFields", "resourceVersion", "generation"];
/// What an object has from its beginning.
const OF_CREATION: [&str; 5] = ["name", "generateName", "namespace", "uid", "creationTimestamp"];

impl Writes {
    pub(crate) fn new(parts: &[String], reserved_domains: Vec<String>, but: Vec<String>) -> Self {
        let parts = parts.iter().map(|part| Part::parse(part)).collect();
        Self { parts, reserved: Reserved { domains: reserved_domains, but } }
    }

    /// Whether a node may make `new` of `old`, which isn't there yet when the object is new.
    ///
    /// # Errors
    /// Why not, in the words that follow "node … ".
    pub(crate) fn check(&self, plural: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
        let stripped = |object: &Value| {
            let mut object = object.clone();
            self.parts.iter().for_each(|part| part.take_out(&mut object));
            bare(object, old.is_none())
        };
        let before = old.map_or_else(|| bare(Value::Object(Map::new()), true), stripped);
        if stripped(new) != before {
            return Err(match self.parts.as_slice() {
                [] => format!("can only change the status of {plural}"),
                parts => {
                    let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
                    format!("can only change {} of {plural}, and their status", parts.join(", "))
                }
            });
        }
        let labels =
            |object: &Value| object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
        let (now, before) = (labels(new), old.map(labels).unwrap_or_default());
        let changed =
            now.keys().chain(before.keys()).find(|key| now.get(*key) != before.get(*key) && self.reserved.holds(key));
        changed
            .map_or(Ok(()), |key| Err(format!("can't set the label {key:?} of {plural}, which is for others to set")))
    }
}

/// Whether a write of the status leaves everything else alone.
///
/// # Errors
/// Why not, in the words that follow "node … ".
pub(crate) fn check_status(plural: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
    Writes { parts: vec![Part::parse("status")], ..Writes::default() }
        .check(plural, new, old)
        .map_err(|_| format!("can only change the status of {plural} there"))
}

/// An object without what the server writes; of a new one, without what every object has, its status, which isn't taken over, and what
/// is empty.
fn bare(mut object: Value, is_new: bool) -> Value {
    let Some(fields) = object.as_object_mut() else { return object };
    let mut metadata = match fields.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    };
    let is_given = |name: &str| OF_SERVER.contains(&name) || (is_new && OF_CREATION.contains(&name));
    metadata.retain(|name, value| !is_given(name) && !is_empty(value));
    if is_new {
        fields.retain(|name, value| !matches!(name.as_str(), "apiVersion" | "kind" | "status") && !is_empty(value));
    }
    fields.insert("metadata".to_owned(), Value::Object(metadata));
    object
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Writes, check_status};

    fn writes(parts: &[&str]) -> Writes {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
        Writes::new(&texts(parts), texts(&["k8s.io", "x.io"]), texts(&["x.io/name", "node.x.io/"]))
    }

    fn object() -> Value {
        json!({
            "apiVersion": "x.io/v1", "kind": "Machine",
            "metadata": {
                "name": "a", "uid": "u", "resourceVersion": "1", "labels": {"l": "1"}, "finalizers": ["mine", "theirs"],
                "annotations": {"mine": "1", "theirs": "1"},
            },
            "spec": {"n": 1},
            "status": {"phase": "Running"},
        })
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut object = object();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[name] = value;
        object
    }

    #[test]
    fn only_the_parts_that_are_listed_may_change() {
        let listed = writes(&["metadata.labels", "metadata.finalizers[mine]", "metadata.annotations[mine]"]);
        for (pointer, value, may) in [
            ("/metadata/resourceVersion", json!("2"), true),
            ("/metadata/labels", json!({"m": "2"}), true),
            ("/metadata/labels", json!({}), true),
            ("/metadata/finalizers", json!(["theirs"]), true),
            ("/metadata/finalizers", json!(["mine"]), false),
            ("/metadata/finalizers", json!(["mine", "theirs", "another"]), false),
            ("/metadata/finalizers", json!([]), false),
            ("/metadata/annotations", json!({"mine": "2", "theirs": "1"}), true),
            ("/metadata/annotations", json!({"mine": "1", "theirs": "2"}), false),
            ("/metadata/annotations", Value::Null, false),
            ("/metadata/ownerReferences", json!([{"uid": "v"}]), false),
            ("/spec/n", json!(2), false),
            ("/status/phase", json!("Failed"), false),
        ] {
            let checked = listed.check("machines", &with(pointer, value.clone()), Some(&object()));
            assert_eq!(checked.is_ok(), may, "{pointer}: {value}");
        }
        let refused = listed.check("machines", &with("/spec/n", json!(2)), Some(&object())).unwrap_err();
        assert_eq!(
            refused,
            "can only change metadata.labels, metadata.finalizers[mine], metadata.annotations[mine] of machines, and their status"
        );
    }

    #[test]
    fn a_new_object_has_no_more_than_these() {
        let listed = writes(&["metadata.labels", "metadata.annotations[mine]"]);
        let new = json!({
            "apiVersion": "x.io/v1", "kind": "Machine", "spec": {}, "status": {"any": "thing"},
            "metadata": {"name": "a", "labels": {"l": "1"}, "annotations": {"mine": "1"}, "managedFields": [{}]},
        });
        assert_eq!(listed.check("machines", &new, None), Ok(()));
        for (part, value) in [("spec", json!({"n": 1})), ("metadata", json!({"name": "a", "finalizers": ["mine"]}))] {
            let mut more = new.clone();
            more[part] = value;
            assert!(listed.check("machines", &more, None).is_err(), "{part}");
        }
    }

    #[test]
    fn labels_of_others_stay() {
        let listed = writes(&["metadata.labels"]);
        for (key, may) in [
            ("any", true),
            ("example.com/any", true),
            ("notx.io/any", true),
            ("x.io/name", true),
            ("node.x.io/any", true),
            ("x.io/other", false),
            ("below.x.io/name", false),
            ("node-role.k8s.io/master", false),
        ] {
            let labelled = with("/metadata/labels", json!({"l": "1", key: "2"}));
            assert_eq!(listed.check("machines", &labelled, Some(&object())).is_ok(), may, "{key} is set");
            assert_eq!(listed.check("machines", &object(), Some(&labelled)).is_ok(), may, "{key} is removed");
            assert!(listed.check("machines", &labelled, Some(&labelled)).is_ok(), "{key} stays");
        }
    }

    #[test]
    fn a_write_of_the_status_changes_nothing_else() {
        let told = with("/status/phase", json!("Failed"));
        assert_eq!(check_status("machines", &told, Some(&object())), Ok(()));
        for (pointer, value) in
            [("/metadata/labels", json!({})), ("/metadata/ownerReferences", json!([{}])), ("/spec/n", json!(2))]
        {
            assert!(check_status("machines", &with(pointer, value), Some(&object())).is_err(), "{pointer}");
        }
    }
}
