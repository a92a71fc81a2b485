//! What a store knows about its own work, as plain numbers for whoever exports them.

use std::time::Duration;

/// Upper bounds of the buckets of [`Histogram`], in microseconds; a last bucket takes the rest. From a fast NVMe's fsync to
/// a worn-out SD card's.
pub const BOUNDS_US: [u64; 11] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000];

/// How long something took, counted by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many took at most the bound of [`BOUNDS_US`] with the same index, and more than the one before.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    pub count: u64,
    pub sum: Duration,
}

impl Histogram {
    pub(crate) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }
}

/// A store's numbers at one moment. Counters count since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Writes that took place.
    pub writes: u64,
    /// Writes that were refused by their precondition.
    pub refused: u64,
    /// Writes that failed: no space, an IO error.
    pub failed: u64,
    /// Transactions on disk, each with one fsync; `writes / batches` is what group commit saves.
    pub batches: u64,
    /// How long the disk took to make a batch durable (write-back and fsync). Empty for a store in memory.
    pub commit: Histogram,
    /// What the data file takes on the disk; for a store in memory the bytes of all versions.
    pub size_bytes: u64,
    pub revision: u64,
    pub oldest: u64,
    /// Watches that are open.
    pub watchers: u64,
    /// How often a watch fell behind what is buffered for it, and went on from the log or ended.
    pub lagged: u64,
    /// How often the data file was opened again after an IO error, or etcd watched anew.
    pub reopened: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        let mut histogram = Histogram::default();
        for micros in [0, 100, 101, 2_000_000, 2_000_001, u64::MAX / 2_000] {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(histogram.count, 6);
    }
}
