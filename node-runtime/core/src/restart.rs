//! When an exited container is started again, and when a failed operation is tried again.
//!
//! The first restart is at once: most services that die are well after a restart, and a vehicle function that waits ten seconds for
//! nothing is worse than one useless start. From the second on the wait doubles (10 s, 20 s, 40 s, … 300 s, the kubelet's shape), until the container
//! has run for ten minutes without a break.

use std::time::Duration;

use pullpiri_crds::model::RestartPolicy;
use serde::{Deserialize, Serialize};

use crate::runtime::{Exit, Timestamp};

/// How long to wait before a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Before the second restart in a row; the first is at once.
    pub initial: Duration,
    pub max: Duration,
    /// A run of this length ends a row of restarts.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), max: Duration::from_secs(300), reset_after: Duration::from_secs(600) }
    }
}

impl Backoff {
    /// The wait before the next restart, after `streak` restarts in a row.
    #[must_use]
    pub fn delay(&self, streak: u32) -> Duration {
        match streak.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => doubled(self.initial, doublings, self.max),
        }
    }
}

fn doubled(initial: Duration, doublings: u32, max: Duration) -> Duration {
    2_u32.checked_pow(doublings).and_then(|factor| initial.checked_mul(factor)).map_or(max, |delay| delay.min(max))
}

/// The wait after an operation failed for the `count`th time in a row.
#[must_use]
pub fn retry_delay(count: u32, max: Duration) -> Duration {
    doubled(Duration::from_secs(1), count.saturating_sub(1), max)
}

/// When something that may happen `delay` after `from` may happen, seen from `now`. A clock that was set back doesn't prolong the wait
/// beyond `delay`.
#[must_use]
pub fn due(from: Timestamp, delay: Duration, now: Timestamp) -> Timestamp {
    from.plus(delay).min(now.plus(delay))
}

/// Whether a container that ended so is to be started again.
#[must_use]
pub fn wanted(policy: RestartPolicy, exit: &Exit) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit.code != 0,
        RestartPolicy::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_wait_is_capped() {
        let backoff = Backoff::default();
        let seconds: Vec<u64> = (0..9).map(|streak| backoff.delay(streak).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX), backoff.max);
    }

    #[test]
    fn retries_start_after_a_second() {
        let max = Duration::from_secs(10);
        let seconds: Vec<u64> = (1..7).map(|count| retry_delay(count, max).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(retry_delay(0, max), Duration::from_secs(1));
    }

    #[test]
    fn a_clock_set_back_prolongs_no_wait() {
        let delay = Duration::from_nanos(10);
        assert_eq!(due(Timestamp(100), delay, Timestamp(105)), Timestamp(110));
        assert_eq!(due(Timestamp(100), delay, Timestamp(50)), Timestamp(60));
        assert_eq!(due(Timestamp(100), delay, Timestamp(500)), Timestamp(110));
    }

    #[test]
    fn policies() {
        let exit = |code| Exit { code, oom_killed: false, started_at: Timestamp(0), finished_at: Timestamp(1) };
        for (policy, good, bad) in [
            (RestartPolicy::Always, true, true),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Never, false, false),
        ] {
            assert_eq!((wanted(policy, &exit(0)), wanted(policy, &exit(137))), (good, bad), "{policy:?}");
        }
    }
}
