//! The schema of `metadata`, the same for every kind: a CRD can't change it.

use std::sync::LazyLock;

use crate::schema::{Additional, ListType, MapType, PatchStrategy, Schema, Type, Validation};

use super::{path::PathElement, set::FieldSet};

static METADATA: LazyLock<Schema> = LazyLock::new(build);

/// Fields that are the system's and never owned by anyone.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut set = FieldSet::of_fields(&[&["apiVersion"], &["kind"], &["metadata"]]);
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[PathElement::field("metadata"), PathElement::field(name)]);
    }
    set
});

/// The schema of `ObjectMeta` (`meta/v1`): labels and annotations granular, `ownerReferences` keyed by uid and each one atomic,
/// `finalizers` a set.
#[must_use]
pub fn metadata_schema() -> &'static Schema {
    &METADATA
}

pub(crate) fn unowned() -> &'static FieldSet {
    &UNOWNED
}

fn of(kind: Type) -> Schema {
    Schema { kind: Some(kind), ..Schema::default() }
}

fn timestamp() -> Schema {
    Schema {
        validation: Some(Box::new(Validation { format: Some("date-time".to_owned()), ..Validation::default() })),
        ..of(Type::String)
    }
}

fn strings() -> Schema {
    Schema { additional: Some(Additional::Of(Box::new(of(Type::String)))), ..of(Type::Object) }
}

fn list(items: Schema, list_type: ListType, patch_strategy: PatchStrategy) -> Schema {
    Schema { items: Some(Box::new(items)), list_type, patch_strategy, ..of(Type::Array) }
}

fn fields<const N: usize>(fields: [(&str, Schema); N]) -> Schema {
    Schema {
        properties: fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect(),
        ..of(Type::Object)
    }
}

fn build() -> Schema {
    let owner = Schema {
        map_type: MapType::Atomic,
        ..fields([
            ("apiVersion", of(Type::String)),
            ("blockOwnerDeletion", of(Type::Boolean)),
            ("controller", of(Type::Boolean)),
            ("kind", of(Type::String)),
            ("name", of(Type::String)),
            ("uid", of(Type::String)),
        ])
    };
    let managed = fields([
        ("apiVersion", of(Type::String)),
        ("fieldsType", of(Type::String)),
        ("fieldsV1", of(Type::Object)),
        ("manager", of(Type::String)),
        ("operation", of(Type::String)),
        ("subresource", of(Type::String)),
        ("time", timestamp()),
    ]);
    let uid = || "uid".to_owned();
    fields([
        ("annotations", strings()),
        ("creationTimestamp", timestamp()),
        ("deletionGracePeriodSeconds", of(Type::Integer)),
        ("deletionTimestamp", timestamp()),
        ("finalizers", list(of(Type::String), ListType::Set, PatchStrategy::Merge(None))),
        ("generateName", of(Type::String)),
        ("generation", of(Type::Integer)),
        ("labels", strings()),
        ("managedFields", list(managed, ListType::Atomic, PatchStrategy::Replace)),
        ("name", of(Type::String)),
        ("namespace", of(Type::String)),
        ("ownerReferences", list(owner, ListType::Map(vec![uid()]), PatchStrategy::Merge(Some(uid())))),
        ("resourceVersion", of(Type::String)),
        ("selfLink", of(Type::String)),
        ("uid", of(Type::String)),
    ])
}
