//! Which priorities the tasks of one CPU get.
//!
//! Methods: rate monotonic (Liu, Layland 1973), deadline monotonic (Leung, Whitehead 1982), Audsley's optimal assignment ("Optimal priority assignment
//! and feasibility of static priority tasks with arbitrary start times", 1991): from the least urgent level up, any task that meets its deadline with all
//! unassigned others above it may have the level. A task's response depends only on which tasks are above it, so that is optimal with jitter, blocking and
//! arbitrary deadlines, too.
//!
//! Tasks that have a priority already keep it; the others are put between them by the same order. Linux has the priorities 1–99: gaps are left, so
//! that later tasks fit between, and where there are more tasks than numbers some share one, which the proof that follows takes into account (equal
//! priorities interfere with each other).

use std::cmp::Reverse;

use crate::PriorityAssignment;
use crate::budget::Budget;
use crate::fp::{ClosedBound, Interference, Ranked, meets_all, response};
use crate::load::Load;

/// The most urgent priority of SCHED_FIFO and SCHED_RR.
pub const HIGHEST: u8 = 99;

/// A task of the CPU; `fixed` is the priority that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub load: Load,
    pub fixed: Option<u8>,
}

/// Priorities of candidates, in their order, each 1–99.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub priorities: Vec<u8>,
    /// Finding them has shown that all deadlines are met; if false, that is still to be seen.
    pub proven: bool,
}

/// Gives the candidates their priorities.
#[must_use]
pub fn assign(candidates: &[Candidate], how: PriorityAssignment, budget: &mut Budget) -> Assignment {
    let unproven = |priorities| Assignment { priorities, proven: false };
    if let Some(fixed) = candidates.iter().map(|candidate| candidate.fixed).collect() {
        return unproven(fixed);
    }
    // Numbers for an order, if they hold: the closed bounds mostly see it at once.
    let mut holds = |order: &[usize]| {
        let numbers = number(candidates, order);
        let proven = meets_all(&ranked(candidates, &numbers), budget);
        (numbers, proven)
    };
    let order = match how {
        PriorityAssignment::RateMonotonic => monotonic(candidates, by_period),
        _ => monotonic(candidates, by_deadline),
    };
    let enough = candidates.len() <= usize::from(HIGHEST);
    if how != PriorityAssignment::Optimal && enough {
        return unproven(number(candidates, &order));
    }
    let (priorities, proven) = holds(&order);
    if proven {
        return Assignment { priorities, proven };
    }
    let order = match how {
        PriorityAssignment::Optimal => audsley(candidates, budget).unwrap_or(order),
        _ => order,
    };
    let all_free = candidates.iter().all(|candidate| candidate.fixed.is_none());
    let shared = if all_free && !enough { levels(candidates, &order, budget) } else { None };
    match shared {
        Some(priorities) => Assignment { priorities, proven: true },
        None => unproven(number(candidates, &order)),
    }
}

/// Sorted by falling priority.
fn ranked(candidates: &[Candidate], numbers: &[u8]) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = candidates
        .iter()
        .zip(numbers)
        .map(|(candidate, priority)| Ranked { load: candidate.load, priority: *priority })
        .collect();
    ranked.sort_by_key(|task| Reverse(task.priority));
    ranked
}

const fn by_deadline(load: &Load) -> (u64, u64) {
    (load.deadline_ns, load.period_ns)
}

const fn by_period(load: &Load) -> (u64, u64) {
    (load.period_ns, load.deadline_ns)
}

/// The most urgent first. A free task comes right after the last of the fixed ones whose key isn't above its own.
fn monotonic(candidates: &[Candidate], key: fn(&Load) -> (u64, u64)) -> Vec<usize> {
    let mut fixed: Vec<(u8, usize, (u64, u64))> = Vec::new();
    let mut free: Vec<((u64, u64), usize)> = Vec::new();
    for (at, candidate) in candidates.iter().enumerate() {
        match candidate.fixed {
            Some(priority) => fixed.push((priority, at, key(&candidate.load))),
            None => free.push((key(&candidate.load), at)),
        }
    }
    fixed.sort_by_key(|(priority, at, _)| (Reverse(*priority), *at));
    free.sort_unstable();
    let mut order = Vec::with_capacity(candidates.len());
    let mut next = free.into_iter().peekable();
    for (position, (_, at, _)) in fixed.iter().enumerate() {
        // Above this one: what is smaller than it and than all fixed ones below it.
        let least = fixed.iter().skip(position).map(|(_, _, key)| *key).min();
        while let Some((_, free)) = next.next_if(|(key, _)| least.is_some_and(|least| *key < least)) {
            order.push(free);
        }
        order.push(*at);
    }
    order.extend(next.map(|(_, at)| at));
    order
}

/// The most urgent first; `None` if there is no assignment (or the budget ended).
fn audsley(candidates: &[Candidate], budget: &mut Budget) -> Option<Vec<usize>> {
    // The latest deadline first: with constrained deadlines and no jitter it is right at once.
    let mut open: Vec<usize> = (0..candidates.len()).collect();
    open.sort_by_key(|at| candidates.get(*at).map(|candidate| (Reverse(by_deadline(&candidate.load)), *at)));
    let mut upward = Vec::with_capacity(candidates.len());
    while !open.is_empty() {
        if !budget.spend(u64::try_from(open.len()).unwrap_or(u64::MAX)) {
            return None;
        }
        let ranked: Vec<Ranked> = open
            .iter()
            .filter_map(|at| candidates.get(*at))
            .map(|candidate| Ranked { load: candidate.load, priority: 0 })
            .collect();
        let mut sums = ClosedBound::default();
        for task in &ranked {
            sums.add(&task.load);
        }
        let lowest_fixed = open.iter().filter_map(|at| candidates.get(*at)?.fixed).min();
        let mut passes = |position: usize| {
            let Some(task) = ranked.get(position) else { return false };
            let deadline = task.load.deadline_ns;
            if sums.without(&task.load).response(&task.load).is_some_and(|ns| ns <= deadline) {
                return true;
            }
            let (above, rest) = ranked.split_at(position);
            let others = Interference(above, rest.get(1..).unwrap_or_default());
            response(&task.load, others, budget).is_some_and(|answer| answer.response_ns <= deadline)
        };
        let fixed = |position: usize| {
            open.get(position).and_then(|at| candidates.get(*at)).and_then(|candidate| candidate.fixed)
        };
        // Fixed ones of one priority go together, and only the lowest may be next.
        let chosen: Vec<usize> = (0..open.len()).find_map(|position| match fixed(position) {
            None => passes(position).then(|| vec![position]),
            Some(priority) if Some(priority) == lowest_fixed => {
                let level: Vec<usize> = (0..open.len()).filter(|other| fixed(*other) == Some(priority)).collect();
                level.iter().all(|other| passes(*other)).then_some(level)
            }
            Some(_) => None,
        })?;
        for position in chosen.into_iter().rev() {
            upward.push(open.remove(position));
        }
    }
    upward.reverse();
    Some(upward)
}

/// Numbers for an order, the most urgent first: between fixed ones evenly spread, shared where there aren't enough.
fn number(candidates: &[Candidate], order: &[usize]) -> Vec<u8> {
    let mut numbers = vec![1_u8; candidates.len()];
    let fixed = |at: usize| candidates.get(at).and_then(|candidate| candidate.fixed);
    let mut above = HIGHEST.saturating_add(1);
    let mut run: Vec<usize> = Vec::new();
    for at in order.iter().copied().map(Some).chain(std::iter::once(None)) {
        let below = match at {
            None => 0,
            Some(at) => match fixed(at) {
                None => {
                    run.push(at);
                    continue;
                }
                Some(priority) => {
                    if let Some(slot) = numbers.get_mut(at) {
                        *slot = priority;
                    }
                    priority
                }
            },
        };
        for (position, member) in run.iter().enumerate() {
            if let Some(slot) = numbers.get_mut(*member) {
                *slot = between(above, below, position, run.len());
            }
        }
        run.clear();
        above = below;
    }
    numbers
}

/// The number of the `position`-th of `count` tasks between two numbers that are taken.
fn between(above: u8, below: u8, position: usize, count: usize) -> u8 {
    let span = usize::from(above.saturating_sub(below));
    let room = span.saturating_sub(1);
    let down = if room == 0 {
        // None is free: share the lower number, or the upper one where the lower is no priority.
        if below == 0 { 0 } else { span }
    } else if count <= room {
        position.saturating_add(1).saturating_mul(span) / count.saturating_add(1)
    } else {
        position.saturating_mul(room) / count.max(1) + 1
    };
    above.saturating_sub(u8::try_from(down).unwrap_or(u8::MAX)).clamp(1, HIGHEST)
}

/// At most 99 levels for more tasks than that: from the lowest up, each level takes as many of the order's last tasks as meet their deadlines with all that
/// are left at their level or above. For that order no assignment has fewer levels. `None` if it takes more than 99.
fn levels(candidates: &[Candidate], order: &[usize], budget: &mut Budget) -> Option<Vec<u8>> {
    let ranked: Vec<Ranked> = order
        .iter()
        .filter_map(|at| candidates.get(*at))
        .map(|candidate| Ranked { load: candidate.load, priority: 0 })
        .collect();
    let mut numbers = vec![1_u8; candidates.len()];
    let mut left = ranked.len();
    let mut sums = ClosedBound::default();
    for task in &ranked {
        sums.add(&task.load);
    }
    for level in 1..=HIGHEST {
        let open = ranked.get(..left)?;
        let level_sums = sums;
        let before = left;
        while let Some(last) = left.checked_sub(1) {
            let task = ranked.get(last)?;
            let deadline = task.load.deadline_ns;
            let quick = level_sums.without(&task.load).response(&task.load).is_some_and(|ns| ns <= deadline);
            let others =
                || Interference(open.get(..last).unwrap_or_default(), open.get(last + 1..).unwrap_or_default());
            if !quick && response(&task.load, others(), budget).is_none_or(|answer| answer.response_ns > deadline) {
                break;
            }
            if let Some(slot) = order.get(last).and_then(|at| numbers.get_mut(*at)) {
                *slot = level;
            }
            sums = sums.without(&task.load);
            left = last;
        }
        if left == 0 {
            return Some(numbers);
        }
        if left == before {
            return None;
        }
    }
    None
}
