//! A clock that is wrong, as far as others can see it: in what a process writes to a Lease.

use bytes::Bytes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Moves the times in a Lease, or in a JSON patch of one.
pub(super) fn skewed(body: &Bytes, seconds: i64) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return body.clone() };
    let by = SignedDuration::from_secs(seconds);
    if let Some(operations) = value.as_array_mut() {
        for operation in operations {
            let path = operation["path"].as_str().unwrap_or_default().to_owned();
            if path.ends_with("Time") {
                shift(&mut operation["value"], by);
            }
        }
    } else {
        for field in ["renewTime", "acquireTime"] {
            if let Some(time) = value.pointer_mut(&format!("/spec/{field}")) {
                shift(time, by);
            }
        }
    }
    Bytes::from(value.to_string())
}

fn shift(value: &mut Value, by: SignedDuration) {
    let moved =
        value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).and_then(|time| time.checked_add(by).ok());
    if let Some(moved) = moved {
        *value = Value::String(format!("{moved:.6}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moved_and_nothing_else() {
        let body = |text: &str| Bytes::from(text.to_owned());
        let lease = r#"{"spec":{"holderIdentity":"a","renewTime":"2026-11-25T10:00:00.000001Z"}}"#;
        let moved: Value = serde_json::from_slice(&skewed(&body(lease), 3600)).unwrap();
        assert_eq!(moved["spec"]["renewTime"], "2026-11-25T11:00:00.000001Z");
        assert_eq!(moved["spec"]["holderIdentity"], "a");
        let patch = r#"[{"op":"test","path":"/spec/holderIdentity","value":"a"},{"op":"add","path":"/spec/renewTime","value":"2026-11-25T10:00:00.5Z"}]"#;
        let moved: Value = serde_json::from_slice(&skewed(&body(patch), -60)).unwrap();
        assert_eq!(moved[1]["value"], "2026-11-25T09:59:00.500000Z");
        assert_eq!(skewed(&body("no JSON"), 1), "no JSON");
    }
}
