//! What is to be done, each thing once, and again later when it failed: 5 ms after the first failure, twice as long after each
//! further one, at most 60 s.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Queue<T> {
    ready: VecDeque<T>,
    queued: HashSet<T>,
    /// In hand; asked for again meanwhile, or not.
    running: HashMap<T, bool>,
    later: BTreeMap<Instant, Vec<T>>,
    failures: HashMap<T, u32>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashMap::new(),
            later: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// Asks for something to be done. While it is in hand, it is done once more afterwards.
    pub fn add(&mut self, item: T) {
        if let Some(again) = self.running.get_mut(&item) {
            *again = true;
        } else if self.queued.insert(item.clone()) {
            self.ready.push_back(item);
        }
    }

    /// The next thing to do, if any is due.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        while let Some(entry) = self.later.first_entry() {
            if *entry.key() > now {
                break;
            }
            for item in entry.remove() {
                self.add(item);
            }
        }
        let item = self.ready.pop_front()?;
        self.queued.remove(&item);
        self.running.insert(item.clone(), false);
        Some(item)
    }

    /// It is done.
    pub fn done(&mut self, item: T) {
        self.failures.remove(&item);
        self.release(item);
    }

    /// It failed and is to be tried again.
    pub fn failed(&mut self, item: T, now: Instant) {
        let failures = self.failures.entry(item.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        let delay = FIRST.saturating_mul(1_u32.checked_shl(*failures - 1).unwrap_or(u32::MAX)).min(LONGEST);
        self.later.entry(now + delay).or_default().push(item.clone());
        self.release(item);
    }

    fn release(&mut self, item: T) {
        if self.running.remove(&item) == Some(true) {
            self.add(item);
        }
    }

    /// When something falls due that isn't due yet.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.later.first_key_value().map(|(at, _)| *at)
    }

    /// Resolves then; never if nothing falls due. Doesn't borrow the queue.
    pub fn due(&self) -> impl Future<Output = ()> + Send + use<T> {
        let at = self.next_due();
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_once_and_again_if_asked_meanwhile() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(1);
        queue.add(2);
        queue.add(1);
        assert_eq!(queue.take(now), Some(1));
        queue.add(1);
        assert_eq!(queue.take(now), Some(2));
        assert_eq!(queue.take(now), None);
        queue.done(2);
        queue.done(1);
        assert_eq!(queue.take(now), Some(1));
        queue.done(1);
        assert_eq!((queue.take(now), queue.running()), (None, 0));
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.add("x");
        for expected in [5, 10, 20, 40] {
            assert_eq!(queue.take(now), Some("x"));
            queue.failed("x", now);
            assert_eq!(queue.take(now), None);
            assert_eq!(queue.next_due(), Some(now + Duration::from_millis(expected)));
            now += Duration::from_millis(expected);
        }
        for _ in 0..40 {
            now = queue.next_due().unwrap_or(now);
            assert_eq!(queue.take(now), Some("x"));
            queue.failed("x", now);
        }
        assert_eq!(queue.next_due(), Some(now + LONGEST));
        now += LONGEST;
        assert_eq!(queue.take(now), Some("x"));
        queue.done("x");
        queue.add("x");
        assert_eq!(queue.take(now), Some("x"));
        queue.failed("x", now);
        assert_eq!(queue.next_due(), Some(now + FIRST), "success forgets failures");
    }
}
