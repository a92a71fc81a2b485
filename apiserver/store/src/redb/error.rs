//! What may go wrong with the data file, sorted by what has to be done about it.
//!
//! redb reports most damage as an error, but a file that was altered behind its back may make it panic
//! (it says so); every call into it therefore goes through [`guarded`], which turns a panic into [`Fault::Corrupt`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

use crate::Room;

/// Why a data file couldn't be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data file {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("data file {} is corrupt: {detail}; restore it from a backup or remove it", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "data file {} has format {found}, this version reads {expected}; use the version that wrote it or restore a backup",
        path.display()
    )]
    Format { path: PathBuf, found: u64, expected: u64 },
    #[error("opening data file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("no space left for data file {}: {room}", path.display())]
    NoSpace { path: PathBuf, room: Room },
    #[error("starting the writer thread for {}: {source}", path.display())]
    Thread { path: PathBuf, source: io::Error },
}

/// Why an operation on an open file failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The disk (or a quota) is full.
    NoSpace,
    Io(String),
    /// The database was closed or poisoned under this operation: it may succeed on the reopened one.
    Stale(String),
    Corrupt(String),
    /// Another process has the file.
    Locked,
    Format(u64),
}

impl Fault {
    pub(crate) fn message(&self) -> String {
        match self {
            Self::NoSpace => "no space left on the device".to_owned(),
            Self::Io(message) | Self::Stale(message) => message.clone(),
            Self::Corrupt(detail) => {
                format!("the data file is corrupt: {detail}; restore it from a backup or remove it")
            }
            Self::Locked => "the data file is in use by another process".to_owned(),
            Self::Format(found) => format!("the data file has the unknown format {found}"),
        }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            // What redb says of a file that isn't one of its own, and of one that ends too soon.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupted(detail) => Self::Corrupt(detail),
            StorageError::Io(error) => Self::io(&error),
            StorageError::PreviousIo | StorageError::DatabaseClosed => Self::Stale(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl From<TransactionError> for Fault {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Storage(error) => error.into(),
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::Locked,
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// Runs an operation of redb; a panic inside becomes [`Fault::Corrupt`].
pub(crate) fn guarded<T>(operation: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // What the operation may have left half-done is redb's own state, which it refuses to use afterwards.
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
        let detail = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("an inconsistency");
        Err(Fault::Corrupt(detail.lines().next().unwrap_or_default().to_owned()))
    })
}
