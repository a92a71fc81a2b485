//! Create, and what all writes share: taking in a body, admitting, validating, storing.

use std::sync::Arc;

use http::StatusCode;
use pullpiri_apply::error::FieldError;
use pullpiri_apply::schema::strict;
use pullpiri_store::{Change, Expect, KeyValue, Write as StoreWrite, WriteError};
use serde_json::Value;

use super::decode::Decoded;
use super::object::{Object, encode, take_revision};
use super::options::FieldValidation;
use super::{Rest, Write, key, metadata, model, store_errors};
use crate::admission::{Attributes, Operation};
use crate::registry::{Origin, Resource};
use crate::status::Status;

/// How often a generated name may be taken already.
const GENERATE_ATTEMPTS: u32 = 8;
/// Objects above this are refused, as etcd's default request limit does.
const MAX_OBJECT_BYTES: usize = 1_572_864;

impl Write<'_> {
    pub(crate) fn admission<'a>(&'a self, operation: Operation, name: &'a str) -> Attributes<'a> {
        Attributes {
            operation,
            resource: self.resource,
            subresource: self.subresource.name(),
            namespace: self.namespace,
            name,
            user: self.user,
            dry_run: self.options.dry_run,
            warnings: Some(self.warnings),
        }
    }

    /// What `fieldValidation` makes of unknown and duplicate fields.
    ///
    /// # Errors
    /// 400 when they are to be refused.
    pub(crate) fn report_fields(&self, problems: Vec<String>) -> Result<(), Status> {
        if problems.is_empty() {
            return Ok(());
        }
        match self.options.field_validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                problems.into_iter().for_each(|problem| self.warnings.push(problem));
                Ok(())
            }
            FieldValidation::Strict => {
                let kind = &self.resource.kind;
                Err(Status::bad_request(format!(
                    "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
                    self.resource.version,
                    problems.join(", ")
                )))
            }
        }
    }

    /// What `fieldValidation` makes of unknown and duplicate fields of a patch, or of what it made of the object.
    ///
    /// # Errors
    /// 422 when they are to be refused.
    pub(crate) fn report_patch(&self, problems: Vec<String>, patched: &Value) -> Result<(), Status> {
        if problems.is_empty() || self.options.field_validation != FieldValidation::Strict {
            return self.report_fields(problems);
        }
        let detail = strict::decoding_error(&problems);
        Err(Status::invalid("", "", "", &[FieldError::invalid("patch", patched.to_string(), detail)]))
    }

    /// A body as an object of this resource: right version and kind, known fields only, defaults filled in.
    ///
    /// # Errors
    /// 400 for another kind, for fields that can't be what they are, and with `fieldValidation=Strict` for unknown ones.
    pub(crate) fn take_in(&self, decoded: Decoded) -> Result<Value, Status> {
        let Decoded { mut value, mut problems } = decoded;
        check_type(self.resource, &mut value)?;
        let metadata = metadata::of(&mut value)?;
        metadata::ensure_namespace(metadata, self.namespace)?;
        problems.extend(model::coerce(self.resource, &mut value).map_err(|unfit| unfit.of_body(self.resource))?);
        model::check_types(self.resource, &value).map_err(|unfit| unfit.of_body(self.resource))?;
        self.report_fields(problems)?;
        self.dedupe_owners(&mut value)?;
        self.resource.strategy.normalize(&mut value);
        Ok(value)
    }

    pub(crate) fn dedupe_owners(&self, object: &mut Value) -> Result<(), Status> {
        let duplicates = metadata::dedupe_owner_references(metadata::of(object)?);
        if !duplicates.is_empty() {
            self.warnings.push(metadata::duplicate_owners_warning(&duplicates));
        }
        Ok(())
    }
}

fn metadata_name(fields: &serde_json::Map<String, Value>) -> &str {
    fields.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str).unwrap_or_default()
}

/// The beginning of a body, for an error message.
pub(crate) fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let start = &body[..body.len().min(SHOWN)];
    let shown = if body.is_empty() {
        return "<empty>".to_owned();
    } else if body.first() == Some(&b'{') {
        String::from_utf8_lossy(start).into_owned()
    } else {
        start.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if body.len() > SHOWN { format!("{shown} ...") } else { shown }
}

/// The object says what it is; a built-in kind may leave it out.
pub(crate) fn check_type(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    if resource.origin == Origin::BuiltIn && value.is_null() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): expected a JSON object",
            resource.kind
        )));
    };
    let mut given = [String::new(), String::new()];
    for (slot, name) in given.iter_mut().zip(["apiVersion", "kind"]) {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => slot.clone_from(text),
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "{} in version \"{}\" cannot be handled as a {}: {name} must be a string, got {other}",
                    resource.kind, resource.version, resource.kind
                )));
            }
        }
    }
    let [api_version, kind] = given;
    let is_built_in = resource.origin == Origin::BuiltIn;
    if kind.is_empty() && !is_built_in {
        let shown = serde_json::to_string(fields).unwrap_or_default();
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{shown}' ({})",
            resource.kind,
            summary(shown.as_bytes())
        )));
    }
    if is_built_in && !api_version.is_empty() && !resource.is_api_version(&api_version) {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \"{api_version}\"",
            resource.kind
        )));
    }
    let may_be_left_out = is_built_in && api_version.is_empty();
    if !may_be_left_out && !resource.is_api_version(&api_version) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version()
        )));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(if is_built_in {
            Status::bad_request(format!(
                "{kind} in version \"{}\" cannot be handled as a {}: the object's kind is {kind}, expected {}",
                resource.version, resource.kind, resource.kind
            ))
        } else {
            let error = FieldError::invalid("kind", kind.as_str(), format!("must be {}", resource.kind));
            Status::invalid(&resource.group, &kind, metadata_name(fields), &[error])
        });
    }
    fields.insert("apiVersion".to_owned(), resource.api_version().into());
    fields.insert("kind".to_owned(), resource.kind.as_str().into());
    Ok(())
}

/// Why an object couldn't be inserted.
#[derive(Debug)]
pub(crate) enum Refused {
    /// With what is there.
    Exists(Option<KeyValue>),
    Status(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Rest {
    /// Creates an object that [`Write::take_in`] has seen.
    pub(crate) async fn create(&self, write: &Write<'_>, mut object: Value) -> Result<Object, Status> {
        if take_revision(&mut object).is_some_and(|version| !version.is_empty() && version != "0") {
            return Err(Status::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        metadata::wipe_system_fields(metadata::of(&mut object)?);
        drop_status(write.resource, &mut object);
        model::own(write, None, &mut object, self.now())?;
        let base = metadata::text(&object, "generateName").to_owned();
        let generate = metadata::text(&object, "name").is_empty() && !base.is_empty();
        let of = write.resource.group_resource();
        let mut attempt = 1;
        loop {
            let retry = generate && attempt < GENERATE_ATTEMPTS;
            let mut candidate = if retry { object.clone() } else { std::mem::take(&mut object) };
            if generate {
                metadata::of(&mut candidate)?.insert("name".to_owned(), metadata::generate_name(&base).into());
            }
            let name = metadata::text(&candidate, "name").to_owned();
            let warned = write.warnings.len();
            match self.insert(write, &name, candidate).await {
                Ok(object) => return Ok(object),
                Err(Refused::Status(status)) => return Err(status),
                Err(Refused::Exists(_)) if retry => write.warnings.truncate(warned),
                Err(Refused::Exists(_)) if generate => {
                    let why = "the server was not able to generate a unique name for the object";
                    return Err(Status::already_exists(of, &name)
                        .map_message(|text| format!("{text}, {why}"))
                        .with_retry_after(1));
                }
                Err(Refused::Exists(found)) => return Err(exists(write.resource, &name, found)),
            }
            attempt += 1;
        }
    }

    /// Fills in what the server decides, admits, validates and stores a new object whose fields have their owners.
    pub(crate) async fn insert(&self, write: &Write<'_>, name: &str, mut object: Value) -> Result<Object, Refused> {
        let resource = write.resource;
        if resource.terminating {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::forbidden(resource.group_resource(), name, why).into());
        }
        metadata::fill_system_fields(metadata::of(&mut object)?, self.now());
        self.admission.admit(&write.admission(Operation::Create, name), Some(&mut object), None).await?;
        resource.strategy.prepare_for_create(&mut object);
        if resource.counts_generation {
            metadata::of(&mut object)?.insert("generation".to_owned(), 1.into());
        }
        model::validate(write, &object, None)?;
        resource.strategy.warnings(&object).into_iter().for_each(|warning| write.warnings.push(warning));
        let _charges = self.admission.charge(&write.admission(Operation::Create, name)).await?;
        self.put(write, &key::of(resource, write.namespace, name), Expect::Absent, object).await.map_err(|error| {
            match error {
                PutError::Mismatch(found) => Refused::Exists(found),
                PutError::Status(status) => Refused::Status(status),
            }
        })
    }

    /// Stores an object (or only says what would be stored).
    pub(crate) async fn put(
        &self,
        write: &Write<'_>,
        key: &Arc<str>,
        expect: Expect,
        object: Value,
    ) -> Result<Object, PutError> {
        let resource = write.resource;
        let stored = if resource.strategy.view_of().is_some() {
            let mut stored = object.clone();
            resource.strategy.to_stored(&mut stored);
            stored
        } else {
            Value::Null
        };
        let is_view = !stored.is_null();
        let raw = encode(if is_view { &stored } else { &object })?;
        if raw.len() > MAX_OBJECT_BYTES {
            return Err(Status::request_entity_too_large(format_args!(
                "the object takes {} bytes in the storage, the limit is {MAX_OBJECT_BYTES}",
                raw.len()
            ))
            .into());
        }
        let store = self.store(resource);
        if write.options.dry_run {
            let (found, _) = store.get(key).await.map_err(|error| store_errors::read(&error))?;
            let holds = match (expect, &found) {
                (Expect::Any, _) | (Expect::Absent, None) => true,
                (Expect::At(revision), Some(found)) => found.modified == revision,
                (Expect::Absent, Some(_)) | (Expect::At(_), None) => false,
            };
            if !holds {
                return Err(PutError::Mismatch(found));
            }
            return Ok(Object::written(object, raw, found.map_or(0, |found| found.modified.0)));
        }
        let written = store
            .write(StoreWrite { key: Arc::clone(key), expect, change: Change::Put(raw.clone()) })
            .await
            .map_err(PutError::from)?;
        let revision = written.modified.0;
        self.wrote(resource, revision);
        if is_view { Ok(Object::shown(object, revision)?) } else { Ok(Object::written(object, raw, revision)) }
    }
}

/// Why an object couldn't be stored.
#[derive(Debug)]
pub(crate) enum PutError {
    /// Someone else was faster; with what is there now.
    Mismatch(Option<KeyValue>),
    Status(Status),
}

impl From<Status> for PutError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<WriteError> for PutError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Mismatch { current, .. } => Self::Mismatch(current),
            other => Self::Status(store_errors::write(&other)),
        }
    }
}

/// A new object has no status where that is a subresource.
pub(crate) fn drop_status(resource: &Resource, object: &mut Value) {
    if resource.has_status
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
}

/// 409 for a name that is taken.
pub(crate) fn exists(resource: &Resource, name: &str, found: Option<KeyValue>) -> Status {
    let status = Status::already_exists(resource.group_resource(), name);
    let deleting = found.is_some_and(|found| Object::stored(&found).value().is_ok_and(metadata::is_deleting));
    if deleting { status.map_message(|text| format!("object is being deleted: {text}")) } else { status }
}
