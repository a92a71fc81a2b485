//! Elements of field paths and their spelling in `fieldsV1`.
//!
//! An element is a field of a map (`f:name`), an item of a keyed list (`k:{"name":"x"}`), an item of a set (`v:"x"`) or an item of
//! a plain list (`i:3`). They order in that sequence, within one sort by name, keys or value.
//! Source: structured-merge-diff v6, `fieldpath`.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{text, value};

/// One step of a path.
#[derive(Clone, Debug)]
pub enum PathElement {
    Field(Arc<str>),
    /// The key fields of a list item, sorted by name.
    Key(Arc<[(String, Value)]>),
    Value(Arc<Value>),
    Index(i64),
}

/// A field from the root of an object: `.spec.ports[name="http"].port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<PathElement>);

/// What a key of `fieldsV1` turned out to be.
#[derive(Debug)]
pub(crate) enum Parsed {
    Element(PathElement),
    /// A kind of element of a later version, to be dropped with what is below it.
    Unknown,
}

/// A key of `fieldsV1` that isn't a path element.
#[derive(Debug, Error)]
#[error("reading the path element {key:?}: {expected}")]
pub struct ElementError {
    pub key: String,
    pub expected: String,
}

impl PathElement {
    #[must_use]
    pub fn field(name: &str) -> Self {
        Self::Field(Arc::from(name))
    }

    #[must_use]
    pub fn value(value: Value) -> Self {
        Self::Value(Arc::new(value))
    }

    /// An item of a keyed list; the fields may come in any order.
    #[must_use]
    pub fn key(mut fields: Vec<(String, Value)>) -> Self {
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        Self::Key(Arc::from(fields))
    }

    /// Reads one key of a `fieldsV1` object.
    pub(crate) fn parse(key: &str) -> Result<Parsed, ElementError> {
        let wrong = |expected: String| ElementError { key: key.to_owned(), expected };
        if key.len() < 2 {
            return Err(wrong("a key has at least two characters".to_owned()));
        }
        let Some((sort, content)) = key.split_once(':').filter(|(sort, _)| sort.len() == 1) else {
            return Err(wrong("expected a letter and a colon".to_owned()));
        };
        let element = match sort {
            "f" => Self::field(content),
            "v" => {
                Self::value(serde_json::from_str(content).map_err(|error| wrong(format!("expected JSON: {error}")))?)
            }
            "k" => {
                let fields: Option<Map<String, Value>> =
                    serde_json::from_str(content).map_err(|error| wrong(format!("expected a JSON object: {error}")))?;
                Self::key(fields.unwrap_or_default().into_iter().collect())
            }
            "i" => Self::Index(content.parse().map_err(|error| wrong(format!("expected an index: {error}")))?),
            _ => return Ok(Parsed::Unknown),
        };
        Ok(Parsed::Element(element))
    }

    /// The key of a `fieldsV1` object, before it is quoted as a JSON string.
    #[must_use]
    pub fn to_key(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let mut out = String::from("k:{");
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    text::write_string(&mut out, name, text::Html::Plain);
                    out.push(':');
                    text::write_json(&mut out, value);
                }
                out.push('}');
                out
            }
            Self::Value(value) => {
                let mut out = String::from("v:");
                text::write_json(&mut out, value);
                out
            }
            Self::Index(index) => format!("i:{index}"),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(left), Self::Field(right)) => left.cmp(right),
            (Self::Key(left), Self::Key(right)) => left
                .iter()
                .zip(right.iter())
                .map(|(left, right)| left.0.cmp(&right.0).then_with(|| value::compare(&left.1, &right.1)))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| left.len().cmp(&right.len())),
            (Self::Value(left), Self::Value(right)) => value::compare(left, right),
            (Self::Index(left), Self::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={}", if at > 0 { "," } else { "" }, text::in_path(value))?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", text::in_path(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| element.fmt(f))
    }
}
