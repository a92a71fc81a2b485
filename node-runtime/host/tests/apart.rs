//! CPUs set apart on this machine's kernel: what else runs there goes on elsewhere, and afterwards all is as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pullpiri_node_core::realtime::{Cpus, Policy, Settings};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT, PARENT};
use pullpiri_node_host::sched::{self, ApartCpus};

/// Whatever else this machine computes meanwhile: all of it shares one CPU while the other is set apart.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that only computes; it ends with the test.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).stdout(Stdio::null());
        let busy = Self(command.spawn().unwrap());
        // Tests may run with a lower priority than what else does. Beside two busy ones, nice 19 is worth less than a hundredth of a CPU.
        let fair = Settings { policy: Policy::Other { nice: 0 }, reset_on_fork: false };
        if let Err(error) = sched::set_settings(busy.pid(), &fair) {
            println!("with the nice value of this process: {error}");
        }
        busy
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// A field of proc_pid_stat(5), counted from 3 after the name.
    fn stat(&self, field: usize) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, rest) = text.rsplit_once(')').unwrap();
        rest.split_ascii_whitespace().nth(field - 3).unwrap().parse().unwrap()
    }

    /// The CPU that it was on last.
    fn cpu(&self) -> u32 {
        u32::try_from(self.stat(39)).unwrap()
    }

    /// Waits until it has computed for a clock tick more: that it goes on is all that is promised, the share is what the others leave.
    fn until_further(&self) {
        let before = self.stat(14);
        until("a process to go on", || self.stat(14) > before);
    }

    fn cpuset(&self) -> String {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).unwrap();
        sched::group_of(self.pid(), "cpuset", cgroups.layout()).unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A group such as a container's, in two hierarchies; gone with the test, and whatever it has set apart with it.
struct Container {
    paths: Vec<PathBuf>,
    name: String,
    apart: ApartCpus,
}

impl Container {
    fn make(cgroups: &Cgroups, apart: &ApartCpus) -> Self {
        let name = format!("{PARENT}/_test-{}", std::process::id());
        let paths: Vec<PathBuf> =
            ["cpuset", "cpu"].iter().filter_map(|controller| cgroups.controller_path(controller, &name)).collect();
        for path in &paths {
            std::fs::create_dir_all(path).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if !path.join(file).exists() {
                    continue;
                }
                // From the root down, as far as it is empty.
                for level in [path.parent().unwrap(), path] {
                    if std::fs::read_to_string(level.join(file)).unwrap().trim().is_empty() {
                        let from = std::fs::read_to_string(level.parent().unwrap().join(file)).unwrap();
                        std::fs::write(level.join(file), from.trim()).unwrap();
                    }
                }
            }
        }
        Self { paths, name, apart: apart.clone() }
    }

    fn put(&self, process: &Busy) {
        for path in &self.paths {
            std::fs::write(path.join("tasks"), process.pid().to_string()).unwrap();
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.apart.settle();
        for path in &self.paths {
            let deadline = Instant::now() + LIMIT;
            while std::fs::remove_dir(path).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// CPUs, memory, balancing and exclusiveness of every group below the root, which it includes.
fn tree(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let files = ["cpuset.cpus", "cpuset.mems", "cpuset.sched_load_balance", "cpuset.cpu_exclusive"];
    let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
    found.insert(path.to_owned(), files.map(read).join(" "));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

/// Two looks, as far as groups are in both: containers of others on this machine come and go meanwhile.
fn common(before: &BTreeMap<PathBuf, String>, now: &BTreeMap<PathBuf, String>) -> [BTreeMap<PathBuf, String>; 2] {
    let of = |one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>| {
        one.iter()
            .filter(|(path, _)| other.contains_key(*path))
            .map(|(path, text)| (path.clone(), text.clone()))
            .collect()
    };
    [of(before, now), of(now, before)]
}

/// Threads of this process, with their cpuset and affinity.
fn mine() -> Vec<(i32, String, String)> {
    let pid = i32::try_from(std::process::id()).unwrap();
    let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).unwrap();
    let of = |thread: sched::Thread| {
        (thread.tid, sched::group_of(thread.tid, "cpuset", cgroups.layout()).unwrap(), thread.cpus.to_string())
    };
    sched::threads_of(pid).unwrap().into_iter().map(of).collect()
}

#[test]
fn what_runs_on_a_cpu_that_is_set_apart_goes_on_elsewhere_and_comes_home() {
    let cgroups = match Cgroups::probe(Path::new(DEFAULT_ROOT)) {
        Ok(cgroups) => cgroups,
        Err(error) => return println!("skipped: {error}"),
    };
    let apart = match ApartCpus::find(&cgroups) {
        Ok(apart) if apart.set_apart().unwrap().is_empty() => apart,
        Ok(_) => return println!("skipped: somebody has set CPUs apart"),
        Err(why) => return println!("skipped: {why}"),
    };
    let all = sched::affinity(0).unwrap();
    let cpu = *all.0.last().unwrap();
    let rest = all.without(&Cpus::one(cpu));
    let mount = cgroups.controller_path("cpuset", "").unwrap();
    let container = Container::make(&cgroups, &apart);
    let (before, mine_before) = (tree(&mount), mine());

    // On that CPU at first, and pinned nowhere; one of them in a container. The last is pinned there by its owner.
    let (free, contained, pinned) = (Busy::start(), Busy::start(), Busy::start());
    container.put(&contained);
    for process in [&free, &contained, &pinned] {
        sched::set_affinity(process.pid(), &Cpus::one(cpu)).unwrap();
        until("a process to be on the CPU", || process.cpu() == cpu);
    }
    for process in [&free, &contained] {
        sched::set_affinity(process.pid(), &all).unwrap();
    }
    let urgent = Busy::start();
    container.put(&urgent);
    apart.enter(cpu, urgent.pid()).unwrap();
    let policy = Policy::Deadline { runtime_ns: 80_000_000, deadline_ns: 100_000_000, period_ns: 100_000_000 };
    if let Err(error) = sched::set_settings(urgent.pid(), &Settings { policy, reset_on_fork: true }) {
        println!("without SCHED_DEADLINE: {error}");
    }
    assert_eq!(sched::affinity(urgent.pid()).unwrap(), Cpus::one(cpu));
    assert_eq!(apart.set_apart().unwrap(), Cpus::one(cpu));
    for process in [&free, &contained] {
        assert_eq!(sched::affinity(process.pid()).unwrap(), rest);
        assert!(ApartCpus::is_rest(&process.cpuset()), "{}", process.cpuset());
        process.until_further();
        assert!(rest.contains(process.cpu()));
    }
    assert_eq!((sched::affinity(pinned.pid()).unwrap(), pinned.cpuset()), (Cpus::one(cpu), String::new()));

    // What comes later to the root or to a container is moved at the next look.
    let (later, there) = (Busy::start(), Busy::start());
    std::fs::write(mount.join("tasks"), later.pid().to_string()).unwrap();
    container.put(&there);
    assert_eq!(apart.settle().unwrap(), Cpus::one(cpu));
    for process in [&later, &there] {
        assert_eq!(sched::affinity(process.pid()).unwrap(), rest);
    }

    // Whoever set it apart is gone without a word, and so is the thread: another one undoes it.
    drop(urgent);
    let heir = ApartCpus::find(&cgroups).unwrap();
    until("the thread to leave its group", || heir.settle().unwrap().is_empty());
    let now = tree(&mount);
    let [then, again] = common(&before, &now);
    assert_eq!(then, again);
    assert!(then.contains_key(&mount));
    let made =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name == "_rest" || *name == *format!("_apart-{cpu}"));
    assert_eq!(now.keys().find(made), None);
    assert_eq!(mine(), mine_before);
    for (process, home) in
        [(&free, ""), (&later, ""), (&pinned, ""), (&contained, container.name.as_str()), (&there, &container.name)]
    {
        assert_eq!(process.cpuset(), home);
        let cpus = if process.pid() == pinned.pid() { Cpus::one(cpu) } else { all.clone() };
        assert_eq!(sched::affinity(process.pid()).unwrap(), cpus);
    }
    assert!(heir.settle().unwrap().is_empty());
}
