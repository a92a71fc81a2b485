//! The threads of a container: those of every process in its cgroup.
//!
//! A thread is named by its id and its start time, since ids are reused (proc_pid_stat(5), field 22).

use std::collections::BTreeSet;

use pullpiri_node_core::realtime::{Cpus, Settings};

use super::{affinity, settings};
use crate::cgroup::{Cgroups, Layout};
use crate::{Result, SysError};

/// A thread as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The process (thread group).
    pub pid: i32,
    pub tid: i32,
    /// Clock ticks since boot.
    pub started: u64,
    /// At most 15 bytes.
    pub name: String,
    pub settings: Settings,
    pub cpus: Cpus,
}

/// Reads one thread of a process; `None` if it is gone.
///
/// # Errors
/// If the kernel refuses to say.
pub fn thread(pid: i32, tid: i32) -> Result<Option<Thread>> {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    let stat = match std::fs::read(&path) {
        Ok(stat) => String::from_utf8_lossy(&stat).into_owned(),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(SysError::io(format!("reading {path}"), error)),
    };
    let Some((name, started, dead)) = parse(&stat) else {
        return Err(SysError::io(format!("reading {path}"), std::io::Error::other("not a line of proc_pid_stat(5)")));
    };
    if dead {
        return Ok(None);
    }
    match (settings(tid), affinity(tid)) {
        (Ok(settings), Ok(cpus)) => Ok(Some(Thread { pid, tid, started, name, settings, cpus })),
        (Err(error), _) | (_, Err(error)) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// The threads of a process, by id; none if it is gone.
///
/// # Errors
/// If the kernel refuses to say.
pub fn threads_of(pid: i32) -> Result<Vec<Thread>> {
    let path = format!("/proc/{pid}/task");
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(SysError::io(format!("reading {path}"), error)),
    };
    let mut threads = Vec::new();
    for entry in entries.flatten() {
        if let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            threads.extend(thread(pid, tid)?);
        }
    }
    threads.sort_by_key(|thread| thread.tid);
    Ok(threads)
}

/// The CPU that a thread runs on, or ran on before it went to sleep; `None` if it is gone. Moving a thread that sleeps changes where it wakes, not this.
#[must_use]
pub fn last_cpu(pid: i32, tid: i32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    parse_cpu(&String::from_utf8_lossy(&stat))
}

/// The group that a process is in, for a controller, without a leading slash: empty in the root group. `None` if it is gone or no hierarchy has the
/// controller.
#[must_use]
pub fn group_of(pid: i32, controller: &str, layout: Layout) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    parse_group(&text, controller, layout)
}

/// The processes of the container whose first process is `pid`: all of its cgroup and below, or itself alone if it has no cgroup of its own.
///
/// # Errors
/// If the cgroup can't be read.
pub fn processes_of(cgroups: &Cgroups, pid: i32) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::from([pid]);
    for controller in ["cpu", "pids", "memory"] {
        let Some(mut group) = group_of(pid, controller, cgroups.layout()).filter(|group| !group.is_empty()) else {
            continue;
        };
        // Version 2 has the threads of a CPU set apart in a group below their container's.
        if let (true, Some((home, _))) = (super::ApartCpus::is_apart(&group), group.rsplit_once('/')) {
            group = home.to_owned();
        }
        if let Some(path) = cgroups.controller_path(controller, &group) {
            crate::cgroup::collect(&path, &mut found)?;
            break;
        }
    }
    Ok(found)
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Name, start time, and whether it has ended but wasn't reaped. The name may hold anything, so fields count from the last `)`.
fn parse(stat: &str) -> Option<(String, u64, bool)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 3 is taken; the start time is field 22.
    let started = fields.nth(18)?.parse().ok()?;
    Some((name.to_owned(), started, matches!(state, "Z" | "X" | "x")))
}

/// Field 39; the first after the name is field 3.
fn parse_cpu(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(36)?.parse().ok()
}

fn parse_group(text: &str, controller: &str, layout: Layout) -> Option<String> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let fits = match layout {
            Layout::Unified => controllers.is_empty(),
            Layout::Hybrid | Layout::Legacy => controllers.split(',').any(|other| other == controller),
        };
        fits.then(|| path.trim_matches('/').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_awkward_names() {
        let rest = "S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4242 21 22";
        for name in ["sh", "a b", "x) y (", "))"] {
            assert_eq!(parse(&format!("12 ({name}) {rest}")), Some((name.to_owned(), 4242, false)), "{name}");
        }
        assert_eq!(parse(&format!("12 (z) Z{}", &rest[1..])).map(|(_, _, dead)| dead), Some(true));
        assert_eq!(parse("12 (sh) S 1"), None);
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        assert_eq!(parse_cpu(&format!("12 (a) b) S {}", fields.join(" "))), Some(39));
        assert_eq!(parse_cpu(&format!("12 (a) {rest}")), None);
    }

    #[test]
    fn groups_of_each_layout() {
        let hybrid = "4:memory:/other\n2:cpu,cpuacct:/pullpiri/p/c\n1:name=systemd:/\n0::/\n";
        assert_eq!(parse_group(hybrid, "cpu", Layout::Hybrid).as_deref(), Some("pullpiri/p/c"));
        assert_eq!(parse_group(hybrid, "cpuset", Layout::Hybrid), None);
        assert_eq!(parse_group("0::/a/b\n", "cpu", Layout::Unified).as_deref(), Some("a/b"));
        assert_eq!(parse_group("3:cpu:/\n", "cpu", Layout::Legacy).as_deref(), Some(""));
    }

    #[test]
    fn a_named_thread_of_this_process_is_found() {
        let (send, stop) = std::sync::mpsc::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sched-test".into())
            .spawn(move || {
                ready.send(()).unwrap();
                let _ = stop.recv();
            })
            .unwrap();
        started.recv().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let found = threads_of(pid).unwrap();
        let named: Vec<&Thread> = found.iter().filter(|thread| thread.name == "sched-test").collect();
        assert_eq!(named.len(), 1, "{found:?}");
        assert_eq!(super::thread(pid, named[0].tid).unwrap().as_ref(), Some(named[0]));
        assert!(named[0].started > 0 && !named[0].cpus.is_empty());
        drop(send);
        thread.join().unwrap();
        assert!(threads_of(i32::MAX).unwrap().is_empty());
    }

    #[test]
    fn the_processes_of_a_group() {
        let cgroups = match Cgroups::probe(std::path::Path::new(crate::cgroup::DEFAULT_ROOT)) {
            Ok(cgroups) => cgroups,
            Err(error) => return println!("skipped: {error}"),
        };
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(processes_of(&cgroups, pid).unwrap().contains(&pid));
    }
}
