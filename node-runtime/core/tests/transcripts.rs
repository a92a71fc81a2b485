//! What a node does, told as plans. The golden files are the plans' stable text.

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use insta::assert_snapshot;
use pullpiri_crds::instance::InstanceNetwork;
use pullpiri_crds::model::{
    Adapter, ConfigMapFiles, ContainerPort, EnvVar, EnvVarSource, ImagePullPolicy, KeySelector, ModelVolume, Protocol,
    Resources, RestartPolicy, VolumeMount,
};
use pullpiri_crds::quantity::Quantity;
use pullpiri_node_core::memory::{Failure, FailureKind};
use pullpiri_node_core::resolve::template_hash;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodObserved};
use pullpiri_node_core::snapshot::{AdapterState, Content, DataKind, DataObject, DataRef, DataState};
use pullpiri_node_core::{Plan, decide_one};
use world::{World, id, instance, model};

#[test]
fn an_instance_is_started_stopped_and_deleted() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    assert_snapshot!("started", world.settle(true));
    world.advance(Duration::from_secs(60));
    world.update("blis", |spec| spec.run = false);
    assert_snapshot!("stopped", world.settle(true));
    world.update("blis", |spec| spec.run = true);
    world.settle(true);
    world.delete("blis");
    assert_snapshot!("deleted", world.settle(true));
    assert!(world.api.is_empty());
}

#[test]
fn what_is_wished_again_while_it_stops_starts_afresh() {
    for (policy, crashes) in [
        (RestartPolicy::Always, false),
        (RestartPolicy::OnFailure, false),
        (RestartPolicy::Never, false),
        (RestartPolicy::Never, true),
    ] {
        let mut world = World::new();
        world.create(instance("blis", model(&["blis"], policy)));
        world.settle(true);
        let first = world.running("blis");
        world.advance(Duration::from_secs(60));
        for round in 0..3 {
            world.update("blis", |spec| spec.run = false);
            let plan = world.plan(true);
            // Told as it is, before its containers have ended.
            let told = plan.objects[&id("blis")].status.clone().unwrap();
            assert!(told.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == "Stopping"), "{told:?}");
            world.apply(plan, None);
            if crashes {
                world.restart_agent();
            }
            world.update("blis", |spec| spec.run = true);
            let mut plan = world.plan(true);
            plan.actions.clear();
            world.apply(plan, None);
            let status = world.status("blis");
            assert_eq!(status.phase.as_str(), "Pending", "{policy:?} {round}");
            assert!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == "Stopping"), "{status:?}");
            let transcript = world.settle(true);
            assert!(!transcript.contains("BackOff") && !transcript.contains("Restarted"), "{transcript}");
            let status = world.status("blis");
            assert_eq!(
                (status.phase.as_str(), status.restarts),
                ("Running", Some(0)),
                "{policy:?} {round}: {transcript}"
            );
            assert_ne!(world.running("blis"), first);
        }
    }
}

#[test]
fn a_container_that_keeps_ending_is_backed_off() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis", "log"], RestartPolicy::Always)));
    world.settle(true);
    world.advance(Duration::from_secs(5));
    world.exit("blis", "blis", 1);
    assert_snapshot!("first_restart_at_once", world.settle(true));
    world.advance(Duration::from_secs(1));
    world.exit("blis", "blis", 137);
    assert_snapshot!("second_restart_waits", world.settle(true));
    world.advance(Duration::from_secs(10));
    assert_snapshot!("second_restart", world.settle(true));
    // A long run ends the row.
    world.advance(Duration::from_secs(600));
    world.exit("blis", "blis", 1);
    let transcript = world.settle(true);
    assert!(transcript.contains("start   uid-blis oci blis attempt 3"), "{transcript}");
}

#[test]
fn policies_decide_what_is_over() {
    let mut world = World::new();
    world.create(instance("job", model(&["job"], RestartPolicy::OnFailure)));
    world.create(instance("once", model(&["once"], RestartPolicy::Never)));
    world.settle(true);
    world.exit("job", "job", 3);
    world.exit("once", "once", 3);
    assert_snapshot!("bad_exits", world.settle(true));
    world.exit("job", "job", 0);
    assert_snapshot!("good_exit", world.settle(true));
}

#[test]
fn what_ended_for_want_of_memory_is_not_as_declared() {
    let degraded = |world: &World, name: &str| {
        let conditions = world.status(name).conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == "Degraded").unwrap();
        (found.status, found.reason, found.message)
    };
    let mut world = World::new();
    world.create(instance("once", model(&["once", "log"], RestartPolicy::Never)));
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.settle(true);
    world.exit("once", "once", 137);
    world.exit("blis", "blis", 137);
    // The restart is under way.
    let mut plan = world.plan(true);
    plan.actions.clear();
    world.apply(plan, None);
    let (status, reason, message) = degraded(&world, "blis");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ContainerExited"));
    assert_eq!(message, "container blis ended with 137, out of memory; it is started again");
    world.settle(true);
    assert_eq!(degraded(&world, "blis").1, "AsDeclared");
    let failed = ("True".to_owned(), "ContainerFailed".to_owned());
    let (status, reason, message) = degraded(&world, "once");
    assert_eq!((status, reason), failed, "one of its containers still runs, the other never will");
    assert_eq!(message, "container once ended with 137, out of memory");
    world.exit("once", "log", 0);
    world.settle(true);
    let (status, reason, _) = degraded(&world, "once");
    assert_eq!((status, reason), failed);
}

#[test]
fn an_image_that_is_missing_is_waited_for() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.failing = 1;
    world.failure = Failure {
        kind: FailureKind::ImageMissing,
        message: "image localhost/blis:1.0 is not on this node; load it with `pullpiri image load`".to_owned(),
    };
    assert_snapshot!("image_missing", world.settle(true));
    world.advance(Duration::from_secs(1));
    let transcript = world.settle(true);
    assert!(transcript.contains("run     uid-blis"), "{transcript}");
}

#[test]
fn a_port_of_the_node_that_is_taken_is_the_reason() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.failing = 1;
    let message = "somebody else has the node's port 18081".to_owned();
    world.failure = Failure { kind: FailureKind::PortTaken, message };
    let transcript = world.settle(true).to_string();
    assert!(transcript.contains("HostPortTaken") && !transcript.contains("RuntimeError"), "{transcript}");
}

#[test]
fn a_surpassed_epoch_is_refused() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.update("blis", |spec| spec.epoch = 5);
    world.settle(true);
    world.update("blis", |spec| {
        spec.epoch = 4;
        spec.run = false;
    });
    assert_snapshot!("stale_epoch", world.settle(true));
    assert_eq!(world.running("blis").len(), 1);
}

#[test]
fn a_successor_waits_for_its_predecessor() {
    let mut world = World::new();
    world.create(instance("old", model(&["blis"], RestartPolicy::Always)));
    world.update("old", |spec| spec.model = "blis".to_owned());
    world.settle(true);
    world.delete("old");
    world.create(instance("new", model(&["blis"], RestartPolicy::Always)));
    world.update("new", |spec| spec.model = "blis".to_owned());
    assert_snapshot!("removal_before_addition", world.settle(true));
}

#[test]
fn a_successor_waits_for_a_predecessor_that_is_still_starting() {
    let same_model = |name: &str| {
        let mut instance = instance(name, model(&["blis"], RestartPolicy::Always));
        instance.spec.model = "blis".to_owned();
        instance
    };
    let mut world = World::new();
    world.create(same_model("old"));
    let begun = world.plan(true);
    assert!(begun.to_string().contains("run     uid-old"), "{begun}");
    // What the plan says of ledger and objects is done; its pod is on the way.
    let mut told = begun.clone();
    told.actions.clear();
    world.apply(told, None);
    world.agent.starting.insert(id("old"));
    // Deleted without a finalizer, it is gone from the API server at once, and its successor is there.
    world.api.remove(&id("old"));
    world.create(same_model("new"));
    world.observe(true);
    let waits = decide_one(&world.agent, &id("new"));
    assert!(waits.actions.is_empty(), "{waits}");
    assert!(waits.to_string().contains("waiting for the pod of old to be gone"), "{waits}");
    // It runs by now, and is removed before the successor is started.
    world.agent.starting.clear();
    world.apply(Plan { actions: begun.actions, ..Plan::default() }, None);
    assert_snapshot!("removal_of_what_was_starting", world.settle(true));
    assert!(world.running("old").is_empty());
    assert_eq!(world.running("new").len(), 1);
}

#[test]
fn a_node_boots_without_an_api_server() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.create(instance("once", model(&["once"], RestartPolicy::Never)));
    world.settle(true);
    world.advance(Duration::from_secs(3600));
    world.pods.clear();
    world.restart_agent();
    assert_snapshot!("boot_from_the_ledger", world.settle(false));
    assert_eq!(world.running("blis").len(), 1);
    assert_snapshot!("first_contact", world.settle(true));
}

#[test]
fn nothing_is_done_where_nobody_can_look() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.update("blis", |spec| Arc::make_mut(&mut spec.template).spec.runtime = Some(Adapter::Podman));
    world.settle(true);
    let message = "no podman socket at /run/podman/podman.sock".to_owned();
    world.agent.node.adapters.insert(Adapter::Podman, AdapterState::Unavailable { message });
    let pods = std::mem::take(&mut world.pods);
    assert_snapshot!("runtime_away", world.settle(true));
    world.delete("blis");
    world.settle(true);
    assert!(world.api.contains_key(&id("blis")), "it isn't known to be gone");
    world.agent.node.adapters.insert(Adapter::Podman, AdapterState::Ready);
    world.pods = pods;
    world.settle(true);
    assert!(world.api.is_empty() && world.pods.is_empty());
}

#[test]
fn data_is_waited_for_and_projected_anew() {
    let mut spec = model(&["blis"], RestartPolicy::Always);
    let config_map = ConfigMapFiles { name: "conf".to_owned(), ..Default::default() };
    spec.volumes = vec![ModelVolume { name: "conf".to_owned(), config_map: Some(config_map), ..Default::default() }];
    spec.containers[0].volume_mounts =
        vec![VolumeMount { name: "conf".to_owned(), mount_path: "/etc/conf".to_owned(), ..Default::default() }];
    let secret_key_ref = Some(KeySelector { name: "key".to_owned(), key: "token".to_owned(), optional: None });
    spec.containers[0].env = vec![EnvVar {
        name: "TOKEN".to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref, ..Default::default() }),
        ..Default::default()
    }];
    let data = |kind, name: &str| DataRef { kind, namespace: "default".to_owned(), name: name.to_owned() };
    let holds = |version: &str, key: &str, text: &str| {
        let entries = BTreeMap::from([(key.to_owned(), Content::from(text.as_bytes().to_vec()))]);
        DataState::Present(DataObject { version: version.to_owned(), entries })
    };

    let mut world = World::new();
    world.create(instance("blis", spec));
    let unread = world.settle(true);
    assert!(unread.contains("ConfigMap default/conf hasn't been read yet"), "{unread}");
    world.agent.data.insert(data(DataKind::ConfigMap, "conf"), DataState::Absent);
    world.agent.data.insert(data(DataKind::Secret, "key"), holds("1", "token", "hunter2"));
    assert_snapshot!("data_missing", world.settle(true));
    world.agent.data.insert(data(DataKind::ConfigMap, "conf"), holds("2", "a.conf", "x=1"));
    assert_snapshot!("data_there", world.settle(true));
    world.agent.data.insert(data(DataKind::ConfigMap, "conf"), holds("3", "a.conf", "x=2"));
    let changed = world.settle(true);
    assert!(changed.starts_with("project uid-blis"), "{changed}");
    // A boot without the API server has the data that was last known.
    world.agent.data.clear();
    world.pods.clear();
    world.restart_agent();
    let boot = world.settle(false);
    assert!(boot.contains("run     uid-blis"), "{boot}");
    assert!(!boot.contains("hunter2"), "secrets are never printed");
}

#[test]
fn what_cannot_be_honoured_is_said() {
    let mut spec = model(&["blis"], RestartPolicy::Always);
    spec.containers[0].image_pull_policy = Some(ImagePullPolicy::Always);
    let mut world = World::new();
    world.create(instance("pulled", spec.clone()));
    assert_snapshot!("pull_policy", world.settle(true));
    assert_eq!(world.running("pulled").len(), 1);

    spec.containers[0].ports =
        vec![ContainerPort { container_port: 80, host_port: Some(8080), protocol: Some(Protocol::Udp), name: None }];
    world.create(instance("ports", spec.clone()));
    assert_snapshot!("host_port", world.settle(true));
    assert!(world.running("ports").is_empty());

    let limits = BTreeMap::from([
        ("cpu".to_owned(), Quantity("100x".to_owned())),
        ("memory".to_owned(), Quantity("-1".to_owned())),
    ]);
    spec.containers[0].resources = Some(Resources { limits: Some(limits), requests: None });
    spec.containers[0].volume_mounts =
        vec![VolumeMount { name: "nope".to_owned(), mount_path: "/x".to_owned(), ..Default::default() }];
    world.create(instance("bad", spec));
    assert_snapshot!("invalid_template", world.settle(true));
    assert!(world.running("bad").is_empty());
}

fn joins(world: &mut World, name: &str) {
    world.update(name, |spec| {
        spec.network = Some(InstanceNetwork {
            name: "drive".to_owned(),
            addresses: vec!["10.20.0.5".to_owned(), "fd00:20::5".to_owned()],
            gateways: vec!["10.20.0.1".to_owned(), "fd00:20::1".to_owned()],
        });
        let ports = [(80, Some(8080), Protocol::Tcp), (53, Some(53), Protocol::Udp), (99, None, Protocol::Tcp)];
        Arc::make_mut(&mut spec.template).spec.containers[0].ports = ports
            .into_iter()
            .map(|(container_port, host_port, protocol)| ContainerPort {
                container_port,
                host_port,
                protocol: Some(protocol),
                name: None,
            })
            .collect();
    });
}

#[test]
fn a_bridged_pod_is_attached_before_it_runs_and_detached_after() {
    let mut world = World::new();
    world.create(instance("brake", model(&["brake"], RestartPolicy::Always)));
    joins(&mut world, "brake");
    assert_snapshot!("attached", world.settle(true));
    world.restart_agent();
    assert_snapshot!("adopted", world.settle(true));
    // Made from another template: the successor gets a namespace that nobody has touched.
    world.update("brake", |spec| Arc::make_mut(&mut spec.template).spec.hostname = Some("brake-2".to_owned()));
    assert_snapshot!("attached_anew", world.settle(true));
    world.update("brake", |spec| spec.run = false);
    assert_snapshot!("stopped_and_detached", world.settle(true));
    world.update("brake", |spec| spec.run = true);
    world.settle(true);
    world.delete("brake");
    world.settle(true);
    assert!(world.api.is_empty() && world.agent.network.attached.is_empty());
}

#[test]
fn what_an_agent_that_died_left_attached_is_detached() {
    let mut world = World::new();
    world.agent.network.attached.insert(id("nobody"));
    assert_snapshot!("nobodys_network", world.settle(true));
    world.create(instance("brake", model(&["brake"], RestartPolicy::Always)));
    joins(&mut world, "brake");
    world.settle(true);
    // The machine boots: pods are gone, the record of what was attached isn't.
    world.pods.clear();
    world.delete("brake");
    world.restart_agent();
    world.settle(true);
    assert!(world.api.is_empty() && world.agent.network.attached.is_empty());
}

#[test]
fn a_node_without_networking_says_so_and_runs_the_rest() {
    let mut world = World::new();
    world.agent.network.namespaces = None;
    world.agent.network.missing = Some("this node can't attach pods: CAP_NET_ADMIN is missing".to_owned());
    world.create(instance("brake", model(&["brake"], RestartPolicy::Always)));
    joins(&mut world, "brake");
    world.create(instance("log", model(&["log"], RestartPolicy::Always)));
    assert_snapshot!("no_networking", world.settle(true));
    assert_eq!(world.running("log").len(), 1);
    world.agent.network.missing = None;
    world.agent.network.namespaces = Some("/data/netns".into());
    world.settle(true);
    assert_eq!(world.running("brake").len(), 1);
}

#[test]
fn gateways_that_do_not_match_are_refused() {
    let mut world = World::new();
    world.create(instance("brake", model(&["brake"], RestartPolicy::Always)));
    joins(&mut world, "brake");
    let network = |world: &mut World, change: fn(&mut InstanceNetwork)| {
        world.update("brake", |spec| change(spec.network.as_mut().unwrap()));
        world.settle(true)
    };
    let transcript = network(&mut world, |network| network.gateways.reverse());
    assert!(transcript.contains("spec.network.gateways:"), "{transcript}");
    let transcript = network(&mut world, |network| network.addresses[0] = "10.20.0.5/24".to_owned());
    assert!(transcript.contains("spec.network.addresses[0]: \"10.20.0.5/24\" is no address"), "{transcript}");
    assert!(world.running("brake").is_empty());
}

#[test]
fn a_kubelet_restarts_containers_itself() {
    let mut world = World::new();
    world.create(instance("blis", model(&["blis"], RestartPolicy::Always)));
    world.update("blis", |spec| Arc::make_mut(&mut spec.template).spec.runtime = Some(Adapter::Kubernetes));
    assert_snapshot!("kubernetes_missing", world.settle(true));
    world.agent.node.adapters.insert(Adapter::Kubernetes, AdapterState::Ready);
    let pod = (id("blis"), Adapter::Kubernetes);
    let container = ContainerObserved {
        name: "blis".into(),
        attempt: 0,
        state: ContainerStateObserved::Waiting { reason: "ImagePullBackOff".into(), message: "no registry".into() },
        container_id: String::new(),
        image_id: String::new(),
        before: None,
    };
    let made = PodObserved {
        id: pod.0.clone(),
        namespace: "default".into(),
        name: "blis".into(),
        hash: template_hash(&world.api[&pod.0].spec.template),
        adapter: pod.1,
        sandbox_alive: true,
        containers: vec![container],
    };
    world.pods.insert(pod.clone(), made);
    assert_snapshot!("kubernetes_image", world.settle(true));
    let change = |world: &mut World, attempt: u32, state: ContainerStateObserved| {
        let container = &mut world.pods.get_mut(&pod).unwrap().containers[0];
        (container.attempt, container.state, container.container_id) = (attempt, state, format!("c{attempt}"));
    };
    let at = world.now;
    change(&mut world, 0, ContainerStateObserved::Running { pid: 7, started_at: at });
    world.settle(true);
    let exit = Exit { code: 1, oom_killed: false, started_at: at, finished_at: at };
    change(&mut world, 0, ContainerStateObserved::Exited(exit));
    assert_snapshot!("kubernetes_exit", world.settle(true));
    change(&mut world, 1, ContainerStateObserved::Running { pid: 8, started_at: at });
    assert_snapshot!("kubernetes_restart", world.settle(true));
    // Nobody of ours was there when it ended and was started again; its runtime knows how it ended.
    world.restart_agent();
    change(&mut world, 2, ContainerStateObserved::Running { pid: 9, started_at: at });
    let exit = Exit { code: 9, oom_killed: false, started_at: at, finished_at: at };
    world.pods.get_mut(&pod).unwrap().containers[0].before = Some(exit);
    let transcript = world.settle(true);
    let container = &world.status("blis").containers[0];
    assert_eq!((container.exit_code, container.restarts), (Some(9), Some(2)), "{transcript}");
}
