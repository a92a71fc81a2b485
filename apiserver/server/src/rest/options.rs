//! What a request asks for besides its object: the options of each verb, from the query or a `DeleteOptions` body, validated.

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use serde_json::Value;

use crate::objects::{DeleteOptions, Propagation};
use crate::rest::query::Query;
use crate::status::Status;

/// `fieldManager` may be this long.
const FIELD_MANAGER_MAX_LENGTH: usize = 128;
const META_GROUP: &str = "meta.k8s.io";

/// `fieldValidation`: what becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// As given, or made from the user agent; never longer than allowed.
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    /// `force` of an apply.
    pub(crate) force: bool,
}

/// Which verb's options are read; names the kind in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteVerb {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteVerb {
    const fn options_kind(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

fn invalid(kind: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(META_GROUP, kind, "", errors)) }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let mut all = false;
    for value in values {
        if value == "All" {
            all = true;
        } else {
            errors.push(FieldError::not_supported("dryRun", vec![Value::from(value)], &["All"]));
        }
    }
    all
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query, verb: WriteVerb, user_agent: &str) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let manager = query.get("fieldManager").unwrap_or_default();
        let force = query.flag("force");
        if verb == WriteVerb::Apply && manager.is_empty() {
            errors.push(FieldError::new(FieldErrorKind::Required, "fieldManager", None, "is required for apply patch"));
        }
        if verb == WriteVerb::Patch && force.is_some() {
            errors.push(FieldError::new(
                FieldErrorKind::Forbidden,
                "force",
                None,
                "may not be specified for non-apply patch",
            ));
        }
        check_manager(manager, &mut errors);
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        invalid(verb.options_kind(), &errors)?;
        let field_manager = if manager.is_empty() { manager_from_user_agent(user_agent) } else { manager.to_owned() };
        Ok(Self { dry_run, field_manager, field_validation, force: force.unwrap_or(false) })
    }
}

fn check_manager(manager: &str, errors: &mut Vec<FieldError>) {
    if manager.len() > FIELD_MANAGER_MAX_LENGTH {
        errors.push(FieldError::too_long("fieldManager", u64::try_from(FIELD_MANAGER_MAX_LENGTH).unwrap_or(u64::MAX)));
    }
    for (position, character) in manager.char_indices().filter(|(_, character)| !is_printable(*character)) {
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            "fieldManager",
            Some(Value::String(manager.to_owned())),
            format!("invalid character U+{:04X} (at position {position})", u32::from(character)),
        ));
    }
}

fn is_printable(character: char) -> bool {
    !character.is_control() && (character == ' ' || !character.is_whitespace())
}

/// What stands before the first `/`, printable, cut to what a manager may be long.
fn manager_from_user_agent(user_agent: &str) -> String {
    let mut manager = String::new();
    for character in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if manager.len() + character.len_utf8() > FIELD_MANAGER_MAX_LENGTH {
            break;
        }
        manager.push(character);
    }
    manager
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) resource_version: String,
    pub(crate) version_match: Option<Match>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: String,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let given = query.get("resourceVersionMatch").unwrap_or_default();
        let mut options = Self {
            label_selector: query.text("labelSelector"),
            field_selector: query.text("fieldSelector"),
            watch: query.flag("watch").unwrap_or(false),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            resource_version: query.text("resourceVersion"),
            version_match: match given {
                "Exact" => Some(Match::Exact),
                "NotOlderThan" => Some(Match::NotOlderThan),
                _ => None,
            },
            timeout_seconds: query
                .integer("timeoutSeconds")
                .map_err(Status::bad_request)?
                .filter(|seconds| *seconds != 0)
                // A time that is over already.
                .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
            limit: query
                .integer("limit")
                .map_err(Status::bad_request)?
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|limit| *limit > 0),
            continue_token: query.text("continue"),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        // A watch from nowhere begins with the present state.
        let legacy = matches!(options.resource_version.as_str(), "" | "0");
        if options.watch && legacy && options.send_initial_events.is_none() && given.is_empty() {
            options.send_initial_events = Some(true);
            options.version_match = Some(Match::NotOlderThan);
        } else if options.watch {
            options.check_watch(given, &mut errors);
        } else {
            options.check_list(given, &mut errors);
        }
        invalid("ListOptions", &errors)?;
        Ok(options)
    }

    fn check_list(&self, given: &str, errors: &mut Vec<FieldError>) {
        let path = "resourceVersionMatch";
        let mut forbid = |path: &str, why: &str| {
            errors.push(FieldError::new(FieldErrorKind::Forbidden, path, None, why));
        };
        if !given.is_empty() {
            if self.resource_version.is_empty() {
                forbid(path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid(path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.version_match == Some(Match::Exact) && self.resource_version == "0" {
                forbid(path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !given.is_empty() && self.version_match.is_none() {
            errors.push(FieldError::not_supported(path, given, &["Exact", "NotOlderThan", ""]));
        }
    }

    fn check_watch(&self, given: &str, errors: &mut Vec<FieldError>) {
        let path = "resourceVersionMatch";
        let mut forbid = |why: &str| errors.push(FieldError::new(FieldErrorKind::Forbidden, path, None, why));
        if self.send_initial_events.is_some() && self.version_match != Some(Match::NotOlderThan) {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if given.is_empty() {
            return;
        }
        if self.send_initial_events.is_none() {
            forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if !self.continue_token.is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if self.version_match != Some(Match::NotOlderThan) {
            errors.push(FieldError::not_supported(path, given, &["NotOlderThan"]));
        }
    }
}

/// A delete's options, from its body if there is one, else from the query.
pub(crate) fn delete_options(query: &Query, body: Option<&Value>) -> Result<DeleteOptions, Status> {
    let mut errors = Vec::new();
    if let Some(body) = body {
        check_types(body)?;
    }
    let text = |name: &str| match body {
        Some(body) => body.get(name).and_then(Value::as_str).map(str::to_owned),
        None => query.get(name).map(str::to_owned),
    };
    let policy = text("propagationPolicy").filter(|policy| !policy.is_empty());
    let (orphan, grace, dry_run) = match body {
        Some(body) => {
            let values = body.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
            (body.get("orphanDependents").and_then(Value::as_bool), grace, dry_run(values, &mut errors))
        }
        None => {
            let grace = query.integer("gracePeriodSeconds").map_err(Status::bad_request)?;
            (query.flag("orphanDependents"), grace, dry_run(query.all("dryRun"), &mut errors))
        }
    };
    if let (Some(policy), Some(_)) = (&policy, orphan) {
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            "propagationPolicy",
            Some(Value::String(policy.clone())),
            "orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    let propagation = match policy.as_deref() {
        None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            errors.push(FieldError::not_supported(
                "propagationPolicy",
                other,
                &["Foreground", "Background", "Orphan", "nil"],
            ));
            None
        }
    };
    invalid("DeleteOptions", &errors)?;
    let precondition = |name: &str| {
        let value = body?.get("preconditions")?.get(name)?.as_str()?;
        Some(value.to_owned())
    };
    Ok(DeleteOptions {
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        propagation,
        accepted_when_pending: orphan == Some(false),
        grace_period_seconds: grace,
        dry_run,
    })
}

type Fits = fn(&Value) -> bool;

/// Refuses fields of a `DeleteOptions` body that are of other types, in the words of Go's decoder.
fn check_types(body: &Value) -> Result<(), Status> {
    let expected: [(&str, &str, Fits); 5] = [
        ("gracePeriodSeconds", "int64", Value::is_i64),
        ("orphanDependents", "bool", Value::is_boolean),
        ("propagationPolicy", "v1.DeletionPropagation", Value::is_string),
        ("dryRun", "[]string", Value::is_array),
        ("preconditions", "v1.Preconditions", Value::is_object),
    ];
    for (field, kind, fits) in expected {
        let Some(value) = body.get(field).filter(|value| !value.is_null() && !fits(value)) else { continue };
        let given = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {given} into Go struct field DeleteOptions.{field} of type {kind}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(query: &str, verb: WriteVerb) -> Result<WriteOptions, Status> {
        WriteOptions::parse(&Query::parse(Some(query)), verb, "kubectl-client-side-apply/v1.33 (linux)")
    }

    #[test]
    fn write_options() {
        let options = write("dryRun=All&fieldValidation=Strict", WriteVerb::Create).unwrap();
        assert!(options.dry_run);
        assert_eq!(options.field_validation, FieldValidation::Strict);
        assert_eq!(options.field_manager, "kubectl-client-side-apply");
        let cases = [
            (
                "dryRun=Some",
                WriteVerb::Create,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            (
                "",
                WriteVerb::Apply,
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            (
                "force=true",
                WriteVerb::Patch,
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ),
        ];
        for (query, verb, message) in cases {
            let status = write(query, verb).unwrap_err();
            assert_eq!((status.code().as_u16(), status.message()), (422, message));
        }
        let long = format!("fieldManager={}", "x".repeat(129));
        assert_eq!(
            write(&long, WriteVerb::Update).unwrap_err().message(),
            "UpdateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes"
        );
    }

    #[test]
    fn a_watch_from_nowhere_starts_with_the_present() {
        let list = |query: &str| ListOptions::parse(&Query::parse(Some(query)));
        assert_eq!(list("watch=true").unwrap().send_initial_events, Some(true));
        assert_eq!(list("watch=true&resourceVersion=5").unwrap().send_initial_events, None);
        assert!(
            list("watch=1&sendInitialEvents=true")
                .unwrap_err()
                .message()
                .contains("requires setting resourceVersionMatch")
        );
        assert!(
            list("resourceVersionMatch=Exact").unwrap_err().message().contains("unless resourceVersion is provided")
        );
    }

    #[test]
    fn delete_options_from_body_or_query() {
        let none = Query::default();
        let body = json!({"preconditions": {"uid": "u"}, "propagationPolicy": "Foreground", "dryRun": ["All"]});
        let options = delete_options(&none, Some(&body)).unwrap();
        assert_eq!(
            (options.uid.as_deref(), options.propagation, options.dry_run),
            (Some("u"), Some(Propagation::Foreground), true)
        );
        let query = Query::parse(Some("propagationPolicy=Sideways"));
        assert_eq!(
            delete_options(&query, None).unwrap_err().message(),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \
             \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        );
    }
}
