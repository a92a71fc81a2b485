//! Whether an object fits its schema well enough to be merged: shapes, known fields, list keys. Everything else (bounds, patterns,
//! required fields) is validation of the result and not done here.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

use super::{
    path::PathElement,
    text,
    types::{Items, Scalar, Shape, TypeRef},
};

/// Whether keyed lists and sets may hold the same item twice: stored objects may, applied ones may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicates {
    Allowed,
    Refused,
}

/// What doesn't fit: `.spec.foo: field not declared in schema`; several one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatches(Vec<Mismatch>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mismatch {
    path: String,
    message: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl fmt::Display for Mismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|one| write!(f, "\n  {one}"))
            }
        }
    }
}

pub(crate) fn validate(ty: TypeRef<'_>, object: &Value, duplicates: Duplicates) -> Result<(), Mismatches> {
    let mut found = Vec::new();
    walk(ty, object, duplicates, &mut found);
    if found.is_empty() { Ok(()) } else { Err(Mismatches(found)) }
}

fn walk(ty: TypeRef<'_>, value: &Value, duplicates: Duplicates, found: &mut Vec<Mismatch>) {
    match ty.shape(value) {
        _ if value.is_null() => {}
        Shape::Scalar => {
            if let Some(message) = scalar_mismatch(ty.scalar(), value) {
                found.push(Mismatch { path: String::new(), message });
            }
        }
        Shape::List => match value {
            Value::Array(items) => walk_list(ty, items, duplicates, found),
            other => found.push(wrong_type("list", other)),
        },
        Shape::Map => match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    if ty.skips(name) {
                        continue;
                    }
                    let Some(field_type) = ty.field(name).ty else {
                        found.push(Mismatch {
                            path: PathElement::field(name).to_string(),
                            message: "field not declared in schema".to_owned(),
                        });
                        return;
                    };
                    below(field_type, field, duplicates, found, || PathElement::field(name));
                }
            }
            other => found.push(wrong_type("map", other)),
        },
    }
}

fn walk_list(ty: TypeRef<'_>, items: &[Value], duplicates: Duplicates, found: &mut Vec<Mismatch>) {
    let kind = ty.items();
    let item_type = ty.item();
    if matches!(kind, Items::Atomic) {
        for (at, item) in items.iter().enumerate() {
            below(item_type, item, duplicates, found, || PathElement::Index(i64::try_from(at).unwrap_or(i64::MAX)));
        }
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, item) in items.iter().enumerate() {
        let element = match kind.element(item_type, item) {
            Ok(element) => element,
            Err(message) => {
                // Without its key the item has no path, so nothing below can be reported either.
                found.push(Mismatch { path: String::new(), message: format!("element {at}: {message}") });
                return;
            }
        };
        if duplicates == Duplicates::Refused && !seen.insert(element.clone()) {
            found.push(Mismatch { path: String::new(), message: format!("duplicate entries for key {element}") });
        }
        below(item_type, item, duplicates, found, || element);
    }
}

/// Checks a part and puts its element before the paths of what is found there.
fn below(
    ty: TypeRef<'_>,
    value: &Value,
    duplicates: Duplicates,
    found: &mut Vec<Mismatch>,
    element: impl FnOnce() -> PathElement,
) {
    let before = found.len();
    walk(ty, value, duplicates, found);
    if found.len() > before {
        let element = element().to_string();
        for mismatch in found.iter_mut().skip(before) {
            mismatch.path.insert_str(0, &element);
        }
    }
}

fn wrong_type(expected: &str, value: &Value) -> Mismatch {
    Mismatch { path: String::new(), message: format!("expected {expected}, got &{{{}}}", text::plain(value)) }
}

fn scalar_mismatch(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Numeric | Scalar::Untyped, Value::Number(_))
        | (Scalar::String | Scalar::Untyped, Value::String(_))
        | (Scalar::Boolean | Scalar::Untyped, Value::Bool(_)) => None,
        (Scalar::Numeric, _) => Some(format!("expected numeric (int or float), got {}", text::type_name(value))),
        (Scalar::String, _) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", text::source(value)))
        }
        (Scalar::Boolean, _) => Some(format!("expected boolean, got &{{{}}}", text::plain(value))),
        (Scalar::Untyped, _) => Some(format!("expected any scalar, got &{{{}}}", text::plain(value))),
    }
}

/// Whether a value is a scalar that the type admits; null always is.
pub(crate) fn scalar_fits(ty: TypeRef<'_>, value: &Value) -> bool {
    value.is_null() || scalar_mismatch(ty.scalar(), value).is_none()
}
