//! `spec.versions`: names, storage, and what stands in a version or, when all versions share it, at the top.

use serde_json::{Map, Value};

use super::{Rules, Shared, openapi};
use crate::error::{FieldError, FieldErrorKind, Path, print};
use crate::metadata::name;
use crate::schema::cel::{ArrayNotation, parse_field_path_with};
use crate::schema::structural::{self, flag, get, list, text};
use crate::schema::{Schema, Type};

/// At most this many fields per version can be selected by.
const MAX_SELECTABLE_FIELDS: u64 = 8;

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";

/// v1 wants a schema in every version.
pub(super) fn check_schemas_are_there(
    shared: &Shared<'_>,
    versions: &[Value],
    rules: &Rules,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if shared.schema.is_some_and(|s| get(s, "openAPIV3Schema").is_some()) {
        return;
    }
    let below = path.child("versions");
    for (i, version) in versions.iter().enumerate() {
        let own = get(version, "schema").filter(|_| !shared.same_schema);
        if own.is_some_and(|s| get(s, "openAPIV3Schema").is_some()) {
            continue;
        }
        let place = below.index(i);
        let place = place.child("schema");
        let place = place.child("openAPIV3Schema");
        if rules.schema_required {
            errors.push(FieldError::required(place, ""));
        } else if flag(version, "served") {
            errors.push(FieldError::required(place, "because otherwise all fields are pruned"));
        }
    }
}

/// What stands in single versions.
pub(super) fn check_versions(
    shared: &Shared<'_>,
    versions: &[Value],
    rules: &Rules,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let below = path.child("versions");
    for (i, version) in versions.iter().enumerate() {
        let place = &below.index(i);
        let given = text(version, "name");
        let complaints = name::dns_1035_label(given);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(place.child("name"), given, complaints.join(",")));
        }
        check_deprecation(version, place, errors);
        let schema = get(version, "schema");
        if let Some(schema) = schema.filter(|_| !shared.same_schema) {
            // Of versions of one name the first counts.
            let first = versions.iter().find(|v| text(v, "name") == given).unwrap_or(version);
            let subresources = get(first, "subresources");
            let status = has_status(subresources);
            errors.extend(openapi::validate(schema, status, rules, rules.costs(given), &place.child("schema")));
        }
        if let Some(subresources) = get(version, "subresources").filter(|_| !shared.same_subresources) {
            check_subresources(subresources, &place.child("subresources"), errors);
        }
        if !shared.same_columns {
            check_columns(list(version, "additionalPrinterColumns"), place, errors);
        }
        let selectable = list(version, "selectableFields");
        if !selectable.is_empty() && !shared.same_selectable {
            let own = schema.filter(|_| !shared.same_schema).and_then(|s| get(s, "openAPIV3Schema"));
            match own {
                Some(schema) => check_selectable(selectable, schema, place, errors),
                // As Kubernetes says it.
                None => errors.push(FieldError::invalid(
                    place.child("selectableFields"),
                    "",
                    "may only be set when `version.schema.openAPIV3Schema` is not included",
                )),
            }
        }
    }
}

fn check_deprecation(version: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(warning) = get(version, "deprecationWarning").and_then(Value::as_str) else { return };
    let place = &path.child("deprecationWarning");
    let mut add = |detail: String| errors.push(FieldError::invalid(place, warning, detail));
    if !flag(version, "deprecated") {
        add("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > 256 {
        add("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        add("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| !print::printable(*c)) {
        add(format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
}

/// The list of versions in an error, in the form and the order of Kubernetes' internal type.
fn shown_versions(shared: &Shared<'_>, versions: &[Value]) -> String {
    let shown = |version: &Value| {
        let own = |key: &str, same: bool| print::json(get(version, key).filter(|_| !same).unwrap_or(&Value::Null));
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\
             \"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            print::json(&Value::from(text(version, "name"))),
            flag(version, "served"),
            flag(version, "storage"),
            flag(version, "deprecated"),
            own("deprecationWarning", false),
            own("schema", shared.same_schema),
            own("subresources", shared.same_subresources),
            own("additionalPrinterColumns", shared.same_columns),
            own("selectableFields", shared.same_selectable),
        )
    };
    let shown: Vec<String> = versions.iter().map(shown).collect();
    format!("[{}]", shown.join(","))
}

pub(super) fn check_uniqueness(shared: &Shared<'_>, versions: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let place = &path.child("versions");
    let repeats =
        versions.iter().enumerate().any(|(i, v)| versions[..i].iter().any(|w| text(w, "name") == text(v, "name")));
    let mut add = |detail: &str| {
        // The value is part of the detail, since its fields have an order.
        let detail = format!("{}: {detail}", shown_versions(shared, versions));
        errors.push(FieldError::new(FieldErrorKind::Invalid, place.to_string(), None, detail));
    };
    if repeats {
        add("must contain unique version names");
    }
    if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
        add("must have exactly one version marked as storage version");
    }
    let first = versions.first().map(|v| text(v, "name")).unwrap_or_default();
    let complaints = name::dns_1035_label(first);
    if !first.is_empty() && !complaints.is_empty() {
        errors.push(FieldError::invalid(path.child("version"), first, complaints.join(",")));
    }
}

/// What stands at the top because all versions have it.
pub(super) fn check_shared(
    shared: &Shared<'_>,
    versions: &[Value],
    rules: &Rules,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(schema) = shared.schema {
        let status = versions.iter().any(|v| has_status(get(v, "subresources")));
        let costs = rules.costs(versions.first().map(|v| text(v, "name")).unwrap_or_default());
        errors.extend(openapi::validate(schema, status, rules, costs, &path.child("validation")));
    }
    if let Some(subresources) = shared.subresources {
        check_subresources(subresources, &path.child("subresources"), errors);
    }
    if let Some(columns) = shared.columns.and_then(Value::as_array) {
        check_columns(columns, path, errors);
    }
    if let Some(selectable) = shared.selectable.and_then(Value::as_array).filter(|s| !s.is_empty()) {
        let place = &path.child("selectableFields");
        match shared.schema {
            Some(schema) => {
                let nothing = Value::Object(Map::new());
                let schema = get(schema, "openAPIV3Schema").unwrap_or(&nothing);
                check_selectable(selectable, schema, path, errors);
            }
            None => {
                let detail = "may only be set when validations.schema is included";
                errors.push(FieldError::invalid(place, "", detail));
            }
        }
    }
}

fn has_status(subresources: Option<&Value>) -> bool {
    subresources.is_some_and(|s| get(s, "status").is_some())
}

fn check_columns(columns: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let below = path.child("additionalPrinterColumns");
    for (i, column) in columns.iter().enumerate() {
        let place = &below.index(i);
        if text(column, "name").is_empty() {
            errors.push(FieldError::required(place.child("name"), ""));
        }
        let must = |list: &str| format!("must be one of {list}");
        match text(column, "type") {
            "" => errors.push(FieldError::required(place.child("type"), must(COLUMN_TYPES))),
            kind if COLUMN_TYPES.split(',').any(|known| known == kind) => {}
            kind => errors.push(FieldError::invalid(place.child("type"), kind, must(COLUMN_TYPES))),
        }
        let form = text(column, "format");
        if !form.is_empty() && !COLUMN_FORMATS.split(',').any(|known| known == form) {
            errors.push(FieldError::invalid(place.child("format"), form, must(COLUMN_FORMATS)));
        }
        match text(column, "jsonPath") {
            "" => errors.push(FieldError::required(place.child("JSONPath"), "")),
            given => errors.extend(check_simple_path(given, &place.child("JSONPath"))),
        }
    }
}

fn check_simple_path(given: &str, path: &Path<'_>) -> Option<FieldError> {
    (!given.starts_with('.')).then(|| FieldError::invalid(path, given, "must be a simple json path starting with ."))
}

fn check_subresources(subresources: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(scale) = get(subresources, "scale") else { return };
    let required = [
        ("specReplicasPath", "scale.specReplicasPath", ".spec.", "should be a json path under .spec"),
        ("statusReplicasPath", "scale.statusReplicasPath", ".status.", "should be a json path under .status"),
    ];
    for (key, shown, prefix, detail) in required {
        let place = &path.child(shown);
        match text(scale, key) {
            "" => errors.push(FieldError::required(place, "")),
            given => match check_simple_path(given, place) {
                Some(error) => errors.push(error),
                None if given.starts_with(prefix) => {}
                None => errors.push(FieldError::invalid(place, given, detail)),
            },
        }
    }
    let given = text(scale, "labelSelectorPath");
    if !given.is_empty() {
        let place = &path.child("scale.labelSelectorPath");
        match check_simple_path(given, place) {
            Some(error) => errors.push(error),
            None if given.starts_with(".spec.") || given.starts_with(".status.") => {}
            None => {
                let detail = "should be a json path under either .spec or .status";
                errors.push(FieldError::invalid(place, given, detail));
            }
        }
    }
}

/// `top` is where the schema stands: the spec or a version.
fn check_selectable(fields: &[Value], schema: &Value, top: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &top.child("selectableFields");
    if let Some(why) = structural::unsupported(schema) {
        errors.push(FieldError::invalid(top.child("schema.openAPIV3Schema"), "", why));
    }
    // A schema that doesn't parse has its own errors.
    let schema = Schema::parse(schema).unwrap_or_default();
    let mut seen: Vec<String> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let place = path.index(i);
        let place = &place.child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(place, ""));
            continue;
        }
        let (shown, found) = match parse_field_path_with(given, &schema, ArrayNotation::Forbidden) {
            Ok(found) => found,
            Err(error) => {
                errors.push(FieldError::invalid(place, given, format!("is an invalid path: {error}")));
                continue;
            }
        };
        if shown == "metadata" || shown.starts_with("metadata.") {
            errors.push(FieldError::invalid(place, given, "must not point to fields in metadata"));
        }
        if !matches!(found.kind, Some(Type::String | Type::Boolean | Type::Integer)) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
                          are allowed.";
            errors.push(FieldError::invalid(place, given, detail));
        }
        if seen.contains(&shown) {
            errors.push(FieldError::duplicate(place, given));
        } else {
            seen.push(shown);
        }
    }
    let count = u64::try_from(seen.len()).unwrap_or(u64::MAX);
    if count > MAX_SELECTABLE_FIELDS {
        errors.push(FieldError::too_many(path, count, MAX_SELECTABLE_FIELDS));
    }
}
