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
    /// Adapts the set to a schema that has changed since: below what is atomic by now, nothing is owned by itself. True if that
    /// changed the set.
    pub(crate) fn reconcile(&mut self, ty: TypeRef<'_>) -> bool {
        let mut changed = false;
        match ty.set_shape() {
            Shape::Scalar => {}
            Shape::List => {
                let item_type = ty.item();
                for node in self.nodes_mut() {
                    changed |= reconcile_node(&mut node.mark, item_type);
                }
            }
            Shape::Map if ty.map_is_deduced() => {}
            Shape::Map => {
                for node in self.nodes_mut() {
                    if let PathElement::Field(name) = &node.element
                        && let Some(below) = ty.field(name).ty
                    {
                        changed |= reconcile_node(&mut node.mark, below);
                    }
                }
            }
        }
        changed
    }
}

fn reconcile_node(mark: &mut Mark, ty: TypeRef<'_>) -> bool {
    let atomic = match ty.set_shape() {
        Shape::Scalar => return false,
        Shape::List => matches!(ty.items(), Items::Atomic),
        Shape::Map if ty.map_is_deduced() => return false,
        Shape::Map => ty.map_is_atomic(),
    };
    if !atomic {
        return mark.children.reconcile(ty);
    }
    let changed = !mark.children.is_empty();
    if changed {
        *mark = Mark { member: true, children: FieldSet::new() };
    }
    changed
}
