//! Package: idle, updating, running, degraded, paused, exited, error.
//!
//! Whatever has to change passes through Updating; failures and exits are seen only on what was started; a package is paused only
//! from being updated (its stop is carried out) and idle only when its instances are gone.

use pullpiri_crds::package::PackageState;

use crate::machine::{Machine, Severity};

/// What happens to a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PackageEvent {
    /// It isn't as desired and is being brought there.
    Change,
    /// Every model runs (those that end by themselves may have ended well).
    AllRun,
    /// Some models don't run, though they should.
    SomeFail,
    /// No model runs, though they should.
    AllFail,
    /// Every model ended by itself, and well.
    AllExit,
    /// Every instance is stopped on purpose and kept.
    Pause,
    /// There are no instances and there should be none.
    Empty,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct PackageMachine;

impl Machine for PackageMachine {
    type State = PackageState;
    type Event = PackageEvent;

    const KIND: &'static str = "Package";

    fn next(state: PackageState, event: PackageEvent) -> Option<PackageState> {
        use PackageEvent::{AllExit, AllFail, AllRun, Change, Empty, Pause, SomeFail};
        use PackageState::{Degraded, Error, Exited, Idle, Paused, Running, Updating};
        match (state, event) {
            (Idle | Updating | Running | Degraded | Paused | Exited | Error, Change) => Some(Updating),
            (Updating | Running | Degraded | Error, AllRun) => Some(Running),
            (Updating | Running | Degraded | Error, SomeFail) => Some(Degraded),
            (Updating | Running | Degraded | Error, AllFail) => Some(Error),
            (Updating | Running | Degraded | Exited, AllExit) => Some(Exited),
            (Updating | Paused, Pause) => Some(Paused),
            (Idle | Updating | Paused | Exited | Error, Empty) => Some(Idle),
            // Nothing was started, so nothing can run, fail or end.
            (Idle | Paused, AllRun | SomeFail | AllFail | AllExit) => None,
            // What ended stays ended until something changes.
            (Exited, AllRun | SomeFail | AllFail) | (Error, AllExit) => None,
            // A stop is carried out by updating first.
            (Idle | Running | Degraded | Exited | Error, Pause) | (Running | Degraded, Empty) => None,
        }
    }

    fn state_name(state: PackageState) -> &'static str {
        match state {
            PackageState::Idle => "Idle",
            PackageState::Updating => "Updating",
            PackageState::Running => "Running",
            PackageState::Degraded => "Degraded",
            PackageState::Paused => "Paused",
            PackageState::Exited => "Exited",
            PackageState::Error => "Error",
        }
    }

    fn severity(state: PackageState) -> Severity {
        match state {
            PackageState::Degraded | PackageState::Error => Severity::Warning,
            PackageState::Idle
            | PackageState::Updating
            | PackageState::Running
            | PackageState::Paused
            | PackageState::Exited => Severity::Normal,
        }
    }
}

/// The events that lead from one state to another: none if they are the same, else one, or two by way of Updating.
///
/// A controller that was away may find a package two steps from where it left it; the record then shows both.
#[must_use]
pub fn package_path(from: PackageState, to: PackageState) -> Vec<PackageEvent> {
    if from == to {
        return Vec::new();
    }
    let last = match to {
        PackageState::Idle => PackageEvent::Empty,
        PackageState::Updating => PackageEvent::Change,
        PackageState::Running => PackageEvent::AllRun,
        PackageState::Degraded => PackageEvent::SomeFail,
        PackageState::Paused => PackageEvent::Pause,
        PackageState::Exited => PackageEvent::AllExit,
        PackageState::Error => PackageEvent::AllFail,
    };
    if PackageMachine::next(from, last).is_some() { vec![last] } else { vec![PackageEvent::Change, last] }
}
