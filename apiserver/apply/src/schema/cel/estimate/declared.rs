//! What a schema says of the sizes of its values: the longest text, the most elements, and the fewest bytes in which a value is written.
//! Where a schema has no bound, the size of a request is one: so many elements of the smallest size fit into 3 MiB
//! (`k8s.io/apiserver/pkg/cel/limits.go`).

use super::size::Size;
use crate::schema::cel::Place;
use crate::schema::cel::check::Ty;
use crate::schema::cel::escape::escape;
use crate::schema::{Additional, Schema, Type, Validation};

const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// A character is at most so many bytes.
const BYTES_OF_CHARACTER: u64 = 4;
/// The longest name of an object. The suffix of a generated one is at least one byte.
const MAX_NAME: u64 = 253;
const MAX_GENERATE_NAME: u64 = MAX_NAME - 1;

/// A part of a declared value.
#[derive(Clone, Copy)]
pub(super) enum Declared<'s> {
    Of(&'s Schema, Place),
    /// The metadata of a resource, with what its schema says.
    Metadata(Option<&'s Schema>),
    Text(u64),
}

impl<'s> Declared<'s> {
    pub(super) fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Metadata(metadata) => {
                let most = match name {
                    "name" => MAX_NAME,
                    "generateName" => MAX_GENERATE_NAME,
                    _ => return None,
                };
                let own = metadata.and_then(|m| max_length(m.properties.get(name)?));
                Some(Self::Text(own.map_or(most, |own| own.min(most)).saturating_mul(BYTES_OF_CHARACTER)))
            }
            Self::Of(schema, Place::Resource) if name == "metadata" => {
                Some(Self::Metadata(schema.properties.get(name)))
            }
            Self::Of(_, Place::Resource) if matches!(name, "apiVersion" | "kind") => {
                Some(Self::Text(MAX_REQUEST_BYTES - 2))
            }
            Self::Of(schema, _) if schema.kind == Some(Type::Object) && !is_map(schema) => {
                let (_, property) = schema.properties.iter().find(|(key, _)| escape(key).as_deref() == Some(name))?;
                visible(property)
            }
            _ => None,
        }
    }

    /// Each element of a list, or each value of a map.
    pub(super) fn element(self) -> Option<Self> {
        let Self::Of(schema, _) = self else { return None };
        match (schema.kind, &schema.additional) {
            (Some(Type::Array), _) => visible(schema.items.as_deref()?),
            (Some(Type::Object), Some(Additional::Of(of))) => visible(of),
            _ => None,
        }
    }

    /// Each key of a map. Their sizes aren't told.
    pub(super) fn key(self) -> Option<Self> {
        matches!(self, Self::Of(schema, _) if is_map(schema)).then_some(Self::Text(0))
    }

    /// Scalars and objects count as nothing.
    pub(super) fn size(self) -> Size {
        Size::up_to(match self {
            Self::Of(schema, _) => most(schema),
            Self::Metadata(_) => 0,
            Self::Text(most) => most,
        })
    }
}

fn visible(schema: &Schema) -> Option<Declared<'_>> {
    let place = Place::of(schema);
    Ty::of(schema, place).map(|_| Declared::Of(schema, place))
}

fn is_map(schema: &Schema) -> bool {
    schema.kind == Some(Type::Object) && matches!(schema.additional, Some(Additional::Of(_)))
}

fn bound(schema: &Schema, of: impl Fn(&Validation) -> Option<u64>) -> Option<u64> {
    schema.validation.as_deref().and_then(of)
}

fn max_length(schema: &Schema) -> Option<u64> {
    bound(schema, |v| v.max_length)
}

fn format(schema: &Schema) -> &str {
    schema.validation.as_deref().and_then(|v| v.format.as_deref()).unwrap_or_default()
}

/// The most elements or characters of a value.
fn most(schema: &Schema) -> u64 {
    let longest = || max_length(schema).map(|length| length.saturating_mul(BYTES_OF_CHARACTER));
    if schema.int_or_string {
        return longest().unwrap_or(MAX_REQUEST_BYTES - 2);
    }
    match schema.kind {
        Some(Type::Array) => bound(schema, |v| v.max_items)
            .unwrap_or_else(|| (MAX_REQUEST_BYTES - 2) / (schema.items.as_deref().map_or(0, least) + 1)),
        Some(Type::Object) => match &schema.additional {
            // A key has two quotes at least, and a colon and a comma.
            Some(Additional::Of(of)) => {
                bound(schema, |v| v.max_properties).unwrap_or_else(|| (MAX_REQUEST_BYTES - 2) / (least(of) + 6))
            }
            _ => 0,
        },
        Some(Type::String) => match format(schema) {
            "byte" => max_length(schema).unwrap_or(MAX_REQUEST_BYTES - 2),
            "duration" | "date-time" => 32,
            "date" => 12,
            _ => longest().or_else(|| longest_choice(schema)).unwrap_or(MAX_REQUEST_BYTES - 2),
        },
        _ => 0,
    }
}

fn longest_choice(schema: &Schema) -> Option<u64> {
    let choices = &schema.validation.as_deref()?.enumeration;
    let lengths = choices.iter().filter_map(|choice| u64::try_from(choice.as_str()?.len()).ok());
    (!choices.is_empty()).then(|| lengths.max().unwrap_or(0))
}

/// The fewest bytes of a value's JSON.
fn least(schema: &Schema) -> u64 {
    least_at(schema, Place::of(schema))
}

fn least_at(schema: &Schema, place: Place) -> u64 {
    if schema.int_or_string {
        return 1;
    }
    match schema.kind {
        Some(Type::Object) if !is_map(schema) => required_fields(schema, place).fold(2, u64::saturating_add),
        Some(Type::String) => match format(schema) {
            "duration" => 3,
            "date" => 12,
            "date-time" => 21,
            _ => 2,
        },
        Some(Type::Object | Type::Array) => 2,
        Some(Type::Boolean) => 4,
        Some(Type::Number | Type::Integer) => 1,
        None => 0,
    }
}

/// What each field costs that can't be left out: its name, quotes, a colon and a comma, and the value.
fn required_fields(schema: &Schema, place: Place) -> impl Iterator<Item = u64> {
    let required = schema.validation.as_deref().map(|v| v.required.as_slice()).unwrap_or_default();
    required.iter().filter_map(move |name| {
        let value = match (place, name.as_str()) {
            (Place::Resource, "apiVersion" | "kind" | "metadata") => 2,
            _ => {
                let property = schema.properties.get(name)?;
                visible(property).filter(|_| property.default.is_none()).map(|_| least(property))?
            }
        };
        Some(u64::try_from(name.len()).unwrap_or(u64::MAX).saturating_add(value).saturating_add(4))
    })
}

/// How many values of a schema fit into a request.
#[must_use]
pub fn cardinality(schema: &Schema, place: Place) -> u64 {
    MAX_REQUEST_BYTES / (least_at(schema, place) + 1)
}
