//! Creating one container with libcontainer, in a process forked for it.
//!
//! libcontainer allocates, changes directory and makes its process non-dumpable; a process of its own keeps all that out of the
//! supervisor, which stays small for the pod's whole life. The container's first process is a child of this one, and becomes the
//! supervisor's when this one ends, because the supervisor is a child subreaper.
//!
//! The cgroup is ours to make and join, before libcontainer runs: it would join through the slow way for each of twelve controllers, having
//! read the list of mounts for each. So that it finds nothing to join, this process' mount namespace has no cgroups.
//!
//! The root file system is an overlay in a mount namespace that only the container keeps: nothing is to be unmounted when it ends.
//!
//! What comes of it is told through a pipe: `pid N`, then `ok` once the program runs, or `refused …` or `failed …`.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::NotifySocket;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, pipe2};
use pullpiri_node_host::cgroup::{self, Cgroups};
use pullpiri_node_host::mount::{self, Overlay};
use pullpiri_node_host::{files, process, signals};

use crate::oci::wire::{Start, SubPath};

/// Where the program looks if neither image nor specification sets PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's ends of its pipes and ours for the verdict.
pub(super) struct Ends {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub verdict: OwnedFd,
}

/// Why no container came of it.
enum Failure {
    /// Trying again won't help.
    Refused(String),
    Failed(String),
}

/// A container's cgroup.
pub(super) struct Group<'a> {
    pub cgroups: &'a Cgroups,
    pub path: &'a str,
    /// Whether the container is in the node's own network, where what it sends is told from others' by its cgroup.
    pub in_nodes_network: bool,
}

/// The life of the creating process; returns its exit code.
pub(super) fn run(start: &Start, group: &Group<'_>, ends: Ends) -> i32 {
    let mut verdict = File::from(ends.verdict);
    let outcome = join(start, group).and_then(|()| create(start, ends.stdin, ends.stdout, ends.stderr, &mut verdict));
    let (word, message, code) = match outcome {
        Ok(()) => ("ok", String::new(), 0),
        Err(Failure::Refused(message)) => ("refused", message, 1),
        Err(Failure::Failed(message)) => ("failed", message, 1),
    };
    // One line, and short enough for a pipe to take it whole.
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
    match verdict.write_all(format!("{word} {message}\n").as_bytes()) {
        Ok(()) => code,
        Err(_) => 2,
    }
}

fn join(start: &Start, group: &Group<'_>) -> Result<(), Failure> {
    let Group { cgroups, path, in_nodes_network } = group;
    cgroups
        .prepare(path, &start.limits, &start.devices)
        .and_then(|()| cgroups.join(path))
        .map_err(|e| Failure::Failed(format!("setting limits: {e}")))?;
    if *in_nodes_network {
        // It runs without as well; the node says that it has no class.
        let _ = cgroups.join_for_network(path);
    }
    Ok(())
}

fn create(start: &Start, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd, verdict: &mut File) -> Result<(), Failure> {
    let failed = |attempted: &str, e: &dyn std::fmt::Display| Failure::Failed(format!("{attempted}: {e}"));
    signals::reset_for_exec().map_err(|e| failed("preparing the process", &e))?;
    umask(Mode::from_bits_truncate(0o022));
    let _ = process::set_name(c"pullpiri-create");

    let root = start.dir.join("rootfs");
    let (upper, work) = (start.dir.join("upper"), start.dir.join("work"));
    let state = start.dir.join("state");
    for dir in [&root, &upper, &work, &state] {
        fs::create_dir_all(dir).map_err(|e| failed(&format!("making {}", dir.display()), &e))?;
    }
    mount::enter_private().map_err(|e| failed("preparing mounts", &e))?;
    mount::blank(Path::new(cgroup::DEFAULT_ROOT)).map_err(|e| failed("preparing mounts", &e))?;
    start.sub_paths.iter().try_for_each(stage)?;
    std::env::set_current_dir(&start.layers_dir)
        .map_err(|e| failed(&format!("entering {}", start.layers_dir.display()), &e))?;
    mount::overlay(&Overlay { lower: &start.lower, upper: &upper, work: &work }, &root)
        .map_err(|e| failed("mounting the image", &e))?;

    // Closed by a successful exec, written to by one that fails.
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("opening a pipe", &e))?;
    let executor = Program { failure: Arc::new(writer) };
    let built = ContainerBuilder::new(start.container_id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&state)
        .map_err(|e| failed("creating the container", &chain(&e)))?
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .as_init(&start.dir)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|e| {
            no_working_directory(start, &root).unwrap_or_else(|| failed("creating the container", &chain(&e)))
        })?;
    let pid = built.pid().ok_or_else(|| Failure::Failed("creating the container: it has no process".to_owned()))?;
    verdict.write_all(format!("pid {pid}\n").as_bytes()).map_err(|e| failed("telling the supervisor", &e))?;

    let kill_on = |failure: Failure| {
        let _ = kill(Pid::from_raw(pid.as_raw()), Signal::SIGKILL);
        failure
    };
    NotifySocket::new(state.join(&start.container_id).join("notify.sock"))
        .notify_container_start()
        .map_err(|e| kill_on(failed("starting the container", &chain(&e))))?;
    let mut complaint = String::new();
    File::from(reader).read_to_string(&mut complaint).map_err(|e| kill_on(failed("starting the container", &e)))?;
    if complaint.is_empty() {
        return Ok(());
    }
    Err(kill_on(Failure::Refused(complaint)))
}

/// Binds a part of a volume to where the specification looks for it. Another container of the volume may swap links at any moment, so the
/// part is opened so that it can't lead out, and what was opened is bound, not what has its name by then. libcontainer resolves sources
/// by name: this one is in a directory that no container has.
fn stage(part: &SubPath) -> Result<(), Failure> {
    let refused = |e: &dyn std::fmt::Display| {
        Failure::Refused(format!("subPath {}: {e}; expected a path that stays in its volume", part.path.display()))
    };
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(format!("mounting subPath {}: {e}", part.path.display()));
    let opened = files::make_below(&part.base, &part.path).map_err(|e| refused(&e))?;
    let opened = File::from(opened);
    let is_directory = opened.metadata().map_err(|e| failed(&e))?.is_dir();
    let parent = part.at.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| if is_directory { fs::create_dir(&part.at) } else { File::create_new(&part.at).map(drop) })
        .map_err(|e| failed(&e))?;
    mount::bind_open(opened.as_fd(), &part.at).map_err(|e| failed(&e))
}

/// Why a container that couldn't be created has nowhere to run in, if that is why: libcontainer says no more than that a system call
/// failed. A directory that a volume brings is looked for in that volume by the kernel only, so this isn't asked beforehand.
fn no_working_directory(start: &Start, root: &Path) -> Option<Failure> {
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(start.dir.join("config.json")).ok()?).ok()?;
    let directory = spec.pointer("/process/cwd")?.as_str()?;
    let inside = files::Root::open(root).ok()?;
    if inside.open_within(Path::new(directory), OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok() {
        return None;
    }
    Some(Failure::Refused(format!(
        "working directory {directory:?} (workingDir) is no directory of the image, nor of a volume; expected one that is there"
    )))
}

/// An error with its causes, each once: libcontainer often says the same on several levels.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Executes the container's program. What libcontainer's own executor lacks: errors that reach the supervisor after the container
/// was started, a default PATH, and values that aren't UTF-8 don't matter.
#[derive(Clone)]
struct Program {
    failure: Arc<OwnedFd>,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let complaint = execute(spec);
        let mut rest = complaint.as_bytes();
        while let Ok(written @ 1..) = nix::unistd::write(self.failure.as_fd(), rest) {
            rest = rest.get(written..).unwrap_or_default();
        }
        Err(ExecutorError::Other(complaint))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // The exec itself is the only check that can't be wrong.
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The program gets the specification's environment; this process' own is never handed on.
        Ok(())
    }
}

/// Becomes the program; returns why that was impossible.
fn execute(spec: &Spec) -> String {
    let Some(process) = spec.process() else { return "the specification has no process".to_owned() };
    let strings = |list: &Option<Vec<String>>| -> Option<Vec<CString>> {
        list.iter().flatten().map(|s| CString::new(s.as_bytes()).ok()).collect()
    };
    let (Some(args), Some(env)) = (strings(process.args()), strings(process.env())) else {
        return "an argument or environment variable holds a NUL byte".to_owned();
    };
    let Some(program) = process.args().as_ref().and_then(|a| a.first()) else {
        return "there is no program to run: neither the image nor the specification names one".to_owned();
    };
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.clone()]
    } else {
        let path = process.env().iter().flatten().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        path.split(':')
            .map(|dir| if dir.is_empty() { format!("./{program}") } else { format!("{dir}/{program}") })
            .collect()
    };
    let mut worst = Errno::ENOENT;
    for candidate in candidates {
        let Ok(path) = CString::new(candidate.as_bytes()) else { continue };
        match nix::unistd::execve(&path, &args, &env) {
            Ok(never) => match never {},
            // As a shell does: a program that is there but can't be run says more than one that isn't there.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(e) => worst = e,
        }
    }
    match worst {
        Errno::ENOENT => format!("program {program:?} is not in the image (or its interpreter isn't)"),
        e => format!("program {program:?} can't be executed: {}", e.desc()),
    }
}
