//! How much history a store keeps: the pure decision of when which revision may be compacted.
//!
//! A revision is forgotten once it is older than [`Retention::age`] or more than [`Retention::revisions`] back, whichever comes
//! first. To know ages, a sample (time, newest revision then) is kept per eighth of the age, so a handful of samples serves
//! any number of revisions, and a revision lives at most an eighth longer than asked. A store that is opened again counts what it
//! finds as new.

use std::collections::VecDeque;
use std::time::Duration;

/// How much history is kept for reads and watches in the past. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At least as long as a client may take over a paged list, or be away from a watch.
    pub age: Option<Duration>,
    /// A bound on the disk (or memory) that a burst of writes may take.
    pub revisions: Option<u64>,
}

impl Retention {
    /// Everything is kept until someone compacts.
    pub const FOREVER: Self = Self { age: None, revisions: None };
}

impl Default for Retention {
    /// Five minutes as etcd keeps for Kubernetes, at most 100,000 revisions (200 MB of 2 KB objects).
    fn default() -> Self {
        Self { age: Some(Duration::from_secs(300)), revisions: Some(100_000) }
    }
}

/// Decides what may be compacted.
#[derive(Debug)]
pub(crate) struct Ages {
    retention: Retention,
    /// (a time, the newest revision at that time), oldest first. The last one moves with each write until it is far enough
    /// from the one before.
    samples: VecDeque<(Duration, u64)>,
}

/// Samples per age.
const RESOLUTION: u32 = 8;

impl Ages {
    pub(crate) fn new(retention: Retention) -> Self {
        Self { retention, samples: VecDeque::new() }
    }

    /// Notes that `head` was the newest revision at `now`.
    pub(crate) fn note(&mut self, now: Duration, head: u64) {
        let Some(age) = self.retention.age else { return };
        if self.samples.back().is_some_and(|(_, newest)| *newest >= head) {
            return;
        }
        let before_last = self.samples.len().checked_sub(2).and_then(|index| self.samples.get(index)).copied();
        if let (Some((before, _)), Some(last)) = (before_last, self.samples.back_mut())
            && now.saturating_sub(before) < age / RESOLUTION
        {
            *last = (now, head);
            return;
        }
        self.samples.push_back((now, head));
    }

    /// The revision up to which history may go, at `now`, when `head` is the newest. 0 when nothing may go.
    pub(crate) fn horizon(&mut self, now: Duration, head: u64) -> u64 {
        let mut horizon = self.retention.revisions.map_or(0, |keep| head.saturating_sub(keep));
        if let Some(age) = self.retention.age {
            while let Some((at, revision)) = self.samples.front().copied()
                && at.saturating_add(age) <= now
            {
                horizon = horizon.max(revision);
                self.samples.pop_front();
            }
        }
        horizon.min(head)
    }

    /// When the horizon moves next if nothing is written.
    pub(crate) fn due(&self) -> Option<Duration> {
        let age = self.retention.age?;
        self.samples.front().map(|(at, _)| at.saturating_add(age))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn aged(seconds: u64) -> Ages {
        Ages::new(Retention { age: Some(s(seconds)), revisions: None })
    }

    #[test]
    fn a_revision_goes_when_it_is_old_enough() {
        let mut ages = aged(80);
        ages.note(s(0), 5);
        ages.note(s(40), 9);
        assert_eq!(ages.horizon(s(79), 9), 0);
        assert_eq!(ages.horizon(s(80), 9), 5);
        assert_eq!(ages.horizon(s(119), 9), 0);
        assert_eq!(ages.horizon(s(120), 9), 9);
        assert_eq!(ages.due(), None, "nothing is left to age");
    }

    #[test]
    fn the_count_bounds_a_burst() {
        let mut ages = Ages::new(Retention { age: Some(s(80)), revisions: Some(100) });
        ages.note(s(0), 1000);
        assert_eq!(ages.horizon(s(0), 1000), 900);
        assert_eq!(Ages::new(Retention::FOREVER).horizon(s(1_000_000), 1000), 0);
    }

    proptest! {
        /// Never too early, at most an eighth (and the gap to the next write) too late, and few samples.
        #[test]
        fn history_lives_as_long_as_asked(gaps in proptest::collection::vec(0u64..20, 1..200)) {
            let age = 80;
            let mut ages = aged(age);
            let (mut now, mut horizon, mut written) = (0, 0, Vec::new());
            for (index, gap) in gaps.iter().enumerate() {
                now += gap;
                horizon = horizon.max(ages.horizon(s(now), index as u64));
                for (at, revision) in &written {
                    if *revision <= horizon {
                        prop_assert!(at + age <= now, "revision {revision} of {at} s went at {now} s");
                    }
                }
                let revision = index as u64 + 1;
                written.push((now, revision));
                ages.note(s(now), revision);
                prop_assert!(ages.samples.len() <= 3 + 2 * RESOLUTION as usize);
            }
            now += age;
            prop_assert_eq!(horizon.max(ages.horizon(s(now), written.len() as u64)), written.len() as u64);
            prop_assert_eq!(ages.due(), None);
        }
    }
}
