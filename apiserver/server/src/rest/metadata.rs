//! The metadata fields that the server alone sets, and what a request may say about name and namespace.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::clock::rfc3339;
use crate::status::Status;

/// Longest generated name: a DNS label with room for the suffix.
const MAX_GENERATED_BASE: usize = 58;
const SUFFIX_LENGTH: usize = 5;
/// No vowels and nothing that looks alike, so that no words come out.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `metadata` as an object, created if missing.
pub(crate) fn of(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    let fields =
        object.as_object_mut().ok_or_else(|| Status::bad_request("the object provided is not a JSON object"))?;
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().ok_or_else(|| Status::bad_request("metadata is not a JSON object"))
}

pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Erases what a client can't decide about a new object.
pub(crate) fn wipe_system_fields(metadata: &mut Map<String, Value>) {
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
}

pub(crate) fn fill_system_fields(metadata: &mut Map<String, Value>, now: Timestamp) {
    metadata.insert("creationTimestamp".to_owned(), rfc3339(now).into());
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
}

/// Makes the object's namespace that of the request.
///
/// # Errors
/// Both are given and differ.
pub(crate) fn ensure_namespace(metadata: &mut Map<String, Value>, requested: Option<&str>) -> Result<(), Status> {
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    match requested {
        Some(requested) if given == requested => Ok(()),
        Some(requested) if given.is_empty() => {
            metadata.insert("namespace".to_owned(), requested.into());
            Ok(())
        }
        None => {
            metadata.remove("namespace");
            Ok(())
        }
        Some(_) => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Removes repeated owner references and returns the UIDs of those that were there twice.
pub(crate) fn dedupe_owner_references(metadata: &mut Map<String, Value>) -> Vec<String> {
    let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") else { return Vec::new() };
    let mut duplicates = Vec::new();
    let mut kept: Vec<Value> = Vec::with_capacity(references.len());
    for reference in references.drain(..) {
        if kept.contains(&reference) {
            duplicates.push(reference.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
        } else {
            kept.push(reference);
        }
    }
    *references = kept;
    duplicates
}

/// The warning for repeated owner references.
pub(crate) fn duplicate_owners_warning(uids: &[String]) -> String {
    format!(
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such \
         requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        uids.join(", ")
    )
}

/// `base` and a random suffix.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let random = uuid::Uuid::new_v4();
    // The version and variant bits of a UUID are in bytes 6 and 8; the first ones are all random.
    for byte in random.as_bytes().iter().take(SUFFIX_LENGTH) {
        let index = usize::from(*byte) % SUFFIX_ALPHABET.len();
        name.push(char::from(SUFFIX_ALPHABET[index]));
    }
    name
}

/// Whether two objects differ in nothing but the times of their managed fields.
pub(crate) fn same_but_for_times(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    if new.len() != old.len() {
        return false;
    }
    new.iter().all(|(name, value)| match (name.as_str(), old.get(name)) {
        (_, None) => false,
        ("metadata", Some(previous)) => same_metadata(value, previous),
        (_, Some(previous)) => value == previous,
    })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    new.len() == old.len()
        && new.iter().all(|(name, value)| match (name.as_str(), old.get(name)) {
            (_, None) => false,
            ("managedFields", Some(previous)) => same_managed_fields(value, previous),
            (_, Some(previous)) => value == previous,
        })
}

fn same_managed_fields(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return new == old };
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| {
            let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
            let timeless = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key("time"));
            timeless(new) == timeless(old)
                && new.iter().filter(|(name, _)| *name != "time").all(|(name, value)| old.get(name) == Some(value))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generated_names_fit() {
        let name = generate_name("pod-");
        assert!(name.starts_with("pod-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"x".repeat(80)).len(), 63);
        assert_ne!(generate_name("a"), generate_name("a"));
    }

    #[test]
    fn namespaces_agree_or_are_refused() {
        let mut metadata = Map::new();
        ensure_namespace(&mut metadata, Some("a")).unwrap();
        assert_eq!(metadata["namespace"], "a");
        assert!(ensure_namespace(&mut metadata, Some("b")).is_err());
        ensure_namespace(&mut metadata, None).unwrap();
        assert!(metadata.is_empty());
    }

    #[test]
    fn only_times_may_differ() {
        let entry = |time: &str, manager: &str| json!({"metadata": {"managedFields": [{"manager": manager, "time": time}]}, "spec": 1});
        assert!(same_but_for_times(&entry("1", "a"), &entry("2", "a")));
        assert!(!same_but_for_times(&entry("1", "a"), &entry("1", "b")));
        assert!(!same_but_for_times(&json!({"spec": 1}), &json!({"spec": 2})));
        assert!(!same_but_for_times(&json!({"spec": 1}), &json!({"spec": 1, "status": {}})));
    }

    #[test]
    fn repeated_owners_go() {
        let mut object = json!({"metadata": {"ownerReferences": [{"uid": "u"}, {"uid": "v"}, {"uid": "u"}]}});
        assert_eq!(dedupe_owner_references(of(&mut object).unwrap()), ["u"]);
        assert_eq!(object["metadata"]["ownerReferences"], json!([{"uid": "u"}, {"uid": "v"}]));
    }
}
