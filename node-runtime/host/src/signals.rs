//! Signals as a descriptor to poll, and the clean signal state that a container's process must start with.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::{Result, SysError};

/// SIGCHLD, blocked and readable.
#[derive(Debug)]
pub struct ChildSignals(SignalFd);

impl ChildSignals {
    /// Blocks SIGCHLD for this thread. The disposition is reset first: a zygote ignores it, and ignored children can't be waited for.
    pub fn new() -> Result<Self> {
        reset(Signal::SIGCHLD)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(|e| SysError::errno("blocking SIGCHLD", e))?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map(Self)
            .map_err(|e| SysError::errno("opening a signal descriptor", e))
    }

    /// Empties the descriptor. Several deaths may be one signal, so the caller then waits for every child that has ended.
    pub fn drain(&self) -> Result<()> {
        loop {
            match self.0.read_signal() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(e) => return Err(SysError::errno("reading signals", e)),
            }
        }
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Children of this process are reaped by the kernel.
pub fn ignore_children() -> Result<()> {
    set(Signal::SIGCHLD, SigHandler::SigIgn)
}

/// The signal's default disposition. An ignored signal stays ignored over exec.
pub fn reset(signal: Signal) -> Result<()> {
    set(signal, SigHandler::SigDfl)
}

pub fn ignore(signal: Signal) -> Result<()> {
    set(signal, SigHandler::SigIgn)
}

/// What a program expects to start with: nothing blocked, SIGPIPE and SIGCHLD at their defaults (Rust programs ignore SIGPIPE).
pub fn reset_for_exec() -> Result<()> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            reset(signal)?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| SysError::errno("unblocking signals", e))
}

fn set(signal: Signal, handler: SigHandler) -> Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler is SIG_DFL or SIG_IGN, so no code of ours runs in a signal's context.
    #[allow(unsafe_code)]
    let done = unsafe { sigaction(signal, &action) };
    done.map(drop).map_err(|e| SysError::errno(format!("setting the disposition of {signal}"), e))
}

/// The number of a signal by name (`SIGTERM`, `TERM`, `RTMIN+3`) or number, as images name their stop signal.
#[must_use]
pub fn parse(name: &str) -> Option<i32> {
    let name = name.trim();
    if let Ok(number) = name.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = if let Some(rest) = short.strip_prefix("RTMIN") {
        Some((libc::SIGRTMIN(), rest))
    } else {
        short.strip_prefix("RTMAX").map(|rest| (libc::SIGRTMAX(), rest))
    };
    if let Some((base, offset)) = real_time {
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
        let number = base.checked_add(offset)?;
        return (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    format!("SIG{short}").parse::<Signal>().ok().map(number)
}

/// A signal's number.
#[must_use]
pub fn number(signal: Signal) -> i32 {
    // Of the standard signals; a conversion this way there is none.
    (1..libc::SIGRTMIN()).find(|number| Signal::try_from(*number) == Ok(signal)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("15", Some(15)),
            (" SIGQUIT ", Some(3)),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("RTMAX-1", Some(libc::SIGRTMAX() - 1)),
            ("RTMIN", Some(libc::SIGRTMIN())),
            ("RTMIN-5", None),
            ("0", None),
            ("-1", None),
            ("999", None),
            ("SIGNOTHING", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
        for signal in Signal::iterator() {
            assert_eq!(Signal::try_from(number(signal)), Ok(signal));
        }
    }
}
