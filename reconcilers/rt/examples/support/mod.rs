//! Generated task sets, and the reference crate asked about them. Shared by the examples and the tests.
#![allow(dead_code, clippy::expect_used)]

use pullpiri_rt::{Load, Utilisation};
use response_time_analysis::arrival::Sporadic;
use response_time_analysis::demand::RBF;
use response_time_analysis::time::{Duration, Service};
use response_time_analysis::wcet::Scalar;
use response_time_analysis::{edf, fixed_priority};

/// SplitMix64 (Steele, Lea, Flood 2014): the same sets everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }
}

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub tasks: u64,
    /// Of all tasks together, in parts per thousand.
    pub utilisation_ppt: u64,
    /// Periods are drawn from these.
    pub periods: &'static [u64],
    pub jitter: bool,
    pub blocking: bool,
    /// Deadlines from a quarter of the period to four times it; else the period.
    pub arbitrary_deadlines: bool,
}

/// Divisors of 2520: hyperperiods stay short enough to simulate.
pub const HARMONIOUS: &[u64] = &[
    20, 24, 28, 30, 36, 40, 42, 45, 56, 60, 63, 70, 72, 84, 90, 105, 120, 126, 140, 168, 180, 210, 252, 280, 315, 360,
];

pub fn generate(random: &mut Random, shape: Shape) -> Vec<Load> {
    // Random weights, scaled to the utilisation: enough spread for a test, and integers.
    let weights: Vec<u64> = (0..shape.tasks).map(|_| random.below(1000) + 1).collect();
    let all: u64 = weights.iter().sum();
    let mut loads = Vec::new();
    for weight in weights {
        let index =
            usize::try_from(random.below(u64::try_from(shape.periods.len()).expect("a length"))).expect("an index");
        let period_ns = shape.periods[index];
        let wcet_ns = (period_ns * shape.utilisation_ppt * weight / (1000 * all)).max(1);
        let deadline_ns =
            if shape.arbitrary_deadlines { (period_ns / 4 + random.below(period_ns * 4)).max(1) } else { period_ns };
        let jitter_ns = if shape.jitter && random.below(2) == 0 { random.below(period_ns * 2) } else { 0 };
        let blocking_ns = if shape.blocking && random.below(2) == 0 { random.below(period_ns / 2) } else { 0 };
        loads.push(Load { wcet_ns, period_ns, deadline_ns, jitter_ns, blocking_ns });
    }
    loads
}

/// Whether busy windows end: at a utilisation of 1 with jitter the reference doesn't.
pub fn ends(loads: &[Load]) -> bool {
    Utilisation::of(loads.iter()).left() > 0
}

type Demand = RBF<Sporadic, Scalar>;

fn demand(load: &Load, jitter_ns: u64) -> Demand {
    RBF::new(
        Sporadic::new(Duration::from(load.period_ns), Duration::from(jitter_ns)),
        Scalar::new(Service::from(load.wcet_ns)),
    )
}

/// Where the reference gives up. (Below 100000 its debug builds search by brute force.)
pub const FAR: u64 = 1 << 40;

/// The reference's response times under fixed priorities, from the arrivals: w doesn't depend on a task's own jitter, which adds to its response.
pub fn reference_fp(loads: &[Load], priorities: &[u8], limit: u64) -> Vec<Option<u64>> {
    let ask = |me: usize| {
        let rbf = demand(&loads[me], 0);
        let others: Vec<Demand> = (0..loads.len())
            .filter(|other| *other != me && priorities[*other] >= priorities[me])
            .map(|other| demand(&loads[other], loads[other].jitter_ns))
            .collect();
        let limit = Duration::from(limit);
        let answer = if loads[me].blocking_ns == 0 {
            fixed_priority::fully_preemptive::dedicated_uniproc_rta(&rbf, &others, limit)
        } else {
            let tua = fixed_priority::floating_nonpreemptive::TaskUnderAnalysis {
                rbf: &rbf,
                blocking_bound: Service::from(loads[me].blocking_ns),
            };
            fixed_priority::floating_nonpreemptive::dedicated_uniproc_rta(&tua, &others, limit)
        };
        answer.ok().map(|ns| u64::from(ns) + loads[me].jitter_ns)
    };
    (0..loads.len()).map(ask).collect()
}

/// The reference's response times under EDF, without jitter (there it counts deadlines from releases) and blocking.
pub fn reference_edf(loads: &[Load], limit: u64) -> Vec<Option<u64>> {
    let demands: Vec<Demand> = loads.iter().map(|load| demand(load, 0)).collect();
    let ask = |me: usize| {
        let task = |at: usize| edf::fully_preemptive::Task {
            rbf: &demands[at],
            deadline: Duration::from(loads[at].deadline_ns),
        };
        let others: Vec<_> = (0..loads.len()).filter(|other| *other != me).map(task).collect();
        edf::fully_preemptive::dedicated_uniproc_rta(&task(me), &others, Duration::from(limit)).ok().map(u64::from)
    };
    (0..loads.len()).map(ask).collect()
}

/// Jobs with random phases, jitters and execution times until `until_ns`, urgency by task and absolute deadline.
pub fn random_jobs(
    random: &mut Random,
    loads: &[Load],
    until_ns: u64,
    urgency: impl Fn(usize, i128) -> i128,
) -> Vec<pullpiri_rt::simulate::Job> {
    let mut jobs = Vec::new();
    for (task, load) in loads.iter().enumerate() {
        let mut arrival = random.below(load.period_ns);
        // A thread takes its jobs in their order: none is released before the one that arrived before it.
        let mut release = 0;
        while arrival < until_ns {
            let deadline_ns = i128::from(arrival) + i128::from(load.deadline_ns);
            release = (arrival + random.below(load.jitter_ns + 1)).max(release);
            jobs.push(pullpiri_rt::simulate::Job {
                task,
                arrival_ns: arrival.into(),
                release_ns: release,
                deadline_ns,
                work_ns: load.wcet_ns - if random.below(3) == 0 { random.below(load.wcet_ns) } else { 0 },
                urgency: urgency(task, deadline_ns),
            });
            arrival += load.period_ns + if random.below(4) == 0 { random.below(load.period_ns) } else { 0 };
        }
    }
    jobs
}
