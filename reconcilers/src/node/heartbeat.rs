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
    Alive {
        until: Timestamp,
    },
    Silent,
    /// Not heard of since we started (after a power cut every node is), or it never had a Lease: it gets no work, and until then
    /// nothing is said about it.
    Unheard {
        until: Timestamp,
    },
}

/// One node's Lease as we saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    renewed: Option<MicroTime>,
    lasts: SignedDuration,
    heard: Timestamp,
    /// When we saw it first, as long as it hasn't been renewed since.
    met: Option<Timestamp>,
}

impl Heartbeat {
    /// The first sight of a Lease.
    #[must_use]
    pub fn first(lease: &LeaseSpec, now: Timestamp) -> Self {
        let claimed = lease.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        Self { renewed: lease.renew_time.clone(), lasts: lasts(lease), heard: claimed.min(now), met: Some(now) }
    }

    /// A further sight of it. Returns whether it was renewed.
    pub fn again(&mut self, lease: &LeaseSpec, now: Timestamp) -> bool {
        self.lasts = lasts(lease);
        if self.renewed == lease.renew_time {
            return false;
        }
        self.renewed.clone_from(&lease.renew_time);
        self.heard = now;
        self.met = None;
        true
    }

    #[must_use]
    pub fn pulse(&self, now: Timestamp) -> Pulse {
        let end = |from: Timestamp| from.saturating_add(self.lasts).unwrap_or(Timestamp::MAX);
        let until = end(self.heard);
        if until > now {
            return Pulse::Alive { until };
        }
        match self.met.map(end) {
            Some(until) if until > now => Pulse::Unheard { until },
            Some(_) | None => Pulse::Silent,
        }
    }
}

fn lasts(lease: &LeaseSpec) -> SignedDuration {
    lease.lease_duration_seconds.filter(|&s| s > 0).map_or(DEFAULT_LEASE, |s| SignedDuration::from_secs(i64::from(s)))
}
