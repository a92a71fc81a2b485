//! RLIMIT_MEMLOCK of a running process: a real-time task locks its memory, which the usual 8 MiB may not suffice for.

use crate::{Result, SysError};

/// A soft and a hard limit in bytes; `u64::MAX`: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLock {
    pub soft: u64,
    pub hard: u64,
}

impl MemoryLock {
    pub const UNLIMITED: Self = Self { soft: u64::MAX, hard: u64::MAX };
}

/// How much memory a process may lock.
///
/// # Errors
/// ESRCH if it is gone.
pub fn memory_lock(pid: i32) -> Result<MemoryLock> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a structure that the kernel fills; nothing is set.
    #[allow(unsafe_code)]
    let got = unsafe { libc::prlimit64(pid, libc::RLIMIT_MEMLOCK, std::ptr::null(), &raw mut limit) };
    if got != 0 {
        return Err(SysError::last(format!("reading how much memory process {pid} may lock")));
    }
    Ok(MemoryLock { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Changes how much memory a process may lock.
///
/// # Errors
/// EPERM: a hard limit is raised by CAP_SYS_RESOURCE only. ESRCH: it is gone.
pub fn set_memory_lock(pid: i32, lock: MemoryLock) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: lock.soft, rlim_max: lock.hard };
    // SAFETY: the pointer is to an initialised structure; the old limit isn't asked for.
    #[allow(unsafe_code)]
    let set = unsafe { libc::prlimit64(pid, libc::RLIMIT_MEMLOCK, &raw const limit, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(SysError::last(format!("letting process {pid} lock its memory"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_is_lowered_and_raised() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let before = memory_lock(pid).unwrap();
        set_memory_lock(pid, MemoryLock { soft: before.hard.min(4096), hard: before.hard }).unwrap();
        assert_eq!(memory_lock(pid).unwrap().soft, before.hard.min(4096));
        set_memory_lock(pid, before).unwrap();
        assert_eq!(memory_lock(pid).unwrap(), before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory_lock(i32::MAX).is_err());
    }
}
