//! `metadata` as `metav1.ObjectMeta` decodes it: wrong types refused with the decoder's text, unknown fields dropped and reported,
//! empty fields left out, times in UTC with seconds.

use serde_json::{Map, Value};

use crate::error::print;

/// What a field of a Go struct holds, and so what JSON it takes.
#[derive(Clone, Copy)]
enum Kind {
    /// The Go type that errors name.
    Text(&'static str),
    Int,
    Bool,
    Time,
    /// `FieldsV1`: any JSON, kept as it is.
    Raw,
    Texts,
    TextMap,
    Structs(&'static Struct),
}

/// A field by its JSON name.
struct Field {
    name: &'static str,
    kind: Kind,
    empty: Empty,
}

/// What becomes of a field without a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    /// `omitempty`: zero is left out.
    Omitted,
    /// A pointer: zero stays, null is left out.
    Pointer,
    /// Zero is written.
    Written,
}

struct Struct {
    name: &'static str,
    fields: &'static [Field],
}

const fn field(name: &'static str, kind: Kind, empty: Empty) -> Field {
    Field { name, kind, empty }
}

static OBJECT_META: Struct = Struct {
    name: "ObjectMeta",
    fields: &[
        field("name", Kind::Text("string"), Empty::Omitted),
        field("generateName", Kind::Text("string"), Empty::Omitted),
        field("namespace", Kind::Text("string"), Empty::Omitted),
        field("selfLink", Kind::Text("string"), Empty::Omitted),
        field("uid", Kind::Text("types.UID"), Empty::Omitted),
        field("resourceVersion", Kind::Text("string"), Empty::Omitted),
        field("generation", Kind::Int, Empty::Omitted),
        field("creationTimestamp", Kind::Time, Empty::Omitted),
        field("deletionTimestamp", Kind::Time, Empty::Pointer),
        field("deletionGracePeriodSeconds", Kind::Int, Empty::Pointer),
        field("labels", Kind::TextMap, Empty::Omitted),
        field("annotations", Kind::TextMap, Empty::Omitted),
        field("ownerReferences", Kind::Structs(&OWNER_REFERENCE), Empty::Omitted),
        field("finalizers", Kind::Texts, Empty::Omitted),
        field("managedFields", Kind::Structs(&MANAGED_FIELDS), Empty::Omitted),
    ],
};

static OWNER_REFERENCE: Struct = Struct {
    name: "OwnerReference",
    fields: &[
        field("apiVersion", Kind::Text("string"), Empty::Written),
        field("kind", Kind::Text("string"), Empty::Written),
        field("name", Kind::Text("string"), Empty::Written),
        field("uid", Kind::Text("types.UID"), Empty::Written),
        field("controller", Kind::Bool, Empty::Pointer),
        field("blockOwnerDeletion", Kind::Bool, Empty::Pointer),
    ],
};

static MANAGED_FIELDS: Struct = Struct {
    name: "ManagedFieldsEntry",
    fields: &[
        field("manager", Kind::Text("string"), Empty::Omitted),
        field("operation", Kind::Text("v1.ManagedFieldsOperationType"), Empty::Omitted),
        field("apiVersion", Kind::Text("string"), Empty::Omitted),
        field("time", Kind::Time, Empty::Pointer),
        field("fieldsType", Kind::Text("string"), Empty::Omitted),
        field("fieldsV1", Kind::Raw, Empty::Pointer),
        field("subresource", Kind::Text("string"), Empty::Omitted),
    ],
};

/// Normalises the value of a `metadata` field in place. Returns the unknown fields that were dropped, by their paths below
/// metadata: `foo`, `ownerReferences[0].bar`.
///
/// # Errors
/// The first value of a wrong type, in the words of Go's JSON decoder. The metadata is then left as it was.
pub fn decode(metadata: &mut Value) -> Result<Vec<String>, String> {
    let mut decoder = Decoder { unknown: Vec::new() };
    match metadata {
        Value::Null => *metadata = Value::Object(Map::new()),
        Value::Object(map) => {
            let decoded = decoder.object(map, &OBJECT_META, &[], "")?;
            *map = decoded;
        }
        other => {
            let given = json_type(other);
            return Err(format!("json: cannot unmarshal {given} into Go value of type v1.ObjectMeta"));
        }
    }
    decoder.unknown.sort_unstable();
    Ok(decoder.unknown)
}

struct Decoder {
    unknown: Vec<String>,
}

impl Decoder {
    /// `names` are the fields on the way, as Go's errors list them; `path` has indexes too.
    fn object(
        &mut self,
        given: &Map<String, Value>,
        kind: &Struct,
        names: &[&str],
        path: &str,
    ) -> Result<Map<String, Value>, String> {
        let mut decoded = Map::new();
        for name in given.keys().filter(|name| !kind.fields.iter().any(|field| field.name == name.as_str())) {
            self.unknown.push(format!("{path}{name}"));
        }
        for field in kind.fields {
            let below = format!("{path}{}", field.name);
            let mut names = names.to_vec();
            names.push(field.name);
            let value = given.get(field.name).unwrap_or(&Value::Null);
            if let Some(value) =
                self.value(value, field.kind, &Spot { owner: kind.name, names: &names, path: &below })?
            {
                if field.empty != Empty::Omitted || !is_empty(&value) {
                    decoded.insert(field.name.to_owned(), value);
                }
            } else if field.empty == Empty::Written {
                decoded.insert(field.name.to_owned(), Value::from(""));
            }
        }
        Ok(decoded)
    }

    fn value(&mut self, value: &Value, kind: Kind, spot: &Spot<'_>) -> Result<Option<Value>, String> {
        Ok(Some(match (kind, value) {
            (_, Value::Null) => return Ok(None),
            (Kind::Text(_), Value::String(_)) | (Kind::Bool, Value::Bool(_)) | (Kind::Raw, _) => value.clone(),
            (Kind::Int, Value::Number(number)) => match integer(number) {
                Some(int) => Value::from(int),
                None => return Err(spot.refuse(&format!("number {}", print::number(number)), "int64")),
            },
            (Kind::Time, Value::String(text)) => Value::from(normal_time(text)?),
            (Kind::Texts, Value::Array(items)) => {
                let texts: Result<Vec<Value>, String> = items.iter().map(|item| text(item, spot)).collect();
                Value::Array(texts?)
            }
            (Kind::TextMap, Value::Object(map)) => {
                let entries: Result<Map<String, Value>, String> =
                    map.iter().map(|(key, value)| Ok((key.clone(), text(value, spot)?))).collect();
                Value::Object(entries?)
            }
            (Kind::Structs(kind), Value::Array(items)) => {
                let mut decoded = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    let empty = Map::new();
                    let map = match item {
                        Value::Object(map) => map,
                        Value::Null => &empty,
                        other => return Err(spot.refuse(json_type(other), &format!("v1.{}", kind.name))),
                    };
                    let path = format!("{}[{i}].", spot.path);
                    decoded.push(Value::Object(self.object(map, kind, spot.names, &path)?));
                }
                Value::Array(decoded)
            }
            (kind, other) => return Err(spot.refuse(json_type(other), &kind.go_type())),
        }))
    }
}

impl Kind {
    fn go_type(self) -> String {
        match self {
            Self::Text(name) => name.to_owned(),
            Self::Int => "int64".to_owned(),
            Self::Bool => "bool".to_owned(),
            // A time decodes its text by itself.
            Self::Time => "string".to_owned(),
            Self::Raw => "v1.FieldsV1".to_owned(),
            Self::Texts => "[]string".to_owned(),
            Self::TextMap => "map[string]string".to_owned(),
            Self::Structs(of) => format!("[]v1.{}", of.name),
        }
    }
}

/// Where the decoder is.
struct Spot<'a> {
    owner: &'a str,
    names: &'a [&'a str],
    path: &'a str,
}

impl Spot<'_> {
    fn refuse(&self, given: &str, wanted: &str) -> String {
        let names = self.names.join(".");
        format!("json: cannot unmarshal {given} into Go struct field {}.{names} of type {wanted}", self.owner)
    }
}

fn text(value: &Value, spot: &Spot<'_>) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value.clone()),
        Value::Null => Ok(Value::from("")),
        other => Err(spot.refuse(json_type(other), "string")),
    }
}

fn integer(number: &serde_json::Number) -> Option<i64> {
    // 1.0 counts: Kubernetes writes it as 1 before it decodes.
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        let whole = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
        whole.then(|| print::number(number).parse().ok())?
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) => false,
    }
}

/// RFC 3339 to UTC by the second.
fn normal_time(text: &str) -> Result<String, String> {
    let parsed = text.parse::<jiff::Timestamp>().ok().filter(|_| text.as_bytes().get(10) == Some(&b'T'));
    match parsed {
        Some(time) => {
            let seconds = jiff::Timestamp::from_second(time.as_second()).unwrap_or(time);
            Ok(seconds.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        }
        None => {
            let text = print::quote(text);
            Err(format!("parsing time {text} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text} as \"2006\""))
        }
    }
}

/// The name of a JSON type in Go's errors.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
