//! One node per data directory: two would fight over its ledger and adopt each other's pods.

use std::fs;
use std::path::{Path, PathBuf};

use pullpiri_node_host::SysError;
use pullpiri_node_host::files::{self, Lock};

/// Below the data directory; its content is the holder's process id, for people. It stays, only the lock on it goes.
const FILE: &str = "node.lock";

/// Why a data directory can't be used by this process.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "data directory {} is in use by another node runtime, process {holder}; end that one, or give this one a directory of its own with --data-dir",
        directory.display()
    )]
    Taken { directory: PathBuf, holder: String },
    #[error(transparent)]
    Io(#[from] SysError),
}

/// A data directory that no other node uses for as long as this exists. The kernel lets go of it whatever way the process ends.
#[derive(Debug)]
pub struct Claim {
    _lock: Lock,
}

impl Claim {
    /// Claims a directory that is there.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] if another process has it.
    pub fn on(directory: &Path) -> Result<Self, ClaimError> {
        let path = directory.join(FILE);
        let Some(lock) = files::try_lock(&path)? else {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(ClaimError::Taken { directory: directory.to_owned(), holder });
        };
        let written = fs::write(&path, format!("{}\n", std::process::id()));
        written.map_err(|source| SysError { attempted: format!("writing {}", path.display()), source })?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Claim::on(dir.path()).unwrap();
        let error = Claim::on(dir.path()).unwrap_err().to_string();
        for part in [dir.path().to_str().unwrap(), &format!("process {};", std::process::id())] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        drop(first);
        Claim::on(dir.path()).unwrap();
        assert!(matches!(Claim::on(&dir.path().join("absent")), Err(ClaimError::Io(_))));
    }
}
