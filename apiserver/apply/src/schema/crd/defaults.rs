//! Defaults in a schema must themselves be valid: pruned, well-typed, and true to the rules.

use serde_json::Value;

use crate::error::{FieldError, Path};
use crate::schema::cel::{Place, Rules};
use crate::schema::{Schema, embedded, prune, structural, validate};

/// Whether defaults may have unknown fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Refused,
    Allowed,
}

/// The errors of all defaults below a schema.
pub(super) fn validate_defaults(schema: &Schema, unknown: Unknown, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(schema, unknown, path, &mut errors);
    errors
}

fn walk(schema: &Schema, unknown: Unknown, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(default) = &schema.default {
        check(schema, default, unknown, &path.child("default"), errors);
    }
    // Not below additionalProperties, where Kubernetes doesn't look either.
    if let Some(items) = &schema.items {
        walk(items, unknown, &path.child("items"), errors);
    }
    let below = path.child("properties");
    for (name, property) in &schema.properties {
        walk(property, unknown, &below.key(name), errors);
    }
}

fn check(schema: &Schema, default: &Value, unknown: Unknown, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut pruned = default.clone();
    prune::prune_part(&mut pruned, schema);
    if unknown == Unknown::Refused && pruned != *default {
        errors.push(FieldError::invalid(path, default.clone(), "must not have unknown fields"));
    }
    let at = path.to_string();
    let at_default = |mut error: FieldError| {
        // Paths inside the default follow the path of the default.
        error.path = match error.path.as_str() {
            "<nil>" => at.clone(),
            below => format!("{at}.{below}"),
        };
        error
    };
    if let Err(error) = embedded::coerce(&mut default.clone(), schema) {
        errors.push(at_default(error));
        return;
    }
    let found: Vec<FieldError> = embedded::validate(default, schema).into_iter().map(at_default).collect();
    if !found.is_empty() {
        errors.extend(found);
        return;
    }
    let found = validate::validate(path, default, schema);
    if !found.is_empty() {
        errors.extend(found);
        return;
    }
    if schema.has_rules {
        let place = if schema.embedded_resource { Place::Resource } else { Place::Part };
        let rules = Rules::new(schema, place);
        let found = rules.validate(path, schema, default, Some(default), place);
        if found.is_empty() {
            errors.extend(rules.validate(path, schema, default, None, place));
        } else {
            errors.extend(found);
        }
    }
}

/// Whether a schema has defaults with unknown fields.
pub(super) fn has_unpruned(schema: &Value) -> bool {
    let Ok(parsed) = Schema::parse(schema) else { return false };
    structural::validate(schema, &Path::Root).is_empty() && any_unpruned(&parsed)
}

fn any_unpruned(schema: &Schema) -> bool {
    let own = schema.default.as_ref().is_some_and(|default| {
        let mut pruned = default.clone();
        prune::prune_part(&mut pruned, schema);
        pruned != *default
    });
    own || schema.items.as_deref().is_some_and(any_unpruned) || schema.properties.values().any(any_unpruned)
}
