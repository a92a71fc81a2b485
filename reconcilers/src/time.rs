//! Times as the API keeps them. A status that is compared with what the server returns must not carry more precision than it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// `at`, cut to microseconds.
#[must_use]
pub fn micro(at: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at))
}

/// `at`, cut to seconds.
#[must_use]
pub fn second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
