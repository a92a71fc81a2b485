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

/// What an error says to a person: of an API server's answer its message alone.
pub(crate) fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        other => other.to_string(),
    }
}

/// By then an API server that starts knows its users.
const SETTLED: u32 = 4;

/// That this node isn't who may do what it does (401, 403): it is tried again, as certificates may be rotated and rights given, and told once
/// until the server says something else.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    in_a_row: u32,
    told: Option<String>,
}

impl Refusals {
    /// What is to be told, if anything is.
    pub fn news(&mut self, error: &kube::Error) -> Option<String> {
        if !matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403)) {
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let message = sentence(error);
        if self.in_a_row < SETTLED || self.told.as_ref() == Some(&message) {
            return None;
        }
        self.told = Some(message.clone());
        Some(message)
    }

    /// It is allowed.
    pub fn passed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_told_once_until_it_changes() {
        let refused =
            |message: &str, code| kube::Error::Api(Box::new(Status::failure(message, "Forbidden").with_code(code)));
        let mut refusals = Refusals::default();
        let told = |refusals: &mut Refusals, error: &kube::Error| {
            (0..8).filter_map(|_| refusals.news(error)).collect::<Vec<_>>()
        };
        assert!(refusals.news(&refused("no", 403)).is_none(), "it may be starting");
        assert_eq!(told(&mut refusals, &refused("no", 403)), ["no"]);
        assert_eq!(told(&mut refusals, &refused("never", 403)), ["never"]);
        assert!(told(&mut refusals, &refused("busy", 429)).is_empty());
        refusals.passed();
        assert!(refusals.news(&refused("never", 403)).is_none());
        assert_eq!(told(&mut refusals, &refused("never", 403)), ["never"]);
        assert_eq!(sentence(&refused("", 403)), "the API server answered 403 Forbidden");
    }

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
