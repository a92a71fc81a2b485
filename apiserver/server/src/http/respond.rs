//! Objects, lists, watches and errors as HTTP responses, in the form that was negotiated.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::body::{self, Body, BodyError};
use super::negotiate::{Accepted, Format, IncludeObject, Shape};
use crate::clock::Clock;
use crate::registry::{Origin, Resource};
use crate::rest::Rest;
use crate::rest::object::Object;
use crate::rest::read::Listing;
use crate::rest::selection::Selection;
use crate::rest::watch::{Kind, Notice};
use crate::status::Status;
use crate::table;

/// Chunks of a streamed list are about this long.
const CHUNK: usize = 64 * 1024;

/// How a response is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) accepted: Accepted,
    pub(crate) gzip: bool,
    pub(crate) now: Timestamp,
}

fn head(code: StatusCode, content_type: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON text in the format (and prettiness) that was asked for.
fn encoded(accepted: Accepted, json: Vec<u8>) -> Result<Bytes, Status> {
    let failed =
        |error: &dyn std::fmt::Display| Status::internal(format_args!("unable to encode the response: {error}"));
    if accepted.format == Format::Json && !accepted.pretty {
        return Ok(json.into());
    }
    let value: Value = serde_json::from_slice(&json).map_err(|error| failed(&error))?;
    match accepted.format {
        Format::Yaml => serde_saphyr::to_string(&value).map(Bytes::from).map_err(|error| failed(&error)),
        Format::Json => {
            let mut out = Vec::with_capacity(json.len() * 2);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"  ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&value, &mut serializer).map_err(|error| failed(&error))?;
            out.push(b'\n');
            Ok(out.into())
        }
    }
}

fn to_vec(value: &Value) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(value).map_err(|error| Status::internal(format_args!("unable to encode the response: {error}")))
}

/// A JSON value as it is.
pub(crate) fn value(code: StatusCode, value: &Value, form: Form) -> Result<Response<Body>, Status> {
    let bytes = encoded(form.accepted, to_vec(value)?)?;
    Ok(body::finish(head(code, form.accepted.format.content_type()).map(|()| bytes), form.gzip))
}

/// One object, in the shape that was asked for.
pub(crate) fn object(
    code: StatusCode,
    resource: &Resource,
    object: &Object,
    form: Form,
) -> Result<Response<Body>, Status> {
    let mut json = Vec::with_capacity(object.len() + 64);
    let mut table = Headers::Wanted;
    write_shaped(resource, object, form, &mut table, &mut json)?;
    let bytes = encoded(form.accepted, json)?;
    Ok(body::finish(head(code, form.accepted.format.content_type()).map(|()| bytes), form.gzip))
}

/// Whether the next table carries its column definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    Wanted,
    Sent,
}

fn write_shaped(
    resource: &Resource,
    object: &Object,
    form: Form,
    headers: &mut Headers,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    match form.accepted.shape {
        Shape::Object => object.write_json(out),
        Shape::Partial(version) => {
            out.extend(to_vec(&partial(object, version)?)?);
            Ok(())
        }
        Shape::Table(version) => {
            let columns = if *headers == Headers::Wanted { table::column_definitions(resource) } else { Value::Null };
            *headers = Headers::Sent;
            let rows = vec![row(resource, object, form, version)?];
            let table = json!({
                "kind": "Table",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": object.revision.to_string()},
                "columnDefinitions": columns,
                "rows": rows,
            });
            out.extend(to_vec(&table)?);
            Ok(())
        }
    }
}

/// The object's metadata alone.
fn partial(object: &Object, version: &str) -> Result<Value, Status> {
    let mut metadata = object.value()?.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = metadata.as_object_mut().filter(|_| object.revision != 0) {
        fields.insert("resourceVersion".to_owned(), object.revision.to_string().into());
    }
    Ok(json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
    }))
}

fn row(resource: &Resource, object: &Object, form: Form, version: &str) -> Result<Value, Status> {
    let shown = match form.accepted.include_object {
        IncludeObject::Nothing => Value::Null,
        IncludeObject::Metadata => partial(object, version)?,
        IncludeObject::Object => object.to_value()?,
    };
    Ok(json!({"cells": table::cells(resource, object.value()?, form.now), "object": shown}))
}

/// A list: its first page is at hand, the rest is read as it is sent.
pub(crate) async fn list(
    rest: Arc<Rest>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selection: Selection,
    mut listing: Listing,
    form: Form,
) -> Result<Response<Body>, Status> {
    let begin = list_begin(&resource, &listing, form)?;
    let plain = form.accepted.format == Format::Json && !form.accepted.pretty;
    let first = std::mem::take(&mut listing.items);
    let cursor = listing.rest.take();
    let writer = Items { resource: Arc::clone(&resource), form, any: false };
    let content_type = form.accepted.format.content_type();
    if !plain || cursor.is_none() {
        let mut out = begin;
        let mut writer = writer;
        writer.write(&first, &mut out)?;
        drop(first);
        let mut cursor = cursor;
        while let Some(from) = cursor {
            let (items, next) = rest.next_page(&resource, namespace.as_deref(), &selection, from).await?;
            writer.write(&items, &mut out)?;
            cursor = next;
        }
        out.extend_from_slice(b"]}");
        let bytes = encoded(form.accepted, out)?;
        return Ok(body::finish(head(StatusCode::OK, content_type).map(|()| bytes), form.gzip));
    }
    let state = Some((writer, begin, first, cursor));
    let chunks = futures::stream::unfold(state, move |state| {
        let (rest, resource) = (Arc::clone(&rest), Arc::clone(&resource));
        let (namespace, selection) = (namespace.clone(), selection.clone());
        async move {
            let (mut writer, mut out, mut items, mut cursor) = state?;
            loop {
                if let Err(status) = writer.write(&items, &mut out) {
                    return Some((Err(BodyError::new(&status)), None));
                }
                match cursor.take() {
                    None => {
                        out.extend_from_slice(b"]}");
                        return Some((Ok(Bytes::from(out)), None));
                    }
                    Some(from) => match rest.next_page(&resource, namespace.as_deref(), &selection, from).await {
                        Ok((next, after)) => (items, cursor) = (next, after),
                        Err(status) => return Some((Err(BodyError::new(&status)), None)),
                    },
                }
                if out.len() >= CHUNK {
                    return Some((Ok(Bytes::from(out)), Some((writer, Vec::new(), items, cursor))));
                }
            }
        }
    });
    let response = head(StatusCode::OK, content_type).map(|()| chunks.boxed());
    Ok(body::finish_stream(response, form.gzip).await)
}

/// Everything of a list up to its first item.
fn list_begin(resource: &Resource, listing: &Listing, form: Form) -> Result<Vec<u8>, Status> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), listing.revision.to_string().into());
    if let Some(token) = &listing.continue_token {
        metadata.insert("continue".to_owned(), token.as_str().into());
    }
    if let Some(remaining) = listing.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let (api_version, kind, columns, items) = match form.accepted.shape {
        Shape::Object => (resource.api_version(), resource.list_kind.clone(), None, "items"),
        Shape::Partial(version) => {
            (format!("meta.k8s.io/{version}"), "PartialObjectMetadataList".to_owned(), None, "items")
        }
        Shape::Table(version) => {
            let columns = table::column_definitions(resource);
            (format!("meta.k8s.io/{version}"), "Table".to_owned(), Some(columns), "rows")
        }
    };
    let mut begin = Map::new();
    begin.insert("apiVersion".to_owned(), api_version.into());
    begin.insert("kind".to_owned(), kind.into());
    begin.insert("metadata".to_owned(), metadata.into());
    begin.extend(columns.map(|columns| ("columnDefinitions".to_owned(), columns)));
    let mut out = to_vec(&Value::Object(begin))?;
    // The closing brace makes room for the items.
    out.pop();
    out.extend_from_slice(format!(",\"{items}\":[").as_bytes());
    Ok(out)
}

/// Writes items one after the other.
struct Items {
    resource: Arc<Resource>,
    form: Form,
    any: bool,
}

impl Items {
    fn write(&mut self, items: &[Object], out: &mut Vec<u8>) -> Result<(), Status> {
        for object in items {
            if self.any {
                out.push(b',');
            }
            self.any = true;
            match self.form.accepted.shape {
                // As Go writes lists of its own types; custom resources say what they are everywhere.
                Shape::Object if self.resource.origin == Origin::BuiltIn => object.write_untyped(out)?,
                Shape::Object => object.write_json(out)?,
                // Clients that compare a listed object with one that they got see neither's kind.
                Shape::Partial(version) => {
                    let mut partial = partial(object, version)?;
                    if let Some(fields) = partial.as_object_mut() {
                        fields.retain(|name, _| name == "metadata");
                    }
                    out.extend(to_vec(&partial)?);
                }
                Shape::Table(version) => out.extend(to_vec(&row(&self.resource, object, self.form, version)?)?),
            }
        }
        Ok(())
    }
}

/// Called for every event that is sent, and once when the watch is over.
pub(crate) trait WatchObserver: Send + 'static {
    fn sent(&self);
}

/// A watch as a stream of JSON documents, one per line. There is no YAML form.
pub(crate) fn watch(
    resource: Arc<Resource>,
    notices: BoxStream<'static, Notice>,
    form: Form,
    clock: Arc<dyn Clock>,
    observer: impl WatchObserver,
) -> Response<Body> {
    let state = Some((notices, Headers::Wanted, observer));
    let chunks = futures::stream::unfold(state, move |state| {
        let (resource, clock) = (Arc::clone(&resource), Arc::clone(&clock));
        async move {
            let (mut notices, mut headers, observer) = state?;
            let notice = notices.next().await?;
            let last = matches!(notice, Notice::Error(_));
            // Ages are as of the event, not of the request.
            let form = Form { now: clock.now(), ..form };
            let line = watch_line(&resource, notice, form, &mut headers);
            observer.sent();
            match line {
                Ok(line) => Some((Ok(Bytes::from(line)), (!last).then_some((notices, headers, observer)))),
                Err(status) => Some((Err(BodyError::new(&status)), None)),
            }
        }
    });
    head(StatusCode::OK, "application/json").map(|()| Body::stream(chunks))
}

fn watch_line(resource: &Resource, notice: Notice, form: Form, headers: &mut Headers) -> Result<Vec<u8>, Status> {
    let mut out = Vec::with_capacity(512);
    let begin = |out: &mut Vec<u8>, kind: &str| {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
    };
    match notice {
        Notice::Event { kind, object } => {
            begin(
                &mut out,
                match kind {
                    Kind::Added => "ADDED",
                    Kind::Modified => "MODIFIED",
                    Kind::Deleted => "DELETED",
                },
            );
            write_shaped(resource, &object, form, headers, &mut out)?;
        }
        Notice::Bookmark { revision, initial_events_end } => {
            begin(&mut out, "BOOKMARK");
            out.extend(to_vec(&bookmark(resource, revision, initial_events_end, form))?);
        }
        Notice::Error(status) => {
            begin(&mut out, "ERROR");
            serde_json::to_writer(&mut out, &status).map_err(|error| Status::internal(&error))?;
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(out)
}

fn bookmark(resource: &Resource, revision: u64, initial_events_end: bool, form: Form) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_events_end && let Some(fields) = metadata.as_object_mut() {
        fields.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
    }
    match form.accepted.shape {
        Shape::Object => json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata}),
        Shape::Partial(version) => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
        }
        Shape::Table(version) => {
            let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
            json!({
                "kind": "Table",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": object}],
            })
        }
    }
}

/// An error.
pub(crate) fn status(status: &Status, pretty: bool) -> Response<Body> {
    let accepted = Accepted { pretty, ..Accepted::default() };
    let json = serde_json::to_vec(status).unwrap_or_default();
    let bytes = encoded(accepted, json).unwrap_or_default();
    let mut response = head(status.code(), "application/json").map(|()| Body::whole(bytes));
    if let Some(seconds) = status.details().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to a deletion that left nothing.
pub(crate) fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = Map::new();
    for (field, value) in [("name", name), ("group", &resource.group), ("kind", &resource.plural), ("uid", uid)] {
        if !value.is_empty() {
            details.insert(field.to_owned(), value.into());
        }
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

pub(crate) fn text(code: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    head(code, content_type).map(|()| Body::whole(text))
}

/// Adds `Warning` headers (RFC 7234: code 299, no agent, quoted text).
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: Vec<String>) {
    /// What all warnings together may take in the response's head.
    const BUDGET: usize = 4096;
    let mut left = BUDGET;
    for warning in warnings {
        let mut quoted = String::with_capacity(warning.len() + 8);
        for character in warning.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                character if character.is_control() => quoted.push(' '),
                character => quoted.push(character),
            }
        }
        let line = format!("299 - \"{quoted}\"");
        if line.len() > left {
            return;
        }
        left -= line.len();
        if let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}
