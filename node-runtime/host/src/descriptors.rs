//! How many files, sockets among them, a process may have open (RLIMIT_NOFILE).
//!
//! A server takes as many as it may have: each client is one. The usual soft limit of 1024 is there for programs that use select(2), and those that
//! are started from here keep it.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Result, SysError};

/// The soft limit that this process began with.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to its hard one, which needs no privilege, and returns that.
///
/// # Errors
/// The kernel refuses, which getrlimit(2) gives no reason for here.
pub fn raise_limit() -> Result<u64> {
    let failed = |what: &str, errno: nix::Error| SysError::io(what.to_owned(), errno.into());
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| failed("reading how many files may be open", errno))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(|errno| failed("raising how many files may be open", errno))?;
        BEFORE.get_or_init(|| soft);
    }
    Ok(hard)
}

/// Gives a child that was started after [`raise_limit`] the limit that this process began with.
///
/// # Errors
/// ESRCH if it is gone.
pub fn lower_limit_of(pid: i32) -> Result<()> {
    let Some(&soft) = BEFORE.get() else { return Ok(()) };
    let what = || format!("limiting how many files process {pid} may have open");
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a structure that the kernel fills; nothing is set.
    #[allow(unsafe_code)]
    let got = unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
    if got != 0 {
        return Err(SysError::last(what()));
    }
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: the pointer is to an initialised structure; the old limit isn't asked for.
    #[allow(unsafe_code)]
    let set = unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(SysError::last(what())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft_limit_of(pid: u32) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    }

    #[test]
    fn a_server_has_what_it_may_have_and_its_children_what_it_began_with() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let low = hard / 2;
        setrlimit(Resource::RLIMIT_NOFILE, low, hard).unwrap();
        assert_eq!(raise_limit().unwrap(), hard);
        assert_eq!(soft_limit_of(std::process::id()), hard);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        lower_limit_of(i32::try_from(child.id()).unwrap()).unwrap();
        let lowered = soft_limit_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lowered, low);
        assert!(lower_limit_of(i32::MAX).is_err());
    }
}
