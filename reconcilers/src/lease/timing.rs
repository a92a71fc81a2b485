//! How often and how long. The names, defaults and rules are those of kube-controller-manager (client-go, `leaderelection.go`).

use std::time::Duration;

use thiserror::Error;

/// The three periods. Valid: lease > deadline > 1.2 × retry > 0, the lease in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// Why three periods don't go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    #[error("the lease duration ({0:?}) must be in whole seconds, from 1 s to 1 h")]
    Lease(Duration),
    #[error("the renew deadline ({deadline:?}) must be shorter than the lease duration ({lease:?})")]
    Deadline { deadline: Duration, lease: Duration },
    #[error(
        "the retry period ({retry:?}) must be more than 0 and, drawn out by a fifth, shorter than the renew deadline ({deadline:?})"
    )]
    Retry { retry: Duration, deadline: Duration },
}

impl Timing {
    /// # Errors
    /// [`TimingError`] names the rule that is broken.
    pub fn new(
        lease_duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingError> {
        let whole = lease_duration.subsec_nanos() == 0 && (1..=3600).contains(&lease_duration.as_secs());
        if !whole {
            return Err(TimingError::Lease(lease_duration));
        }
        if renew_deadline >= lease_duration {
            return Err(TimingError::Deadline { deadline: renew_deadline, lease: lease_duration });
        }
        if retry_period.is_zero() || retry_period.saturating_add(retry_period / 5) >= renew_deadline {
            return Err(TimingError::Retry { retry: retry_period, deadline: renew_deadline });
        }
        Ok(Self { lease_duration, renew_deadline, retry_period })
    }

    /// How long others wait for the holder.
    #[must_use]
    pub const fn lease_duration(&self) -> Duration {
        self.lease_duration
    }

    /// How long the holder acts without a renewal.
    #[must_use]
    pub const fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// How often is tried.
    #[must_use]
    pub const fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// Up to a fifth more than `period`, so that those who fail together don't try again together.
    #[must_use]
    pub fn jittered(period: Duration, entropy: u64) -> Duration {
        let fifth = u64::try_from((period / 5).as_nanos()).unwrap_or(u64::MAX);
        period.saturating_add(Duration::from_nanos(entropy % fifth.saturating_add(1).max(1)))
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}
