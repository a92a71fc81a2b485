//! `metadata.managedFields`: who owns which fields of an object, through which operation, version and subresource.
//!
//! Appliers are told apart by name and subresource; updaters by name, version and subresource. Entries are sorted: applied ones
//! first, then by time (whole seconds), name, version and subresource.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{set::FieldSet, text};

/// What kind of request made a manager own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else that writes.
    Update,
}

impl Operation {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    /// `apps/v1`, `v1`.
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

impl Manager {
    /// Appliers are one manager whatever version they apply.
    pub(crate) fn identity(&self, operation: Operation) -> Self {
        Self {
            name: if self.name.is_empty() { "unknown".to_owned() } else { self.name.clone() },
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => self.api_version.clone(),
            },
            subresource: self.subresource.clone(),
        }
    }

    /// The text that managers are sorted by.
    pub(crate) fn sort_key(&self) -> String {
        let mut out = String::from("{");
        for (name, value) in [
            ("manager", self.name.as_str()),
            ("operation", self.operation.as_str()),
            ("apiVersion", &self.api_version),
            ("subresource", &self.subresource),
        ] {
            if !value.is_empty() {
                if out.len() > 1 {
                    out.push(',');
                }
                text::write_string(&mut out, name, text::Html::Escaped);
                out.push(':');
                text::write_string(&mut out, value, text::Html::Escaped);
            }
        }
        out.push('}');
        out
    }

    /// As conflicts name it: `"kubectl" with subresource "status" using v1`.
    #[must_use]
    pub fn described(&self) -> String {
        let mut out = text::quote(&self.name);
        if !self.subresource.is_empty() {
            out.push_str(" with subresource ");
            out.push_str(&text::quote(&self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(" using ");
            out.push_str(&self.api_version);
        }
        out
    }
}

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedFieldsEntry {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub manager: String,
    /// `Apply` or `Update`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub operation: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub api_version: String,
    /// RFC 3339, UTC, whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `FieldsV1`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub fields_type: String,
    #[serde(skip_serializing_if = "Option::is_none", rename = "fieldsV1")]
    pub fields_v1: Option<FieldSet>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub subresource: String,
}

/// Null stands for absent.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata.managedFields` that can't be used.
#[derive(Debug, Error)]
pub enum EntryError {
    #[error("reading metadata.managedFields: {0}")]
    Malformed(#[source] serde_json::Error),
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {given:?} in managed fields entry {at}")]
    FieldsType { at: usize, given: String },
    #[error("time {0:?} in managed fields is not an RFC 3339 time")]
    Time(String),
}

/// The entries of an object; none if it has none.
///
/// # Errors
///
/// `metadata.managedFields` isn't a list of entries.
pub fn entries(object: &Value) -> Result<Vec<ManagedFieldsEntry>, EntryError> {
    match raw(object) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(list) => Vec::deserialize(list).map_err(EntryError::Malformed),
    }
}

pub(crate) fn raw(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// A moment, with the text it is written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    text: String,
    /// Since 1970.
    pub(crate) seconds: i64,
}

impl Time {
    pub(crate) fn parse(text: &str) -> Result<Self, EntryError> {
        let wrong = |_| EntryError::Time(text.to_owned());
        let seconds = text.parse::<Timestamp>().map_err(wrong)?.as_second();
        let whole = Timestamp::from_second(seconds).map_err(wrong)?;
        Ok(Self { text: whole.to_string(), seconds })
    }
}

/// The fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) set: FieldSet,
    pub(crate) api_version: String,
    pub(crate) time: Option<Time>,
}

impl Owned {
    pub(crate) fn seconds(&self) -> i64 {
        self.time.as_ref().map_or(0, |time| time.seconds)
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Managers(pub(crate) BTreeMap<Manager, Owned>);

impl Managers {
    pub(crate) fn decode(entries: Vec<ManagedFieldsEntry>) -> Result<Self, EntryError> {
        let mut out = BTreeMap::new();
        for (at, entry) in entries.into_iter().enumerate() {
            let operation = match entry.operation.as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(EntryError::Operation),
            };
            if entry.api_version.is_empty() {
                return Err(EntryError::ApiVersion);
            }
            match entry.fields_type.as_str() {
                "FieldsV1" => {}
                "" => return Err(EntryError::NoFieldsType(at)),
                _ => return Err(EntryError::FieldsType { at, given: entry.fields_type }),
            }
            let api_version = entry.api_version;
            let id = Manager {
                name: entry.manager,
                operation,
                api_version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => api_version.clone(),
                },
                subresource: entry.subresource,
            };
            let time = entry.time.as_deref().map(Time::parse).transpose()?;
            out.insert(id, Owned { set: entry.fields_v1.unwrap_or_default(), api_version, time });
        }
        Ok(Self(out))
    }

    pub(crate) fn of(object: &Value) -> Result<Self, EntryError> {
        Self::decode(entries(object)?)
    }

    /// The entries, sorted; `None` for no managers.
    pub(crate) fn encode(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut sorted: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        sorted.sort_by(|(left, owned_left), (right, owned_right)| {
            (left.operation, owned_left.seconds(), &left.name, &owned_left.api_version, &left.subresource).cmp(&(
                right.operation,
                owned_right.seconds(),
                &right.name,
                &owned_right.api_version,
                &right.subresource,
            ))
        });
        Some(Value::Array(sorted.into_iter().map(|(manager, owned)| entry_value(manager, owned)).collect()))
    }

    /// Writes the entries into an object; no managers leave no field.
    pub(crate) fn store(&self, object: &mut Map<String, Value>) {
        store_raw(object, self.encode());
    }
}

pub(crate) fn store_raw(object: &mut Map<String, Value>, managed_fields: Option<Value>) {
    match managed_fields {
        Some(entries) => {
            let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if metadata.is_null() {
                *metadata = Value::Object(Map::new());
            }
            if let Value::Object(metadata) = metadata {
                metadata.insert("managedFields".to_owned(), entries);
            }
        }
        None => {
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
            }
        }
    }
}

fn entry_value(manager: &Manager, owned: &Owned) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(name.to_owned(), Value::String(value.to_owned()));
        }
    };
    put("manager", &manager.name);
    put("operation", manager.operation.as_str());
    put("apiVersion", &owned.api_version);
    put("time", owned.time.as_ref().map_or("", |time| &time.text));
    put("fieldsType", "FieldsV1");
    put("subresource", &manager.subresource);
    out.insert("fieldsV1".to_owned(), owned.set.to_value());
    Value::Object(out)
}
