//! Leader election over a Lease (coordination.k8s.io/v1), as client-go does it: who may act, and until when.
//!
//! A Lease names its holder. The holder renews it every `retry_period`; whoever has seen it unchanged for `lease_duration` may take it, with
//! an update that fails if anybody else wrote in between. The holder stops acting `renew_deadline` after it *sent* the last renewal that
//! was confirmed, which is before anyone else can have waited `lease_duration` since they *saw* it.
//!
//! The times in the Lease are for people. What decides is each process' own monotonic clock, so clocks may be hours apart; what they may not do is
//! run at rates that differ by more than `lease_duration / renew_deadline` (1.5 with the defaults).
//!
//! Invariants (the properties in tests/lease.rs):
//! * At any moment at most one process has a [`Term`] that isn't over, whatever is delayed, lost, or answered after it was done.
//! * `transitions` grows with every term, also if the holder follows itself: it is the epoch of what the holder writes.
//!
//! Not covered, as with client-go: somebody deletes or edits the Lease by hand. A Lease that vanishes under a holder is waited out by those
//! who saw it; a process that starts just then can't know, and what both write is told apart by the epoch.
//!
//! Times are [`Monotonic`]; `lease_duration` is in whole seconds on the wire.

mod record;
mod sight;
mod timing;

pub use record::Record;
pub use sight::{Seen, Sight};
pub use timing::{Timing, TimingError};

use std::time::Duration;

/// A moment of one process' monotonic clock, since any beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Of the Lease that it took: the epoch.
    pub transitions: i64,
    /// When the latest write that the API server confirmed was sent.
    pub renewed: Monotonic,
}

impl Term {
    /// When its holder stops acting, unless it is renewed.
    #[must_use]
    pub const fn acts_until(&self, timing: &Timing) -> Monotonic {
        self.renewed.after(timing.renew_deadline())
    }

    /// Before this nobody else can have it.
    #[must_use]
    pub const fn held_until(&self, timing: &Timing) -> Monotonic {
        self.renewed.after(timing.lease_duration())
    }
}

/// A process that wants to lead, or leads.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Unique among all processes that ever were.
    pub identity: &'a str,
    pub timing: Timing,
    pub term: Option<Term>,
    /// When it last sent a write, answered or not.
    pub tried: Option<Monotonic>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Find out who holds the Lease.
    Read,
    /// Make the Lease, held by us.
    Create { transitions: i64 },
    /// Replace the record that was seen by one that names us; only that one.
    Take { transitions: i64 },
    /// Say that we are still here.
    Renew,
    /// Nothing before then, unless the Lease changes.
    Wait { until: Monotonic },
    /// Our term is over: nobody confirmed a renewal in time.
    StepDown,
}

/// What a process does next, given what it knows of the Lease.
#[must_use]
pub fn evaluate(lease: &Sight, me: &Candidate<'_>, now: Monotonic) -> Decision {
    let next_try = me.tried.map_or(now, |tried| tried.after(me.timing.retry_period()));
    if let Some(term) = me.term {
        let until = term.acts_until(&me.timing);
        return if now >= until {
            Decision::StepDown
        } else if now >= next_try {
            Decision::Renew
        } else {
            Decision::Wait { until: next_try.min(until) }
        };
    }
    let free_at = match lease {
        Sight::Unread => None,
        Sight::Absent { last } => Some((last.as_ref(), last.as_ref().and_then(|seen| seen.expires(me.identity)))),
        Sight::Present(seen) => Some((Some(seen), seen.expires(me.identity))),
    };
    let Some((last, expires)) = free_at else { return Decision::Read };
    let until = expires.unwrap_or(now).max(next_try);
    if now < until {
        return Decision::Wait { until };
    }
    let transitions = last.map_or(1, |seen| seen.record.transitions.saturating_add(1));
    match lease {
        Sight::Present(_) => Decision::Take { transitions },
        Sight::Unread | Sight::Absent { .. } => Decision::Create { transitions },
    }
}
