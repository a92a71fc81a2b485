//! A pod's supervisor: one single-threaded process that outlives the agent.
//!
//! It holds the containers' stdio and writes their logs, reaps them, writes each exit to disk before it tells anybody, and answers on a
//! socket in the pod's directory. It waits in one poll call; nothing happens on a timer but the end of a grace period, and another try to
//! take a connection that there were no descriptors for. Its pod's network namespace, if it has one of its own, lives exactly as long as it
//! or its last container.
//!
//! It ends when told to remove the pod. Until then it stays, so that containers can be started again in the same sandbox.

mod clients;
mod container;
mod create;
mod log;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, pipe2};
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved};
use pullpiri_node_host::cgroup::{Cgroups, container_group};
use pullpiri_node_host::net::namespace;
use pullpiri_node_host::process::{CleanPages, Pidfd};
use pullpiri_node_host::socket::{Listener, SeqPacket, set_nonblocking};
use pullpiri_node_host::{Result, SysError, clock, limits, netns, process, signals};

use self::container::{Container, Live};
pub(super) use self::container::{record_path, write_record};
use self::log::{Log, Source, Stream, StreamState};
pub(super) use self::ports::PORT_TAKEN;
use super::wire::{Answer, Birth, Request, SOCKET_NAME, Start, What};

/// Creating a container takes milliseconds; one that hangs (a dead network file system in a mount) is given up.
const CREATE_DEADLINE: Duration = Duration::from_secs(30);

/// The supervisor's life; returns its exit code. `lock` is held until the end.
pub(super) fn run(birth: Birth, connection: SeqPacket, lock: OwnedFd, pages: CleanPages) -> i32 {
    let dir = birth.dir.clone();
    // Closed last, so that who sees them closed finds the reason.
    let mut held = Some((connection, lock));
    match Supervisor::new(birth, &mut held, pages).and_then(Supervisor::serve) {
        Ok(()) => 0,
        Err(e) => {
            // There is nobody left to tell; the agent sees the socket close and looks here.
            let _ = std::fs::write(dir.join("supervisor.log"), format!("{e}\n"));
            1
        }
    }
}

struct Supervisor {
    dir: PathBuf,
    pod: String,
    cgroups: Cgroups,
    in_nodes_network: bool,
    listener: Listener,
    /// Until then no connection is taken.
    deaf_until: Option<Instant>,
    clients: BTreeMap<u64, SeqPacket>,
    next_client: u64,
    children: signals::ChildSignals,
    containers: BTreeMap<String, Container>,
    /// Requests that wait for the creation that is under way.
    waiting: VecDeque<(u64, Request)>,
    creating: Option<Creating>,
    stopping: Option<Stopping>,
    /// Who asked for the pod's removal.
    removing: Vec<(u64, u64)>,
    done: bool,
    /// Something was done since memory was last given back.
    stirred: bool,
    pages: CleanPages,
    _lock: OwnedFd,
}

/// A container on its way.
struct Creating {
    client: u64,
    request: u64,
    start: Start,
    creator: Pid,
    verdict: File,
    heard: String,
    init: Option<Pid>,
    streams: Vec<Stream>,
    log: Log,
    oom_kills_before: u64,
    deadline: Instant,
}

struct Stopping {
    /// `None` once SIGKILL was sent.
    deadline: Option<Instant>,
    askers: Vec<(u64, u64)>,
}

/// What a descriptor of the poll belongs to.
enum Slot {
    Listener,
    Children,
    Verdict,
    Client(u64),
    Stream { container: String, index: usize },
    CreatingStream { index: usize },
}

impl Supervisor {
    /// Takes what is held once nothing can fail any more.
    fn new(birth: Birth, held: &mut Option<(SeqPacket, OwnedFd)>, pages: CleanPages) -> Result<Self> {
        process::set_name(c"pullpiri-pod")?;
        process::new_session()?;
        process::detach_stdio()?;
        process::set_child_subreaper()?;
        signals::ignore(Signal::SIGPIPE)?;
        let children = signals::ChildSignals::new()?;
        let _ = limits::protect_from_oom();
        let cgroups = Cgroups::probe(&birth.cgroup_root)?;
        if let Some(path) = &birth.network {
            namespace::enter(path)?;
        } else if birth.own_network {
            // Bound in the node's network, served from the pod's.
            let listeners = ports::bind(&birth.ports)?;
            netns::enter_new()?;
            if !listeners.is_empty() {
                process::fork(|| {
                    drop(held.take());
                    ports::serve(&listeners)
                })?;
            }
        }
        let listener = Listener::bind(&birth.dir, SOCKET_NAME)?;
        let (connection, lock) = held.take().ok_or_else(|| SysError {
            attempted: "starting the supervisor".to_owned(),
            source: std::io::Error::other("it was given no connection"),
        })?;
        let mut this = Self {
            dir: birth.dir,
            pod: birth.pod,
            cgroups,
            in_nodes_network: birth.network.is_none() && !birth.own_network,
            listener,
            deaf_until: None,
            clients: BTreeMap::new(),
            next_client: 0,
            children,
            containers: BTreeMap::new(),
            waiting: VecDeque::new(),
            creating: None,
            stopping: None,
            removing: Vec::new(),
            done: false,
            stirred: true,
            pages,
            _lock: lock,
        };
        this.welcome(connection)?;
        Ok(this)
    }

    fn serve(mut self) -> Result<()> {
        while !self.done {
            self.rest();
            for slot in self.wait()? {
                // Logging goes on all the time and isn't worth it.
                self.stirred |= !matches!(slot, Slot::Stream { .. } | Slot::CreatingStream { .. });
                match slot {
                    Slot::Listener => self.take_connections(),
                    Slot::Children => self.reap()?,
                    Slot::Verdict => self.hear_verdict()?,
                    Slot::Client(client) => self.read_client(client)?,
                    Slot::Stream { container, index } => self.pump(&container, index),
                    Slot::CreatingStream { index } => self.pump_creating(index),
                }
            }
            self.check_deadlines()?;
            self.next_request()?;
        }
        Ok(())
    }

    /// Gives back what was needed for what is done now; a supervisor sleeps most of its life, and there may be many.
    fn rest(&mut self) {
        if self.stirred && self.creating.is_none() {
            self.stirred = false;
            process::trim_heap();
            self.pages.release();
        }
    }

    /// Waits until something is to be done.
    fn wait(&self) -> Result<Vec<Slot>> {
        let mut slots = vec![Slot::Verdict, Slot::Children, Slot::Listener];
        let mut fds = Vec::with_capacity(8);
        // The verdict comes first: it may name a process whose end is among the signals.
        match &self.creating {
            Some(creating) => fds.push(PollFd::new(creating.verdict.as_fd(), PollFlags::POLLIN)),
            None => drop(slots.remove(0)),
        }
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        match self.deaf_until {
            None => fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)),
            Some(_) => drop(slots.pop()),
        }
        for (id, client) in &self.clients {
            slots.push(Slot::Client(*id));
            fds.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
        }
        for (name, container) in &self.containers {
            for (index, stream) in container.live.iter().flat_map(|l| &l.streams).enumerate() {
                slots.push(Slot::Stream { container: name.clone(), index });
                fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            }
        }
        for (index, stream) in self.creating.iter().flat_map(|c| &c.streams).enumerate() {
            slots.push(Slot::CreatingStream { index });
            fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
        }
        let deadline = self
            .stopping
            .as_ref()
            .and_then(|s| s.deadline)
            .into_iter()
            .chain(self.creating.as_ref().map(|c| c.deadline))
            .chain(self.deaf_until)
            .min();
        let timeout = match deadline {
            None => PollTimeout::NONE,
            // Rounded up, or the last millisecond would be spun through; a long grace is waited for in pieces.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(e) => {
                return Err(SysError { attempted: "waiting for events".to_owned(), source: e.into() });
            }
        }
        let mut ready: Vec<Slot> = slots
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.revents().is_some_and(|r| !r.is_empty()))
            .map(|(slot, _)| slot)
            .collect();
        // A stream that ends is removed, which moves those behind it.
        ready.sort_by_key(|slot| match slot {
            Slot::Stream { index, .. } | Slot::CreatingStream { index } => usize::MAX - index,
            _ => 0,
        });
        Ok(ready)
    }

    /// Takes up requests in order; a creation holds up those behind it, but not a removal.
    fn next_request(&mut self) -> Result<()> {
        if self.creating.is_some() {
            if self.waiting.iter().any(|(_, r)| matches!(r.what, What::Remove))
                && let Some(creating) = &mut self.creating
            {
                creating.deadline = Instant::now();
            }
            return Ok(());
        }
        while self.creating.is_none() {
            let Some((client, request)) = self.waiting.pop_front() else { return Ok(()) };
            match request.what {
                What::Start(start) => self.start(client, request.id, *start),
                What::Stop { grace_ms } => self.stop(client, request.id, Duration::from_millis(grace_ms))?,
                What::Remove => {
                    self.removing.push((client, request.id));
                    self.kill_all()?;
                    self.settle();
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, client: u64, request: u64, start: Start) {
        if let Some(there) = self.containers.get(&start.container)
            && (there.observed.attempt >= start.attempt || there.live.is_some())
        {
            let now = if there.live.is_some() { "still runs" } else { "was already made" };
            let answer = if there.observed.attempt == start.attempt {
                Answer::Started { id: request, container: there.observed.clone() }
            } else {
                let (name, wanted, had) = (&start.container, start.attempt, there.observed.attempt);
                let message = format!("starting {name} as attempt {wanted}: attempt {had} {now}");
                Answer::Failed { id: request, refused: true, message }
            };
            self.answer(client, &answer);
            return;
        }
        match self.begin(client, request, start) {
            Ok(creating) => self.creating = Some(creating),
            Err(e) => self.answer(client, &Answer::Failed { id: request, refused: false, message: e.to_string() }),
        }
    }

    fn begin(&self, client: u64, request: u64, start: Start) -> std::io::Result<Creating> {
        let log = Log::open(start.log.clone())?;
        let (stdout, stdout_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (verdict, verdict_end) = pipe2(OFlag::O_CLOEXEC)?;
        for fd in [&stdout, &stderr, &verdict] {
            set_nonblocking(fd).map_err(|e| e.source)?;
        }
        let stdin = OwnedFd::from(File::open("/dev/null")?);
        let group = container_group(&self.pod, &start.container);
        let oom_kills_before = self.cgroups.oom_kills(&group).unwrap_or(0);
        let ends = create::Ends { stdin, stdout: stdout_end, stderr: stderr_end, verdict: verdict_end };
        let group = create::Group { cgroups: &self.cgroups, path: &group, in_nodes_network: self.in_nodes_network };
        let creator = process::fork(|| create::run(&start, &group, ends)).map_err(|e| e.source)?;
        Ok(Creating {
            client,
            request,
            start,
            creator,
            verdict: File::from(verdict),
            heard: String::new(),
            init: None,
            streams: vec![Stream::new(Source::Stdout, stdout), Stream::new(Source::Stderr, stderr)],
            log,
            oom_kills_before,
            deadline: Instant::now() + CREATE_DEADLINE,
        })
    }

    /// Reads what the creating process says.
    fn hear_verdict(&mut self) -> Result<()> {
        let Some(creating) = &mut self.creating else { return Ok(()) };
        let mut buffer = [0; 1024];
        loop {
            match nix::unistd::read(&creating.verdict, &mut buffer) {
                Ok(0) => {
                    // It ended without a verdict.
                    let why = self.why_creator_died();
                    return self.created(Err(why));
                }
                Ok(read) => creating.heard.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default())),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
            while let Some((line, rest)) = creating.heard.split_once('\n') {
                let (word, text) = line.split_once(' ').unwrap_or((line, ""));
                let verdict = match word {
                    "pid" => {
                        creating.init = text.parse().ok().map(Pid::from_raw);
                        None
                    }
                    "ok" => Some(Ok(())),
                    word => Some(Err((word == "refused", text.to_owned()))),
                };
                let rest = rest.to_owned();
                creating.heard = rest;
                if let Some(verdict) = verdict {
                    return self.created(verdict);
                }
            }
        }
        Ok(())
    }

    /// Whether trying again can't help, and why.
    fn why_creator_died(&self) -> (bool, String) {
        let died = (false, "the creating process died".to_owned());
        let Some(creating) = &self.creating else { return died };
        let Some(limit) = creating.start.limits.memory_bytes else { return died };
        let kills = self.cgroups.oom_kills(&container_group(&self.pod, &creating.start.container)).unwrap_or(0);
        if kills <= creating.oom_kills_before {
            return died;
        }
        let message = format!(
            "a memory limit of {limit} B (resources.limits.memory) is too little to create it: the kernel ended it for want of \
             memory; expected some MiB"
        );
        (true, message)
    }

    /// The creation has come to its end.
    fn created(&mut self, verdict: std::result::Result<(), (bool, String)>) -> Result<()> {
        let Some(creating) = self.creating.take() else { return Ok(()) };
        let running = match (verdict, creating.init) {
            (Ok(()), Some(init)) => Pidfd::open(init).map(|fd| (init, fd)).map_err(|e| (false, e.to_string())),
            (Ok(()), None) => Err((false, "the creating process named no process".to_owned())),
            (Err(e), _) => Err(e),
        };
        let (pid, pidfd) = match running {
            Ok(running) => running,
            Err((refused, message)) => {
                self.abandon((creating.client, creating.request), &creating.start.container, refused, &message);
                return Ok(());
            }
        };
        let started_at = clock::now();
        let start = creating.start;
        let container = Container {
            observed: ContainerObserved {
                name: start.container.clone(),
                attempt: start.attempt,
                state: ContainerStateObserved::Running {
                    pid: u32::try_from(pid.as_raw()).unwrap_or_default(),
                    started_at,
                },
                container_id: start.container_id,
                image_id: start.image_id,
                before: None,
            },
            live: Some(Live {
                pid,
                pidfd,
                started_at,
                stop_signal: start.stop_signal,
                log: creating.log,
                streams: creating.streams,
                oom_kills_before: creating.oom_kills_before,
            }),
        };
        // A container that isn't on record would be lost with this process. The others are.
        if let Err(e) = container.started(&self.dir, pid) {
            if let Some(live) = &container.live {
                let _ = live.pidfd.send_signal(Signal::SIGKILL);
            }
            let message = format!("it was ended, since its start can't be recorded: {e}");
            self.abandon((creating.client, creating.request), &start.container, false, &message);
            return Ok(());
        }
        let answer = Answer::Started { id: creating.request, container: container.observed.clone() };
        let changed = Answer::Changed { container: container.observed.clone() };
        self.containers.insert(start.container, container);
        self.answer(creating.client, &answer);
        self.tell(&changed);
        Ok(())
    }

    /// Kills whatever was made of a container by now, and says why. The processes are reaped when their ends are signalled.
    fn abandon(&mut self, (client, id): (u64, u64), container: &str, refused: bool, why: &str) {
        let group = container_group(&self.pod, container);
        let _ = self.cgroups.kill(&group, Some(nix::unistd::getpid().as_raw()));
        self.answer(client, &Answer::Failed { id, refused, message: format!("{container}: {why}") });
    }

    /// Waits for every child that has ended.
    fn reap(&mut self) -> Result<()> {
        let failed = |e: Errno| SysError { attempted: "reaping".to_owned(), source: e.into() };
        self.children.drain()?;
        loop {
            // Looked at before it is reaped: while it is a zombie its id can't be another's, and a container's first process may end
            // before its creator's verdict was read.
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let pid = match waitid(Id::All, peek) {
                Ok(status) => match status.pid() {
                    Some(pid) => pid,
                    None => return Ok(()),
                },
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(failed(e)),
            };
            if !self.containers.values().any(|c| c.is(pid)) {
                self.hear_verdict()?;
            }
            let status = waitpid(pid, None).map_err(failed)?;
            if self.creating.as_ref().is_some_and(|c| c.creator == pid) {
                // All that it said was read. A child of it may hold the pipe open, so that there would be no end of it.
                let why = self.why_creator_died();
                self.created(Err(why))?;
            }
            let Some((name, container)) = self.containers.iter_mut().find(|(_, c)| c.is(pid)) else { continue };
            let kills = self.cgroups.oom_kills(&container_group(&self.pod, name)).unwrap_or(0);
            // A full disk must not keep the exit from being told.
            if let Err(e) = container.ended(&self.dir, status, kills) {
                let _ = std::fs::write(self.dir.join("supervisor.log"), format!("{e}\n"));
            }
            let changed = Answer::Changed { container: container.observed.clone() };
            self.tell(&changed);
            self.settle();
        }
    }

    fn stop(&mut self, client: u64, request: u64, grace: Duration) -> Result<()> {
        for live in self.containers.values().filter_map(|c| c.live.as_ref()) {
            live.pidfd.send_raw(live.stop_signal)?;
        }
        let deadline = Instant::now() + grace;
        match &mut self.stopping {
            Some(stopping) => {
                // A second request can only shorten the grace.
                stopping.deadline = stopping.deadline.map(|d| d.min(deadline));
                stopping.askers.push((client, request));
            }
            None => self.stopping = Some(Stopping { deadline: Some(deadline), askers: vec![(client, request)] }),
        }
        self.settle();
        self.check_deadlines()
    }

    fn kill_all(&self) -> Result<()> {
        for live in self.containers.values().filter_map(|c| c.live.as_ref()) {
            live.pidfd.send_signal(Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Answers those who waited for nothing to run.
    fn settle(&mut self) {
        if self.containers.values().any(|c| c.live.is_some()) {
            return;
        }
        let stopped = self.stopping.take().map(|s| s.askers).unwrap_or_default();
        let removed = std::mem::take(&mut self.removing);
        self.done |= !removed.is_empty();
        for (client, id) in stopped.into_iter().chain(removed) {
            self.answer(client, &Answer::Done { id });
        }
    }

    fn check_deadlines(&mut self) -> Result<()> {
        let now = Instant::now();
        self.deaf_until = self.deaf_until.filter(|until| *until > now);
        if let Some(stopping) = &mut self.stopping
            && stopping.deadline.is_some_and(|d| d <= now)
        {
            stopping.deadline = None;
            self.kill_all()?;
        }
        if let Some(creating) = &self.creating
            && creating.deadline <= now
        {
            let _ = nix::sys::signal::kill(creating.creator, Signal::SIGKILL);
            self.created(Err((false, "creating the container was given up".to_owned())))?;
        }
        Ok(())
    }

    fn pump(&mut self, container: &str, index: usize) {
        let Some(live) = self.containers.get_mut(container).and_then(|c| c.live.as_mut()) else { return };
        let Some(stream) = live.streams.get_mut(index) else { return };
        if stream.pump(&mut live.log) == StreamState::Ended {
            live.streams.remove(index);
        }
    }

    fn pump_creating(&mut self, index: usize) {
        let Some(creating) = &mut self.creating else { return };
        let Some(stream) = creating.streams.get_mut(index) else { return };
        if stream.pump(&mut creating.log) == StreamState::Ended {
            creating.streams.remove(index);
        }
    }
}
