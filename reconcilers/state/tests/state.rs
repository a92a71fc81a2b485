//! The tables, whole, as golden text, and what holds for every walk through them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use pullpiri_crds::package::PackageState;
use pullpiri_crds::scenario::ScenarioState;
use pullpiri_state::{
    HISTORY_LENGTH, Machine, PackageEvent, PackageMachine, Progress, ScenarioEvent, ScenarioMachine, Severity,
    package_path,
};

const SCENARIO_STATES: [ScenarioState; 6] = [
    ScenarioState::Idle,
    ScenarioState::Waiting,
    ScenarioState::Satisfied,
    ScenarioState::Allowed,
    ScenarioState::Denied,
    ScenarioState::Completed,
];
const SCENARIO_EVENTS: [ScenarioEvent; 7] = [
    ScenarioEvent::Watch,
    ScenarioEvent::Fire,
    ScenarioEvent::Allow,
    ScenarioEvent::Deny,
    ScenarioEvent::Achieve,
    ScenarioEvent::Override,
    ScenarioEvent::Withdraw,
];
const PACKAGE_STATES: [PackageState; 7] = [
    PackageState::Idle,
    PackageState::Updating,
    PackageState::Running,
    PackageState::Degraded,
    PackageState::Paused,
    PackageState::Exited,
    PackageState::Error,
];
const PACKAGE_EVENTS: [PackageEvent; 7] = [
    PackageEvent::Change,
    PackageEvent::AllRun,
    PackageEvent::SomeFail,
    PackageEvent::AllFail,
    PackageEvent::AllExit,
    PackageEvent::Pause,
    PackageEvent::Empty,
];

fn at(second: i64) -> MicroTime {
    MicroTime(Timestamp::from_second(second).unwrap())
}

fn table<M: Machine>(states: &[M::State], events: &[M::Event]) -> String {
    let mut text = String::new();
    for &state in states {
        for &event in events {
            let to = M::next(state, event).map_or("refused", M::state_name);
            writeln!(text, "{:<10} {:<10} {to}", M::state_name(state), format!("{event:?}")).unwrap();
        }
    }
    text
}

#[test]
fn scenario_table() {
    insta::assert_snapshot!(table::<ScenarioMachine>(&SCENARIO_STATES, &SCENARIO_EVENTS));
}

#[test]
fn package_table() {
    insta::assert_snapshot!(table::<PackageMachine>(&PACKAGE_STATES, &PACKAGE_EVENTS));
}

#[test]
fn a_refused_event_changes_nothing_and_says_what_was_tried() {
    let mut progress = Progress::<ScenarioMachine>::resume(ScenarioState::Waiting, &[]);
    let refused = progress.fire(ScenarioEvent::Achieve, &at(1), "Completed", "").unwrap_err();
    assert_eq!(refused.to_string(), "refused event Achieve of a Scenario in state Waiting");
    let (state, history, notices) = progress.finish();
    assert_eq!((state, history.len(), notices.len()), (ScenarioState::Waiting, 0, 0));
}

#[test]
fn a_transition_is_recorded_and_announced() {
    let mut progress = Progress::<PackageMachine>::resume(PackageState::Updating, &[]);
    progress.fire(PackageEvent::AllFail, &at(7), "ModelsFailed", "0/2 models run").unwrap();
    let (_, history, notices) = progress.finish();
    assert_eq!((history[0].from.as_str(), history[0].to.as_str(), history[0].at.clone()), ("Updating", "Error", at(7)));
    assert_eq!(notices[0].severity, Severity::Warning);
    assert_eq!(notices[0].note, "Updating → Error: 0/2 models run");
}

#[test]
fn every_package_state_is_reached_from_every_other_by_legal_events() {
    for from in PACKAGE_STATES {
        for to in PACKAGE_STATES {
            let mut state = from;
            for event in package_path(from, to) {
                state = PackageMachine::next(state, event).unwrap_or_else(|| panic!("{from:?} to {to:?}: {event:?}"));
            }
            assert_eq!(state, to);
        }
    }
}

proptest! {
    #[test]
    fn walks_keep_a_bounded_unbroken_history(events in proptest::collection::vec(0..PACKAGE_EVENTS.len(), 0..80)) {
        let mut progress = Progress::<PackageMachine>::resume(PackageState::Idle, &[]);
        let mut moves = 0_usize;
        for (second, &event) in (0_i64..).zip(&events) {
            let before = progress.state();
            if let Ok(after) = progress.fire(PACKAGE_EVENTS[event], &at(second), "Test", "") {
                moves += usize::from(before != after);
            } else {
                prop_assert_eq!(progress.state(), before);
            }
        }
        let (state, history, notices) = progress.finish();
        prop_assert_eq!(notices.len(), moves);
        prop_assert_eq!(history.len(), moves.min(HISTORY_LENGTH));
        for pair in history.windows(2) {
            prop_assert_eq!(&pair[0].to, &pair[1].from);
            prop_assert!(pair[0].at <= pair[1].at);
        }
        if let Some(last) = history.last() {
            prop_assert_eq!(last.to.as_str(), PackageMachine::state_name(state));
        }
    }

    #[test]
    fn an_overlong_history_on_record_is_cut(length in 0_usize..40) {
        let mut progress = Progress::<PackageMachine>::resume(PackageState::Idle, &[]);
        for second in 0..i64::try_from(length).unwrap() {
            let event = if progress.state() == PackageState::Idle { PackageEvent::Change } else { PackageEvent::Empty };
            progress.fire(event, &at(second), "Test", "").unwrap();
        }
        let (state, history, _) = progress.finish();
        let doubled: Vec<_> = history.iter().chain(&history).cloned().collect();
        let mut again = Progress::<PackageMachine>::resume(state, &doubled);
        let event = if state == PackageState::Idle { PackageEvent::Change } else { PackageEvent::Empty };
        again.fire(event, &at(100), "Test", "").unwrap();
        prop_assert!(again.finish().1.len() <= HISTORY_LENGTH);
    }
}
