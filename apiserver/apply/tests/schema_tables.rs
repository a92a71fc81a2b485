//! The texts that users and clients see most, one by one, and what the recorded comparison doesn't reach.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::error::{FieldError, FieldErrorKind, Path, aggregate, print};
use pullpiri_apply::schema::path::JsonPath;
use pullpiri_apply::schema::{CompiledSchema, Schema, crd, strict};
use serde_json::{Value, json};

fn errors(schema: &Value, object: &Value) -> Vec<String> {
    let compiled = CompiledSchema::new(Schema::parse(schema).unwrap());
    compiled.admit_create(&mut object.clone()).errors.iter().map(ToString::to_string).collect()
}

fn spec(field: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"f": field}}}})
}

#[test]
fn messages_of_single_fields() {
    let table = [
        (
            json!({"type": "integer"}),
            json!("x"),
            r#"spec.f: Invalid value: "string": spec.f in body must be of type integer: "string""#,
        ),
        (json!({"type": "string"}), json!(null), ""),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("x"),
            r#"spec.f: Unsupported value: "x": supported values: "a", "b""#,
        ),
        (json!({"type": "string", "maxLength": 3}), json!("abcd"), "spec.f: Too long: may not be more than 3 bytes"),
        (json!({"type": "string", "maxLength": 1}), json!("é"), ""),
        (
            json!({"type": "string", "minLength": 3}),
            json!("ab"),
            r#"spec.f: Invalid value: "ab": spec.f in body should be at least 3 chars long"#,
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
            json!([1, 2]),
            "spec.f: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "minItems": 2, "items": {"type": "integer"}}),
            json!([1]),
            "spec.f: Invalid value: 1: spec.f in body should have at least 2 items",
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec.f: Invalid value: "b": spec.f in body should match '^a+$'"#,
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec.f: Invalid value: 0: spec.f in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 1_000_000, "exclusiveMaximum": true}),
            json!(1_000_000),
            "spec.f: Invalid value: 1000000: spec.f in body should be less than 1000000",
        ),
        (
            json!({"type": "number", "maximum": 1_000_000}),
            json!(2e6),
            "spec.f: Invalid value: 2e+06: spec.f in body should be less than or equal to 1e+06",
        ),
        (
            json!({"type": "integer", "multipleOf": 3}),
            json!(4),
            "spec.f: Invalid value: 4: spec.f in body should be a multiple of 3",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("x"),
            r#"spec.f: Invalid value: "x": spec.f in body must be of type date-time: "x""#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"spec.f: Invalid value: "boolean": spec.f in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"type": "string", "oneOf": [{"minLength": 1}, {"maxLength": 5}]}),
            json!("ab"),
            r#"<nil>: Invalid value: "": "spec.f" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
        ),
        (
            json!({"type": "string", "not": {"enum": ["no"]}}),
            json!("no"),
            r#"<nil>: Invalid value: "": "spec.f" must not validate the schema (not)"#,
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 3", "message": "must be > 3"}]}),
            json!(2),
            "spec.f: Invalid value: 2: must be > 3",
        ),
        // Objects and lists aren't shown.
        (
            json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [{"rule": "self.size() > 3"}]}),
            json!([1]),
            "spec.f: Invalid value: failed rule: self.size() > 3",
        ),
    ];
    for (field, value, expected) in table {
        let found = errors(&spec(field.clone()), &json!({"spec": {"f": value}}));
        let expected: Vec<&str> = if expected.is_empty() { Vec::new() } else { vec![expected] };
        assert_eq!(found, expected, "{field} on {value}");
    }
}

#[test]
fn lists_of_sets_and_maps() {
    let set = spec(json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}));
    assert_eq!(errors(&set, &json!({"spec": {"f": ["a", "b", "a", "a"]}})), [r#"spec.f[2]: Duplicate value: "a""#]);
    let map = spec(json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
        "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}},
    }));
    let object = json!({"spec": {"f": [{"name": "x", "port": 1}, {"name": "x"}, {"name": "x", "port": 1}]}});
    assert_eq!(errors(&map, &object), [r#"spec.f[2]: Duplicate value: {"name":"x","port":1}"#]);
}

#[test]
fn rules_wait_until_the_schema_is_satisfied() {
    let schema = json!({
        "type": "object", "required": ["spec"],
        "x-kubernetes-validations": [{"rule": "false"}],
        "properties": {"spec": {"type": "object"}},
    });
    assert_eq!(
        errors(&schema, &json!({})),
        [
            "spec: Required value",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the \
             existing errors to complete validation",
        ]
    );
}

#[test]
fn a_status_is_validated_relative_to_itself() {
    let schema = json!({"type": "object", "properties": {"status": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
    let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
    let found = compiled.validate_status(&json!({"status": {"n": "x"}}), &json!({}));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [r#"status.n: Invalid value: "string": n in body must be of type integer: "string""#]);
}

#[test]
fn nulls_are_dropped_or_defaulted() {
    let schema = json!({"type": "object", "properties": {
        "plain": {"type": "string"}, "filled": {"type": "string", "default": "d"},
        "kept": {"type": "string", "nullable": true, "default": "d"},
        "nested": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 7}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"y": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"z": {"type": "integer", "default": 2}}}},
    }});
    let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
    let mut object = json!({"plain": null, "filled": null, "kept": null, "list": [{}, {"y": 5}], "map": {"k": {}}});
    compiled.default(&mut object);
    assert_eq!(
        object,
        json!({"filled": "d", "kept": null, "nested": {"x": 7}, "list": [{"y": 1}, {"y": 5}], "map": {"k": {"z": 2}}})
    );
}

#[test]
fn unknown_and_duplicate_fields_are_named() {
    let schema = spec(json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}));
    let compiled = CompiledSchema::new(Schema::parse(&schema).unwrap());
    let mut object = json!({"kind": "K", "spec": {"f": [{"a": "x"}, {"b": 1}], "g": {"h": 1}}, "top": 1});
    let pruned = compiled.prune(&mut object);
    assert_eq!(pruned, ["spec.f[1].b", "spec.g", "top"]);
    assert_eq!(object, json!({"kind": "K", "spec": {"f": [{"a": "x"}, {}]}}));
    let document = strict::parse(br#"{"spec":{"x":1,"l":[{"y":1,"y":2}],"x":2},"spec":{}}"#).unwrap();
    assert_eq!(document.duplicates, ["spec.l[0].y", "spec.x", "spec"]);
    assert_eq!(document.value, json!({"spec": {}}));
    let problems: Vec<String> = vec![strict::unknown_field("spec.foo"), strict::duplicate_field("spec.x")];
    assert_eq!(
        strict::decoding_error(&problems),
        r#"strict decoding error: unknown field "spec.foo", duplicate field "spec.x""#
    );
}

#[test]
fn paths_lead_where_kubectl_expects() {
    let object = json!({
        "metadata": {"labels": {"app.kubernetes.io/name": "n"}},
        "spec": {"x": 1, "f": 1.5, "b": true, "list": [{"x": "a"}, {"x": "b"}]},
        "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True", "n": 3}]},
    });
    for (path, expected) in [
        (".spec.x", json!([1])),
        (".spec.list[0].x", json!(["a"])),
        (".spec.list[-1].x", json!(["b"])),
        (".spec.list[*].x", json!(["a", "b"])),
        (".spec.list[0:1].x", json!(["a"])),
        (".spec.list[5].x", json!([])),
        (".spec.nope.x", json!([])),
        (".spec['x']", json!([1])),
        (r".metadata.labels.app\.kubernetes\.io/name", json!(["n"])),
        (r".metadata['labels.app\.kubernetes\.io/name']", json!(["n"])),
        (".spec['f','nope','x']", json!([1.5, 1])),
        // The parts of a union come one after the other, whichever value they are found in.
        (".*['nope','x','labels']", json!([1, {"app.kubernetes.io/name": "n"}])),
        (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
        (".status.conditions[?(@.type=='Ready')].status", json!(["True"])),
        (".status.conditions[?(@.n>2)].type", json!(["Ready"])),
        (".status.conditions[?(@.n)].type", json!(["Ready"])),
        (r#".status.conditions[?(@.type!="Ready")].type"#, json!(["Synced"])),
        ("..type", json!(["Synced", "Ready"])),
    ] {
        assert_eq!(json!(JsonPath::parse(path).unwrap().find(&object)), expected, "{path}");
    }
    let text = |path: &str| JsonPath::parse(path).unwrap().text(&object);
    assert_eq!([text(".spec.x"), text(".spec.b"), text(".spec.f"), text(".spec.nope")], ["1", "true", "1.5", ""]);
    for (path, error) in [
        (".spec.list[", "unterminated array"),
        (".spec.list[x]", "invalid array index x"),
        ("spec", "unrecognized identifier spec"),
        (".a[?(@.b==1)", "unclosed array expect ]"),
        (".a[?(@.b", "unterminated filter"),
    ] {
        assert_eq!(JsonPath::parse(path).unwrap_err().to_string(), error, "{path}");
    }
}

#[test]
fn definitions_are_defaulted() {
    let mut definition = json!({"spec": {
        "group": "g.io", "names": {"kind": "Thing", "plural": "things"}, "versions": [{"name": "v1", "storage": true}],
    }});
    crd::default(&mut definition);
    assert_eq!(
        definition["spec"]["names"],
        json!({"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"})
    );
    assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    definition["spec"]["versions"] = json!([{"name": "v1"}, {"name": "v2", "storage": true}]);
    crd::record_stored_version(&mut definition);
    assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));
}

#[test]
fn rule_errors_name_their_place_in_the_definition() {
    let definition = |rule: &str| {
        let mut definition = json!({
            "metadata": {"name": "things.g.io"},
            "spec": {"group": "g.io", "scope": "Cluster", "names": {"kind": "Thing", "plural": "things"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}},
                        "x-kubernetes-validations": [{"rule": rule}]}}}}}]},
        });
        crd::default(&mut definition);
        crd::validate_create(&definition).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let place = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
    assert!(definition("self.n > 1").is_empty());
    for (rule, said) in [
        ("self.nope > 1", "undefined field 'nope'"),
        ("self.n > 'a'", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("other > 1", "undeclared reference to 'other' (in container '')"),
        ("self.n.frobnicate()", "undeclared reference to 'frobnicate' (in container '')"),
        ("self.n", "cel expression must evaluate to a bool"),
        ("self.n >", "Syntax error"),
        ("Thing{n: 1} == self", "undeclared reference to 'Thing'"),
    ] {
        let found = definition(rule);
        assert!(matches!(found.as_slice(), [one] if one.starts_with(place) && one.contains(said)), "{rule}: {found:?}");
    }
}

#[test]
fn a_rule_is_run_on_the_values_it_reads_even_when_their_names_are_reserved() {
    let schema = json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.package == self.__package__ && self.foo__dash__bar == 'y'"}],
        "properties": {"package": {"type": "string"}, "foo-bar": {"type": "string"}},
    });
    assert!(errors(&schema, &json!({"package": "x", "foo-bar": "y"})).is_empty());
}

#[test]
fn errors_print_as_go_prints_them() {
    let error = |value: Value| FieldError::invalid("f", value, "d").to_string();
    assert_eq!(error(json!("a\"\u{7f}\u{a0}é\n")), r#"f: Invalid value: "a\"\x7f\u00a0é\n": d"#);
    assert_eq!(error(json!({"b": "<&>", "a": 1.0})), r#"f: Invalid value: {"a":1,"b":"\u003c\u0026\u003e"}: d"#);
    assert_eq!(error(json!(123_456_789.5)), "f: Invalid value: 1.234567895e+08: d");
    assert_eq!(error(json!(null)), "f: Invalid value: null: d");
    assert_eq!(print::json(&json!(1e21)), "1e+21");
    assert_eq!(print::json(&json!(1e-7)), "1e-7");
    let path = Path::Root;
    let path = path.child("spec");
    let path = path.child("list");
    let path = path.index(2);
    assert_eq!(path.key("k").to_string(), "spec.list[2][k]");
    assert_eq!(Path::Root.to_string(), "<nil>");
    let one = FieldError::required("a", "");
    let two = FieldError::new(FieldErrorKind::Forbidden, "b", None, "no");
    assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
    assert_eq!(aggregate(&[one.clone(), one, two]), "[a: Required value, b: Forbidden: no]");
}
