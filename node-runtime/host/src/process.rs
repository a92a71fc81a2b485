//! Processes: fork, pidfds, names, and telling a process from another that was given its id later.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};

use crate::{Result, SysError};

/// The exit code of a forked child whose function panicked.
pub const PANIC_EXIT_CODE: i32 = 101;

/// Forks; the child runs `child` and exits with what it returns, without running the parent's exit handlers.
///
/// Refused in a process with more than one thread: the child would inherit locks (the allocator's among them) that nobody releases.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Pid> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(SysError::io(
            "forking",
            std::io::Error::other(format!("the process has {threads} threads, a fork needs exactly one")),
        ));
    }
    // SAFETY: this process has one thread, as was just read from the kernel, so the child's copy of every lock is in a consistent
    // state and it may allocate.
    #[allow(unsafe_code)]
    let forked = unsafe { nix::unistd::fork() };
    match forked.map_err(|e| SysError::errno("forking", e))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANIC_EXIT_CODE);
            exit_now(code)
        }
    }
}

/// Exits at once: no destructors, no exit handlers, which belong to the parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and doesn't return.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// How many threads this process has.
pub fn thread_count() -> Result<usize> {
    let attempted = "counting the threads of this process";
    let entries = std::fs::read_dir("/proc/self/task").map_err(|e| SysError::io(attempted, e))?;
    Ok(entries.count())
}

/// A reference to one process that stays valid when its id is reused.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    pub fn open(pid: Pid) -> Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        #[allow(unsafe_code)]
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = RawFd::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(SysError::last(format!("opening process {pid}")));
        }
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        #[allow(unsafe_code)]
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(fd))
    }

    /// The process that has this number now, if one has.
    pub fn find(pid: u32) -> Result<Option<Self>> {
        let Ok(pid @ 1..) = i32::try_from(pid) else { return Ok(None) };
        match Self::open(Pid::from_raw(pid)) {
            Ok(process) => Ok(Some(process)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a descriptor that another process sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a signal; a process that is gone is no error.
    pub fn send_signal(&self, signal: Signal) -> Result<()> {
        self.send_raw(crate::signals::number(signal))
    }

    /// As [`send_signal`](Self::send_signal), with any number: images may name real-time signals.
    pub fn send_raw(&self, signal: i32) -> Result<()> {
        // SAFETY: the descriptor is a live pidfd, the siginfo pointer may be null and the flags are 0.
        #[allow(unsafe_code)]
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent == 0 {
            return Ok(());
        }
        let error = SysError::last(format!("sending signal {signal}"));
        if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
    }

    /// Waits until the process has ended, at most for `patience`; whether it has.
    pub fn wait_ended(&self, patience: Duration) -> Result<bool> {
        // Beyond what a clock can tell: for ever.
        let deadline = Instant::now().checked_add(patience);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            // Rounded up, or the last millisecond would be spun through; poll takes a minute at once.
            let piece = u16::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX);
            match poll(&mut fds, PollTimeout::from(piece)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(SysError::errno("waiting for a process to end", e)),
            }
        }
    }

    /// The process' id in this PID namespace; `None` once it has been reaped.
    pub fn pid(&self) -> Result<Option<i32>> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(&path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
        let pid = info.lines().find_map(|l| l.strip_prefix("Pid:")).and_then(|p| p.trim().parse::<i32>().ok());
        Ok(pid.filter(|p| *p > 0))
    }

    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// SIGTERM, and SIGKILL after `grace`; waits until the process is gone. One that is gone already is no error.
///
/// # Errors
/// ETIMEDOUT: it is stuck in the kernel.
pub fn end(process: &Pidfd, grace: Duration) -> Result<()> {
    /// SIGKILL takes no longer, unless the process is stuck in the kernel.
    const LAST_WAIT: Duration = Duration::from_secs(10);
    for (signal, wait) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, LAST_WAIT)] {
        process.send_signal(signal)?;
        if process.wait_ended(wait)? {
            return Ok(());
        }
    }
    let pid = process.pid().ok().flatten().unwrap_or_default();
    Err(SysError::errno(format!("ending process {pid}"), nix::errno::Errno::ETIMEDOUT))
}

/// When a process started, in clock ticks since boot: with its id, it names one process of this boot.
pub fn start_ticks(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    parse_start_ticks(&stat).ok_or_else(|| {
        SysError::io(format!("reading {path}"), std::io::Error::other("no start time in field 22".to_owned()))
    })
}

/// The name in field 2 is in parentheses and may hold spaces and parentheses itself: fields count from the last `)`.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // After the name comes field 3; the start time is field 22.
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Every process whose nearest living ancestor is this one inherits to us, not to process 1.
pub fn set_child_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| SysError::errno("becoming a child subreaper", e))
}

/// The name that `ps` shows, cut to 15 bytes by the kernel.
pub fn set_name(name: &CStr) -> Result<()> {
    nix::sys::prctl::set_name(name).map_err(|e| SysError::errno("naming this process", e))
}

/// Leaves the session and thereby the terminal's signals.
pub fn new_session() -> Result<()> {
    nix::unistd::setsid().map(drop).map_err(|e| SysError::errno("starting a session", e))
}

/// Points stdin, stdout and stderr at `/dev/null`.
pub fn detach_stdio() -> Result<()> {
    let attempted = "pointing stdio at /dev/null";
    let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).map_err(|e| SysError::errno(attempted, e))?;
    nix::unistd::dup2_stdin(&null).map_err(|e| SysError::errno(attempted, e))?;
    nix::unistd::dup2_stdout(&null).map_err(|e| SysError::errno(attempted, e))?;
    nix::unistd::dup2_stderr(&null).map_err(|e| SysError::errno(attempted, e))?;
    if null.as_raw_fd() <= 2 {
        // It took the place of a closed stdio descriptor and must stay.
        std::mem::forget(null);
    }
    Ok(())
}

/// Closes every descriptor above stderr but `keep`, which gets number 3: what a parent left open without marking it must not be held open
/// by a process that outlives it (a pipe whose reader waits for its end, a mount that is to be unmounted).
///
/// For a process that was just forked or executed and owns no other descriptor.
pub fn close_inherited(keep: OwnedFd) -> Result<OwnedFd> {
    const NUMBER: RawFd = 3;
    let attempted = "closing inherited descriptors";
    let keep = if keep.as_raw_fd() == NUMBER {
        keep
    } else {
        // SAFETY: dup3 takes two numbers; whatever had number 3 is unmarked inheritance that is to be closed.
        #[allow(unsafe_code)]
        let duplicated = unsafe { libc::dup3(keep.as_raw_fd(), NUMBER, libc::O_CLOEXEC) };
        if duplicated < 0 {
            return Err(SysError::last(attempted));
        }
        drop(keep);
        // SAFETY: dup3 just made this descriptor for us.
        #[allow(unsafe_code)]
        unsafe {
            OwnedFd::from_raw_fd(NUMBER)
        }
    };
    // SAFETY: close_range takes numbers. By contract this process owns no descriptor in the range.
    #[allow(unsafe_code)]
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 4_u32, u32::MAX, 0_u32) };
    if closed == 0 { Ok(keep) } else { Err(SysError::last(attempted)) }
}

/// Gives memory that the allocator holds back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes a number and touches only free memory of the allocator.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

/// Where this process maps files that it has never written to: its program's code and constants, and those of libraries.
///
/// A process that sleeps most of its life need not have them mapped meanwhile: [`CleanPages::release`] unmaps the pages, and each is
/// mapped again from the page cache when it is next touched. Children that were forked have the same mappings.
#[derive(Clone, Debug, Default)]
pub struct CleanPages(Vec<(usize, usize)>);

impl CleanPages {
    /// Reads the mappings of this process.
    pub fn find() -> Result<Self> {
        let path = "/proc/self/smaps";
        let text = std::fs::read_to_string(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
        Ok(Self(parse_clean_ranges(&text)))
    }

    /// Unmaps the pages. No other thread may be running.
    pub fn release(&self) {
        for (start, length) in &self.0 {
            let address = std::ptr::with_exposed_provenance_mut::<libc::c_void>(*start);
            // SAFETY: the range is a read-only private mapping of a file without a page of our own in it, as the kernel said; what is
            // unmapped is read from the same file again. A range that is gone is an error that changes nothing.
            #[allow(unsafe_code)]
            let _ = unsafe { libc::madvise(address, *length, libc::MADV_DONTNEED) };
        }
    }
}

/// Ranges (start, length) of file mappings that can't be written and hold no page that was (relocations leave such pages).
fn parse_clean_ranges(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let address = |hex: &str| usize::from_str_radix(hex, 16).ok();
            let (mode, inode, name) = (fields.next(), fields.nth(2), fields.next());
            let is_file = inode.is_some_and(|i| i != "0") && name.is_some_and(|n| n.starts_with('/'));
            candidate = match (address(start), address(end), mode) {
                (Some(start), Some(end), Some("r--p" | "r-xp")) if is_file => Some((start, end.saturating_sub(start))),
                _ => None,
            };
        } else if first == "Anonymous:"
            && let Some(range) = candidate.take()
            && fields.next() == Some("0")
        {
            found.push(range);
        }
    }
    found
}

/// The proportional set size of a process in bytes: its private memory plus its share of what others map too.
pub fn pss_bytes(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|v| v.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .ok_or_else(|| SysError::io(format!("reading {path}"), std::io::Error::other("no Pss line".to_owned())))?;
    Ok(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_awkward_names() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["sh", "a b", "x) y (", "))"] {
            assert_eq!(parse_start_ticks(&format!("12 ({name}) {rest}")), Some(4242), "{name}");
        }
        assert_eq!(parse_start_ticks("12 (sh) S 1"), None);
        assert_eq!(parse_start_ticks(""), None);
    }

    #[test]
    fn a_process_has_a_stable_start_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(start_ticks(pid).unwrap(), start_ticks(pid).unwrap());
        assert!(start_ticks(i32::MAX).is_err());
    }

    #[test]
    fn a_fork_is_refused_in_a_threaded_process() {
        // The test harness runs this on a thread of its own.
        let error = fork(|| 0).unwrap_err().to_string();
        assert!(error.contains("threads"), "{error}");
    }

    #[test]
    fn a_pidfd_sees_its_process_end() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let pidfd = Pidfd::open(pid).unwrap();
        assert_eq!(pidfd.pid().unwrap(), Some(pid.as_raw()));
        assert!(!pidfd.wait_ended(Duration::ZERO).unwrap());
        assert!(!pidfd.wait_ended(Duration::from_micros(1)).unwrap());
        pidfd.send_signal(Signal::SIGKILL).unwrap();
        assert!(pidfd.wait_ended(Duration::MAX).unwrap());
        child.wait().unwrap();
        pidfd.send_signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_ended() {
        for grace in [Duration::ZERO, Duration::from_millis(20)] {
            let mut child = std::process::Command::new("sh")
                .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
                .spawn()
                .unwrap();
            let process = Pidfd::find(child.id()).unwrap().unwrap();
            end(&process, grace).unwrap();
            assert!(!child.wait().unwrap().success());
            end(&process, grace).unwrap();
        }
        assert!(Pidfd::find(0).unwrap().is_none() && Pidfd::find(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn only_clean_file_mappings_are_released() {
        let mapping = |range: &str, mode: &str, inode: &str, name: &str, anonymous: &str| {
            format!(
                "{range} {mode} 00000000 fe:00 {inode} {name}\nSize: 8 kB\nAnonymous: {anonymous} kB\nVmFlags: rd\n"
            )
        };
        let text = [
            mapping("1000-3000", "r-xp", "7", "/bin/p", "0"),
            mapping("3000-4000", "r--p", "7", "/bin/p", "0"),
            mapping("4000-6000", "r--p", "7", "/bin/p", "8"),
            mapping("6000-7000", "rw-p", "7", "/bin/p", "0"),
            mapping("7000-8000", "rw-p", "0", "[heap]", "4"),
            mapping("8000-9000", "r-xp", "0", "[vdso]", "0"),
            mapping("9000-a000", "r--p", "0", "", "0"),
            mapping("a000-b000", "r--s", "9", "/shared", "0"),
        ]
        .concat();
        assert_eq!(parse_clean_ranges(&text), [(0x1000, 0x2000), (0x3000, 0x1000)]);
        let own = CleanPages::find().unwrap();
        assert!(!own.0.is_empty());
    }

    #[test]
    fn pss_of_this_process_is_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(pss_bytes(pid).unwrap() > 0);
    }
}
