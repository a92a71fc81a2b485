//! The deadline monitor and threads that come, take names, execute programs and end.

mod monitor_support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use monitor_support::*;
use pullpiri_ebpf::monitor::{Event, Watch, WatchError};

#[test]
fn new_threads_names_programs_and_ends_are_told() {
    let Some((mut monitor, _jobs)) = monitor(1) else { return };
    let mut events = monitor.take_threads().unwrap();
    let me = std::process::id();
    monitor.follow(me, 5).unwrap();
    let worker = Worker::start("told-thread");
    let (tid, mut seen) = (worker.tid, Vec::new());
    let is_rename =
        |event: &Event| matches!(event, Event::Rename(thread) if thread.pid == tid && thread.name == "told-thread");
    if monitor.features().renames {
        wait_for(&mut events, &mut seen, "the thread's name", is_rename);
    }
    drop(worker);
    wait_for(
        &mut events,
        &mut seen,
        "the thread's end",
        |event| matches!(event, Event::Exit { thread, process: false } if thread.pid == tid && thread.cookie == 5),
    );
    assert!(seen.iter().any(
        |event| matches!(event, Event::Fork { thread, parent_tgid } if thread.pid == tid && thread.tgid == me && *parent_tgid == me)
    ));

    // A child's child too, without asking for it.
    let mut child = Command::new("sh").args(["-c", "sleep 0; sleep 0; true"]).spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    wait_for(
        &mut events,
        &mut seen,
        "the child's end",
        |event| matches!(event, Event::Exit { thread, process: true } if thread.pid == pid),
    );
    assert!(
        seen.iter().any(|event| matches!(event, Event::Fork { thread, .. } if thread.pid == pid && thread.tgid == pid))
    );
    assert!(seen.iter().any(|event| matches!(event, Event::Exec(thread) if thread.pid == pid && thread.name == "sh")));
    let grandchildren: Vec<u32> = seen
        .iter()
        .filter_map(|event| match event {
            Event::Fork { thread, parent_tgid } if *parent_tgid == pid => Some(thread.pid),
            _ => None,
        })
        .collect();
    assert_eq!(grandchildren.len(), 2, "{seen:?}");
    for pid in grandchildren {
        assert!(
            seen.iter()
                .any(|event| matches!(event, Event::Exec(thread) if thread.pid == pid && thread.name == "sleep"))
        );
    }
    assert_eq!(monitor.lost().unwrap().follows, 0);

    monitor.unfollow(me).unwrap();
    monitor.unfollow(me).unwrap();
    let silent = Worker::start("silent");
    let tid = silent.tid;
    drop(silent);
    let told =
        |event: &Event| matches!(event, Event::Fork { thread, .. } | Event::Exit { thread, .. } if thread.pid == tid);
    assert!(!events.drain(usize::MAX).iter().any(told));
}

/// A cgroup of the unified hierarchy, removed when the test ends.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
        let mount = mounts.lines().find_map(|line| line.split(' ').collect::<Vec<_>>().get(1..3).and_then(unified))?;
        let path = std::path::Path::new(&mount).join(format!("pullpiri-monitor-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last process may not be gone yet.
        let end = std::time::Instant::now() + PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

fn unified(fields: &[&str]) -> Option<String> {
    (fields[1] == "cgroup2").then(|| fields[0].to_owned())
}

#[test]
fn processes_of_a_followed_cgroup_are_told() {
    let Some((mut monitor, _jobs)) = monitor(1) else { return };
    let mut events = monitor.take_threads().unwrap();
    let Some(cgroup) = Cgroup::new() else {
        println!("skipped: no cgroup v2 that may be written to");
        return;
    };
    let id = std::fs::metadata(&cgroup.0).unwrap().ino();
    let shell = Command::new("sh").args(["-c", "read line; sleep 0; true"]).stdin(Stdio::piped()).spawn();
    let mut shell = shell.unwrap();
    std::fs::write(cgroup.0.join("cgroup.procs"), shell.id().to_string()).unwrap();
    monitor.follow_cgroup(id, 11).unwrap();
    drop(shell.stdin.take());
    assert!(shell.wait().unwrap().success());
    let (pid, mut seen) = (shell.id(), Vec::new());
    wait_for(
        &mut events,
        &mut seen,
        "the end of a process of the cgroup",
        |event| matches!(event, Event::Exit { thread, .. } if thread.pid == pid && thread.cookie == 11),
    );
    let child = seen.iter().find_map(|event| match event {
        Event::Fork { thread, parent_tgid } if *parent_tgid == pid && thread.cookie == 11 => Some(thread.pid),
        _ => None,
    });
    assert!(seen.iter().any(|event| matches!(event, Event::Exec(thread) if Some(thread.pid) == child)), "{seen:?}");
    monitor.unfollow_cgroup(id).unwrap();
}

#[test]
fn a_watched_thread_that_ends_keeps_its_counters_until_it_is_given_up() {
    let Some((mut monitor, _jobs)) = monitor(1) else { return };
    let mut events = monitor.take_threads().unwrap();
    let worker = Worker::start("ends");
    let pid = worker.tid;
    worker.asleep();
    monitor.watch(pid, Watch { cookie: 9, ..Watch::default() }).unwrap();
    let other = Worker::start("other");
    assert!(matches!(monitor.watch(other.tid, Watch::default()), Err(WatchError::Full { capacity: 1, .. })));
    worker.order(|| ());
    worker.wait();
    drop(worker);
    let mut seen = Vec::new();
    wait_for(
        &mut events,
        &mut seen,
        "the end of the watched thread",
        |event| matches!(event, Event::Exit { thread, .. } if thread.pid == pid && thread.cookie == 9),
    );
    let counters = monitor.read(pid).unwrap();
    assert!(counters.jobs >= 1 && counters.active.is_none(), "its order and its end: {counters:?}");
    assert!(matches!(monitor.watch(pid, Watch::default()), Err(WatchError::NoThread { .. })));
    monitor.unwatch(pid).unwrap();
    assert!(matches!(monitor.read(pid), Err(WatchError::NotWatched { .. })));
    other.asleep();
    monitor.watch(other.tid, Watch::default()).unwrap();
    assert_eq!(monitor.read(other.tid).unwrap().jobs, 0, "the place is as new");
    assert_eq!(monitor.watched().collect::<Vec<_>>(), [other.tid]);
}

/// A process of which a thread that isn't its first executes a program. Runs as a test of its own, in a child; does nothing otherwise.
#[test]
fn executing_process() {
    if std::env::var("PULLPIRI_TEST_EXEC").is_err() {
        return;
    }
    let worker = std::thread::spawn(|| {
        println!("\nthread {}", gettid());
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let error = Command::new("cat").exec();
        panic!("executing cat: {error}");
    });
    let _ = worker.join();
}

#[test]
fn a_thread_that_executes_a_program_gives_up_its_id_and_takes_that_of_the_first() {
    let Some((mut monitor, _jobs)) = monitor(2) else { return };
    let mut events = monitor.take_threads().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "executing_process", "--nocapture"])
        .env("PULLPIRI_TEST_EXEC", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (first, mut orders) = (child.id(), child.stdin.take().unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let tid = lines.find_map(|line| line.strip_prefix("thread ")?.parse::<u32>().ok()).unwrap();
    asleep(tid);
    monitor.follow(first, 5).unwrap();
    monitor.watch(tid, Watch { cookie: 7, ..Watch::default() }).unwrap();
    monitor.watch(first, Watch { cookie: 8, ..Watch::default() }).unwrap();
    assert!(monitor.is_counted(tid).unwrap() && monitor.is_counted(first).unwrap());
    orders.write_all(b"go\n").unwrap();
    let mut seen = Vec::new();
    wait_for(
        &mut events,
        &mut seen,
        "the program",
        |event| matches!(event, Event::Exec(thread) if thread.pid == first),
    );
    let ends = |pid: u32, of: u64| {
        let is_end = |event: &&Event| matches!(event, Event::Exit { thread, process: false } if (thread.pid, thread.cookie) == (pid, of));
        seen.iter().filter(is_end).count()
    };
    assert_eq!((ends(tid, 7), ends(first, 8)), (1, 1), "{seen:?}");
    // Neither id is watched any more: who gets the thread's next is somebody else.
    assert!(!monitor.is_counted(tid).unwrap() && !monitor.is_counted(first).unwrap());
    let counters = monitor.read(tid).unwrap();
    assert!(counters.active.is_none() && counters.jobs >= 1, "its job ended with the program: {counters:?}");
    assert!(matches!(monitor.watch(tid, Watch::default()), Err(WatchError::NoThread { .. })));
    monitor.unwatch(tid).unwrap();
    // It looks like the first thread that was watched, and isn't.
    monitor.watch(first, Watch { cookie: 9, ..Watch::default() }).unwrap();
    assert!(monitor.is_counted(first).unwrap());
    for _ in 0..3 {
        asleep(first);
        orders.write_all(b"more\n").unwrap();
        assert_eq!(lines.next().as_deref(), Some("more"));
    }
    let end = std::time::Instant::now() + PATIENCE;
    while monitor.read(first).unwrap().jobs == 0 {
        assert!(std::time::Instant::now() < end, "{:?}", monitor.read(first));
        std::thread::yield_now();
    }
    drop(orders);
    assert!(child.wait().unwrap().success());
}
