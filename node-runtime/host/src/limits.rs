//! What this process may hand on: its capability bounding set and its OOM score.

use std::path::Path;

use crate::{Result, SysError};

/// The capabilities of the bounding set as bits, capability 0 lowest: no child can ever have others.
pub fn bounding_capabilities() -> Result<u64> {
    capabilities("CapBnd")
}

/// The capabilities that this process has now, as bits, capability 0 lowest.
pub fn effective_capabilities() -> Result<u64> {
    capabilities("CapEff")
}

/// A set of proc_pid_status(5).
fn capabilities(set: &str) -> Result<u64> {
    let path = "/proc/self/status";
    let status = std::fs::read_to_string(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    status
        .lines()
        .find_map(|l| l.strip_prefix(set)?.strip_prefix(':'))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .ok_or_else(|| SysError::io(format!("reading {path}"), std::io::Error::other(format!("no {set} line"))))
}

/// This process' OOM score adjustment, -1000 to 1000.
pub fn oom_score_adj() -> Result<i32> {
    let path = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    text.trim().parse().map_err(|_| {
        SysError::io(format!("reading {path}"), std::io::Error::other(format!("{:?} is no number", text.trim())))
    })
}

/// Asks to be among the last that memory pressure kills. Needs CAP_SYS_RESOURCE; whether it was granted.
#[must_use]
pub fn protect_from_oom() -> bool {
    std::fs::write(Path::new("/proc/self/oom_score_adj"), "-998").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_this_process_are_read() {
        // A process without any capability in its bounds is conceivable; a missing line isn't.
        bounding_capabilities().unwrap();
        assert!((-1000..=1000).contains(&oom_score_adj().unwrap()));
    }
}
