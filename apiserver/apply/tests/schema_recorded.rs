//! Answers of Kubernetes 1.37 (`k8s.io/apiextensions-apiserver` and `k8s.io/apimachinery` v0.37.2), recorded for generated input,
//! against ours. One JSON document per line, with the answer under `kubernetes`.
//!
//! Kubernetes walks Go maps, so errors are compared as sets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::error::{FieldError, print};
use pullpiri_apply::metadata::{self, NameFormat, Scope, decode::decode};
use pullpiri_apply::schema::{CompiledSchema, Schema, cel, crd};
use pullpiri_apply::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

fn cases(recorded: &str) -> impl Iterator<Item = Value> {
    recorded.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap())
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    texts
}

fn expected(case: &Value, key: &str) -> Vec<String> {
    let list = case["kubernetes"][key].as_array().cloned().unwrap_or_default();
    let mut texts: Vec<String> = list.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    texts.sort_unstable();
    texts
}

/// What an API server does with a custom resource, as `customresource_handler.go` does it.
fn admit(case: &Value) -> Value {
    let compiled = CompiledSchema::new(Schema::parse(&case["schema"]).unwrap());
    let mut object = case["obj"].clone();
    let mut pruned = Vec::new();
    let before = object["metadata"].clone();
    if let Some(metadata) = object.get_mut("metadata") {
        match decode(metadata) {
            Ok(unknown) => pruned.extend(unknown.into_iter().map(|path| format!("metadata.{path}"))),
            Err(error) => return json!({"error": FieldError::invalid("metadata", before, error).to_string()}),
        }
    }
    let (admitted, mut errors) = match case.get("old") {
        None => (
            compiled.admit_create(&mut object),
            metadata::validate_create(&object, Scope::Cluster, NameFormat::Subdomain),
        ),
        Some(old) => (compiled.admit_update(&mut object, old), metadata::validate_update(&object, old)),
    };
    errors.extend(admitted.errors);
    pruned.extend(admitted.pruned);
    pruned.sort_unstable();
    json!({"errors": texts(&errors), "pruned": pruned, "obj": object})
}

#[test]
fn custom_resources_are_pruned_defaulted_and_validated_alike() {
    let recorded = [include_str!("schema_recorded/admit.jsonl"), include_str!("schema_recorded/metadata.jsonl")];
    let mut seen = 0;
    for case in recorded.into_iter().flat_map(cases) {
        let answer = admit(&case);
        let kubernetes = &case["kubernetes"];
        if let Some(error) = kubernetes.get("error") {
            assert_eq!(answer.get("error"), Some(error), "{case}");
        } else {
            let list = |key: &str| expected(&json!({"kubernetes": answer}), key);
            assert_eq!(list("errors"), expected(&case, "errors"), "{case}");
            assert_eq!(list("pruned"), expected(&case, "pruned"), "{case}");
            // By text, since Go writes 1.0 as 1.
            let object = kubernetes.get("obj").unwrap_or(&case["obj"]);
            assert_eq!(print::json(&answer["obj"]), print::json(object), "{case}");
        }
        seen += 1;
    }
    assert!(seen > 200);
}

#[test]
fn custom_resource_definitions_are_refused_alike() {
    let mut seen = 0;
    for case in cases(include_str!("schema_recorded/crd.jsonl")) {
        let errors = if case["op"] == "structural" {
            let path = pullpiri_apply::error::Path::At("openAPIV3Schema");
            pullpiri_apply::schema::structural::validate(&case["schema"], &path)
        } else {
            let mut object = case["obj"].clone();
            crd::default(&mut object);
            match case.get("old").cloned() {
                None => crd::validate_create(&object),
                Some(mut old) => {
                    crd::default(&mut old);
                    crd::validate_update(&object, &old)
                }
            }
        };
        // Kubernetes repeats an error that two ways lead to.
        let (mut ours, mut theirs) = (texts(&errors), expected(&case, "errors"));
        ours.dedup();
        theirs.dedup();
        assert_eq!(ours, theirs, "{case}");
        seen += 1;
    }
    assert!(seen > 100);
}

#[test]
fn rules_hold_fail_and_are_refused_alike() {
    let given: Value = serde_json::from_str(include_str!("schema_recorded/rules.json")).unwrap();
    let mut seen = 0;
    for case in cases(include_str!("schema_recorded/rules.jsonl")) {
        let mut schema = given["schema"].clone();
        schema["x-kubernetes-validations"] = json!([{"rule": case["rule"]}]);
        let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
        let errors = compiled.validate_create(&given["object"]);
        let ours: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(json!(ours), case["kubernetes"], "{}", case["rule"]);
        seen += 1;
    }
    assert!(seen > 180);
}

#[test]
fn transitions_messages_reasons_and_ratcheting_are_alike() {
    let schema: Value = serde_json::from_str(include_str!("schema_recorded/updates.json")).unwrap();
    let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
    for case in cases(include_str!("schema_recorded/updates.jsonl")) {
        let errors = match case.get("old") {
            Some(old) => compiled.validate_update(&case["obj"], old),
            None => compiled.validate_create(&case["obj"]),
        };
        assert_eq!(json!(texts(&errors)), case["kubernetes"], "{case}");
    }
}

#[test]
fn selectors_parse_print_and_fail_alike() {
    for case in cases(include_str!("schema_recorded/selectors.jsonl")) {
        let text = case["text"].as_str().unwrap();
        let answer = if case["op"] == "label" {
            LabelSelector::parse(text).map(|s| s.to_string())
        } else {
            FieldSelector::parse(text).map(|s| s.to_string())
        };
        let kubernetes = &case["kubernetes"];
        match answer {
            Ok(printed) => assert_eq!(Some(&json!(printed)), kubernetes.get("text"), "{text}"),
            Err(error) => assert_eq!(Some(&json!(error.to_string())), kubernetes.get("error"), "{text}"),
        }
    }
}

#[test]
fn formats_accept_alike() {
    for case in cases(include_str!("schema_recorded/formats.jsonl")) {
        let schema = json!({"type": "object", "properties": {"f": {"type": "string", "format": case["format"]}}});
        let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
        for (key, valid) in [("valid", true), ("invalid", false)] {
            for text in case[key].as_array().unwrap() {
                let errors = compiled.validate_create(&json!({"f": text}));
                assert_eq!(errors.is_empty(), valid, "{text} as {}", case["format"]);
            }
        }
    }
}

#[test]
fn costs_of_rules_are_estimated_alike() {
    let schema: Value = serde_json::from_str(include_str!("schema_recorded/costs.json")).unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in cases(include_str!("schema_recorded/costs.jsonl")) {
        let mut schema = schema.clone();
        schema["x-kubernetes-validations"] = json!([{"rule": case["rule"], "optionalOldSelf": case.get("optional")}]);
        let schema = Schema::parse(&schema).unwrap();
        let report = cel::check(&schema, cel::Place::Resource).remove(0);
        assert_eq!(json!(cel::cardinality(&schema, cel::Place::Resource)), case["cardinality"]);
        // Functions that the evaluator lacks.
        if report.rule.is_some() {
            continue;
        }
        // What is without a bound is rounded there.
        let (ours, theirs) = (report.cost.min(1 << 50), case["cost"].as_u64().unwrap().min(1 << 50));
        // The key of a loop over keys and values has the size of the value there, where Go's slices have room to spare.
        let alike = if case["at_most"] == true { ours <= theirs } else { ours == theirs };
        if !alike {
            wrong.push(format!("{}: {ours} is {theirs}", case["rule"]));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 380, "{seen}");
}
