//! Whatever happens, in whatever order, and wherever the agent is killed: the node ends where it should.

// Tests, but clippy knows tests by their attribute, which these functions don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use pullpiri_crds::model::{Adapter, RestartPolicy};
use world::{World, id, instance, model};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: usize,
        policy: u8,
        containers: usize,
    },
    Delete {
        name: usize,
    },
    Run {
        name: usize,
        run: bool,
    },
    Epoch {
        name: usize,
        epoch: i64,
    },
    Exit {
        name: usize,
        container: usize,
        code: i32,
    },
    KillSandbox {
        name: usize,
    },
    Reboot,
    Stray {
        name: usize,
    },
    Advance {
        seconds: u64,
    },
    Fail {
        operations: u32,
    },
    RestartAgent,
    /// One plan, of which the agent survives only so many actions.
    Crash {
        actions: usize,
    },
    Once,
    Settle {
        api: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        3 => (name.clone(), 0..3_u8, 1..3_usize).prop_map(|(name, policy, containers)| Step::Create { name, policy, containers }),
        1 => name.clone().prop_map(|name| Step::Delete { name }),
        2 => (name.clone(), any::<bool>()).prop_map(|(name, run)| Step::Run { name, run }),
        1 => (name.clone(), 0..4_i64).prop_map(|(name, epoch)| Step::Epoch { name, epoch }),
        3 => (name.clone(), 0..2_usize, prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(name, container, code)| Step::Exit { name, container, code }),
        1 => name.clone().prop_map(|name| Step::KillSandbox { name }),
        1 => Just(Step::Reboot),
        1 => name.prop_map(|name| Step::Stray { name }),
        2 => (0..900_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => (1..4_u32).prop_map(|operations| Step::Fail { operations }),
        1 => Just(Step::RestartAgent),
        3 => (0..4_usize).prop_map(|actions| Step::Crash { actions }),
        2 => Just(Step::Once),
        3 => any::<bool>().prop_map(|api| Step::Settle { api }),
    ]
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Create { name, policy, containers } => {
            let policy = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never][usize::from(policy)];
            if !world.api.contains_key(&id(NAMES[name])) {
                world.create(instance(NAMES[name], model(&["x", "y"][..containers], policy)));
            }
        }
        Step::Delete { name } => world.delete(NAMES[name]),
        Step::Run { name, run } => world.update(NAMES[name], |spec| spec.run = run),
        Step::Epoch { name, epoch } => world.update(NAMES[name], |spec| spec.epoch = epoch),
        Step::Exit { name, container, code } => world.exit(NAMES[name], ["x", "y"][container], code),
        Step::KillSandbox { name } => world.kill_sandbox(NAMES[name]),
        Step::Reboot => {
            world.pods.clear();
            world.restart_agent();
        }
        Step::Stray { name } => {
            // A pod on the other adapter, as after the node's default was changed while a runtime was away.
            if let Some(pod) = world.pods.get(&(id(NAMES[name]), Adapter::Oci)).cloned() {
                let adapter = Adapter::Podman;
                world
                    .pods
                    .insert((pod.id.clone(), adapter), pullpiri_node_core::runtime::PodObserved { adapter, ..pod });
            }
        }
        Step::Advance { seconds } => world.advance(Duration::from_secs(seconds)),
        Step::Fail { operations } => world.failing = operations,
        Step::RestartAgent => world.restart_agent(),
        Step::Crash { actions } => {
            let plan = world.plan(true);
            let actions = actions.min(plan.actions.len());
            world.apply(plan, Some(actions));
        }
        Step::Once => {
            let plan = world.plan(true);
            world.apply(plan, None);
        }
        Step::Settle { api } => {
            world.settle(api);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_node_ends_where_it_should(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in &steps {
            take(&mut world, step);
        }
        world.failing = 0;
        // A surpassed epoch is refused for good: what is declared last must be of the highest.
        for name in NAMES {
            world.update(name, |spec| spec.epoch = 9);
        }
        // Long enough for every backoff; twice, since a retry may be followed by a restart.
        for _ in 0..3 {
            world.advance(Duration::from_secs(3600));
            world.settle(true);
        }

        for name in NAMES {
            let running = world.running(name);
            match world.api.get(&id(name)) {
                Some(object) => {
                    prop_assert!(object.metadata.deletion_timestamp.is_none(), "{} is never released", name);
                    let spec = &object.spec.template.spec;
                    if !object.spec.run {
                        prop_assert!(running.is_empty(), "{} isn't wanted", name);
                    } else if spec.restart_policy == Some(RestartPolicy::Always) {
                        prop_assert_eq!(running.len(), spec.containers.len(), "{} runs", name);
                    }
                    let ready = object.status.iter().flat_map(|status| &status.conditions).find(|c| c.type_ == "Ready");
                    let all_run = running.len() == spec.containers.len();
                    prop_assert!(ready.is_some_and(|ready| !all_run || ready.status == "True"), "{} says so", name);
                }
                None => {
                    prop_assert!(!world.pods.keys().any(|(pod, _)| *pod == id(name)), "{} is leaked", name);
                    prop_assert!(!world.directories.contains(&id(name)), "files of {} are leaked", name);
                    prop_assert!(!world.disk.contains_key(&id(name)), "{} is remembered", name);
                }
            }
        }
        let mut once = BTreeSet::new();
        for (pod, _) in world.pods.keys() {
            prop_assert!(once.insert(pod.clone()), "{} is on two adapters", pod);
        }

        // An agent that dies now finds everything as it was, with the API server and without.
        let before: Vec<_> = NAMES.iter().map(|name| world.running(name)).collect();
        for api in [false, true] {
            world.restart_agent();
            let transcript = world.settle(api);
            let after: Vec<_> = NAMES.iter().map(|name| world.running(name)).collect();
            prop_assert_eq!(&before, &after, "adopted (api: {}):\n{}", api, transcript);
        }
    }

    #[test]
    fn deciding_is_deterministic_and_changes_nothing(steps in prop::collection::vec(step(), 1..20)) {
        let mut world = World::new();
        for step in &steps {
            take(&mut world, step);
            let (first, second) = (world.plan(true), world.plan(true));
            prop_assert_eq!(first.to_string(), second.to_string());
            prop_assert_eq!(first, second);
        }
    }
}
