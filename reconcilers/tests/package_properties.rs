//! Packages: what holds whatever is thrown at them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::sync::Arc;

use proptest::prelude::*;
use pullpiri_crds::instance::Phase;
use pullpiri_crds::package::{DesiredRun, DesiredState};
use pullpiri_crds::scenario::Action;
use pullpiri_reconcilers::naming::{MAX_LABEL, instance_name, label_value};
use pullpiri_reconcilers::package::Snapshot;
use pullpiri_reconcilers::placement::{Readiness, Schedulability};
use world::{anywhere, claim, model, node, on_node, package, package_snapshot, report, selecting, settle};

proptest! {
    #[test]
    fn names_are_labels_and_tell_everything_apart(
        a in ("[a-z][a-z0-9.-]{0,100}[a-z0-9]", "[a-z][a-z0-9.-]{0,100}[a-z0-9]", "[a-z][a-z0-9.-]{0,80}[a-z0-9]"),
        b in ("[a-z][a-z0-9.-]{0,100}[a-z0-9]", "[a-z][a-z0-9.-]{0,100}[a-z0-9]", "[a-z][a-z0-9.-]{0,80}[a-z0-9]"),
    ) {
        let template = Default::default();
        let name = |x: &(String, String, String)| instance_name(&x.0, &x.1, &x.2, &template).unwrap();
        for n in [name(&a), label_value(&a.0)] {
            prop_assert!(n.len() <= MAX_LABEL);
            prop_assert!(n.starts_with(|c: char| c.is_ascii_alphanumeric()) && n.ends_with(|c: char| c.is_ascii_alphanumeric()));
        }
        prop_assert!(!name(&a).contains('.'));
        prop_assert_eq!(name(&a), name(&a));
        prop_assert_eq!(name(&a) == name(&b), a == b);
    }

    /// Whatever is thrown at it, a package settles, and settling leaves nothing to do and at most one instance for each model on each node.
    #[test]
    fn it_settles(steps in proptest::collection::vec(step(), 1..20)) {
        let mut snapshot = package_snapshot(
            package("p", vec![on_node("m0", "a"), anywhere("m1"), selecting("m2", "zone", "x")]),
            &[model("m0", "0"), model("m1", "0"), model("m2", "0")],
            &[node("a"), node("b"), node("c")],
        );
        for (second, step) in (0_i64..).zip(steps) {
            step.run(&mut snapshot, second);
            settle(&mut snapshot, second * 100);
            let mut slots: Vec<_> = snapshot.instances.iter().map(|i| (&i.spec.model, &i.spec.node_name)).collect();
            let all = slots.len();
            slots.sort();
            slots.dedup();
            prop_assert_eq!(slots.len(), all);
            let desired = snapshot.package.status.as_ref().unwrap().desired;
            if desired == Some(DesiredRun::Stopped) {
                prop_assert!(snapshot.instances.iter().all(|i| !i.spec.run));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Claim(u8, Action, i32),
    Unclaim(u8),
    Edit(u8, u8),
    Remove(u8),
    Ready(usize, Readiness),
    Close(usize, bool),
    Label(usize, bool),
    Report(Phase),
    Desire(Option<DesiredState>),
    Policy(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![Just(Action::Launch), Just(Action::Terminate), Just(Action::Update)];
    let phase = prop_oneof![
        Just(Phase::Running),
        Just(Phase::Pending),
        Just(Phase::Failed),
        Just(Phase::Succeeded),
        Just(Phase::Unknown)
    ];
    let readiness = prop_oneof![Just(Readiness::Ready), Just(Readiness::NotReady), Just(Readiness::Silent)];
    let desire = prop_oneof![Just(None), Just(Some(DesiredState::Running)), Just(Some(DesiredState::Stopped))];
    prop_oneof![
        (0_u8..3, action, 0..3).prop_map(|(n, a, p)| Step::Claim(n, a, p)),
        (0_u8..3).prop_map(Step::Unclaim),
        (0_u8..3, 0_u8..4).prop_map(|(m, v)| Step::Edit(m, v)),
        (0_u8..3).prop_map(Step::Remove),
        (0_usize..3, readiness).prop_map(|(n, r)| Step::Ready(n, r)),
        (0_usize..3, any::<bool>()).prop_map(|(n, r)| Step::Close(n, r)),
        (0_usize..3, any::<bool>()).prop_map(|(n, r)| Step::Label(n, r)),
        phase.prop_map(Step::Report),
        desire.prop_map(Step::Desire),
        any::<bool>().prop_map(Step::Policy),
    ]
}

impl Step {
    fn run(self, snapshot: &mut Snapshot, second: i64) {
        let edit = |snapshot: &mut Snapshot, f: &dyn Fn(&mut pullpiri_crds::PackageSpec)| {
            let mut package = (*snapshot.package).clone();
            f(&mut package.spec);
            package.metadata.generation = package.metadata.generation.map(|g| g + 1);
            snapshot.package = Arc::new(package);
        };
        match self {
            Self::Claim(n, action, priority) => {
                let name = format!("c{n}");
                snapshot.claims.retain(|c| c.metadata.name.as_ref() != Some(&name));
                snapshot.claims.push(Arc::new(claim(&name, action, "p", priority, second)));
            }
            Self::Unclaim(n) => snapshot.claims.retain(|c| c.metadata.name != Some(format!("c{n}"))),
            Self::Edit(m, version) => {
                let name = format!("m{m}");
                snapshot.models.insert(name.clone(), Arc::new(model(&name, &version.to_string())));
            }
            Self::Remove(m) => {
                snapshot.models.remove(&format!("m{m}"));
            }
            Self::Ready(n, readiness) => snapshot.nodes[n].readiness = readiness,
            Self::Close(n, closed) => {
                snapshot.nodes[n].schedulability = if closed { Schedulability::Closed } else { Schedulability::Open };
            }
            Self::Label(n, on) => {
                if on {
                    snapshot.nodes[n].labels.insert("zone".to_owned(), "x".to_owned());
                } else {
                    snapshot.nodes[n].labels.clear();
                }
            }
            Self::Report(phase) => report(snapshot, phase),
            Self::Desire(state) => edit(snapshot, &|spec| spec.desired_state = state),
            Self::Policy(on) => edit(snapshot, &|spec| spec.policy = on.then(|| "policy".to_owned())),
        }
    }
}
