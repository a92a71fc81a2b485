//! What goes wrong between the controllers and the API server: everything converges, and nothing is done twice.

use std::time::Duration;

use kube::ResourceExt;
use pullpiri_controllers::lead::Standing;
use pullpiri_crds::ModelInstance;
use pullpiri_e2e::faults::{Faults, Refuse};
use pullpiri_reconcilers::lease::Timing;

use crate::support::{Place, Replica, quick, timing};

/// Turns a package on and off under these faults. Each instance is made once and changed once per turn.
async fn turns(place: &Place, replica: &Replica, faults: Faults, what: &str) {
    place.package(what, &["m1", "m2", "m3"], "Running").await;
    let made = of(&place.until_run(3, true).await);
    replica.proxy.set(faults);
    for (desired, run) in [("Stopped", false), ("Running", true), ("Stopped", false)] {
        place.package(what, &["m1", "m2", "m3"], desired).await;
        place.until_run(3, run).await;
    }
    replica.proxy.heal();
    replica.until_quiet().await;
    let left = place.instances().await;
    assert_eq!(of(&left), made, "{what}: none was made anew");
    for instance in &left {
        assert_eq!(instance.metadata.generation, Some(4), "{what}: made once, changed three times: {instance:#?}");
    }
    place.clear().await;
}

fn of(instances: &[ModelInstance]) -> Vec<(String, Option<String>)> {
    instances.iter().map(|instance| (instance.name_any(), instance.uid())).collect()
}

async fn leader(place: &Place, timing: Timing) -> Replica {
    let mut replica = Replica::start(place, "a", timing).await;
    replica.until_leading().await;
    replica
}

/// The API server goes away for longer than a lease lasts, and comes back.
pub async fn down(place: Place) {
    let mut a = leader(&place, quick()).await;
    place.package("p", &["m1", "m2"], "Running").await;
    let made = of(&place.until_run(2, true).await);
    a.proxy.set(Faults { down: true, ..Faults::default() });
    a.standing.wait_for(|s| matches!(s, Standing::Unknown)).await.unwrap();
    let written = a.works().len();
    place.package("p", &["m1", "m2"], "Stopped").await;
    assert_eq!(a.works().len(), written);
    a.proxy.heal();
    let left = place.until_run(2, false).await;
    assert_eq!(of(&left), made);
    a.stop().await;
}

/// Storms of refusals: too many requests, errors, conflicts. They hit renewals of the lease as well.
pub async fn refusals(place: Place) {
    let a = leader(&place, quick()).await;
    for (what, refuse) in [
        ("busy", Refuse { code: 429, retry_after: Some(1), every: 3 }),
        ("error", Refuse { code: 500, retry_after: None, every: 2 }),
        ("conflict", Refuse { code: 409, retry_after: None, every: 2 }),
    ] {
        turns(&place, &a, Faults { refuse: Some(refuse), ..Faults::default() }, what).await;
    }
    a.stop().await;
}

/// Watches that are cut every second, whose version is gone, whose events are late.
pub async fn watches(place: Place) {
    let a = leader(&place, quick()).await;
    let cut = Some(Duration::from_secs(1));
    turns(&place, &a, Faults { cut_watches: cut, ..Faults::default() }, "cut").await;
    turns(&place, &a, Faults { cut_watches: cut, gone_every: Some(2), ..Faults::default() }, "expired").await;
    turns(&place, &a, Faults { stale: Duration::from_millis(700), ..Faults::default() }, "stale").await;
    a.stop().await;
}

/// Writes that are done and whose answer is lost.
pub async fn answers(place: Place) {
    let a = leader(&place, quick()).await;
    turns(&place, &a, Faults { lose_answer_every: Some(3), ..Faults::default() }, "lost").await;
    a.stop().await;
}

/// Clocks that are an hour early and an hour late: the lease neither wanders nor sticks.
pub async fn clocks(place: Place) {
    let mut a = leader(&place, quick()).await;
    let mut b = Replica::start(&place, "b", quick()).await;
    a.proxy.set(Faults { skew_seconds: -3600, ..Faults::default() });
    b.proxy.set(Faults { skew_seconds: 3600, ..Faults::default() });
    place.package("p", &["m"], "Running").await;
    place.until_run(1, true).await;
    // As long as a lease lasts, told by the renewals.
    let renewals =
        |replica: &Replica| replica.proxy.written().iter().filter(|w| w.is_election() && w.succeeded()).count();
    let before = renewals(&a);
    pullpiri_e2e::wait_for("fifteen more renewals", crate::support::LIMIT, || async {
        if renewals(&a) >= before + 15 { Ok(()) } else { Err(format!("{}", renewals(&a) - before)) }
    })
    .await
    .unwrap();
    assert!(a.leads() && !b.leads());
    assert_eq!(place.transitions().await, 1, "it stayed where it was");
    a.standing.mark_unchanged();
    a.stop().await;
    assert_eq!(b.until_leading().await, 2);
    b.stop().await;
}

/// Answers take five seconds, with the default timing: the lease is kept, and work is done.
pub async fn slow(place: Place) {
    let mut a = leader(&place, timing(15_000, 10_000, 2_000)).await;
    place.package("p", &["m1", "m2"], "Running").await;
    let made = of(&place.until_run(2, true).await);
    a.until_quiet().await;
    a.standing.mark_unchanged();
    a.proxy.set(Faults { delay: Duration::from_secs(5), ..Faults::default() });
    place.package("p", &["m1", "m2"], "Stopped").await;
    place.until_run(2, false).await;
    place.package("p", &["m1", "m2"], "Running").await;
    let left = place.until_run(2, true).await;
    assert_eq!(of(&left), made);
    assert!(!a.standing.has_changed().unwrap(), "the lease was lost on the way");
    a.proxy.heal();
    a.stop().await;
}
