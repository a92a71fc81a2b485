//! Scenarios whose outcomes were recorded from Kubernetes' own packages (apimachinery 0.37.2, structured-merge-diff 6.4.2,
//! evanphx/json-patch 4.13): sequences of applies and updates by several managers, with conflicts, subresources, resets and objects
//! that don't fit their schema; and patches of all three kinds. One scenario a line, with the outcome of each step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "managed_support/replay.rs"]
mod replay;
#[path = "managed_support/mod.rs"]
mod support;

use serde_json::{Value, json};

const RECORDED: &str = include_str!("managed_support/recorded.jsonl");

/// Entries have no order in the record (it was made in a second or two), messages of many lines neither.
fn comparable(mut outcome: Value) -> Value {
    if let Some(entries) = outcome.get_mut("entries").and_then(Value::as_array_mut) {
        entries.sort_by_key(ToString::to_string);
    }
    if let Some(error) = outcome.get("error").and_then(Value::as_str) {
        let mut lines: Vec<&str> = error.lines().collect();
        lines.sort_unstable();
        outcome["error"] = json!(lines);
    }
    if let Some(fields) = outcome.as_object_mut() {
        fields.remove("detail");
    }
    outcome
}

#[test]
fn outcomes_are_those_of_kubernetes() {
    let schema = support::thing();
    let mut steps = 0;
    for (line, recorded) in RECORDED.lines().enumerate() {
        let recorded: Value = serde_json::from_str(recorded).unwrap();
        let expected = recorded["expected"].as_array().unwrap();
        let outcomes = replay::replay(&schema, &recorded);
        for (step, (outcome, expected)) in outcomes.into_iter().zip(expected).enumerate() {
            assert_eq!(
                comparable(outcome),
                comparable(expected.clone()),
                "line {}, step {step}: {}",
                line + 1,
                recorded["steps"][step]
            );
            steps += 1;
        }
    }
    assert!(steps > 200, "only {steps} steps were recorded");
}
