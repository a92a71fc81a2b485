//! The structures of `ebpf/programs/monitor.h`, byte for byte.
//!
//! The constants and layouts below are asserted at compile time; `tests/monitor_layout.rs` compares them with what a C compiler makes of the header.

// The map types of aya take only values that are marked as plain old data.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};

/// Threads that can be watched at once.
pub const SLOTS: u32 = 1024;
/// Words of the bit filter in front of the hash of watched threads.
pub const FILTER_WORDS: u32 = 1024;
/// Buckets of a response-time histogram.
pub const BUCKETS: usize = 256;
/// Bytes of a thread's name, with its terminating zero.
pub const COMM: usize = 16;

pub const JOB_ACTIVE: u64 = 1;
pub const JOB_MISSED: u64 = 2;
pub const JOB_OVERRAN: u64 = 4;
pub const JOB_SHIFT: u32 = 3;

pub const COUNT_EVENTS_LOST: u32 = 0;
pub const COUNT_FOLLOWS_LOST: u32 = 1;
pub const COUNT_TIMERS: u32 = 2;
pub const COUNT_JOBS_LOST: u32 = 3;

pub const EVENT_MISS: u32 = 1;
pub const EVENT_OVERRUN: u32 = 2;
pub const EVENT_FORK: u32 = 3;
pub const EVENT_EXEC: u32 = 4;
pub const EVENT_RENAME: u32 = 5;
pub const EVENT_EXIT: u32 = 6;
pub const FLAG_RUNNING: u32 = 1;
pub const FLAG_GROUP_DEAD: u32 = 2;

/// `struct pp_watch`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawWatch {
    pub cookie: u64,
    pub deadline_ns: u64,
    pub wcet_ns: u64,
    pub period_ns: u64,
    pub min_interarrival_ns: u64,
    pub pid: u32,
    pub reserved: u32,
}

/// `struct pp_task`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawTask {
    pub job: u64,
    pub release_ns: u64,
    pub due_ns: u64,
    pub on_cpu_ns: u64,
    pub exec_ns: u64,
    pub jobs: u64,
    pub misses: u64,
    pub overruns: u64,
    pub back_to_back: u64,
    pub skipped: u64,
    pub continued: u64,
    pub max_response_ns: u64,
    pub max_exec_ns: u64,
    pub last_response_ns: u64,
    pub last_exec_ns: u64,
    pub total_exec_ns: u64,
    pub base_exec_ns: u64,
    pub base_delay_ns: u64,
    pub unseen: u64,
    pub last_bucket: u32,
    pub last_skipped: u32,
    pub unseen_release: u32,
    pub based: u32,
    pub histogram: [u64; BUCKETS],
}

/// `struct pp_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawEvent {
    pub kind: u32,
    pub flags: u32,
    pub pid: u32,
    pub tgid: u32,
    pub parent_tgid: u32,
    pub reserved: u32,
    pub cookie: u64,
    pub job: u64,
    pub release_ns: u64,
    pub due_ns: u64,
    pub exec_ns: u64,
    pub reported_ns: u64,
    pub comm: [u8; COMM],
}

const _: () = {
    assert!(size_of::<RawWatch>() == 48);
    assert!(offset_of!(RawWatch, min_interarrival_ns) == 32);
    assert!(offset_of!(RawWatch, pid) == 40);
    assert!(size_of::<RawTask>() == 168 + 8 * BUCKETS);
    assert!(offset_of!(RawTask, jobs) == 40);
    assert!(offset_of!(RawTask, max_response_ns) == 88);
    assert!(offset_of!(RawTask, last_bucket) == 152);
    assert!(offset_of!(RawTask, histogram) == 168);
    assert!(size_of::<RawEvent>() == 88);
    assert!(offset_of!(RawEvent, cookie) == 24);
    assert!(offset_of!(RawEvent, reported_ns) == 64);
    assert!(offset_of!(RawEvent, comm) == 72);
};

// SAFETY: `repr(C)`, only integers, no padding (the sizes above are the sums of the fields), and every bit pattern is a value.
unsafe impl aya::Pod for RawWatch {}
// SAFETY: as for RawWatch.
unsafe impl aya::Pod for RawTask {}

impl RawTask {
    pub(crate) const ZERO: Self = Self {
        job: 0,
        release_ns: 0,
        due_ns: 0,
        on_cpu_ns: 0,
        exec_ns: 0,
        jobs: 0,
        misses: 0,
        overruns: 0,
        back_to_back: 0,
        skipped: 0,
        continued: 0,
        max_response_ns: 0,
        max_exec_ns: 0,
        last_response_ns: 0,
        last_exec_ns: 0,
        total_exec_ns: 0,
        base_exec_ns: 0,
        base_delay_ns: 0,
        unseen: 0,
        last_bucket: 0,
        last_skipped: 0,
        unseen_release: 0,
        based: 0,
        histogram: [0; BUCKETS],
    };
}

impl RawEvent {
    /// Reads an event as the ring holds it; `None` when it is too short to be one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        let mut comm = [0; COMM];
        comm.copy_from_slice(bytes.get(offset_of!(Self, comm)..)?.get(..COMM)?);
        Some(Self {
            kind: u32_at(bytes, offset_of!(Self, kind))?,
            flags: u32_at(bytes, offset_of!(Self, flags))?,
            pid: u32_at(bytes, offset_of!(Self, pid))?,
            tgid: u32_at(bytes, offset_of!(Self, tgid))?,
            parent_tgid: u32_at(bytes, offset_of!(Self, parent_tgid))?,
            reserved: 0,
            cookie: u64_at(bytes, offset_of!(Self, cookie))?,
            job: u64_at(bytes, offset_of!(Self, job))?,
            release_ns: u64_at(bytes, offset_of!(Self, release_ns))?,
            due_ns: u64_at(bytes, offset_of!(Self, due_ns))?,
            exec_ns: u64_at(bytes, offset_of!(Self, exec_ns))?,
            reported_ns: u64_at(bytes, offset_of!(Self, reported_ns))?,
            comm,
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}
