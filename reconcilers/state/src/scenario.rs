//! Scenario: idle → waiting → satisfied → (allowed | denied) → completed.

use pullpiri_crds::scenario::ScenarioState;

use crate::machine::{Machine, Severity};

/// What happens to a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScenarioEvent {
    /// The condition is being watched and has no claim to show for it.
    Watch,
    /// The condition became true (or there is none): the claim is written.
    Fire,
    /// A Policy allows the action.
    Allow,
    /// A Policy denies the action.
    Deny,
    /// The Package is as the action wishes.
    Achieve,
    /// Another wish decides about the Package now.
    Override,
    /// The claim is gone.
    Withdraw,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct ScenarioMachine;

impl Machine for ScenarioMachine {
    type State = ScenarioState;
    type Event = ScenarioEvent;

    const KIND: &'static str = "Scenario";

    fn next(state: ScenarioState, event: ScenarioEvent) -> Option<ScenarioState> {
        use ScenarioEvent::{Achieve, Allow, Deny, Fire, Override, Watch, Withdraw};
        use ScenarioState::{Allowed, Completed, Denied, Idle, Satisfied, Waiting};
        match (state, event) {
            (Idle | Waiting, Watch) => Some(Waiting),
            // A new edge starts over, wherever the last one led to.
            (Idle | Waiting | Satisfied | Allowed | Denied | Completed, Fire) => Some(Satisfied),
            (Satisfied | Denied | Allowed, Allow) => Some(Allowed),
            (Satisfied | Allowed | Denied, Deny) => Some(Denied),
            (Satisfied | Allowed | Completed, Achieve) => Some(Completed),
            (Completed | Satisfied | Allowed | Denied, Override) => Some(Waiting),
            (Satisfied | Allowed | Denied | Completed, Withdraw) => Some(Waiting),
            (Idle | Waiting, Allow | Deny | Achieve | Override | Withdraw)
            | (Satisfied | Allowed | Denied | Completed, Watch)
            | (Completed, Allow | Deny)
            | (Denied, Achieve) => None,
        }
    }

    fn state_name(state: ScenarioState) -> &'static str {
        match state {
            ScenarioState::Idle => "Idle",
            ScenarioState::Waiting => "Waiting",
            ScenarioState::Satisfied => "Satisfied",
            ScenarioState::Allowed => "Allowed",
            ScenarioState::Denied => "Denied",
            ScenarioState::Completed => "Completed",
        }
    }

    fn severity(state: ScenarioState) -> Severity {
        match state {
            ScenarioState::Denied => Severity::Warning,
            ScenarioState::Idle
            | ScenarioState::Waiting
            | ScenarioState::Satisfied
            | ScenarioState::Allowed
            | ScenarioState::Completed => Severity::Normal,
        }
    }
}
