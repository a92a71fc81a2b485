//! Answers without what can't be the same on two servers.

use serde_json::Value;

/// Fields that are times or identities wherever they stand.
const TIMES: [&str; 8] = [
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "time",
    "lastTimestamp",
    "firstTimestamp",
    "renewTime",
    "acquireTime",
];
const IDENTITIES: [&str; 3] = ["uid", "resourceVersion", "continue"];

/// Objects that Go writes though nothing is in them.
const EMPTY: [&str; 5] = ["source", "deprecatedSource", "details", "spec", "metadata"];

/// Replaces what is the server's own: times and identities of fields, uids and revisions in texts, ages in tables. What Go writes for
/// nothing (null, an empty text, some empty objects) is taken for nothing; what a decoder makes of both is the same.
pub fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, field| match field {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Object(map) => !map.is_empty() || !EMPTY.contains(&name.as_str()),
                Value::Array(items) => name != "conditions" || !items.is_empty(),
                _ => true,
            });
            // Where several are at fault, the real server tells of them in the order of a Go map.
            if let Some(causes) = fields.get_mut("causes").and_then(Value::as_array_mut) {
                causes.sort_by_key(Value::to_string);
            }
            for (name, field) in fields.iter_mut() {
                let text = field.as_str().unwrap_or_default();
                if IDENTITIES.contains(&name.as_str()) && !text.is_empty() {
                    *field = Value::String(format!("<{name}>"));
                } else if TIMES.contains(&name.as_str()) && is_now(text) {
                    *field = Value::String("<time>".to_owned());
                } else {
                    normalize(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::String(text) => *text = normal_text(text),
        _ => {}
    }
}

/// A time of this run; those of the scripts are of other years.
fn is_now(text: &str) -> bool {
    const OF_SCRIPTS: [&str; 2] = ["2001-", "2002-"];
    text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T') && !OF_SCRIPTS.iter().any(|year| text.starts_with(year))
}

/// Texts: uids and revisions in messages of errors; ages in tables.
fn normal_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        // A revision in a message: `(12)`.
        if out.ends_with('(')
            && let Some((digits, _)) = rest.split_once(')')
            && !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            out.push_str("<revision>");
            rest = &rest[digits.len()..];
            continue;
        }
        if let Some(uid) = rest.get(..36).filter(|candidate| is_uid(candidate)) {
            out.push_str("<uid>");
            rest = &rest[uid.len()..];
            continue;
        }
        let Some(next) = rest.chars().next() else { break };
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    if is_age(&out) { "<age>".to_owned() } else { out }
}

fn is_uid(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'),
    })
}

/// `3s`, `2m10s`
fn is_age(text: &str) -> bool {
    let digits = text.trim_end_matches('s');
    text.len() <= 6
        && digits.len() + 1 == text.len()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'm')
        && !digits.is_empty()
}

/// Removes what a pointer points to; `*` stands for every index.
pub fn remove(value: &mut Value, pointer: &str) {
    let Some((first, rest)) = pointer.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, ""))) else {
        return;
    };
    let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
    let key = first.replace("~1", "/").replace("~0", "~");
    match value {
        Value::Array(items) if first == "*" => items.iter_mut().for_each(|item| remove(item, &rest)),
        Value::Array(items) => {
            let Ok(index) = first.parse::<usize>() else { return };
            if rest.is_empty() && index < items.len() {
                items.remove(index);
            } else if let Some(item) = items.get_mut(index) {
                remove(item, &rest);
            }
        }
        Value::Object(fields) if rest.is_empty() => {
            fields.remove(&key);
        }
        Value::Object(fields) => {
            if let Some(field) = fields.get_mut(&key) {
                remove(field, &rest);
            }
        }
        _ => {}
    }
}

/// Where two values differ, as lines `POINTER: REAL ≠ OURS`.
#[must_use]
pub fn differences(real: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(real, ours, "", &mut found);
    found
}

fn collect(real: &Value, ours: &Value, at: &str, found: &mut Vec<String>) {
    match (real, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                match b.get(key) {
                    Some(other) => collect(value, other, &at, found),
                    None => found.push(format!("{at}: {value} ≠ nothing")),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                found.push(format!("{at}/{key}: nothing ≠ {value}"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (value, other)) in a.iter().zip(b).enumerate() {
                collect(value, other, &format!("{at}/{index}"), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{at}: {a} ≠ {b}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_servers_own_is_replaced() {
        let mut answer = json!({
            "metadata": {"uid": "x", "resourceVersion": "12", "creationTimestamp": "2026-11-25T19:00:00Z", "continue": "x"},
            "spec": {"renewTime": "2001-01-01T00:00:00.000000Z"},
            "message": "uid 0f0e0d0c-0b0a-4908-8706-050403020100 is gone at (12)",
            "eventTime": null, "source": {}, "note": "",
            "cells": ["5s", "2m10s", "spec"],
        });
        normalize(&mut answer);
        assert_eq!(
            answer,
            json!({
                "metadata": {"uid": "<uid>", "resourceVersion": "<resourceVersion>", "creationTimestamp": "<time>", "continue": "<continue>"},
                "spec": {"renewTime": "2001-01-01T00:00:00.000000Z"},
                "message": "uid <uid> is gone at (<revision>)",
                "cells": ["<age>", "<age>", "spec"],
            })
        );
    }

    #[test]
    fn parts_are_removed_and_differences_found() {
        let mut value = json!({"items": [{"a": 1, "b": 2}, {"a": 3}], "c": {"d/e": 1}});
        remove(&mut value, "/items/*/a");
        remove(&mut value, "/c/d~1e");
        assert_eq!(value, json!({"items": [{"b": 2}, {}], "c": {}}));
        assert_eq!(
            differences(&json!({"a": [1, 2], "b": 1}), &json!({"a": [1, 3], "c": 1})),
            ["/a/1: 2 ≠ 3", "/b: 1 ≠ nothing", "/c: nothing ≠ 1"]
        );
    }
}
