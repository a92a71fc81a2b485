//! Timestamps and spans. The core reads no clock: every time here came from a snapshot.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::runtime::Timestamp;

impl Timestamp {
    /// `span` later; saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// From `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As an object's field: cut to microseconds, so that what comes back from an API server equals what was sent.
    #[must_use]
    pub fn micro_time(self) -> MicroTime {
        MicroTime(jiff::Timestamp::from_microsecond(self.0.div_euclid(1_000)).unwrap_or_default())
    }

    /// As an object's field: cut to seconds.
    #[must_use]
    pub fn time(self) -> Time {
        Time(jiff::Timestamp::from_second(self.0.div_euclid(1_000_000_000)).unwrap_or_default())
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(at: jiff::Timestamp) -> Self {
        Self(i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX))
    }
}
