//! Counters have room for every name that a policy may have; what finds none is counted too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use net_support::*;
use pullpiri_crds::slice::MAX_NAMES;
use pullpiri_ebpf::net::layout::{BucketKey, LAYOUT};
use pullpiri_ebpf::net::policy::{Compiled, Source};
use vectors::*;

/// `policy`, and so many rules more: the stranger may talk to the pod over TCP, to each port from 1 on by a rule of its own.
fn with_rules(generation: u64, prefix: &str, rules: usize) -> Compiled {
    let mut policy = policy(generation);
    policy.rules = (1..=u16::try_from(rules).unwrap())
        .map(|port| {
            let mut rule = rule(port.into(), Source::Identity(12), 10, TCP, port, port);
            rule.name = format!("default/n1/{prefix}{port}");
            rule
        })
        .collect();
    policy
}

/// Names of `policy` beside its rules: two classes, a network, a port.
const BESIDE: usize = 4;

#[test]
fn as_many_names_as_there_may_be_can_all_be_replaced() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let rules = MAX_NAMES - BESIDE;
    datapath.apply(&with_rules(2, "a", rules)).unwrap();
    let kept = datapath.counters().unwrap().passed;
    for (generation, prefix) in [(3, "b"), (4, "c")] {
        datapath.apply(&with_rules(generation, prefix, rules)).unwrap();
        assert_eq!(datapath.generation().unwrap(), Some(generation));
        for port in [1, u16::try_from(rules).unwrap()] {
            let frame = Flow::new(ip(STRANGER), ip(OWN), TCP, 9, port).frame();
            datapath.forget_connections().unwrap();
            assert_eq!(enters(datapath, &frame), None);
            let counters = datapath.counters().unwrap();
            assert_eq!(counters.rules[&format!("default/n1/{prefix}{port}")].packets, 1, "{prefix}{port}");
        }
    }
    let counters = datapath.counters().unwrap();
    assert_eq!((counters.rules.len(), counters.passed, counters.uncounted), (rules, kept + 4, 0));
    // One more is refused, and what was in force stays.
    let error = datapath.apply(&with_rules(5, "d", rules + 1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyTooLarge");
    assert!(error.to_string().contains("16384 names") && error.to_string().contains("16383 fit"), "{error}");
    assert_eq!(datapath.generation().unwrap(), Some(4));
}

#[test]
fn a_round_trip_that_finds_no_room_is_counted() {
    let Some(mut fixture) = ready() else { return };
    let map = fixture.dir.join(format!("maps-{LAYOUT}")).join("pharos_rtt");
    let asks = Flow::new(ip(OWN), ip(FRIEND), UDP, 9, 7001);
    let trip = |fixture: &mut Fixture| {
        let datapath = fixture.get();
        assert_eq!(leaves(datapath, &asks.frame()), None);
        assert_eq!(enters(datapath, &asks.reversed().frame()), None);
        let counters = datapath.counters().unwrap();
        let measured: u64 = counters.round_trips["default/n1/control"].buckets.iter().sum();
        (measured, counters.uncounted)
    };
    assert_eq!(trip(&mut fixture), (1, 0));
    let mut trips: PerCpuHashMap<MapData, BucketKey, u64> =
        Map::PerCpuHashMap(MapData::from_pin(map).unwrap()).try_into().unwrap();
    let none = || PerCpuValues::try_from(vec![0; aya::util::nr_cpus().unwrap()]).unwrap();
    let known: Vec<BucketKey> = trips.keys().map(Result::unwrap).collect();
    for key in known {
        trips.remove(&key).unwrap();
    }
    // Places that nobody has.
    let full = (0..1 << 16).find(|n| trips.insert(BucketKey { counter: 1 << 20, bucket: *n }, none(), 0).is_err());
    assert!(full.is_some());
    assert_eq!(trip(&mut fixture), (0, 1));
}
