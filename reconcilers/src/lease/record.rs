//! What a Lease says.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// Of a Lease that doesn't say: kube-controller-manager's.
const DEFAULT_SECONDS: u64 = 15;

/// A Lease's spec. Times are those of its writer's clock, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `None`: it was given back.
    pub holder: Option<String>,
    pub duration: Duration,
    pub acquired: Option<Timestamp>,
    pub renewed: Option<Timestamp>,
    pub transitions: i64,
}

impl Record {
    /// The record of a new term.
    #[must_use]
    pub fn begun(identity: &str, duration: Duration, transitions: i64, now: Timestamp) -> Self {
        Self { holder: Some(identity.to_owned()), duration, acquired: Some(now), renewed: Some(now), transitions }
    }

    /// What nobody wrote, or wrote wrongly, reads as given back long ago.
    #[must_use]
    pub fn read(spec: Option<&LeaseSpec>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let seconds = seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_SECONDS);
        Self {
            holder: spec.holder_identity.clone().filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds),
            acquired: spec.acquire_time.as_ref().map(|time| time.0),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: i64::from(spec.lease_transitions.unwrap_or(0).max(0)),
        }
    }

    /// The spec to write. `leaseTransitions` is an int32 there; two thousand million terms are out of reach.
    #[must_use]
    pub fn spec(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.holder.clone().unwrap_or_default()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: self.acquired.map(MicroTime),
            renew_time: self.renewed.map(MicroTime),
            lease_transitions: Some(i32::try_from(self.transitions).unwrap_or(i32::MAX)),
            ..LeaseSpec::default()
        }
    }
}
