//! Who acts, and what a change of hands costs.

use std::time::Duration;

use kube::ResourceExt;
use pullpiri_controllers::lead::Standing;
use pullpiri_e2e::wait_for;

use crate::support::{Place, Plane, Replica, quick, timing};

/// A lease that is given back is taken at once, and everything goes on under the next epoch.
pub async fn handed_over(place: Place) {
    // Nobody would wait that long.
    let timing = timing(60_000, 40_000, 500);
    let mut a = Replica::start(&place, "a", timing).await;
    assert_eq!(a.until_leading().await, 1);
    place.package("p", &["m1", "m2"], "Running").await;
    let before = place.until_run(2, true).await;
    assert!(before.iter().all(|i| i.spec.epoch == 1));
    let mut b = Replica::start(&place, "b", timing).await;
    b.standing.wait_for(|s| matches!(s, Standing::Following { holder, .. } if holder == "a")).await.unwrap();
    assert!(b.works().is_empty(), "a follower writes nothing: {:?}", b.works());
    a.stop().await;
    assert_eq!(b.until_leading().await, 2);
    // What it keeps carries its epoch, and is what it was.
    let after = place.until("every instance carries epoch 2", |all| all.iter().all(|i| i.spec.epoch == 2)).await;
    let uids = |all: &[pullpiri_crds::ModelInstance]| all.iter().map(|i| (i.name_any(), i.uid())).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after));
    assert!(after.iter().all(|i| i.metadata.generation == Some(2)), "one change each: the epoch");
    place.package("p", &["m1", "m2"], "Stopped").await;
    place.until_run(2, false).await;
    b.stop().await;
    assert_eq!(place.holder().await, "", "given back");
}

/// A holder that is gone without a word is waited for; nobody acts twice, nobody acts in between.
pub async fn runs_out(place: Place) {
    let mut a = Replica::start(&place, "a", quick()).await;
    let mut b = Replica::start(&place, "b", quick()).await;
    let (a_leads, b_leads) = {
        let (mut first, mut second) = (a.standing.clone(), b.standing.clone());
        tokio::select! {
            _ = first.wait_for(|s| matches!(s, Standing::Leading { .. })) => (true, false),
            _ = second.wait_for(|s| matches!(s, Standing::Leading { .. })) => (false, true),
        }
    };
    assert!(a_leads != b_leads);
    let (leader, follower) = if a_leads { (&mut a, &mut b) } else { (&mut b, &mut a) };
    place.package("p", &["m"], "Running").await;
    place.until_run(1, true).await;
    let epoch = i64::from(place.transitions().await);
    // It is cut off: it stops acting by itself, before the other begins.
    leader.proxy.set(pullpiri_e2e::faults::Faults { down: true, ..Default::default() });
    leader.standing.wait_for(|s| !matches!(s, Standing::Leading { .. })).await.unwrap();
    assert!(!follower.leads(), "both at the same time");
    place.package("p", &["m"], "Stopped").await;
    assert_eq!(follower.until_leading().await, epoch + 1);
    place.until_run(1, false).await;
    let last = leader.works().last().map(|w| w.at);
    let first = follower.works().first().map(|w| w.at);
    assert!(last < first, "the old one wrote after the new one began");
    leader.proxy.heal();
    leader.standing.wait_for(|s| matches!(s, Standing::Following { .. })).await.unwrap();
    a.stop().await;
    b.stop().await;
}

/// Somebody removes the Lease: epochs go on from what instances carry.
pub async fn made_anew(place: Place) {
    let mut a = Replica::start(&place, "a", quick()).await;
    a.until_leading().await;
    place.package("p", &["m"], "Running").await;
    let one = place.until_run(1, true).await;
    assert_eq!(one[0].spec.epoch, 1);
    a.stop().await;
    let mut b = Replica::start(&place, "b", quick()).await;
    assert_eq!(b.until_leading().await, 2);
    place.until("epoch 2", |all| all.iter().all(|i| i.spec.epoch == 2)).await;
    b.stop().await;
    place.remove_lease().await;
    let mut c = Replica::start(&place, "c", quick()).await;
    assert_eq!(c.until_leading().await, 1, "a new Lease begins at 1 …");
    let seen = place.until("… but epochs don't fall", |all| all.iter().all(|i| i.spec.epoch == 3)).await;
    assert_eq!(seen[0].uid(), one[0].uid());
    assert_eq!(place.transitions().await, 3);
    // Removed under its holder: it stops acting, and comes back under a higher epoch.
    place.remove_lease().await;
    wait_for("the Lease is there again", crate::support::LIMIT, || async {
        let transitions = place.transitions().await;
        if transitions >= 4 { Ok(()) } else { Err(format!("transitions {transitions}")) }
    })
    .await
    .unwrap();
    place.until("a higher epoch", |all| all.iter().all(|i| i.spec.epoch >= 4)).await;
    c.stop().await;
}

/// When nothing changes, nothing is written but the Lease, and nothing is asked.
pub async fn quiet(place: Place) {
    let mut a = Replica::start(&place, "a", quick()).await;
    a.until_leading().await;
    place.package("p", &["m1", "m2", "m3"], "Running").await;
    place.until_run(3, true).await;
    a.until_quiet().await;
    let (works, reads) = (a.works().len(), a.proxy.reads());
    let renewals = a.proxy.written().iter().filter(|w| w.is_election()).count();
    // Several retry periods, by the renewals that are counted.
    wait_for("ten more renewals", crate::support::LIMIT, || async {
        let now = a.proxy.written().iter().filter(|w| w.is_election()).count();
        if now >= renewals + 10 { Ok(()) } else { Err(format!("{}", now - renewals)) }
    })
    .await
    .unwrap();
    assert_eq!(a.works().len(), works, "{:?}", a.works().split_off(works));
    // Virtual signals aren't served by every API server: asking for them again is the one read that may come.
    assert!(a.proxy.reads() - reads <= 4, "{} reads", a.proxy.reads() - reads);
    tokio::time::timeout(Duration::from_secs(10), a.stop()).await.unwrap();
}

/// The controllers' own user, with its roles and no more, in the namespace where the Lease is by default: elected, working, given back, taken.
pub async fn least_privilege(plane: &Plane) {
    let namespace = pullpiri_crds::names::CONTROLLERS_LEASE_NAMESPACE.to_owned();
    let place = Place { admin: plane.admin.clone(), namespace };
    let restricted = Place { admin: plane.controllers().unwrap(), ..place.clone() };
    let mut a = Replica::start(&restricted, "a", quick()).await;
    a.until_leading().await;
    place.package("p", &["m1", "m2"], "Running").await;
    place.until_run(2, true).await;
    let mut b = Replica::start(&restricted, "b", quick()).await;
    b.standing.wait_for(|s| matches!(s, Standing::Following { .. })).await.unwrap();
    a.stop().await;
    b.until_leading().await;
    place.until("every instance carries epoch 2", |all| all.iter().all(|i| i.spec.epoch == 2)).await;
    let refused = b.proxy.written().into_iter().find(|w| w.status == 403);
    assert!(refused.is_none(), "{refused:?}");
    b.stop().await;
}
