//! Files to tasks and nodes. What the API server would refuse is refused here, by the field's path.

use std::io::Read;
use std::path::Path;

use pullpiri_apply::error::{FieldErrorKind, Path as FieldPath};
use pullpiri_apply::schema::Schema;
use pullpiri_apply::schema::prune::prune;
use pullpiri_apply::schema::validate::validate;
use pullpiri_crds::node::NodeRuntime;
use pullpiri_crds::schedule::Schedule;
use pullpiri_rt::{FieldError, Node, TaskSet, from_schedule};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::BadInput;
use crate::fail::Failure;

const API_VERSION: &str = "pullpiri.io/v1alpha1";
/// A megabyte holds a thousand tasks ten times over.
const MAX_BYTES: u64 = 16 << 20;
/// The most problems that are printed.
const MAX_LINES: usize = 50;

/// A file's name for messages and its text; `-` is stdin.
pub(super) fn read(file: &Path) -> Result<(String, String), BadInput> {
    let stdin = file.as_os_str() == "-";
    let label = if stdin { "stdin".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = if stdin {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    match read {
        Err(error) => Err(BadInput::new(&label, format!("reading it: {error}"))),
        Ok(bytes) if u64::try_from(bytes).unwrap_or(u64::MAX) > MAX_BYTES => {
            Err(BadInput::new(&label, format!("given more than {MAX_BYTES} bytes, expected at most that")))
        }
        Ok(_) => Ok((label, text)),
    }
}

/// The documents, those in a `kind: List` one by one.
fn documents(file: &str, text: &str) -> Result<Vec<Value>, BadInput> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| BadInput::new(file, Failure::from(error)))?;
    let mut documents = Vec::new();
    for value in values {
        let list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match value.get("items").and_then(Value::as_array) {
            Some(items) if list => documents.extend(items.iter().cloned()),
            _ => documents.push(value),
        }
    }
    Ok(documents)
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document.get("kind").and_then(Value::as_str) == Some(kind)).collect()
}

/// The one Schedule of a file: its name and its tasks.
pub(super) fn schedule(file: &str, text: &str) -> Result<(String, TaskSet), BadInput> {
    let documents = documents(file, text)?;
    let schedules = of_kind(&documents, "Schedule");
    let [document] = schedules[..] else {
        let kinds: Vec<String> = documents
            .iter()
            .map(|document| document.get("kind").and_then(Value::as_str).unwrap_or("no kind").to_owned())
            .collect();
        let given = match (schedules.len(), kinds.is_empty()) {
            (0, true) => "no document".to_owned(),
            (0, false) => kinds.join(", "),
            (several, _) => format!("{several} Schedules"),
        };
        return Err(BadInput::new(file, format!("kind: given {given}, expected one Schedule")));
    };
    let schedule: Schedule = decode(file, document, |schedule: &Schedule| from_schedule(&schedule.spec).err())?;
    let set = from_schedule(&schedule.spec).map_err(|errors| BadInput::fields(file, &errors))?;
    Ok((schedule.metadata.name.unwrap_or_default(), set))
}

/// The NodeRuntimes of a file, each with what its kernel admits.
pub(super) fn nodes(file: &Path) -> Result<Vec<Node>, BadInput> {
    let (label, text) = read(file)?;
    nodes_of(&label, &text)
}

pub(super) fn nodes_of(file: &str, text: &str) -> Result<Vec<Node>, BadInput> {
    let documents = documents(file, text)?;
    let runtimes = of_kind(&documents, "NodeRuntime");
    if runtimes.is_empty() {
        return Err(BadInput::new(file, "kind: given no NodeRuntime, expected at least one"));
    }
    let mut nodes = Vec::new();
    for document in runtimes {
        let runtime: NodeRuntime = decode(file, document, |_| None)?;
        let name = runtime.metadata.name.unwrap_or_default();
        let Some(realtime) = runtime.status.and_then(|status| status.realtime) else {
            let expected = "what the node can do in real time";
            let error = FieldError::new("status.realtime", format!("none in NodeRuntime {name}"), expected);
            return Err(BadInput::fields(file, &[error]));
        };
        nodes.push(Node::from_runtime(name, &realtime).map_err(|errors| {
            let prefixed: Vec<FieldError> = errors
                .into_iter()
                .map(|error| FieldError { path: format!("status.realtime.{}", error.path), ..error })
                .collect();
            BadInput::fields(file, &prefixed)
        })?);
    }
    Ok(nodes)
}

/// An object of ours, if our schema and `own` (which knows its fields better) have nothing against it.
fn decode<T: DeserializeOwned + kube::Resource<DynamicType = ()>>(
    file: &str,
    document: &Value,
    own: impl Fn(&T) -> Option<Vec<FieldError>>,
) -> Result<T, BadInput> {
    let kind = T::kind(&());
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or("none");
    if version != API_VERSION {
        let hint = if version == "v1" { " (`pullpiri convert` turns published manifests into these)" } else { "" };
        let error = FieldError::new("apiVersion", version, format!("{API_VERSION}{hint}"));
        return Err(BadInput::fields(file, &[error]));
    }
    let decoded = serde_json::from_value::<T>(document.clone());
    // Our own words first; the schema's for the fields that they don't speak of.
    let mut errors = decoded.as_ref().ok().and_then(own).unwrap_or_default();
    for error in schema_errors(&kind, document) {
        let said = errors.iter().any(|known| {
            known.path == error.path || (error.path == "spec.tasks" && known.path.starts_with("spec.tasks"))
        });
        if !said {
            errors.push(error);
        }
    }
    match decoded {
        Ok(object) if errors.is_empty() => Ok(object),
        Err(error) if errors.is_empty() => Err(BadInput::new(file, format!("reading the {kind}: {error}"))),
        _ => {
            let more = errors.len().saturating_sub(MAX_LINES);
            errors.truncate(MAX_LINES);
            let BadInput(mut lines) = BadInput::fields(file, &errors);
            if more > 0 {
                lines.push(format!("{file}: and {more} more"));
            }
            Err(BadInput(lines))
        }
    }
}

/// What the API server's schema has against the object: unknown fields, wrong types, values out of range.
fn schema_errors(kind: &str, document: &Value) -> Vec<FieldError> {
    let crd = pullpiri_crds::all().into_iter().find(|crd| crd.spec.names.kind == kind);
    let schema = crd
        .and_then(|crd| {
            serde_json::to_value(crd.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()
        })
        .and_then(|value| Schema::parse(&value).ok());
    let Some(schema) = schema else { return Vec::new() };
    let mut pruned = document.clone();
    let unknown = prune(&mut pruned, &schema)
        .into_iter()
        .map(|path| FieldError::new(path, "a value", format!("nothing: a {kind} has no such field")));
    let mut errors: Vec<FieldError> = unknown.collect();
    errors.extend(validate(&FieldPath::Root, &pruned, &schema).into_iter().map(|error| {
        let given = at(document, &error.path).map_or_else(|| "none".to_owned(), ToString::to_string);
        let type_of = error.detail.split_once("must be of type ").and_then(|(_, rest)| rest.split_once(':'));
        let expected = match (error.kind, type_of) {
            (FieldErrorKind::Required, _) => "a value".to_owned(),
            (_, Some((kind, _))) => format!("a value of type {kind}"),
            // A field that may be absent may also be null; nobody wants to read that.
            _ if !error.detail.is_empty() => error.detail.replace(", \"null\"", ""),
            _ => error.body(),
        };
        FieldError::new(&error.path, given, expected)
    }));
    errors
}

/// The value at `spec.tasks[0].wcet`.
fn at<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = document;
    for step in path.split(['.', '[']) {
        value = match step.strip_suffix(']') {
            Some(index) => value.get(index.parse::<usize>().ok()?)?,
            None => value.get(step)?,
        };
    }
    Some(value)
}
