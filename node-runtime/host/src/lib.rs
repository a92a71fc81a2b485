//! The kernel, for the node runtime: the only crate that makes unsafe system calls.
//!
//! What it wraps is what the container runtime needs and no safe crate offers: a fork that is refused in a threaded process, pidfds,
//! SEQPACKET sockets that carry file descriptors, network namespaces, mounts and the cgroup tree. Each function is one operation with
//! one error that says what was attempted; nothing here decides anything.
//!
//! Units: times are nanoseconds since the epoch ([`clock::now`]) or kernel clock ticks where a name says so; sizes are bytes.

pub mod cgroup;
pub mod clock;
pub mod descriptors;
pub mod files;
pub mod limits;
pub mod memory;
pub mod mount;
pub mod net;
pub mod netns;
pub mod process;
pub mod sched;
pub mod signals;
pub mod socket;

use nix::errno::Errno;

/// A system call that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}: {source}")]
pub struct SysError {
    pub attempted: String,
    #[source]
    pub source: std::io::Error,
}

impl SysError {
    pub(crate) fn errno(attempted: impl Into<String>, errno: Errno) -> Self {
        Self { attempted: attempted.into(), source: errno.into() }
    }

    pub(crate) fn io(attempted: impl Into<String>, source: std::io::Error) -> Self {
        Self { attempted: attempted.into(), source }
    }

    pub(crate) fn last(attempted: impl Into<String>) -> Self {
        Self { attempted: attempted.into(), source: std::io::Error::last_os_error() }
    }

    /// The error number, if the kernel gave one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

pub type Result<T> = std::result::Result<T, SysError>;
