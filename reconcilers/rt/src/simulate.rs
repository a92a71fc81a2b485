//! What one CPU does with given jobs, event by event: the check on the analysis, and the chart of a critical instant.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::load::Load;

/// A job as it comes. Times are nanoseconds from the start of the schedule; an arrival may lie before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Whose job it is.
    pub task: usize,
    pub arrival_ns: i128,
    pub release_ns: u64,
    /// Absolute.
    pub deadline_ns: i128,
    pub work_ns: u64,
    /// The smaller, the more urgent; among equals the order of tasks decides.
    pub urgency: i128,
}

/// Uninterrupted execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    pub task: usize,
    pub start_ns: u64,
    pub end_ns: u64,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub slices: Vec<Slice>,
    /// The end of each job, in the order of the jobs.
    pub ends: Vec<u64>,
}

impl Trace {
    /// The longest response time of each of `tasks` tasks, from the arrivals.
    #[must_use]
    pub fn responses(&self, jobs: &[Job], tasks: usize) -> Vec<u64> {
        let mut longest = vec![0_u64; tasks];
        for (job, end) in jobs.iter().zip(&self.ends) {
            let response = u64::try_from(i128::from(*end) - job.arrival_ns).unwrap_or(0);
            if let Some(slot) = longest.get_mut(job.task) {
                *slot = (*slot).max(response);
            }
        }
        longest
    }
}

/// Runs all jobs to their ends: the most urgent released job has the CPU, and a more urgent one takes it at once.
#[must_use]
pub fn run(jobs: &[Job]) -> Trace {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|at| jobs.get(*at).map(|job| job.release_ns));
    let mut coming = order.into_iter().peekable();
    let mut left: Vec<u64> = jobs.iter().map(|job| job.work_ns).collect();
    let mut trace = Trace { slices: Vec::new(), ends: vec![0; jobs.len()] };
    let mut ready = BinaryHeap::new();
    let mut now = 0_u64;
    loop {
        while let Some(at) = coming.next_if(|at| jobs.get(*at).is_some_and(|job| job.release_ns <= now)) {
            if let Some(job) = jobs.get(at) {
                ready.push(Reverse((job.urgency, job.task, job.release_ns, at)));
            }
        }
        let next = coming.peek().and_then(|at| jobs.get(*at)).map(|job| job.release_ns);
        let Some(Reverse((_, task, _, at))) = ready.peek().copied() else {
            match next {
                Some(release) => now = release,
                None => return trace,
            }
            continue;
        };
        let Some(work) = left.get_mut(at) else { return trace };
        let end = now.saturating_add(*work).min(next.unwrap_or(u64::MAX));
        *work = work.saturating_sub(end.saturating_sub(now));
        if *work == 0 {
            ready.pop();
            if let Some(slot) = trace.ends.get_mut(at) {
                *slot = end;
            }
        }
        match trace.slices.last_mut() {
            Some(last) if last.task == task && last.end_ns == now => last.end_ns = end,
            _ if end > now => trace.slices.push(Slice { task, start_ns: now, end_ns: end }),
            _ => {}
        }
        now = end;
    }
}

/// The critical instant: every task's first job arrives its jitter before 0 and is released at 0, its later jobs come as early as they may, until
/// `until_ns`; every job takes its WCET. `urgency` is given for each job by task and absolute deadline. At most `limit` jobs.
#[must_use]
pub fn critical_instant(
    loads: &[Load],
    until_ns: u64,
    limit: usize,
    urgency: impl Fn(usize, i128) -> i128,
) -> Vec<Job> {
    let mut next: BinaryHeap<Reverse<(i128, usize)>> =
        loads.iter().enumerate().map(|(task, load)| Reverse((-i128::from(load.jitter_ns), task))).collect();
    let mut jobs = Vec::new();
    while let Some(Reverse((arrival_ns, task))) = next.pop() {
        let Some(load) = loads.get(task) else { continue };
        if arrival_ns >= i128::from(until_ns) || jobs.len() >= limit {
            continue;
        }
        let deadline_ns = arrival_ns + i128::from(load.deadline_ns);
        let release_ns = u64::try_from(arrival_ns.max(0)).unwrap_or(0);
        jobs.push(Job {
            task,
            arrival_ns,
            release_ns,
            deadline_ns,
            work_ns: load.wcet_ns,
            urgency: urgency(task, deadline_ns),
        });
        next.push(Reverse((arrival_ns + i128::from(load.period_ns), task)));
    }
    jobs
}
