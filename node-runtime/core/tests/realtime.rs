//! What becomes of instances whose real-time tasks miss their deadlines: plans as text.

// Tests, but clippy knows tests by their attribute, which helpers don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod world;

use std::time::Duration;

use pullpiri_crds::instance::{InstanceTask, TaskStatus};
use pullpiri_crds::model::RestartPolicy;
use pullpiri_crds::schedule::{OnMiss, SchedulingPolicy};
use pullpiri_node_core::realtime::{Binding, Standing, ThreadId, report};
use pullpiri_node_core::runtime::ContainerStateObserved;
use world::{World, id, instance, model};

fn task(on_miss: OnMiss) -> InstanceTask {
    InstanceTask {
        name: "ctl".to_owned(),
        container: Some("x".to_owned()),
        thread: None,
        policy: SchedulingPolicy::Fifo,
        priority: Some(80),
        cpu: 0,
        wcet_ns: 1_000_000,
        period_ns: 10_000_000,
        deadline_ns: 10_000_000,
        jitter_ns: 0,
        offset_ns: 0,
        blocking_ns: 0,
        response_time_ns: 1_000_000,
        on_miss,
        miss_budget: 0,
        schedule: None,
    }
}

/// Somebody looked: so many deadlines were missed by the container that runs now.
fn looked(world: &mut World, misses: i64) {
    let pods: Vec<_> = world.pods.values().filter(|pod| pod.id == id("a")).cloned().collect();
    let pid = pods.iter().flat_map(|pod| &pod.containers).find_map(|container| match container.state {
        ContainerStateObserved::Running { pid, .. } => i32::try_from(pid).ok(),
        _ => None,
    });
    let object = world.api.get(&id("a")).unwrap();
    let thread = pid.map(|pid| ThreadId { pid, tid: pid, started: 1 });
    let binding = thread.map_or(Binding::NotRunning, |id| Binding::Thread { id, container: "x".into(), others: 0 });
    let standing = Standing { binding, failure: None, measured: TaskStatus { misses, ..Default::default() } };
    let containers: Vec<(&str, i32)> = pid.map(|pid| ("x", pid)).into_iter().collect();
    let told = report(object.metadata.generation, &object.spec.realtime, &[standing], &containers, Ok(()));
    world.agent.instances.get_mut(&id("a")).unwrap().realtime = Some(told);
}

fn start(on_miss: OnMiss, policy: RestartPolicy) -> World {
    let mut world = World::new();
    let mut object = instance("a", model(&["x"], policy));
    object.spec.realtime = vec![task(on_miss)];
    world.create(object);
    world.settle(true);
    looked(&mut world, 0);
    world.settle(true);
    world
}

fn actions(world: &mut World) -> Vec<String> {
    let plan = world.plan(true);
    let lines = plan.actions.iter().map(ToString::to_string).collect();
    world.apply(plan, None);
    lines
}

fn condition(world: &World, type_: &str) -> (String, String) {
    let conditions = &world.agent.instances.get(&id("a")).unwrap().memory.status.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == type_);
    found.map(|found| (found.status.clone(), found.reason.clone())).unwrap_or_default()
}

fn said(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_miss_is_told_and_changes_nothing() {
    let mut world = start(OnMiss::Notify, RestartPolicy::Always);
    assert_eq!(condition(&world, "RealTime"), said("True", "Applied"));
    assert_eq!(condition(&world, "DeadlinesMet"), said("True", "AsDeclared"));
    looked(&mut world, 3);
    assert!(actions(&mut world).is_empty());
    assert_eq!(condition(&world, "DeadlinesMet"), said("False", "MissBudgetSpent"));
    assert_eq!(world.agent.instances.get(&id("a")).unwrap().memory.status.realtime[0].misses, 3);
    // Without tasks, nothing is said of them.
    world.update("a", |spec| spec.realtime.clear());
    world.settle(true);
    assert_eq!(condition(&world, "DeadlinesMet"), said("", ""));
    assert!(world.agent.instances.get(&id("a")).unwrap().memory.status.realtime.is_empty());
}

#[test]
fn a_container_is_restarted_whatever_its_policy() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let mut world = start(OnMiss::Restart, policy);
        looked(&mut world, 1);
        assert_eq!(actions(&mut world), ["end     uid-a oci x pid 101 grace 1 s"], "{policy:?}");
        // What was told of the container before isn't about the one that runs then.
        assert_eq!(actions(&mut world), ["start   uid-a oci x attempt 1"], "{policy:?}");
        assert!(actions(&mut world).is_empty(), "{policy:?}");
        assert_eq!(world.agent.instances.get(&id("a")).unwrap().memory.status.restarts, Some(1));
        looked(&mut world, 0);
        world.settle(true);
        assert_eq!(condition(&world, "DeadlinesMet"), said("True", "AsDeclared"));
        // The next one waits, as for any container that ends again and again.
        looked(&mut world, 1);
        assert_eq!(actions(&mut world), ["end     uid-a oci x pid 102 grace 1 s"], "{policy:?}");
        assert!(actions(&mut world).is_empty(), "{policy:?}");
        world.advance(Duration::from_secs(10));
        assert_eq!(actions(&mut world), ["start   uid-a oci x attempt 2"], "{policy:?}");
    }
}

#[test]
fn a_container_is_ended_once_however_many_of_its_tasks_missed() {
    let mut world = World::new();
    let mut object = instance("a", model(&["x", "y"], RestartPolicy::Always));
    let of = |name: &str, container: &str| InstanceTask {
        name: name.to_owned(),
        container: Some(container.to_owned()),
        ..task(OnMiss::Restart)
    };
    // Those of one container aren't neighbours.
    object.spec.realtime = vec![of("first", "x"), of("second", "y"), of("third", "x")];
    world.create(object);
    world.settle(true);
    let pods: Vec<_> = world.pods.values().filter(|pod| pod.id == id("a")).cloned().collect();
    let running = pods.iter().flat_map(|pod| &pod.containers).filter_map(|container| match container.state {
        ContainerStateObserved::Running { pid, .. } => Some((container.name.as_str(), i32::try_from(pid).ok()?)),
        _ => None,
    });
    let containers: Vec<(&str, i32)> = running.collect();
    let object = world.api.get(&id("a")).unwrap();
    let standing = |task: &InstanceTask| {
        let container = task.container.clone().unwrap();
        let pid = containers.iter().find(|(name, _)| *name == container).unwrap().1;
        let binding = Binding::Thread { id: ThreadId { pid, tid: pid, started: 1 }, container, others: 0 };
        Standing { binding, failure: None, measured: TaskStatus { misses: 1, ..Default::default() } }
    };
    let standings: Vec<Standing> = object.spec.realtime.iter().map(standing).collect();
    let told = report(object.metadata.generation, &object.spec.realtime, &standings, &containers, Ok(()));
    assert_eq!(told.spent.len(), 3);
    world.agent.instances.get_mut(&id("a")).unwrap().realtime = Some(told);
    assert_eq!(actions(&mut world), ["end     uid-a oci x pid 101 grace 1 s", "end     uid-a oci y pid 102 grace 1 s"]);
}

#[test]
fn an_instance_is_stopped_until_its_spec_changes() {
    let mut world = start(OnMiss::Terminate, RestartPolicy::Always);
    looked(&mut world, 1);
    assert_eq!(
        actions(&mut world),
        ["stop    uid-a oci grace 30 s: a real-time task missed more deadlines than it may"]
    );
    world.settle(true);
    assert!(world.pods.is_empty());
    assert_eq!(condition(&world, "DeadlinesMet"), said("False", "MissBudgetSpent"));
    assert_eq!(condition(&world, "Ready"), said("False", "MissBudgetSpent"));
    // The ledger keeps it, and another leader is no reason to run again.
    world.restart_agent();
    world.settle(true);
    world.update("a", |spec| spec.epoch += 1);
    world.settle(true);
    assert!(world.pods.is_empty());
    world.update("a", |spec| spec.realtime[0].wcet_ns = 2_000_000);
    world.settle(true);
    assert_eq!(world.pods.len(), 1);
    assert_eq!(condition(&world, "Ready"), said("True", "AsDeclared"));
}
