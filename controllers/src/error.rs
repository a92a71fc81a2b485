//! What can go wrong between a decision and its execution.

use std::time::Duration;

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
    #[error("package {name}: an instance carries epoch {theirs}, ours is {ours}: another leader is at work")]
    Superseded { name: String, theirs: i64, ours: i64 },
}

impl Error {
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Write { cause: kube::Error::Api(status), .. } => match status.code {
                404 => Class::Gone,
                409 => Class::Conflict,
                // Too many requests, and timeouts.
                408 | 429 => Class::Transient,
                400..=499 => Class::Permanent,
                _ => Class::Transient,
            },
            Self::Write { cause, .. } if is_gate_closed(cause) => Class::Deposed,
            Self::Write { .. } => Class::Transient,
            Self::Encode { .. } | Self::Superseded { .. } => Class::Permanent,
        }
    }

    /// How long the API server asked to wait before the next attempt, if it did.
    #[must_use]
    pub fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Write { cause, .. } => asked_to_wait(cause),
            Self::Encode { .. } | Self::Superseded { .. } => None,
        }
    }

    /// What the API server said, if it was that we mustn't do this at all.
    #[must_use]
    pub fn forbidden(&self) -> Option<&str> {
        match self {
            Self::Write { cause: kube::Error::Api(status), .. }
                if status.code == 403 && status.message.contains("cannot") =>
            {
                Some(&status.message)
            }
            Self::Write { .. } | Self::Encode { .. } | Self::Superseded { .. } => None,
        }
    }

    /// CamelCase.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "WriteFailed",
            Self::Encode { .. } => "EncodingFailed",
            Self::Superseded { .. } => "Superseded",
        }
    }

    /// The error and what caused it, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        match self {
            Self::Write { cause, .. } => format!("{self}: {}", said(cause)),
            Self::Encode { cause, .. } => format!("{self}: {cause}"),
            Self::Superseded { .. } => self.to_string(),
        }
    }
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
