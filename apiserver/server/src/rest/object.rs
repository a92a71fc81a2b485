//! An object between the store and the wire.
//!
//! The stored form is JSON that begins with `{"apiVersion":"…","kind":"…","metadata":{` and has no resourceVersion (that is the
//! store's revision). So an object goes from the store to a client by splicing a few bytes, without being parsed; it is parsed at
//! most once, when a selector, a table or a write needs it, and everyone who holds the same [`Object`] shares the result.

use std::sync::OnceLock;

use bytes::Bytes;
use pullpiri_store::KeyValue;
use serde_json::{Map, Value};

use crate::status::Status;

/// One version of one object.
#[derive(Debug)]
pub(crate) struct Object {
    raw: Bytes,
    /// 0: not stored (the answer to a dry run of a create).
    pub(crate) revision: u64,
    parsed: OnceLock<Value>,
}

/// Whether an object says what it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Typed {
    Yes,
    No,
}

/// Where the parts of the stored form lie.
struct Layout<'a> {
    api_version: &'a str,
    kind: &'a str,
    /// What follows `"metadata":{`.
    tail: &'a [u8],
}

impl Object {
    pub(crate) fn stored(kv: &KeyValue) -> Self {
        Self { raw: kv.value.clone(), revision: kv.modified.0, parsed: OnceLock::new() }
    }

    /// The last state of a deleted or selected-away object, at the revision of the event.
    pub(crate) fn at(kv: &KeyValue, revision: u64) -> Self {
        Self { raw: kv.value.clone(), revision, parsed: OnceLock::new() }
    }

    /// An object just written: both forms are at hand.
    pub(crate) fn written(value: Value, raw: Bytes, revision: u64) -> Self {
        Self { raw, revision, parsed: OnceLock::from(value) }
    }

    /// An object whose stored form needed work before it could be shown.
    pub(crate) fn shown(value: Value, revision: u64) -> Result<Self, Status> {
        let raw = encode(&value)?;
        Ok(Self { raw, revision, parsed: OnceLock::from(value) })
    }

    /// The object without resourceVersion.
    ///
    /// # Errors
    /// The stored bytes are not a JSON object.
    pub(crate) fn value(&self) -> Result<&Value, Status> {
        if let Some(value) = self.parsed.get() {
            return Ok(value);
        }
        let value: Value = serde_json::from_slice(&self.raw)
            .map_err(|error| Status::internal(format_args!("unable to decode an object in the storage: {error}")))?;
        Ok(self.parsed.get_or_init(|| value))
    }

    /// The object as a client sees it, with resourceVersion.
    pub(crate) fn to_value(&self) -> Result<Value, Status> {
        let mut value = self.value()?.clone();
        set_revision(&mut value, self.revision);
        Ok(value)
    }

    pub(crate) fn into_value(self) -> Result<Value, Status> {
        self.value()?;
        let mut value = self.parsed.into_inner().unwrap_or_default();
        set_revision(&mut value, self.revision);
        Ok(value)
    }

    /// `apiVersion` as stored.
    pub(crate) fn api_version(&self) -> Option<&str> {
        layout(&self.raw).map(|layout| layout.api_version)
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// Appends the object's JSON, with resourceVersion.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        self.write(out, Typed::Yes)
    }

    /// As [`Self::write_json`], without apiVersion and kind.
    pub(crate) fn write_untyped(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        self.write(out, Typed::No)
    }

    fn write(&self, out: &mut Vec<u8>, typed: Typed) -> Result<(), Status> {
        out.reserve(self.raw.len() + 48);
        match layout(&self.raw) {
            Some(layout) => {
                out.push(b'{');
                if typed == Typed::Yes {
                    out.extend_from_slice(b"\"apiVersion\":\"");
                    out.extend_from_slice(layout.api_version.as_bytes());
                    out.extend_from_slice(b"\",\"kind\":\"");
                    out.extend_from_slice(layout.kind.as_bytes());
                    out.extend_from_slice(b"\",");
                }
                out.extend_from_slice(b"\"metadata\":{");
                if self.revision != 0 {
                    out.extend_from_slice(b"\"resourceVersion\":\"");
                    out.extend_from_slice(self.revision.to_string().as_bytes());
                    out.extend_from_slice(if layout.tail.first() == Some(&b'}') { b"\"" } else { b"\"," });
                }
                out.extend_from_slice(layout.tail);
                Ok(())
            }
            // Not in our form (restored by hand, say): the long way.
            None => serde_json::to_writer(out, &{
                let mut value = self.to_value()?;
                if let Some(fields) = value.as_object_mut().filter(|_| typed == Typed::No) {
                    fields.retain(|name, _| name != "apiVersion" && name != "kind");
                }
                value
            })
            .map_err(|error| Status::internal(format_args!("unable to encode an object: {error}"))),
        }
    }
}

fn layout(raw: &[u8]) -> Option<Layout<'_>> {
    let rest = raw.strip_prefix(b"{\"apiVersion\":\"")?;
    let (api_version, rest) = plain_string(rest)?;
    let rest = rest.strip_prefix(b",\"kind\":\"")?;
    let (kind, rest) = plain_string(rest)?;
    let tail = rest.strip_prefix(b",\"metadata\":{")?;
    Some(Layout { api_version, kind, tail })
}

/// A JSON string without escapes, up to its closing quote.
fn plain_string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    (bytes[end] == b'"').then_some(())?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// The stored form of an object. `metadata.resourceVersion` must have been removed.
pub(crate) fn encode(value: &Value) -> Result<Bytes, Status> {
    fn field(out: &mut Vec<u8>, name: &str, value: &Value) -> serde_json::Result<()> {
        out.push(if out.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        serde_json::to_writer(out, value)
    }
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(1024);
    let first = ["apiVersion", "kind", "metadata"];
    let head = first.iter().filter_map(|name| object.get(*name).map(|value| (*name, value)));
    let rest = object.iter().map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !first.contains(name));
    for (name, value) in head.chain(rest) {
        field(&mut out, name, value)
            .map_err(|error| Status::internal(format_args!("unable to encode an object: {error}")))?;
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(out.into())
}

/// Sets `metadata.resourceVersion`; 0 removes it.
pub(crate) fn set_revision(value: &mut Value, revision: u64) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if revision == 0 {
            metadata.remove("resourceVersion");
        } else {
            metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        }
    }
}

/// Removes `metadata.resourceVersion` and returns it.
pub(crate) fn take_revision(value: &mut Value) -> Option<String> {
    match value.get_mut("metadata")?.as_object_mut()?.remove("resourceVersion")? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round_trip(value: &Value, revision: u64) -> Value {
        let object = Object { raw: encode(value).unwrap(), revision, parsed: OnceLock::new() };
        let mut out = Vec::new();
        object.write_json(&mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn splices_the_revision_without_parsing() {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"metadata": "{\"metadata\":{"}, "metadata": {"name": "a"}});
        let mut expected = value.clone();
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(round_trip(&value, 42), expected);
        assert_eq!(round_trip(&value, 0), value);
    }

    #[test]
    fn copes_with_empty_metadata_and_foreign_forms() {
        let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
        assert_eq!(round_trip(&empty, 7)["metadata"], json!({"resourceVersion": "7"}));
        let raw = Bytes::from_static(br#"{ "kind":"ConfigMap", "metadata": {"name":"x"} }"#);
        let object = Object { raw, revision: 3, parsed: OnceLock::new() };
        let mut out = Vec::new();
        object.write_json(&mut out).unwrap();
        let shown: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(shown["metadata"]["resourceVersion"], "3");
    }
}
