//! Tables and golden texts of binding and reporting.

use pullpiri_crds::instance::{InstanceTask, TaskStatus};
use pullpiri_crds::schedule::{OnMiss, SchedulingPolicy};

use super::*;

fn task(name: &str, thread: Option<&str>, priority: i32) -> InstanceTask {
    InstanceTask {
        name: name.to_owned(),
        container: Some("c".to_owned()),
        thread: thread.map(str::to_owned),
        policy: SchedulingPolicy::Fifo,
        priority: Some(priority),
        cpu: 1,
        wcet_ns: 2_000_000,
        period_ns: 10_000_000,
        deadline_ns: 10_000_000,
        jitter_ns: 0,
        offset_ns: 0,
        blocking_ns: 0,
        response_time_ns: 2_000_000,
        on_miss: OnMiss::Notify,
        miss_budget: 1,
        schedule: None,
    }
}

fn thread(name: &str, tid: i32, started: u64) -> Thread {
    let now = Given { settings: Settings::DEFAULT, cpus: "0-1".parse().unwrap() };
    let id = ThreadId { pid: 10, tid, started };
    Thread { container: "c".to_owned(), id, is_first: tid == 10, name: name.to_owned(), now }
}

/// The world after the steps.
fn done(mut threads: Vec<Thread>, bound: &Bound) -> Vec<Thread> {
    for step in &bound.steps {
        let (id, to) = match step {
            Step::Give { thread, given, .. } => (*thread, given.clone()),
            Step::Restore { thread, before, .. } => (*thread, before.clone()),
        };
        threads.iter_mut().filter(|thread| thread.id == id).for_each(|thread| thread.now = to.clone());
    }
    threads
}

fn lines(bound: &Bound) -> String {
    bound.steps.iter().map(|step| format!("{step}\n")).collect()
}

#[test]
fn a_life() {
    let tasks = [task("main", None, 20), task("ctl", Some("ctl"), 80)];
    let first = vec![thread("app", 10, 5), thread("helper", 11, 6)];
    let bound = bind(&tasks, &["c"], &first, &[]);
    assert_eq!(lines(&bound), "give    main: thread 10 of c SCHED_FIFO 20 reset-on-fork on CPU 1 (found)\n");
    assert_eq!(bound.bindings[1], ("ctl".to_owned(), Binding::Missing));

    // Its thread comes up, with another that has its name.
    let mut threads = done(first, &bound);
    threads.extend([thread("ctl", 13, 8), thread("ctl", 12, 7)]);
    let bound = bind(&tasks, &["c"], &threads, &bound.held);
    assert_eq!(lines(&bound), "give    ctl: thread 12 of c SCHED_FIFO 80 reset-on-fork on CPU 1 (found)\n");
    assert!(matches!(bound.bindings[1].1, Binding::Thread { others: 1, .. }));

    // Nothing to do; then somebody meddles.
    let mut threads = done(threads, &bound);
    let again = bind(&tasks, &["c"], &threads, &bound.held);
    assert_eq!((lines(&again), &again.held), (String::new(), &bound.held));
    threads[2].now.cpus = "0".parse().unwrap();
    threads[3].now.cpus = "0".parse().unwrap();
    let bound = bind(&tasks, &["c"], &threads, &bound.held);
    assert_eq!(
        lines(&bound),
        "give    ctl: thread 12 of c SCHED_FIFO 80 reset-on-fork on CPU 1 (somebody made it SCHED_FIFO 80 reset-on-fork on CPU 0)\n"
    );

    // Declared anew, and one task less: what its thread had comes back.
    let threads = done(threads, &bound);
    let bound = bind(&[task("ctl", Some("ctl"), 50)], &["c"], &threads, &bound.held);
    assert_eq!(
        lines(&bound),
        "restore main: thread 10 of c SCHED_OTHER nice 0 on CPU 0-1\ngive    ctl: thread 12 of c SCHED_FIFO 50 reset-on-fork on CPU 1 (declared anew)\n"
    );
    let threads = done(threads, &bound);
    let bound = bind(&[], &["c"], &threads, &bound.held);
    assert_eq!(lines(&bound), "restore ctl: thread 12 of c SCHED_OTHER nice 0 on CPU 0-1\n");
    assert!(bound.held.is_empty());
}

#[test]
fn a_thread_that_is_gone_or_renamed_isnt_the_task() {
    let tasks = [task("ctl", Some("ctl"), 80)];
    let threads = vec![thread("ctl", 12, 7)];
    let bound = bind(&tasks, &["c"], &threads, &[]);
    let gone = bind(&tasks, &["c"], &[], &bound.held);
    assert_eq!((gone.steps.len(), &gone.bindings[0].1), (0, &Binding::Missing));
    // Its id went to another thread.
    let reused = bind(&tasks, &["c"], &[thread("other", 12, 900)], &bound.held);
    assert!(reused.steps.is_empty() && reused.held.is_empty());
    let mut renamed = done(threads, &bound);
    renamed[0].name = "done".to_owned();
    let bound = bind(&tasks, &["c"], &renamed, &bound.held);
    assert_eq!(lines(&bound), "restore ctl: thread 12 of c SCHED_OTHER nice 0 on CPU 0-1\n");
    assert_eq!(bind(&tasks, &[], &[], &[]).bindings[0].1, Binding::NotRunning);
}

#[test]
fn a_thread_that_executes_a_program_gives_back_what_it_had() {
    let tasks = [task("ctl", Some("ctl"), 80)];
    let threads = vec![thread("app", 10, 5), thread("ctl", 12, 7)];
    let bound = bind(&tasks, &["c"], &threads, &[]);
    let given = done(threads, &bound);
    assert_eq!(follow(&bound.held, &given), bound.held, "it is there");
    // It has the first one's id and start, and its own settings.
    let mut executed = vec![thread("program", 10, 5)];
    executed[0].now = given[1].now.clone();
    let held = follow(&bound.held, &executed);
    let after = bind(&tasks, &["c"], &executed, &held);
    assert_eq!(lines(&after), "restore ctl: thread 10 of c SCHED_OTHER nice 0 on CPU 0-1\n");
    assert_eq!(after.bindings[0].1, Binding::Missing);
    assert!(bind(&tasks, &["c"], &done(executed.clone(), &after), &after.held).steps.is_empty());
    // The program is the task's.
    executed[0].name = "ctl".to_owned();
    let after = bind(&tasks, &["c"], &executed, &held);
    assert!(after.steps.is_empty() && after.held == held, "{}", lines(&after));
    assert_eq!(after.held[0].before, bound.held[0].before);
    // One that ended, beside a first thread that is what it was; and one of a first thread that is held itself.
    let ended = vec![thread("app", 10, 5)];
    assert_eq!(follow(&bound.held, &ended), bound.held);
    let mut both = bound.held.clone();
    both.push(Held { thread: ThreadId { pid: 10, tid: 10, started: 5 }, ..both[0].clone() });
    assert_eq!(follow(&both, &executed), both);
}

#[test]
fn without_a_record_nothing_is_given_again() {
    let tasks = [task("ctl", Some("ctl"), 80)];
    let mut threads = vec![thread("ctl", 12, 7)];
    threads[0].now = Given::of(&tasks[0]);
    let bound = bind(&tasks, &["c"], &threads, &[]);
    assert!(bound.steps.is_empty());
    assert_eq!(bound.held[0].before, Given { settings: Settings::DEFAULT, cpus: Cpus::default() });
}

#[test]
fn tasks_of_no_container_find_theirs() {
    let any = |thread| InstanceTask { container: None, ..task("t", thread, 1) };
    let mut threads = vec![thread("app", 10, 5), thread("ctl", 20, 6)];
    threads[1].container = "d".to_owned();
    let container = |task: InstanceTask| match &bind(&[task], &["c", "d"], &threads, &[]).bindings[0].1 {
        Binding::Thread { container, .. } => container.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!((container(any(Some("ctl"))), container(any(None))), ("d".to_owned(), "c".to_owned()));
    // Two tasks never share a thread.
    let twice = bind(&[task("a", None, 1), task("b", None, 2)], &["c"], &threads, &[]);
    assert_eq!(twice.bindings[1].1, Binding::Missing);
}

#[test]
fn budgets_are_the_peak_of_the_fullest_cpu() {
    let window = 1_000_000_000;
    let a = task("a", None, 1);
    // Alone it runs at once: 2 of every 10 ms.
    assert_eq!(budget_ns([&a].into_iter(), window), 200_000_000);
    let other = InstanceTask { cpu: 0, wcet_ns: 1_000_000, ..a.clone() };
    assert_eq!(budget_ns([&a, &other].into_iter(), window), 200_000_000);
    // Delayed by up to 2 ms, the end of one job may reach into the window.
    let same = InstanceTask { wcet_ns: 1_000_000, response_time_ns: 3_000_000, ..a.clone() };
    assert_eq!(budget_ns([&a, &same].into_iter(), window), 301_000_000);
    let deadline = InstanceTask { policy: SchedulingPolicy::Deadline, ..a.clone() };
    assert_eq!(budget_ns([&deadline].into_iter(), window), 0);
    let too_much = InstanceTask { wcet_ns: i64::MAX, period_ns: 1, ..a };
    assert_eq!(budget_ns([&too_much].into_iter(), window), window);
}

fn standing(binding: Binding, measured: TaskStatus) -> Standing {
    Standing { binding, failure: None, measured }
}

fn bound_thread() -> Binding {
    Binding::Thread { id: ThreadId { pid: 10, tid: 12, started: 7 }, container: "c".to_owned(), others: 0 }
}

#[test]
fn conditions() {
    let tasks = [task("ctl", Some("ctl"), 80)];
    let told = |standing: Standing| report(Some(3), &tasks, &[standing], &[("c", 10)], Ok(()));
    let fine = told(standing(bound_thread(), TaskStatus { jobs: 7, ..Default::default() }));
    assert_eq!((fine.tasks[0].threads, fine.tasks[0].jobs, fine.spent.len()), (1, 7, 0));
    assert_eq!(fine.realtime, Fact::yes("Applied", "1 task's thread has its settings"));
    assert_eq!((fine.deadlines.status, fine.wcet.status), (Status::True, Status::True));

    let missing = told(standing(Binding::Missing, TaskStatus::default()));
    assert_eq!(missing.realtime, Fact::no("ThreadNotFound", "task ctl: no thread of container c is named ctl"));
    assert_eq!(missing.tasks[0].threads, 0);
    let stopped = told(standing(Binding::NotRunning, TaskStatus::default()));
    assert_eq!(stopped.realtime, Fact::no("Starting", "task ctl: its container doesn't run"));
    let unset = |why| told(Standing { failure: Some(why), ..standing(bound_thread(), TaskStatus::default()) });
    let refused = unset(Unset::Refused("EBUSY".into()));
    assert_eq!(refused.realtime, Fact::no("NoRealTime", "task ctl: EBUSY"));
    let asleep = unset(Unset::Asleep("its thread sleeps".into()));
    assert_eq!((asleep.realtime, asleep.tasks[0].threads), (Fact::no("Starting", "task ctl: its thread sleeps"), 0));
    let repaired = told(standing(bound_thread(), TaskStatus { repairs: 2, ..Default::default() }));
    assert_eq!(
        repaired.realtime,
        Fact::yes(
            "DriftRepaired",
            "1 task's thread has its settings; task ctl: changed by somebody and repaired 2 times"
        )
    );
}

#[test]
fn misses_and_overruns() {
    let tasks = [task("ctl", Some("ctl"), 80)];
    let told = |misses, overruns| {
        let measured = TaskStatus { misses, overruns, worst_execution_ns: 3_000_000, ..Default::default() };
        report(None, &tasks, &[standing(bound_thread(), measured)], &[("c", 10)], Ok(()))
    };
    let within = told(1, 0);
    assert_eq!(
        within.deadlines,
        Fact::yes("DeadlineMissed", "task ctl missed its deadline of 10ms once; its budget is 1")
    );
    assert!(within.spent.is_empty());
    let beyond = told(2, 1);
    assert_eq!(
        beyond.deadlines,
        Fact::no("MissBudgetSpent", "task ctl missed its deadline of 10ms 2 times; its budget is 1")
    );
    assert_eq!((beyond.spent[0].pid, beyond.spent[0].on_miss), (10, OnMiss::Notify));
    assert_eq!(beyond.wcet, Fact::no("WcetExceeded", "task ctl executed for 3ms, declared 2ms; 1 job took longer"));
    let blind = report(None, &tasks, &[standing(bound_thread(), TaskStatus::default())], &[("c", 10)], Err("no BTF"));
    assert_eq!(blind.deadlines, Fact::unknown("NoRealTime", "deadlines aren't watched here: no BTF"));
}
