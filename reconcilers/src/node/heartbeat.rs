//! When a node was last heard of.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// For a Lease that doesn't say how long it lasts: Kubernetes' default for nodes.
pub const DEFAULT_LEASE: SignedDuration = SignedDuration::from_secs(40);

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Until then, if nothing more is heard.
    Alive { until: Timestamp },
    Silent,
    /// It never had a Lease. It is given until then before anything is said about it.
    Unheard { until: Timestamp },
}

/// One node's Lease as we saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    renewed: Option<MicroTime>,
    lasts: SignedDuration,
    heard: Timestamp,
}

impl Heartbeat {
    /// The first sight of a Lease.
    #[must_use]
    pub fn first(lease: &LeaseSpec, now: Timestamp) -> Self {
        let claimed = lease.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        Self { renewed: lease.renew_time.clone(), lasts: lasts(lease), heard: claimed.min(now) }
    }

    /// A further sight of it. Returns whether it was renewed.
    pub fn again(&mut self, lease: &LeaseSpec, now: Timestamp) -> bool {
        self.lasts = lasts(lease);
        if self.renewed == lease.renew_time {
            return false;
        }
        self.renewed.clone_from(&lease.renew_time);
        self.heard = now;
        true
    }

    #[must_use]
    pub fn pulse(&self, now: Timestamp) -> Pulse {
        let until = self.heard.saturating_add(self.lasts).unwrap_or(Timestamp::MAX);
        if until > now { Pulse::Alive { until } } else { Pulse::Silent }
    }
}

fn lasts(lease: &LeaseSpec) -> SignedDuration {
    lease.lease_duration_seconds.filter(|&s| s > 0).map_or(DEFAULT_LEASE, |s| SignedDuration::from_secs(i64::from(s)))
}
