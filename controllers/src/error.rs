//! What can go wrong between a decision and its execution.

use std::time::Duration;

use kube::core::Status;
use thiserror::Error;

use crate::lead::{asked_to_wait, is_gate_closed};

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass: try again later.
    Transient,
    /// Somebody else wrote first: look again and decide anew.
    Conflict,
    /// The API server refuses it, and will again: a person has to act.
    Permanent,
    /// The object is gone: nothing to do.
    Gone,
    /// Another process leads, or nobody knows: nothing may be written.
    Deposed,
    /// The fault is ours.
    Bug,
}

/// A write that failed.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{verb} {kind} {name}")]
    Write {
        verb: &'static str,
        kind: String,
        name: String,
        #[source]
        cause: kube::Error,
    },
    #[error("encoding {kind} {name} for the API server")]
    Encode {
        kind: String,
        name: String,
        #[source]
        cause: serde_json::Error,
    },
    #[error("a bug: deciding on {name} panicked: {said}")]
    Panicked { name: String, said: String },
    #[error("package {name}: an instance carries epoch {theirs}, ours is {ours}: another leader is at work")]
    Superseded { name: String, theirs: i64, ours: i64 },
}

impl Error {
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Write { cause: kube::Error::Api(status), .. } => match status.code {
                404 if names_an_object(status) => Class::Gone,
                // The kind isn't served at the moment.
                404 => Class::Transient,
                409 => Class::Conflict,
                // Too many requests, and timeouts.
                408 | 429 => Class::Transient,
                400..=499 => Class::Permanent,
                _ => Class::Transient,
            },
            Self::Write { cause, .. } if is_gate_closed(cause) => Class::Deposed,
            Self::Write { .. } => Class::Transient,
            Self::Encode { .. } | Self::Superseded { .. } => Class::Permanent,
            Self::Panicked { .. } => Class::Bug,
        }
    }

    /// How long the API server asked to wait before the next attempt, if it did.
    #[must_use]
    pub fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Write { cause, .. } => asked_to_wait(cause),
            Self::Encode { .. } | Self::Superseded { .. } | Self::Panicked { .. } => None,
        }
    }

    /// What the API server said, if it was that we mustn't do this at all.
    #[must_use]
    pub fn forbidden(&self) -> Option<&str> {
        match self {
            Self::Write { cause: kube::Error::Api(status), .. }
                if status.code == 403 && is_of_the_authorizer(&status.message) =>
            {
                Some(&status.message)
            }
            Self::Write { .. } | Self::Encode { .. } | Self::Superseded { .. } | Self::Panicked { .. } => None,
        }
    }

    /// CamelCase.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "WriteFailed",
            Self::Encode { .. } => "EncodingFailed",
            Self::Superseded { .. } => "Superseded",
            Self::Panicked { .. } => "Panicked",
        }
    }

    /// The error and what caused it, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        match self {
            Self::Write { cause, .. } => format!("{self}: {}", said(cause)),
            Self::Encode { cause, .. } => format!("{self}: {cause}"),
            Self::Superseded { .. } | Self::Panicked { .. } => self.to_string(),
        }
    }
}

/// Whether a 404 is about an object, or the namespace it should be in; of a path that isn't served no name is told.
fn names_an_object(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// Whether a 403 says that somebody lacks a permission; admission refuses with the same code, and means that one object.
fn is_of_the_authorizer(message: &str) -> bool {
    message.contains("\" cannot ") && message.contains(" resource \"")
}

/// What a client's error comes down to: the server's message, or the chain of causes without repetition.
pub(crate) fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answered(code: u16, message: &str, details: &Value) -> Error {
        let status = json!({"status": "Failure", "message": message, "code": code, "details": details});
        let cause = kube::Error::Api(serde_json::from_value(status).unwrap());
        Error::Write { verb: "apply", kind: "ModelInstance".to_owned(), name: "ns/a".to_owned(), cause }
    }

    #[test]
    fn an_object_is_gone_only_if_the_answer_names_it() {
        let gone = answered(404, "namespaces \"ns\" not found", &json!({"name": "ns", "kind": "namespaces"}));
        assert_eq!(gone.class(), Class::Gone);
        for details in [json!(null), json!({})] {
            let not_served = answered(404, "the server could not find the requested resource", &details);
            assert_eq!(not_served.class(), Class::Transient);
        }
    }

    #[test]
    fn a_permission_is_what_the_authorizer_says() {
        let rbac = "claims.pullpiri.io \"a\" is forbidden: User \"system:pullpiri:controllers\" cannot patch resource \"claims\" in API group \"pullpiri.io\"";
        assert_eq!(answered(403, rbac, &json!({})).forbidden(), Some(rbac));
        let webhook = "admission webhook \"w.example\" denied the request: images of that registry cannot be used";
        assert_eq!(answered(403, webhook, &json!({})).forbidden(), None);
    }
}
