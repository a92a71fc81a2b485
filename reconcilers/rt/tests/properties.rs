//! What must hold of any task set: against itself, against the reference crate, and against a simulation.

#![allow(clippy::unwrap_used)]

#[path = "../examples/support/mod.rs"]
mod support;

use proptest::prelude::*;
use pullpiri_rt::priorities::{Candidate, assign};
use pullpiri_rt::simulate::{critical_instant, run};
use pullpiri_rt::{Budget, Load, PriorityAssignment, Utilisation, Wcrt, edf, fp, kernel, spuri};
use support::{HARMONIOUS, Random, ends, random_jobs};

fn load(blocking: bool) -> impl Strategy<Value = Load> {
    (prop::sample::select(HARMONIOUS), 1_u64..400, 25_u64..400, 0_u64..3, 0_u64..150, 0_u64..2, 0_u64..50).prop_map(
        move |(period_ns, share, deadline, late, jitter, blocked, block)| Load {
            wcet_ns: (period_ns * share / 1000).max(1),
            period_ns,
            deadline_ns: (period_ns * deadline / 100).max(1),
            jitter_ns: if late == 0 { period_ns * jitter / 100 } else { 0 },
            blocking_ns: if blocking && blocked == 0 { period_ns * block / 100 } else { 0 },
        },
    )
}

fn set(blocking: bool) -> impl Strategy<Value = Vec<Load>> {
    prop::collection::vec(load(blocking), 1..7)
}

/// The first is the most urgent.
fn falling(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from(99 - at).unwrap()).collect()
}

fn fixed(loads: &[Load]) -> Vec<Option<Wcrt>> {
    fp::response_times(loads, &falling(loads.len()), &mut Budget::default())
}

fn earliest(loads: &[Load]) -> Vec<Option<Wcrt>> {
    spuri::response_times(loads, &mut Budget::default())
}

fn ns(answers: &[Option<Wcrt>]) -> Vec<Option<u64>> {
    answers.iter().map(|answer| answer.map(|answer| answer.response_ns)).collect()
}

/// `None` is unbounded, so it is the largest.
fn no_less(left: &[Option<u64>], right: &[Option<u64>]) -> bool {
    left.iter().zip(right).all(|(left, right)| left.unwrap_or(u64::MAX) >= right.unwrap_or(u64::MAX))
}

fn meets(loads: &[Load], answers: &[Option<Wcrt>]) -> bool {
    answers.iter().zip(loads).all(|(answer, load)| answer.is_some_and(|answer| answer.response_ns <= load.deadline_ns))
}

proptest! {
    #[test]
    fn times_scale(loads in set(true), factor in 1_u64..1_000_000) {
        let scaled: Vec<Load> = loads.iter().map(|load| Load {
            wcet_ns: load.wcet_ns * factor,
            period_ns: load.period_ns * factor,
            deadline_ns: load.deadline_ns * factor,
            jitter_ns: load.jitter_ns * factor,
            blocking_ns: load.blocking_ns * factor,
        }).collect();
        let times = |answers: Vec<Option<Wcrt>>| -> Vec<Option<u64>> { ns(&answers).into_iter().map(|ns| ns.map(|ns| ns * factor)).collect() };
        prop_assert_eq!(ns(&fixed(&scaled)), times(fixed(&loads)));
        prop_assert_eq!(ns(&earliest(&scaled)), times(earliest(&loads)));
    }

    #[test]
    fn more_work_never_helps(loads in set(true), which in 0_usize..7, what in 0_u8..4, more in 1_u64..20) {
        let mut harder = loads.clone();
        let which = which % loads.len();
        match what {
            0 => harder[which].wcet_ns += more,
            1 => harder[which].jitter_ns += more,
            2 => harder[which].blocking_ns += more,
            _ => harder[which].period_ns = (harder[which].period_ns - more.min(harder[which].period_ns - 1)).max(1),
        }
        prop_assert!(no_less(&ns(&fixed(&harder)), &ns(&fixed(&loads))));
        prop_assert!(no_less(&ns(&earliest(&harder)), &ns(&earliest(&loads))));
    }

    #[test]
    fn less_urgent_tasks_change_nothing_above(loads in set(true), more in set(true)) {
        let all: Vec<Load> = loads.iter().chain(&more).copied().collect();
        prop_assert_eq!(&ns(&fixed(&all))[..loads.len()], &ns(&fixed(&loads))[..]);
    }

    #[test]
    fn what_fixed_priorities_meet_edf_meets(loads in set(false)) {
        if meets(&loads, &fixed(&loads)) {
            prop_assert_eq!(edf::check(&loads, &mut Budget::default()), edf::Demand::Met);
            prop_assert!(meets(&loads, &earliest(&loads)));
        }
    }

    #[test]
    fn both_edf_methods_agree(loads in set(true)) {
        let demand = edf::check(&loads, &mut Budget::default());
        prop_assert_eq!(demand == edf::Demand::Met, meets(&loads, &earliest(&loads)), "{:?} {:?}", demand, earliest(&loads));
        if let edf::Demand::Exceeded { interval_ns, demand_ns, .. } = demand {
            prop_assert!(demand_ns > interval_ns);
            prop_assert_eq!(edf::demand(&loads, interval_ns), demand_ns);
        }
    }

    #[test]
    fn the_quick_test_is_the_exact_one(loads in set(true), priorities in prop::collection::vec(1_u8..5, 7)) {
        let mut ranked: Vec<fp::Ranked> = loads.iter().zip(priorities).map(|(load, priority)| fp::Ranked { load: *load, priority }).collect();
        ranked.sort_by_key(|task| std::cmp::Reverse(task.priority));
        let loads: Vec<Load> = ranked.iter().map(|task| task.load).collect();
        let exact = meets(&loads, &fp::analyse(&ranked, &mut Budget::default()));
        prop_assert_eq!(fp::meets_all(&ranked, &mut Budget::default()), exact);
    }

    #[test]
    fn closed_bounds_are_no_less_than_exact_ones(loads in set(true)) {
        let none = fp::response_times(&loads, &falling(loads.len()), &mut Budget::new(0));
        prop_assert!(no_less(&ns(&none), &ns(&fixed(&loads))), "{:?} {:?}", none, fixed(&loads));
        let none = spuri::response_times(&loads, &mut Budget::new(0));
        prop_assert!(no_less(&ns(&none), &ns(&earliest(&loads))), "{:?} {:?}", none, earliest(&loads));
        // And what isn't decided isn't accepted.
        if edf::check(&loads, &mut Budget::new(0)) == edf::Demand::Met {
            prop_assert!(meets(&loads, &earliest(&loads)));
        }
    }

    #[test]
    fn the_critical_instant_meets_the_bound(loads in set(false)) {
        prop_assume!(ends(&loads));
        let answers = fixed(&loads);
        let until = answers.iter().flatten().map(|answer| answer.end_ns).max().unwrap_or(0).max(2 * 2520);
        let jobs = critical_instant(&loads, until, 1_000_000, |task, _| i128::try_from(task).unwrap());
        let seen: Vec<Option<u64>> = run(&jobs).responses(&jobs, loads.len()).into_iter().map(Some).collect();
        prop_assert_eq!(seen, ns(&answers));
    }

    #[test]
    fn no_simulation_exceeds_the_bound(loads in set(false), seed in any::<u64>()) {
        prop_assume!(ends(&loads));
        let mut random = Random(seed);
        let by_priority = |task: usize, _: i128| i128::try_from(task).unwrap();
        let by_deadline = |_: usize, deadline: i128| deadline;
        let check = |jobs: Vec<pullpiri_rt::simulate::Job>, bounds: Vec<Option<Wcrt>>| {
            let seen: Vec<Option<u64>> = run(&jobs).responses(&jobs, loads.len()).into_iter().map(Some).collect();
            no_less(&ns(&bounds), &seen)
        };
        prop_assert!(check(random_jobs(&mut random, &loads, 2 * 2520, by_priority), fixed(&loads)));
        prop_assert!(check(random_jobs(&mut random, &loads, 2 * 2520, by_deadline), earliest(&loads)));
        prop_assert!(check(critical_instant(&loads, 2 * 2520, 1_000_000, by_deadline), earliest(&loads)));
    }

    #[test]
    fn no_window_holds_more_than_its_peak(loads in set(false), seed in any::<u64>(), window in 5_u64..500) {
        prop_assume!(ends(&loads));
        let answers = fixed(&loads);
        let responses: Vec<u64> = answers.iter().map(|answer| answer.unwrap().response_ns).collect();
        let all = kernel::peak_of_all_ns(&loads, &responses, window, 0, &mut Budget::default());
        let urgency = |task: usize, _: i128| i128::try_from(task).unwrap();
        for jobs in [critical_instant(&loads, 2520, 1_000_000, urgency), random_jobs(&mut Random(seed), &loads, 2520, urgency)] {
            let trace = run(&jobs);
            for start in trace.slices.iter().flat_map(|slice| [slice.start_ns, slice.end_ns.saturating_sub(window)]) {
                let within = |task: Option<usize>| -> u64 {
                    let slices = trace.slices.iter().filter(|slice| task.is_none_or(|task| task == slice.task));
                    slices.map(|slice| slice.end_ns.min(start + window).saturating_sub(slice.start_ns.max(start))).sum()
                };
                prop_assert!(within(None) <= all, "{} > {all}", within(None));
                for (task, load) in loads.iter().enumerate() {
                    prop_assert!(within(Some(task)) <= kernel::peak_ns(load, responses[task], window));
                }
            }
        }
    }

    #[test]
    fn audsley_finds_an_assignment_where_there_is_one(loads in prop::collection::vec(load(true), 1..5)) {
        let candidates: Vec<Candidate> = loads.iter().map(|load| Candidate { load: *load, fixed: None }).collect();
        let found = assign(&candidates, PriorityAssignment::Optimal, &mut Budget::default());
        let optimal = meets(&loads, &fp::response_times(&loads, &found.priorities, &mut Budget::default()));
        prop_assert!(optimal || !found.proven);
        let exists = orders(loads.len()).into_iter().any(|order| {
            let permuted: Vec<Load> = order.iter().map(|at| loads[*at]).collect();
            meets(&permuted, &fixed(&permuted))
        });
        prop_assert_eq!(optimal, exists);
    }

    #[test]
    fn the_reference_crate_agrees(loads in set(true), priorities in prop::collection::vec(1_u8..6, 7)) {
        prop_assume!(ends(&loads) && Utilisation::at_most_one(loads.iter()));
        let priorities = &priorities[..loads.len()];
        let ours = ns(&fp::response_times(&loads, priorities, &mut Budget::default()));
        prop_assert_eq!(ours, support::reference_fp(&loads, priorities, support::FAR));
        let plain: Vec<Load> = loads.iter().map(|load| Load { jitter_ns: 0, blocking_ns: 0, ..*load }).collect();
        prop_assert_eq!(ns(&earliest(&plain)), support::reference_edf(&plain, support::FAR));
    }

    #[test]
    fn any_numbers_end(numbers in prop::collection::vec((1..=pullpiri_rt::MAX_NS, 1..=pullpiri_rt::MAX_NS, 1..=pullpiri_rt::MAX_NS, 0..=pullpiri_rt::MAX_NS, 0..=pullpiri_rt::MAX_NS), 1..5), shrink in 0_u32..60) {
        let loads: Vec<Load> = numbers.into_iter().map(|(wcet, period_ns, deadline_ns, jitter, blocking)| Load {
            wcet_ns: (wcet >> shrink).max(1),
            period_ns,
            deadline_ns,
            jitter_ns: jitter >> shrink,
            blocking_ns: blocking >> shrink,
        }).collect();
        let budget = || Budget::new(100_000);
        let limited = fp::response_times(&loads, &falling(loads.len()), &mut budget());
        prop_assert!(limited.iter().flatten().all(|answer| answer.response_ns <= pullpiri_rt::MAX_NS));
        let by_deadline = spuri::response_times(&loads, &mut budget());
        if edf::check(&loads, &mut budget()) == edf::Demand::Met {
            prop_assert!(meets(&loads, &by_deadline));
        }
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for order in orders(count - 1) {
        for at in 0..=order.len() {
            let mut longer = order.clone();
            longer.insert(at, count - 1);
            all.push(longer);
        }
    }
    all
}

/// Periods whose hyperperiod has far more than 63 bits, at a utilisation just below 1: the bounded method, and quickly.
#[test]
fn hyperperiods_beyond_63_bits() {
    let primes =
        [999_999_937_u64, 999_999_929, 999_999_893, 999_999_883, 999_999_797, 999_999_761, 999_999_757, 999_999_751];
    let loads: Vec<Load> = primes
        .iter()
        .map(|period| Load {
            wcet_ns: period / 8,
            period_ns: *period,
            deadline_ns: *period,
            jitter_ns: 1000,
            blocking_ns: 10,
        })
        .collect();
    let answers = fixed(&loads);
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
    assert!(earliest(&loads).iter().all(Option::is_some));
    let _ = edf::check(&loads, &mut Budget::default());
}
