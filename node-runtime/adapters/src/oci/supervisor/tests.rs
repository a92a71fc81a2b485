//! A supervisor's reaping, in a process of its own: it waits for every child that its process has.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::killpg;
use pullpiri_node_core::runtime::Limits;
use pullpiri_node_host::socket::Received;

use super::*;
use crate::oci::wire::LogTarget;

const ALONE: &str = "PULLPIRI_TEST_REAPING";

fn start(dir: &std::path::Path) -> Start {
    Start {
        container: "c".to_owned(),
        attempt: 0,
        container_id: "p-c-0".to_owned(),
        image_id: String::new(),
        dir: dir.join("c/c/0"),
        layers_dir: dir.to_owned(),
        lower: Vec::new(),
        stop_signal: 15,
        limits: Limits::default(),
        devices: Vec::new(),
        sub_paths: Vec::new(),
        log: LogTarget { path: dir.join("c.log"), max_bytes: 0, max_files: 1 },
    }
}

/// A supervisor without a sandbox; what it answers comes out at the other end.
fn supervisor(dir: &std::path::Path) -> (Supervisor, SeqPacket) {
    std::fs::write(dir.join("cgroup.controllers"), "memory").unwrap();
    let (ours, theirs) = SeqPacket::pair().unwrap();
    let supervisor = Supervisor {
        dir: dir.to_owned(),
        pod: "p".to_owned(),
        cgroups: Cgroups::probe(dir).unwrap(),
        in_nodes_network: false,
        listener: Listener::bind(dir, SOCKET_NAME).unwrap(),
        deaf_until: None,
        clients: BTreeMap::from([(0, ours)]),
        next_client: 1,
        children: signals::ChildSignals::new().unwrap(),
        containers: BTreeMap::new(),
        waiting: VecDeque::new(),
        creating: None,
        stopping: None,
        removing: Vec::new(),
        done: false,
        stirred: false,
        pages: CleanPages::default(),
        _lock: File::create(dir.join("lock")).unwrap().into(),
    };
    (supervisor, theirs)
}

#[test]
fn a_creation_is_over_when_its_process_died_whoever_holds_its_pipe() {
    if std::env::var_os(ALONE).is_none() {
        let name = "oci::supervisor::tests::a_creation_is_over_when_its_process_died_whoever_holds_its_pipe";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let run = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&run.stderr));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut supervisor, agent) = supervisor(dir.path());
    let (verdict, end) = pipe2(OFlag::O_CLOEXEC).unwrap();
    set_nonblocking(&verdict).unwrap();
    // As when it is killed for want of memory, and the container's first process isn't.
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & exit 1"]).process_group(0).stdin(Stdio::null()).stdout(end);
    let creator = Pid::from_raw(i32::try_from(command.spawn().unwrap().id()).unwrap());
    drop(command);
    supervisor.creating = Some(Creating {
        client: 0,
        request: 7,
        start: start(dir.path()),
        creator,
        verdict: File::from(verdict),
        heard: String::new(),
        init: None,
        streams: Vec::new(),
        log: Log::open(start(dir.path()).log).unwrap(),
        oom_kills_before: 0,
        deadline: Instant::now() + CREATE_DEADLINE,
    });
    let patience = Instant::now() + CREATE_DEADLINE / 2;
    while supervisor.creating.is_some() && Instant::now() < patience {
        supervisor.reap().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = killpg(creator, Signal::SIGKILL);
    assert!(supervisor.creating.is_none(), "nothing more will be said");
    let Received::Message(message) = agent.receive().unwrap() else { panic!("no answer") };
    match serde_json::from_slice(&message.bytes).unwrap() {
        Answer::Failed { id: 7, refused: false, message } => assert!(message.contains("died"), "{message}"),
        other => panic!("{other:?}"),
    }
}
