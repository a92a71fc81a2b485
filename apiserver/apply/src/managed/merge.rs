//! Merging an applied configuration into a live object.
//!
//! Nothing is removed here: what the configuration names takes its value, everything else stays. Items of keyed lists and sets
//! keep the order of the live list where the configuration changes nothing in it, and follow the configuration's otherwise.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    types::{Items, Shape, TypeRef},
};

/// The live value with the configuration's on top. Both were validated against the type.
///
/// # Errors
///
/// An item of a list has no key.
pub(crate) fn merge(ty: TypeRef<'_>, live: &Value, config: &Value) -> Result<Value, String> {
    match ty.shape(config) {
        Shape::Scalar => Ok(config.clone()),
        Shape::Map => {
            let empty = Map::new();
            let live_fields = live.as_object().unwrap_or(&empty);
            let config_fields = config.as_object().unwrap_or(&empty);
            if ty.map_is_atomic() || (live_fields.is_empty() && config_fields.is_empty()) {
                return Ok(config.clone());
            }
            merge_maps(ty, live_fields, config_fields).map(Value::Object)
        }
        Shape::List => {
            let live_items = live.as_array().map_or(&[][..], Vec::as_slice);
            let config_items = config.as_array().map_or(&[][..], Vec::as_slice);
            match ty.items() {
                Items::Atomic => Ok(config.clone()),
                _ if live_items.is_empty() && config_items.is_empty() => Ok(config.clone()),
                kind => merge_lists(ty, kind, live_items, config_items).map(Value::Array),
            }
        }
    }
}

fn merge_maps(
    ty: TypeRef<'_>,
    live: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (name, live) in live {
        if ty.skips(name) {
            continue;
        }
        let merged = match config.get(name) {
            Some(config) => merge(ty.field_or_deduced(name), live, config)
                .map_err(|error| format!("{}: {error}", PathElement::field(name)))?,
            None => live.clone(),
        };
        out.insert(name.clone(), merged);
    }
    for (name, config) in config {
        if !live.contains_key(name) {
            out.insert(name.clone(), config.clone());
        }
    }
    Ok(out)
}

/// Where an item of the configuration stands in the live list.
#[derive(Clone, Copy)]
enum Twin {
    None,
    At(usize),
    /// More than once: which one is meant can't be told, so none is merged into.
    Several,
}

fn merge_lists(ty: TypeRef<'_>, kind: Items<'_>, live: &[Value], config: &[Value]) -> Result<Vec<Value>, String> {
    let item_type = ty.item();
    let elements = |items: &[Value]| -> Result<Vec<PathElement>, String> {
        items
            .iter()
            .enumerate()
            .map(|(at, item)| kind.element(item_type, item).map_err(|error| format!("element {at}: {error}")))
            .collect()
    };
    let live_elements = elements(live)?;
    let config_elements = elements(config)?;
    let position: BTreeMap<&PathElement, usize> =
        config_elements.iter().enumerate().map(|(at, element)| (element, at)).collect();
    // For each live item the configuration's item with the same element, and the other way round.
    let wanted: Vec<Option<usize>> = live_elements.iter().map(|element| position.get(element).copied()).collect();
    let mut twins = vec![Twin::None; config.len()];
    for (at, wanted) in wanted.iter().enumerate() {
        if let Some(twin) = wanted.and_then(|wanted| twins.get_mut(wanted)) {
            *twin = match twin {
                Twin::None => Twin::At(at),
                Twin::At(_) | Twin::Several => Twin::Several,
            };
        }
    }
    let merged_item = |at: usize| -> Result<Option<Value>, String> {
        let (Some(config), Some(twin)) = (config.get(at), twins.get(at)) else { return Ok(None) };
        let live = match twin {
            Twin::At(at) => live.get(*at),
            Twin::None | Twin::Several => None,
        };
        match live {
            Some(live) => merge(item_type, live, config).map(Some),
            None => Ok(Some(config.clone())),
        }
    };
    let mut shared = (0..config.len()).filter(|at| !matches!(twins.get(*at), None | Some(Twin::None)));
    let mut next_shared = shared.next();
    let mut done = vec![false; config.len()];
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if let (Some(wanted), true) = (wanted.get(l), c < config.len()) {
            if *wanted == Some(c) {
                done[c] = true;
                out.extend(merged_item(c)?);
                l += 1;
                c += 1;
                next_shared = shared.next();
                continue;
            }
            if wanted.is_some() && next_shared.is_some() && *wanted != next_shared {
                // Shared, but its turn comes later.
                l += 1;
                continue;
            }
        }
        if let Some(wanted) = wanted.get(l) {
            match wanted {
                None => {
                    out.extend(live.get(l).cloned());
                    l += 1;
                    continue;
                }
                Some(at) if done.get(*at).copied().unwrap_or_default() => l += 1,
                Some(_) => {}
            }
        }
        if c < config.len() {
            done[c] = true;
            out.extend(merged_item(c)?);
            if next_shared == Some(c) {
                next_shared = shared.next();
            }
            c += 1;
        }
    }
    Ok(out)
}
