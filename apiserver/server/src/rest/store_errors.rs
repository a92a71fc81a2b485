//! What the store says, as a client hears it.

use pullpiri_store::{ReadError, WriteError};

use crate::status::{Cause, Status};

/// An answer to a plain read.
pub(crate) fn read(error: &ReadError) -> Status {
    match error {
        ReadError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        ReadError::Future { requested, current } => too_large(requested.0, current.0),
        ReadError::Io { .. } => Status::internal(error),
        ReadError::Closed => Status::service_unavailable("the server is shutting down"),
    }
}

/// 504: the client has seen a revision that this server hasn't.
pub(crate) fn too_large(requested: u64, current: u64) -> Status {
    Status::timeout(format_args!("Too large resource version: {requested}, current: {current}"), 1).with_cause(Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    })
}

/// An answer to a write, mismatches excepted (those depend on the verb).
pub(crate) fn write(error: &WriteError) -> Status {
    match error {
        // Without Retry-After: clients would wait in silence for somebody to make room, and their user never read this.
        WriteError::NoSpace { .. } => {
            Status::new(http::StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", error.to_string())
        }
        // Without Retry-After, too: whether to write again is for somebody who has looked.
        WriteError::Unknown { .. } => Status::new(http::StatusCode::GATEWAY_TIMEOUT, "Timeout", error.to_string()),
        WriteError::Closed => Status::service_unavailable("the server is shutting down"),
        WriteError::Io { .. } | WriteError::Mismatch { .. } => Status::internal(error),
    }
}
