//! Lists in a strategic merge patch: of scalars, or of maps told apart by their merge key.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::managed::{text, types::TypeRef};

use super::{
    PatchError,
    strategic::{At, DIRECTIVE, merge_maps, unknown_directive},
};

/// What a list of the patch does to the live list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Merge,
    /// The patch lists the scalars to delete.
    Delete,
}

/// What list items are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Maps,
    Scalars,
}

/// Merges the patch's list into the live one.
pub(super) fn merge(
    original: Vec<Value>,
    patch: Vec<Value>,
    key: Option<&str>,
    mode: Mode,
    item_type: TypeRef<'_>,
    at: &At<'_>,
) -> Result<Vec<Value>, PatchError> {
    let Some(kind) = kind(&original, &patch, at)? else { return Ok(original) };
    if kind == Kind::Scalars {
        if mode == Mode::Delete {
            let gone: BTreeSet<String> = patch.iter().map(identity).collect();
            return Ok(original.into_iter().filter(|item| !gone.contains(&identity(item))).collect());
        }
        let mut seen = BTreeSet::new();
        let merged = original.iter().chain(&patch).filter(|item| seen.insert(identity(item))).cloned().collect();
        return sort(merged, &patch, &original, key, at);
    }
    let Some(key) = key else {
        return Err(at.wrong(format!("cannot merge lists without merge key for {}", item_type.type_name())));
    };
    let (mut merged, patch) = special_items(original, patch, key, at)?;
    let live = merged.clone();
    let mut position: BTreeMap<String, usize> = BTreeMap::new();
    for (at, item) in merged.iter().enumerate() {
        if let Some(value) = item.get(key) {
            position.entry(identity(value)).or_insert(at);
        }
    }
    for item in &patch {
        let Value::Object(fields) = item else { continue };
        let id = identity(fields.get(key).ok_or_else(|| at.wrong(no_merge_key(item, key)))?);
        match position.get(&id).and_then(|at| merged.get_mut(*at)) {
            Some(Value::Object(known)) => merge_maps(known, fields.clone(), item_type, at)?,
            _ => {
                position.insert(id, merged.len());
                merged.push(item.clone());
            }
        }
    }
    sort(merged, &patch, &live, Some(key), at)
}

/// Carries out the items with a `$patch` directive; gives the live list and what is left of the patch.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    at: &At<'_>,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut gone = BTreeSet::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                gone.insert(identity(item.get(key).ok_or_else(|| at.wrong(no_merge_key(&item, key)))?));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(at.wrong("merging lists cannot yet be specified in the patch")),
            _ => {
                let fields = item.as_object().cloned().unwrap_or_default();
                return Err(at.wrong(unknown_directive(directive, &fields)));
            }
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|item| item.get(key).is_none_or(|value| !gone.contains(&identity(value))));
    }
    Ok((original, plain))
}

/// The live order for a list whose order the patch gives: new items take the places that deleted ones left, at the end of the list.
/// So `[injected, old]` with `old` replaced by `new` becomes `[injected, new]`, whatever the patch says of `injected`.
pub(super) fn order_with_replacements(live: &[Value], patch: &[Value], key: Option<&str>) -> Vec<Value> {
    let Some(key) = key else { return live.to_vec() };
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return live.to_vec();
    }
    let id = |item: &Value| item.get(key).map(identity);
    let gone: BTreeSet<String> =
        patch.iter().filter(|item| directive(item).as_deref() == Some("delete")).filter_map(id).collect();
    let mut known: Vec<Value> =
        live.iter().filter(|item| id(item).is_none_or(|id| !gone.contains(&id))).cloned().collect();
    let mut seen: BTreeSet<String> = known.iter().filter_map(id).collect();
    let new = patch.iter().filter(|item| directive(item).is_none() && id(item).is_some_and(|id| seen.insert(id)));
    known.extend(new.cloned());
    known.truncate(live.len());
    known
}

/// Puts items that are in `order` into its order and the others into that of the live list, and interleaves the two by the
/// live list.
pub(super) fn sort(
    merged: Vec<Value>,
    order: &[Value],
    live: &[Value],
    key: Option<&str>,
    at: &At<'_>,
) -> Result<Vec<Value>, PatchError> {
    let id = |item: &Value| item_id(item, key, at);
    let positions = |items: &[Value]| -> Result<BTreeMap<String, usize>, PatchError> {
        let mut out = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            out.entry(id(item)?).or_insert(at);
        }
        Ok(out)
    };
    let wanted = positions(order)?;
    // A live item without its key only matters if it is still there, and then it is refused below.
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (at, item) in live.iter().enumerate() {
        if let Ok(id) = id(item) {
            known.entry(id).or_insert(at);
        }
    }
    let mut listed: Vec<(usize, Option<usize>, Value)> = Vec::new();
    let mut others: Vec<(Option<usize>, Value)> = Vec::new();
    for item in merged {
        let id = id(&item)?;
        let position = known.get(&id).copied();
        match wanted.get(&id) {
            Some(rank) => listed.push((*rank, position, item)),
            None => others.push((position, item)),
        }
    }
    listed.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(position, _)| position.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, position, item) in listed {
        // Items of the live list come before the patch's item that stood behind them.
        while let Some((_, other)) =
            others.next_if(|(before, _)| matches!((before, position), (Some(before), Some(at)) if *before < at))
        {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, other)| other));
    Ok(out)
}

/// Checks that the items of a patch are in the order list, in its order.
pub(super) fn check_order(patch: &[Value], order: &[Value], key: Option<&str>, at: &At<'_>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let deleted = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| !deleted(item)) {
        loop {
            // An item with another directive needs no place, but there must be one left.
            if rest.len() > 0 && item.get(DIRECTIVE).is_some() {
                break;
            }
            let Some(next) = rest.next() else {
                return Err(at.wrong(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    text::plain(&Value::Array(patch.to_vec())),
                    text::plain(&Value::Array(order.to_vec()))
                )));
            };
            if item_id(item, key, at)? == item_id(next, key, at)? {
                break;
            }
        }
    }
    Ok(())
}

/// What the items of both lists are; `None` for no items. All must be of one type.
fn kind(original: &[Value], patch: &[Value], at: &At<'_>) -> Result<Option<Kind>, PatchError> {
    let mut found: Option<&Value> = None;
    for item in original.iter().chain(patch) {
        match found {
            None if item.is_array() => {
                return Err(PatchError::Unprocessable {
                    detail: format!("{}: lists of lists are not supported", at.path()),
                });
            }
            None => found = Some(item),
            Some(first) if text::type_name(first) != text::type_name(item) => {
                let lists = Value::Array(vec![Value::Array(original.to_vec()), Value::Array(patch.to_vec())]);
                return Err(at.wrong(format!("list element types are not identical: {}", text::plain(&lists))));
            }
            Some(_) => {}
        }
    }
    Ok(found.map(|item| if item.is_object() { Kind::Maps } else { Kind::Scalars }))
}

fn no_merge_key(item: &Value, key: &str) -> String {
    let empty = Value::Object(Map::new());
    let item = if item.is_object() { item } else { &empty };
    format!("map: {} does not contain declared merge key: {key}", text::plain(item))
}

/// What tells an item from the others of its list.
fn item_id(item: &Value, key: Option<&str>, at: &At<'_>) -> Result<String, PatchError> {
    match (key, item) {
        (None, item) => Ok(identity(item)),
        (Some(key), Value::Object(fields)) => {
            fields.get(key).map(identity).ok_or_else(|| at.wrong(no_merge_key(item, key)))
        }
        (Some(_), other) => {
            let given = text::type_name(other);
            Err(at.wrong(format!("expected a map[string]interface {{}}, but received a {given}")))
        }
    }
}

/// A text that is equal for equal values of one type.
fn identity(value: &Value) -> String {
    value.to_string()
}
