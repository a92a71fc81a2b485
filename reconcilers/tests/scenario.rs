//! Scenarios: edges sample by sample, golden plans of the main situations, crashes between any two writes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use pullpiri_crds::package::{DesiredRun, DesiredState, PackageState, PackageStatus};
use pullpiri_crds::scenario::{Action, Express, ScenarioCondition, ScenarioState, Truth};
use pullpiri_crds::{Package, Scenario};
use pullpiri_reconcilers::scenario::{self, EdgeFate, Evaluated, Snapshot, Track, decide};
use world::{apply_scenario, at, claim, gear, micro, package, scenario, scenario_snapshot, term};

type Signals = BTreeMap<(String, String), String>;

fn signal(value: &str) -> Signals {
    [(("Gear".to_owned(), "gear".to_owned()), value.to_owned())].into()
}

fn eco() -> Scenario {
    scenario("eco", Some(gear("P")), Action::Update, "bms")
}

fn recorded(truth: Option<Truth>) -> Scenario {
    let mut scenario = eco();
    scenario.status = Some(pullpiri_crds::ScenarioStatus { truth, truth_since: Some(micro(0)), ..Default::default() });
    scenario
}

fn reached(mut package: Package, state: PackageState, desired: DesiredRun, claim: &str) -> Package {
    package.status = Some(PackageStatus {
        observed_generation: package.metadata.generation,
        state,
        desired: Some(desired),
        claim: Some(claim.to_owned()),
        ..Default::default()
    });
    package
}

fn state(snapshot: &Snapshot) -> ScenarioState {
    snapshot.scenario.status.as_ref().unwrap().state
}

fn ready(snapshot: &Snapshot) -> (String, String) {
    let condition = &snapshot.scenario.status.as_ref().unwrap().conditions[0];
    (condition.status.clone(), condition.reason.clone())
}

/// Evaluates, decides and applies once; prints the plan.
fn pass(snapshot: &mut Snapshot, track: &mut Track, signals: &Signals, second: i64) -> String {
    track.evaluate(signals, at(second));
    snapshot.observed = track.observed().clone();
    let plan = decide(snapshot, at(second));
    apply_scenario(snapshot, &plan);
    if let EdgeFate::Consumed(number) = plan.edge {
        track.consumed(snapshot.scenario.metadata.uid.as_deref(), number);
    }
    plan.to_string()
}

#[test]
fn edges_against_the_record() {
    use Truth::{False, True, Unknown};
    for (record, samples, edges) in [
        (None, vec!["P"], 1),
        (None, vec!["D", "P", "D", "P"], 2),
        (None, vec!["P", "P", "P"], 1),
        (Some(Unknown), vec!["", "P"], 1),
        (Some(False), vec!["P"], 1),
        (Some(False), vec!["", "D", "", "P"], 1),
        // A restart refires nothing: True on record, nothing known for a while, then True again.
        (Some(True), vec!["", "P"], 0),
        (Some(True), vec!["P", "", "P"], 0),
        (Some(True), vec!["", "D", "", "P"], 1),
    ] {
        let mut track = Track::start(&recorded(record), None);
        let mut seen = 0;
        for (second, value) in (1_i64..).zip(&samples) {
            let signals = if value.is_empty() { Signals::new() } else { signal(value) };
            if track.evaluate(&signals, at(second)) == Evaluated::Fired {
                seen += 1;
                assert_eq!(track.observed().edge.as_ref().unwrap().at, micro(second));
            }
        }
        assert_eq!(seen, edges, "{record:?} {samples:?}");
    }
}

#[test]
fn an_edge_outlives_the_condition_until_it_was_acted_on() {
    let mut track = Track::start(&eco(), None);
    track.evaluate(&signal("D"), at(1));
    track.evaluate(&signal("P"), at(2));
    track.evaluate(&signal("D"), at(3));
    let edge = track.observed().edge.clone().unwrap();
    assert_eq!(edge.at, micro(2));
    // Acting on a predecessor's edge of the same number isn't acting on this one.
    track.consumed(Some("uid-of-another"), edge.number);
    assert_eq!(track.observed().edge.as_ref(), Some(&edge));
    // An edge that came later isn't forgotten with it.
    track.evaluate(&signal("P"), at(4));
    track.consumed(eco().metadata.uid.as_deref(), edge.number);
    assert_eq!(track.observed().edge.as_ref().unwrap().at, micro(4));
}

#[test]
fn samples_that_change_nothing_wake_nobody() {
    let speeding = ScenarioCondition::One(term(Express::Gt, "100", "Speed", "value"));
    let mut track = Track::start(&scenario("s", Some(speeding), Action::Launch, "p"), None);
    let speed = |v: &str| -> Signals { [(("Speed".to_owned(), "value".to_owned()), v.to_owned())].into() };
    let outcomes: Vec<_> =
        ["90", "91.5", "101", "102", "fast", "faster", "99"].iter().map(|v| track.evaluate(&speed(v), at(1))).collect();
    use Evaluated::{Changed, Fired, Unchanged};
    assert_eq!(outcomes, [Changed, Unchanged, Fired, Unchanged, Changed, Unchanged, Changed]);
}

#[test]
fn waiting_satisfied_completed() {
    let target = package("bms", Vec::new());
    let mut snapshot = scenario_snapshot(eco(), Some(target.clone()));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    let mut text = String::new();
    text += "# no signal\n";
    text += &pass(&mut snapshot, &mut track, &Signals::new(), 0);
    text += "# D\n";
    text += &pass(&mut snapshot, &mut track, &signal("D"), 1);
    text += "# P\n";
    text += &pass(&mut snapshot, &mut track, &signal("P"), 2);
    text += "# still P\n";
    text += &pass(&mut snapshot, &mut track, &signal("P"), 3);
    text += "# the package runs\n";
    snapshot.package = Some(Arc::new(reached(target, PackageState::Running, DesiredRun::Running, "eco")));
    text += &pass(&mut snapshot, &mut track, &signal("P"), 4);
    text += "# D: the claim is latched\n";
    text += &pass(&mut snapshot, &mut track, &signal("D"), 5);
    text += "# P again: the claim is renewed\n";
    text += &pass(&mut snapshot, &mut track, &signal("P"), 6);
    insta::assert_snapshot!(text);
    assert_eq!(snapshot.claim.as_ref().unwrap().spec.since, Some(micro(6)));
}

#[test]
fn without_a_condition_it_fires_once_per_generation() {
    let mut snapshot =
        scenario_snapshot(scenario("now", None, Action::Launch, "hello"), Some(package("hello", Vec::new())));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &Signals::new(), 1);
    assert_eq!(snapshot.claim.as_ref().unwrap().spec.since, Some(micro(1)));
    assert_eq!(pass(&mut snapshot, &mut track, &Signals::new(), 2), "nothing\n");
    // Somebody withdraws the claim: it isn't written again.
    (snapshot.claim, snapshot.claims) = (None, Vec::new());
    pass(&mut snapshot, &mut track, &Signals::new(), 3);
    assert!(snapshot.claim.is_none());
    assert_eq!((state(&snapshot), ready(&snapshot).1.as_str()), (ScenarioState::Waiting, "ClaimWithdrawn"));
    let mut edited = (*snapshot.scenario).clone();
    edited.metadata.generation = Some(2);
    snapshot.scenario = Arc::new(edited);
    pass(&mut snapshot, &mut track, &Signals::new(), 4);
    assert_eq!(snapshot.claim.as_ref().unwrap().spec.since, Some(micro(4)));
}

#[test]
fn an_edited_scenario_takes_its_claim_along_and_refires_nothing() {
    let mut snapshot = scenario_snapshot(eco(), Some(package("bms", Vec::new())));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    let mut edited = (*snapshot.scenario).clone();
    edited.metadata.generation = Some(2);
    edited.spec.priority = Some(9);
    edited.spec.action = Action::Terminate;
    track.follow(&edited, None);
    snapshot.scenario = Arc::new(edited);
    pass(&mut snapshot, &mut track, &signal("P"), 2);
    let spec = &snapshot.claim.as_ref().unwrap().spec;
    assert_eq!((spec.priority, spec.action, spec.since.clone()), (Some(9), Action::Terminate, Some(micro(1))));
}

#[test]
fn another_condition_is_judged_against_the_record_of_the_old_one() {
    let mut track = Track::start(&eco(), None);
    track.evaluate(&signal("D"), at(1));
    let mut edited = eco();
    edited.spec.condition = Some(gear("D"));
    assert!(track.follow(&edited, None));
    assert_eq!(track.evaluate(&signal("D"), at(2)), Evaluated::Fired);
    let mut again = edited.clone();
    again.spec.condition = Some(ScenarioCondition::One(term(Express::Ne, "P", "Gear", "gear")));
    assert!(track.follow(&again, None));
    assert_eq!(track.evaluate(&signal("D"), at(3)), Evaluated::Unchanged);
    // Made anew under the same name: it starts from nothing.
    again.metadata.uid = Some("another".to_owned());
    assert!(track.follow(&again, None));
    assert_eq!(track.evaluate(&signal("D"), at(4)), Evaluated::Fired);
}

#[test]
fn a_stronger_wish_overrides_and_gives_way() {
    let target = reached(package("bms", Vec::new()), PackageState::Running, DesiredRun::Running, "eco");
    let mut snapshot = scenario_snapshot(eco(), Some(target));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    assert_eq!(state(&snapshot), ScenarioState::Completed);
    snapshot.claims.push(Arc::new(claim("off", Action::Terminate, "bms", 5, 0)));
    pass(&mut snapshot, &mut track, &signal("D"), 2);
    assert_eq!((state(&snapshot), ready(&snapshot).1.as_str()), (ScenarioState::Waiting, "Overridden"));
    assert_eq!(pass(&mut snapshot, &mut track, &signal("D"), 3), "nothing\n");
    // A new edge changes nothing about who decides, and the package still runs when the scenario looks.
    pass(&mut snapshot, &mut track, &signal("P"), 4);
    assert_eq!((state(&snapshot), ready(&snapshot).1.as_str()), (ScenarioState::Satisfied, "Overridden"));
    snapshot.claims.retain(|c| c.metadata.name.as_deref() != Some("off"));
    pass(&mut snapshot, &mut track, &signal("P"), 5);
    assert_eq!(state(&snapshot), ScenarioState::Completed);
}

#[test]
fn a_desired_state_overrides_every_claim() {
    let mut target = package("bms", Vec::new());
    target.spec.desired_state = Some(DesiredState::Stopped);
    let mut snapshot = scenario_snapshot(eco(), Some(target));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    let status = snapshot.scenario.status.as_ref().unwrap();
    assert_eq!(status.conditions[0].message, "spec.desiredState of package bms is Stopped");
}

#[test]
fn a_persons_claim_of_the_same_name_is_left_alone() {
    let mut snapshot = scenario_snapshot(eco(), Some(package("bms", Vec::new())));
    let theirs = Arc::new(claim("eco", Action::Terminate, "bms", 0, 0));
    snapshot.claim = Some(theirs.clone());
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    assert_eq!(snapshot.claim.as_ref(), Some(&theirs));
    assert_eq!(ready(&snapshot), ("False".to_owned(), "ClaimNameTaken".to_owned()));
    assert_eq!(snapshot.scenario.status.as_ref().unwrap().truth, Some(Truth::Unknown));
    // Once it is gone the edge is acted on, with its own time.
    snapshot.claim = None;
    pass(&mut snapshot, &mut track, &signal("D"), 9);
    assert_eq!(snapshot.claim.as_ref().unwrap().spec.since, Some(micro(1)));
}

#[test]
fn a_predecessors_claim_is_removed_to_make_room() {
    let mut snapshot = scenario_snapshot(eco(), Some(package("bms", Vec::new())));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    let mut anew = eco();
    anew.metadata.uid = Some("uid-anew".to_owned());
    track.follow(&anew, None);
    snapshot.scenario = Arc::new(anew);
    let first = pass(&mut snapshot, &mut track, &signal("P"), 2);
    assert!(first.starts_with("delete Claim eco (uid uid-claim)\n"), "{first}");
    pass(&mut snapshot, &mut track, &signal("P"), 3);
    let owners = snapshot.claim.as_ref().unwrap().metadata.owner_references.clone().unwrap();
    assert_eq!((owners.len(), owners[0].uid.as_str()), (1, "uid-anew"));
    assert_eq!(snapshot.claim.as_ref().unwrap().spec.since, Some(micro(2)));
}

#[test]
fn an_undecidable_condition_says_why() {
    let condition = ScenarioCondition::One(term(Express::Lt, "fast", "Speed", "value"));
    let mut snapshot =
        scenario_snapshot(scenario("s", Some(condition), Action::Launch, "p"), Some(package("p", Vec::new())));
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &Signals::new(), 1);
    assert_eq!(ready(&snapshot), ("False".to_owned(), "ConditionInvalid".to_owned()));
}

#[test]
fn a_missing_target_is_named_and_the_claim_is_written_all_the_same() {
    let mut snapshot = scenario_snapshot(eco(), None);
    let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
    pass(&mut snapshot, &mut track, &signal("P"), 1);
    assert!(snapshot.claim.is_some());
    assert_eq!((state(&snapshot), ready(&snapshot).1.as_str()), (ScenarioState::Satisfied, "TargetNotFound"));
}

#[test]
fn a_deleted_scenario_is_left_to_garbage_collection() {
    let mut leaving = eco();
    leaving.metadata.deletion_timestamp = Some(Time(at(0)));
    assert!(decide(&scenario_snapshot(leaving, None), at(1)).is_empty());
}

/// What happens to a scenario in a random run.
#[derive(Clone, Debug)]
enum Step {
    Signal(&'static str),
    /// Actions are carried out, the status isn't written, and everything in memory is gone.
    CrashBeforeStatus,
    Restart,
    RestartWithoutSignals,
    Package(PackageState),
    Edit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![Just("P"), Just("D"), Just("")].prop_map(Step::Signal),
        1 => Just(Step::CrashBeforeStatus),
        1 => Just(Step::Restart),
        1 => Just(Step::RestartWithoutSignals),
        1 => prop_oneof![Just(PackageState::Running), Just(PackageState::Updating), Just(PackageState::Error)].prop_map(Step::Package),
        1 => Just(Step::Edit),
    ]
}

proptest! {
    /// Against a reference that knows the last known truth and nothing else: the claim is renewed exactly at the edges, a crash between the
    /// claim and the status neither loses nor repeats one, and deciding again finds nothing to do.
    #[test]
    fn each_edge_is_claimed_once(steps in proptest::collection::vec(step(), 1..40)) {
        let mut snapshot = scenario_snapshot(eco(), Some(package("bms", Vec::new())));
        let mut track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
        let mut signals = Signals::new();
        let (mut known, mut since) = (None::<bool>, None::<i64>);
        for (second, step) in (1_i64..).zip(steps) {
            let mut crash = false;
            match step {
                Step::Signal("") => signals.clear(),
                Step::Signal(value) => signals = signal(value),
                Step::CrashBeforeStatus => crash = true,
                Step::Restart => track = Track::start(&snapshot.scenario, snapshot.claim.as_deref()),
                Step::RestartWithoutSignals => {
                    signals.clear();
                    track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
                }
                Step::Package(state) => {
                    snapshot.package = Some(Arc::new(reached(package("bms", Vec::new()), state, DesiredRun::Running, "eco")));
                }
                Step::Edit => {
                    let mut edited = (*snapshot.scenario).clone();
                    edited.metadata.generation = edited.metadata.generation.map(|g| g + 1);
                    edited.spec.priority = Some(i32::try_from(second).unwrap());
                    track.follow(&edited, None);
                    snapshot.scenario = Arc::new(edited);
                }
            }
            // The reference.
            match signals.values().next().map(String::as_str) {
                Some("P") => {
                    if known != Some(true) {
                        since = Some(second);
                    }
                    known = Some(true);
                }
                Some(_) => known = Some(false),
                None => {}
            }
            track.evaluate(&signals, at(second));
            snapshot.observed = track.observed().clone();
            let plan = decide(&snapshot, at(second));
            if crash {
                apply_scenario(&mut snapshot, &scenario::Plan { status: None, ..plan });
                track = Track::start(&snapshot.scenario, snapshot.claim.as_deref());
                track.evaluate(&signals, at(second));
                snapshot.observed = track.observed().clone();
                let again = decide(&snapshot, at(second));
                apply_scenario(&mut snapshot, &again);
                if let EdgeFate::Consumed(number) = again.edge { track.consumed(snapshot.scenario.metadata.uid.as_deref(), number); }
            } else {
                apply_scenario(&mut snapshot, &plan);
                if let EdgeFate::Consumed(number) = plan.edge { track.consumed(snapshot.scenario.metadata.uid.as_deref(), number); }
            }
            snapshot.observed = track.observed().clone();
            let rest = decide(&snapshot, at(second));
            prop_assert!(rest.is_empty(), "left over: {}", rest);
            prop_assert_eq!(snapshot.claim.as_ref().and_then(|c| c.spec.since.clone()), since.map(micro));
            let status = snapshot.scenario.status.as_ref().unwrap();
            prop_assert_eq!(status.claim.is_some(), since.is_some());
            let truth = match known { Some(true) => Truth::True, Some(false) => Truth::False, None => Truth::Unknown };
            prop_assert_eq!(status.truth, Some(truth));
            prop_assert!(status.history.len() <= 16);
        }
    }
}
