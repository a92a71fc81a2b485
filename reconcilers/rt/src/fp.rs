//! Worst-case response times under preemptive fixed priorities on one CPU.
//!
//! Method: the level-i busy window over all its jobs (Lehoczky, "Fixed priority scheduling of periodic task sets with arbitrary deadlines", RTSS 1990),
//! with release jitter and blocking (Audsley, Burns, Richardson, Tindell, Wellings, "Applying new scheduling theory to static priority pre-emptive
//! scheduling", 1993; Tindell, Burns, Wellings, "An extendible approach for analysing fixed priority hard real-time tasks", 1994). Job q of task i ends
//! at the least w(q) with
//!
//! > w(q) = Bᵢ + (q + 1)·Cᵢ + Σ ⌈(w(q) + Jⱼ) / Tⱼ⌉·Cⱼ over the tasks j that are as urgent or more,
//!
//! its response time from the arrival is w(q) − q·Tᵢ + Jᵢ, and the window ends with the first q for which w(q) ≤ (q + 1)·Tᵢ.
//!
//! Equal priorities count as interference in both directions. That is sound for SCHED_RR, whose slices may come in any order, and for SCHED_FIFO, where
//! a thread with a backlog of its own jobs goes on without queueing behind its equals; for SCHED_FIFO without a backlog it is an upper bound.
//!
//! Termination: a level whose utilisation exceeds 1 is unbounded (decided exactly); at exactly 1 the window may never end, but it repeats with the
//! hyperperiod, so that one hyperperiod of jobs is exact; and where the [`Budget`] ends, the closed bound of Bini, Nguyen, Richard, Baruah
//! ("A response-time bound in fixed-priority scheduling with arbitrary deadlines", IEEE ToC 2009), extended by jitter and blocking, takes over.

use crate::budget::Budget;
use crate::load::{Load, MAX_NS, Utilisation, Wcrt, hyperperiod};

/// What one task's analysis may use of a budget.
const PER_TASK: u64 = 20_000_000;
/// After so many iterations it is worth knowing whether there is a fixed point at all.
const SUSPICIOUS: u32 = 24;

/// A task and its priority: the larger, the more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    pub load: Load,
    pub priority: u8,
}

/// The tasks that are as urgent or more, itself excluded: in two runs, because one sorted list holds them around it.
#[derive(Clone, Copy, Debug)]
pub struct Interference<'a>(pub &'a [Ranked], pub &'a [Ranked]);

impl<'a> Interference<'a> {
    fn loads(&self) -> impl Iterator<Item = &'a Load> + Clone + use<'a> {
        self.0.iter().chain(self.1).map(|task| &task.load)
    }

    fn len(&self) -> u64 {
        u64::try_from(self.0.len().saturating_add(self.1.len())).unwrap_or(u64::MAX)
    }

    fn requested(&self, window_ns: u64) -> u64 {
        let sum =
            |tasks: &[Ranked]| tasks.iter().fold(0_u64, |sum, task| sum.saturating_add(task.load.requested(window_ns)));
        sum(self.0).saturating_add(sum(self.1))
    }
}

/// Response times of tasks in any order, `None` where unbounded; `priorities[i]` is that of `loads[i]` (missing ones count as 0).
#[must_use]
pub fn response_times(loads: &[Load], priorities: &[u8], budget: &mut Budget) -> Vec<Option<Wcrt>> {
    let mut order: Vec<usize> = (0..loads.len()).collect();
    let priority = |at: usize| priorities.get(at).copied().unwrap_or(0);
    order.sort_by_key(|at| std::cmp::Reverse(priority(*at)));
    let ranked: Vec<Ranked> =
        order.iter().filter_map(|at| Some(Ranked { load: *loads.get(*at)?, priority: priority(*at) })).collect();
    let mut answers = vec![None; loads.len()];
    for (at, answer) in order.into_iter().zip(analyse(&ranked, budget)) {
        if let Some(slot) = answers.get_mut(at) {
            *slot = answer;
        }
    }
    answers
}

/// Response times of tasks that are sorted by falling priority.
#[must_use]
pub fn analyse(ranked: &[Ranked], budget: &mut Budget) -> Vec<Option<Wcrt>> {
    let mut answers = Vec::with_capacity(ranked.len());
    let mut hint = Hint::default();
    for (at, task) in ranked.iter().enumerate() {
        let others = around(ranked, at);
        let (answer, first_end) = response_from(&task.load, others, hint.start(task), budget);
        hint.learn(task, first_end);
        answers.push(answer);
    }
    answers
}

/// Whether all tasks, sorted by falling priority, meet their deadlines. Where a closed bound or one look says so, nothing is iterated.
#[must_use]
pub fn meets_all(ranked: &[Ranked], budget: &mut Budget) -> bool {
    let mut bound = ClosedBound::default();
    let mut upto = 0;
    let mut hint = Hint::default();
    for (at, task) in ranked.iter().enumerate() {
        while let Some(equal) = ranked.get(upto).filter(|next| next.priority >= task.priority) {
            bound.add(&equal.load);
            upto += 1;
        }
        if bound.without(&task.load).response(&task.load).is_some_and(|ns| ns <= task.load.deadline_ns) {
            continue;
        }
        let others = around(ranked, at);
        if ends_within(&task.load, others, budget) {
            continue;
        }
        let (answer, first_end) = response_from(&task.load, others, hint.start(task), budget);
        hint.learn(task, first_end);
        if answer.is_none_or(|answer| answer.response_ns > task.load.deadline_ns) {
            return false;
        }
    }
    true
}

/// Whether the first job ends the busy window by its deadline and before the second arrives, as one look at that instant may tell: then its response is
/// the longest, and short enough.
fn ends_within(me: &Load, others: Interference<'_>, budget: &mut Budget) -> bool {
    let window = me.deadline_ns.saturating_sub(me.jitter_ns).min(me.period_ns);
    let own = me.blocking_ns.saturating_add(me.wcet_ns);
    budget.spend(others.len()) && own.saturating_add(others.requested(window)) <= window
}

/// What interferes with the task at `at` of a list sorted by falling priority.
pub(crate) fn around(ranked: &[Ranked], at: usize) -> Interference<'_> {
    let priority = ranked.get(at).map_or(0, |task| task.priority);
    let below = ranked.partition_point(|task| task.priority >= priority);
    let above = ranked.get(..at).unwrap_or_default();
    Interference(above, ranked.get(at.saturating_add(1)..below).unwrap_or_default())
}

/// The worst-case response time of one task; `None` if it is unbounded.
#[must_use]
pub fn response(me: &Load, others: Interference<'_>, budget: &mut Budget) -> Option<Wcrt> {
    response_from(me, others, 0, budget).0
}

/// Where the fixed point of a less urgent task may be searched from: a task i below a task p, with Bᵢ ≥ Bₚ, has w ≥ wₚ + Cᵢ, because w − Cᵢ covers all
/// that p waits for. Equal priorities exclude each other's.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    /// Of the levels above: the largest end of a first job, with the blocking that it includes.
    above: Option<(u64, u64)>,
    level: Option<(u8, u64, u64)>,
}

impl Hint {
    fn start(&mut self, task: &Ranked) -> u64 {
        if let Some((priority, end, blocking)) = self.level
            && priority > task.priority
        {
            self.above = Some((end, blocking));
            self.level = None;
        }
        match self.above {
            Some((end, blocking)) if task.load.blocking_ns >= blocking => end.saturating_add(task.load.wcet_ns),
            _ => 0,
        }
    }

    fn learn(&mut self, task: &Ranked, first_end: Option<u64>) {
        if let Some(end) = first_end {
            self.level = Some((task.priority, end, task.load.blocking_ns));
        }
    }
}

enum Search {
    Found(u64),
    Unbounded,
    TooLong,
}

/// As [`response`], searched from `start_ns`, which must not be above the first job's end. Also that end, where it was found.
fn response_from(
    me: &Load,
    others: Interference<'_>,
    start_ns: u64,
    budget: &mut Budget,
) -> (Option<Wcrt>, Option<u64>) {
    let given = budget.part(PER_TASK);
    let mut mine = given;
    let answer = search(me, others, start_ns, &mut mine);
    budget.settle(given, mine);
    answer
}

fn search(me: &Load, others: Interference<'_>, start_ns: u64, budget: &mut Budget) -> (Option<Wcrt>, Option<u64>) {
    let mut bounded = false;
    // At a utilisation of exactly 1 the window repeats after so many jobs.
    let mut last_job = None;
    let mut worst: Option<Wcrt> = None;
    let mut first_end = None;
    let mut own = me.blocking_ns.saturating_add(me.wcet_ns);
    let mut window = start_ns.max(own);
    for job in 0_u64.. {
        match fixed_point(own, window, me, others, &mut bounded, budget) {
            Search::Found(end) => window = end,
            Search::Unbounded => return (None, first_end),
            Search::TooLong => return (closed(me, others), first_end),
        }
        first_end = first_end.or(Some(window));
        let arrival = job.saturating_mul(me.period_ns);
        let response_ns = window.saturating_sub(arrival).saturating_add(me.jitter_ns);
        if worst.is_none_or(|worst| response_ns > worst.response_ns) {
            worst = Some(Wcrt { response_ns, job, end_ns: window, exact: true });
        }
        if window <= arrival.saturating_add(me.period_ns) || last_job.is_some_and(|last| job >= last) {
            break;
        }
        if !budget.spend(1) {
            return (closed(me, others), first_end);
        }
        if last_job.is_none() {
            let all = others.loads().chain(std::iter::once(me));
            if !bounded && !Utilisation::at_most_one(all.clone()) {
                return (None, first_end);
            }
            bounded = true;
            let endless = Utilisation::of(all.clone()).left() == 0;
            let hyperperiod = if endless { hyperperiod(all) } else { None };
            last_job = Some(hyperperiod.map_or(u64::MAX, |ns| (ns / me.period_ns).saturating_sub(1)));
            if last_job.is_some_and(|last| job >= last) {
                break;
            }
        }
        own = own.saturating_add(me.wcet_ns);
        window = window.saturating_add(me.wcet_ns);
    }
    (worst.filter(|worst| worst.response_ns <= MAX_NS), first_end)
}

/// The least window that holds `own` and what the others request in it, from `window` upwards.
fn fixed_point(
    own: u64,
    mut window: u64,
    me: &Load,
    others: Interference<'_>,
    bounded: &mut bool,
    budget: &mut Budget,
) -> Search {
    for iteration in 0_u32.. {
        let needed = own.saturating_add(others.requested(window));
        if needed <= window {
            return Search::Found(window);
        }
        if needed > MAX_NS {
            return Search::Unbounded;
        }
        window = needed;
        if !*bounded && iteration >= SUSPICIOUS {
            if !Utilisation::at_most_one(others.loads().chain(std::iter::once(me))) {
                return Search::Unbounded;
            }
            *bounded = true;
        }
        if !budget.spend(others.len().saturating_add(1)) {
            return Search::TooLong;
        }
    }
    Search::TooLong
}

fn closed(me: &Load, others: Interference<'_>) -> Option<Wcrt> {
    if !Utilisation::at_most_one(others.loads().chain(std::iter::once(me))) {
        return None;
    }
    let mut bound = ClosedBound::default();
    for load in others.loads() {
        bound.add(load);
    }
    let response_ns = bound.response_within_one(me)?;
    Some(Wcrt { response_ns, job: 0, end_ns: response_ns.saturating_sub(me.jitter_ns), exact: false })
}

/// Sums of the closed bound R ≤ Jᵢ + (Bᵢ + Cᵢ + Σ (Cⱼ·(1 − Uⱼ) + Uⱼ·Jⱼ)) / (1 − Σ Uⱼ), which holds while Uᵢ + Σ Uⱼ ≤ 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClosedBound {
    /// Σ Cⱼ·(1 − Uⱼ) + Uⱼ·Jⱼ, each term rounded up.
    work_ns: u128,
    /// Σ Uⱼ in units of 2⁻⁶⁴, each term rounded up.
    share: u128,
}

const ONE: u128 = 1 << 64;

impl ClosedBound {
    fn term(load: &Load) -> (u128, u128) {
        let (wcet, period) = (u128::from(load.wcet_ns), u128::from(load.period_ns.max(1)));
        let work = wcet.saturating_sub(wcet.saturating_mul(wcet) / period);
        let late = wcet.saturating_mul(load.jitter_ns.into()).div_ceil(period);
        (work.saturating_add(late), (wcet << 64).div_ceil(period))
    }

    pub(crate) fn add(&mut self, load: &Load) {
        let (work, share) = Self::term(load);
        self.work_ns = self.work_ns.saturating_add(work);
        self.share = self.share.saturating_add(share);
    }

    /// The sums without one of the loads that were added.
    pub(crate) fn without(mut self, load: &Load) -> Self {
        let (work, share) = Self::term(load);
        self.work_ns = self.work_ns.saturating_sub(work);
        self.share = self.share.saturating_sub(share);
        self
    }

    /// `None` if the bound may not hold or exceeds [`MAX_NS`]. (Shares are rounded up, so that a utilisation of exactly 1 may be refused here.)
    pub(crate) fn response(&self, me: &Load) -> Option<u64> {
        let left = ONE.checked_sub(self.share)?;
        if Self::term(me).1 > left { None } else { self.response_within_one(me) }
    }

    /// The same where the caller knows that the utilisation is at most 1.
    fn response_within_one(&self, me: &Load) -> Option<u64> {
        let left = ONE.checked_sub(self.share).filter(|left| *left > 0)?;
        let work = self.work_ns.checked_add(me.blocking_ns.into())?.checked_add(me.wcet_ns.into())?;
        let window = if work < ONE { (work << 64).div_ceil(left) } else { return None };
        u64::try_from(window.checked_add(me.jitter_ns.into())?).ok().filter(|ns| *ns <= MAX_NS)
    }
}
