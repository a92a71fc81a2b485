//! sched_setattr(2) and sched_getattr(2).

use pullpiri_node_core::realtime::{Policy, Settings};

use crate::{Result, SysError};

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
/// include/uapi/linux/sched.h
const RESET_ON_FORK: u64 = 0x01;
/// The structure's first version (SCHED_ATTR_SIZE_VER0), which every kernel since 3.14 takes.
const SIZE: u32 = 48;

/// `struct sched_attr` of sched_setattr(2), first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<Attributes>() == 48, "the kernel's layout");

/// Reads a thread's scheduling attributes; 0 is the calling thread.
///
/// # Errors
/// ESRCH if it is gone.
pub fn settings(tid: i32) -> Result<Settings> {
    let mut attributes = Attributes::default();
    // SAFETY: the pointer is to a structure of SIZE bytes, which the kernel fills at most.
    #[allow(unsafe_code)]
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attributes, SIZE, 0_u32) };
    if got != 0 {
        return Err(SysError::last(format!("reading how thread {tid} is scheduled")));
    }
    let Attributes { policy, nice, priority, runtime, deadline, period, flags, .. } = attributes;
    let policy = match policy {
        SCHED_FIFO => Policy::Fifo { priority },
        SCHED_RR => Policy::RoundRobin { priority },
        SCHED_DEADLINE => Policy::Deadline { runtime_ns: runtime, deadline_ns: deadline, period_ns: period },
        SCHED_BATCH => Policy::Batch { nice },
        SCHED_IDLE => Policy::Idle,
        // Whatever a scheduler of a BPF program (SCHED_EXT) is, it is no real time.
        _ => Policy::Other { nice },
    };
    Ok(Settings { policy, reset_on_fork: flags & RESET_ON_FORK != 0 })
}

/// Sets a thread's scheduling attributes; 0 is the calling thread.
///
/// # Errors
/// EPERM: no CAP_SYS_NICE, a group without real-time budget, or SCHED_DEADLINE with a restricted affinity. EBUSY: SCHED_DEADLINE beyond
/// what a CPU admits. EINVAL: numbers that the kernel doesn't take. ESRCH: it is gone.
pub fn set_settings(tid: i32, settings: &Settings) -> Result<()> {
    let mut attributes = Attributes { size: SIZE, ..Attributes::default() };
    if settings.reset_on_fork {
        attributes.flags = RESET_ON_FORK;
    }
    match settings.policy {
        Policy::Other { nice } => (attributes.policy, attributes.nice) = (SCHED_OTHER, nice),
        Policy::Batch { nice } => (attributes.policy, attributes.nice) = (SCHED_BATCH, nice),
        Policy::Idle => attributes.policy = SCHED_IDLE,
        Policy::Fifo { priority } => (attributes.policy, attributes.priority) = (SCHED_FIFO, priority),
        Policy::RoundRobin { priority } => (attributes.policy, attributes.priority) = (SCHED_RR, priority),
        Policy::Deadline { runtime_ns, deadline_ns, period_ns } => {
            attributes.policy = SCHED_DEADLINE;
            (attributes.runtime, attributes.deadline, attributes.period) = (runtime_ns, deadline_ns, period_ns);
        }
    }
    // SAFETY: the pointer is to an initialised structure whose size is in its first field.
    #[allow(unsafe_code)]
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attributes, 0_u32) };
    if set == 0 { Ok(()) } else { Err(SysError::last(format!("giving thread {tid} {settings}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, so that nothing is left behind.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_starts_with_the_default() {
        on_a_thread(|| assert!(matches!(settings(0).unwrap().policy, Policy::Other { .. } | Policy::Batch { .. })));
    }

    #[test]
    fn a_thread_that_is_gone_is_said_so() {
        assert_eq!(settings(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(set_settings(i32::MAX, &Settings::DEFAULT).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn what_is_set_reads_back() {
        on_a_thread(|| {
            let policies = [
                Policy::Fifo { priority: 7 },
                Policy::RoundRobin { priority: 99 },
                Policy::Batch { nice: 3 },
                Policy::Deadline { runtime_ns: 1_000_000, deadline_ns: 10_000_000, period_ns: 20_000_000 },
                Policy::Other { nice: 0 },
            ];
            for policy in policies {
                let wanted = Settings { policy, reset_on_fork: policy.is_fixed_priority() || policy.is_deadline() };
                match set_settings(0, &wanted) {
                    Ok(()) => assert_eq!(settings(0).unwrap(), wanted),
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => println!("skipped: {error}"),
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        on_a_thread(|| {
            let policy = Policy::Deadline { runtime_ns: 20_000_000, deadline_ns: 10_000_000, period_ns: 10_000_000 };
            let error = set_settings(0, &Settings { policy, reset_on_fork: true }).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
            assert!(error.to_string().contains("SCHED_DEADLINE 20ms within 10ms every 10ms"), "{error}");
        });
    }
}
