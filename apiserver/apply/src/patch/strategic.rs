//! Strategic merge patch: a merge patch whose lists merge too, as the schema says.
//!
//! Directives in the patch: `$patch` (replace or delete a map or list item), `$retainKeys` (drop other fields),
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. The order of a merged list is that of
//! `$setElementOrder`, then of the patch, then of the live list. Source: apimachinery `strategicpatch`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    managed::{text, types::TypeRef},
    schema::{PatchStrategy, Schema},
};

use super::{
    PatchError, cannot_unmarshal,
    merge::drop_nulls,
    strategic_list::{self, Mode},
};

pub(super) const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

pub(super) fn apply(patch: Value, current: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let patch = match patch {
        Value::Object(patch) => patch,
        Value::Null => Map::new(),
        other => {
            return Err(PatchError::Malformed(cannot_unmarshal(&other, "value of type map[string]interface {}")));
        }
    };
    let mut out = current.as_object().cloned().unwrap_or_default();
    merge_maps(&mut out, patch, TypeRef::root(schema), &At::root())?;
    Ok(Value::Object(out))
}

/// Where in the object, for errors; printed only when there is one.
pub(super) struct At<'a> {
    above: Option<&'a At<'a>>,
    step: &'a str,
}

impl<'a> At<'a> {
    const fn root() -> Self {
        Self { above: None, step: "" }
    }

    pub(super) const fn below(&'a self, step: &'a str) -> Self {
        Self { above: Some(self), step }
    }

    pub(super) fn path(&self) -> String {
        self.above.map_or_else(String::new, |above| format!("{}.{}", above.path(), self.step))
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> PatchError {
        PatchError::Internal { path: self.path(), message: message.into() }
    }
}

/// Merges a patch into a map of the object.
pub(super) fn merge_maps(
    original: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    ty: TypeRef<'_>,
    at: &At<'_>,
) -> Result<(), PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                *original = patch;
            }
            Some("delete") => original.clear(),
            _ => return Err(at.wrong(unknown_directive(directive, &patch))),
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    let ordered: Vec<String> = patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in ordered {
        let order = patch.remove(&directive).unwrap_or_default();
        merge_ordered(original, &mut patch, &directive, order, ty, at)?;
    }
    for (name, value) in patch {
        if name.starts_with(DELETE_FROM) {
            let field = directive_field(&name, DELETE_FROM)
                .ok_or_else(|| PatchError::Malformed("invalid patch format of primitive list".to_owned()))?;
            delete_items(original, field, value, ty, at)?;
        } else {
            merge_field(original, &name, value, ty, at)?;
        }
    }
    Ok(())
}

pub(super) fn unknown_directive(directive: &Value, patch: &Map<String, Value>) -> String {
    format!("unknown patch type: {} in map: {}", text::plain(directive), text::plain(&Value::Object(patch.clone())))
}

/// The field of `$directive/field`.
fn directive_field<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.split_once('/').filter(|(directive, _)| *directive == prefix).map(|(_, field)| field)
}

fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || PatchError::Malformed("invalid patch format of retainKeys".to_owned());
    let Value::Array(retained) = &directive else { return Err(malformed()) };
    let retained: BTreeSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let is_directive = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
    if patch.iter().any(|(name, value)| !value.is_null() && !is_directive(name) && !retained.contains(name.as_str())) {
        return Err(malformed());
    }
    original.retain(|name, _| retained.contains(name.as_str()));
    Ok(())
}

fn strategy<'a>(ty: TypeRef<'a>) -> &'a PatchStrategy {
    ty.patch_strategy().unwrap_or(&PatchStrategy::Replace)
}

/// Merges one list whose order the patch gives.
fn merge_ordered(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    directive: &str,
    order: Value,
    ty: TypeRef<'_>,
    at: &At<'_>,
) -> Result<(), PatchError> {
    let field = directive_field(directive, SET_ORDER)
        .ok_or_else(|| PatchError::Malformed("invalid patch format of setElementOrder list".to_owned()))?
        .to_owned();
    let below = at.below(&field);
    let list = |value: Value| match value {
        Value::Array(items) => Ok(items),
        other => Err(below.wrong(format!("expected a []interface {{}}, but received a {}", text::type_name(&other)))),
    };
    let order = list(order)?;
    let wanted = patch.remove(&field).map(list).transpose()?;
    let list_type = ty.field_or_deduced(&field);
    let strategy = strategy(list_type);
    let key = match strategy {
        PatchStrategy::Merge(key) => key.as_deref(),
        PatchStrategy::Replace => None,
    };
    if let Some(wanted) = &wanted {
        strategic_list::check_order(wanted, &order, key, &below)?;
    }
    let live = match original.get(&field) {
        Some(Value::Array(items)) => Some(items.clone()),
        Some(other) => {
            let given = text::type_name(other);
            return Err(below.wrong(format!("expected a []interface {{}}, but received a {given}")));
        }
        None => None,
    };
    // The merged list, and the order that its other items take.
    let (merged, known) = match (live, wanted) {
        (None, None) => return Ok(()),
        (Some(live), None) => (live.clone(), live),
        (None, Some(wanted)) => (wanted.into_iter().filter_map(without_directives).collect(), Vec::new()),
        (Some(live), Some(wanted)) => match strategy {
            PatchStrategy::Replace => (wanted, live),
            PatchStrategy::Merge(_) => {
                let known = strategic_list::order_with_replacements(&live, &wanted, key);
                (strategic_list::merge(live, wanted, key, Mode::Merge, list_type.item(), &below)?, known)
            }
        },
    };
    let sorted = strategic_list::sort(merged, &order, &known, key, &below)?;
    original.insert(field, Value::Array(sorted));
    Ok(())
}

/// `$deleteFromPrimitiveList`.
fn delete_items(
    original: &mut Map<String, Value>,
    field: &str,
    gone: Value,
    ty: TypeRef<'_>,
    at: &At<'_>,
) -> Result<(), PatchError> {
    if gone.is_null() {
        original.remove(field);
        return Ok(());
    }
    let (Some(Value::Array(live)), Value::Array(gone)) = (original.get_mut(field), gone) else { return Ok(()) };
    let list_type = ty.field_or_deduced(field);
    let key = match strategy(list_type) {
        PatchStrategy::Merge(key) => key.as_deref(),
        PatchStrategy::Replace => None,
    };
    *live = strategic_list::merge(std::mem::take(live), gone, key, Mode::Delete, list_type.item(), &at.below(field))?;
    Ok(())
}

fn merge_field(
    original: &mut Map<String, Value>,
    name: &str,
    value: Value,
    ty: TypeRef<'_>,
    at: &At<'_>,
) -> Result<(), PatchError> {
    match (original.get_mut(name), value) {
        (_, Value::Null) => {
            original.remove(name);
        }
        (Some(Value::Object(live)), Value::Object(patch)) => {
            merge_maps(live, patch, ty.field_or_deduced(name), &at.below(name))?;
        }
        (Some(Value::Array(live)), Value::Array(patch)) => {
            let list_type = ty.field_or_deduced(name);
            match strategy(list_type) {
                PatchStrategy::Replace => *live = patch,
                PatchStrategy::Merge(key) => {
                    let below = at.below(name);
                    let items = std::mem::take(live);
                    *live = strategic_list::merge(items, patch, key.as_deref(), Mode::Merge, list_type.item(), &below)?;
                }
            }
        }
        (_, mut value) => {
            drop_nulls(&mut value);
            match without_directives(value) {
                Some(value) => {
                    original.insert(name.to_owned(), value);
                }
                None => {
                    original.remove(name);
                }
            }
        }
    }
    Ok(())
}

/// A value that is new in the object: what is marked with `$patch` isn't taken over.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => Some(Value::Object(
            fields.into_iter().filter_map(|(name, field)| Some((name, without_directives(field)?))).collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}
