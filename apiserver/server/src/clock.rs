//! Time, injected: creation and deletion timestamps, field ownership times, certificate validity.

use std::fmt;

use jiff::Timestamp;

/// Where the server takes the time from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// `2026-11-24T02:10:00Z`: the form of metadata timestamps, whole seconds.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    whole.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_whole_seconds() {
        let at: Timestamp = "2026-11-24T02:10:00.987654321Z".parse().unwrap();
        assert_eq!(rfc3339(at), "2026-11-24T02:10:00Z");
    }
}
