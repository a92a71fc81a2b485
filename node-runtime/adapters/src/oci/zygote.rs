//! The zygote: a single-threaded process from which supervisors are forked.
//!
//! libcontainer clones and then allocates, and changes directory, so it must never run in a threaded process. The agent has threads;
//! the zygote, made before the first of them, has none and stays as small as the program was at that moment. Supervisors share its
//! pages. It ends when the agent's end of its socket closes; supervisors don't.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use pullpiri_node_host::cgroup::{self, Cgroups};
use pullpiri_node_host::process::CleanPages;
use pullpiri_node_host::socket::{Message, Received, SeqPacket};
use pullpiri_node_host::{SysError, descriptors, process, signals};

use super::supervisor;
use super::wire::Birth;

/// The argument by which a re-executed program knows that it is to be a zygote.
const ARGUMENT: &str = "__pullpiri-zygote";
/// The same for one that leaves the container that its agent is in.
const ARGUMENT_OUTSIDE: &str = "__pullpiri-zygote-outside";

/// Where supervisors and their pods belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// With the agent, but for what a service manager looks at when it stops the agent.
    #[default]
    Beside,
    /// Outside of the container that the agent is in: they outlive it.
    Outside,
}

/// The zygote couldn't be made or doesn't answer.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    #[error("starting the zygote: {0}")]
    Start(#[source] io::Error),
    #[error("asking the zygote for a supervisor: {0}")]
    Ask(#[from] SysError),
}

/// A handle on the zygote; dropping it ends the zygote.
#[derive(Debug)]
pub struct Zygote {
    live: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    /// `None` while it is being dropped.
    socket: Option<SeqPacket>,
    process: Process,
    place: Place,
}

#[derive(Debug)]
enum Process {
    Forked(Pid),
    Executed(Child),
}

/// Forks the zygote. Call it first thing in `main`: it is refused once there are threads.
pub fn fork() -> Result<Zygote, ZygoteError> {
    fork_at(Place::default())
}

/// [`fork`], for an agent in a container too.
pub fn fork_at(place: Place) -> Result<Zygote, ZygoteError> {
    let (ours, theirs) = SeqPacket::pair()?;
    let mut ours = Some(ours);
    let pid = process::fork(|| {
        drop(ours.take());
        serve(theirs, place)
    })?;
    let socket = ours.take();
    Ok(Zygote { live: Mutex::new(Live { socket, process: Process::Forked(pid), place }) })
}

/// Starts the zygote from a process that has threads already, by executing this program anew. Its `main` must begin with
/// [`supervisor_main`](super::supervisor_main).
pub fn execute() -> Result<Zygote, ZygoteError> {
    Ok(Zygote { live: Mutex::new(Live::execute(Place::default())?) })
}

/// Serves as the zygote and doesn't return if this program was executed to be one.
pub(super) fn run_if_asked() {
    let place = match std::env::args_os().nth(1) {
        Some(argument) if argument == ARGUMENT => Place::Beside,
        Some(argument) if argument == ARGUMENT_OUTSIDE => Place::Outside,
        _ => return,
    };
    // The agent's socket came as stdin.
    let code = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => serve(SeqPacket::from_fd(fd), place),
        Err(_) => 1,
    };
    process::exit_now(code)
}

impl Live {
    fn execute(place: Place) -> Result<Self, ZygoteError> {
        let (ours, theirs) = SeqPacket::pair()?;
        let child = Command::new(Path::new("/proc/self/exe"))
            .arg(match place {
                Place::Beside => ARGUMENT,
                Place::Outside => ARGUMENT_OUTSIDE,
            })
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ZygoteError::Start)?;
        // It has borne nobody yet. An identifier that doesn't fit is none.
        descriptors::lower_limit_of(i32::try_from(child.id()).unwrap_or(i32::MAX))?;
        Ok(Self { socket: Some(ours), process: Process::Executed(child), place })
    }

    fn send(&self, bytes: &[u8], fds: [&OwnedFd; 2]) -> Result<(), SysError> {
        match &self.socket {
            Some(socket) => socket.send(bytes, &fds.map(AsFd::as_fd)),
            None => Ok(()),
        }
    }
}

impl Zygote {
    /// Has a supervisor forked. If the zygote was killed, another takes its place.
    pub(super) fn bear(&self, birth: &Birth, connection: &OwnedFd, lock: &OwnedFd) -> Result<(), ZygoteError> {
        let bytes = serde_json::to_vec(birth).map_err(|e| ZygoteError::Start(e.into()))?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match live.send(&bytes, [connection, lock]) {
            Err(e) if matches!(e.source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                tracing::warn!("the zygote is gone; starting another");
                *live = Live::execute(live.place)?;
                Ok(live.send(&bytes, [connection, lock])?)
            }
            other => Ok(other?),
        }
    }

    /// The zygote's process id, for measurements.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match &self.live.lock().unwrap_or_else(PoisonError::into_inner).process {
            Process::Forked(pid) => pid.as_raw(),
            Process::Executed(child) => i32::try_from(child.id()).unwrap_or(-1),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It ends by itself once this end is closed; what remains is to reap it.
        drop(self.socket.take());
        match &mut self.process {
            Process::Forked(pid) => drop(waitpid(*pid, None)),
            Process::Executed(child) => drop(child.wait()),
        }
    }
}

/// The zygote's life: a fork for each message until the agent is gone.
fn serve(socket: SeqPacket, place: Place) -> i32 {
    let Ok(socket) = process::close_inherited(socket.into_fd()).map(SeqPacket::from_fd) else { return 1 };
    let prepared = process::set_name(c"pullpiri-zygote")
        // A terminal's Ctrl-C is for the agent alone.
        .and_then(|()| process::new_session())
        .and_then(|()| process::detach_stdio())
        .and_then(|()| signals::ignore_children());
    if prepared.is_err() {
        return 1;
    }
    // Whoever wants to unmount the agent's directory can.
    let _ = std::env::set_current_dir("/");
    let cgroups = Cgroups::probe(Path::new(cgroup::DEFAULT_ROOT));
    // Pods that would end with the agent's container aren't started: the agent hears that nobody answers.
    if place == Place::Outside && cgroups.as_ref().is_ok_and(|c| c.leave_container().is_err()) {
        return 1;
    }
    // Only matters where a service manager runs the agent, and is no reason not to run pods where it can't be done. In a container it is what
    // takes them out of its group of version 2.
    let entered = cgroups.as_ref().is_ok_and(|c| c.enter_supervisors().is_ok());
    if place == Place::Outside && !entered {
        return 1;
    }
    let pages = CleanPages::find().unwrap_or_default();
    let mut socket = Some(socket);
    while let Some(open) = &socket {
        process::trim_heap();
        pages.release();
        let message = match open.receive() {
            Ok(Received::Message(message)) => message,
            Ok(Received::Closed) | Err(_) => break,
            Ok(Received::Nothing) => continue,
        };
        if let Some((birth, connection, lock)) = understand(message) {
            // If the fork fails, both descriptors close and the agent learns of it by that.
            let _ = process::fork(|| {
                drop(socket.take());
                supervisor::run(birth, connection, lock, pages.clone())
            });
        }
    }
    if let Ok(cgroups) = &cgroups {
        cgroups.leave_nothing();
    }
    0
}

fn understand(message: Message) -> Option<(Birth, SeqPacket, OwnedFd)> {
    let birth = serde_json::from_slice(&message.bytes).ok()?;
    let mut fds = message.fds.into_iter();
    Some((birth, SeqPacket::from_fd(fds.next()?), fds.next()?))
}
