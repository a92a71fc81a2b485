//! Field sets that were recorded under another schema.
//!
//! A list or map that has become atomic is owned as a whole by whoever owned a part of it. The other way round nothing is done:
//! the part that was owned as a whole stays so until it is written again.
//! Source: structured-merge-diff v6 `typed/reconcile_schema.go`.

use super::{
    path::PathElement,
    set::{FieldSet, Mark},
    types::{Items, Shape, TypeRef},
};

impl FieldSet {
    /// Adapts the set to a schema that has changed since: below what is atomic by now, nothing is owned by itself.
    pub(crate) fn reconcile(&mut self, ty: TypeRef<'_>) {
        match ty.set_shape() {
            Shape::Scalar => {}
            Shape::List => {
                let item_type = ty.item();
                self.nodes_mut().iter_mut().for_each(|node| reconcile_node(&mut node.mark, item_type));
            }
            Shape::Map if ty.map_is_deduced() => {}
            Shape::Map => {
                for node in self.nodes_mut() {
                    let below = match &node.element {
                        PathElement::Field(name) => ty.field(name).ty,
                        _ => None,
                    };
                    if let Some(below) = below {
                        reconcile_node(&mut node.mark, below);
                    }
                }
            }
        }
    }
}

fn reconcile_node(mark: &mut Mark, ty: TypeRef<'_>) {
    let whole = mark.member && mark.children.is_empty();
    let atomic = match ty.set_shape() {
        Shape::Scalar => return,
        Shape::List => matches!(ty.items(), Items::Atomic),
        Shape::Map if ty.map_is_deduced() => return,
        Shape::Map => ty.map_is_atomic() && !mark.children.is_empty(),
    };
    if atomic {
        if !whole {
            *mark = Mark { member: true, children: FieldSet::new() };
        }
    } else {
        mark.children.reconcile(ty);
    }
}
