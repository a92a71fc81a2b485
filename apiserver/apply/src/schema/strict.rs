//! Reads JSON and notices what a decoder into a map loses: keys that stand twice. Their paths are what `fieldValidation` reports.
//!
//! One pass gives the value and the paths, so strictness costs no second parse. The last of two equal keys wins, as in Kubernetes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::print;

/// At most this many duplicates are reported, as Kubernetes does.
const MAX_REPORTED: usize = 100;

/// A parsed document and the paths of its duplicate fields, in order of appearance: `spec.x`, `spec.list[0].name`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Parses JSON.
///
/// # Errors
/// Where the text stops being JSON.
pub fn parse(bytes: &[u8]) -> Result<Document, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let document = read(&mut reader)?;
    reader.end()?;
    Ok(document)
}

/// Reads a document from any format, as YAML. Its reader must be one that hands on both of two equal keys.
///
/// # Errors
/// Where the reader stops.
pub fn read<'de, D: Deserializer<'de>>(reader: D) -> Result<Document, D::Error> {
    let mut duplicates = Vec::new();
    let value = Seed { at: &At::Root, duplicates: &mut duplicates }.deserialize(reader)?;
    Ok(Document { value, duplicates })
}

/// `duplicate field "spec.x"`.
#[must_use]
pub fn duplicate_field(path: &str) -> String {
    format!("duplicate field {}", print::quote(path))
}

/// `unknown field "spec.x"`.
#[must_use]
pub fn unknown_field(path: &str) -> String {
    format!("unknown field {}", print::quote(path))
}

/// The error of a request with `fieldValidation=Strict`.
#[must_use]
pub fn decoding_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Key(At::Root, key) => f.write_str(key),
            At::Key(parent, key) => write!(f, "{parent}.{key}"),
            At::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    at: &'a At<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or(0).min(4096));
        loop {
            let at = At::Index(self.at, list.len());
            match items.next_element_seed(Seed { at: &at, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let at = At::Key(self.at, &key);
            let value = entries.next_value_seed(Seed { at: &at, duplicates: self.duplicates })?;
            if map.contains_key(&key) && self.duplicates.len() < MAX_REPORTED {
                let path = At::Key(self.at, &key).to_string();
                if !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
