//! What changed between two objects, as field sets.

use std::{cmp::Ordering, iter::Peekable, vec};

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    set::{FieldSet, Mark},
    types::{Items, Shape, TypeRef},
    validate::scalar_fits,
    value,
};

/// The difference between two objects; no field is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves fields out, with all that is below them.
    pub(crate) fn exclude(&mut self, fields: &FieldSet) {
        if !fields.is_empty() {
            self.added.subtract_recursively(fields);
            self.modified.subtract_recursively(fields);
            self.removed.subtract_recursively(fields);
        }
    }
}

/// Compares two objects of one type.
pub(crate) fn compare(ty: TypeRef<'_>, old: &Value, new: &Value) -> Comparison {
    let marks = pair(ty, Some(old), Some(new));
    Comparison { added: marks.added.children, modified: marks.modified.children, removed: marks.removed.children }
}

#[derive(Default)]
struct Marks {
    added: Mark,
    modified: Mark,
    removed: Mark,
}

impl Marks {
    fn put(&mut self, element: PathElement, below: Self) {
        // Most fields don't differ: an element is copied only for those that do in two ways.
        let parts =
            [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)];
        for (own, below) in parts {
            if !below.is_empty() {
                own.children.push(element.clone(), below);
            }
        }
    }

    fn normalise(&mut self) {
        for mark in [&mut self.added, &mut self.modified, &mut self.removed] {
            mark.children.normalise();
        }
    }

    /// Marks the value itself as a leaf.
    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.added.member = true,
            (_, None) => self.removed.member = true,
            (Some(old), Some(new)) => self.modified.member |= !value::equal(old, new),
        }
    }
}

fn pair(ty: TypeRef<'_>, old: Option<&Value>, new: Option<&Value>) -> Marks {
    let mut marks = Marks::default();
    let old_shape = old.map(|old| ty.shape(old));
    let new_shape = new.map(|new| ty.shape(new));
    let mut leaf = false;
    if let (Some(old_shape), Some(new_shape)) = (old_shape, new_shape) {
        // A value that changed its type is taken once as what it was and once as what it is.
        if old_shape != new_shape {
            visit(ty, old_shape, old, new, &mut marks);
        }
    }
    if let Some(shape) = new_shape.or(old_shape) {
        leaf = visit(ty, shape, old, new, &mut marks);
    }
    marks.normalise();
    if !leaf {
        marks.added.member |= old.is_none();
        marks.removed.member |= new.is_none();
    }
    marks
}

/// Compares the two as values of one shape; true if they were taken as a leaf.
fn visit(ty: TypeRef<'_>, shape: Shape, old: Option<&Value>, new: Option<&Value>, marks: &mut Marks) -> bool {
    match shape {
        Shape::Scalar => {
            // One side of another type is a change; two are for validation.
            if old.is_some_and(|old| scalar_fits(ty, old)) || new.is_some_and(|new| scalar_fits(ty, new)) {
                marks.leaf(old, new);
            }
            true
        }
        Shape::List => {
            let old_items = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let new_items = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let kind = ty.items();
            if matches!(kind, Items::Atomic) || (old_items.is_empty() && new_items.is_empty()) {
                marks.leaf(old, new);
                return true;
            }
            // Equal lists are the common case and cost no keys.
            if old_items != new_items {
                lists(ty, kind, old_items, new_items, marks);
            }
            false
        }
        Shape::Map => {
            let empty = Map::new();
            let old_fields = old.and_then(Value::as_object).unwrap_or(&empty);
            let new_fields = new.and_then(Value::as_object).unwrap_or(&empty);
            if ty.map_is_atomic() || (old_fields.is_empty() && new_fields.is_empty()) {
                marks.leaf(old, new);
                return true;
            }
            for (name, old) in old_fields {
                field(ty, name, Some(old), new_fields.get(name), marks);
            }
            for (name, new) in new_fields.iter().filter(|(name, _)| !old_fields.contains_key(*name)) {
                field(ty, name, None, Some(new), marks);
            }
            false
        }
    }
}

fn field(ty: TypeRef<'_>, name: &str, old: Option<&Value>, new: Option<&Value>, marks: &mut Marks) {
    if ty.skips(name) {
        return;
    }
    let below = pair(ty.field_or_deduced(name), old, new);
    if !(below.added.is_empty() && below.modified.is_empty() && below.removed.is_empty()) {
        marks.put(PathElement::field(name), below);
    }
}

/// Items of a list by path element, those with the same element side by side and in their order.
struct Index<'v>(Peekable<vec::IntoIter<(PathElement, &'v Value)>>);

impl<'v> Index<'v> {
    fn of(kind: Items<'_>, item_type: TypeRef<'_>, items: &'v [Value]) -> Self {
        let mut found: Vec<(PathElement, &Value)> = items
            .iter()
            // Items without a key were refused before.
            .filter_map(|item| Some((kind.element(item_type, item).ok()?, item)))
            .collect();
        found.sort_by(|left, right| left.0.cmp(&right.0));
        Self(found.into_iter().peekable())
    }

    fn take(&mut self, element: &PathElement) -> Vec<&'v Value> {
        let mut items = Vec::with_capacity(1);
        while let Some((_, item)) = self.0.next_if(|(next, _)| next == element) {
            items.push(item);
        }
        items
    }
}

fn lists(ty: TypeRef<'_>, kind: Items<'_>, old: &[Value], new: &[Value], marks: &mut Marks) {
    let item_type = ty.item();
    let mut old = Index::of(kind, item_type, old);
    let mut new = Index::of(kind, item_type, new);
    loop {
        let next = match (old.0.peek(), new.0.peek()) {
            (Some((old, _)), Some((new, _))) => {
                if old.cmp(new) == Ordering::Greater {
                    new
                } else {
                    old
                }
            }
            (Some((element, _)), None) | (None, Some((element, _))) => element,
            (None, None) => return,
        };
        let element = next.clone();
        let (was, is) = (old.take(&element), new.take(&element));
        let below = match (was.as_slice(), is.as_slice()) {
            (was @ ([] | [_]), is @ ([] | [_])) => pair(item_type, was.first().copied(), is.first().copied()),
            // An item that stands twice can't be looked into: it is one leaf.
            ([_, _, ..], [_, _, ..]) => {
                let mut below = Marks::default();
                below.modified.member =
                    was.len() != is.len() || !was.iter().zip(&is).all(|(was, is)| value::equal(was, is));
                below
            }
            (_, is @ ([] | [_])) => {
                let mut below = is.first().map(|is| pair(item_type, None, Some(is))).unwrap_or_default();
                below.removed.member = true;
                below
            }
            (was, _) => {
                let mut below = was.first().map(|was| pair(item_type, Some(was), None)).unwrap_or_default();
                below.added.member = true;
                below
            }
        };
        marks.put(element, below);
    }
}
