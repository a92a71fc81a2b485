//! Worst-case response times under EDF on one CPU.
//!
//! Method: Spuri, "Analysis of deadline scheduled real-time systems", INRIA RR-2772, 1996. The worst job of task i arrives at some a in a busy period
//! at whose start all other tasks are released together after their full jitter, and its deadline d = a + Dᵢ coincides with one of theirs or its own
//! first job is released there, too. It ends at the least
//!
//! > w = B(d) + (⌊(a + Jᵢ) / Tᵢ⌋ + 1)·Cᵢ + Σ min(⌈(w + Jⱼ) / Tⱼ⌉, ⌊(d + Jⱼ − Dⱼ) / Tⱼ⌋ + 1)·Cⱼ,
//!
//! and its response time from the arrival is w − a, or Jᵢ + Cᵢ if that is more. Deadlines count from arrivals. B(d) is as in [`crate::edf`].
//!
//! Ends of busy periods don't fall as d grows, so that each search starts where the last ended, and the candidates end once what is left of the longest
//! busy period can't exceed the worst response seen. At a utilisation of exactly 1 that has no end one hyperperiod is enough. Where the
//! [`Budget`] ends: Dᵢ, if the demand criterion proves the set, else Dᵢ and the greatest lateness that any job can have.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::budget::Budget;
use crate::edf::{self, Demand};
use crate::load::{Load, MAX_NS, Utilisation, Wcrt, hyperperiod};

/// What one task's analysis may use of a budget.
const PER_TASK: u64 = 20_000_000;

/// …and the search for a busy period that may never end.
const PATIENCE: u64 = 1_000_000;

/// Response times of tasks that share one CPU; `None` where unbounded.
#[must_use]
pub fn response_times(loads: &[Load], budget: &mut Budget) -> Vec<Option<Wcrt>> {
    if !Utilisation::at_most_one(loads.iter()) {
        return vec![None; loads.len()];
    }
    // First what all can fall back to: the quick proof that no deadline is missed.
    let given = budget.part(budget.left() / 2);
    let mut mine = given;
    let met = edf::check(loads, &mut mine) == Demand::Met;
    let end = candidates_end(loads, &mut mine);
    budget.settle(given, mine);
    let mut answers = Vec::with_capacity(loads.len());
    for (at, load) in loads.iter().enumerate() {
        // A fair part for each, so that the first doesn't starve the last.
        let tasks = u64::try_from(loads.len().saturating_sub(at)).unwrap_or(u64::MAX);
        let given = budget.part(PER_TASK.min(budget.left() / tasks.max(1)));
        let mut mine = given;
        let exact = end.and_then(|end| search(loads, at, end, &mut mine));
        budget.settle(given, mine);
        answers.push(exact.or_else(|| closed(loads, load, met)).filter(|answer| answer.response_ns <= MAX_NS));
    }
    answers
}

/// Arrivals from here on needn't be looked at.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Of arrivals after the start of the busy period.
    arrival_ns: u64,
    /// The longest busy period; `None` if it doesn't end.
    busy_ns: Option<u64>,
}

fn candidates_end(loads: &[Load], budget: &mut Budget) -> Option<End> {
    let endless = Utilisation::of(loads.iter()).left() == 0;
    // At exactly 1 with jitter or blocking the search for the busy period would run to the end of time.
    let given = if endless { budget.part(PATIENCE) } else { *budget };
    let mut mine = given;
    let busy = edf::busy_period(loads, &mut mine);
    budget.settle(given, mine);
    if let Some(ns) = busy {
        return Some(End { arrival_ns: ns, busy_ns: Some(ns) });
    }
    if !endless {
        return None;
    }
    let longest = loads.iter().map(|load| load.deadline_ns).max().unwrap_or(0);
    let arrival_ns = hyperperiod(loads.iter())?.checked_add(longest)?;
    Some(End { arrival_ns, busy_ns: None })
}

/// One task among the others while deadlines grow.
#[derive(Clone, Copy, Debug)]
struct Rival {
    load: Load,
    /// Jobs whose deadline is at most the current one.
    jobs: u64,
    /// Their work.
    work_ns: u64,
    /// The last of them is released after this…
    released_after_ns: Option<u64>,
}

impl Rival {
    fn at(load: Load, deadline_ns: i128) -> Self {
        let room = deadline_ns + i128::from(load.jitter_ns) - i128::from(load.deadline_ns);
        let jobs = u64::try_from(room).map_or(0, |room| (room / load.period_ns).saturating_add(1));
        let mut rival = Self { load, jobs: 0, work_ns: 0, released_after_ns: None };
        rival.set(jobs);
        rival
    }

    fn set(&mut self, jobs: u64) {
        self.jobs = jobs;
        self.work_ns = jobs.saturating_mul(self.load.wcet_ns);
        let arrival = jobs.saturating_sub(1).saturating_mul(self.load.period_ns);
        self.released_after_ns = arrival.checked_sub(self.load.jitter_ns);
    }

    /// The deadline of its next job, from the start of the busy period.
    fn next_deadline(&self) -> i128 {
        i128::from(self.jobs) * i128::from(self.load.period_ns) - i128::from(self.load.jitter_ns)
            + i128::from(self.load.deadline_ns)
    }

    /// What it takes of a busy period of this length: min(⌈(w + J) / T⌉, jobs)·C, with a division only where it is needed.
    fn work(&self, window_ns: u64) -> u64 {
        match self.released_after_ns {
            Some(after) if window_ns <= after => self.load.requested(window_ns),
            _ => self.work_ns,
        }
    }
}

/// `None` if the budget ends.
fn search(loads: &[Load], me: usize, end: End, budget: &mut Budget) -> Option<Wcrt> {
    let mine = *loads.get(me)?;
    let looks = u64::try_from(loads.len()).unwrap_or(u64::MAX);
    let first = i128::from(mine.deadline_ns) - i128::from(mine.jitter_ns);
    let mut rivals: Vec<Rival> = loads.iter().map(|load| Rival::at(*load, first)).collect();
    let mut deadlines: BinaryHeap<Reverse<(i128, usize)>> =
        rivals.iter().enumerate().map(|(at, rival)| Reverse((rival.next_deadline(), at))).collect();
    let least = mine.jitter_ns.saturating_add(mine.wcet_ns);
    let mut worst = Wcrt { response_ns: least, job: 0, end_ns: mine.wcet_ns, exact: true };
    let mut deadline = first;
    let mut window = mine.wcet_ns;
    let mut blocked = blocking(&rivals);
    loop {
        let arrival = deadline - i128::from(mine.deadline_ns);
        if arrival >= i128::from(end.arrival_ns)
            || end.busy_ns.is_some_and(|busy| i128::from(busy) - arrival <= i128::from(worst.response_ns))
        {
            return Some(worst);
        }
        let own = rivals.get(me)?;
        let (own_work, own_jobs) = (own.work_ns, own.jobs);
        loop {
            let others = rivals
                .iter()
                .enumerate()
                .fold(0_u64, |sum, (at, rival)| if at == me { sum } else { sum.saturating_add(rival.work(window)) });
            let needed = blocked.saturating_add(own_work).saturating_add(others);
            if needed > MAX_NS || !budget.spend(looks) {
                return None;
            }
            if needed <= window {
                break;
            }
            window = needed;
        }
        let response = u64::try_from(i128::from(window) - arrival).unwrap_or(0);
        if response > worst.response_ns {
            worst = Wcrt { response_ns: response, job: own_jobs.saturating_sub(1), end_ns: window, exact: true };
        }
        // The next deadline of anybody.
        let Reverse((next, _)) = *deadlines.peek()?;
        deadline = next;
        while let Some(mut top) = deadlines.peek_mut().filter(|top| top.0.0 == next) {
            let rival = rivals.get_mut(top.0.1)?;
            rival.set(rival.jobs.saturating_add(1));
            blocked = blocked.max(rival.load.blocking_ns);
            top.0.0 = rival.next_deadline();
        }
    }
}

fn blocking(rivals: &[Rival]) -> u64 {
    rivals.iter().filter(|rival| rival.jobs > 0).map(|rival| rival.load.blocking_ns).max().unwrap_or(0)
}

/// D where all deadlines are met; else D + Σ Uⱼ·(Tⱼ + Jⱼ − Dⱼ) + B, which no job is later than while the utilisation is at most 1, and where deadlines may
/// pass before the release, that time as well.
fn closed(loads: &[Load], me: &Load, met: bool) -> Option<Wcrt> {
    let late = if met {
        0
    } else {
        let work = loads.iter().fold(0_u128, |sum, load| {
            let slack =
                (u128::from(load.period_ns) + u128::from(load.jitter_ns)).saturating_sub(load.deadline_ns.into());
            sum.saturating_add(slack.saturating_mul(load.wcet_ns.into()).div_ceil(u128::from(load.period_ns)))
        });
        let blocked = loads.iter().map(|load| load.blocking_ns).max().unwrap_or(0);
        let before = loads.iter().map(|load| load.jitter_ns.saturating_sub(load.deadline_ns)).max().unwrap_or(0);
        u64::try_from(work).ok()?.checked_add(blocked)?.checked_add(before)?
    };
    let response_ns = me.deadline_ns.checked_add(late)?;
    Some(Wcrt { response_ns, job: 0, end_ns: response_ns, exact: false })
}

/// What task `j` runs, in jobs, in the busy period in which the worst job of `loads[me]` ends: itself included.
#[must_use]
pub fn jobs_in(loads: &[Load], me: usize, worst: &Wcrt) -> Vec<u64> {
    let Some(mine) = loads.get(me) else { return Vec::new() };
    let arrival = i128::from(worst.end_ns) - i128::from(worst.response_ns);
    let deadline = arrival + i128::from(mine.deadline_ns);
    loads
        .iter()
        .enumerate()
        .map(|(at, load)| {
            let due = Rival::at(*load, deadline).jobs;
            if at == me { due } else { due.min(load.requested(worst.end_ns) / load.wcet_ns.max(1)) }
        })
        .collect()
}
