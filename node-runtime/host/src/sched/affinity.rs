//! sched_setaffinity(2), sched_getaffinity(2), and which CPUs there are.

use std::path::Path;

use pullpiri_node_core::realtime::Cpus;
use pullpiri_node_core::realtime::cpus::MAX_CPUS;

use crate::{Result, SysError};

const BITS: u32 = u64::BITS;
/// Words of a mask of [`MAX_CPUS`]: the kernel takes a mask larger than it needs, nix's is for 1024 CPUs.
const WORDS: usize = 64;
const BYTES: usize = WORDS * size_of::<u64>();

const _: () = assert!(WORDS * 64 == 4096 && MAX_CPUS == 4096, "one bit for each CPU");

/// The CPUs that a thread may run on; 0 is the calling thread.
///
/// # Errors
/// ESRCH if it is gone.
pub fn affinity(tid: i32) -> Result<Cpus> {
    let mut mask = [0_u64; WORDS];
    // SAFETY: the pointer is to BYTES bytes, which the kernel fills at most.
    #[allow(unsafe_code)]
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, BYTES, mask.as_mut_ptr()) };
    if got < 0 {
        return Err(SysError::last(format!("reading the CPUs of thread {tid}")));
    }
    let mut cpus = Cpus::default();
    for (base, word) in (0_u32..).step_by(64).zip(mask) {
        cpus.0.extend((0..BITS).filter(|bit| word & (1 << bit) != 0).map(|bit| base + bit));
    }
    Ok(cpus)
}

/// Has a thread run on these CPUs only; 0 is the calling thread.
///
/// # Errors
/// EINVAL: none of them is online and in its cpuset. EBUSY: SCHED_DEADLINE threads can't leave the CPUs they were admitted to. EPERM: no
/// CAP_SYS_NICE. ESRCH: it is gone.
pub fn set_affinity(tid: i32, cpus: &Cpus) -> Result<()> {
    let mut mask = [0_u64; WORDS];
    for cpu in &cpus.0 {
        if let Some(word) = usize::try_from(cpu / BITS).ok().and_then(|index| mask.get_mut(index)) {
            *word |= 1 << (cpu % BITS);
        }
    }
    // SAFETY: the pointer is to BYTES initialised bytes.
    #[allow(unsafe_code)]
    let set = unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, BYTES, mask.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(SysError::last(format!("pinning thread {tid} to CPUs {cpus}"))) }
}

/// The CPUs that are online, from `sys` (/sys).
///
/// # Errors
/// If the file can't be read.
pub fn online_cpus(sys: &Path) -> Result<Cpus> {
    let path = sys.join("devices/system/cpu/online");
    let failed = |error| SysError::io(format!("reading {}", path.display()), error);
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    text.parse().map_err(|error| failed(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_and_let_go() {
        std::thread::spawn(|| {
            let all = affinity(0).unwrap();
            let first = *all.0.first().unwrap();
            set_affinity(0, &Cpus::one(first)).unwrap();
            assert_eq!(affinity(0).unwrap(), Cpus::one(first));
            set_affinity(0, &all).unwrap();
            assert_eq!(affinity(0).unwrap(), all);
            assert_eq!(set_affinity(0, &Cpus::default()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        })
        .join()
        .unwrap();
        assert_eq!(affinity(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn online_cpus_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("devices/system/cpu")).unwrap();
        std::fs::write(dir.path().join("devices/system/cpu/online"), "0-3,8\n").unwrap();
        assert_eq!(online_cpus(dir.path()).unwrap().to_string(), "0-3,8");
        assert!(!online_cpus(Path::new("/sys")).unwrap().is_empty());
    }
}
