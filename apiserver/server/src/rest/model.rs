//! Where the verbs meet `pullpiri-apply`: an object and its schema, its field owners, and patches of it.

use jiff::Timestamp;
use pullpiri_apply::error::{FieldError, FieldErrorKind, Path};
use pullpiri_apply::managed::{self, ApplyError, ConflictCause, FieldSet, Force, Manager, Operation};
use pullpiri_apply::metadata::{self, Scope, decode};
use pullpiri_apply::patch::{self, PatchError, PatchKind};
use pullpiri_apply::schema::{Schema, embedded, listtype, strict, validate};
use serde_json::{Map, Value};

use super::{Write, bytes, micro_time};
use crate::clock::rfc3339;
use crate::http::negotiate::PatchType;
use crate::objects::Subresource;
use crate::registry::{Origin, Resource};
use crate::status::{Cause, Status};

/// Why an object can't be made one of its kind.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A field isn't of its type, in the words of Go's decoder.
    Decode(String),
    /// The schema itself is broken.
    Schema(Status),
}

impl Unfit {
    /// As the answer to a body.
    pub(crate) fn of_body(self, resource: &Resource) -> Status {
        let kind = &resource.kind;
        match self {
            Self::Schema(status) => status,
            Self::Decode(why) => Status::bad_request(format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
                resource.version
            )),
        }
    }

    /// As the answer to a patch that made `patched`.
    pub(crate) fn of_patch(self, patched: &Value) -> Status {
        match self {
            Self::Schema(status) => status,
            Self::Decode(why) => Status::invalid("", "", "", &[FieldError::invalid("patch", patched.to_string(), why)]),
        }
    }
}

/// Makes an object one of its kind: unknown fields go, defaults come, metadata takes its usual form. Returns what went, as
/// `unknown field "…"`.
///
/// # Errors
/// Metadata of the wrong types, bytes that aren't base64, a broken schema. The object is then as it was, or nearly.
pub(crate) fn coerce(resource: &Resource, object: &mut Value) -> Result<Vec<String>, Unfit> {
    let schema = resource.schema.compiled(resource).map_err(Unfit::Schema)?;
    let mut unknown = Vec::new();
    if let Some(metadata) = object.get_mut("metadata") {
        let dropped = decode::decode(metadata).map_err(|why| {
            // Go names the way to a field of a struct, which a custom resource isn't.
            let typed = resource.origin == Origin::BuiltIn;
            Unfit::Decode(if typed { why.replace("field ObjectMeta.", "field ObjectMeta.metadata.") } else { why })
        })?;
        unknown.extend(dropped.iter().map(|path| format!("metadata.{path}")));
    }
    unknown.extend(schema.prune(object));
    unknown.extend(schema.coerce(object).map_err(|error| Unfit::Decode(error.to_string()))?);
    schema.default(object);
    if resource.origin == Origin::BuiltIn {
        bytes::canonical(schema.schema(), object).map_err(Unfit::Decode)?;
        micro_time::canonical(resource.strategy.micro_times(), object).map_err(Unfit::Decode)?;
    }
    Ok(unknown.iter().map(|path| strict::unknown_field(path)).collect())
}

/// A built-in kind is a struct in kube-apiserver: a field of another type can't even be decoded.
///
/// # Errors
/// The first such field, in the words of Go's decoder.
pub(crate) fn check_types(resource: &Resource, object: &Value) -> Result<(), Unfit> {
    if resource.origin != Origin::BuiltIn {
        return Ok(());
    }
    let schema = resource.schema.compiled(resource).map_err(Unfit::Schema)?.schema();
    let errors = validate::validate(&Path::Root, object, schema);
    let wrong = |error: &&FieldError| error.kind == FieldErrorKind::TypeInvalid && !is_of_bytes(error);
    let Some(error) = errors.iter().find(wrong) else { return Ok(()) };
    let expected =
        error.detail.split("must be of type ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
    let given = match error.value.as_ref().and_then(Value::as_str).unwrap_or_default() {
        "integer" => "number",
        "boolean" => "bool",
        other => other,
    };
    let (kind, path) = (&resource.kind, &error.path);
    Err(Unfit::Decode(format!("json: cannot unmarshal {given} into Go struct field {kind}.{path} of type {expected}")))
}

/// No bytes at all are bytes in a built-in kind, whose base64 was read before; of custom resources' Kubernetes wants some.
fn is_of_bytes(error: &FieldError) -> bool {
    error.kind == FieldErrorKind::TypeInvalid && error.detail.contains("must be of type byte")
}

/// What is there before an object of a built-in kind is: its struct's structs. Fields that are always there have no owner.
fn nothing(resource: &Resource, schema: &Schema) -> Option<Value> {
    if resource.origin != Origin::BuiltIn {
        return None;
    }
    let structs =
        schema.properties.iter().filter(|(name, property)| *name != "metadata" && !property.properties.is_empty());
    Some(Value::Object(structs.map(|(name, _)| (name.clone(), Value::Object(Map::new()))).collect()))
}

/// Everything that may be wrong with an object.
///
/// # Errors
/// 422 with every problem.
pub(crate) fn validate(write: &Write<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let resource = write.resource;
    let errors = problems(resource, write.subresource, object, old)?;
    if errors.is_empty() {
        if resource.origin != Origin::BuiltIn {
            metadata::validate::finalizer_warnings(object, old).into_iter().for_each(|text| write.warnings.push(text));
        }
        return Ok(());
    }
    // Another view's errors are told as those of the kind that is stored.
    let group = resource.strategy.view_of().map_or(resource.group.as_str(), |(group, _)| group);
    Err(Status::invalid(group, &resource.kind, super::metadata::text(object, "name"), &errors))
}

/// Finalizers of built-in kinds are the server's own or name their owner.
fn foreign_finalizers(object: &Value) -> Vec<FieldError> {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    let named = finalizers.into_iter().flatten().enumerate();
    named
        .filter_map(|(index, finalizer)| Some((index, finalizer.as_str()?)))
        .filter(|(_, finalizer)| !finalizer.contains('/') && !STANDARD.contains(finalizer))
        .map(|(index, finalizer)| {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            FieldError::invalid(format!("metadata.finalizers[{index}]"), finalizer, why)
        })
        .collect()
}

fn problems(
    resource: &Resource,
    subresource: Subresource,
    object: &Value,
    old: Option<&Value>,
) -> Result<Vec<FieldError>, Status> {
    let schema = resource.schema.compiled(resource)?;
    let mut errors = match old {
        None => {
            let scope = if resource.is_namespaced() { Scope::Namespaced } else { Scope::Cluster };
            metadata::validate_create(object, scope, resource.strategy.name_format())
        }
        Some(old) => {
            let mut errors = metadata::validate_update(object, old);
            // Compared before, and not part of the object here.
            errors.retain(|error| error.path != "metadata.resourceVersion");
            errors
        }
    };
    if resource.origin == Origin::BuiltIn && resource.group != "apiextensions.k8s.io" {
        errors.extend(foreign_finalizers(object));
    }
    errors.extend(resource.strategy.validate(object, old));
    errors.extend(super::scale::check(resource, object));
    if schema.schema().has_rules && errors.iter().any(blocks_rules) {
        // Rules are asked only about an object that is otherwise sound, its metadata included.
        errors.extend(unruled(schema.schema(), object, old));
        errors.push(FieldError::new(FieldErrorKind::Invalid, "<nil>", Some(Value::Null), RULES_NOT_CHECKED));
        return Ok(errors);
    }
    errors.extend(match old {
        None => schema.validate_create(object),
        Some(old) if subresource == Subresource::Status => schema.validate_status(object, old),
        Some(old) => schema.validate_update(object, old),
    });
    if resource.origin == Origin::BuiltIn {
        errors.retain(|error| !is_of_bytes(error));
    }
    Ok(errors)
}

const RULES_NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

fn blocks_rules(error: &FieldError) -> bool {
    use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

/// What a schema says of an object, but for its rules.
fn unruled(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = match old {
        None => validate::validate(&Path::Root, object, schema),
        Some(old) => validate::validate_update(&Path::Root, object, old, schema),
    };
    errors.extend(embedded::validate(object, schema));
    errors.extend(listtype::validate(object, schema));
    errors
}

fn manager(write: &Write<'_>, operation: Operation) -> Manager {
    Manager {
        name: write.options.field_manager.clone(),
        operation,
        api_version: write.resource.api_version(),
        subresource: write.subresource.name().to_owned(),
    }
}

/// Fields that this endpoint doesn't write, and so doesn't own.
fn reset_fields(write: &Write<'_>, schema: &Schema) -> FieldSet {
    match write.subresource {
        Subresource::None if write.resource.has_status => FieldSet::of_fields(&[&["status"]]),
        Subresource::Status => {
            let mut paths: Vec<&[&str]> = Vec::new();
            let others: Vec<[&str; 1]> =
                schema.properties.keys().filter(|name| *name != "status").map(|name| [name.as_str()]).collect();
            paths.extend(others.iter().map(<[&str; 1]>::as_slice));
            if write.resource.origin == Origin::BuiltIn {
                paths.retain(|path| *path != ["metadata"]);
            } else {
                paths.push(&["metadata"]);
            }
            FieldSet::of_fields(&paths)
        }
        Subresource::None | Subresource::Scale | Subresource::Finalize | Subresource::Token => FieldSet::default(),
    }
}

/// Records in `new` which fields this write makes its manager's.
///
/// # Errors
/// 500 when the schema itself is broken.
pub(crate) fn own(write: &Write<'_>, live: Option<&Value>, new: &mut Value, now: Timestamp) -> Result<(), Status> {
    let resource = write.resource;
    let schema = resource.schema.compiled(resource)?.schema();
    let manager = manager(write, Operation::Update);
    let reset = reset_fields(write, schema);
    let time = rfc3339(now);
    let request = managed::Write { schema, kind: &resource.kind, manager: &manager, time: &time, reset: &reset };
    let nothing = if live.is_none() { nothing(resource, schema) } else { None };
    // As in kube-apiserver, a write isn't refused because its ownership can't be told.
    if let Err(error) = managed::update(live.or(nothing.as_ref()), new, &request) {
        tracing::debug!(%error, kind = resource.kind, "field owners couldn't be updated");
    }
    Ok(())
}

/// Server-side apply: the whole new object.
///
/// # Errors
/// 400 for a configuration that can't be applied, 409 for conflicts with other managers.
pub(crate) fn apply(write: &Write<'_>, live: Option<&Value>, config: &Value, now: Timestamp) -> Result<Value, Status> {
    let resource = write.resource;
    let schema = resource.schema.compiled(resource)?.schema();
    let manager = manager(write, Operation::Apply);
    let reset = reset_fields(write, schema);
    let time = rfc3339(now);
    let request = managed::Write { schema, kind: &resource.kind, manager: &manager, time: &time, reset: &reset };
    let force = if write.options.force { Force::Yes } else { Force::No };
    match managed::apply(live, config, force, &request) {
        Ok(applied) => Ok(applied.object),
        Err(ApplyError::BadRequest(message)) => Err(Status::bad_request(message)),
        Err(ApplyError::Conflict(conflicts)) => {
            let status = Status::new(http::StatusCode::CONFLICT, "Conflict", conflicts.to_string());
            Err(conflicts.causes().into_iter().fold(status, |status, cause| {
                status.with_cause(Cause {
                    reason: ConflictCause::REASON.to_owned(),
                    message: cause.message,
                    field: cause.field,
                })
            }))
        }
        Err(error @ (ApplyError::Schema(_) | ApplyError::ManagedFields(_))) => {
            Err(Status::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", error.to_string()))
        }
    }
}

/// A JSON, merge or strategic merge patch of an object. Without a resource (a Scale) there is no strategic one.
///
/// # Errors
/// 400 for a malformed patch, 422 for one that doesn't fit, 413 for one that is too long.
pub(crate) fn patch(
    resource: Option<&Resource>,
    current: &Value,
    kind: PatchType,
    bytes: &[u8],
) -> Result<Value, Status> {
    let schema = match resource {
        Some(resource) if kind == PatchType::Strategic => Some(resource.schema.compiled(resource)?.schema()),
        _ => None,
    };
    let kind = match kind {
        PatchType::Json => PatchKind::Json,
        PatchType::Merge => PatchKind::Merge,
        PatchType::Strategic => PatchKind::Strategic,
        PatchType::Apply => return Err(Status::internal("an apply isn't a patch of JSON")),
    };
    patch::apply(kind, bytes, current, schema).map_err(|error| match error {
        PatchError::Malformed(message) => Status::bad_request(message),
        // The detail is more than kube-apiserver says, and goes where a client that parses the message doesn't see it.
        PatchError::Unprocessable { detail } => {
            let message = "the server rejected our request due to an error in our request";
            Status::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_cause(Cause {
                field: "patch".to_owned(),
                message: detail,
                ..Cause::default()
            })
        }
        PatchError::TooLarge(message) => Status::request_entity_too_large(message),
        PatchError::Internal { message, .. } => Status::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", message),
    })
}
