//! Two real nodes, whose runtimes and controllers end and begin under traffic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pullpiri_e2e::pair;

#[test]
fn restarts_of_nodes_and_controllers_lose_no_packet() {
    let folder = tempfile::tempdir().unwrap();
    let outcomes = match pair::run(folder.path(), |pair| pair::restarts(pair, 1)).unwrap() {
        Ok(outcomes) => outcomes,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    assert_eq!(outcomes.len(), 6, "two flows for each ending");
    for (ending, traffic) in &outcomes {
        println!("{ending:?}: {traffic:?}");
    }
    assert!(outcomes.iter().all(|(_, traffic)| traffic.sent > 400 && traffic.lost == 0), "{outcomes:#?}");
}

#[test]
fn what_others_change_of_a_nodes_network_is_put_right_and_told_by_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let told = match pair::run(folder.path(), pair::meddling).unwrap() {
        Ok(told) => told,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let (kind, note) = &told.event;
    assert!(kind == "Warning" && note.contains("10.20.0."), "{told:?}");
    assert!(told.condition.contains("10.20.0."), "{told:?}");
}
