//! Removing what a manager applied before and doesn't any more.

use serde_json::{Map, Value};

use super::{
    extract::extract,
    path::PathElement,
    set::FieldSet,
    types::{Items, Shape, TypeRef},
};

/// The value without the items of a set. Lists and maps that lose all they have become null.
pub(crate) fn remove(ty: TypeRef<'_>, value: &Value, gone: &FieldSet) -> Value {
    match (ty.shape(value), value) {
        (Shape::Scalar, scalar) => scalar.clone(),
        (Shape::Map, Value::Object(fields)) if !ty.map_is_atomic() => {
            let kept: Map<String, Value> = fields
                .iter()
                .filter_map(|(name, field)| {
                    let kept = match gone.get(&PathElement::field(name)) {
                        Some(mark) if mark.member => return None,
                        Some(mark) => remove(ty.field_or_deduced(name), field, &mark.children),
                        None => field.clone(),
                    };
                    Some((name.clone(), kept))
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Shape::List, Value::Array(items)) if !matches!(ty.items(), Items::Atomic) => {
            let (kind, item_type) = (ty.items(), ty.item());
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| {
                    // Items without a key were refused before; one is kept rather than lost.
                    let element = kind.element(item_type, item).ok();
                    match element.and_then(|element| gone.get(&element)) {
                        Some(mark) if mark.member => None,
                        Some(mark) => Some(remove(item_type, item, &mark.children)),
                        None => Some(item.clone()),
                    }
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        _ => Value::Null,
    }
}

/// Removes from a merged object what `last` (the manager's set before) has and `owned` (the union of all sets now) hasn't.
/// What stands below a removed item goes with it, unless somebody owns it; what nobody ever applied stays.
pub(crate) fn prune(ty: TypeRef<'_>, merged: Value, last: &FieldSet, owned: &FieldSet) -> Value {
    let last = last.with_named_fields(Some(ty));
    let fields = |object: &Value| extract(ty, object).with_named_fields(Some(ty));
    let all = fields(&merged);
    // First everything that was applied goes, then what is still owned comes back, and last what wasn't this manager's to take.
    let mut lost = all.clone();
    lost.subtract(&fields(&remove(ty, &merged, &last)));
    lost.subtract(&owned.with_named_fields(Some(ty)));
    let mut gone = all;
    gone.subtract(&fields(&remove(ty, &merged, &lost)));
    let gone = gone.intersection(&last);
    if gone.is_empty() { merged } else { remove(ty, &merged, &gone) }
}
