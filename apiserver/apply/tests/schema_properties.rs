//! What holds for every schema and every object.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use pullpiri_apply::error::{Path, aggregate};
use pullpiri_apply::metadata::{self, NameFormat, Scope, decode::decode};
use pullpiri_apply::schema::path::JsonPath;
use pullpiri_apply::schema::{
    CompiledSchema, Pattern, Schema, crd, default, embedded, prune, strict, structural, validate,
};
use pullpiri_apply::selector::{FieldSelector, LabelSelector};
use serde_json::{Map, Value, json};

fn name() -> impl Strategy<Value = String> + Clone {
    prop::sample::select(vec!["a", "b", "name", "spec", "metadata", "kind", "apiVersion", "x-y", "namespace"])
        .prop_map(str::to_owned)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "[a-z0-9.:/-]{0,8}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("2024-01-02T03:04:05Z")),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<String, Value>>())),
        ]
    })
}

/// Schemas that make sense: what a CRD may have.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "integer", "default": 3})),
        Just(json!({"type": "string", "default": "d", "nullable": true})),
        Just(json!({"type": "number", "nullable": true})),
        Just(json!({"type": "boolean", "default": false})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"type": "string", "format": "date-time", "maxLength": 30})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size() < 5"}]})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let fields = prop::collection::btree_map(name(), inner.clone(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect::<Map<String, Value>>()));
        prop_oneof![
            fields.clone().prop_map(|properties| json!({"type": "object", "properties": properties})),
            fields.clone().prop_map(|properties| json!({"type": "object", "properties": properties, "default": {}})),
            fields.prop_map(|properties| json!({
                "type": "object", "properties": properties, "x-kubernetes-preserve-unknown-fields": true
            })),
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.prop_map(|of| json!({"type": "object", "additionalProperties": of})),
        ]
    })
}

fn root() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(name(), schema(), 0..5).prop_map(|map| {
        let mut properties: Map<String, Value> = map.into_iter().collect();
        for own in ["metadata", "kind", "apiVersion"] {
            properties.remove(own);
        }
        json!({"type": "object", "properties": properties})
    })
}

/// Anything that might stand where a schema should.
fn nonsense() -> impl Strategy<Value = Value> {
    let keyword = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "additionalProperties",
        "allOf",
        "anyOf",
        "not",
        "enum",
        "required",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxItems",
        "uniqueItems",
        "default",
        "nullable",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
        "x-kubernetes-int-or-string",
        "x-kubernetes-embedded-resource",
        "$ref",
        "openAPIV3Schema",
        "versions",
        "names",
        "schema",
        "spec",
        "rule",
        "storage",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        scalar(),
        Just(json!("object")),
        Just(json!("array")),
        Just(json!("map")),
        Just(json!("self == 1"))
    ];
    leaf.prop_recursive(5, 60, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(keyword.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<String, Value>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn pruning_twice_prunes_once(schema in root(), object in value()) {
        let schema = Schema::parse(&schema).unwrap();
        let mut once = object;
        prune::prune(&mut once, &schema);
        let mut twice = once.clone();
        prop_assert!(prune::prune(&mut twice, &schema).is_empty());
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn defaulting_twice_defaults_once(schema in root(), object in value()) {
        let schema = Schema::parse(&schema).unwrap();
        let mut once = object;
        default::default(&mut once, &schema);
        let mut twice = once.clone();
        default::default(&mut twice, &schema);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_valid_object_stays_valid_when_pruned_and_defaulted(schema in root(), object in value()) {
        let schema = Schema::parse(&schema).unwrap();
        let mut object = if object.is_object() { object } else { json!({"a": object}) };
        if validate::validate(&Path::Root, &object, &schema).is_empty() {
            prune::prune(&mut object, &schema);
            default::default(&mut object, &schema);
            let errors = validate::validate(&Path::Root, &object, &schema);
            prop_assert!(errors.is_empty(), "{}", aggregate(&errors));
        }
    }

    #[test]
    fn an_unchanged_object_is_never_refused_by_its_schema(schema in root(), object in value()) {
        let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
        let mut object = if object.is_object() { object } else { json!({"a": object}) };
        // apiVersion and kind are the ones that aren't forgiven, and no schema here describes them.
        compiled.prune(&mut object);
        let errors = validate::validate_update(&Path::Root, &object, &object, compiled.schema());
        prop_assert!(errors.is_empty(), "{}", aggregate(&errors));
    }

    #[test]
    fn nothing_panics_on_nonsense(schema in nonsense(), object in value(), old in value()) {
        let _ = structural::validate(&schema, &Path::Root);
        let mut definition = json!({"metadata": object.clone(), "spec": schema.clone()});
        crd::default(&mut definition);
        crd::record_stored_version(&mut definition);
        let _ = crd::validate_create(&definition);
        let _ = crd::validate_update(&definition, &json!({"spec": object.clone()}));
        let _ = crd::structural_violations(&definition);
        let _ = crd::unrecognised_formats(&schema);
        if let Ok(parsed) = Schema::parse(&schema) {
            let compiled = CompiledSchema::new(parsed);
            let mut admitted = object.clone();
            let _ = compiled.admit_create(&mut admitted);
            let _ = compiled.admit_update(&mut admitted, &old);
            let _ = compiled.validate_status(&admitted, &old);
            let _ = embedded::validate(&admitted, compiled.schema());
        }
        let _ = decode(&mut object.clone());
        let whole = json!({"metadata": object});
        let _ = metadata::validate_create(&whole, Scope::Namespaced, NameFormat::Label);
        let _ = metadata::validate_update(&whole, &json!({"metadata": old}));
    }

    #[test]
    fn label_selectors_print_what_they_parse(text in "[a-c]{0,2}(=|==|!=| in \\(|,|!|>|<|\\)| |x|1|notin ){0,6}[a-c]{0,2}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let printed = selector.to_string();
            let again = LabelSelector::parse(&printed).unwrap();
            prop_assert_eq!(&again, &selector, "{} as {}", text, printed);
        }
    }

    #[test]
    fn field_selectors_print_what_they_parse(text in "[a.=!,\\\\x]{0,12}") {
        if let Ok(selector) = FieldSelector::parse(&text) {
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn texts_never_panic(text in any::<String>(), structured in "[.\\[\\]?(@=\"'a0*:,\\\\)!<>-]{0,16}") {
        for text in [&text, &structured] {
            let _ = JsonPath::parse(text).map(|path| path.find(&json!({"a": [{"a": 1}, 2], "0": {"a": null}})).len());
            let _ = Pattern::new(text).matches("abc");
            let _ = LabelSelector::parse(text);
            let _ = FieldSelector::parse(text);
            let _ = strict::parse(text.as_bytes());
        }
    }

    #[test]
    fn strict_parsing_gives_what_plain_parsing_gives(object in value()) {
        let text = serde_json::to_string(&object).unwrap();
        let document = strict::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(document.value, serde_json::from_str::<Value>(&text).unwrap());
        prop_assert!(document.duplicates.is_empty());
    }
}
