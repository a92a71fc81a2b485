//! What one process knows of the Lease, and since when.

use super::{Monotonic, Record};

/// A record, and since when it is known to be this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub record: Record,
    pub since: Monotonic,
}

impl Seen {
    /// When it may be taken; `None`: at once. It was given back, or it names us though we have no term: then an answer was lost, or our term
    /// ran out, and nobody else acts under this name.
    #[must_use]
    pub fn expires(&self, identity: &str) -> Option<Monotonic> {
        let holder = self.record.holder.as_deref()?;
        (holder != identity).then(|| self.since.after(self.record.duration))
    }
}

/// What is known of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    #[default]
    Unread,
    /// There is none. `last` is what was seen before it went.
    Absent {
        last: Option<Seen>,
    },
    Present(Seen),
}

impl Sight {
    /// Takes in what the API server said, in the order in which it said it. An unchanged record stays known since when it was seen first: only what
    /// changes is a sign of life.
    pub fn take_in(&mut self, record: Option<Record>, now: Monotonic) {
        let before = std::mem::take(self);
        *self = match (record, before) {
            (Some(record), Self::Present(seen) | Self::Absent { last: Some(seen) }) if seen.record == record => {
                Self::Present(seen)
            }
            (Some(record), _) => Self::Present(Seen { record, since: now }),
            (None, Self::Present(seen)) => Self::Absent { last: Some(seen) },
            (None, Self::Absent { last }) => Self::Absent { last },
            (None, Self::Unread) => Self::Absent { last: None },
        };
    }

    /// The record, if there is one.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Present(seen) => Some(&seen.record),
            Self::Unread | Self::Absent { .. } => None,
        }
    }
}
