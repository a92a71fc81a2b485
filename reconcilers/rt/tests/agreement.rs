//! The analysis against the reference crate `response-time-analysis`, on 10,000 generated sets, and what is accepted against a simulation.

#[path = "../examples/support/agreement.rs"]
mod compared;
#[path = "../examples/support/mod.rs"]
mod support;

#[test]
fn ten_thousand_sets_agree_and_what_is_accepted_meets() {
    let found = compared::compare(10_000);
    assert_eq!((found.agree, found.simulation_misses), (found.sets, 0));
    // Both verdicts are there in number, or nothing would be shown.
    let verdicts = 2 * found.sets;
    assert!((verdicts / 5..verdicts * 4 / 5).contains(&found.accepted), "{} of {verdicts} accepted", found.accepted);
}
