//! What a watched thread has done: counters and a response-time histogram.
//!
//! The histogram is log-linear (256 ns wide below 2 µs, then eight buckets per power of two, so at most 12.5 % wide, up to 73 minutes), after
//! HdrHistogram. Durations are nanoseconds.

use super::layout::{BUCKETS, JOB_ACTIVE, JOB_MISSED, JOB_OVERRAN, JOB_SHIFT, RawTask};

/// The job under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveJob {
    /// From 1.
    pub number: u64,
    /// Instants of CLOCK_MONOTONIC.
    pub release_ns: u64,
    pub due_ns: Option<u64>,
    /// Execution up to the last switch.
    pub exec_ns: u64,
    pub missed: bool,
    pub overran: bool,
}

/// What was counted since the watch began. Each number is exact; together they may be of two instants, as the thread goes on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Jobs that ended, late or in time.
    pub jobs: u64,
    /// Jobs beyond their deadline, the one under way included.
    pub misses: u64,
    /// Jobs beyond their declared worst-case execution, the one under way included.
    pub overruns: u64,
    /// Releases that came before the thread had slept: the job before took all its time.
    pub back_to_back: u64,
    /// Whole periods that passed within one response.
    pub skipped_periods: u64,
    /// Wake-ups that continued a job (a lock or I/O waited for inside it).
    pub continued: u64,
    /// Jobs whose release wasn't seen, and was worked out from the thread's own totals.
    pub unseen: u64,
    /// Never less than `max_exec_ns`: the job that executed longest takes at least that, even while it hasn't ended.
    pub max_response_ns: u64,
    pub max_exec_ns: u64,
    pub last_response_ns: u64,
    pub last_exec_ns: u64,
    /// Execution of all jobs that ended.
    pub total_exec_ns: u64,
    pub responses: Histogram,
    pub active: Option<ActiveJob>,
}

impl Counters {
    pub(super) fn from_raw(raw: &RawTask) -> Self {
        Self {
            jobs: raw.jobs,
            misses: raw.misses,
            overruns: raw.overruns,
            back_to_back: raw.back_to_back,
            skipped_periods: raw.skipped,
            continued: raw.continued,
            unseen: raw.unseen,
            // The scheduler's clock, which execution is counted by, and the monotonic one differ by microseconds, too.
            max_response_ns: raw.max_response_ns.max(raw.max_exec_ns),
            max_exec_ns: raw.max_exec_ns,
            last_response_ns: raw.last_response_ns,
            last_exec_ns: raw.last_exec_ns,
            total_exec_ns: raw.total_exec_ns,
            responses: Histogram { buckets: raw.histogram.to_vec() },
            active: (raw.job & JOB_ACTIVE != 0).then_some(ActiveJob {
                number: raw.job >> JOB_SHIFT,
                release_ns: raw.release_ns,
                due_ns: (raw.due_ns != 0).then_some(raw.due_ns),
                exec_ns: raw.exec_ns,
                missed: raw.job & JOB_MISSED != 0,
                overran: raw.job & JOB_OVERRAN != 0,
            }),
        }
    }
}

/// Counts by response time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Histogram {
    /// `(exclusive upper bound in ns, count)` of every bucket that isn't empty, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0_u32..)
            .zip(&self.buckets)
            .filter(|(_, count)| **count != 0)
            .map(|(index, count)| (upper_bound_ns(index), *count))
    }

    /// All responses counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The upper bound of the bucket that holds the given quantile (in parts per million); `None` when nothing was counted.
    #[must_use]
    pub fn quantile_ns(&self, ppm: u32) -> Option<u64> {
        let count = u128::from(self.count());
        let rank = (count * u128::from(ppm.min(1_000_000))).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += u128::from(count);
            (seen >= rank).then_some(bound)
        })
    }
}

/// Where bucket `index` ends; the last one has no end.
#[must_use]
pub fn upper_bound_ns(index: u32) -> u64 {
    const UNIT_SHIFT: u32 = 8;
    if usize::try_from(index).is_ok_and(|index| index + 1 >= BUCKETS) {
        return u64::MAX;
    }
    if index < 8 {
        return u64::from(index + 1) << UNIT_SHIFT;
    }
    // Eight buckets per power of two: bucket 8 is [8, 9) units, bucket 16 is [16, 18).
    let shift = index / 8 - 1;
    u64::from(8 + index % 8 + 1) << shift << UNIT_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_are_narrow() {
        let mut low = 0;
        for index in 0..255 {
            let high = upper_bound_ns(index);
            assert!(high > low, "bucket {index}");
            assert!(index < 8 || (high - low) * 8 <= low, "bucket {index} is [{low}, {high})");
            low = high;
        }
        assert_eq!(upper_bound_ns(7), 2_048);
        assert_eq!(upper_bound_ns(8), 2_304);
        assert_eq!(upper_bound_ns(16), 18 * 256);
        assert_eq!(upper_bound_ns(255), u64::MAX);
        assert!(low > 60 * 60 * 1_000_000_000, "an hour fits: {low}");
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut raw = RawTask::ZERO;
        raw.histogram[0] = 98;
        raw.histogram[20] = 1;
        raw.histogram[30] = 1;
        let histogram = Counters::from_raw(&raw).responses;
        assert_eq!(histogram.count(), 100);
        assert_eq!(histogram.quantile_ns(500_000), Some(256));
        assert_eq!(histogram.quantile_ns(990_000), Some(upper_bound_ns(20)));
        assert_eq!(histogram.quantile_ns(1_000_000), Some(upper_bound_ns(30)));
        assert_eq!(Counters::from_raw(&RawTask::ZERO).responses.quantile_ns(500_000), None);
    }

    #[test]
    fn no_response_is_shorter_than_an_execution() {
        let mut raw = RawTask::ZERO;
        (raw.max_response_ns, raw.max_exec_ns) = (1_000, 1_003);
        assert_eq!(Counters::from_raw(&raw).max_response_ns, 1_003);
        raw.max_response_ns = 2_000;
        assert_eq!(Counters::from_raw(&raw).max_response_ns, 2_000);
    }

    #[test]
    fn the_job_word_tells_the_job_under_way() {
        let mut raw = RawTask::ZERO;
        assert_eq!(Counters::from_raw(&raw).active, None);
        raw.job = (12 << JOB_SHIFT) | JOB_ACTIVE | JOB_MISSED;
        raw.due_ns = 5;
        let active = Counters::from_raw(&raw).active.unwrap();
        assert_eq!((active.number, active.missed, active.overran, active.due_ns), (12, true, false, Some(5)));
    }
}
