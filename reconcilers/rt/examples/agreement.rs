//! Agreement with the reference crate on generated sets, and simulations of what is accepted: one line of JSON.
//!
//! `cargo run --release -p pullpiri-rt --example agreement [SETS]` (default 10000): `{"sets", "agree", "simulation_misses"}`. The tests
//! (`tests/agreement.rs`) run the same.

#[path = "support/agreement.rs"]
mod compared;
mod support;

fn main() {
    let sets: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let compared::Agreement { sets, agree, simulation_misses, .. } = compared::compare(sets);
    println!("{{\"sets\":{sets},\"agree\":{agree},\"simulation_misses\":{simulation_misses}}}");
}
