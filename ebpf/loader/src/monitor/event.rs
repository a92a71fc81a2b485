//! What the programs report: misses, overruns, and the coming and going of threads.
//!
//! Instants are nanoseconds of CLOCK_MONOTONIC.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

use super::layout::{self, RawEvent};

/// One job, at the moment it was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobReport {
    pub pid: u32,
    /// The watch's cookie.
    pub cookie: u64,
    /// The job's number under this watch, from 1.
    pub job: u64,
    pub release_ns: u64,
    /// The instant of its deadline, if it has one.
    pub due_ns: Option<u64>,
    /// Its execution up to the report.
    pub exec_ns: u64,
    pub reported_ns: u64,
    /// It went on: the deadline's timer saw it, or a switch that was no end.
    pub running: bool,
}

impl JobReport {
    /// How long after the deadline the kernel saw the miss; 0 without a deadline.
    #[must_use]
    pub fn lag_ns(&self) -> u64 {
        self.due_ns.map_or(0, |due| self.reported_ns.saturating_sub(due))
    }
}

/// A thread of a followed process or cgroup, or a watched one that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadReport {
    pub pid: u32,
    pub tgid: u32,
    /// The cookie under which it is followed; of the watch, when a watched thread ends.
    pub cookie: u64,
    /// The thread's name at that moment.
    pub name: String,
    pub reported_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job went beyond its deadline. Once per job.
    Miss(JobReport),
    /// A job executed for longer than its declared worst case. Once per job.
    Overrun(JobReport),
    /// A new thread (`pid != tgid`) or process of a followed one. It bears its creator's name until it is renamed.
    Fork { thread: ThreadReport, parent_tgid: u32 },
    /// A followed process runs another program.
    Exec(ThreadReport),
    /// A followed thread has taken a name.
    Rename(ThreadReport),
    /// A watched or followed thread ends; `process` when it is its process's last.
    Exit { thread: ThreadReport, process: bool },
}

impl Event {
    fn from_raw(raw: &RawEvent) -> Option<Self> {
        let thread = || ThreadReport {
            pid: raw.pid,
            tgid: raw.tgid,
            cookie: raw.cookie,
            name: name(&raw.comm),
            reported_ns: raw.reported_ns,
        };
        let job = JobReport {
            pid: raw.pid,
            cookie: raw.cookie,
            job: raw.job,
            release_ns: raw.release_ns,
            due_ns: (raw.due_ns != 0).then_some(raw.due_ns),
            exec_ns: raw.exec_ns,
            reported_ns: raw.reported_ns,
            running: raw.flags & layout::FLAG_RUNNING != 0,
        };
        match raw.kind {
            layout::EVENT_MISS => Some(Self::Miss(job)),
            layout::EVENT_OVERRUN => Some(Self::Overrun(job)),
            layout::EVENT_FORK => Some(Self::Fork { thread: thread(), parent_tgid: raw.parent_tgid }),
            layout::EVENT_EXEC => Some(Self::Exec(thread())),
            layout::EVENT_RENAME => Some(Self::Rename(thread())),
            layout::EVENT_EXIT => {
                Some(Self::Exit { thread: thread(), process: raw.flags & layout::FLAG_GROUP_DEAD != 0 })
            }
            _ => None,
        }
    }
}

fn name(comm: &[u8]) -> String {
    String::from_utf8_lossy(comm.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The consumer's end of the ring. Its descriptor is readable when there are events; only one consumer may exist.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Takes what is there, oldest first, at most `limit` events; never blocks.
    pub fn drain(&mut self, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = self.ring.next()
        {
            events.extend(RawEvent::decode(&item).as_ref().and_then(Event::from_raw));
        }
        events
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u32, flags: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [kind, flags, 7, 5, 3, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [42_u64, 9, 1_000, 2_000, 600, 2_050] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"brake\0garbage!!!");
        bytes
    }

    fn decode(kind: u32, flags: u32) -> Option<Event> {
        RawEvent::decode(&bytes(kind, flags)).as_ref().and_then(Event::from_raw)
    }

    #[test]
    fn a_miss_tells_its_job_and_its_lag() {
        let Some(Event::Miss(miss)) = decode(layout::EVENT_MISS, layout::FLAG_RUNNING) else { panic!("no miss") };
        assert_eq!((miss.pid, miss.cookie, miss.job), (7, 42, 9));
        assert_eq!((miss.release_ns, miss.due_ns, miss.exec_ns), (1_000, Some(2_000), 600));
        assert!(miss.running);
        assert_eq!(miss.lag_ns(), 50);
    }

    #[test]
    fn names_end_at_their_zero() {
        let Some(Event::Fork { thread, parent_tgid }) = decode(layout::EVENT_FORK, 0) else { panic!("no fork") };
        assert_eq!((thread.pid, thread.tgid, parent_tgid, thread.name.as_str()), (7, 5, 3, "brake"));
        assert!(matches!(decode(layout::EVENT_EXIT, layout::FLAG_GROUP_DEAD), Some(Event::Exit { process: true, .. })));
    }

    #[test]
    fn unknown_kinds_and_short_records_are_no_events() {
        assert_eq!(decode(99, 0), None);
        assert!(RawEvent::decode(&bytes(layout::EVENT_MISS, 0)[..80]).is_none());
    }
}
