//! The verifier's count of instructions for each program, against the table in docs/ebpf.md.
//!
//! The count is the verifier's measure of complexity and of loading time; a million is the limit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/verifier.rs"]
mod verifier;

use net_support::Fixture;

#[test]
fn programs_cost_what_is_recorded() {
    let Some(mut fixture) = Fixture::new() else { return };
    let measured = fixture.get().verified_instructions().unwrap();
    if measured.values().all(|count| *count == 0) {
        println!("skipped: this kernel doesn't count (before 5.16)");
        return;
    }
    verifier::compare("pharos", measured);
}
