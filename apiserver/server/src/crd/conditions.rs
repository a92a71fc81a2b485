//! Conditions on a CRD's (and a namespace's) status: a list keyed by type whose transition time moves only with the status.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::builtin::set;
use crate::clock::rfc3339;

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    pub kind: &'a str,
    pub status: bool,
    pub reason: &'a str,
    pub message: &'a str,
}

/// The status of a condition, `None` when it isn't there.
#[must_use]
pub fn status_of<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))?
        .get("status")?
        .as_str()
}

#[must_use]
pub fn is_true(object: &Value, kind: &str) -> bool {
    status_of(object, kind) == Some("True")
}

/// Sets a condition; returns whether that changed anything.
pub fn set_condition(object: &mut Value, condition: Condition<'_>, now: Timestamp) -> bool {
    let status = if condition.status { "True" } else { "False" };
    if object.pointer("/status/conditions").and_then(Value::as_array).is_none() {
        set(object, &["status", "conditions"], json!([]));
    }
    let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return false };
    let position = conditions.iter().position(|c| c.get("type").and_then(Value::as_str) == Some(condition.kind));
    let Some(existing) = position.and_then(|at| conditions.get_mut(at)) else {
        conditions.push(json!({
            "type": condition.kind,
            "status": status,
            "lastTransitionTime": rfc3339(now),
            "reason": condition.reason,
            "message": condition.message,
        }));
        return true;
    };
    let before = existing.clone();
    let flips = existing.get("status").and_then(Value::as_str) != Some(status);
    if let Some(map) = existing.as_object_mut() {
        map.insert("status".to_owned(), json!(status));
        map.insert("reason".to_owned(), json!(condition.reason));
        map.insert("message".to_owned(), json!(condition.message));
        if flips {
            map.insert("lastTransitionTime".to_owned(), json!(rfc3339(now)));
        }
    }
    *existing != before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let mut object = json!({});
        let condition = Condition { kind: "Established", status: false, reason: "Installing", message: "m" };
        assert!(set_condition(&mut object, condition, at(0)));
        assert!(!set_condition(&mut object, condition, at(1)));
        assert!(set_condition(&mut object, Condition { reason: "Other", ..condition }, at(2)));
        let time = |object: &Value| object["status"]["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(time(&object), rfc3339(at(0)));
        assert!(set_condition(&mut object, Condition { status: true, ..condition }, at(3)));
        assert_eq!(time(&object), rfc3339(at(3)));
        assert_eq!(time(&object), "2023-11-14T22:13:23Z");
        assert!(is_true(&object, "Established"));
        assert_eq!(object["status"]["conditions"].as_array().unwrap().len(), 1);
    }
}
