//! What stood at the same place before an update: KEP-4008 lets an unchanged value pass that a schema has since come to refuse.
//!
//! Fields correlate by name, elements of a list of type map by their keys; elements of other lists don't.

use serde_json::Value;

use super::number::same;
use super::{Additional, ListType, Schema};

/// A value, the value at the same place before, and the schema of both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Correlated<'a> {
    pub(super) new: &'a Value,
    pub(super) old: &'a Value,
    pub(super) schema: &'a Schema,
}

impl<'a> Correlated<'a> {
    pub(super) fn key(self, name: &str) -> Option<Self> {
        let new = self.new.as_object()?.get(name)?;
        let old = self.old.as_object()?.get(name)?;
        let schema = match (self.schema.properties.get(name), &self.schema.additional) {
            (Some(property), _) => property,
            (None, Some(Additional::Of(of))) => of,
            _ => return None,
        };
        Some(Self { new, old, schema })
    }

    pub(super) fn index(self, index: usize) -> Option<Self> {
        let new = self.new.as_array()?.get(index)?;
        let ListType::Map(keys) = &self.schema.list_type else { return None };
        let schema = self.schema.items.as_deref()?;
        let before = self.old.as_array()?;
        // Most elements stay where they were.
        let old = before
            .get(index)
            .filter(|old| same_keys(new, old, keys))
            .or_else(|| before.iter().find(|old| same_keys(new, old, keys)))?;
        Some(Self { new, old, schema })
    }

    /// Whether nothing changed; the order of a list of type map is no change.
    pub(super) fn unchanged(self) -> bool {
        match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) => {
                if new.len() != old.len() {
                    return false;
                }
                let by_key = matches!(self.schema.list_type, ListType::Map(_)) && self.schema.items.is_some();
                if by_key {
                    (0..new.len()).all(|i| self.index(i).is_some_and(Self::unchanged))
                } else {
                    new.iter().zip(old).all(|(new, old)| same(new, old))
                }
            }
            (Value::Object(new), Value::Object(old)) => {
                new.len() == old.len() && new.keys().all(|key| self.key(key).is_some_and(Self::unchanged))
            }
            (new, old) => same(new, old),
        }
    }
}

/// Both have all keys, scalar and equal.
fn same_keys(new: &Value, old: &Value, keys: &[String]) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    !keys.is_empty()
        && keys.iter().all(|key| match (new.get(key), old.get(key)) {
            (Some(new), Some(old)) => {
                matches!(new, Value::Bool(_) | Value::Number(_) | Value::String(_)) && same(new, old)
            }
            _ => false,
        })
}
