//! Nothing acknowledged is lost when the power goes, or the process is killed. `make bench` runs the same for longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let cuts =
        std::env::var("PULLPIRI_POWER_CUTS").map_or(150, |cuts| cuts.parse().expect("PULLPIRI_POWER_CUTS is a number"));
    let summary = pullpiri_store::powercut::run(cuts, 7).unwrap();
    assert_eq!(summary.cuts, cuts);
    if cuts >= 100 {
        // Otherwise the simulation doesn't simulate.
        assert!(summary.acknowledged > cuts, "{summary:?}");
        assert!(summary.unacknowledged_kept > 0 && summary.most_unsynced > 20, "{summary:?}");
    }
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let mut binary: PathBuf = std::env::current_exe().unwrap();
    binary.pop();
    binary.pop();
    binary.push("examples/kill9");
    if !binary.exists() {
        println!("skipped: {} is not built (cargo test without --test builds it)", binary.display());
        return;
    }
    let output = Command::new(binary).arg("10").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"value\":10"));
}
