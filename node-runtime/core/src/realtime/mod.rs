//! Real time on a node, pure: which thread is which task, what it is to be given, what was somebody else's doing, and what is told of it.
//!
//! * [`settings`], [`cpus`]: how a thread is scheduled · [`capabilities`]: what a node can do
//! * [`mod@bind`]: tasks and threads, to steps · [`mod@report`]: status and conditions
//!
//! Times are nanoseconds.

pub mod bind;
pub mod capabilities;
pub mod cpus;
pub mod report;
pub mod settings;
#[cfg(test)]
mod tests;

pub use bind::{Binding, Bound, Given, Held, Step, Thread, ThreadId, Why, bind, budget_ns, follow};
pub use capabilities::{Capabilities, Groups};
pub use cpus::Cpus;
pub use report::{Report, Spent, Standing, Unset, report, times};
pub use settings::{Policy, Settings};

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub status: Status,
    /// A constant of `pullpiri_crds::condition::reason`.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    True,
    False,
    /// It can't be told.
    Unknown,
}

impl Status {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Fact {
    #[must_use]
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::True, reason, message: message.into() }
    }

    #[must_use]
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::False, reason, message: message.into() }
    }

    #[must_use]
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::Unknown, reason, message: message.into() }
    }
}
