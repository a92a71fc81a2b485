//! From `apiextensions.k8s.io/v1` JSONSchemaProps, as JSON, to [`Schema`].
//!
//! Lenient about what a schema may say (the structural rules judge that) and strict about the types of what it says: a wrong
//! type is an error at its place. Keywords that Kubernetes does not know are ignored, as its decoder does.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{Additional, Exclusive, ListType, MapType, PatchStrategy, Pattern, Rule, Schema, Type, Validation};
use crate::error::{FieldError, FieldErrorKind, Path};

impl Schema {
    /// Reads a schema from JSONSchemaProps or from the schema of a built-in kind.
    ///
    /// # Errors
    /// Every keyword whose value has the wrong type, with its path.
    pub fn parse(schema: &Value) -> Result<Self, Vec<FieldError>> {
        Self::parse_at(schema, &Path::Root)
    }

    /// As [`Schema::parse`], with errors below `path`.
    ///
    /// # Errors
    /// Every keyword whose value has the wrong type, with its path.
    pub fn parse_at(schema: &Value, path: &Path<'_>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let parsed = node(schema, path, &mut errors);
        if errors.is_empty() { Ok(parsed) } else { Err(errors) }
    }
}

impl Type {
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// Reads keywords of one object and records those of the wrong type.
struct Keywords<'a, 'p> {
    map: &'a Map<String, Value>,
    path: &'p Path<'p>,
    errors: &'p mut Vec<FieldError>,
}

impl<'a> Keywords<'a, '_> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, key: &str, value: &Value, expected: &str) {
        self.errors.push(FieldError::new(
            FieldErrorKind::TypeInvalid,
            self.path.child(key).to_string(),
            Some(value.clone()),
            format!("must be {expected}"),
        ));
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.get(key)?;
        if value.as_str().is_none() {
            self.wrong(key, value, "a string");
        }
        value.as_str().filter(|text| !text.is_empty())
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else { return false };
        if !value.is_boolean() {
            self.wrong(key, value, "a boolean");
        }
        value.as_bool().unwrap_or(false)
    }

    fn number(&mut self, key: &str) -> Option<Number> {
        let value = self.get(key)?;
        match value {
            Value::Number(number) => Some(number.clone()),
            other => {
                self.wrong(key, other, "a number");
                None
            }
        }
    }

    /// A count. Negative ones hold for everything (or nothing, for a maximum), as in kube-apiserver they compare as int64.
    fn count(&mut self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        if let Some(count) = value.as_u64() {
            return Some(count);
        }
        match value.as_i64() {
            Some(_) => Some(0),
            None => {
                self.wrong(key, value, "an integer");
                None
            }
        }
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let texts: Option<Vec<String>> =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.unwrap_or_else(|| {
            self.wrong(key, value, "a list of strings");
            Vec::new()
        })
    }

    fn schema(&mut self, key: &str) -> Option<Schema> {
        let value = self.get(key)?;
        let path = self.path.child(key);
        Some(node(value, &path, self.errors))
    }

    fn schemas(&mut self, key: &str) -> Vec<Schema> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.wrong(key, value, "a list of schemas");
            return Vec::new();
        };
        let path = self.path.child(key);
        items.iter().enumerate().map(|(i, item)| node(item, &path.index(i), self.errors)).collect()
    }
}

fn node(schema: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Schema {
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::new(
            FieldErrorKind::TypeInvalid,
            path.to_string(),
            Some(schema.clone()),
            "must be a schema object",
        ));
        return Schema::default();
    };
    let mut words = Keywords { map, path, errors };
    let mut parsed = Schema {
        kind: kind(&mut words),
        properties: properties(&mut words),
        additional: additional(&mut words),
        items: items(&mut words),
        nullable: words.flag("nullable"),
        int_or_string: words.flag("x-kubernetes-int-or-string"),
        preserve_unknown: words.flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: words.flag("x-kubernetes-embedded-resource"),
        list_type: list_type(&mut words),
        map_type: match words.text("x-kubernetes-map-type") {
            Some("atomic") => MapType::Atomic,
            _ => MapType::Granular,
        },
        patch_strategy: patch_strategy(&mut words),
        default: words.get("default").cloned(),
        validation: None,
        rules: rules(&mut words),
        has_rules: false,
    };
    let validation = validation(&mut words);
    // Rules in allOf and the like are refused in CRDs, and don't count.
    parsed.has_rules = !parsed.rules.is_empty()
        || parsed.properties.values().any(|s| s.has_rules)
        || parsed.items.as_ref().is_some_and(|s| s.has_rules)
        || matches!(&parsed.additional, Some(Additional::Of(s)) if s.has_rules);
    parsed.validation = validation.map(Box::new);
    parsed
}

fn rules(words: &mut Keywords<'_, '_>) -> Vec<Rule> {
    let Some(value) = words.get("x-kubernetes-validations") else { return Vec::new() };
    let Some(items) = value.as_array() else {
        words.wrong("x-kubernetes-validations", value, "a list of rules");
        return Vec::new();
    };
    let path = words.path.child("x-kubernetes-validations");
    let mut rules = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let Some(map) = item.as_object() else {
            words.errors.push(FieldError::invalid(path.index(i), item.clone(), "must be an object"));
            continue;
        };
        let place = path.index(i);
        let mut words = Keywords { map, path: &place, errors: words.errors };
        let mut text = |key: &str| words.text(key).unwrap_or_default().to_owned();
        rules.push(Rule {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: Some(text("reason")).filter(|reason| !reason.is_empty()),
            field_path: text("fieldPath"),
            optional_old_self: words.get("optionalOldSelf").and_then(Value::as_bool),
        });
    }
    rules
}

fn kind(words: &mut Keywords<'_, '_>) -> Option<Type> {
    let name = words.text("type")?;
    let kind = Type::from_name(name);
    if kind.is_none() {
        words.errors.push(FieldError::not_supported(
            words.path.child("type"),
            name,
            &["array", "boolean", "integer", "number", "object", "string"],
        ));
    }
    kind
}

fn properties(words: &mut Keywords<'_, '_>) -> BTreeMap<String, Schema> {
    let Some(value) = words.get("properties") else { return BTreeMap::new() };
    let Some(map) = value.as_object() else {
        words.wrong("properties", value, "an object of schemas");
        return BTreeMap::new();
    };
    let path = words.path.child("properties");
    map.iter().map(|(name, schema)| (name.clone(), node(schema, &path.key(name), words.errors))).collect()
}

fn additional(words: &mut Keywords<'_, '_>) -> Option<Additional> {
    Some(match words.get("additionalProperties")? {
        Value::Bool(allowed) => Additional::Allowed(*allowed),
        _ => Additional::Of(Box::new(words.schema("additionalProperties")?)),
    })
}

fn items(words: &mut Keywords<'_, '_>) -> Option<Box<Schema>> {
    if let Some(value @ Value::Array(_)) = words.get("items") {
        words.wrong("items", value, "a schema, not a list of schemas");
        return None;
    }
    words.schema("items").map(Box::new)
}

fn list_type(words: &mut Keywords<'_, '_>) -> ListType {
    match words.text("x-kubernetes-list-type") {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(words.texts("x-kubernetes-list-map-keys")),
        _ => ListType::Atomic,
    }
}

/// `x-kubernetes-patch-strategy` may list several (`merge,retainKeys`).
fn patch_strategy(words: &mut Keywords<'_, '_>) -> PatchStrategy {
    let merges = words.text("x-kubernetes-patch-strategy").is_some_and(|s| s.split(',').any(|one| one == "merge"));
    if merges {
        PatchStrategy::Merge(words.text("x-kubernetes-patch-merge-key").map(str::to_owned))
    } else {
        PatchStrategy::Replace
    }
}

fn validation(words: &mut Keywords<'_, '_>) -> Option<Validation> {
    let bound = |words: &mut Keywords<'_, '_>, limit: &str, exclusive: &str| {
        let exclusive = if words.flag(exclusive) { Exclusive::Yes } else { Exclusive::No };
        words.number(limit).map(|number| (number, exclusive))
    };
    let enumeration = match words.get("enum") {
        None => Vec::new(),
        Some(Value::Array(values)) => values.clone(),
        Some(other) => {
            words.wrong("enum", other, "a list of values");
            Vec::new()
        }
    };
    let parsed = Validation {
        required: words.texts("required"),
        enumeration,
        format: words.text("format").map(str::to_owned),
        pattern: words.text("pattern").map(Pattern::new),
        minimum: bound(words, "minimum", "exclusiveMinimum"),
        maximum: bound(words, "maximum", "exclusiveMaximum"),
        multiple_of: words.number("multipleOf"),
        min_length: words.count("minLength"),
        max_length: words.count("maxLength"),
        min_items: words.count("minItems"),
        max_items: words.count("maxItems"),
        unique_items: words.flag("uniqueItems"),
        min_properties: words.count("minProperties"),
        max_properties: words.count("maxProperties"),
        all_of: words.schemas("allOf"),
        any_of: words.schemas("anyOf"),
        one_of: words.schemas("oneOf"),
        not: words.schema("not").map(Box::new),
    };
    parsed.says_something().then_some(parsed)
}

impl Validation {
    fn says_something(&self) -> bool {
        let lists = [self.all_of.len(), self.any_of.len(), self.one_of.len(), self.required.len()];
        let counts = [self.min_length, self.max_length, self.min_items, self.max_items];
        lists.iter().any(|len| *len > 0)
            || counts.iter().any(Option::is_some)
            || !self.enumeration.is_empty()
            || self.format.is_some()
            || self.pattern.is_some()
            || self.minimum.is_some()
            || self.maximum.is_some()
            || self.multiple_of.is_some()
            || self.unique_items
            || self.min_properties.is_some()
            || self.max_properties.is_some()
            || self.not.is_some()
    }
}
