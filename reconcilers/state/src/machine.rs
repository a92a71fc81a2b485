//! What the machines share: firing events and keeping the record.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use pullpiri_crds::scenario::Transition;

/// How many transitions a history keeps: what the schema allows, and enough to see a flapping service.
pub const HISTORY_LENGTH: usize = 16;

/// A transition table.
pub trait Machine {
    type State: Copy + Eq + fmt::Debug;
    type Event: Copy + Eq + fmt::Debug;

    /// The kind, for messages.
    const KIND: &'static str;

    /// Where `event` leads from `state`; `None` if the event can't happen there. An event may lead to the state it comes from: then nothing
    /// is recorded.
    fn next(state: Self::State, event: Self::Event) -> Option<Self::State>;

    /// The state as the API spells it.
    fn state_name(state: Self::State) -> &'static str;

    /// How an arrival in `state` is announced.
    fn severity(state: Self::State) -> Severity;
}

/// An event that can't happen in a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused event {event} of a {kind} in state {state}")]
pub struct Refused {
    pub kind: &'static str,
    pub state: &'static str,
    pub event: String,
}

/// The `type` of a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What a person is told about a transition: the content of a Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub severity: Severity,
    /// CamelCase.
    pub reason: &'static str,
    pub note: String,
}

/// A state with its history, moved by events.
pub struct Progress<M: Machine> {
    state: M::State,
    history: Vec<Transition>,
    notices: Vec<Notice>,
}

impl<M: Machine> fmt::Debug for Progress<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("state", &self.state).field("notices", &self.notices).finish_non_exhaustive()
    }
}

impl<M: Machine> Progress<M> {
    /// Continues from what is on record.
    #[must_use]
    pub fn resume(state: M::State, history: &[Transition]) -> Self {
        Self { state, history: history.to_vec(), notices: Vec::new() }
    }

    #[must_use]
    pub fn state(&self) -> M::State {
        self.state
    }

    /// Moves on. Returns the new state; if it differs from the old one, the transition is on record.
    ///
    /// # Errors
    /// [`Refused`] if the event can't happen in this state; nothing has changed then.
    pub fn fire(
        &mut self,
        event: M::Event,
        at: &MicroTime,
        reason: &'static str,
        note: &str,
    ) -> Result<M::State, Refused> {
        let to = M::next(self.state, event).ok_or_else(|| Refused {
            kind: M::KIND,
            state: M::state_name(self.state),
            event: format!("{event:?}"),
        })?;
        if to != self.state {
            let (from, to_name) = (M::state_name(self.state), M::state_name(to));
            if self.history.len() >= HISTORY_LENGTH {
                self.history.drain(..=self.history.len() - HISTORY_LENGTH);
            }
            self.history.push(Transition {
                from: from.to_owned(),
                to: to_name.to_owned(),
                at: at.clone(),
                reason: reason.to_owned(),
            });
            let note =
                if note.is_empty() { format!("{from} → {to_name}") } else { format!("{from} → {to_name}: {note}") };
            self.notices.push(Notice { severity: M::severity(to), reason, note });
            self.state = to;
        }
        Ok(to)
    }

    /// The state, its history (newest last) and what to tell people.
    #[must_use]
    pub fn finish(self) -> (M::State, Vec<Transition>, Vec<Notice>) {
        (self.state, self.history, self.notices)
    }
}
