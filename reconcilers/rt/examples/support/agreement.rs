//! Agreement with the reference crate on generated sets, and simulations of what is accepted.
//!
//! A set agrees if every response time under fixed priorities (with jitter, blocking, shared priorities, arbitrary deadlines) is the
//! reference's, every one under EDF (without jitter and blocking), and the EDF verdict with jitter is that of the deadlines shortened by it.

use pullpiri_rt::simulate::{critical_instant, run};
use pullpiri_rt::{Budget, Load, edf, fp, spuri};

use crate::support::{FAR, HARMONIOUS, Random, Shape, ends, generate, random_jobs, reference_edf, reference_fp};

pub struct Agreement {
    pub sets: u64,
    pub agree: u64,
    /// Under fixed priorities and under EDF.
    pub accepted: u64,
    /// Of the accepted ones, those that miss in a simulation.
    pub simulation_misses: u64,
}

/// Always the same sets.
pub fn compare(sets: u64) -> Agreement {
    let mut outcome = Agreement { sets, agree: 0, accepted: 0, simulation_misses: 0 };
    let mut random = Random(2026);
    for number in 0..sets {
        let shape = Shape {
            tasks: 1 + random.below(9),
            utilisation_ppt: 300 + random.below(750),
            periods: HARMONIOUS,
            jitter: number % 2 == 0,
            blocking: number % 5 == 0,
            arbitrary_deadlines: number % 3 != 0,
        };
        let loads = generate(&mut random, shape);
        let distinct = number % 4 != 0;
        let priorities: Vec<u8> = (0..loads.len())
            .map(|at| u8::try_from(if distinct { 90 - at } else { 50 - at % 3 }).unwrap_or(1))
            .collect();
        if agrees(&loads, &priorities) {
            outcome.agree += 1;
        } else {
            eprintln!("disagreement on {loads:?} with priorities {priorities:?}");
        }
        let (accepted, misses) = simulate(&mut random, &loads, &priorities);
        outcome.accepted += accepted;
        outcome.simulation_misses += misses;
    }
    outcome
}

fn agrees(loads: &[Load], priorities: &[u8]) -> bool {
    let limit = if ends(loads) { FAR } else { 1_000_000 };
    let ours = fp::response_times(loads, priorities, &mut Budget::default());
    let fixed = ours.iter().zip(reference_fp(loads, priorities, limit)).all(|(ours, theirs)| {
        // Where the busy window never ends only we have an answer.
        ours.map(|ours| ours.response_ns) == theirs || (!ends(loads) && theirs.is_none())
    });
    let plain: Vec<Load> = loads.iter().map(|load| Load { jitter_ns: 0, blocking_ns: 0, ..*load }).collect();
    let ours = spuri::response_times(&plain, &mut Budget::default());
    let limit = if ends(&plain) { FAR } else { 1_000_000 };
    let theirs = reference_edf(&plain, limit);
    let edf = ours
        .iter()
        .zip(&theirs)
        .all(|(ours, theirs)| ours.map(|ours| ours.response_ns) == *theirs || (!ends(&plain) && theirs.is_none()));
    let met = ours.iter().zip(&plain).all(|(ours, load)| ours.is_some_and(|ours| ours.response_ns <= load.deadline_ns));
    let verdict = (edf::check(&plain, &mut Budget::default()) == edf::Demand::Met) == met;
    fixed && edf && verdict && jitter_is_a_shorter_deadline(loads)
}

/// With jitter: met exactly if the reference meets D − J without it.
fn jitter_is_a_shorter_deadline(loads: &[Load]) -> bool {
    let late: Vec<Load> = loads.iter().map(|load| Load { blocking_ns: 0, ..*load }).collect();
    let met = edf::check(&late, &mut Budget::default()) == edf::Demand::Met;
    let responses = spuri::response_times(&late, &mut Budget::default());
    let by_response =
        responses.iter().zip(&late).all(|(ours, load)| ours.is_some_and(|ours| ours.response_ns <= load.deadline_ns));
    if met != by_response {
        return false;
    }
    if late.iter().any(|load| load.deadline_ns <= load.jitter_ns) {
        return !met;
    }
    let shorter: Vec<Load> = late
        .iter()
        .map(|load| Load { deadline_ns: load.deadline_ns - load.jitter_ns, jitter_ns: 0, ..*load })
        .collect();
    if !ends(&shorter) {
        return true;
    }
    let theirs = reference_edf(&shorter, FAR);
    met == theirs.iter().zip(&shorter).all(|(theirs, load)| theirs.is_some_and(|ns| ns <= load.deadline_ns))
}

/// How often a set is accepted, and how often it misses then in a simulation over two hyperperiods: from the critical instant, and with random
/// phases, jitters and execution times.
fn simulate(random: &mut Random, loads: &[Load], priorities: &[u8]) -> (u64, u64) {
    let loads: Vec<Load> = loads.iter().map(|load| Load { blocking_ns: 0, ..*load }).collect();
    let until = 2 * 2520;
    let accepted = |answers: Vec<Option<pullpiri_rt::Wcrt>>| {
        answers
            .iter()
            .zip(&loads)
            .all(|(answer, load)| answer.is_some_and(|answer| answer.response_ns <= load.deadline_ns))
    };
    let missed = |jobs: &[pullpiri_rt::simulate::Job]| {
        let trace = run(jobs);
        jobs.iter().zip(&trace.ends).any(|(job, end)| i128::from(*end) > job.deadline_ns)
    };
    let by_priority = |task: usize, _: i128| -i128::from(priorities.get(task).copied().unwrap_or(0));
    let by_deadline = |_: usize, deadline: i128| deadline;
    let (mut times_accepted, mut misses) = (0, 0);
    if accepted(fp::response_times(&loads, priorities, &mut Budget::default())) {
        let worst = missed(&critical_instant(&loads, until, 100_000, by_priority));
        let any = missed(&random_jobs(random, &loads, until, by_priority));
        times_accepted += 1;
        misses += u64::from(worst || any);
    }
    if accepted(spuri::response_times(&loads, &mut Budget::default())) {
        let worst = missed(&critical_instant(&loads, until, 100_000, by_deadline));
        let any = missed(&random_jobs(random, &loads, until, by_deadline));
        times_accepted += 1;
        misses += u64::from(worst || any);
    }
    (times_accepted, misses)
}
