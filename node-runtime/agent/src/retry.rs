//! Waits between tries against the API server: doubled, jittered, capped. One place, so that all of a node's tries spread alike.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Short enough that an API server starting in the same process isn't waited for in vain.
const FIRST: Duration = Duration::from_millis(50);
/// Long enough that a fleet doesn't trample an API server that comes back.
const MAX: Duration = Duration::from_secs(20);

/// How long to wait, doubling from 50 ms to 20 s, each between half and the whole of that.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    tries: u32,
}

impl Retry {
    pub fn delay(&mut self) -> Duration {
        let whole =
            2_u32.checked_pow(self.tries).and_then(|factor| FIRST.checked_mul(factor)).map_or(MAX, |d| d.min(MAX));
        self.tries = self.tries.saturating_add(1);
        // A hasher's random keys are randomness enough to spread waits.
        let share = u32::try_from(RandomState::new().hash_one(self.tries) % 512).unwrap_or(0) + 512;
        whole / 1024 * share
    }

    /// It worked: start over.
    pub fn succeeded(&mut self) {
        self.tries = 0;
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.delay())
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.succeeded();
    }
}

/// What an error of the API server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The object isn't there (any more).
    Gone,
    /// Somebody else wrote first: look again.
    Conflict,
    /// May work later.
    Transient,
    /// Won't work, however often it is tried.
    Refused,
}

pub(crate) fn judge(error: &kube::Error) -> Verdict {
    match error {
        kube::Error::Api(status) => match status.code {
            404 | 410 => Verdict::Gone,
            409 => Verdict::Conflict,
            // Not authenticated: certificates may be rotated, and an API server that starts doesn't know its users yet.
            401 | 403 | 408 | 429 | 500.. => Verdict::Transient,
            _ => Verdict::Refused,
        },
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => Verdict::Refused,
        _ => Verdict::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_spread_below_the_cap() {
        let mut retry = Retry::default();
        let mut whole = FIRST;
        for _ in 0..40 {
            let delay = retry.delay();
            assert!(delay <= whole && delay >= whole / 1024 * 512, "{delay:?} of {whole:?}");
            whole = (whole * 2).min(MAX);
        }
        retry.succeeded();
        assert!(retry.delay() <= FIRST);
    }
}
