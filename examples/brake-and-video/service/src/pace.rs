//! Time: a steady pace, work that takes as long as it is told, and the quantiles of what was measured.

use std::time::{Duration, Instant};

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Releases at a fixed distance, without drift.
pub(crate) struct Pace {
    next: Duration,
    period: Duration,
}

impl Pace {
    pub(crate) fn start(period: Duration) -> Self {
        Self { next: monotonic() + period, period }
    }

    /// Sleeps until the next release. Releases that have passed already are left out.
    pub(crate) fn wait(&mut self) {
        let now = monotonic();
        while self.next <= now {
            self.next += self.period;
        }
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &self.next.into());
        self.next += self.period;
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// Computes until this thread has had `work` of a CPU.
pub(crate) fn compute(work: Duration) {
    let until = cpu_time() + work;
    let mut state = 1_u64;
    while cpu_time() < until {
        for _ in 0..200 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// What was measured within a second.
#[derive(Default)]
pub(crate) struct Samples {
    values: Vec<Duration>,
    since: Option<Instant>,
}

impl Samples {
    /// Takes a value; every second gives the count, median, 99th percentile and maximum of the second before.
    pub(crate) fn add(&mut self, value: Duration) -> Option<String> {
        self.values.push(value);
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < Duration::from_secs(1) {
            return None;
        }
        self.since = Some(Instant::now());
        self.values.sort_unstable();
        let at = |percent: usize| {
            let index = (self.values.len() * percent / 100).min(self.values.len().saturating_sub(1));
            self.values.get(index).copied().unwrap_or_default().as_micros()
        };
        let text = format!("n={} p50={}us p99={}us max={}us", self.values.len(), at(50), at(99), at(100));
        self.values.clear();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_the_cpu_time_it_is_told() {
        let before = cpu_time();
        compute(Duration::from_millis(2));
        assert!(cpu_time() - before >= Duration::from_millis(2));
    }
}
