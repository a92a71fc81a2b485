//! A work queue of keys.
//!
//! A key that is added while it waits is added once; while it is worked on, it comes back when that is done. What was there when the process began
//! makes way for what changes since, but for one turn in [`BACKLOG_TURN`]. A failed key comes back
//! after a delay of its own that doubles from 5 ms to 30 s, each drawn from the upper half of its range so that keys that failed together
//! don't come back together.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use pullpiri_reconcilers::lease::Timing;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cache::Key;

/// The delay after the first failure: a conflict is over at once.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay: a person who repaired something shouldn't wait longer.
const LAST_DELAY: Duration = Duration::from_secs(30);

/// One key in so many is of the backlog, as long as there are others.
const BACKLOG_TURN: u64 = 4;

/// Where a key waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    News,
    Backlog,
}

#[derive(Debug, Default)]
struct Inner {
    news: VecDeque<Key>,
    /// A key that has become news since stays here too, and is passed over.
    backlog: VecDeque<Key>,
    queued: HashMap<Key, Line>,
    taken: u64,
    active: HashSet<Key>,
    /// Active ones that are to be worked on again.
    again: HashSet<Key>,
    later: HashMap<Key, Instant>,
    schedule: BTreeSet<(Instant, Key)>,
    failures: HashMap<Key, u32>,
}

/// The queue of one controller; one task takes from it.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
    depth: Gauge,
    random: RandomState,
}

impl Queue {
    pub fn new(depth: Gauge) -> Self {
        Self { inner: Mutex::default(), wake: Notify::new(), depth, random: RandomState::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be worked on as soon as possible.
    pub fn add(&self, key: Key) {
        let mut inner = self.lock();
        inner.add(key);
        self.settle(&inner);
    }

    /// To be worked on after what is added otherwise: nobody has asked for anything yet, it is only there.
    pub fn add_backlog(&self, key: Key) {
        let mut inner = self.lock();
        inner.add_to(key, Line::Backlog);
        self.settle(&inner);
    }

    /// To be worked on then, or earlier if it is scheduled earlier.
    pub fn add_at(&self, key: Key, at: Instant) {
        let mut inner = self.lock();
        inner.schedule(key, at);
        self.settle(&inner);
    }

    fn settle(&self, inner: &Inner) {
        self.measure(inner);
        self.wake.notify_one();
    }

    fn measure(&self, inner: &Inner) {
        self.depth.set(i64::try_from(inner.queued.len()).unwrap_or(i64::MAX));
    }

    /// The next key. It is the caller's until [`Queue::done`] or [`Queue::failed`].
    pub async fn next(&self) -> Key {
        loop {
            let wait_until = {
                let mut inner = self.lock();
                inner.bring_forward(Instant::now());
                if let Some(key) = inner.take() {
                    self.measure(&inner);
                    return key;
                }
                inner.schedule.first().map(|(at, _)| *at)
            };
            match wait_until {
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// The work on a key is done.
    pub fn done(&self, key: &Key) {
        let mut inner = self.lock();
        inner.failures.remove(key);
        inner.finish(key);
        self.settle(&inner);
    }

    /// The work on a key failed: it comes back, not before `asked` has passed if the API server asked for that. Returns how often in a row it has
    /// failed and after which delay it comes back.
    pub fn failed(&self, key: &Key, asked: Option<Duration>) -> (u32, Duration) {
        let mut inner = self.lock();
        let failures = inner.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let count = *failures;
        let entropy = self.random.hash_one((key, count));
        let asked = asked.map(|asked| Timing::jittered(asked, entropy)).unwrap_or_default();
        let delay = delay(count, entropy).max(asked);
        inner.finish(key);
        inner.schedule(key.clone(), Instant::now() + delay);
        self.settle(&inner);
        (count, delay)
    }
}

impl Inner {
    fn add(&mut self, key: Key) {
        self.add_to(key, Line::News);
    }

    fn add_to(&mut self, key: Key, line: Line) {
        if self.active.contains(&key) {
            self.again.insert(key);
            return;
        }
        let known = self.queued.get(&key).copied();
        if known == Some(line) || known == Some(Line::News) {
            return;
        }
        self.queued.insert(key.clone(), line);
        self.line(line).push_back(key);
    }

    fn line(&mut self, line: Line) -> &mut VecDeque<Key> {
        match line {
            Line::News => &mut self.news,
            Line::Backlog => &mut self.backlog,
        }
    }

    fn take(&mut self) -> Option<Key> {
        self.taken = self.taken.wrapping_add(1);
        let lines = match self.taken.is_multiple_of(BACKLOG_TURN) {
            true => [Line::Backlog, Line::News],
            false => [Line::News, Line::Backlog],
        };
        let key = lines.into_iter().find_map(|line| self.take_from(line))?;
        self.active.insert(key.clone());
        Some(key)
    }

    fn take_from(&mut self, line: Line) -> Option<Key> {
        while let Some(key) = self.line(line).pop_front() {
            if self.queued.get(&key) == Some(&line) {
                self.queued.remove(&key);
                return Some(key);
            }
        }
        None
    }

    fn schedule(&mut self, key: Key, at: Instant) {
        if let Some(&earlier) = self.later.get(&key) {
            if earlier <= at {
                return;
            }
            self.schedule.remove(&(earlier, key.clone()));
        }
        self.later.insert(key.clone(), at);
        self.schedule.insert((at, key));
    }

    fn bring_forward(&mut self, now: Instant) {
        while let Some((at, _)) = self.schedule.first()
            && *at <= now
            && let Some((_, key)) = self.schedule.pop_first()
        {
            self.later.remove(&key);
            self.add(key);
        }
    }

    fn finish(&mut self, key: &Key) {
        self.active.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }
}

/// The delay after the `count`-th failure in a row, with `entropy` drawing it from the upper half of its range.
fn delay(count: u32, entropy: u64) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1_u32.checked_shl(count.saturating_sub(1).min(31)).unwrap_or(u32::MAX));
    let full = doubled.min(LAST_DELAY);
    let half = full / 2;
    let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(entropy % span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    fn queue() -> Queue {
        Queue::new(Gauge::default())
    }

    #[test]
    fn delays_grow_within_their_range() {
        for count in 1..100 {
            let full = FIRST_DELAY.saturating_mul(1 << (count - 1).min(20)).min(LAST_DELAY);
            for entropy in [0, 1, u64::MAX, 12_345_678_901] {
                let delay = delay(count, entropy);
                assert!(delay >= full / 2 && delay <= full, "{count} {delay:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_key_waits_once_and_comes_back_if_added_while_worked_on() {
        let queue = queue();
        queue.add(key("a"));
        queue.add(key("b"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        queue.done(&key("b"));
        assert!(queue.lock().queued.is_empty());
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        assert!(queue.lock().queued.is_empty() && queue.lock().active.is_empty());
    }

    #[tokio::test]
    async fn what_was_there_makes_way_for_what_changes_but_for_one_in_some() {
        let queue = queue();
        let backlog: Vec<Key> = (0..8).map(|number| key(&format!("old-{number}"))).collect();
        backlog.iter().for_each(|key| queue.add_backlog(key.clone()));
        // It changes: it needn't wait for the others any more, and comes once.
        queue.add(key("old-7"));
        queue.add_backlog(key("old-7"));
        (0..4).for_each(|number| queue.add(key(&format!("new-{number}"))));
        let mut order = Vec::new();
        while !queue.lock().queued.is_empty() {
            let key = queue.next().await;
            queue.done(&key);
            order.push(key.name);
        }
        let expected =
            "old-7 new-0 new-1 old-0 new-2 new-3 old-1 old-2 old-3 old-4 old-5 old-6".split(' ').collect::<Vec<_>>();
        assert_eq!(order, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_scheduled_comes_when_it_is_due_and_the_earliest_counts() {
        let queue = queue();
        let start = Instant::now();
        queue.add_at(key("late"), start + Duration::from_secs(9));
        queue.add_at(key("a"), start + Duration::from_secs(5));
        queue.add_at(key("a"), start + Duration::from_secs(2));
        queue.add_at(key("a"), start + Duration::from_secs(3));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("late"));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_until_success() {
        let queue = queue();
        queue.add(key("a"));
        for expected in 1..=3 {
            assert_eq!(queue.next().await, key("a"));
            assert_eq!(queue.failed(&key("a"), None).0, expected);
        }
        queue.next().await;
        let (_, delay) = queue.failed(&key("a"), Some(Duration::from_secs(9)));
        assert!(delay >= Duration::from_secs(9) && delay <= Duration::from_secs(11), "{delay:?}");
        queue.next().await;
        queue.done(&key("a"));
        queue.add(key("a"));
        queue.next().await;
        assert_eq!(queue.failed(&key("a"), None).0, 1);
    }
}
