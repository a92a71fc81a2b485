//! `openAPIV3Schema`: the keywords of JSON Schema that Kubernetes has, and what its own extensions ask of each other.

use serde_json::Value;

use super::Rules;
use super::defaults::{Unknown, validate_defaults};
use super::expressions::{self, Costs};
use crate::error::{FieldError, FieldErrorKind, Path, print};
use crate::schema::cel::{ArrayNotation, parse_field_path};
use crate::schema::structural::{self, flag, get, list, properties, text};
use crate::schema::{Schema, prune};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// The keywords that may not stand at the root of a schema whose status is a subresource, in the order of the Go struct.
const NOT_AT_ROOT: [&str; 21] = [
    "id",
    "$schema",
    "$ref",
    "nullable",
    "default",
    "enum",
    "maxProperties",
    "minProperties",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
];

const ALLOWED_AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength \
                               Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
                               XPreserveUnknownFields XValidations]";

/// The errors of a `schema` (`{openAPIV3Schema: …}`) below `path`.
pub(super) fn validate(schema: &Value, status: bool, rules: &Rules, costs: Costs, path: &Path<'_>) -> Vec<FieldError> {
    let Some(root) = get(schema, "openAPIV3Schema") else { return Vec::new() };
    let place = &path.child("openAPIV3Schema");
    let mut errors = Vec::new();
    if status {
        check_root(root, place, &mut errors);
    }
    if flag(root, "nullable") {
        errors.push(FieldError::forbidden(place.child("nullable"), "nullable cannot be true at the root"));
    }
    let violations = structural::validate(root, place);
    let mut compile = violations.is_empty() && structural::unsupported(root).is_none();
    errors.extend(violations);
    let parsed = Schema::parse_at(root, place);
    if let Ok(schema) = &parsed
        && compile
    {
        let unknown = if rules.pruned_defaults { Unknown::Refused } else { Unknown::Allowed };
        let found = validate_defaults(schema, unknown, place);
        compile = found.is_empty();
        errors.extend(found);
    }
    let mut walk = Walk { rules, errors: Vec::new() };
    walk.node(root, place, &Within { root: true, ..Within::default() });
    let sound = walk.errors.is_empty();
    errors.extend(walk.errors);
    match parsed {
        Ok(schema) if compile && sound => expressions::validate(&schema, costs, place, &mut errors),
        Ok(_) => {}
        // Types that don't decode are refused unless another error names the same thing.
        Err(found) => errors.extend(found.into_iter().filter(|_| sound)),
    }
    errors
}

fn check_root(root: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = text(root, "type");
    // Of the keywords only id, $schema and $ref come before the type.
    let before_type = ["id", "$schema", "$ref"].iter().any(|key| get(root, key).is_some());
    if !kind.is_empty() && kind != "object" && !before_type {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(path.child("type"), kind, detail));
        return;
    }
    let empty = |value: &Value| match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if NOT_AT_ROOT.iter().any(|key| get(root, key).is_some_and(|value| !empty(value))) {
        let detail = format!(
            "only {ALLOWED_AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.push(FieldError::invalid(path, root.clone(), detail));
    }
}

/// What holds for a node because of the nodes above.
#[derive(Clone, Default)]
struct Within {
    root: bool,
    /// Why defaults are forbidden.
    no_defaults: Option<String>,
    resource_meta: bool,
}

struct Walk<'r> {
    rules: &'r Rules,
    errors: Vec<FieldError>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Value, path: &Path<'_>, within: &Within) {
        self.keywords(node, path, within);
        self.below(node, path, within);
        self.map_type(node, path);
        self.list_type(node, path);
        if self.rules.map_keys {
            self.errors.extend(map_key_errors(node, path));
        }
        self.validations(node, path);
    }

    /// Keywords that aren't supported at all, or not here.
    fn keywords(&mut self, node: &Value, path: &Path<'_>, within: &Within) {
        let kind = text(node, "type");
        if self.rules.known_types && !kind.is_empty() && !TYPES.contains(&kind) {
            self.errors.push(FieldError::not_supported(path.child("type"), kind, &TYPES));
        }
        let mut forbid = |key: &str, detail: &str| self.errors.push(FieldError::forbidden(path.child(key), detail));
        if let (Some(why), true) = (&within.no_defaults, node.get("default").is_some()) {
            forbid("default", &format!("must not be set {why}"));
        }
        let given = |key: &str| match node.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty() || key == "$ref",
            Some(Value::Object(map)) => !map.is_empty() || matches!(key, "dependencies" | "additionalItems"),
            Some(_) => true,
        };
        for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            if given(key) {
                forbid(key, &format!("{key} is not supported"));
            }
        }
        if kind == "null" {
            forbid("type", "type cannot be set to null, use nullable as an alternative");
        }
        if get(node, "items").is_some_and(|items| items.as_array().is_some_and(|a| !a.is_empty())) {
            forbid("items", "items must be a schema object and not an array");
        }
        if within.resource_meta && flag(node, "x-kubernetes-embedded-resource") {
            forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
        }
        if flag(node, "uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            forbid("uniqueItems", detail);
        }
        if get(node, "additionalProperties").is_some_and(|a| *a != Value::Bool(true)) && properties(node).is_some() {
            forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
        }
        if node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let place = path.child("x-kubernetes-preserve-unknown-fields");
            self.errors.push(FieldError::invalid(place, false, "must be true or undefined"));
        }
    }

    fn below(&mut self, node: &Value, path: &Path<'_>, within: &Within) {
        let here = Within { root: false, ..within.clone() };
        if let Some(schema) = get(node, "additionalProperties").filter(|a| a.is_object()) {
            let mut below = here.clone();
            if within.resource_meta {
                below.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            self.node(schema, &path.child("additionalProperties"), &below);
        }
        let resource = within.root || flag(node, "x-kubernetes-embedded-resource");
        let place = path.child("properties");
        for (name, property) in properties(node).into_iter().flatten() {
            let mut below = here.clone();
            if resource && prune::is_type_field(name) {
                below.resource_meta = true;
                if within.root {
                    below.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.node(property, &place.key(name), &below);
        }
        if let Some(not) = get(node, "not") {
            self.node(not, &path.child("not"), &here);
        }
        for key in ["allOf", "oneOf", "anyOf"] {
            let place = path.child(key);
            for (i, branch) in list(node, key).iter().enumerate() {
                self.node(branch, &place.index(i), &here);
            }
        }
        match get(node, "items") {
            Some(Value::Array(items)) => {
                let place = path.child("items");
                items.iter().enumerate().for_each(|(i, item)| self.node(item, &place.index(i), &here));
            }
            Some(items) => self.node(items, &path.child("items"), &here),
            None => {}
        }
    }

    fn wrong_type(&mut self, node: &Value, path: &Path<'_>, detail: &str) {
        self.errors.push(match text(node, "type") {
            "" => FieldError::required(path.child("type"), detail),
            kind => FieldError::invalid(path.child("type"), kind, detail),
        });
    }

    fn map_type(&mut self, node: &Value, path: &Path<'_>) {
        const KEY: &str = "x-kubernetes-map-type";
        let Some(given) = get(node, KEY).and_then(Value::as_str) else { return };
        if text(node, "type") != "object" {
            self.wrong_type(node, path, "must be object if x-kubernetes-map-type is specified");
        }
        if !matches!(given, "atomic" | "granular") {
            self.errors.push(FieldError::not_supported(path.child(KEY), given, &["atomic", "granular"]));
        }
    }

    fn list_type(&mut self, node: &Value, path: &Path<'_>) {
        const KEY: &str = "x-kubernetes-list-type";
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let given = get(node, KEY).and_then(Value::as_str);
        let keys = list(node, KEYS);
        if given.is_some() && text(node, "type") != "array" {
            self.wrong_type(node, path, "must be array if x-kubernetes-list-type is specified");
        } else if self.rules.atomic_sets && is_non_atomic_set(node) {
            let items = get(node, "items").unwrap_or(&Value::Null);
            let key = if text(items, "type") == "array" { KEY } else { "x-kubernetes-map-type" };
            let place = path.child("items");
            let shown = get(items, KEY).cloned().unwrap_or_default();
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            self.errors.push(FieldError::invalid(place.child(key), shown, detail));
        }
        match given {
            None if !keys.is_empty() => {
                let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
                self.errors.push(FieldError::required(path.child(KEY), detail));
            }
            None | Some("atomic" | "set" | "map") => {}
            Some(other) => {
                self.errors.push(FieldError::not_supported(path.child(KEY), other, &["atomic", "set", "map"]));
            }
        }
        match given {
            Some("map") => self.map_list(node, keys, path),
            Some(other) if !keys.is_empty() => {
                let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
                self.errors.push(FieldError::invalid(path.child(KEY), other, detail));
            }
            _ => {}
        }
    }

    fn map_list(&mut self, node: &Value, keys: &[Value], path: &Path<'_>) {
        let keys_path = path.child("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(FieldError::required(keys_path, detail));
        }
        let Some(items) = get(node, "items") else {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            self.errors.push(FieldError::required(path.child("items"), detail));
            return;
        };
        let items_path = path.child("items");
        if text(items, "type") != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.errors.push(FieldError::invalid(items_path.child("type"), text(items, "type"), detail));
            return;
        }
        let below = items_path.child("properties");
        for (i, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            match properties(items).and_then(|p| p.get(name)) {
                Some(property) if matches!(text(property, "type"), "array" | "object") => {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let place = below.key(name);
                    self.errors.push(FieldError::invalid(place.child("type"), text(items, "type"), detail));
                }
                Some(_) => {}
                None => {
                    let detail = "entries must all be names of item properties";
                    self.errors.push(FieldError::invalid(keys_path, Value::from(keys), detail));
                }
            }
            if keys[..i].contains(key) {
                let detail = "must not contain duplicate entries";
                self.errors.push(FieldError::invalid(keys_path, Value::from(keys), detail));
            }
        }
    }

    /// The form of rules; whether they compile comes later.
    fn validations(&mut self, node: &Value, path: &Path<'_>) {
        let below = path.child("x-kubernetes-validations");
        for (i, rule) in list(node, "x-kubernetes-validations").iter().enumerate() {
            let place = &below.index(i);
            let breaks = |text: &str| text.contains(['\n', '\r']);
            let (message, expression) = (text(rule, "message"), text(rule, "messageExpression"));
            let (source, field_path) = (text(rule, "rule"), text(rule, "fieldPath"));
            let mut invalid = |key: &str, value: &str, detail: &str| {
                self.errors.push(FieldError::invalid(place.child(key), value, detail));
            };
            if source.trim().is_empty() {
                self.errors.push(FieldError::required(place.child("rule"), "rule is not specified"));
            } else if !message.is_empty() && message.trim().is_empty() {
                invalid("message", message, "must be non-empty if specified");
            } else if breaks(message.trim()) {
                invalid("message", message, "must not contain line breaks");
            } else if breaks(source.trim()) && message.trim().is_empty() {
                let detail = "message must be specified if rule contains line breaks";
                self.errors.push(FieldError::required(place.child("message"), detail));
            }
            if !expression.is_empty() && expression.trim().is_empty() {
                let detail = "messageExpression must be non-empty if specified";
                self.errors.push(FieldError::required(place.child("messageExpression"), detail));
            }
            if let Some(reason) = get(rule, "reason").and_then(Value::as_str)
                && FieldErrorKind::from_reason(reason).is_none()
            {
                let known = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
                self.errors.push(FieldError::not_supported(place.child("reason"), reason, &known));
            }
            self.field_path(node, field_path, place);
        }
    }

    fn field_path(&mut self, node: &Value, given: &str, place: &Path<'_>) {
        if given.is_empty() {
            return;
        }
        let place = &place.child("fieldPath");
        let mut add = |detail: &str| self.errors.push(FieldError::invalid(place, given, detail));
        if given.trim().is_empty() {
            add("must be non-empty if specified");
        }
        if given.contains(['\n', '\r']) {
            add("must not contain line breaks");
        }
        // A schema that doesn't parse has errors enough.
        if let Ok(schema) = Schema::parse(node)
            && structural::unsupported(node).is_none()
            && parse_field_path(given, &schema, ArrayNotation::Allowed).is_err()
        {
            add("must be a valid path");
        }
    }
}

/// Keys of a list of type map are never absent, so they need a default or to be required; null is no key.
fn map_key_errors(node: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(items) = get(node, "items").filter(|i| i.is_object()) else { return errors };
    let kind = text(node, "x-kubernetes-list-type");
    if !matches!(kind, "set" | "map") {
        return errors;
    }
    let items_path = path.child("items");
    if flag(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.push(FieldError::forbidden(items_path.child("nullable"), detail));
    }
    if kind == "map" {
        let below = items_path.child("properties");
        let required = list(items, "required");
        for key in list(node, "x-kubernetes-list-map-keys") {
            let name = key.as_str().unwrap_or_default();
            let Some(property) = properties(items).and_then(|p| p.get(name)) else { continue };
            let place = below.key(name);
            if !required.contains(key) && get(property, "default").is_none() {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                errors.push(FieldError::required(place.child("default"), detail));
            }
            if flag(property, "nullable") {
                let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                errors.push(FieldError::forbidden(place.child("nullable"), detail));
            }
        }
    }
    errors
}

/// Elements of a set are compared as wholes, so what they consist of must be atomic.
fn is_non_atomic_set(node: &Value) -> bool {
    let Some(items) = get(node, "items").filter(|_| text(node, "x-kubernetes-list-type") == "set") else {
        return false;
    };
    match text(items, "type") {
        "array" => !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
        "object" => text(items, "x-kubernetes-map-type") != "atomic",
        _ => false,
    }
}

fn any_node(node: &Value, holds: &dyn Fn(&Value) -> bool) -> bool {
    let single = ["items", "not", "additionalProperties"];
    let lists = ["allOf", "anyOf", "oneOf"];
    holds(node)
        || single.iter().any(|key| get(node, key).is_some_and(|below| below.is_object() && any_node(below, holds)))
        || lists.iter().any(|key| list(node, key).iter().any(|below| any_node(below, holds)))
        || properties(node).is_some_and(|p| p.values().any(|below| any_node(below, holds)))
}

pub(super) fn has_defaults(schema: &Value) -> bool {
    any_node(schema, &|node| get(node, "default").is_some())
}

pub(super) fn has_unknown_types(schema: &Value) -> bool {
    any_node(schema, &|node| !matches!(text(node, "type"), "") && !TYPES.contains(&text(node, "type")))
}

pub(super) fn has_non_atomic_sets(schema: &Value) -> bool {
    any_node(schema, &is_non_atomic_set)
}

pub(super) fn has_unfit_map_keys(schema: &Value) -> bool {
    any_node(schema, &|node| !map_key_errors(node, &Path::Root).is_empty())
}

/// Formats that Kubernetes doesn't know: a CRD may have them, but they mean nothing, and the creator is warned.
#[must_use]
pub fn unrecognised_formats(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_formats(schema, &mut found);
    found.into_iter().map(|form| format!("unrecognized format {}", print::quote(&form))).collect()
}

fn collect_formats(node: &Value, found: &mut Vec<String>) {
    let form = text(node, "format");
    let known = match text(node, "type") {
        "" | "string" => crate::schema::format::is_known(form),
        "integer" => matches!(form, "int32" | "int64"),
        "number" => matches!(form, "float" | "double"),
        _ => false,
    };
    if !form.is_empty() && !known && !found.iter().any(|f| f == form) {
        found.push(form.to_owned());
    }
    for key in ["items", "additionalProperties", "not"] {
        get(node, key).into_iter().for_each(|below| collect_formats(below, found));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        list(node, key).iter().for_each(|below| collect_formats(below, found));
    }
    properties(node).into_iter().flatten().for_each(|(_, below)| collect_formats(below, found));
}
