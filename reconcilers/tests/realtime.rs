//! Real-time admission: golden plans, and what holds for all of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpiri_crds::instance::{InstanceTask, ModelInstance, Phase};
use pullpiri_crds::model::Model;
use pullpiri_crds::package::{DesiredState, PackageModel, PackageState};
use pullpiri_crds::schedule::SchedulingPolicy;
use pullpiri_reconcilers::package::{Snapshot, decide};
use serde_json::{Value, json};
use world::{anywhere, at, model, node, on_node, package, package_snapshot, report, running, schedule, settle, timed};

fn condition<'a>(snapshot: &'a Snapshot, kind: &str) -> Option<&'a Condition> {
    snapshot.package.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == kind)
}

fn proof(snapshot: &Snapshot) -> (&str, &str, &str) {
    let condition = condition(snapshot, "Schedulable").unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

/// A package of these models, running, with a Schedule of these tasks.
fn scheduled(
    entries: Vec<PackageModel>,
    models: &[Model],
    nodes: &[pullpiri_reconcilers::placement::NodeView],
    spec: Value,
) -> Snapshot {
    let mut package = running(package("drive", entries));
    package.spec.schedule = Some("loop".to_owned());
    let mut snapshot = package_snapshot(package, models, nodes);
    snapshot.schedule = Some(Arc::new(schedule("loop", spec)));
    snapshot
}

fn edit(snapshot: &mut Snapshot, spec: Value) {
    let mut next = schedule("loop", spec);
    let before = snapshot.schedule.clone().unwrap();
    next.metadata.generation = before.metadata.generation.map(|g| g + 1);
    next.status.clone_from(&before.status);
    snapshot.schedule = Some(Arc::new(next));
}

fn tasks<'a>(snapshot: &'a Snapshot, model: &str) -> &'a [InstanceTask] {
    &snapshot.instances.iter().find(|i| i.spec.model == model).unwrap().spec.realtime
}

fn brake() -> Value {
    json!({"tasks": [
        {"name": "control", "wcet": "2ms", "period": "10ms", "target": {"model": "brake", "thread": "control"}},
        {"name": "sample", "wcet": "1ms", "period": "5ms", "deadline": "4ms", "jitter": "100us", "onMiss": "Restart", "missBudget": 3,
         "target": {"model": "brake", "container": "main"}},
        {"name": "a-very-long-logger-name", "wcet": "1ms", "period": "100ms"},
    ]})
}

fn drive() -> Snapshot {
    scheduled(
        vec![on_node("brake", "ECU_1"), on_node("video", "ecu-1")],
        &[model("brake", "b"), model("video", "v")],
        &[timed("ecu-1", "1-2")],
        brake(),
    )
}

#[test]
fn a_proven_package_is_placed_with_its_settings() {
    let mut snapshot = drive();
    let text = settle(&mut snapshot, 0);
    insta::assert_snapshot!(text);
    // One task without a target is on every instance of its node; it is one task all the same.
    assert_eq!((tasks(&snapshot, "brake").len(), tasks(&snapshot, "video").len()), (3, 1));
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 10);
    assert_eq!(snapshot.package.status.as_ref().unwrap().state, PackageState::Running);
    assert_eq!(proof(&snapshot).0, "True");
}

#[test]
fn a_set_that_misses_is_refused_as_a_whole_with_its_witness() {
    let mut snapshot = drive();
    edit(
        &mut snapshot,
        json!({"tasks": [
            {"name": "control", "wcet": "5ms", "period": "10ms", "deadline": "8ms", "cpus": "1", "target": {"model": "brake", "thread": "control"}},
            {"name": "sample", "wcet": "2ms", "period": "5ms", "cpus": "1", "target": {"model": "brake"}},
        ]}),
    );
    let text = settle(&mut snapshot, 0);
    assert!(snapshot.instances.is_empty(), "{text}");
    insta::assert_snapshot!(text);
    let (status, reason, message) = proof(&snapshot);
    assert_eq!((status, reason), ("False", "NotSchedulable"));
    for part in ["control", "deadline of 8ms by 1ms", "ecu-1", "CPU 1", "sample"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(condition(&snapshot, "Placed").unwrap().status, "False");
    // Repaired in place, it is placed.
    edit(&mut snapshot, brake());
    settle(&mut snapshot, 10);
    assert_eq!((proof(&snapshot).0, snapshot.instances.len()), ("True", 2));
}

#[test]
fn a_changed_schedule_changes_the_instance_in_place_and_a_broken_one_leaves_it() {
    let mut snapshot = drive();
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    let uids: Vec<_> = snapshot.instances.iter().map(|i| i.metadata.uid.clone()).collect();
    let before = tasks(&snapshot, "brake").to_vec();

    let mut shorter = brake();
    shorter["tasks"][0]["wcet"] = json!("1500us");
    edit(&mut snapshot, shorter);
    insta::assert_snapshot!(settle(&mut snapshot, 10));
    assert_eq!(uids, snapshot.instances.iter().map(|i| i.metadata.uid.clone()).collect::<Vec<_>>());
    let after = tasks(&snapshot, "brake").to_vec();
    assert_eq!((after[0].wcet_ns, after[0].cpu), (1_500_000, before[0].cpu));

    let mut broken = brake();
    broken["tasks"][1]["wcet"] = json!("6ms");
    edit(&mut snapshot, broken);
    report(&mut snapshot, Phase::Running);
    let text = settle(&mut snapshot, 20);
    assert!(!text.contains("ModelInstance"), "{text}");
    assert_eq!(tasks(&snapshot, "brake"), after);
    let (status, _, message) = proof(&snapshot);
    assert_eq!(status, "False");
    assert!(message.ends_with("what runs keeps its settings"), "{message}");
    assert_eq!(condition(&snapshot, "Placed").unwrap().status, "True");
    assert_eq!(snapshot.package.status.as_ref().unwrap().state, PackageState::Running);
    // The Schedule says so too, of the generation that it is about.
    let status = snapshot.schedule.as_ref().unwrap().status.clone().unwrap();
    assert_eq!((status.observed_generation, status.conditions[0].status.as_str()), (Some(3), "False"));

    // What is stopped isn't started with what can't be proven.
    let mut package = (*snapshot.package).clone();
    package.spec.desired_state = Some(DesiredState::Stopped);
    snapshot.package = Arc::new(package.clone());
    settle(&mut snapshot, 30);
    report(&mut snapshot, Phase::Pending);
    settle(&mut snapshot, 35);
    package.spec.desired_state = Some(DesiredState::Running);
    package.status.clone_from(&snapshot.package.status);
    snapshot.package = Arc::new(package);
    settle(&mut snapshot, 40);
    assert!(snapshot.instances.iter().all(|i| !i.spec.run));
    assert_eq!(condition(&snapshot, "Placed").unwrap().reason, "NotSchedulable");
}

#[test]
fn what_a_node_lacks_is_named() {
    let task = |extra: Value| {
        let mut task = json!({"name": "t", "wcet": "1ms", "period": "10ms"});
        for (key, value) in extra.as_object().unwrap() {
            task[key] = value.clone();
        }
        json!({"tasks": [task]})
    };
    let fifo_only = || {
        let mut node = timed("ecu-1", "0-1");
        node.realtime.as_mut().unwrap().policies = vec![SchedulingPolicy::Fifo];
        node
    };
    let throttled = || {
        let mut node = timed("ecu-1", "0-1");
        node.realtime.as_mut().unwrap().fixed_priority_ppm = 50_000;
        node
    };
    let united = || {
        let mut node = timed("ecu-1", "0-1");
        node.realtime.as_mut().unwrap().exclusive_cpusets = false;
        node
    };
    let mut pinned = task(json!({"cpus": "1"}));
    pinned["algorithm"] = json!("EarliestDeadlineFirst");
    for (what, nodes, spec, reason, said) in [
        ("no real time at all", vec![node("ecu-1")], task(json!({})), "NoRealTime", "node ecu-1"),
        ("a CPU", vec![timed("ecu-1", "0-1")], task(json!({"cpus": "28-31"})), "CpuMissing", "CPU 28-31"),
        (
            "one of its CPUs",
            vec![timed("ecu-1", "0-1")],
            task(json!({"cpus": "1-3"})),
            "CpuMissing",
            "node ecu-1 lacks CPU 2-3 of the 1-3 that are declared; for real-time tasks it has 0-1",
        ),
        ("the node", vec![timed("ecu-1", "0-1")], task(json!({"node": "Perf_Node"})), "CpuMissing", "perf-node"),
        (
            "a node without the package",
            vec![timed("ecu-1", "0-1"), timed("other", "0-1")],
            task(json!({"node": "other"})),
            "ScheduleInvalid",
            "placed on ecu-1",
        ),
        ("a policy", vec![fifo_only()], task(json!({"policy": "RR"})), "NoRealTime", "policy RR"),
        ("time", vec![throttled()], task(json!({})), "KernelCeiling", "5 %"),
        ("a CPU set apart", vec![united()], pinned, "KernelCeiling", "it can't set a CPU apart (no exclusive cpuset)"),
    ] {
        let mut snapshot = scheduled(vec![on_node("m", "ecu-1")], &[model("m", "i")], &nodes, spec);
        settle(&mut snapshot, 0);
        assert!(snapshot.instances.is_empty(), "{what}");
        let (status, got, message) = proof(&snapshot);
        assert_eq!((status, got), ("False", reason), "{what}: {message}");
        assert!(message.contains(said) && message.contains("task t"), "{what}: {message}");
        assert_eq!(condition(&snapshot, "Placed").unwrap().reason, reason, "{what}");
    }
}

#[test]
fn schedules_that_contradict_themselves_or_the_package_are_invalid() {
    let task = |name: &str, target: Value| json!({"name": name, "wcet": "1ms", "period": "10ms", "target": target});
    for (what, spec, said) in [
        (
            "a model of another package",
            json!({"tasks": [task("t", json!({"model": "x"}))]}),
            "given model x, expected one of the package's: m",
        ),
        (
            "an unknown container",
            json!({"tasks": [task("t", json!({"model": "m", "container": "x"}))]}),
            "given container x, expected one of model m's: main",
        ),
        ("a time", json!({"tasks": [{"name": "t", "wcet": "0s", "period": "10ms"}]}), "spec.tasks[0].wcet"),
    ] {
        let mut snapshot = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[timed("a", "0")], spec);
        settle(&mut snapshot, 0);
        let (status, reason, message) = proof(&snapshot);
        assert_eq!((status, reason), ("False", "ScheduleInvalid"), "{what}: {message}");
        assert!(message.contains(said), "{what}: {message}");
        assert!(snapshot.instances.is_empty(), "{what}");
    }
    let mut snapshot = drive();
    snapshot.schedule = None;
    settle(&mut snapshot, 0);
    assert_eq!((proof(&snapshot).0, proof(&snapshot).1), ("False", "ScheduleNotFound"));
    assert_eq!(condition(&snapshot, "Resolved").unwrap().reason, "ScheduleNotFound");
}

#[test]
fn a_models_own_task_needs_no_schedule_and_is_no_part_of_the_template() {
    let with = |wcet: &str| {
        let mut own = model("brake", "b");
        own.spec.realtime = serde_json::from_value(json!({"wcet": wcet, "period": "10ms", "priority": 40})).unwrap();
        own
    };
    let mut snapshot =
        package_snapshot(running(package("p", vec![on_node("brake", "a")])), &[with("2ms")], &[timed("a", "0")]);
    insta::assert_snapshot!(settle(&mut snapshot, 0));
    let before = snapshot.instances[0].clone();
    assert!(before.spec.template.spec.realtime.is_none());
    assert_eq!(before.spec.realtime[0].container.as_deref(), Some("main"));
    snapshot.models.insert("brake".to_owned(), Arc::new(with("3ms")));
    settle(&mut snapshot, 10);
    let after = &snapshot.instances[0];
    assert_eq!(
        (after.metadata.uid.as_ref(), after.spec.realtime[0].wcet_ns),
        (before.metadata.uid.as_ref(), 3_000_000)
    );
    // Without it, the condition goes as well.
    snapshot.models.insert("brake".to_owned(), Arc::new(model("brake", "b")));
    settle(&mut snapshot, 20);
    assert!(condition(&snapshot, "Schedulable").is_none());
    assert!(snapshot.instances[0].spec.realtime.is_empty());
    assert_eq!(snapshot.instances[0].metadata.uid, before.metadata.uid);
}

fn own_task(name: &str, wcet: &str) -> Model {
    let mut model = model(name, "i");
    model.spec.realtime = serde_json::from_value(json!({"wcet": wcet, "period": "10ms"})).unwrap();
    model
}

/// An instance of another package that holds what a package of one model was given.
fn neighbour(wcet: &str, on: &str, nodes: &[pullpiri_reconcilers::placement::NodeView]) -> Arc<ModelInstance> {
    let entry = on_node("other", on);
    let mut snapshot = package_snapshot(running(package("q", vec![entry])), &[own_task("other", wcet)], nodes);
    settle(&mut snapshot, 0);
    snapshot.instances.remove(0)
}

#[test]
fn a_model_without_a_node_goes_where_its_task_fits() {
    let nodes = [node("a"), timed("b", "0"), timed("c", "0")];
    let mut snapshot = package_snapshot(running(package("p", vec![anywhere("m")])), &[own_task("m", "6ms")], &nodes);
    snapshot.neighbours = vec![neighbour("6ms", "b", &nodes)];
    settle(&mut snapshot, 0);
    assert_eq!(snapshot.instances[0].spec.node_name, "c", "a has no real time, b no time left");
    // Where it is, it stays.
    snapshot.neighbours.clear();
    assert!(decide(&snapshot, at(5)).actions.is_empty());
    // Where it fits nowhere, the first candidate says why.
    let mut full = package_snapshot(running(package("p", vec![anywhere("m")])), &[own_task("m", "6ms")], &nodes[1..2]);
    full.neighbours = vec![neighbour("6ms", "b", &nodes)];
    settle(&mut full, 0);
    let (status, reason, message) = proof(&full);
    assert_eq!((status, reason), ("False", "NotSchedulable"));
    assert!(message.contains("q/other"), "{message}");
    // As soon as the other is gone, it is placed.
    full.neighbours.clear();
    settle(&mut full, 5);
    assert_eq!((proof(&full).0, full.instances.len()), ("True", 1));
}

#[test]
fn a_stopped_neighbour_holds_its_time_until_its_node_has_stopped_it() {
    let nodes = [timed("b", "0")];
    let mut snapshot =
        package_snapshot(running(package("p", vec![on_node("m", "b")])), &[own_task("m", "6ms")], &nodes);
    let mut other = (*neighbour("6ms", "b", &nodes)).clone();
    other.spec.run = false;
    other.metadata.generation = Some(2);
    for (phase, seen, admitted) in [("Running", 2, "False"), ("Pending", 1, "False"), ("Pending", 2, "True")] {
        other.status = serde_json::from_value(json!({"phase": phase, "observedGeneration": seen})).unwrap();
        snapshot.neighbours = vec![Arc::new(other.clone())];
        settle(&mut snapshot, 0);
        assert_eq!(proof(&snapshot).0, admitted, "{phase} {seen}");
    }
}

#[test]
fn a_running_task_keeps_its_cpu_as_long_as_that_can_be_proven() {
    let set = |first: &str, second: &str| {
        json!({"tasks": [
            {"name": "x", "wcet": first, "period": "10ms", "target": {"model": "m", "thread": "x"}},
            {"name": "y", "wcet": second, "period": "10ms", "target": {"model": "m", "thread": "y"}},
        ]})
    };
    let cpus = |snapshot: &Snapshot| tasks(snapshot, "m").iter().map(|task| task.cpu).collect::<Vec<_>>();
    let mut snapshot = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[timed("a", "0-1")], set("6ms", "5ms"));
    settle(&mut snapshot, 0);
    assert_eq!(cpus(&snapshot), [0, 1]);
    // By falling utilisation y would be first now; they stay where they are.
    edit(&mut snapshot, set("5ms", "6ms"));
    settle(&mut snapshot, 10);
    assert_eq!(cpus(&snapshot), [0, 1]);
    // They would fit on one CPU now, and stay.
    edit(&mut snapshot, set("1ms", "1ms"));
    settle(&mut snapshot, 20);
    assert_eq!(cpus(&snapshot), [0, 1]);
    // A CPU that is lost is left.
    snapshot.nodes[0] = timed("a", "0");
    settle(&mut snapshot, 30);
    assert_eq!((proof(&snapshot).0, cpus(&snapshot)), ("True", vec![0, 0]));
}

#[test]
fn priorities_follow_the_assignment_when_it_changes() {
    let set = |assignment: &str| {
        json!({"priorityAssignment": assignment, "tasks": [
            {"name": "x", "wcet": "1ms", "period": "10ms", "deadline": "9ms", "target": {"model": "m", "thread": "x"}},
            {"name": "y", "wcet": "1ms", "period": "20ms", "deadline": "5ms", "target": {"model": "m", "thread": "y"}},
        ]})
    };
    let more_urgent =
        |snapshot: &Snapshot| tasks(snapshot, "m").iter().max_by_key(|task| task.priority).unwrap().name.clone();
    let mut snapshot = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[timed("a", "0")], set("RateMonotonic"));
    settle(&mut snapshot, 0);
    assert_eq!(more_urgent(&snapshot), "x");
    edit(&mut snapshot, set("DeadlineMonotonic"));
    settle(&mut snapshot, 10);
    assert_eq!(more_urgent(&snapshot), "y");
    // Both orders do, so the one that is there stays.
    edit(&mut snapshot, set("Optimal"));
    settle(&mut snapshot, 20);
    assert_eq!(more_urgent(&snapshot), "y");
}

#[test]
fn of_two_packages_with_one_schedule_the_first_writes_its_status() {
    let mut snapshot = drive();
    snapshot.sharers = vec!["zoo".to_owned()];
    assert!(decide(&snapshot, at(0)).schedule.is_some());
    snapshot.sharers = vec!["abc".to_owned()];
    assert!(decide(&snapshot, at(0)).schedule.is_none());
    assert!(!decide(&snapshot, at(0)).actions.is_empty());
}

#[test]
fn deadline_tasks_get_no_priority() {
    let spec = json!({"algorithm": "EarliestDeadlineFirst", "tasks": [
        {"name": "x", "wcet": "2ms", "period": "10ms", "cpus": "0", "target": {"model": "m"}},
    ]});
    let mut snapshot = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[timed("a", "0-1")], spec);
    settle(&mut snapshot, 0);
    let task = &tasks(&snapshot, "m")[0];
    assert_eq!((task.policy, task.priority, task.cpu), (SchedulingPolicy::Deadline, None, 0));
}

/// What would need every CPU of a node set apart isn't placed: its kernel side leaves one to everything else.
#[test]
fn deadline_tasks_dont_get_a_nodes_last_cpu() {
    let spec = |cpus: [&str; 2]| {
        json!({"algorithm": "EarliestDeadlineFirst", "tasks": [
            {"name": "x", "wcet": "5ms", "period": "10ms", "cpus": cpus[0], "target": {"model": "m", "thread": "x"}},
            {"name": "y", "wcet": "5ms", "period": "10ms", "cpus": cpus[1], "target": {"model": "m", "thread": "y"}},
        ]})
    };
    for (cpus, said) in [
        (
            ["0", "1"],
            "task y can't be on node a: it sets at most 1 of its 2 CPUs apart for DEADLINE tasks, as one is left to all else, \
             and CPU 0 has some already",
        ),
        (
            ["0-1", "0-1"],
            "task y has no place on any of 2 CPUs; with it, node a CPU 0: DEADLINE tasks need 100 % of the CPU, its kernel admits \
             90 %: x 5ms, y 5ms; node a sets at most 1 of its 2 CPUs apart for DEADLINE tasks, as one is left to all else",
        ),
    ] {
        let (entries, models) = (vec![on_node("m", "a")], [model("m", "i")]);
        let mut snapshot = scheduled(entries, &models, &[timed("a", "0-1")], spec(cpus));
        settle(&mut snapshot, 0);
        assert_eq!(proof(&snapshot), ("False", "KernelCeiling", said));
    }
}

/// The published Schedule: accepted as an object, and refused for what its node lacks.
#[test]
fn the_published_schedule_names_what_its_node_lacks() {
    let names: Vec<String> = (0..3).map(|n| format!("p1_{n}")).chain((0..10).map(|n| format!("p2_{n}"))).collect();
    let tasks: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({"name": name, "priority": 20, "policy": "FIFO", "cpus": "28-31", "period": "10ms", "offset": "0s", "wcet": "3ms",
                "deadline": "10ms", "node": "perf-node", "missBudget": 3})
        })
        .collect();
    for (nodes, said) in [
        (
            vec![timed("hpc", "0-3")],
            "tasks p1_0, p1_1, p1_2 and 10 more: node perf-node (with CPUs 28-31) doesn't exist",
        ),
        (
            vec![timed("hpc", "0-3"), timed("perf-node", "0-3")],
            "tasks p1_0, p1_1, p1_2 and 10 more: node perf-node lacks CPU 28-31; for real-time tasks it has 0-3",
        ),
    ] {
        let entries = vec![on_node("test-model1", "hpc"), on_node("test-model2", "hpc")];
        let models = [model("test-model1", "i"), model("test-model2", "i")];
        let mut snapshot = scheduled(entries, &models, &nodes, json!({"tasks": tasks}));
        settle(&mut snapshot, 0);
        assert_eq!(proof(&snapshot), ("False", "CpuMissing", said));
        assert!(snapshot.instances.is_empty());
    }
}

#[test]
fn what_was_proven_once_is_proven_again_when_the_node_changes() {
    let mut snapshot = drive();
    settle(&mut snapshot, 0);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 5);
    let before = tasks(&snapshot, "brake").to_vec();
    snapshot.nodes[0].realtime.as_mut().unwrap().fixed_priority_ppm = 100_000;
    settle(&mut snapshot, 10);
    let (status, reason, message) = proof(&snapshot);
    assert_eq!((status, reason), ("False", "KernelCeiling"), "{message}");
    assert_eq!(tasks(&snapshot, "brake"), before);
    snapshot.nodes[0].realtime.as_mut().unwrap().fixed_priority_ppm = 950_000;
    settle(&mut snapshot, 20);
    assert_eq!(proof(&snapshot).0, "True");
}

#[test]
fn tasks_that_are_one_thread_are_proven_and_told_of() {
    let task = |name: &str, extra: Value| {
        let mut task = json!({"name": name, "wcet": "1ms", "period": "10ms"});
        for (key, value) in extra.as_object().unwrap() {
            task[key] = value.clone();
        }
        task
    };
    for (tasks, said) in [
        (
            [
                task("t", json!({"target": {"model": "m"}})),
                task("u", json!({"target": {"model": "m", "container": "main"}})),
            ],
            "tasks t and u are both the first thread of container main",
        ),
        (
            [task("sensor-fusion-left", json!({})), task("sensor-fusion-left-2", json!({}))],
            "are both the thread named sensor-fusion-l",
        ),
        (
            [task("t", json!({})), task("u", json!({"target": {"model": "m", "thread": "t"}}))],
            "are both the thread named t",
        ),
    ] {
        let spec = json!({"tasks": tasks});
        let mut snapshot = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[timed("a", "0")], spec);
        settle(&mut snapshot, 0);
        let (status, reason, message) = proof(&snapshot);
        assert_eq!((status, reason), ("True", "Proven"), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

/// A Schedule of the size that the schema allows, on a large node: it is decided at once, and stays as it is.
#[test]
fn a_thousand_tasks_are_admitted() {
    let models: Vec<Model> = (0..4).map(|at| model(&format!("m{at}"), "i")).collect();
    let entries = (0..4).map(|at| on_node(&format!("m{at}"), "a")).collect();
    let tasks: Vec<Value> = (0..1000)
        .map(|at| {
            let period = [5, 10, 20, 40, 100][at % 5];
            let target = json!({"model": format!("m{}", at % 4), "thread": format!("t{at}")});
            json!({"name": format!("t{at}"), "wcet": format!("{}us", period * 3), "period": format!("{period}ms"), "target": target})
        })
        .collect();
    let mut snapshot = scheduled(entries, &models, &[timed("a", "0-15")], json!({"tasks": tasks}));
    settle(&mut snapshot, 0);
    assert_eq!(proof(&snapshot).0, "True", "{}", proof(&snapshot).2);
    assert_eq!(snapshot.instances.iter().map(|i| i.spec.realtime.len()).sum::<usize>(), 1000);
    report(&mut snapshot, Phase::Running);
    settle(&mut snapshot, 10);
    assert!(decide(&snapshot, at(20)).is_empty());
}

/// Kernels with RT_GROUP_SCHED give each container's group what it may use on any one CPU; the sum is bounded.
#[test]
fn tasks_that_may_be_in_any_container_count_as_if_each_had_its_own() {
    let metered = || {
        let mut node = timed("a", "0-1");
        node.realtime.as_mut().unwrap().group_ppm = Some(700_000);
        node
    };
    // Some 40 % of a CPU each, on two CPUs: one group needs 40 %, two need 80 %.
    let spec = json!({"tasks": [
        {"name": "x", "wcet": "4ms", "period": "10ms", "cpus": "0"},
        {"name": "y", "wcet": "4ms", "period": "10ms", "cpus": "1"},
    ]});
    let mut one = scheduled(vec![on_node("m", "a")], &[model("m", "i")], &[metered()], spec.clone());
    settle(&mut one, 0);
    assert_eq!(proof(&one).0, "True", "{}", proof(&one).2);
    let entries = vec![on_node("m", "a"), on_node("n", "a")];
    let mut two = scheduled(entries, &[model("m", "i"), model("n", "i")], &[metered()], spec);
    settle(&mut two, 0);
    let (status, reason, message) = proof(&two);
    assert_eq!((status, reason), ("False", "KernelCeiling"), "{message}");
    assert!(message.contains("RT_GROUP_SCHED"), "{message}");
}
