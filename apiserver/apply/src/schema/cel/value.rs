//! JSON as CEL values, by schema: an integer where the schema says number is a double, a date-time is a timestamp, base64 is bytes.
//!
//! Fields of objects are known by their escaped names, keys of maps by their own.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value;

use super::Place;
use super::access::{ALL, Access};
use super::escape::{escape, is_keyword};
use crate::schema::number::Num;
use crate::schema::{Additional, Schema, Type};

pub(super) fn convert(value: &Value, schema: Option<&Schema>, place: Place, access: &Access) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => match Num::of(number) {
            Num::Int(int) if schema.is_none_or(|s| s.kind != Some(Type::Number)) => cel::Value::Int(int),
            num => cel::Value::Float(num.float()),
        },
        Value::String(text) => convert_text(text, schema),
        Value::Array(items) => {
            let below = schema.and_then(|s| s.items.as_deref());
            let place = below.map_or(Place::Part, Place::of);
            let items = items.iter().map(|item| convert(item, below, place, &ALL)).collect();
            cel::Value::List(Arc::new(items))
        }
        Value::Object(map) => convert_object(map, schema, place, access),
    }
}

fn convert_object(
    object: &serde_json::Map<String, Value>,
    schema: Option<&Schema>,
    place: Place,
    access: &Access,
) -> cel::Value {
    let mut map = HashMap::with_capacity(object.len());
    let additional = match schema.and_then(|s| s.additional.as_ref()) {
        Some(Additional::Of(of)) => Some(&**of),
        _ => None,
    };
    for (name, value) in object {
        let property = schema.and_then(|s| s.properties.get(name));
        if let Some(of) = additional.filter(|_| property.is_none()) {
            if let Some(access) = access.field(name) {
                map.insert(key(name.clone()), convert(value, Some(of), Place::of(of), access));
            }
            continue;
        }
        // A null field of an object isn't there, as far as rules can tell.
        let Some(escaped) = escape(name).filter(|_| !(value.is_null() && schema.is_some())) else { continue };
        let plain = Some(name).filter(|name| is_keyword(name)).and_then(|name| access.field(name));
        let Some(below) = access.field(&escaped).or(plain) else { continue };
        let value = match property {
            _ if place == Place::Resource && name == "metadata" => convert_metadata(value),
            _ if place == Place::Resource && matches!(name.as_str(), "apiVersion" | "kind") => {
                convert(value, None, Place::Part, below)
            }
            Some(property) => convert(value, Some(property), Place::of(property), below),
            // Unknown fields that are preserved have no declaration, so a rule can't name them.
            None if schema.is_some() => continue,
            None => convert(value, None, Place::Part, below),
        };
        if plain.is_some() {
            map.insert(key(name.clone()), value.clone());
        }
        map.insert(key(escaped), value);
    }
    cel::Value::Map(Map { map: Arc::new(map) })
}

/// Rules see only the names of a resource.
fn convert_metadata(metadata: &Value) -> cel::Value {
    let names = ["name", "generateName"].into_iter().filter_map(|name| {
        let text = metadata.get(name)?.as_str()?;
        Some((key(name.to_owned()), string(text)))
    });
    cel::Value::Map(Map { map: Arc::new(names.collect()) })
}

fn key(name: String) -> Key {
    Key::String(Arc::new(name))
}

fn string(text: &str) -> cel::Value {
    cel::Value::String(Arc::new(text.to_owned()))
}

fn convert_text(text: &str, schema: Option<&Schema>) -> cel::Value {
    let form = schema
        .filter(|s| s.kind == Some(Type::String) && !s.int_or_string)
        .and_then(|s| s.validation.as_ref()?.format.as_deref());
    let typed = match form {
        Some("date-time") => parse_timestamp(text),
        Some("date") => parse_timestamp(&format!("{text}T00:00:00Z")),
        Some("duration") => parse_duration(text),
        Some("byte") => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            bytes.ok().map(|bytes| cel::Value::Bytes(Arc::new(bytes)))
        }
        _ => None,
    };
    typed.unwrap_or_else(|| string(text))
}

thread_local! {
    /// CEL's own conversion functions build the values, so that this crate needs no date library of theirs.
    static TIMESTAMP: Option<cel::Program> = cel::Program::compile("timestamp(t)").ok();
    static DURATION: Option<cel::Program> = cel::Program::compile("duration(t)").ok();
}

fn parse_timestamp(text: &str) -> Option<cel::Value> {
    TIMESTAMP.with(|program| call(program.as_ref()?, text))
}

fn parse_duration(text: &str) -> Option<cel::Value> {
    DURATION.with(|program| call(program.as_ref()?, text))
}

fn call(program: &cel::Program, text: &str) -> Option<cel::Value> {
    super::FUNCTIONS.with(|functions| {
        let mut scope = functions.new_inner_scope();
        scope.add_variable_from_value("t", string(text));
        program.execute(&scope).ok()
    })
}
