//! Is a schema structural? Every value needs a type that is known without looking at allOf, anyOf, oneOf and not; these may only
//! validate. Without that nothing can be pruned, defaulted or merged.
//!
//! Works on JSONSchemaProps as JSON, since it is about keywords that [`Schema`](super::Schema) doesn't keep. Errors are sorted by
//! their text, as Kubernetes sorts them.

use serde_json::{Map, Value};

use super::Pattern;
use crate::error::{FieldError, Path};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// A node's keyword, unless it is null.
pub(super) fn get<'v>(node: &'v Value, key: &str) -> Option<&'v Value> {
    node.get(key).filter(|value| !value.is_null())
}

pub(super) fn text<'v>(node: &'v Value, key: &str) -> &'v str {
    get(node, key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(node: &Value, key: &str) -> bool {
    get(node, key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn list<'v>(node: &'v Value, key: &str) -> &'v [Value] {
    get(node, key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn properties(node: &Value) -> Option<&Map<String, Value>> {
    get(node, "properties").and_then(Value::as_object).filter(|map| !map.is_empty())
}

/// The schema of additional properties, if it is one.
fn additional_schema(node: &Value) -> Option<&Value> {
    get(node, "additionalProperties").filter(|value| value.is_object())
}

/// Why a schema can't be brought into structural form at all, so that the rules don't apply.
#[must_use]
pub fn unsupported(schema: &Value) -> Option<String> {
    let given = |key: &&&str| match get(schema, key) {
        None => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(map)) => !map.is_empty() || **key == "additionalItems",
        Some(_) => true,
    };
    let keywords = ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"];
    if let Some(key) = keywords.iter().find(|key| given(key)) {
        return Some(format!("OpenAPIV3Schema '{}' is not supported", if *key == "$schema" { "schema" } else { key }));
    }
    let junctors = ["not", "allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| get(schema, key));
    let nested =
        junctors.flat_map(|v| v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice)).find_map(unsupported);
    if nested.is_some() {
        return nested;
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned());
    }
    match get(schema, "items") {
        Some(Value::Array(_)) => return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned()),
        Some(items) => {
            if let Some(why) = unsupported(items) {
                return Some(why);
            }
        }
        None => {}
    }
    let below = properties(schema).into_iter().flat_map(Map::values).chain(additional_schema(schema));
    below.into_iter().find_map(unsupported)
}

/// Every violation of the structural rules, below `path`. None where [`unsupported`] says something.
#[must_use]
pub fn validate(schema: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if unsupported(schema).is_some() {
        return errors;
    }
    invariants(schema, Level::Root, path, &mut errors);
    complete_validation(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(node: &Value, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = text(node, "type");
    match get(node, "items") {
        Some(items) => invariants(items, Level::Item, &path.child("items"), errors),
        None if kind == "array" => errors.push(FieldError::required(path.child("items"), "must be specified")),
        None => {}
    }
    let below = path.child("properties");
    for (name, property) in properties(node).into_iter().flatten() {
        invariants(property, Level::Field, &below.key(name), errors);
    }
    if get(node, "additionalProperties").is_some() {
        let place = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(place, "must not be used at the root"));
        }
        if let Some(schema) = additional_schema(node) {
            invariants(schema, Level::Field, &place, errors);
        }
    }
    extensions(node, level, path, errors);
    let skip = (is_int_or_string(list(node, "anyOf")), first_of_all_is_int_or_string(node));
    value_validation(node, skip, level, path, errors);
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(path.child("type"), kind, "must be object at the root"));
    }
    type_fields(node, level, path, errors);
}

/// The rules of `x-kubernetes-*` and of the type.
fn extensions(node: &Value, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
    const EMBEDDED: &str = "x-kubernetes-embedded-resource";
    let kind = text(node, "type");
    let (int_or_string, preserve, embedded) =
        (flag(node, "x-kubernetes-int-or-string"), flag(node, PRESERVE), flag(node, EMBEDDED));
    let detail = "must be false if x-kubernetes-int-or-string is true";
    if int_or_string && preserve {
        errors.push(FieldError::invalid(path.child(PRESERVE), true, detail));
    }
    if int_or_string && embedded {
        errors.push(FieldError::invalid(path.child(EMBEDDED), true, detail));
    }
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => FieldError::required(path.child("type"), detail),
            kind => FieldError::invalid(path.child("type"), kind, detail),
        });
    } else if kind.is_empty() && !int_or_string && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(path.child("type"), detail));
    }
    if embedded && get(node, "additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(path.child("additionalProperties"), detail));
    }
    if embedded && !preserve && properties(node).is_none() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(path.child("properties"), detail));
    }
}

/// apiVersion, kind and metadata of a resource are Kubernetes' own; a schema may restrict only the names.
fn type_fields(node: &Value, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(fields) = properties(node) else { return };
    let resource = level == Level::Root || flag(node, "x-kubernetes-embedded-resource");
    let below = path.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(field) = fields.get(name).filter(|field| resource && text(field, "type") != "string") {
            errors.push(FieldError::invalid(below.key(name).child("type"), text(field, "type"), "must be string"));
        }
    }
    let Some(metadata) = fields.get("metadata") else { return };
    let place = below.key("metadata");
    if resource && text(metadata, "type") != "object" {
        errors.push(FieldError::invalid(place.child("type"), text(metadata, "type"), "must be object"));
    }
    if level == Level::Root && !restricts_only_names(metadata) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(place, detail));
    }
}

fn restricts_only_names(metadata: &Value) -> bool {
    let names = properties(metadata).is_none_or(|p| p.keys().all(|key| key == "name" || key == "generateName"));
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let others = metadata.as_object().into_iter().flatten();
    names
        && others
            .filter(|(key, _)| !matches!(key.as_str(), "type" | "properties" | "default"))
            .all(|(key, value)| !is_keyword(key) || says_nothing(value))
}

/// Whether a key is one that JSONSchemaProps knows; others are dropped when a CRD is read.
fn is_keyword(key: &str) -> bool {
    const KEYWORDS: [&str; 30] = [
        "description",
        "type",
        "nullable",
        "format",
        "title",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "multipleOf",
        "enum",
        "maxProperties",
        "minProperties",
        "required",
        "items",
        "allOf",
        "oneOf",
        "anyOf",
        "not",
        "properties",
        "additionalProperties",
        "externalDocs",
        "example",
        "default",
    ];
    KEYWORDS.contains(&key) || key.starts_with("x-kubernetes-")
}

/// `anyOf: [{type: integer}, {type: string}]`, which int-or-string may carry.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let only = |node: &Value, kind: &str| text(node, "type") == kind && node.as_object().is_some_and(|m| m.len() == 1);
    matches!(any_of, [first, second] if only(first, "integer") && only(second, "string"))
}

fn first_of_all_is_int_or_string(node: &Value) -> bool {
    list(node, "allOf").first().is_some_and(|first| is_int_or_string(list(first, "anyOf")))
}

/// `skip`: leave out anyOf, and the anyOf of the first of allOf.
fn value_validation(node: &Value, skip: (bool, bool), level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (key, left_out) in [("anyOf", skip.0), ("allOf", false), ("oneOf", false)] {
        if left_out {
            continue;
        }
        let below = path.child(key);
        for (i, branch) in list(node, key).iter().enumerate() {
            let skip_any_of = key == "allOf" && i == 0 && skip.1;
            nested(branch, skip_any_of, level, &below.index(i), errors);
        }
    }
    if let Some(not) = get(node, "not") {
        nested(not, false, level, &path.child("not"), errors);
    }
    let pattern = text(node, "pattern");
    if !pattern.is_empty()
        && let Err(error) = Pattern::new(pattern).check()
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(path.child("pattern"), pattern, detail));
    }
}

/// A node below a junctor: it must only validate.
fn nested(node: &Value, skip_any_of: bool, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    value_validation(node, (skip_any_of, false), level, path, errors);
    if let Some(items) = get(node, "items") {
        nested(items, false, level, &path.child("items"), errors);
    }
    let below = path.child("properties");
    for (name, property) in properties(node).into_iter().flatten() {
        nested(property, false, Level::Field, &below.key(name), errors);
    }
    let mut forbid = |key: &str, detail: &str| errors.push(FieldError::forbidden(path.child(key), detail));
    for key in ["type", "title", "description"] {
        if !text(node, key).is_empty() {
            forbid(key, "must be empty to be structural");
        }
    }
    if get(node, "additionalProperties").is_some_and(|value| *value != Value::Bool(false)) {
        forbid("additionalProperties", "must be undefined to be structural");
    }
    if get(node, "default").is_some() {
        forbid("default", "must be undefined to be structural");
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        if flag(node, key) {
            forbid(key, "must be false to be structural");
        }
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if !list(node, key).is_empty() {
            forbid(key, "must be empty to be structural");
        }
    }
    for key in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if get(node, key).is_some() {
            forbid(key, "must be undefined to be structural");
        }
    }
    if properties(node).is_some_and(|p| p.contains_key("metadata")) {
        let detail = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(below.key("metadata"), detail));
    }
}

/// Whatever a junctor validates must be described outside of it. `at` is the described node, `from` the one that validates.
fn complete_validation(
    node: &Value,
    described: Option<&Value>,
    at: &Path<'_>,
    from: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(not) = get(node, "not") {
        complete_nested(not, described, at, &from.child("not"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let below = from.child(key);
        for (i, branch) in list(node, key).iter().enumerate() {
            complete_nested(branch, described, at, &below.index(i), errors);
        }
    }
    // Nodes outside of junctors are described by themselves, and Kubernetes looks at the root's junctors only.
}

fn complete_nested(
    node: &Value,
    described: Option<&Value>,
    at: &Path<'_>,
    from: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let missing = |at: &Path<'_>, from: &Path<'_>| FieldError::required(at, format!("because it is defined in {from}"));
    let Some(described) = described else {
        errors.push(missing(at, from));
        return;
    };
    complete_validation(node, Some(described), at, from, errors);
    if let Some(items) = get(node, "items") {
        complete_nested(items, get(described, "items"), &at.child("items"), &from.child("items"), errors);
    }
    let (at_below, from_below) = (at.child("properties"), from.child("properties"));
    for (name, property) in properties(node).into_iter().flatten() {
        let (at, from) = (at_below.key(name), from_below.key(name));
        match properties(described).and_then(|p| p.get(name)) {
            Some(below) => complete_nested(property, Some(below), &at, &from, errors),
            None => errors.push(missing(&at, &from)),
        }
    }
}
