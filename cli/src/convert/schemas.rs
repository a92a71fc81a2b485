//! Our schemas as `convert` needs them: what type a field has, so that scalars are read as what they are meant to be, and
//! whether the API server would accept the result.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pullpiri_apply::error::Path;
use pullpiri_apply::schema::prune::prune;
use pullpiri_apply::schema::validate::validate;
use pullpiri_apply::schema::{Additional, Schema, Type};
use serde_json::{Map, Number, Value};

use super::names::Kind;
use super::report::Reporter;
use super::tree::{Content, Node};

/// The structural schemas of all kinds that are converted.
#[derive(Debug)]
pub(crate) struct Schemas(BTreeMap<&'static str, Schema>);

/// A CRD of ours that can't be read: a bug, not bad input.
#[derive(Clone, Debug, thiserror::Error)]
#[error("reading the schema of {kind}: {message}")]
pub(crate) struct SchemaUnreadable {
    kind: String,
    message: String,
}

/// They are part of the program: read once, and each pattern compiled once.
static SCHEMAS: LazyLock<Result<Schemas, SchemaUnreadable>> = LazyLock::new(Schemas::read);

impl Schemas {
    pub(crate) fn get() -> Result<&'static Self, SchemaUnreadable> {
        SCHEMAS.as_ref().map_err(Clone::clone)
    }

    fn read() -> Result<Self, SchemaUnreadable> {
        let mut schemas = BTreeMap::new();
        for crd in pullpiri_crds::all() {
            let kind = crd.spec.names.kind.clone();
            let Some(name) = Kind::ALL.into_iter().map(Kind::as_str).find(|name| **name == kind) else { continue };
            let failed = |message: String| SchemaUnreadable { kind: kind.clone(), message };
            let published = crd.spec.versions.first().and_then(|version| version.schema.as_ref());
            let value = published
                .and_then(|schema| schema.open_api_v3_schema.as_ref())
                .ok_or_else(|| failed("no schema".to_owned()))
                .and_then(|schema| serde_json::to_value(schema).map_err(|error| failed(error.to_string())))?;
            let schema = Schema::parse(&value).map_err(|errors| failed(pullpiri_apply::error::aggregate(&errors)))?;
            schemas.insert(name, schema);
        }
        Ok(Self(schemas))
    }

    pub(crate) fn of(&self, kind: Kind) -> Option<&Schema> {
        self.0.get(kind.as_str())
    }

    /// What the API server's schema has against an object of ours, with the path of each problem.
    pub(crate) fn check(&self, kind: Kind, object: &Value) -> Vec<Problem> {
        let Some(schema) = self.of(kind) else { return Vec::new() };
        let mut pruned = object.clone();
        let unknown = prune(&mut pruned, schema).into_iter().map(|path| {
            let message = format!("{path}: a {} has no such field; it can't be represented", kind.as_str());
            Problem { path, message }
        });
        let invalid = validate(&Path::Root, &pruned, schema)
            .into_iter()
            .map(|error| Problem { path: error.path.clone(), message: error.to_string() });
        unknown.chain(invalid).collect()
    }
}

/// One thing that the API server would refuse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `spec.containers[0].name`
    pub(crate) path: String,
    pub(crate) message: String,
}

/// `node` as JSON: nulls dropped, scalars read as the schema says, and a text where a number or a boolean was written is warned about.
pub(crate) fn to_value(node: &Node, schema: Option<&Schema>, path: &str, report: &mut Reporter<'_>) -> Value {
    match &node.content {
        Content::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                if entry.value.is_null() {
                    continue;
                }
                let below = schema.and_then(|schema| field_schema(schema, &entry.key));
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                map.insert(entry.key.clone(), to_value(&entry.value, below, &path, report));
            }
            Value::Object(map)
        }
        Content::List(items) => {
            let below = schema.and_then(|schema| schema.items.as_deref());
            let values =
                items.iter().enumerate().map(|(at, item)| to_value(item, below, &format!("{path}[{at}]"), report));
            Value::Array(values.collect())
        }
        Content::Scalar { text, plain } => scalar(node, text, *plain, schema, path, report),
    }
}

fn field_schema<'a>(schema: &'a Schema, key: &str) -> Option<&'a Schema> {
    schema.properties.get(key).or(match &schema.additional {
        Some(Additional::Of(below)) => Some(below),
        _ => None,
    })
}

fn scalar(
    node: &Node,
    text: &str,
    plain: bool,
    schema: Option<&Schema>,
    path: &str,
    report: &mut Reporter<'_>,
) -> Value {
    if node.is_null() {
        return Value::Null;
    }
    let typed = plain.then(|| core_schema(text)).flatten();
    let wants_text = schema.is_some_and(|schema| schema.kind == Some(Type::String));
    let int_or_string = schema.is_some_and(|schema| schema.int_or_string);
    match typed {
        Some(value) if wants_text || (int_or_string && !value.is_i64() && !value.is_u64()) => {
            report.warn(
                node.line,
                format!("{path}: {text} is written without quotes where text belongs; read as {text:?}"),
            );
            Value::String(text.to_owned())
        }
        Some(value) => value,
        None => Value::String(text.to_owned()),
    }
}

/// YAML 1.2's core schema (section 10.3.2) for a plain scalar that isn't null: a boolean or a number, if it is one.
fn core_schema(text: &str) -> Option<Value> {
    match text {
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok().map(Value::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i64::from_str_radix(digits, 8).ok().map(Value::from);
    }
    let starts_numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let only_numeric = unsigned.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c))
        && unsigned.contains(|c: char| c.is_ascii_digit());
    if !starts_numeric || !only_numeric {
        return None;
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Some(Value::from(integer));
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("true", Some(serde_json::json!(true))),
            ("yes", None),
            ("3", Some(serde_json::json!(3))),
            ("-3", Some(serde_json::json!(-3))),
            ("0x10", Some(serde_json::json!(16))),
            ("1.10", Some(serde_json::json!(1.1))),
            ("1.2.3", None),
            ("1e3", Some(serde_json::json!(1000.0))),
            ("-", None),
            ("e", None),
            ("10ms", None),
        ] {
            assert_eq!(core_schema(text), expected, "{text}");
        }
    }
}
