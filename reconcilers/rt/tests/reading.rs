//! From what a person or another process wrote to tasks and nodes, every wrong field named.

#![allow(clippy::unwrap_used)]

use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::node::NodeRealtime;
use pullpiri_crds::schedule::{OnMiss, Realtime, ScheduleSpec};
use pullpiri_rt::{Algorithm, CpuSet, Node, Placed, Policy, PriorityAssignment, from_model, from_schedule};

const MS: u64 = 1_000_000;

fn schedule(json: serde_json::Value) -> ScheduleSpec {
    serde_json::from_value(json).unwrap()
}

#[test]
fn schedules_read_with_every_error_named() {
    let spec = schedule(serde_json::json!({"tasks": [
        {"name": "a", "wcet": "0ms", "period": "-1ms", "deadline": "x", "jitter": "-2us", "priority": 0},
        {"name": "a", "wcet": "1ms", "period": "10ms", "cpus": "3-1", "policy": "DEADLINE", "missBudget": -1},
        {"name": "b", "wcet": "-1ms", "period": "0s", "deadline": "0ms", "offset": "-1us", "blocking": "-1ns", "priority": 5},
    ]}));
    let errors = from_schedule(&spec).unwrap_err();
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "spec.tasks[0].wcet",
            "spec.tasks[0].period",
            "spec.tasks[0].deadline",
            "spec.tasks[0].jitter",
            "spec.tasks[0].priority",
            "spec.tasks[1].name",
            "spec.tasks[1].priority",
            "spec.tasks[1].policy",
            "spec.tasks[1].cpus",
            "spec.tasks[1].missBudget",
            "spec.tasks[2].wcet",
            "spec.tasks[2].period",
            "spec.tasks[2].deadline",
            "spec.tasks[2].offset",
            "spec.tasks[2].blocking",
        ]
    );
    assert_eq!(errors[0].to_string(), "spec.tasks[0].wcet: given \"0ms\", expected a duration above 0");
}

#[test]
fn defaults_follow_the_tasks() {
    let spec = schedule(serde_json::json!({"tasks": [{"name": "a", "wcet": "1ms", "period": "10ms", "node": "ZONE",
        "target": {"model": "m", "container": "c"}}]}));
    let set = from_schedule(&spec).unwrap();
    assert_eq!(
        (set.algorithm, set.priority_assignment),
        (Algorithm::FixedPriority, PriorityAssignment::DeadlineMonotonic)
    );
    assert_eq!((set.tasks[0].deadline_ns, set.tasks[0].policy), (10 * MS, Policy::Fifo));
    assert_eq!((set.tasks[0].node.as_deref(), set.tasks[0].group.as_str()), (Some("zone"), "m/c"));
    let spec = schedule(
        serde_json::json!({"algorithm": "EarliestDeadlineFirst", "tasks": [{"name": "a", "wcet": "1ms", "period": "10ms", "priority": 5}]}),
    );
    assert_eq!(from_schedule(&spec).unwrap().tasks[0].policy, Policy::Deadline);
    let model = Realtime { wcet: "1ms".into(), period: "10ms".into(), ..Realtime::default() };
    assert_eq!(from_model("m", &model).unwrap().name, "m");
    let bad = Realtime { wcet: "1ms".into(), period: "0s".into(), ..Realtime::default() };
    assert_eq!(from_model("m", &bad).unwrap_err()[0].path, "spec.realtime.period");
}

#[test]
fn instances_and_nodes_read_back() {
    let mut instance = InstanceTask {
        name: "a".into(),
        container: None,
        thread: None,
        policy: Policy::Fifo,
        priority: Some(80),
        cpu: 1,
        wcet_ns: 3_000_000,
        period_ns: 10_000_000,
        deadline_ns: 10_000_000,
        jitter_ns: 0,
        offset_ns: 0,
        blocking_ns: 0,
        response_time_ns: 3_000_000,
        on_miss: OnMiss::Notify,
        miss_budget: 0,
        schedule: None,
    };
    let placed = Placed::from_instance("ecu", "g", &instance).unwrap();
    assert_eq!((placed.cpu, placed.task.priority, placed.task.wcet_ns), (1, Some(80), 3 * MS));
    instance.period_ns = 0;
    instance.priority = Some(100);
    let errors = Placed::from_instance("ecu", "g", &instance).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(), ["periodNs", "priority"]);
    let mut realtime = NodeRealtime {
        cpus: "0-1".into(),
        fixed_priority_ppm: 950_000,
        fixed_priority_window_ns: 1_000_000_000,
        deadline_ppm: 900_000,
        ..NodeRealtime::default()
    };
    assert_eq!(Node::from_runtime("ecu", &realtime).unwrap().cpus, CpuSet::first(2));
    realtime.cpus = "x".into();
    realtime.deadline_ppm = -1;
    assert_eq!(Node::from_runtime("ecu", &realtime).unwrap_err().len(), 2);
}
