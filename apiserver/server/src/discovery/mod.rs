//! Discovery: what resources there are, under `/api` and `/apis`.
//!
//! Two forms of the same facts: the old one (a document per group and version) and the aggregated one (all at once, with an
//! ETag). Documents are made from a snapshot of the registry when asked for; that takes well under a millisecond, so nothing is kept.

pub mod version;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::{Origin, Resource, Resources};
use crate::status::Status;

/// Serves discovery documents.
#[derive(Debug, Default)]
pub struct Discovery;

/// Which form of a document the client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Separate,
    /// `apidiscovery.k8s.io` in this version.
    Aggregated(&'static str),
}

impl Discovery {
    /// Answers GET of `/api`, `/api/v1`, `/apis`, `/apis/GROUP` and `/apis/GROUP/VERSION`, a slash at the end allowed.
    ///
    /// # Errors
    /// NotFound for a group or version that doesn't exist; NotAcceptable when the client takes no JSON.
    pub fn serve(&self, resources: &Resources, parts: &Parts) -> Result<Response<Bytes>, Status> {
        let path: Vec<&str> = parts.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        let groups = Groups::of(resources);
        let form = negotiate(&parts.headers)?;
        match (path.as_slice(), form) {
            (["api"], Form::Aggregated(version)) => aggregated(&groups, true, version, &parts.headers),
            (["apis"], Form::Aggregated(version)) => aggregated(&groups, false, version, &parts.headers),
            (["api"], Form::Separate) => plain(&api_versions(&parts.headers, &parts.uri)),
            (["apis"], Form::Separate) => plain(&groups.list()),
            (["api", version], _) => {
                groups.resource_list("", version).ok_or_else(page_not_found).and_then(|d| plain(&d))
            }
            (["apis", group], _) => groups.group(group).ok_or_else(page_not_found).and_then(|d| plain(&d)),
            (["apis", group, version], _) => {
                groups.resource_list(group, version).ok_or_else(page_not_found).and_then(|d| plain(&d))
            }
            _ => Err(page_not_found()),
        }
    }
}

/// What any path answers that nothing is served at.
fn page_not_found() -> Status {
    Status::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
}

/// The first form that the client names and we have; `Accept` lists are short and clients put the best first.
fn negotiate(headers: &HeaderMap) -> Result<Form, Status> {
    let accepts: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepts.is_empty() {
        return Ok(Form::Separate);
    }
    for range in accepts.iter().flat_map(|value| value.split(',')) {
        let mut fields = range.split(';').map(str::trim);
        let media = fields.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let parameters: BTreeMap<&str, &str> = fields.filter_map(|field| field.split_once('=')).collect();
        match (parameters.get("g"), parameters.get("v"), parameters.get("as")) {
            (None, None, None) => return Ok(Form::Separate),
            (Some(&"apidiscovery.k8s.io"), Some(&"v2"), Some(&"APIGroupDiscoveryList")) => {
                return Ok(Form::Aggregated("v2"));
            }
            (Some(&"apidiscovery.k8s.io"), Some(&"v2beta1"), Some(&"APIGroupDiscoveryList")) => {
                return Ok(Form::Aggregated("v2beta1"));
            }
            _ => {}
        }
    }
    Err(Status::not_acceptable("only the following media types are accepted: application/json"))
}

fn plain(document: &Value) -> Result<Response<Bytes>, Status> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn aggregated(
    groups: &Groups,
    core: bool,
    version: &'static str,
    headers: &HeaderMap,
) -> Result<Response<Bytes>, Status> {
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": groups.aggregated(core),
    });
    let body = Bytes::from(document.to_string());
    let etag = etag(&body);
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let unchanged = is_match(headers, &etag);
    let mut response = Response::new(if unchanged { Bytes::new() } else { body });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(header::ETAG, HeaderValue::from_str(&etag).map_err(Status::internal)?);
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if !unchanged {
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Ok(response)
}

/// A quoted strong ETag of a body.
pub(crate) fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hash(body))
}

/// SHA-256 in upper-case hex, as ETags and OpenAPI's hash URLs carry it.
pub(crate) fn hash(body: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(body).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// Whether `If-None-Match` names this ETag.
pub(crate) fn is_match(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|candidate| matches!(candidate.trim(), "*") || candidate.trim().trim_start_matches("W/") == etag)
}

/// `/api`: the versions of the core group, and where this server is.
fn api_versions(headers: &HeaderMap, uri: &http::Uri) -> Value {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
    })
}

/// The registry by group and version, in the order that discovery lists them.
struct Groups {
    /// Core first, then by kube's priority of its own groups, then alphabetically; versions by preference.
    groups: Vec<Group>,
}

struct Group {
    name: String,
    versions: Vec<(String, Vec<Arc<Resource>>)>,
}

/// Kube's group priorities: events, authentication, authorisation, roles, CRDs, leases, then everybody else's groups.
fn priority(group: &str) -> u8 {
    match group {
        "" => 7,
        "events.k8s.io" => 6,
        "authentication.k8s.io" => 5,
        "authorization.k8s.io" => 4,
        "rbac.authorization.k8s.io" => 3,
        "apiextensions.k8s.io" => 2,
        "coordination.k8s.io" => 1,
        _ => 0,
    }
}

impl Groups {
    fn of(resources: &Resources) -> Self {
        let mut by_group: BTreeMap<&str, BTreeMap<&str, Vec<Arc<Resource>>>> = BTreeMap::new();
        for resource in resources.iter() {
            by_group
                .entry(&resource.group)
                .or_default()
                .entry(&resource.version)
                .or_default()
                .push(Arc::clone(resource));
        }
        let mut groups: Vec<Group> = by_group
            .into_iter()
            .map(|(name, versions)| {
                let mut versions: Vec<(String, Vec<Arc<Resource>>)> =
                    versions.into_iter().map(|(version, resources)| (version.to_owned(), resources)).collect();
                versions.sort_by(|(a, _), (b, _)| version::by_preference(a, b));
                Group { name: name.to_owned(), versions }
            })
            .collect();
        // Stable: names stay in order within a priority.
        groups.sort_by_key(|group| std::cmp::Reverse(priority(&group.name)));
        Self { groups }
    }

    fn list(&self) -> Value {
        let groups: Vec<Value> = self
            .groups
            .iter()
            .filter(|group| !group.name.is_empty())
            .map(|group| Value::Object(group.describe()))
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn group(&self, name: &str) -> Option<Value> {
        let group = self.groups.iter().find(|group| group.name == name && !name.is_empty())?;
        let mut document = Map::new();
        document.insert("kind".to_owned(), json!("APIGroup"));
        document.insert("apiVersion".to_owned(), json!("v1"));
        document.append(&mut group.describe());
        Some(Value::Object(document))
    }

    fn resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let group = self.groups.iter().find(|candidate| candidate.name == group)?;
        let (_, resources) = group.versions.iter().find(|(name, _)| name == version)?;
        let listed: Vec<Value> = resources.iter().flat_map(|resource| entries(resource, group)).collect();
        Some(if group.name.is_empty() {
            // The core group's list has never said its own apiVersion.
            json!({"kind": "APIResourceList", "groupVersion": version, "resources": listed})
        } else {
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": format!("{}/{version}", group.name),
                "resources": listed,
            })
        })
    }

    fn aggregated(&self, core: bool) -> Vec<Value> {
        self.groups
            .iter()
            .filter(|group| group.name.is_empty() == core)
            .map(|group| {
                let versions: Vec<Value> = group
                    .versions
                    .iter()
                    .map(|(version, resources)| {
                        let resources: Vec<Value> =
                            resources.iter().map(|resource| aggregated_entry(resource)).collect();
                        json!({"version": version, "resources": resources, "freshness": "Current"})
                    })
                    .collect();
                let metadata = if core { json!({}) } else { json!({"name": group.name}) };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect()
    }
}

impl Group {
    fn describe(&self) -> Map<String, Value> {
        let versions: Vec<Value> = self
            .versions
            .iter()
            .map(|(version, _)| json!({"groupVersion": format!("{}/{version}", self.name), "version": version}))
            .collect();
        let mut map = Map::new();
        map.insert("name".to_owned(), json!(self.name));
        map.insert("preferredVersion".to_owned(), versions.first().cloned().unwrap_or(Value::Null));
        map.insert("versions".to_owned(), Value::Array(versions));
        map
    }

    /// The version that objects of this plural are stored in.
    fn storage_version(&self, plural: &str) -> Option<&str> {
        self.versions
            .iter()
            .find(|(_, resources)| resources.iter().any(|resource| resource.plural == plural && resource.storage))
            .map(|(version, _)| version.as_str())
    }
}

/// The verbs of a resource. Custom resources have them in another order, and scripts compare.
fn verbs(resource: &Resource) -> &'static [&'static str] {
    if resource.strategy.review().is_some() {
        return &["create"];
    }
    match resource.origin {
        Origin::Crd(_) if resource.terminating => &["delete", "deletecollection", "get", "list", "watch"],
        Origin::Crd(_) => &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"],
        Origin::BuiltIn if resource.strategy.has_finalize() => {
            &["create", "delete", "get", "list", "patch", "update", "watch"]
        }
        Origin::BuiltIn | Origin::Virtual => {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }
}

/// A subresource as discovery names it.
struct Subresource {
    name: &'static str,
    verbs: &'static [&'static str],
    /// Set when its objects are of another kind than the resource's.
    kind: Option<(&'static str, &'static str, &'static str)>,
}

fn subresources(resource: &Resource) -> Vec<Subresource> {
    const ACCESS: &[&str] = &["get", "patch", "update"];
    let mut all = Vec::new();
    if resource.strategy.has_finalize() {
        all.push(Subresource { name: "finalize", verbs: &["update"], kind: None });
    }
    if resource.strategy.has_token() {
        let kind = Some(("authentication.k8s.io", "v1", "TokenRequest"));
        all.push(Subresource { name: "token", verbs: &["create"], kind });
    }
    if resource.has_status {
        all.push(Subresource { name: "status", verbs: ACCESS, kind: None });
    }
    if resource.scale.is_some() {
        all.push(Subresource { name: "scale", verbs: ACCESS, kind: Some(("autoscaling", "v1", "Scale")) });
    }
    all
}

fn entries(resource: &Resource, group: &Group) -> Vec<Value> {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.is_namespaced(),
        "kind": resource.kind,
        "verbs": verbs(resource),
    });
    if let Some(map) = entry.as_object_mut() {
        if !resource.short_names.is_empty() {
            map.insert("shortNames".to_owned(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            map.insert("categories".to_owned(), json!(resource.categories));
        }
        if resource.origin != Origin::Virtual && resource.strategy.review().is_none() {
            map.insert("storageVersionHash".to_owned(), json!(storage_version_hash(resource, group)));
        }
    }
    let mut all = vec![entry];
    for subresource in subresources(resource) {
        let (group, version, kind) = subresource.kind.unwrap_or_default();
        let mut entry = json!({
            "name": format!("{}/{}", resource.plural, subresource.name),
            "singularName": "",
            "namespaced": resource.is_namespaced(),
            "kind": if kind.is_empty() { &resource.kind } else { kind },
            "verbs": subresource.verbs,
        });
        if let (false, Some(map)) = (kind.is_empty(), entry.as_object_mut()) {
            map.insert("group".to_owned(), json!(group));
            map.insert("version".to_owned(), json!(version));
        }
        all.push(entry);
    }
    all
}

/// The first eight bytes of SHA-256 over `group/version/kind` of the stored version, in base64. A view is stored as what it views.
fn storage_version_hash(resource: &Resource, group: &Group) -> String {
    let version = group.storage_version(&resource.plural).unwrap_or(&resource.version);
    let stored_group = resource.strategy.view_of().map_or(resource.group.as_str(), |(group, _)| group);
    let digest = Sha256::digest(format!("{stored_group}/{version}/{}", resource.kind));
    STANDARD.encode(&digest[..8])
}

fn aggregated_entry(resource: &Resource) -> Value {
    let own = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": own,
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if let Some(map) = entry.as_object_mut() {
        if !resource.short_names.is_empty() {
            map.insert("shortNames".to_owned(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            map.insert("categories".to_owned(), json!(resource.categories));
        }
        let subresources: Vec<Value> = subresources(resource)
            .into_iter()
            .map(|subresource| {
                let kind = subresource.kind.map_or_else(
                    || own.clone(),
                    |(group, version, kind)| json!({"group": group, "version": version, "kind": kind}),
                );
                json!({"subresource": subresource.name, "responseKind": kind, "verbs": subresource.verbs})
            })
            .collect();
        if !subresources.is_empty() {
            map.insert("subresources".to_owned(), Value::Array(subresources));
        }
    }
    entry
}

#[cfg(test)]
mod tests;
