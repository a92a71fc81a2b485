//! The shape that a schema gives to a value: a map, a list or a scalar, and how their parts are told apart.
//!
//! A node of a [`Schema`] becomes a [`TypeRef`]. The root of an object and embedded resources have `apiVersion`, `kind` and
//! `metadata` whatever their own schema says. Where the schema knows nothing (preserved unknown fields, no type), the shape follows
//! the value: maps stay granular, lists are atomic.
//! Source: kube-openapi `schemaconv`, structured-merge-diff v6 `typed`.

use std::sync::LazyLock;

use serde_json::Value;

use crate::schema::{Additional, ListType, MapType, PatchStrategy, Schema, Type};

use super::{metadata::metadata_schema, path::PathElement, text};

static STRING: LazyLock<Schema> = LazyLock::new(|| Schema { kind: Some(Type::String), ..Schema::default() });

/// The type of one value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TypeRef<'a> {
    Schema {
        schema: &'a Schema,
        role: Role,
        /// This node or one above it preserves unknown fields.
        lenient: bool,
    },
    /// Known from the value: granular maps, atomic lists.
    Deduced,
    /// Known from the value, all of it one leaf.
    Untyped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    /// The object itself.
    Root,
    /// The object's own metadata, whose `managedFields` are nobody's.
    Metadata,
}

/// How a value is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Map,
    Scalar,
    List,
}

/// How items of a list are told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Items<'a> {
    Atomic,
    Set,
    Keyed(&'a [String]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Numeric,
    String,
    Boolean,
    Untyped,
}

/// A field of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldType<'a> {
    /// `None` where the schema doesn't allow the field.
    pub(crate) ty: Option<TypeRef<'a>>,
    /// Named in the schema, not just allowed.
    pub(crate) declared: bool,
}

impl<'a> TypeRef<'a> {
    pub(crate) const fn root(schema: &'a Schema) -> Self {
        Self::Schema { schema, role: Role::Root, lenient: schema.preserve_unknown }
    }

    const fn below(schema: &'a Schema, lenient: bool) -> Self {
        Self::Schema { schema, role: Role::Plain, lenient: lenient || schema.preserve_unknown }
    }

    /// The one shape that the schema admits, if it admits one only.
    const fn fixed_shape(self) -> Option<Shape> {
        match self {
            Self::Schema { schema, .. } => match schema.kind {
                Some(Type::Object) => Some(Shape::Map),
                Some(Type::Array) => Some(Shape::List),
                Some(Type::String | Type::Integer | Type::Number | Type::Boolean) => Some(Shape::Scalar),
                None => None,
            },
            Self::Deduced | Self::Untyped => None,
        }
    }

    /// The shape of a value. A null takes any shape and goes as a map where all are possible.
    pub(crate) const fn shape(self, value: &Value) -> Shape {
        match (self.fixed_shape(), value) {
            (Some(shape), _) => shape,
            (None, Value::Null | Value::Object(_)) => Shape::Map,
            (None, Value::Array(_)) => Shape::List,
            (None, _) => Shape::Scalar,
        }
    }

    /// Whether some value of this type has the shape.
    pub(crate) fn may_be(self, shape: Shape) -> bool {
        self.fixed_shape().is_none_or(|fixed| fixed == shape)
    }

    /// The shape that field sets see, without a value at hand.
    pub(crate) fn set_shape(self) -> Shape {
        self.fixed_shape().unwrap_or(Shape::Map)
    }

    pub(crate) const fn scalar(self) -> Scalar {
        let Self::Schema { schema, .. } = self else { return Scalar::Untyped };
        match schema.kind {
            Some(Type::Integer | Type::Number) => Scalar::Numeric,
            Some(Type::Boolean) => Scalar::Boolean,
            Some(Type::String) => {
                // Formats such as date-time and quantity come as numbers too.
                let plain = match &schema.validation {
                    Some(validation) => match &validation.format {
                        Some(format) => format.is_empty() || matches!(format.as_bytes(), b"byte"),
                        None => true,
                    },
                    None => true,
                };
                if plain { Scalar::String } else { Scalar::Untyped }
            }
            _ => Scalar::Untyped,
        }
    }

    pub(crate) fn map_is_atomic(self) -> bool {
        match self {
            Self::Schema { schema, .. } => schema.map_type == MapType::Atomic,
            Self::Deduced => false,
            Self::Untyped => true,
        }
    }

    /// Maps whose fields are all unknown can't be declared atomic or granular.
    pub(crate) fn map_is_deduced(self) -> bool {
        match self {
            Self::Schema { schema, role, lenient } => {
                role == Role::Plain
                    && !schema.embedded_resource
                    && schema.properties.is_empty()
                    && match &schema.additional {
                        Some(Additional::Of(_)) => false,
                        Some(Additional::Allowed(allowed)) => *allowed,
                        None => lenient || schema.properties.is_empty(),
                    }
            }
            Self::Deduced => true,
            Self::Untyped => false,
        }
    }

    pub(crate) fn field(self, name: &str) -> FieldType<'a> {
        let (schema, role, lenient) = match self {
            Self::Schema { schema, role, lenient } => (schema, role, lenient),
            Self::Deduced => return FieldType { ty: Some(Self::Deduced), declared: false },
            Self::Untyped => return FieldType { ty: Some(Self::Untyped), declared: false },
        };
        let object = role == Role::Root || schema.embedded_resource;
        if object {
            let ty = match name {
                "apiVersion" | "kind" => Some(Self::below(&STRING, false)),
                "metadata" => {
                    let role = if role == Role::Root { Role::Metadata } else { Role::Plain };
                    Some(Self::Schema { schema: metadata_schema(), role, lenient: false })
                }
                _ => None,
            };
            if ty.is_some() {
                return FieldType { ty, declared: true };
            }
        }
        if let Some(below) = schema.properties.get(name) {
            return FieldType { ty: Some(Self::below(below, lenient)), declared: true };
        }
        let ty = match &schema.additional {
            Some(Additional::Of(below)) => Some(Self::below(below, lenient)),
            Some(Additional::Allowed(true)) => Some(Self::Deduced),
            Some(Additional::Allowed(false)) => None,
            None if lenient || (schema.properties.is_empty() && !object) => Some(Self::Deduced),
            None => None,
        };
        FieldType { ty, declared: false }
    }

    /// The field's type for walks over values that were checked before: what the schema doesn't allow is taken as it is.
    pub(crate) fn field_or_deduced(self, name: &str) -> Self {
        self.field(name).ty.unwrap_or(Self::Deduced)
    }

    /// Whether a field is bookkeeping that no walk looks at.
    pub(crate) fn skips(self, name: &str) -> bool {
        matches!(self, Self::Schema { role: Role::Metadata, .. }) && name == "managedFields"
    }

    pub(crate) fn items(self) -> Items<'a> {
        let Self::Schema { schema, .. } = self else { return Items::Atomic };
        match &schema.list_type {
            ListType::Map(keys) => Items::Keyed(keys),
            ListType::Set => Items::Set,
            ListType::Atomic => Items::Atomic,
        }
    }

    pub(crate) fn item(self) -> Self {
        match self {
            Self::Schema { schema, lenient, .. } => {
                schema.items.as_deref().map_or(Self::Untyped, |items| Self::below(items, lenient))
            }
            Self::Deduced | Self::Untyped => Self::Untyped,
        }
    }

    /// How a patch treats a list.
    pub(crate) const fn patch_strategy(self) -> Option<&'a PatchStrategy> {
        match self {
            Self::Schema { schema, .. } => Some(&schema.patch_strategy),
            Self::Deduced | Self::Untyped => None,
        }
    }

    /// The type as messages about lists name it.
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::Schema { schema, .. } => match schema.kind {
                Some(Type::String) => "string",
                Some(Type::Array) => "slice",
                Some(Type::Integer) => "int64",
                Some(Type::Number) => "float64",
                Some(Type::Boolean) => "bool",
                Some(Type::Object) | None => "struct",
            },
            Self::Deduced | Self::Untyped => "interface",
        }
    }

    fn default_of(self, field: &str) -> Option<&'a Value> {
        let Self::Schema { schema, .. } = self else { return None };
        schema.properties.get(field)?.default.as_ref()
    }
}

impl Items<'_> {
    /// The path element of an item; `item_type` gives the defaults of absent keys. The error says what the item lacks.
    pub(crate) fn element(self, item_type: TypeRef<'_>, item: &Value) -> Result<PathElement, String> {
        match self {
            Items::Atomic => Err("invalid indexing of non-associative list".to_owned()),
            Items::Set => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::value(scalar.clone())),
            },
            Items::Keyed(keys) => {
                let fields = match item {
                    Value::Object(fields) => fields,
                    Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
                    _ => return Err("associative list with keys may not have non-map elements".to_owned()),
                };
                let found: Vec<(String, Value)> = keys
                    .iter()
                    .filter_map(|key| {
                        let value = fields.get(key).or_else(|| item_type.default_of(key))?;
                        Some((key.clone(), value.clone()))
                    })
                    .collect();
                if found.is_empty() {
                    let keys: Vec<String> = keys.iter().map(|key| text::quote(key)).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                        keys.join(" ")
                    ));
                }
                Ok(PathElement::key(found))
            }
        }
    }
}
