//! A seeded simulation of the whole control plane: an API server, caches that lag behind it, controllers that crash between any two
//! writes, nodes, a garbage collector and a person who edits. The clock is virtual.
//!
//! After every step the invariants hold; once the person rests, everything settles to what was asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod simulation;
mod world;

use pullpiri_crds::package::PackageState;
use simulation::Simulation;

/// Steps of a run.
const STEPS: usize = 160;

#[test]
fn many_seeds_keep_the_invariants_and_settle() {
    let mut outcomes = std::collections::BTreeMap::new();
    let mut refusals = std::collections::BTreeMap::new();
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        *outcomes.entry(simulation.settle()).or_insert(0) += 1;
        for reason in simulation.refusals() {
            *refusals.entry(reason).or_insert(0) += 1;
        }
    }
    // The runs end in every way there is, or they would prove little.
    for state in [PackageState::Idle, PackageState::Running, PackageState::Paused] {
        assert!(outcomes.get(&Some(state)).is_some_and(|&n| n > 10), "{outcomes:?}");
    }
    for reason in ["NotSchedulable", "PoolExhausted"] {
        assert!(refusals.get(reason).is_some_and(|&n| n > 10), "{refusals:?}");
    }
}

#[test]
fn transcripts() {
    for seed in [7, 11, 42] {
        let mut simulation = Simulation::new(seed);
        for _ in 0..40 {
            simulation.step();
        }
        simulation.settle();
        insta::assert_snapshot!(format!("seed_{seed}"), simulation.transcript());
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let run = |seed| {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.transcript().to_owned()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
