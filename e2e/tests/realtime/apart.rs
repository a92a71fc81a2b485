//! SCHED_DEADLINE tasks, and the CPUs that are set apart for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pullpiri_e2e::wait_for;
use pullpiri_node_core::realtime::{Cpus, Policy, Settings};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT};
use pullpiri_node_host::sched::{self, ApartCpus};
use serde_json::{Value, json};

use crate::agent_support::{LIMIT, condition, reason};
use crate::cases::message;
use crate::rig::{Rig, task};

const CPUSETS: &str = "/sys/fs/cgroup/cpuset";
/// How long what another node runtime on this machine does to cpusets may take to pass.
const PATIENCE: Duration = Duration::from_secs(15);

/// A process that only computes, wherever it may; it ends with the test.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Clock ticks that it has computed.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(11).unwrap().parse().unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPUs and balancing of the root cpuset and of all groups below ours.
fn tree(path: &Path) -> BTreeMap<String, String> {
    let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
    let mut found = BTreeMap::from([(
        path.display().to_string(),
        ["cpuset.cpus", "cpuset.sched_load_balance"].map(read).join(" "),
    )]);
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

/// What is left of CPUs that were set apart: groups that were made for it, and groups that have other CPUs than before. Groups of pods, and the one of all
/// pods, come and go meanwhile.
fn left(before: &BTreeMap<String, String>) -> Vec<String> {
    let is_left = |(group, now): &(&String, &String)| {
        let is_made = group.contains("_apart-") || group.contains("_rest");
        is_made || before.get(*group).is_some_and(|was| was != *now)
    };
    tree(Path::new(CPUSETS)).iter().filter(is_left).map(|(group, now)| format!("{group}: {now}")).collect()
}

fn all(rig: &Rig) -> Cpus {
    rig.cpus().iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect()
}

/// 1 ms of every 20 on the node's last CPU.
fn declared(rig: &Rig, wcet_ns: i64) -> Value {
    let mut task = task("ctl", Some("ctl"), 50, *rig.cpus().last().unwrap());
    task["policy"] = json!("DEADLINE");
    task["wcetNs"] = json!(wcet_ns);
    json!([task])
}

const POLICY: Policy = Policy::Deadline { runtime_ns: 1_000_000, deadline_ns: 20_000_000, period_ns: 20_000_000 };

/// The instance once it has its CPU; `None`, with the reason told, where it can't be had.
async fn started(rig: &Rig, name: &str) -> Option<Value> {
    rig.create(name, &["ctl", "20000"], declared(rig, 1_000_000)).await;
    let given = wait_for("a CPU of its own", PATIENCE, || async {
        let object = rig.cluster.instances().get(name).await.map_err(|error| error.to_string())?;
        let object = serde_json::to_value(object).unwrap();
        if condition(&object, "RealTime") == "True" { Ok(object) } else { Err(message(&object, "RealTime")) }
    });
    match given.await {
        Ok(object) => Some(object),
        Err(error) if rig.has("exclusiveCpusets") => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

pub fn given(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let before = tree(Path::new(CPUSETS));
        let (all, last) = (all(rig), *rig.cpus().last().unwrap());
        // On that CPU, and pinned nowhere.
        let busy = Busy::start();
        sched::set_affinity(busy.pid(), &Cpus::one(u32::try_from(last).unwrap())).unwrap();
        sched::set_affinity(busy.pid(), &all).unwrap();
        match started(rig, "deadline").await {
            Some(object) => {
                let tid = Rig::thread(&object, "ctl").tid;
                Rig::until_given(tid, POLICY, &last.to_string()).await;
                wait_for("a process leaves the CPU", LIMIT, || async {
                    let now = sched::affinity(busy.pid()).map_err(|error| error.to_string())?;
                    if now.contains(u32::try_from(last).unwrap()) { Err(now.to_string()) } else { Ok(()) }
                })
                .await
                .unwrap();
                let ticks = busy.ticks();
                wait_for("it goes on", LIMIT, || async {
                    if busy.ticks() >= ticks + 10 { Ok(()) } else { Err(busy.ticks().to_string()) }
                })
                .await
                .unwrap();
                rig.declare("deadline", json!([])).await;
                Rig::until_given(tid, Rig::undeclared(), &all.to_string()).await;
            }
            None => {
                let object = rig.cluster.until("deadline", |object| !condition(object, "RealTime").is_empty()).await;
                assert_eq!(reason(&object, "RealTime"), "NoRealTime", "{object}");
                Rig::until_given(Rig::thread(&object, "ctl").tid, Rig::undeclared(), &all.to_string()).await;
            }
        }
        rig.delete("deadline").await;
        // Either way, nothing is left of it.
        until_as_before(&before, &busy, &all).await;
    }
    .boxed()
}

async fn until_as_before(before: &BTreeMap<String, String>, busy: &Busy, all: &Cpus) {
    wait_for("cpusets are as before", LIMIT, || async {
        let (left, cpus) = (left(before), sched::affinity(busy.pid()).unwrap());
        if left.is_empty() && cpus == *all { Ok(()) } else { Err(format!("{left:?}, {cpus}")) }
    })
    .await
    .unwrap();
}

pub fn killed(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let before = tree(Path::new(CPUSETS));
        let all = all(rig);
        let busy = Busy::start();
        if let Some(object) = started(rig, "killed").await {
            let tid = Rig::thread(&object, "ctl").tid;
            rig.kill().await;
            // Nobody looks: what was set apart stays, and so does what was moved away.
            Rig::until_given(tid, POLICY, &rig.cpus().last().unwrap().to_string()).await;
            assert_ne!(sched::affinity(busy.pid()).unwrap(), all);
            rig.start().await;
            // A change in place proves that it is held again.
            rig.declare("killed", declared(rig, 2_000_000)).await;
            let policy = Policy::Deadline { runtime_ns: 2_000_000, deadline_ns: 20_000_000, period_ns: 20_000_000 };
            Rig::until_given(tid, policy, &rig.cpus().last().unwrap().to_string()).await;
            rig.cluster.until("killed", |object| condition(object, "RealTime") == "True").await;
            rig.kill().await;
            let _ = rig.cluster.instances().delete("killed", &kube::api::DeleteParams::default()).await;
            rig.start().await;
        }
        rig.delete("killed").await;
        until_as_before(&before, &busy, &all).await;
    }
    .boxed()
}

/// How often a thread has gone to sleep by itself.
fn sleeps(pid: i32, tid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// A thread that sleeps, on another CPU than the one that it is to have: the kernel takes it there only when it has woken.
pub fn asleep(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        if !rig.has("exclusiveCpusets") {
            return println!("skipped: no CPU can be set apart here: {}", message(&rig.node, "RealTime"));
        }
        let (first, last) = (rig.cpus()[0], *rig.cpus().last().unwrap());
        let slow = |policy: &str, cpu: i64| {
            let mut task = task("ctl", Some("ctl"), 50, cpu);
            (task["policy"], task["onMiss"]) = (json!(policy), json!("Restart"));
            (task["periodNs"], task["deadlineNs"]) = (json!(2_000_000_000_i64), json!(2_000_000_000_i64));
            json!([task])
        };
        rig.create("asleep", &["ctl", "2000000"], slow("FIFO", first)).await;
        let object = rig.until_applied("asleep").await;
        let thread = Rig::thread(&object, "ctl");
        wait_for("it sleeps after it was there", LIMIT, || async {
            let cpu = sched::last_cpu(thread.pid, thread.tid).map(i64::from);
            if cpu == Some(first) { Ok(()) } else { Err(format!("{cpu:?}")) }
        })
        .await
        .unwrap();

        // With most of a period before it wakes: else it may be awake when it is looked at.
        let before = sleeps(thread.pid, thread.tid);
        wait_for("it has just gone to sleep", LIMIT, || async {
            let now = sleeps(thread.pid, thread.tid);
            if now > before { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();
        rig.declare("asleep", slow("DEADLINE", last)).await;
        let said = rig.cluster.until("asleep", |object| condition(object, "RealTime") == "False").await;
        assert_eq!(reason(&said, "RealTime"), "Starting", "{said}");
        assert!(message(&said, "RealTime").contains("once it has woken"), "{said}");
        let policy = Policy::Deadline { runtime_ns: 1_000_000, deadline_ns: 2_000_000_000, period_ns: 2_000_000_000 };
        Rig::until_given(thread.tid, policy, &last.to_string()).await;
        let counted = |object: &Value| {
            condition(object, "RealTime") == "True"
                && (object["status"]["realtime"][0]["jobs"].as_i64() > said["status"]["realtime"][0]["jobs"].as_i64()
                    || !rig.has("monitor"))
        };
        let object = rig.cluster.until("asleep", counted).await;
        // It waited, and that was neither a miss nor anything that the node can't do.
        assert_eq!((&object["status"]["realtime"][0]["misses"], &object["status"]["restarts"]), (&json!(0), &json!(0)));
        let told = rig.cluster.events("asleep").await;
        assert!(!told.iter().any(|reason| reason == "NoRealTime" || reason == "DeadlineMissed"), "{told:?}");
        // What it had as SCHED_FIFO its group doesn't need any more.
        wait_for("the budget is given back", LIMIT, || async {
            let now = Rig::budget(&object);
            if matches!(now, None | Some(0)) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();

        // The way back needs no waiting.
        rig.declare("asleep", slow("FIFO", first)).await;
        Rig::until_given(thread.tid, Policy::Fifo { priority: 50 }, &first.to_string()).await;
        rig.delete("asleep").await;
        wait_for("nothing is set apart", LIMIT, || async {
            let left = left(&BTreeMap::new());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await
        .unwrap();
    }
    .boxed()
}

/// Somebody has the bandwidth that a task needs, and goes.
pub fn refused(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).unwrap();
        let apart = match ApartCpus::find(&cgroups) {
            Ok(apart) => apart,
            Err(why) => return println!("skipped: {why}"),
        };
        let last = *rig.cpus().last().unwrap();
        let squatter = Busy::start();
        let policy = Policy::Deadline { runtime_ns: 80_000_000, deadline_ns: 100_000_000, period_ns: 100_000_000 };
        let squatted = apart
            .enter(u32::try_from(last).unwrap(), squatter.pid())
            .and_then(|()| sched::set_settings(squatter.pid(), &Settings { policy, reset_on_fork: true }));
        if let Err(error) = squatted {
            println!("skipped: {error}");
        } else {
            rig.create("squatted", &["ctl", "20000"], declared(rig, 6_000_000)).await;
            let object = rig.cluster.until("squatted", |object| reason(object, "RealTime") == "NoRealTime").await;
            assert!(message(&object, "RealTime").contains("SCHED_DEADLINE 6ms"), "{object}");
            drop(squatter);
            let object = rig.until_applied("squatted").await;
            let policy = Policy::Deadline { runtime_ns: 6_000_000, deadline_ns: 20_000_000, period_ns: 20_000_000 };
            Rig::until_given(Rig::thread(&object, "ctl").tid, policy, &last.to_string()).await;
            assert_eq!(object["status"]["restarts"], 0);
            rig.delete("squatted").await;
        }
        wait_for("nothing is set apart", LIMIT, || async {
            match apart.settle() {
                Ok(cpus) if cpus.is_empty() => Ok(()),
                Ok(cpus) => Err(cpus.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
        .unwrap();
    }
    .boxed()
}
