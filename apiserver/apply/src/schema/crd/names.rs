//! `spec.names` and `status.acceptedNames`.

use serde_json::Value;

use crate::error::{FieldError, Path};
use crate::metadata::name;
use crate::schema::structural::{list, text};

pub(super) fn check_required(names: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(names, key).is_empty() {
            errors.push(FieldError::required(path.child(key), ""));
        }
    }
}

pub(super) fn check(names: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut label = |path: Path<'_>, given: &str| {
        let complaints = name::dns_1035_label(given);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(path, given, complaints.join(",")));
        }
    };
    for key in ["plural", "singular"] {
        let given = text(names, key);
        if !given.is_empty() {
            label(path.child(key), given);
        }
    }
    for key in ["kind", "listKind"] {
        let given = text(names, key);
        let complaints = name::dns_1035_label(&given.to_lowercase());
        if !given.is_empty() && !complaints.is_empty() {
            let complaints = complaints.join(",");
            let detail = format!("may have mixed case, but should otherwise match: {complaints}");
            errors.push(FieldError::invalid(path.child(key), given, detail));
        }
    }
    check_list(names, "shortNames", path, errors);
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(path.child("listKind"), list_kind, detail));
    }
    check_list(names, "categories", path, errors);
}

fn check_list(names: &Value, key: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let place = path.child(key);
    for (i, given) in list(names, key).iter().enumerate() {
        let given = given.as_str().unwrap_or_default();
        let complaints = name::dns_1035_label(given);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(place.index(i), given, complaints.join(",")));
        }
    }
}
