//! A thread as /proc shows it: whether it is there, still the same, and one that may be watched.
//!
//! Source: proc_pid_stat(5).

use std::fs;

/// PF_KTHREAD of include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    /// Clock ticks since boot: with the pid, it names a thread for good.
    pub(super) started_ticks: u64,
    pub(super) kernel: bool,
}

/// The thread, unless it is gone or a zombie.
pub(super) fn find(pid: u32) -> Option<Thread> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Thread> {
    // The name may hold spaces and parentheses; nothing after it does.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X" | "x"))) {
        return None;
    }
    // Fields 9 (flags) and 22 (starttime) of the line, counted from 1; `rest` begins with the third.
    let flags: u32 = fields.get(6)?.parse().ok()?;
    Some(Thread { started_ticks: fields.get(19)?.parse().ok()?, kernel: flags & KERNEL_THREAD != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_with_parentheses() {
        let line = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 8765 1000 10 18446744073709551615";
        assert_eq!(parse(line), Some(Thread { started_ticks: 8765, kernel: false }));
        assert_eq!(parse(&line.replace(") S ", ") Z ")), None);
        assert_eq!(parse(&line.replace("4194560", "2129984")).map(|thread| thread.kernel), Some(true));
        assert_eq!(parse("12 (a"), None);
        assert_eq!(parse("12 (a) S 1 2"), None);
    }

    #[test]
    fn finds_itself_and_nobody() {
        assert!(find(std::process::id()).is_some_and(|thread| !thread.kernel));
        assert_eq!(find(u32::MAX), None);
    }
}
