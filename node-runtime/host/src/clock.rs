//! Wall-clock time and the boot it belongs to.

use std::time::{SystemTime, UNIX_EPOCH};

use pullpiri_node_core::runtime::Timestamp;

use crate::{Result, SysError};

/// Now, in nanoseconds since the epoch; 0 before it and the largest value after the year 2262.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The kernel's id of this boot. State on disk that carries another id is from before a reboot.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    Ok(id.trim().to_owned())
}
