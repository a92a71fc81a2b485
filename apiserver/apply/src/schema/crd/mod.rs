//! A `CustomResourceDefinition` (`apiextensions.k8s.io/v1`): its defaults and the rules that it must keep.
//!
//! Kubernetes validates its internal form, in which what all versions share (schema, subresources, printer columns, selectable
//! fields) stands once at the top. Users see that in the paths of errors: `spec.validation.openAPIV3Schema` for a CRD whose versions
//! have one schema, `spec.versions[0].schema.openAPIV3Schema` otherwise. The same is done here.

mod conversion;
mod defaults;
mod expressions;
mod names;
mod openapi;
mod version;

use serde_json::{Map, Value};

pub use openapi::unrecognised_formats;

use self::expressions::Costs;
use super::structural::{flag, get, list, text};
use super::{Schema, structural};
use crate::error::{FieldError, Path};
use crate::metadata::{self, NameFormat, Scope, name};

/// Fills in singular, listKind, conversion and status.storedVersions.
pub fn default(crd: &mut Value) {
    let stored: Vec<Value> = spec_versions(crd)
        .iter()
        .filter(|v| flag(v, "storage"))
        .map(|v| Value::from(text(v, "name")))
        .take(1)
        .collect();
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let names = spec.entry("names").or_insert_with(|| Value::Object(Map::new()));
    let kind = text(names, "kind").to_owned();
    let (no_singular, no_list) = (text(names, "singular").is_empty(), text(names, "listKind").is_empty());
    if let Some(names) = names.as_object_mut() {
        if no_singular && !kind.is_empty() {
            names.insert("singular".to_owned(), Value::from(kind.to_lowercase()));
        }
        if no_list && !kind.is_empty() {
            names.insert("listKind".to_owned(), Value::from(format!("{kind}List")));
        }
    }
    let conversion = spec.entry("conversion").or_insert(Value::Null);
    if conversion.is_null() {
        *conversion = serde_json::json!({"strategy": "None"});
    }
    let service = conversion.pointer_mut("/webhook/clientConfig/service").and_then(Value::as_object_mut);
    if let Some(service) = service {
        service.entry("port").or_insert_with(|| Value::from(443));
    }
    let Some(object) = crd.as_object_mut() else { return };
    let status = object.entry("status").or_insert_with(|| Value::Object(Map::new()));
    if list(status, "storedVersions").is_empty()
        && let Some(status) = status.as_object_mut()
    {
        status.insert("storedVersions".to_owned(), Value::Array(stored));
    }
}

/// Notes the storage version among `status.storedVersions`, as every write does.
pub fn record_stored_version(crd: &mut Value) {
    let storage = spec_versions(crd).iter().find(|v| flag(v, "storage")).map(|v| text(v, "name").to_owned());
    let (Some(storage), Some(object)) = (storage, crd.as_object_mut()) else { return };
    let status = object.entry("status").or_insert_with(|| Value::Object(Map::new()));
    let Some(status) = status.as_object_mut() else { return };
    let stored = status.entry("storedVersions").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(stored) = stored.as_array_mut()
        && !stored.iter().any(|v| v.as_str() == Some(storage.as_str()))
    {
        stored.push(Value::from(storage));
    }
}

/// The errors of a new CRD, defaulted before.
#[must_use]
pub fn validate_create(crd: &Value) -> Vec<FieldError> {
    let mut errors = check_name(crd);
    let rules = Rules::default();
    validate_spec(crd, &rules, &mut errors);
    validate_status(crd, &mut errors);
    check_approval(crd, None, &mut errors);
    check_preserve(crd, None, &mut errors);
    errors
}

/// The errors of an update. What the old CRD got away with isn't held against the new one.
#[must_use]
pub fn validate_update(crd: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_update(crd, old);
    let rules = Rules::of_update(crd, old);
    validate_spec(crd, &rules, &mut errors);
    let spec = &Path::At("spec");
    let immutable = |path: Path<'_>, pointer: &str, errors: &mut Vec<FieldError>| {
        let value = |crd: &Value| crd.pointer(pointer).cloned().unwrap_or_else(|| Value::from(""));
        if value(crd) != value(old) {
            errors.push(FieldError::invalid(path, value(crd), "field is immutable"));
        }
    };
    if is_established(old) {
        immutable(spec.child("scope"), "/spec/scope", &mut errors);
        immutable(spec.child("names.kind"), "/spec/names/kind", &mut errors);
    }
    immutable(spec.child("group"), "/spec/group", &mut errors);
    immutable(spec.child("names.plural"), "/spec/names/plural", &mut errors);
    validate_status(crd, &mut errors);
    check_approval(crd, Some(old), &mut errors);
    check_preserve(crd, Some(old), &mut errors);
    errors
}

/// The violations of the structural rules of all served schemas, for the condition `NonStructuralSchema`.
#[must_use]
pub fn structural_violations(crd: &Value) -> Vec<FieldError> {
    let shared = Shared::of(crd);
    let spec = Path::At("spec");
    let check = |schema: &Value, path: &Path<'_>| match structural::unsupported(schema) {
        Some(why) => vec![FieldError::invalid(path, "", why)],
        None => structural::validate(schema, path),
    };
    if let Some(schema) = shared.schema.and_then(|s| get(s, "openAPIV3Schema")) {
        return check(schema, &Path::At("spec.validation.openAPIV3Schema"));
    }
    let versions = spec.child("versions");
    let of_version = |(i, version): (usize, &Value)| {
        let path = versions.index(i);
        let schema = get(version, "schema").and_then(|s| get(s, "openAPIV3Schema"));
        schema.map(|s| check(s, &path.child("schema").child("openAPIV3Schema"))).unwrap_or_default()
    };
    spec_versions(crd).iter().enumerate().flat_map(of_version).collect()
}

/// The parsed schema of a version. A version without one has the schema that allows nothing but apiVersion, kind and metadata.
///
/// # Errors
/// What isn't a schema.
pub fn schema_of(crd: &Value, version: &str) -> Result<Schema, Vec<FieldError>> {
    let found = spec_versions(crd).iter().find(|v| text(v, "name") == version);
    let schema = found.and_then(|v| get(v, "schema")).and_then(|s| get(s, "openAPIV3Schema"));
    schema.map_or_else(|| Ok(Schema::default()), Schema::parse)
}

fn spec_versions(crd: &Value) -> &[Value] {
    get(crd, "spec").map(|spec| list(spec, "versions")).unwrap_or_default()
}

fn is_established(crd: &Value) -> bool {
    let conditions = get(crd, "status").map(|s| list(s, "conditions")).unwrap_or_default();
    conditions.iter().any(|c| text(c, "type") == "Established" && text(c, "status") == "True")
}

/// What an update needn't keep because the old CRD didn't.
#[derive(Clone, Debug)]
struct Rules {
    recognised_review_version: bool,
    schema_required: bool,
    known_types: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    /// Versions whose schemas are as they were.
    unchanged: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            recognised_review_version: true,
            schema_required: true,
            known_types: true,
            pruned_defaults: true,
            atomic_sets: true,
            map_keys: true,
            unchanged: Vec::new(),
        }
    }
}

impl Rules {
    fn of_update(crd: &Value, old: &Value) -> Self {
        let versions = spec_versions(old);
        let schemas: Vec<&Value> =
            versions.iter().filter_map(|v| get(v, "schema").and_then(|s| get(s, "openAPIV3Schema"))).collect();
        Self {
            recognised_review_version: conversion::was_recognised(old),
            schema_required: schemas.len() == versions.len(),
            known_types: !schemas.iter().any(|s| openapi::has_unknown_types(s)),
            pruned_defaults: !schemas.iter().any(|s| defaults::has_unpruned(s)),
            atomic_sets: !schemas.iter().any(|s| openapi::has_non_atomic_sets(s)),
            map_keys: !schemas.iter().any(|s| openapi::has_unfit_map_keys(s)),
            unchanged: unchanged_schemas(crd, old),
        }
    }

    fn costs(&self, version: &str) -> Costs {
        if self.unchanged.iter().any(|unchanged| unchanged == version) { Costs::Known } else { Costs::Judged }
    }
}

fn unchanged_schemas(crd: &Value, old: &Value) -> Vec<String> {
    let before = |name: &str| spec_versions(old).iter().find(|v| text(v, "name") == name);
    let unchanged = |version: &&Value| {
        before(text(version, "name")).is_some_and(|before| get(before, "schema") == get(version, "schema"))
    };
    spec_versions(crd).iter().filter(unchanged).map(|version| text(version, "name").to_owned()).collect()
}

/// What all versions have in common, which Kubernetes keeps once.
struct Shared<'v> {
    schema: Option<&'v Value>,
    subresources: Option<&'v Value>,
    columns: Option<&'v Value>,
    selectable: Option<&'v Value>,
    /// By keyword: whether it was the same in all versions, present or not.
    same_schema: bool,
    same_subresources: bool,
    same_columns: bool,
    same_selectable: bool,
}

impl<'v> Shared<'v> {
    fn of(crd: &'v Value) -> Self {
        let versions = spec_versions(crd);
        let same = |key: &str| {
            let first = versions.first().and_then(|v| get(v, key));
            (versions.iter().all(|v| get(v, key) == first), first)
        };
        let (same_schema, schema) = same("schema");
        let (same_subresources, subresources) = same("subresources");
        let (same_columns, columns) = same("additionalPrinterColumns");
        let (same_selectable, selectable) = same("selectableFields");
        Self {
            schema: schema.filter(|_| same_schema),
            subresources: subresources.filter(|_| same_subresources),
            columns: columns.filter(|_| same_columns),
            selectable: selectable.filter(|_| same_selectable),
            same_schema,
            same_subresources,
            same_columns,
            same_selectable,
        }
    }
}

fn check_name(crd: &Value) -> Vec<FieldError> {
    let spec = get(crd, "spec").unwrap_or(&Value::Null);
    let plural = get(spec, "names").map(|n| text(n, "plural")).unwrap_or_default();
    let required = format!("{plural}.{}", text(spec, "group"));
    let mut errors = metadata::validate_create(crd, Scope::Cluster, NameFormat::Subdomain);
    let given = get(crd, "metadata").map(|m| text(m, "name")).unwrap_or_default();
    if !given.is_empty() && given != required {
        // Right behind the other complaints about the name.
        let at =
            errors.iter().take_while(|e| matches!(e.path.as_str(), "metadata.name" | "metadata.generateName")).count();
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.insert(at, FieldError::invalid("metadata.name", given, detail));
    }
    errors
}

fn validate_spec(crd: &Value, rules: &Rules, errors: &mut Vec<FieldError>) {
    let path = &Path::At("spec");
    let spec = get(crd, "spec").unwrap_or(&Value::Null);
    check_group(text(spec, "group"), path, errors);
    match text(spec, "scope") {
        "" => errors.push(FieldError::required(path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported(path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    let versions = list(spec, "versions");
    let shared = Shared::of(crd);
    version::check_schemas_are_there(&shared, versions, rules, path, errors);
    let preserves = flag(spec, "preserveUnknownFields");
    let schemas = versions.iter().filter_map(|v| get(v, "schema").and_then(|s| get(s, "openAPIV3Schema")));
    if preserves && schemas.into_iter().any(openapi::has_defaults) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid(path.child("preserveUnknownFields"), true, detail));
    }
    version::check_versions(&shared, versions, rules, path, errors);
    version::check_uniqueness(&shared, versions, path, errors);
    let no_names = Value::Object(Map::new());
    let names = get(spec, "names").unwrap_or(&no_names);
    names::check_required(names, &path.child("names"), errors);
    names::check(names, &path.child("names"), errors);
    version::check_shared(&shared, versions, rules, path, errors);
    let strategy = get(spec, "conversion").map(|c| text(c, "strategy")).unwrap_or("None");
    if preserves && strategy != "None" {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.push(FieldError::invalid(path.child("conversion.strategy"), strategy, detail));
    }
    conversion::check(spec, rules, &path.child("conversion"), errors);
}

fn check_group(group: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let place = path.child("group");
    if group.is_empty() {
        errors.push(FieldError::required(place, ""));
        return;
    }
    let complaints = name::dns_subdomain(group);
    if !complaints.is_empty() {
        errors.push(FieldError::invalid(place, group, complaints.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(place, group, "should be a domain with at least one dot"));
    }
}

fn validate_status(crd: &Value, errors: &mut Vec<FieldError>) {
    let empty = Value::Object(Map::new());
    let status = get(crd, "status").unwrap_or(&empty);
    let path = &Path::At("status");
    names::check(get(status, "acceptedNames").unwrap_or(&empty), &path.child("acceptedNames"), errors);
    let stored = list(status, "storedVersions");
    let place = &path.child("storedVersions");
    if stored.is_empty() {
        let given = get(status, "storedVersions").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(place, given, "must have at least one stored version"));
        return;
    }
    let versions = spec_versions(crd);
    for (i, version) in versions.iter().enumerate().filter(|(_, v)| flag(v, "storage")) {
        let name = text(version, "name");
        // A version counts once, so the second of one name isn't stored.
        let repeats = versions[..i].iter().any(|v| text(v, "name") == name);
        if repeats || !stored.iter().any(|s| s.as_str() == Some(name)) {
            let detail = format!("must have the storage version {name}");
            errors.push(FieldError::invalid(place, Value::from(stored), detail));
        }
    }
    for (i, gone) in stored.iter().enumerate() {
        let gone = gone.as_str().unwrap_or_default();
        if !versions.iter().any(|v| text(v, "name") == gone) {
            let detail = format!(
                "missing from spec.versions; {gone} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in {gone} and removes {gone} from status.storedVersions"
            );
            errors.push(FieldError::invalid(place.index(i), gone, detail));
        }
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

fn approval(crd: &Value) -> Approval {
    let given = approval_text(crd);
    let is_url = given.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    match given {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url => Approval::Approved,
        _ => Approval::Invalid,
    }
}

fn approval_text(crd: &Value) -> &str {
    let annotations = get(crd, "metadata").and_then(|m| get(m, "annotations"));
    annotations.map(|a| text(a, APPROVAL)).unwrap_or_default()
}

/// Groups of the Kubernetes community need an annotation that says who approved them.
fn check_approval(crd: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let group = get(crd, "spec").map(|s| text(s, "group")).unwrap_or_default();
    let protected =
        ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    let state = approval(crd);
    if !protected || old.is_some_and(|old| approval(old) == state) {
        return;
    }
    let annotations = Path::At("metadata.annotations");
    let place = annotations.key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Missing => {
            let detail = format!("protected groups must have approval annotation \"{APPROVAL}\", {see}");
            errors.push(FieldError::required(place, detail));
        }
        Approval::Invalid => {
            let detail = format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            );
            errors.push(FieldError::invalid(place, approval_text(crd), detail));
        }
        Approval::Approved | Approval::Bypassed => {}
    }
}

fn check_preserve(crd: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let preserves = |crd: &Value| get(crd, "spec").is_some_and(|spec| flag(spec, "preserveUnknownFields"));
    if preserves(crd) && !old.is_some_and(preserves) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, detail));
    }
}
