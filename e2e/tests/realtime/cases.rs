//! The cases.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use pullpiri_e2e::wait_for;
use pullpiri_node_core::realtime::{Cpus, Policy, Settings};
use pullpiri_node_host::sched::{self, MemoryLock};
use serde_json::{Value, json};

use crate::Case;
use crate::agent_support::{LIMIT, condition, reason};
use crate::apart;
use crate::rig::{Rig, budgets_above, task};

pub const ALL: &[Case] = &[
    ("settings_are_given_changed_and_given_back", given),
    ("a_thread_that_comes_later_is_found", later),
    ("the_first_thread_needs_no_name", first),
    ("what_others_consumed_is_forgotten_before_budgets_above_are_lowered", lowered),
    ("a_job_under_way_gets_the_settings_and_is_not_counted", under_way),
    ("a_thread_that_executes_a_program_gives_its_settings_back", executed),
    ("somebody_elses_change_is_undone", drift),
    ("a_killed_agent_resets_nothing_and_knows_what_it_held", adopted),
    ("what_the_kernel_refuses_is_said", refused),
    ("a_deadline_task_gets_a_cpu_of_its_own_or_a_reason", apart::given),
    ("cpus_set_apart_are_given_back_after_a_kill", apart::killed),
    ("a_thread_that_sleeps_on_another_cpu_gets_its_own_when_it_wakes", apart::asleep),
    ("a_refusal_that_passes_is_forgotten", apart::refused),
    ("a_miss_is_told", missed),
    ("a_container_that_misses_is_restarted", restarted),
    ("an_instance_that_misses_is_stopped_until_its_spec_changes", terminated),
];

fn fifo(priority: u32) -> Policy {
    Policy::Fifo { priority }
}

/// Of the instance's first task.
fn repairs(object: &Value) -> i64 {
    object["status"]["realtime"][0]["repairs"].as_i64().unwrap_or_default()
}

/// Of the instance's first task.
fn jobs(object: &Value) -> i64 {
    object["status"]["realtime"][0]["jobs"].as_i64().unwrap_or_default()
}

pub(crate) fn message(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.map(|condition| condition["message"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn given(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpus = rig.cpus();
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        rig.create("given", &["ctl", "20000"], json!([task("ctl", Some("ctl"), 50, first)])).await;
        let object = rig.until_applied("given").await;
        assert_eq!(object["status"]["realtime"][0]["threads"], 1);
        let thread = Rig::thread(&object, "ctl");
        Rig::until_given(thread.tid, fifo(50), &first.to_string()).await;
        assert!(sched::settings(thread.tid).unwrap().reset_on_fork);
        let main = sched::settings(Rig::pid(&object)).unwrap();
        assert!(matches!(main.policy, Policy::Other { .. }), "nobody bound the first thread: {main}");
        if let Some(budget) = Rig::budget(&object) {
            // 1 ms of every 20.
            assert_eq!(budget, 50_000);
        }
        rig.until_event("given", "Applied").await;

        // In place: the thread stays, its settings change.
        let mut changed = task("ctl", Some("ctl"), 61, last);
        changed["policy"] = json!("RR");
        changed["wcetNs"] = json!(2_000_000);
        rig.declare("given", json!([changed])).await;
        Rig::until_given(thread.tid, Policy::RoundRobin { priority: 61 }, &last.to_string()).await;
        let object = rig.cluster.until("given", |object| condition(object, "RealTime") == "True").await;
        assert_eq!(object["status"]["restarts"], 0);
        if Rig::budget(&object).is_some() {
            wait_for("the budget follows", LIMIT, || async {
                let now = Rig::budget(&object);
                if now == Some(100_000) { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await
            .unwrap();
        }

        // Without its task the thread has what it had.
        rig.declare("given", json!([])).await;
        let all: Cpus = cpus.iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect();
        Rig::until_given(thread.tid, Rig::undeclared(), &all.to_string()).await;
        assert!(!sched::settings(thread.tid).unwrap().reset_on_fork);
        let object = rig.cluster.until("given", |object| condition(object, "RealTime").is_empty()).await;
        assert!(object["status"]["realtime"].is_null());
        if Rig::budget(&object).is_some() {
            wait_for("the budget is given back", LIMIT, || async {
                let now = Rig::budget(&object);
                if now == Some(0) { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await
            .unwrap();
        }
        rig.delete("given").await;
    }
    .boxed()
}

fn later(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpu = rig.cpus()[0];
        rig.create("later", &["ctl", "20000", "later"], json!([task("ctl", Some("ctl"), 50, cpu)])).await;
        let object = rig.cluster.until("later", |object| reason(object, "RealTime") == "ThreadNotFound").await;
        assert_eq!(message(&object, "RealTime"), "task ctl: no thread of container x is named ctl");
        Rig::signal(&object, Signal::SIGUSR1);
        rig.until_applied("later").await;
        Rig::until_given(Rig::thread(&object, "ctl").tid, fifo(50), &cpu.to_string()).await;
        rig.delete("later").await;
    }
    .boxed()
}

fn first(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpu = rig.cpus()[0];
        let tasks = json!([task("main", None, 40, cpu), task("ctl", Some("ctl"), 50, cpu)]);
        rig.create("first", &["ctl", "20000"], tasks).await;
        let object = rig.until_applied("first").await;
        Rig::until_given(Rig::pid(&object), fifo(40), &cpu.to_string()).await;
        Rig::until_given(Rig::thread(&object, "ctl").tid, fifo(50), &cpu.to_string()).await;
        rig.delete("first").await;
    }
    .boxed()
}

/// Its thread becomes the first one of its process, and keeps what it was given until that is taken back.
fn executed(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpus = rig.cpus();
        rig.create("executed", &["ctl", "20000", "exec"], json!([task("ctl", Some("ctl"), 50, cpus[0])])).await;
        let object = rig.until_applied("executed").await;
        let ctl = Rig::thread(&object, "ctl").tid;
        Rig::until_given(ctl, fifo(50), &cpus[0].to_string()).await;
        Rig::signal(&object, Signal::SIGUSR2);
        wait_for("it has executed the program", LIMIT, || async {
            let threads = sched::threads_of(Rig::pid(&object)).map_err(|error| error.to_string())?;
            if threads.iter().all(|thread| thread.tid != ctl) { Ok(()) } else { Err(format!("{threads:?}")) }
        })
        .await
        .unwrap();
        let all: Cpus = cpus.iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect();
        Rig::until_given(Rig::pid(&object), Rig::undeclared(), &all.to_string()).await;
        assert!(!sched::settings(Rig::pid(&object)).unwrap().reset_on_fork);
        rig.cluster.until("executed", |object| reason(object, "RealTime") == "ThreadNotFound").await;
        rig.delete("executed").await;
    }
    .boxed()
}

/// Of what a group has consumed its budget is taken off once in a period. Were what is above lowered with the last that leaves, the next would find it
/// throttled.
fn lowered(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        if budgets_above().is_none() {
            println!("skipped: no cpu.rt_runtime_us (RT_GROUP_SCHED, cgroup version 1)");
            return;
        }
        // One that stays and needs less: it is looked at all the time.
        let smaller = task("ctl", Some("ctl"), 50, rig.cpus()[0]);
        let mut larger = smaller.clone();
        larger["wcetNs"] = json!(2_000_000);
        rig.create("lowered", &["ctl", "20000"], json!([larger])).await;
        let object = rig.until_applied("lowered").await;
        assert_eq!(Rig::budget(&object), Some(100_000));
        let declared = Instant::now();
        rig.declare("lowered", json!([smaller])).await;
        wait_for("the budget is lowered while its thread runs", LIMIT, || async {
            let now = Rig::budget(&object);
            if now == Some(50_000) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();
        assert!(declared.elapsed() > Duration::from_secs(1), "{:?}", declared.elapsed());
        let (above, pods) = budgets_above().unwrap();
        assert!(pods >= 50_000 && above >= pods, "{above} {pods}");
        let watched = tokio::task::spawn_blocking(move || {
            let (began, mut gone) = (Instant::now(), None);
            while began.elapsed() < LIMIT {
                let Some((above_now, pods_now)) = budgets_above() else { continue };
                gone = gone.or((pods_now < pods).then(Instant::now));
                if above_now < above {
                    return gone.map(|gone| gone.elapsed());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            None
        });
        rig.cluster.instances().delete("lowered", &DeleteParams::default()).await.unwrap();
        let kept = watched.await.unwrap().expect("the budget above is lowered");
        assert!(kept > Duration::from_secs(1), "{kept:?}");
        rig.delete("lowered").await;
    }
    .boxed()
}

/// A thread's start-up, as a rule: nobody saw when it began.
fn under_way(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        if !rig.has("monitor") {
            println!("skipped: deadlines aren't watched here: {}", message(&rig.node, "RealTime"));
            return;
        }
        // Two periods of 250 ms after the settings have come: beyond deadline and declared execution.
        let mut task = task("ctl", Some("ctl"), 50, rig.cpus()[0]);
        for (field, ns) in [("periodNs", 250_000_000), ("deadlineNs", 250_000_000), ("wcetNs", 62_500_000)] {
            task[field] = json!(ns);
        }
        rig.create("under-way", &["ctl", "250000", "busy"], json!([task])).await;
        let object = rig.cluster.until("under-way", |object| jobs(object) >= 3).await;
        let status = &object["status"]["realtime"][0];
        assert!(status["worstExecutionNs"].as_i64() < Some(250_000_000), "{status}");
        assert!(status["misses"].as_i64().unwrap_or_default() < jobs(&object), "{status}");
        assert_eq!(object["status"]["restarts"], 0, "it saw its settings");
        rig.delete("under-way").await;
    }
    .boxed()
}

fn drift(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpus = rig.cpus();
        let cpu = cpus[0];
        rig.create("drift", &["ctl", "20000"], json!([task("ctl", Some("ctl"), 50, cpu)])).await;
        let object = rig.until_applied("drift").await;
        let tid = Rig::thread(&object, "ctl").tid;
        Rig::until_given(tid, fifo(50), &cpu.to_string()).await;
        sched::set_settings(tid, &Settings { policy: fifo(7), reset_on_fork: true }).unwrap();
        Rig::until_given(tid, fifo(50), &cpu.to_string()).await;
        sched::set_settings(tid, &Settings::DEFAULT).unwrap();
        let all: Cpus = cpus.iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect();
        sched::set_affinity(tid, &all).unwrap();
        Rig::until_given(tid, fifo(50), &cpu.to_string()).await;
        let pid = Rig::pid(&object);
        let hard = sched::memory_lock(pid).unwrap().hard;
        sched::set_memory_lock(pid, MemoryLock { soft: 4_096, hard }).unwrap();
        wait_for("it may lock its memory again", LIMIT, || async {
            let now = sched::memory_lock(pid).unwrap();
            if now.soft >= hard { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();
        let object = rig
            .cluster
            .until("drift", |object| repairs(object) >= 2 && reason(object, "RealTime") == "DriftRepaired")
            .await;
        assert_eq!(condition(&object, "RealTime"), "True");
        // A look between the two calls of the second change repairs it twice.
        let said = format!("repaired {} times", repairs(&object));
        assert!(message(&object, "RealTime").contains(&said), "{object}");
        rig.until_event("drift", "DriftRepaired").await;
        let metrics = rig.metrics().await;
        let start = r#"pullpiri_node_realtime_repairs_total{namespace="default",instance="drift",task="ctl"} "#;
        let counted = metrics.lines().find_map(|line| line.strip_prefix(start)?.parse::<i64>().ok());
        assert!(counted >= Some(repairs(&object)), "{metrics}");
        rig.delete("drift").await;
        assert!(!rig.metrics().await.contains(r#"instance="drift""#));
    }
    .boxed()
}

fn adopted(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpus = rig.cpus();
        let cpu = cpus[0];
        for name in ["stays", "changes"] {
            rig.create(name, &["ctl", "20000"], json!([task("ctl", Some("ctl"), 50, cpu)])).await;
        }
        let (stays, changes) = (rig.until_applied("stays").await, rig.until_applied("changes").await);
        let (kept, left) = (Rig::thread(&stays, "ctl").tid, Rig::thread(&changes, "ctl").tid);
        sched::set_settings(kept, &Settings::DEFAULT).unwrap();
        Rig::until_given(kept, fifo(50), &cpu.to_string()).await;
        let is_counted = |object: &Value| repairs(object) >= 1 && (jobs(object) > 20 || !rig.has("monitor"));
        let before = rig.cluster.until("stays", is_counted).await;
        let (counted, done) = (repairs(&before), jobs(&before));
        for reason in ["Applied", "DriftRepaired"] {
            rig.until_event("stays", reason).await;
        }
        rig.kill().await;
        let told = rig.cluster.events("stays").await.len();
        // Nobody watches: what threads have, they keep. The task of one of them goes meanwhile.
        rig.declare("changes", json!([])).await;
        Rig::until_given(kept, fifo(50), &cpu.to_string()).await;
        Rig::until_given(left, fifo(50), &cpu.to_string()).await;
        rig.start().await;
        // What was counted goes on: at no moment is less told than before.
        let goes_on = |object: &Value| {
            assert!(jobs(object) >= done && repairs(object) >= counted, "{done} and {counted} before, {object}");
            jobs(object) > done || !rig.has("monitor")
        };
        rig.cluster.until("stays", goes_on).await;
        let all: Cpus = cpus.iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect();
        Rig::until_given(left, Rig::undeclared(), &all.to_string()).await;
        // A change in place proves that the other is held again; what was counted of it goes on, and nothing was given to it twice.
        assert_eq!(rig.cluster.events("stays").await.len(), told);
        rig.declare("stays", json!([task("ctl", Some("ctl"), 51, cpu)])).await;
        Rig::until_given(kept, fifo(51), &cpu.to_string()).await;
        let object = rig
            .cluster
            .until("stays", |object| {
                object["status"]["observedGeneration"] == object["metadata"]["generation"]
                    && condition(object, "RealTime") == "True"
            })
            .await;
        assert!(repairs(&object) >= counted, "{counted} before, {object}");
        // What it had before any of this is given back by the second life.
        rig.declare("stays", json!([])).await;
        Rig::until_given(kept, Rig::undeclared(), &all.to_string()).await;
        rig.delete("stays").await;
        rig.delete("changes").await;
    }
    .boxed()
}

fn refused(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let cpus = rig.cpus();
        rig.create("refused", &["ctl", "20000"], json!([task("ctl", Some("ctl"), 50, 4095)])).await;
        let object = rig.cluster.until("refused", |object| reason(object, "RealTime") == "NoRealTime").await;
        assert!(message(&object, "RealTime").contains("CPUs 4095"), "{object}");
        assert_eq!(object["status"]["realtime"][0]["threads"], 0);
        let thread = Rig::thread(&object, "ctl");
        let all: Cpus = cpus.iter().map(|cpu| u32::try_from(*cpu).unwrap()).collect();
        Rig::until_given(thread.tid, Rig::undeclared(), &all.to_string()).await;
        rig.until_event("refused", "NoRealTime").await;
        // Declared as it can be had, it is had.
        rig.declare("refused", json!([task("ctl", Some("ctl"), 50, cpus[0])])).await;
        rig.until_applied("refused").await;
        Rig::until_given(thread.tid, fifo(50), &cpus[0].to_string()).await;
        rig.delete("refused").await;
    }
    .boxed()
}

/// The period of [`missing`] tasks, for the task program.
const MISSING_PERIOD_US: &str = "500000";

/// A task that misses when it is told to: its job computes for 1.5 s, its deadline is 500 ms. A machine that gives this one's CPU to others for a
/// while makes it miss none.
fn missing(rig: &Rig, on_miss: &str) -> Option<Value> {
    if !rig.has("monitor") {
        println!("skipped: deadlines aren't watched here: {}", message(&rig.node, "RealTime"));
        return None;
    }
    let mut task = task("ctl", Some("ctl"), 50, rig.cpus()[0]);
    task["onMiss"] = json!(on_miss);
    task["periodNs"] = json!(500_000_000);
    task["deadlineNs"] = json!(500_000_000);
    // As a budget, enough for what it does when it is told to.
    task["wcetNs"] = json!(125_000_000);
    Some(json!([task]))
}

fn missed(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let Some(tasks) = missing(rig, "Notify") else { return };
        rig.create("missed", &["ctl", MISSING_PERIOD_US], tasks).await;
        let object =
            rig.cluster.until("missed", |object| object["status"]["realtime"][0]["jobs"].as_i64() > Some(3)).await;
        assert_eq!(condition(&object, "DeadlinesMet"), "True", "{object}");
        assert_eq!(condition(&object, "WithinWcet"), "True", "{object}");
        Rig::signal(&object, Signal::SIGUSR2);
        let object = rig.cluster.until("missed", |object| condition(object, "DeadlinesMet") == "False").await;
        assert_eq!(reason(&object, "DeadlinesMet"), "MissBudgetSpent");
        assert!(object["status"]["realtime"][0]["misses"].as_i64() >= Some(1), "{object}");
        let object = rig.cluster.until("missed", |object| condition(object, "WithinWcet") == "False").await;
        assert_eq!(reason(&object, "WithinWcet"), "WcetExceeded");
        for reason in ["DeadlineMissed", "WcetExceeded"] {
            rig.until_event("missed", reason).await;
        }
        assert_eq!(object["status"]["restarts"], 0);
        let metrics = rig.metrics().await;
        for family in ["jobs_total", "misses_total", "overruns_total", "response_seconds_count"] {
            let start = format!("pullpiri_node_realtime_{family}{{");
            let line = metrics.lines().find(|line| line.starts_with(&start) && line.contains("instance=\"missed\""));
            let line = line.unwrap_or_else(|| panic!("{family} in {metrics}"));
            assert!(!line.ends_with(" 0"), "{line}");
        }
        rig.delete("missed").await;
    }
    .boxed()
}

fn restarts(object: &Value) -> i64 {
    object["status"]["restarts"].as_i64().unwrap_or_default()
}

fn restarted(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let Some(tasks) = missing(rig, "Restart") else { return };
        rig.create("restarted", &["ctl", MISSING_PERIOD_US], tasks).await;
        let before =
            rig.cluster.until("restarted", |object| object["status"]["realtime"][0]["jobs"].as_i64() > Some(0)).await;
        Rig::signal(&before, Signal::SIGUSR2);
        let after = rig
            .cluster
            .until("restarted", |object| {
                restarts(object) > restarts(&before)
                    && condition(object, "RealTime") == "True"
                    && condition(object, "DeadlinesMet") == "True"
                    && object["status"]["realtime"][0]["jobs"].as_i64() > Some(0)
            })
            .await;
        assert_ne!(Rig::pid(&after), Rig::pid(&before));
        assert_eq!(after["status"]["realtime"][0]["misses"], 0, "counted since its container started");
        rig.until_event("restarted", "MissBudgetSpent").await;
        rig.until_event("restarted", "Restarted").await;
        rig.delete("restarted").await;
    }
    .boxed()
}

fn terminated(rig: &Rig) -> BoxFuture<'_, ()> {
    async move {
        let Some(mut tasks) = missing(rig, "Terminate") else { return };
        rig.create("terminated", &["ctl", MISSING_PERIOD_US], tasks.clone()).await;
        let object =
            rig.cluster.until("terminated", |object| object["status"]["realtime"][0]["jobs"].as_i64() > Some(0)).await;
        Rig::signal(&object, Signal::SIGUSR2);
        let stopped = |object: &Value| {
            reason(object, "Ready") == "MissBudgetSpent" && object["status"]["containers"][0]["pid"].is_null()
        };
        let object = rig.cluster.until("terminated", stopped).await;
        assert_eq!(reason(&object, "DeadlinesMet"), "MissBudgetSpent");
        assert!(message(&object, "DeadlinesMet").contains("stopped until its spec changes"), "{object}");
        // Another life of the agent doesn't start it either.
        rig.kill().await;
        rig.start().await;
        rig.create("witness", &["ctl", "20000"], json!([])).await;
        rig.cluster.until_running("witness").await;
        assert!(stopped(&rig.cluster.until("terminated", |object| !object.is_null()).await));
        tasks[0]["missBudget"] = json!(100);
        rig.declare("terminated", tasks).await;
        rig.cluster.until_running("terminated").await;
        rig.until_applied("terminated").await;
        rig.delete("terminated").await;
        rig.delete("witness").await;
    }
    .boxed()
}
