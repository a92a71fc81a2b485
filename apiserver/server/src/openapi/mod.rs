//! OpenAPI: `/openapi/v2` (JSON and protobuf) and `/openapi/v3` (an index, and a document per group version).
//!
//! Documents are big and rarely asked for, so none is kept: an ETag is computed from what a document is made of (kinds and the
//! revision of their CRDs), which costs microseconds, and a client that has the document gets 304. Everybody else waits the few
//! milliseconds that building takes. The index carries the same hashes in its URLs, under which a document never changes.

mod paths;
mod protobuf;
mod schemas;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::discovery::{hash, is_match};
use crate::registry::{Origin, Resource, Resources};
use crate::status::Status;
use schemas::Form;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How clients have always asked for [`PROTOBUF`]; not a valid media type.
const OLD_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Serves OpenAPI documents.
#[derive(Debug, Default)]
pub struct OpenApi;

/// The encodings of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Protobuf,
}

impl OpenApi {
    /// Answers GET of `/openapi/v2`, `/openapi/v3` and what the latter names.
    ///
    /// # Errors
    /// NotFound for a group version that doesn't exist; NotAcceptable when the client takes none of our encodings.
    pub fn serve(&self, resources: &Arc<Resources>, parts: &Parts) -> Result<Response<Bytes>, Status> {
        let path = parts.uri.path().trim_end_matches('/');
        match path.strip_prefix("/openapi/").unwrap_or_default().split_once('/') {
            None if path == "/openapi/v2" => v2(resources, &parts.headers),
            None if path == "/openapi/v3" => index(resources, &parts.headers),
            Some(("v3", name)) => v3(resources, name, parts),
            _ => Err(not_found()),
        }
    }
}

fn not_found() -> Status {
    Status::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
}

/// The first encoding that the client names and we have.
fn negotiate(headers: &HeaderMap, takes: &[(&str, Encoding)]) -> Result<Encoding, Status> {
    let accepts: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepts.is_empty() {
        return Ok(Encoding::Json);
    }
    for range in accepts.iter().flat_map(|value| value.split(',')) {
        let media = range.split(';').next().unwrap_or_default().trim();
        if let Some((_, encoding)) = takes.iter().find(|(name, _)| *name == media) {
            return Ok(*encoding);
        }
    }
    let names: Vec<&str> = takes.iter().map(|(name, _)| *name).collect();
    Err(Status::not_acceptable(format!("only the following media types are accepted: {}", names.join(", "))))
}

const JSON: &[(&str, Encoding)] =
    &[("application/json", Encoding::Json), ("application/*", Encoding::Json), ("*/*", Encoding::Json)];

/// The resources of each group version, by its name in the index: `api/v1`, `apis/example.com/v1`.
fn group_versions(resources: &Resources) -> BTreeMap<String, Vec<&Arc<Resource>>> {
    let mut all: BTreeMap<String, Vec<&Arc<Resource>>> = BTreeMap::new();
    for resource in resources.iter() {
        let name = paths::root(&resource.group, &resource.version).trim_start_matches('/').to_owned();
        all.entry(name).or_default().push(resource);
    }
    all
}

/// Of everything that the documents of these resources are made from.
fn fingerprint(resources: &[&Arc<Resource>]) -> String {
    let mut text = String::from(env!("CARGO_PKG_VERSION"));
    for resource in resources {
        let of = match &resource.origin {
            // Built-in kinds change with the program alone.
            Origin::BuiltIn => String::new(),
            Origin::Crd(uid) => format!("{uid}@{}", resource.since),
            Origin::Virtual => resource.schema.published().to_string(),
        };
        text.push_str(&format!(
            "\n{} {} {} {} {} {} {of}",
            resource.group, resource.version, resource.plural, resource.kind, resource.has_status, resource.list_kind
        ));
    }
    hash(text.as_bytes())
}

fn respond(content_type: &str, body: impl Into<Bytes>, etag: &str) -> Result<Response<Bytes>, Status> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).map_err(Status::internal)?);
    headers.insert(header::ETAG, HeaderValue::from_str(etag).map_err(Status::internal)?);
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn unchanged(etag: &str) -> Result<Response<Bytes>, Status> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, HeaderValue::from_str(etag).map_err(Status::internal)?);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn index(resources: &Resources, headers: &HeaderMap) -> Result<Response<Bytes>, Status> {
    negotiate(headers, JSON)?;
    let paths: Map<String, Value> = group_versions(resources)
        .into_iter()
        .map(|(name, resources)| {
            let url = format!("/openapi/v3/{name}?hash={}", fingerprint(&resources));
            (name, json!({"serverRelativeURL": url}))
        })
        .collect();
    let body = json!({"paths": paths}).to_string();
    let etag = crate::discovery::etag(body.as_bytes());
    if is_match(headers, &etag) { unchanged(&etag) } else { respond("application/json", body, &etag) }
}

fn v3(resources: &Resources, name: &str, parts: &Parts) -> Result<Response<Bytes>, Status> {
    let groups = group_versions(resources);
    let resources = groups.get(name).ok_or_else(not_found)?;
    negotiate(&parts.headers, JSON)?;
    let hash = fingerprint(resources);
    let asked = parts.uri.query().and_then(|query| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == "hash").map(|(_, value)| value)
    });
    if asked.is_some_and(|asked| asked != hash) {
        // The document changed since the client read the index.
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = format!("/openapi/v3/{name}?hash={hash}");
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).map_err(Status::internal)?);
        return Ok(response);
    }
    let etag = format!("\"{hash}\"");
    let mut response = if is_match(&parts.headers, &etag) {
        unchanged(&etag)?
    } else {
        respond("application/json", document_v3(resources).to_string(), &etag)?
    };
    if asked.is_some() {
        let headers = response.headers_mut();
        // A year, which is as long as HTTP lets anything be kept (RFC 9111 has no limit of its own; caches do).
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    }
    Ok(response)
}

fn document_v3(resources: &[&Arc<Resource>]) -> Value {
    let mut components = Value::Object(schemas::all(resources, Form::V3));
    schemas::to_v3(&mut components);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths::all(resources, Form::V3),
        "components": {"schemas": components},
    })
}

fn v2(resources: &Resources, headers: &HeaderMap) -> Result<Response<Bytes>, Status> {
    let takes = [(PROTOBUF, Encoding::Protobuf), (OLD_PROTOBUF, Encoding::Protobuf)].as_slice();
    let encoding = negotiate(headers, &[takes, JSON].concat())?;
    let all: Vec<&Arc<Resource>> = resources.iter().collect();
    let etag = match encoding {
        Encoding::Json => format!("\"{}\"", fingerprint(&all)),
        // Another representation has another tag.
        Encoding::Protobuf => format!("\"{}P\"", fingerprint(&all)),
    };
    if is_match(headers, &etag) {
        return unchanged(&etag);
    }
    let document = document_v2(resources, &all);
    match encoding {
        Encoding::Json => respond("application/json", document.to_string(), &etag),
        Encoding::Protobuf => respond(PROTOBUF, protobuf::encode(&document), &etag),
    }
}

fn document_v2(resources: &Resources, all: &[&Arc<Resource>]) -> Value {
    let mut paths = Map::new();
    for resources in group_versions(resources).values() {
        paths.append(&mut paths::all(resources, Form::V2));
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": schemas::all(all, Form::V2),
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication",
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests;
