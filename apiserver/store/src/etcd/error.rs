//! What can go wrong between an API server and etcd, sorted by what it says about a write that was under way.

use std::error::Error as _;
use std::path::PathBuf;

use etcd_client::Error;
use tonic::Code;

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("etcd server {url:?}: {reason}")]
    Url { url: String, reason: String },
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("etcd at {servers}: {reason}")]
    Unreachable { servers: String, reason: String },
}

/// How one attempt at one member failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It didn't happen and won't: another member may be tried.
    NotSent(String),
    /// It may have happened, or happen yet.
    Unclear(String),
    Compacted,
    Future,
    NoSpace,
    /// It didn't happen, and won't at another member either.
    Refused(String),
}

impl Failure {
    /// Another member, or the same one later, may answer differently.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unclear(_))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(message) | Self::Unclear(message) | Self::Refused(message) => f.write_str(message),
            Self::Compacted => f.write_str("the revision was compacted"),
            Self::Future => f.write_str("the revision is in the future"),
            Self::NoSpace => f.write_str("etcd's database is full (alarm NOSPACE)"),
        }
    }
}

/// Sorts an error of the client's. etcd's messages are part of its API (rpctypes/error.go): its own clients tell errors by them.
pub(super) fn classify(member: &str, error: &Error) -> Failure {
    let Error::GRpcStatus(status) = error else {
        return match error {
            Error::InvalidArgs(_) | Error::InvalidUri(_) => Failure::Refused(error.to_string()),
            _ => Failure::Unclear(format!("{member}: {error}")),
        };
    };
    let message = status.message();
    let said = || format!("{member}: {}", told(status));
    match status.code() {
        Code::OutOfRange if message.contains("has been compacted") => Failure::Compacted,
        Code::OutOfRange if message.contains("future revision") => Failure::Future,
        Code::ResourceExhausted if message.contains("database space exceeded") => Failure::NoSpace,
        Code::ResourceExhausted if message.contains("too many requests") => Failure::NotSent(said()),
        // With "hasleader" in the request's metadata this is said before anything is done.
        Code::Unavailable if message.ends_with("etcdserver: no leader") => Failure::NotSent(said()),
        Code::Unavailable if never_connected(status) => Failure::NotSent(said()),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => Failure::Refused(said()),
        _ => Failure::Unclear(said()),
    }
}

/// The status' message with its causes: "transport error" alone helps nobody.
fn told(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_the_write_may_have_happened() {
        let of = |code, message: &str| classify("m", &Error::GRpcStatus(tonic::Status::new(code, message)));
        assert_eq!(of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), Failure::Compacted);
        assert_eq!(of(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"), Failure::Future);
        assert_eq!(of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Failure::NoSpace);
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Failure::NotSent(_)));
        for message in ["etcdserver: leader changed", "etcdserver: request timed out", "transport error"] {
            assert!(matches!(of(Code::Unavailable, message), Failure::Unclear(_)), "{message}");
        }
        assert!(matches!(of(Code::Unknown, "raft proposal dropped"), Failure::Unclear(_)));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: request is too large"), Failure::Refused(_)));
    }
}
