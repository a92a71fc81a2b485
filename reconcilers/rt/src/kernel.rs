//! What Linux admits, computed as Linux does, so that what is proven here is not refused there.
//!
//! * SCHED_DEADLINE: `sched_setattr` sums ⌊runtime·2²⁰ / period⌋ of all tasks of a root domain and answers EBUSY above its limit (`to_ratio` in
//!   kernel/sched/core.c, `__dl_overflow` in deadline.c). Each CPU with such tasks is an exclusive cpuset, a root domain of its own. Parameters outside
//!   `__checkparam_dl` are EINVAL.
//! * SCHED_FIFO, SCHED_RR: never throttled, and the fair server never takes the CPU from them, if in any window of `sched_rt_period_us` they run for at
//!   most the ceiling (sched(7)).
//! * RT_GROUP_SCHED: a group's `cpu.rt_runtime_us` holds on each CPU alike, and the sum over groups is limited whichever CPUs they use
//!   (`__rt_schedulable` in rt.c; Documentation/scheduler/sched-rt-group.rst).

use crate::budget::Budget;
use crate::edf::busy_period;
use crate::load::{Load, Utilisation};
use crate::task::Task;

/// `BW_SHIFT`.
const BANDWIDTH_SHIFT: u32 = 20;
/// `1 << DL_SCALE`: a shorter runtime is EINVAL.
pub const LEAST_DEADLINE_RUNTIME_NS: u64 = 1024;
/// `sched_deadline_period_min_us`, as it comes.
pub const LEAST_DEADLINE_PERIOD_NS: u64 = 100_000;
/// `sched_deadline_period_max_us`, as it comes: 2²² µs.
pub const GREATEST_DEADLINE_PERIOD_NS: u64 = (1 << 22) * 1000;
/// More steps than this and the closed sum of peaks is used alone.
const STEPS: u64 = 20_000;
/// What the search for the busy period may use of a budget.
const PATIENCE: u64 = 1_000_000;

/// ⌊runtime·2²⁰ / period⌋, as `to_ratio`.
#[must_use]
pub fn to_ratio(period_ns: u64, runtime_ns: u64) -> u64 {
    let scaled = u128::from(runtime_ns) << BANDWIDTH_SHIFT;
    u64::try_from(scaled / u128::from(period_ns.max(1))).unwrap_or(u64::MAX)
}

/// A limit in parts per million in the kernel's units, rounded down.
#[must_use]
pub fn ratio_limit(ppm: u32) -> u64 {
    to_ratio(1_000_000, ppm.into())
}

/// A sum of the kernel's units in parts per million, rounded up.
#[must_use]
pub fn ratio_ppm(ratio: u64) -> u64 {
    let scaled = (u128::from(ratio) * 1_000_000).div_ceil(1 << BANDWIDTH_SHIFT);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The `sched_deadline` that makes a thread this task: the deadline counts from the wake-up, which comes up to the jitter after the arrival, and may not
/// exceed the period.
#[must_use]
pub fn sched_deadline_ns(deadline_ns: u64, jitter_ns: u64, period_ns: u64) -> u64 {
    deadline_ns.saturating_sub(jitter_ns).min(period_ns)
}

/// The task as SCHED_DEADLINE orders it.
#[must_use]
pub fn deadline_load(task: &Task) -> Load {
    let load = task.load();
    Load { deadline_ns: load.deadline_ns.min(load.period_ns.saturating_add(load.jitter_ns)), ..load }
}

/// What `sched_setattr` refuses about a SCHED_DEADLINE task itself, whatever else is there.
#[must_use]
pub fn deadline_refusal(task: &Task) -> Option<String> {
    let period = task.period_ns;
    if !(LEAST_DEADLINE_PERIOD_NS..=GREATEST_DEADLINE_PERIOD_NS).contains(&period) {
        return Some(format!(
            "its period of {period} ns is outside of what SCHED_DEADLINE takes, {LEAST_DEADLINE_PERIOD_NS} to {GREATEST_DEADLINE_PERIOD_NS} ns"
        ));
    }
    if task.wcet_ns < LEAST_DEADLINE_RUNTIME_NS {
        return Some(format!(
            "its wcet of {} ns is below the least runtime that SCHED_DEADLINE takes, {LEAST_DEADLINE_RUNTIME_NS} ns",
            task.wcet_ns
        ));
    }
    None
}

/// The most that a task executes in any window, if its response time is at most `response_ns` (Bertogna, Cirinei, "Response-time analysis for globally
/// scheduled symmetric multiprocessor platforms", RTSS 2007: the first job as late as it can be, the others as early).
#[must_use]
pub fn peak_ns(load: &Load, response_ns: u64, window_ns: u64) -> u64 {
    let Some(room) = window_ns.saturating_add(response_ns).checked_sub(load.wcet_ns) else { return window_ns };
    let whole = room / load.period_ns;
    let rest = room % load.period_ns;
    whole.saturating_mul(load.wcet_ns).saturating_add(rest.min(load.wcet_ns)).min(window_ns)
}

/// The most that the tasks of one CPU execute together in any window: the sum of their peaks; where that exceeds `limit_ns`, the lesser of it and of what
/// the longest busy period before the window's end may bring, less what was done before its start (network calculus: the output bound of a
/// work-conserving CPU).
#[must_use]
pub fn peak_of_all_ns(loads: &[Load], responses_ns: &[u64], window_ns: u64, limit_ns: u64, budget: &mut Budget) -> u64 {
    let peaks = loads
        .iter()
        .zip(responses_ns)
        .fold(0_u64, |sum, (load, response)| sum.saturating_add(peak_ns(load, *response, window_ns)));
    let peaks = peaks.min(window_ns);
    if peaks <= limit_ns {
        return peaks;
    }
    output_bound_ns(loads, window_ns, budget).map_or(peaks, |bound| bound.min(peaks))
}

/// max over x in the busy period of the work released in (window + x) less x, and the blocking. `None` where that is too long to find.
pub(crate) fn output_bound_ns(loads: &[Load], window_ns: u64, budget: &mut Budget) -> Option<u64> {
    if Utilisation::of(loads.iter()).left() == 0 {
        return None;
    }
    let given = budget.part(PATIENCE);
    let mut mine = given;
    let busy = busy_period(loads, &mut mine);
    budget.settle(given, mine);
    let busy = busy?;
    let steps = loads.iter().fold(0_u64, |sum, load| sum.saturating_add((busy / load.period_ns).saturating_add(1)));
    if steps > STEPS || !budget.spend(steps.saturating_mul(8)) {
        return None;
    }
    // At x = 0, just after a step there: ⌊(window + J) / T⌋ + 1 jobs of each.
    let mut released = 0_u64;
    let mut later: Vec<(u64, u64)> = Vec::new();
    for load in loads {
        let span = window_ns.saturating_add(load.jitter_ns);
        released = released.saturating_add((span / load.period_ns).saturating_add(1).saturating_mul(load.wcet_ns));
        let mut step = load.period_ns - span % load.period_ns;
        while step < busy {
            later.push((step, load.wcet_ns));
            step = step.saturating_add(load.period_ns);
        }
    }
    later.sort_unstable();
    let mut most = released;
    for (at, wcet) in later {
        released = released.saturating_add(wcet);
        most = most.max(released.saturating_sub(at));
    }
    let blocked = loads.iter().map(|load| load.blocking_ns).max().unwrap_or(0);
    Some(most.saturating_add(blocked))
}

/// What a group needs of each window so that it is never throttled: whole microseconds, at most the window.
#[must_use]
pub fn group_runtime_ns(tasks: &[(Load, u64)], window_ns: u64) -> u64 {
    let peaks =
        tasks.iter().fold(0_u64, |sum, (load, response)| sum.saturating_add(peak_ns(load, *response, window_ns)));
    peaks.div_ceil(1000).saturating_mul(1000).min(window_ns)
}

/// A runtime in parts per million of its window, rounded up.
#[must_use]
pub fn share_ppm(runtime_ns: u64, window_ns: u64) -> u64 {
    let scaled = u128::from(runtime_ns).saturating_mul(1_000_000).div_ceil(u128::from(window_ns.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// ⌊ppm of a window⌋.
#[must_use]
pub fn share_ns(ppm: u32, window_ns: u64) -> u64 {
    u64::try_from(u128::from(window_ns).saturating_mul(ppm.into()) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_the_kernels() {
        // grub_reclaim's and dl_bw's well-known numbers: 95 % is 996147, the fair server's 50 ms of 1 s is 52428.
        assert_eq!(to_ratio(1_000_000_000, 950_000_000), 996_147);
        assert_eq!(to_ratio(1_000_000_000, 50_000_000), 52_428);
        // What is left for tasks is 943719; a limit in ppm never exceeds it.
        assert_eq!(ratio_limit(900_000), 943_718);
        assert_eq!(ratio_ppm(943_718), 900_000);
    }

    #[test]
    fn a_peak_counts_the_job_that_reaches_into_the_window() {
        let load = Load { wcet_ns: 3, period_ns: 10, deadline_ns: 10, jitter_ns: 0, blocking_ns: 0 };
        // Alone it runs at once: 3 of every 10.
        assert_eq!(peak_ns(&load, 3, 100), 30);
        // Delayed by 2, a job's end may reach into the window.
        assert_eq!(peak_ns(&load, 5, 100), 32);
        assert_eq!(peak_ns(&load, 10, 2), 2);
    }

    #[test]
    fn sched_deadline_leaves_the_jitter_out() {
        assert_eq!(sched_deadline_ns(8, 1, 10), 7);
        assert_eq!(sched_deadline_ns(25, 1, 10), 10);
        assert_eq!(sched_deadline_ns(1, 2, 10), 0);
    }
}
