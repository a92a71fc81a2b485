//! Update, the four patches, and edits by the server itself: read, make the new object, write if nothing came between.
//!
//! A write that names a resourceVersion fails when that isn't the present one; any other is made again on the newer object. An
//! object that comes out as it was isn't written, so its resourceVersion stays.

use std::sync::Arc;

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use pullpiri_store::{Change as StoreChange, Expect, Write as StoreWrite};
use serde_json::Value;

use super::create::{PutError, Refused, check_type, drop_status, exists};
use super::decode::Decoded;
use super::model::Unfit;
use super::object::{Object, take_revision};
use super::options::FieldValidation;
use super::{Rest, Write, key, metadata, model, scale, store_errors};
use crate::admission::Operation;
use crate::authz::{self, Attributes, ResourceAttributes};
use crate::http::negotiate::PatchType;
use crate::objects::{Edit, Subresource};
use crate::registry::{Origin, Resource, UpsertOnUpdate};
use crate::status::Status;

/// How often a write may be overtaken before the client has to try itself.
const ATTEMPTS: u32 = 64;

/// How the new object comes about.
pub(crate) enum Change<'a> {
    /// The object as sent; [`Write::take_in`] has seen it.
    Replace(&'a Value),
    /// A JSON, merge or strategic merge patch, and the duplicate fields in it.
    Patch {
        kind: PatchType,
        bytes: &'a [u8],
        problems: &'a [String],
    },
    /// Server-side apply.
    Apply(&'a Decoded),
    Edit(Edit<'a>),
}

/// What a write left behind.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) object: Object,
    pub(crate) created: bool,
}

/// A present object, ready to be compared with.
struct Current {
    revision: u64,
    /// As the resource shows it, with resourceVersion.
    value: Value,
}

impl Rest {
    pub(crate) async fn update(&self, write: &Write<'_>, name: &str, change: &Change<'_>) -> Result<Updated, Status> {
        let resource = write.resource;
        let key = key::of(resource, write.namespace, name);
        let warned = write.warnings.len();
        for _ in 0..ATTEMPTS {
            write.warnings.truncate(warned);
            let (found, _) = self.store(resource).get(&key).await.map_err(|error| store_errors::read(&error))?;
            let Some(found) = found else {
                match self.create_instead(write, name, change).await {
                    Ok(object) => return Ok(Updated { object, created: true }),
                    // Someone created it meanwhile.
                    Err(Refused::Exists(_)) if !write.options.dry_run => continue,
                    Err(Refused::Exists(found)) => return Err(exists(resource, name, found)),
                    Err(Refused::Status(status)) => return Err(status),
                }
            };
            let object = self.show_kv(resource, &found)?;
            let current = Current { revision: object.revision, value: object.into_value()? };
            match self.replace(write, name, &key, current, change).await {
                Ok(object) => return Ok(Updated { object, created: false }),
                Err(PutError::Mismatch(_)) => {}
                Err(PutError::Status(status)) => return Err(status),
            }
        }
        Err(Status::modified(resource.group_resource(), name))
    }

    /// An update of an object that isn't there.
    async fn create_instead(&self, write: &Write<'_>, name: &str, change: &Change<'_>) -> Result<Object, Refused> {
        let resource = write.resource;
        let missing = || Status::not_found(resource.group_resource(), name);
        if write.subresource != Subresource::None {
            return Err(missing().into());
        }
        let mut object = match change {
            Change::Replace(value) if resource.upsert_on_update == UpsertOnUpdate::Create => (*value).clone(),
            Change::Apply(config) => {
                write.report_fields(config.problems.clone())?;
                let object = model::apply(write, None, &config.value, self.now())?;
                self.patched(write, name, object, Vec::new())?
            }
            Change::Replace(_) | Change::Patch { .. } | Change::Edit(_) => return Err(missing().into()),
        };
        let uid = metadata::text(&object, "uid");
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(resource.group_resource(), name, &why).into());
        }
        take_revision(&mut object);
        metadata::wipe_system_fields(metadata::of(&mut object)?);
        drop_status(resource, &mut object);
        if matches!(change, Change::Replace(_)) {
            model::own(write, None, &mut object, self.now())?;
        }
        self.authorize_create(write, name).await?;
        self.insert(write, name, object).await
    }

    /// Who makes an object by an update must be allowed to create it.
    async fn authorize_create(&self, write: &Write<'_>, name: &str) -> Result<(), Status> {
        let resource = ResourceAttributes {
            group: &write.resource.group,
            version: &write.resource.version,
            plural: &write.resource.plural,
            namespace: write.namespace,
            name: Some(name),
            ..ResourceAttributes::default()
        };
        let wish = Attributes { user: write.user, verb: "create", path: "", resource: Some(resource) };
        authz::check(&*self.authorizer, &wish).await
    }

    /// What a patch made of an object, checked like a body. `problems` are the patch's own.
    fn patched(
        &self,
        write: &Write<'_>,
        name: &str,
        mut object: Value,
        problems: Vec<String>,
    ) -> Result<Value, Status> {
        let resource = write.resource;
        check_patched_type(resource, &mut object)?;
        let mut problems = problems;
        let sent = (write.options.field_validation == FieldValidation::Strict).then(|| object.clone());
        match model::coerce(resource, &mut object) {
            Ok(unknown) => problems.extend(unknown),
            Err(unfit) => return Err(unfit.of_patch(&object)),
        }
        model::check_types(resource, &object).map_err(|unfit| unfit.of_patch(&object))?;
        write.report_patch(problems, sent.as_ref().unwrap_or(&object))?;
        resource.strategy.normalize(&mut object);
        metadata::ensure_namespace(metadata::of(&mut object)?, write.namespace)?;
        write.dedupe_owners(&mut object)?;
        check_name(&object, name)?;
        Ok(object)
    }

    /// The new object in full: what the client wants, of the part that it may change.
    fn next(
        &self,
        write: &Write<'_>,
        name: &str,
        current: &Current,
        change: &Change<'_>,
    ) -> Result<Option<Value>, Status> {
        let resource = write.resource;
        let scaled = |change: &dyn Fn(Value) -> Result<Value, Status>| -> Result<Value, Status> {
            scale::replace(resource, &current.value, change(scale::present(resource, &current.value)?)?)
        };
        let wanted = match change {
            Change::Replace(value) if write.subresource == Subresource::Scale => scaled(&|_| Ok((*value).clone()))?,
            Change::Patch { kind, bytes, .. } if write.subresource == Subresource::Scale => {
                scaled(&|view| model::patch(None, &view, *kind, bytes))?
            }
            Change::Replace(value) => (*value).clone(),
            Change::Apply(config) => {
                write.report_fields(config.problems.clone())?;
                let object = model::apply(write, Some(&current.value), &config.value, self.now())?;
                self.patched(write, name, object, Vec::new())?
            }
            Change::Patch { kind, bytes, problems } => {
                let object = model::patch(Some(resource), &current.value, *kind, bytes)?;
                self.patched(write, name, object, problems.to_vec())?
            }
            Change::Edit(edit) => {
                let mut value = current.value.clone();
                if !edit(&mut value) {
                    return Ok(None);
                }
                value
            }
        };
        Ok(Some(wanted))
    }

    async fn replace(
        &self,
        write: &Write<'_>,
        name: &str,
        key: &Arc<str>,
        current: Current,
        change: &Change<'_>,
    ) -> Result<Object, PutError> {
        let resource = write.resource;
        let Some(mut wanted) = self.next(write, name, &current, change)? else {
            return unchanged(current);
        };
        if let Change::Replace(_) = change {
            check_uid(write, name, key, &current, &wanted)?;
        }
        check_version(write, name, &current, &mut wanted)?;
        let Current { revision, value: mut old } = current;
        take_revision(&mut old);
        let mut new = keep_other_parts(write, wanted, &old)?;
        let is_apply = matches!(change, Change::Apply(_));
        if !is_apply {
            model::own(write, Some(&old), &mut new, self.now())?;
        }
        self.settle(write, &mut new, &old)?;
        self.admission.admit(&write.admission(Operation::Update, name), Some(&mut new), Some(&old)).await?;
        model::validate(write, &new, Some(&old))?;
        resource.strategy.warnings(&new).into_iter().for_each(|warning| write.warnings.push(warning));
        let expect = Expect::At(pullpiri_store::Revision(revision));
        if gone(resource, &new, &old) {
            return self.remove_updated(write, key, expect, new).await;
        }
        if metadata::same_but_for_times(&new, &old) {
            return Ok(Object::shown(old, revision)?);
        }
        self.put(write, key, expect, new).await
    }

    /// The fields of an updated object that the server alone decides.
    fn settle(&self, write: &Write<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
        let resource = write.resource;
        let kept = old.get("metadata").and_then(Value::as_object);
        let metadata = metadata::of(new)?;
        // What a client sets of these where there was nothing is left for validation to refuse.
        for field in ["creationTimestamp", "deletionTimestamp"] {
            if let Some(value) = kept.and_then(|kept| kept.get(field)) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        for field in ["uid", "deletionGracePeriodSeconds"] {
            if let Some(value) = kept.and_then(|kept| kept.get(field)) {
                metadata.entry(field).or_insert_with(|| value.clone());
            }
        }
        match kept.and_then(|kept| kept.get("generation")) {
            Some(value) => metadata.insert("generation".to_owned(), value.clone()),
            None => metadata.remove("generation"),
        };
        metadata.remove("selfLink");
        if write.subresource == Subresource::None {
            resource.strategy.prepare_for_update(new, old);
        }
        if resource.counts_generation && write.subresource != Subresource::Status && !same_desire(resource, new, old) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata::of(new)?.insert("generation".to_owned(), generation.saturating_add(1).into());
        }
        Ok(())
    }

    /// The last finalizer went: so does the object. The answer is the object as it would have been.
    async fn remove_updated(
        &self,
        write: &Write<'_>,
        key: &Arc<str>,
        expect: Expect,
        new: Value,
    ) -> Result<Object, PutError> {
        let Expect::At(revision) = expect else {
            return Err(Status::internal("deleting an object without its revision").into());
        };
        if !write.options.dry_run {
            let removal = StoreWrite { key: Arc::clone(key), expect, change: StoreChange::Delete };
            let removed = self.store(write.resource).write(removal).await?;
            self.wrote(write.resource, removed.modified.0);
        }
        Ok(Object::shown(new, revision.0)?)
    }
}

/// Nothing to write: the object as it is.
fn unchanged(current: Current) -> Result<Object, PutError> {
    let Current { revision, mut value } = current;
    take_revision(&mut value);
    Ok(Object::shown(value, revision)?)
}

/// A patch may not make another kind of an object.
fn check_patched_type(resource: &Resource, object: &mut Value) -> Result<(), Status> {
    if resource.origin == Origin::BuiltIn {
        return check_type(resource, object)
            .map_err(|status| Unfit::Decode(status.message().to_owned()).of_patch(object));
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut errors = Vec::new();
    if !resource.is_api_version(&api_version) {
        let expected = format!("must be {}", resource.api_version());
        errors.push(FieldError::invalid("apiVersion", api_version.as_str(), expected));
    }
    if kind != resource.kind {
        errors.push(FieldError::invalid("kind", kind.as_str(), format!("must be {}", resource.kind)));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Err(Status::invalid(group, &kind, metadata::text(object, "name"), &errors))
}

/// `metadata.name` is the name in the path.
pub(crate) fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    let given = metadata::text(object, "name");
    if given == name {
        return Ok(());
    }
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    Err(Status::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")))
}

/// The uid that a sent object has is that of the object it replaces.
fn check_uid(write: &Write<'_>, name: &str, key: &str, current: &Current, wanted: &Value) -> Result<(), Status> {
    let uid = metadata::text(wanted, "uid");
    let actual = metadata::text(&current.value, "uid");
    if uid.is_empty() || uid == actual {
        return Ok(());
    }
    let key = key.strip_prefix("core/").unwrap_or(key);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
         failed: UID in precondition: {uid}, UID in object meta: {actual}"
    );
    Err(Status::conflict(write.resource.group_resource(), name, &why))
}

/// The resourceVersion that the client says it saw is the present one. Removes it.
fn check_version(write: &Write<'_>, name: &str, current: &Current, wanted: &mut Value) -> Result<(), Status> {
    let resource = write.resource;
    let of = resource.group_resource();
    let version = take_revision(wanted).unwrap_or_default();
    if matches!(version.as_str(), "" | "0") {
        // Custom resources must say which version they replace; built-in and virtual ones may do without.
        let required = matches!(resource.origin, Origin::Crd(_)) && write.subresource != Subresource::Scale;
        if required {
            let error = FieldError::new(
                FieldErrorKind::Invalid,
                "metadata.resourceVersion",
                None,
                "0: must be specified for an update",
            );
            return Err(Status::invalid(&resource.group, &resource.plural, name, &[error]));
        }
        return Ok(());
    }
    let seen: u64 = version.parse().map_err(|_| {
        let message = format!("strconv.ParseUint: parsing \"{version}\": invalid syntax");
        Status::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", message)
    })?;
    if seen != current.revision {
        return Err(Status::modified(of, name));
    }
    Ok(())
}

/// Takes from `wanted` what this endpoint may change, and the rest from `old`.
fn keep_other_parts(write: &Write<'_>, mut wanted: Value, old: &Value) -> Result<Value, Status> {
    let resource = write.resource;
    match write.subresource {
        Subresource::None => {
            if resource.has_status
                && let Some(fields) = wanted.as_object_mut()
            {
                match old.get("status") {
                    Some(status) => fields.insert("status".to_owned(), status.clone()),
                    None => fields.remove("status"),
                };
            }
            Ok(wanted)
        }
        Subresource::Scale | Subresource::Token => Ok(wanted),
        Subresource::Status => {
            let mut new = old.clone();
            let metadata = wanted.get_mut("metadata").map(Value::take);
            if let Some(fields) = new.as_object_mut() {
                match wanted.get_mut("status").map(Value::take) {
                    Some(status) => fields.insert("status".to_owned(), status),
                    None => fields.remove("status"),
                };
            }
            keep_metadata(resource, metadata, &mut new)?;
            Ok(new)
        }
        Subresource::Finalize => {
            let mut new = old.clone();
            let finalizers = wanted.pointer_mut("/spec/finalizers").map(Value::take);
            if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                match finalizers {
                    Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                    None => spec.remove("finalizers"),
                };
            }
            Ok(new)
        }
    }
}

/// What a status write may say about metadata: ownership, and for built-in kinds everything else too.
fn keep_metadata(resource: &Resource, wanted: Option<Value>, new: &mut Value) -> Result<(), Status> {
    let Some(Value::Object(mut wanted)) = wanted else { return Ok(()) };
    let metadata = metadata::of(new)?;
    let whole = resource.origin == Origin::BuiltIn && resource.group != "apiextensions.k8s.io";
    if whole {
        *metadata = wanted;
    } else if let Some(managed) = wanted.remove("managedFields") {
        metadata.insert("managedFields".to_owned(), managed);
    }
    Ok(())
}

/// Whether nothing but metadata (and a status that has its own endpoint) differs.
fn same_desire(resource: &Resource, new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let counts = |name: &str| name != "metadata" && !(resource.has_status && name == "status");
    let wanted = |fields: &serde_json::Map<String, Value>| fields.keys().filter(|name| counts(name)).count();
    wanted(new) == wanted(old)
        && new.iter().filter(|(name, _)| counts(name)).all(|(name, value)| old.get(name) == Some(value))
}

/// Whether an update removed the last thing that held a deleted object.
fn gone(resource: &Resource, new: &Value, old: &Value) -> bool {
    let no_grace = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0;
    metadata::is_deleting(old) && no_grace && metadata::finalizers(new).is_empty() && !resource.strategy.holds(new)
}
