//! The wire form of field sets: `{"f:spec":{".":{},"f:replicas":{}}}`.
//!
//! An empty object is a member with nothing below; `"."` marks a member that has something below. Kinds of elements that this
//! version doesn't know are dropped. Written to text, keys come in the order of path elements; in a [`Value`] in the order of its map.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Map, Value};

use super::{
    path::{Parsed, PathElement},
    set::{FieldSet, Mark},
};

impl FieldSet {
    /// The set as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        level_value(self, false)
    }
}

fn level_value(set: &FieldSet, member: bool) -> Value {
    let mut out = Map::new();
    if member && !set.is_empty() {
        out.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for node in set.nodes() {
        out.insert(node.element.to_key(), level_value(&node.mark.children, node.mark.member));
    }
    Value::Object(out)
}

impl Serialize for FieldSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        LevelRef { set: self, member: false }.serialize(serializer)
    }
}

struct LevelRef<'a> {
    set: &'a FieldSet,
    member: bool,
}

impl Serialize for LevelRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.member && !self.set.is_empty() {
            map.serialize_entry(".", &Map::new())?;
        }
        for node in self.set.nodes() {
            let below = LevelRef { set: &node.mark.children, member: node.mark.member };
            map.serialize_entry(&node.element.to_key(), &below)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for FieldSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Level::deserialize(deserializer)?.0.children)
    }
}

struct Level(Mark);

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LevelVisitor)
    }
}

struct LevelVisitor;

impl<'de> Visitor<'de> for LevelVisitor {
    type Value = Level;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of path elements")
    }

    fn visit_unit<E>(self) -> Result<Level, E> {
        Ok(Level(Mark { member: true, children: FieldSet::new() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Level, A::Error> {
        let mut mark = Mark::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "." {
                mark.member = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match PathElement::parse(&key).map_err(A::Error::custom)? {
                Parsed::Element(element) => {
                    let Level(below) = map.next_value()?;
                    mark.children.push(element, below);
                }
                Parsed::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        mark.children.normalise();
        mark.member |= mark.children.is_empty();
        Ok(Level(mark))
    }
}
