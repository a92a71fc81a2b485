//! Analysis time against the reference crate: one line of JSON for each size.
//!
//! `cargo run --release -p pullpiri-rt --example speed`: `{"method", "n", "ours_ns", "theirs_ns", "ratio"}`, each the median of alternating rounds over the
//! same sets, per set. Periods are 1–1000 ms in microseconds, drawn at random; the utilisation is 0.8; both give the response time of every task.

mod support;

use std::hint::black_box;
use std::time::Instant;

use pullpiri_rt::{Budget, Load, fp, spuri};
use support::{FAR, Random, Shape, generate, reference_edf, reference_fp};

/// Alternating rounds, of which the median counts.
const ROUNDS: usize = 9;
const SETS: u64 = 40;
/// As automotive task sets have them (Kramer, Ziegenbein, Hamann, "Real world automotive benchmarks for free", WATERS 2015), in microseconds.
const PERIODS: &[u64] = &[1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 1_000_000];

fn main() {
    for n in [10, 50] {
        let mut random = Random(n);
        let shape = Shape {
            tasks: n,
            utilisation_ppt: 800,
            periods: PERIODS,
            jitter: false,
            blocking: false,
            arbitrary_deadlines: false,
        };
        let sets: Vec<(Vec<Load>, Vec<u8>)> = (0..SETS)
            .map(|_| {
                let mut loads = generate(&mut random, shape);
                loads.sort_by_key(|load| load.deadline_ns);
                let priorities = (0..loads.len()).map(|at| u8::try_from(99 - at).unwrap_or(1)).collect();
                (loads, priorities)
            })
            .collect();
        compare("fixed-priority", n, &sets, fixed_ours, fixed_theirs);
        // The reference's EDF analysis takes some 100 times longer: fewer sets.
        compare("edf", n, sets.get(..8).unwrap_or(&sets), edf_ours, edf_theirs);
    }
}

type Set = (Vec<Load>, Vec<u8>);

fn fixed_ours((loads, priorities): &Set) -> Vec<Option<u64>> {
    fp::response_times(loads, priorities, &mut Budget::default())
        .into_iter()
        .map(|answer| answer.map(|answer| answer.response_ns))
        .collect()
}

fn fixed_theirs((loads, priorities): &Set) -> Vec<Option<u64>> {
    reference_fp(loads, priorities, FAR)
}

fn edf_ours((loads, _): &Set) -> Vec<Option<u64>> {
    spuri::response_times(loads, &mut Budget::default())
        .into_iter()
        .map(|answer| answer.map(|answer| answer.response_ns))
        .collect()
}

fn edf_theirs((loads, _): &Set) -> Vec<Option<u64>> {
    reference_edf(loads, FAR)
}

type Analysis = fn(&Set) -> Vec<Option<u64>>;

fn compare(method: &str, n: u64, sets: &[Set], ours: Analysis, theirs: Analysis) {
    for set in sets {
        assert_eq!(ours(set), theirs(set), "the analyses disagree on {set:?}");
    }
    let (mut our_rounds, mut their_rounds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_rounds.push(time(sets, ours));
        their_rounds.push(time(sets, theirs));
    }
    let (ours_ns, theirs_ns) = (median(our_rounds), median(their_rounds));
    let permille = ours_ns * 1000 / theirs_ns.max(1);
    println!(
        "{{\"method\":\"{method}\",\"n\":{n},\"ours_ns\":{ours_ns},\"theirs_ns\":{theirs_ns},\"ratio\":{}.{:03}}}",
        permille / 1000,
        permille % 1000
    );
}

fn time(sets: &[Set], analysis: Analysis) -> u128 {
    let repeats = 5;
    let start = Instant::now();
    for _ in 0..repeats {
        for set in sets {
            black_box(analysis(black_box(set)));
        }
    }
    start.elapsed().as_nanos() / (repeats * u128::try_from(sets.len()).unwrap_or(1))
}

fn median(mut rounds: Vec<u128>) -> u128 {
    rounds.sort_unstable();
    rounds.get(rounds.len() / 2).copied().unwrap_or(0)
}
