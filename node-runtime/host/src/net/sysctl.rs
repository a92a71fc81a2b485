//! Settings below `/proc/sys/net`, of the calling thread's network namespace.

use std::path::PathBuf;

use crate::{Result, SysError};

/// `key` as a path below `/proc/sys/net`: `ipv4/conf/eth0/forwarding`. Names of interfaces may hold dots, so keys have none.
fn path(key: &str) -> Result<PathBuf> {
    if key.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(SysError::io(format!("checking the setting {key}"), std::io::Error::other("it is no plain path")));
    }
    Ok(PathBuf::from("/proc/sys/net").join(key))
}

/// The setting, or `None` if this kernel has none of that name.
pub fn read(key: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(key)?) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SysError::io(format!("reading net/{key}"), error)),
    }
}

/// Sets it, unless it is so; whether this kernel has it.
pub fn write(key: &str, value: &str) -> Result<bool> {
    match read(key)? {
        None => return Ok(false),
        Some(known) if known == value => return Ok(true),
        Some(_) => {}
    }
    std::fs::write(path(key)?, value).map_err(|error| SysError::io(format!("setting net/{key} to {value}"), error))?;
    Ok(true)
}
