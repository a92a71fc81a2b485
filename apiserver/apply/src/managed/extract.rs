//! The fields that an object names: every leaf, every item of a keyed list or set, every key of a map that the schema doesn't name.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    set::{FieldSet, Mark, Node},
    types::{Items, Shape, TypeRef},
};

/// The field set of a value.
pub(crate) fn extract(ty: TypeRef<'_>, value: &Value) -> FieldSet {
    mark(ty, value).children
}

fn mark(ty: TypeRef<'_>, value: &Value) -> Mark {
    const LEAF: Mark = Mark { member: true, children: FieldSet::new() };
    match (ty.shape(value), value) {
        (Shape::Scalar, _) => LEAF,
        (Shape::List, Value::Array(items)) => match ty.items() {
            Items::Atomic => LEAF,
            kind => Mark { member: false, children: list(ty, kind, items) },
        },
        (Shape::Map, Value::Object(_)) if ty.map_is_atomic() => LEAF,
        (Shape::Map, Value::Object(fields)) => Mark { member: false, children: map(ty, fields) },
        (Shape::List, _) if matches!(ty.items(), Items::Atomic) => LEAF,
        (Shape::Map, _) if ty.map_is_atomic() => LEAF,
        _ => Mark::default(),
    }
}

fn map(ty: TypeRef<'_>, fields: &Map<String, Value>) -> FieldSet {
    let mut out = FieldSet::new();
    for (name, value) in fields {
        if ty.skips(name) {
            continue;
        }
        let field = ty.field(name);
        let mut mark = mark(field.ty.unwrap_or(TypeRef::Deduced), value);
        // A null or an empty map says something although nothing is in it.
        mark.member |= !field.declared || value.is_null() || value.as_object().is_some_and(Map::is_empty);
        out.push(PathElement::field(name), mark);
    }
    out.normalise();
    out
}

fn list(ty: TypeRef<'_>, kind: Items<'_>, items: &[Value]) -> FieldSet {
    let item_type = ty.item();
    let mut found: BTreeMap<PathElement, Option<&Value>> = BTreeMap::new();
    for item in items {
        // Items without a key were refused before.
        let Ok(element) = kind.element(item_type, item) else { continue };
        found.entry(element).and_modify(|known| *known = None).or_insert(Some(item));
    }
    let mut out = FieldSet::new();
    out.nodes_mut().extend(found.into_iter().map(|(element, item)| {
        // What is in items that stand twice can't be told apart: the item as such is the leaf.
        let below = item.map(|item| mark(item_type, item)).unwrap_or_default();
        Node { element, mark: Mark { member: true, ..below } }
    }));
    out
}

impl FieldSet {
    /// The set with the fields that the schema names on the way to its members.
    pub(crate) fn with_named_fields(&self, ty: Option<TypeRef<'_>>) -> Self {
        let mut out = Self::new();
        out.nodes_mut().extend(self.nodes().iter().map(|node| {
            let (below, declared) = match (&node.element, ty) {
                (PathElement::Field(name), Some(ty)) if ty.may_be(Shape::Map) => {
                    let field = ty.field(name);
                    (field.ty, field.declared)
                }
                (PathElement::Key(_), Some(ty)) if ty.may_be(Shape::List) => (Some(ty.item()), false),
                _ => (None, false),
            };
            let member = node.mark.member || (declared && !node.mark.children.is_empty());
            Node {
                element: node.element.clone(),
                mark: Mark { member, children: node.mark.children.with_named_fields(below) },
            }
        }));
        out
    }
}
