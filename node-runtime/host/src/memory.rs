//! Memory that this process holds but doesn't use, given back to the kernel.
//!
//! A program of many megabytes touches most of its code once, while it starts (parsing schemas, generating certificates), and the kernel maps
//! code in large pieces around what is touched. What is mapped counts as the process' memory (PSS) though nothing runs it again. Likewise
//! malloc keeps pages that were free'd in the middle of its arenas. Giving both back costs one minor fault for each piece that is needed
//! again: the pages themselves stay in the page cache.

use std::ops::Range;

use crate::{Result, SysError};

/// Unmaps the pages of this program's code and returns free'd heap to the kernel. Returns the bytes of code that were mapped before, 0 if it was
/// left alone because something (a debugger, a uprobe) has written into it.
///
/// # Errors
/// `/proc/self/smaps` can't be read or isn't what proc_pid_smaps(5) says; madvise(2) refuses.
#[allow(unsafe_code, reason = "madvise(2) on this program's code")]
pub fn release_unused() -> Result<u64> {
    trim_heap();
    let path = "/proc/self/smaps";
    let smaps = std::fs::read_to_string(path).map_err(|error| SysError::io(format!("reading {path}"), error))?;
    let within = (release_unused as *const ()).addr();
    let code = mapping_of(&smaps, within).ok_or_else(|| {
        SysError::io(format!("reading {path}"), std::io::Error::other("this program's code isn't listed"))
    })?;
    if code.written {
        return Ok(0);
    }
    let length = code.range.end.saturating_sub(code.range.start);
    // SAFETY: the range is one mapping of this program's executable, private, not writable and (checked above) without a page of its own: every page
    // that is dropped is read again from the page cache with the same content.
    let done =
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(code.range.start), length, libc::MADV_DONTNEED) };
    if done == 0 { Ok(code.resident_bytes) } else { Err(SysError::last("releasing the program's code (madvise)")) }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "malloc_trim(3)")]
fn trim_heap() {
    // SAFETY: malloc_trim(3) takes a size by value and is safe in a threaded process.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    resident_bytes: u64,
    /// Some page of it is no longer the file's.
    written: bool,
}

/// The read-only executable mapping that holds an address, from the text of proc_pid_smaps(5).
fn mapping_of(smaps: &str, address: usize) -> Option<Mapping> {
    let mut lines = smaps.lines();
    let range = lines.by_ref().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        (rest.starts_with("r-xp") && range.contains(&address)).then_some(range)
    })?;
    let mut kib = |name: &str| {
        let line = lines.by_ref().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let resident_bytes = kib("Rss")?.checked_mul(1024)?;
    let written = kib("Anonymous")? != 0;
    Some(Mapping { range, resident_bytes, written })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 00000000 fe:00 1 /bin/x
Rss:                   4 kB
Anonymous:             0 kB
2000-9000 r-xp 00001000 fe:00 1 /bin/x
Size:                 28 kB
Rss:                  24 kB
Pss:                  24 kB
Anonymous:             4 kB
VmFlags: rd ex mr mw me
9000-a000 rw-p 00008000 fe:00 1 /bin/x
Rss:                   4 kB
Anonymous:             4 kB
";

    #[test]
    fn the_mapping_of_an_address_is_found_with_its_pages() {
        let code = Mapping { range: 0x2000..0x9000, resident_bytes: 24 * 1024, written: true };
        assert_eq!(mapping_of(SMAPS, 0x2345), Some(code));
        assert_eq!(mapping_of(SMAPS, 0x1234), None, "not executable");
        assert_eq!(mapping_of(SMAPS, 0xffff), None);
        assert_eq!(mapping_of("2000-9000 r-xp 0 0 0 x\nRss: many kB\n", 0x2345), None);
    }

    #[test]
    fn released_code_still_runs_and_less_of_it_is_mapped() {
        let before = release_unused().unwrap();
        assert!(before > 0);
        // What the call before mapped again is little beside a test program that has just started.
        let after = release_unused().unwrap();
        assert!(after > 0 && after <= before, "{after} of {before} bytes");
    }
}
