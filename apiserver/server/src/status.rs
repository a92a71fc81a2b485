//! Errors as Kubernetes `Status` objects: the one error type of the server, as the client sees it.
//!
//! Reasons, codes and texts are those of `k8s.io/apimachinery/pkg/api/errors`, because kubectl, client-go and kube-rs decide by
//! reason and people read the message.

use std::fmt;

use http::StatusCode;
use pullpiri_apply::error::{FieldError, aggregate};
use serde::{Deserialize, Serialize};

/// `status.details.causes[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural for most reasons, the kind for Invalid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// What a `Status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub code: StatusCode,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Details>,
    /// `metadata.continue`: where an expired list can go on.
    pub continue_token: Option<String>,
}

/// A failed request. Boxed, because it travels through every `Result`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status(Box<Body>);

/// `group/plural` pairs that name a resource in a message: `scenarios.pullpiri.io`, `configmaps`.
#[derive(Clone, Copy, Debug)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub plural: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

fn details(of: GroupResource<'_>, name: &str) -> Option<Details> {
    Some(Details {
        name: name.to_owned(),
        group: of.group.to_owned(),
        kind: of.plural.to_owned(),
        ..Details::default()
    })
}

impl Status {
    #[must_use]
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Body { code, reason, message: message.into(), details: None, continue_token: None }))
    }

    #[must_use]
    pub fn with_details(mut self, details: Option<Details>) -> Self {
        self.0.details = details;
        self
    }

    #[must_use]
    pub fn map_message(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.0.message = change(&self.0.message);
        self
    }

    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = Some(token);
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    #[must_use]
    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    #[must_use]
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    #[must_use]
    pub fn not_found(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{of} \"{name}\" not found"))
            .with_details(details(of, name))
    }

    #[must_use]
    pub fn already_exists(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "AlreadyExists", format!("{of} \"{name}\" already exists"))
            .with_details(details(of, name))
    }

    #[must_use]
    pub fn conflict(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", format!("Operation cannot be fulfilled on {of} \"{name}\": {why}"))
            .with_details(details(of, name))
    }

    /// The conflict of an outdated resourceVersion.
    #[must_use]
    pub fn modified(of: GroupResource<'_>, name: &str) -> Self {
        Self::conflict(
            of,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    #[must_use]
    pub fn forbidden(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match (of.plural.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{of} is forbidden: {why}"),
            (false, false) => format!("{of} \"{name}\" is forbidden: {why}"),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with_details(details(of, name))
    }

    /// 422 with every field error as a cause. `kind` and `group` name the object's kind.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let kind_name = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.path.clone(),
            })
            .collect();
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{kind_name} \"{name}\" is invalid: {}", aggregate(errors)),
        )
        .with_details(Some(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        }))
    }

    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    #[must_use]
    pub fn method_not_supported(of: GroupResource<'_>, verb: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind \"{of}\""),
        )
        .with_details(details(of, ""))
    }

    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", format!("Internal error occurred: {message}"))
            .with_cause(Cause { message, ..Cause::default() })
    }

    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    #[must_use]
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {message}"))
            .with_retry_after(retry_after_seconds)
    }

    #[must_use]
    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    #[must_use]
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            kind: &'static str,
            api_version: &'static str,
            metadata: serde_json::Map<String, serde_json::Value>,
            status: &'static str,
            message: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            reason: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a Details>,
            code: u16,
        }
        let mut metadata = serde_json::Map::new();
        if let Some(token) = &self.0.continue_token {
            metadata.insert("continue".to_owned(), token.as_str().into());
        }
        Wire {
            kind: "Status",
            api_version: "v1",
            metadata,
            status: "Failure",
            message: &self.0.message,
            reason: self.0.reason,
            details: self.0.details.as_ref(),
            code: self.0.code.as_u16(),
        }
        .serialize(serializer)
    }
}
