//! Where the store takes the time from: how old a revision is decides when it is compacted, and nothing else does.
//!
//! Unit: [`Duration`] since an origin that is fixed for the life of the clock. Invariant: it never goes backwards. Wall
//! time is of no use here, because it may jump when an ECU first hears of the real date.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time since the clock's origin.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// A clock that stands still until it is moved: for simulations and tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    nanoseconds: AtomicU64,
}

impl ManualClock {
    /// Moves the clock forward. It stops at about 584 years.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let mut now = self.nanoseconds.load(Ordering::Relaxed);
        while let Err(seen) =
            self.nanoseconds.compare_exchange_weak(now, now.saturating_add(by), Ordering::AcqRel, Ordering::Relaxed)
        {
            now = seen;
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Acquire))
    }
}
