//! Whether EDF on one CPU meets every deadline: the processor-demand criterion.
//!
//! Method: h(t), the work that must be done in an interval of length t, may not exceed t (Baruah, Mok, Rosier, "Preemptively scheduling hard-real-time
//! sporadic tasks on one processor", RTSS 1990); which t to look at, from the largest downwards, is QPA (Zhang, Burns, "Schedulability analysis for
//! real-time systems with EDF scheduling", IEEE ToC 2009). With release jitter a job may have to be done within D − J of its release, so that
//!
//! > h(t) = Σ (⌊(t + Jᵢ − Dᵢ) / Tᵢ⌋ + 1)·Cᵢ + B(t) over the tasks with Dᵢ − Jᵢ ≤ t,
//!
//! with B(t) the largest blocking of these tasks (Spuri, Stankovic 1994): non-decreasing, which is all that QPA needs.
//!
//! SCHED_DEADLINE counts deadlines from the wake-up, not from the arrival. A thread whose `sched_deadline` is D − J meets exactly this demand, because the
//! constant bandwidth server never replenishes it earlier than a period after the last time; so a proof here holds there.
//!
//! Termination: no t beyond the synchronous busy period, the bound of Baruah et al., or (at a utilisation of exactly 1) one hyperperiod after the longest
//! deadline needs a look; where the [`Budget`] ends, the density test (Liu 2000) may still prove the set, and else it is undecided.

use crate::budget::Budget;
use crate::load::{Load, MAX_NS, Utilisation, hyperperiod};

/// What the search for the busy period may use of a budget where another bound is known.
const PATIENCE: u64 = 1_000_000;

/// The verdict of the processor-demand criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Every deadline is met.
    Met,
    /// In an interval of this length more work is due than it has time.
    Exceeded { interval_ns: u64, demand_ns: u64, blocking_ns: u64 },
    /// The utilisation exceeds 1.
    Overload,
    /// The budget ended first: not proven.
    Undecided,
}

/// How many jobs of the task are due within `interval_ns` of a common release.
#[must_use]
pub const fn due(load: &Load, interval_ns: u64) -> u64 {
    match interval_ns.saturating_add(load.jitter_ns).checked_sub(load.deadline_ns) {
        Some(room) => (room / load.period_ns).saturating_add(1),
        None => 0,
    }
}

/// B(t).
#[must_use]
pub fn blocking(loads: &[Load], interval_ns: u64) -> u64 {
    let due = loads.iter().filter(|load| due(load, interval_ns) > 0);
    due.map(|load| load.blocking_ns).max().unwrap_or(0)
}

/// h(t).
#[must_use]
pub fn demand(loads: &[Load], interval_ns: u64) -> u64 {
    let work =
        loads.iter().fold(0_u64, |sum, load| sum.saturating_add(due(load, interval_ns).saturating_mul(load.wcet_ns)));
    work.saturating_add(blocking(loads, interval_ns))
}

/// Decides whether EDF meets all deadlines.
#[must_use]
pub fn check(loads: &[Load], budget: &mut Budget) -> Demand {
    let Some(shortest) = loads.iter().map(|load| load.deadline_ns.saturating_sub(load.jitter_ns)).min() else {
        return Demand::Met;
    };
    if !Utilisation::at_most_one(loads.iter()) {
        return Demand::Overload;
    }
    if dense(loads) {
        return Demand::Met;
    }
    if shortest == 0 {
        return exceeded(loads, 0);
    }
    let Some(horizon) = horizon(loads, budget) else { return Demand::Undecided };
    let mut at = latest_deadline(loads, horizon.saturating_add(1));
    let looks = u64::try_from(loads.len()).unwrap_or(u64::MAX).saturating_mul(2);
    while let Some(interval) = at {
        if !budget.spend(looks) {
            return Demand::Undecided;
        }
        let needed = demand(loads, interval);
        if needed > interval {
            return earliest(loads, interval, budget);
        }
        if needed <= shortest {
            break;
        }
        at = if needed < interval { Some(needed) } else { latest_deadline(loads, interval) };
    }
    Demand::Met
}

/// No interval longer than this can be the only one that is exceeded. `None`: nobody knows one.
fn horizon(loads: &[Load], budget: &mut Budget) -> Option<u64> {
    let longest = loads.iter().map(|load| load.deadline_ns.saturating_sub(load.jitter_ns)).max().unwrap_or(0);
    let left = Utilisation::of(loads.iter()).left();
    let mut bounds = Vec::with_capacity(3);
    if left > 0 {
        // h(t) ≤ Σ Uᵢ·(t + Tᵢ + Jᵢ − Dᵢ) + B for t of at least the longest D − J.
        let late = loads.iter().fold(0_u128, |sum, load| {
            let slack =
                (u128::from(load.period_ns) + u128::from(load.jitter_ns)).saturating_sub(load.deadline_ns.into());
            let work = slack.saturating_mul(load.wcet_ns.into()).div_ceil(u128::from(load.period_ns));
            sum.saturating_add(work)
        });
        let blocked = loads.iter().map(|load| load.blocking_ns).max().unwrap_or(0);
        let work = late.saturating_add(blocked.into());
        if work < 1 << 64 {
            bounds.extend(u64::try_from((work << 64).div_ceil(left)).ok().map(|ns| ns.max(longest)));
        }
    } else {
        bounds.extend(hyperperiod(loads.iter()).and_then(|ns| ns.checked_add(longest)));
    }
    // Usually the shortest of them; but at a utilisation of 1 with jitter it never ends.
    let given = if bounds.is_empty() { *budget } else { budget.part(PATIENCE) };
    let mut mine = given;
    bounds.extend(busy_period(loads, &mut mine));
    budget.settle(given, mine);
    bounds.into_iter().min().filter(|ns| *ns <= MAX_NS)
}

/// The length of the synchronous busy period, blocking included; `None` if it has none below [`MAX_NS`] or the budget ends.
#[must_use]
pub fn busy_period(loads: &[Load], budget: &mut Budget) -> Option<u64> {
    let blocked = loads.iter().map(|load| load.blocking_ns).max().unwrap_or(0);
    let looks = u64::try_from(loads.len()).unwrap_or(u64::MAX);
    let mut length = loads.iter().fold(blocked, |sum, load| sum.saturating_add(load.wcet_ns));
    loop {
        let needed = loads.iter().fold(blocked, |sum, load| sum.saturating_add(load.requested(length)));
        if needed <= length {
            return Some(length);
        }
        if needed > MAX_NS || !budget.spend(looks) {
            return None;
        }
        length = needed;
    }
}

/// The latest deadline before `before_ns`, of jobs released together at 0.
fn latest_deadline(loads: &[Load], before_ns: u64) -> Option<u64> {
    let latest = |load: &Load| {
        let first = load.deadline_ns.saturating_sub(load.jitter_ns);
        let room = before_ns.checked_sub(first)?.checked_sub(1)?;
        Some(first.saturating_add((room / load.period_ns).saturating_mul(load.period_ns)))
    };
    loads.iter().filter_map(latest).max()
}

/// The first deadline after `after_ns`.
fn next_deadline(loads: &[Load], after_ns: u64) -> Option<u64> {
    let next = |load: &Load| {
        let first = load.deadline_ns.saturating_sub(load.jitter_ns);
        match after_ns.checked_sub(first) {
            None => Some(first),
            Some(room) => first.checked_add((room / load.period_ns).checked_add(1)?.checked_mul(load.period_ns)?),
        }
    };
    loads.iter().filter_map(next).min()
}

fn exceeded(loads: &[Load], interval_ns: u64) -> Demand {
    Demand::Exceeded { interval_ns, demand_ns: demand(loads, interval_ns), blocking_ns: blocking(loads, interval_ns) }
}

/// The shortest interval that is exceeded, as the plainest witness; `known_ns` if it isn't found quickly.
fn earliest(loads: &[Load], known_ns: u64, budget: &mut Budget) -> Demand {
    let looks = u64::try_from(loads.len()).unwrap_or(u64::MAX).saturating_mul(2).max(1);
    let mut at = next_deadline(loads, 0);
    let mut patience = 2_000_000 / looks;
    while let Some(interval) = at.filter(|interval| *interval < known_ns && patience > 0) {
        if !budget.spend(looks) {
            break;
        }
        if demand(loads, interval) > interval {
            return exceeded(loads, interval);
        }
        at = next_deadline(loads, interval);
        patience -= 1;
    }
    exceeded(loads, known_ns)
}

/// The density test: Σ Cᵢ / min(Dᵢ − Jᵢ, Tᵢ) and the densest blocking are at most 1 together. Sufficient.
fn dense(loads: &[Load]) -> bool {
    let mut sum = 0_u128;
    let mut blocked = 0_u128;
    for load in loads {
        let window = load.deadline_ns.saturating_sub(load.jitter_ns);
        if window == 0 {
            return false;
        }
        sum = sum.saturating_add((u128::from(load.wcet_ns) << 64).div_ceil(window.min(load.period_ns).into()));
        blocked = blocked.max((u128::from(load.blocking_ns) << 64).div_ceil(window.into()));
    }
    sum.saturating_add(blocked) <= 1 << 64
}
