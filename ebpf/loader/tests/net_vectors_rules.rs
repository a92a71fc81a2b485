//! Single frames through the programs (BPF_PROG_TEST_RUN): who may enter and leave, by rules, connections and generations.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use net_support::*;
use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::Source;
use pullpiri_ebpf::net::{DropReason, Hook, PodPort, RunVerdict, layout};
use vectors::*;

#[test]
fn before_the_first_generation_nothing_passes() {
    let Some(mut fixture) = Fixture::new() else { return };
    let datapath = fixture.get();
    assert_eq!(datapath.generation().unwrap(), None);
    datapath.set_run_port(&PodPort { addresses: vec![ip(OWN)], mac: None }).unwrap();
    let frame = Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 2).frame();
    assert_eq!(enters(datapath, &frame), Some(DropReason::NotReady));
    datapath.apply(&policy(9)).unwrap();
    assert_eq!(datapath.generation().unwrap(), Some(9));
    assert_eq!(enters(datapath, &frame), None);
}

#[test]
fn who_may_enter() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let denied = Some(DropReason::Denied);
    let table = [
        ("inside of a network", FRIEND, OWN, TCP, 22, None),
        ("inside of a network, v6", FRIEND6, OWN6, UDP, 1, None),
        ("by a rule, first port", STRANGER, OWN, TCP, 80, None),
        ("by a rule, last port", STRANGER6, OWN6, TCP, 90, None),
        ("past its last port", STRANGER, OWN, TCP, 91, denied),
        ("below its first port", STRANGER, OWN, TCP, 79, denied),
        ("another protocol", STRANGER, OWN, UDP, 80, denied),
        ("the other rule", STRANGER, OWN, UDP, 5000, None),
        ("ping without a rule", STRANGER, OWN, ICMP, 0, denied),
        ("from outside by a prefix", "192.0.2.9", OWN, TCP, 443, None),
        ("from outside, another port", "192.0.2.9", OWN, TCP, 444, denied),
        ("from outside of the prefix", "192.0.3.9", OWN, TCP, 443, denied),
        ("from a single address", "198.51.100.9", OWN, 47, 0, None),
        ("from its neighbour", "198.51.100.8", OWN, 47, 0, denied),
        ("ICMP rules are ICMPv6's too", "2001:db8::1", OWN6, ICMPV6, 0, None),
        ("from an address that nobody has", "10.20.0.99", OWN, TCP, 443, Some(DropReason::Vacant)),
        ("from the gateway, ping", "10.20.0.1", OWN, ICMP, 0, None),
        ("from the gateway, else", "10.20.0.1", OWN, TCP, 22, denied),
        ("a published port, from the node", "10.20.0.1", OWN, TCP, 8000, None),
        ("a published port, from outside", "203.0.113.1", OWN, TCP, 8000, None),
        ("a published port isn't for other pods", STRANGER, OWN, TCP, 8000, denied),
        ("to another's address", FRIEND, FRIEND, TCP, 22, Some(DropReason::Destination)),
        ("to multicast", FRIEND, "224.0.0.251", UDP, 5353, Some(DropReason::Scope)),
        ("from multicast", "224.0.0.251", OWN, UDP, 5353, Some(DropReason::Scope)),
        ("from loopback", "127.0.0.1", OWN, UDP, 5353, Some(DropReason::Scope)),
        ("from link-local", "fe80::1", OWN6, UDP, 5353, Some(DropReason::Scope)),
    ];
    for (i, (what, from, to, protocol, port, expected)) in (0u16..).zip(table) {
        for vlan_tags in 0..3 {
            let tags = u16::try_from(vlan_tags).unwrap();
            let flow = Flow::new(ip(from), ip(to), protocol, 20_000 + 3 * i + tags, port);
            assert_eq!(enters(datapath, &flow.tagged(vlan_tags)), expected, "{what}, {vlan_tags} VLAN tags");
        }
    }
    let three = Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 22).tagged(3);
    assert_eq!(enters(datapath, &three), Some(DropReason::Protocol));
    let counters = datapath.counters().unwrap();
    assert_eq!(counters.rules["default/n1/r1"].packets, 6);
    assert_eq!(counters.rules["default/n1/r3"].packets, 3);
    assert_eq!(counters.ports["8080/6"].packets, 6);
    assert_eq!(counters.internal["default/n1"].packets, 6);
    assert!(counters.rules["default/n1/r1"].bytes >= 6 * 54);
}

#[test]
fn who_may_leave() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let table = [
        ("inside of a network", OWN, FRIEND, TCP, 22, None),
        ("to another network without a rule", OWN, STRANGER, TCP, 22, Some(DropReason::Denied)),
        ("to the outside", OWN, "203.0.113.1", TCP, 443, None),
        ("to the outside, v6", OWN6, "2001:db8:1::1", UDP, 53, None),
        ("to its gateway, ping", OWN, "10.20.0.1", ICMP, 0, None),
        ("to its gateway, ping, v6", OWN6, "fd00:20::1", ICMPV6, 0, None),
        ("to its gateway, else", OWN, "10.20.0.1", TCP, 22, Some(DropReason::Denied)),
        ("to its gateway, a published port", OWN, "10.20.0.1", TCP, 8080, None),
        ("that port, v6", OWN6, "fd00:20::1", TCP, 8080, Some(DropReason::Denied)),
        ("to another's gateway", OWN, "10.30.0.1", ICMP, 0, Some(DropReason::Denied)),
        ("to an address that nobody has", OWN, "10.20.0.99", TCP, 22, Some(DropReason::Vacant)),
        ("to multicast", OWN, "239.1.1.1", UDP, 5000, Some(DropReason::Scope)),
        ("to everybody", OWN, "255.255.255.255", UDP, 67, Some(DropReason::Scope)),
        ("from another's address", FRIEND, STRANGER, TCP, 22, Some(DropReason::Spoofed)),
        ("from another's address, v6", FRIEND6, OWN6, TCP, 22, Some(DropReason::Spoofed)),
        ("from outside", "203.0.113.1", FRIEND, TCP, 22, Some(DropReason::Spoofed)),
        ("from link-local", "fe80::5", FRIEND6, TCP, 22, Some(DropReason::Spoofed)),
        ("from nowhere", "0.0.0.0", FRIEND, UDP, 67, Some(DropReason::Spoofed)),
    ];
    for (i, (what, from, to, protocol, port, expected)) in (0u16..).zip(table) {
        let flow = Flow::new(ip(from), ip(to), protocol, 21_000 + i, port);
        for vlan_tags in 0..3 {
            assert_eq!(leaves(datapath, &flow.tagged(vlan_tags)), expected, "{what}, {vlan_tags} VLAN tags");
        }
    }
    let mut forged = Flow::new(ip(OWN), ip(FRIEND), TCP, 1, 2).frame();
    forged[6..12].copy_from_slice(&MAC_B);
    assert_eq!(leaves(datapath, &forged), Some(DropReason::Spoofed), "another's hardware address");
}

#[test]
fn answers_pass_and_nothing_else() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let out = Flow::new(ip(OWN), ip("203.0.113.1"), TCP, 40_000, 443);
    assert_eq!(enters(datapath, &out.reversed().frame()), Some(DropReason::Denied), "an answer before its question");
    assert_eq!(leaves(datapath, &out.frame()), None);
    assert_eq!(enters(datapath, &out.reversed().frame()), None);
    for other in [
        Flow { source_port: 40_001, ..out },
        Flow { destination_port: 444, ..out },
        Flow { destination: ip("203.0.113.2"), ..out },
        Flow { protocol: UDP, ..out },
    ] {
        assert_eq!(enters(datapath, &other.reversed().frame()), Some(DropReason::Denied), "{other:?}");
    }
    let asked = Flow::new(ip(STRANGER), ip(OWN), TCP, 50_000, 80);
    assert_eq!(leaves(datapath, &asked.reversed().frame()), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &asked.frame()), None);
    assert_eq!(leaves(datapath, &asked.reversed().frame()), None);
    let ping = Flow::new(ip(OWN), ip("203.0.113.1"), ICMP, 0, 0);
    assert_eq!(enters(datapath, &ping.reversed().frame()), Some(DropReason::Denied));
    assert_eq!(leaves(datapath, &ping.frame()), None);
    assert_eq!(enters(datapath, &ping.reversed().frame()), None);
    let same_ports = Flow::new(ip(OWN), ip(STRANGER), UDP, 5000, 5000);
    assert_eq!(leaves(datapath, &same_ports.frame()), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &same_ports.reversed().frame()), None, "rule 2, whatever the other way was");
    assert_eq!(leaves(datapath, &same_ports.frame()), None, "an answer now");
}

#[test]
fn a_new_generation_ends_what_it_denies() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let allowed = Flow::new(ip(STRANGER), ip(OWN), TCP, 50_000, 80);
    let ended = Flow::new(ip(STRANGER), ip(OWN), UDP, 50_000, 5000);
    let out = Flow::new(ip(OWN), ip("203.0.113.1"), UDP, 40_000, 53);
    for flow in [allowed, ended] {
        assert_eq!(enters(datapath, &flow.frame()), None);
        assert_eq!(leaves(datapath, &flow.reversed().frame()), None);
    }
    assert_eq!(leaves(datapath, &out.frame()), None);
    let mut next = policy(2);
    next.rules.retain(|rule| rule.id != 2);
    // Numbers mean something within one generation: names stay.
    for rule in &mut next.rules {
        rule.id += 100;
        rule.to += 50;
        if let Source::Identity(from) = &mut rule.from {
            *from += 50;
        }
    }
    for endpoint in &mut next.endpoints {
        endpoint.identity += 50;
    }
    for selector in &mut next.selectors {
        selector.identity = selector.identity.map(|identity| identity + 50);
    }
    let before = datapath.counters().unwrap();
    datapath.apply(&next).unwrap();
    assert_eq!(datapath.generation().unwrap(), Some(2));
    // The answers come first: each direction judges for itself.
    assert_eq!(leaves(datapath, &Flow { ..allowed.reversed() }.frame()), None);
    assert_eq!(enters(datapath, &allowed.frame()), None);
    assert_eq!(leaves(datapath, &ended.reversed().frame()), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &ended.frame()), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &out.reversed().frame()), None);
    let after = datapath.counters().unwrap();
    let r1 = "default/n1/r1";
    assert_eq!(after.rules[r1].packets, before.rules[r1].packets + 1, "counters go on under their names");
    assert!(!after.rules.contains_key("default/n1/r2"));
    assert_eq!(after.connections_reevaluated, before.connections_reevaluated + 2);
    let mut closed = next;
    closed.generation = 3;
    closed.networks[0].egress = Verdict::Deny;
    datapath.apply(&closed).unwrap();
    assert_eq!(enters(datapath, &out.reversed().frame()), Some(DropReason::Denied));
    assert_eq!(leaves(datapath, &out.frame()), Some(DropReason::Outside));
}

#[test]
fn a_policy_that_does_not_fit_leaves_the_old_one() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let mut bad = policy(2);
    bad.selectors[0].class = 99;
    assert!(datapath.apply(&bad).is_err());
    let mut many = policy(2);
    many.rules = (1..=20_000u32).map(|id| rule(id, Source::Identity(12), 10, TCP, 1, 1)).collect();
    let error = datapath.apply(&many).unwrap_err();
    assert!(error.to_string().contains("names of rules"), "{error}");
    assert_eq!(datapath.generation().unwrap(), Some(1));
    assert_eq!(enters(datapath, &Flow::new(ip(STRANGER), ip(OWN), TCP, 1, 80).frame()), None);
}

#[test]
fn sources_must_come_the_way_that_they_can() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    // By another interface than the link to other nodes, which nothing vouches for.
    const OTHER: u32 = 1;
    for (i, (what, from, to, expected)) in (0_u16..).zip([
        ("another node's pod", FRIEND, OWN, Some(DropReason::Spoofed)),
        ("another node's pod, v6", FRIEND6, OWN6, Some(DropReason::Spoofed)),
        ("a pod of this node", OWN, OWN, Some(DropReason::Spoofed)),
        ("the gateway", "10.20.0.1", OWN, Some(DropReason::Spoofed)),
        ("from outside", "192.0.2.9", OWN, None),
    ]) {
        let flow = Flow::new(ip(from), ip(to), TCP, 30_000 + i, 443);
        let before = datapath.counters().unwrap();
        let verdict = datapath.run_from(Hook::PodIngress, &flow.frame(), 1, OTHER).unwrap().verdict;
        let drops = drops_between(&before, &datapath.counters().unwrap());
        assert_eq!(
            (verdict == RunVerdict::Pass, drops.first().map(|(why, _)| *why)),
            (expected.is_none(), expected),
            "{what}"
        );
    }
    // Nor as part of a connection that is open.
    let flow = Flow::new(ip(FRIEND), ip(OWN), TCP, 30_100, 443);
    assert_eq!(enters(datapath, &flow.frame()), None);
    assert_eq!(datapath.run_from(Hook::PodIngress, &flow.frame(), 1, OTHER).unwrap().verdict, RunVerdict::Drop);
}

#[test]
fn a_pod_displaces_only_what_it_opened_itself() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let others = Flow::new(ip("203.0.113.9"), ip(OWN), TCP, 1, 8000);
    // What others open to it counts as well.
    assert_eq!(enters(datapath, &others.frame()), None);
    let first_opened = datapath.counters().unwrap().connections_opened;
    let budget = usize::try_from(layout::BUDGET).unwrap();
    let mut opened = 0;
    'all: for host in 1..=255_u8 {
        for port in 1..=4096_u16 {
            let flow = Flow::new(ip(OWN), ip(&format!("203.0.114.{host}")), UDP, port, 9);
            assert_eq!(datapath.run(Hook::PodEgress, &flow.frame(), 1).unwrap().verdict, RunVerdict::Pass);
            opened += 1;
            if opened == 3 * budget {
                break 'all;
            }
        }
    }
    let counters = datapath.counters().unwrap();
    assert_eq!(counters.connections_opened - first_opened, 3 * u64::from(layout::BUDGET));
    assert_eq!(counters.connections_displaced, 2 * u64::from(layout::BUDGET) + 1);
    assert_eq!(datapath.connections(), budget);
    let newest = Flow::new(ip(OWN), ip("203.0.114.6"), UDP, 4096, 9);
    assert_eq!(enters(datapath, &newest.reversed().frame()), None, "the newest is known");
    let oldest = Flow::new(ip(OWN), ip("203.0.114.1"), UDP, 1, 9);
    assert_eq!(enters(datapath, &oldest.reversed().frame()), Some(DropReason::Denied), "the oldest is forgotten");
    // One that is opened again keeps its place.
    assert_eq!(leaves(datapath, &newest.frame()), None);
    assert_eq!(datapath.counters().unwrap().connections_displaced, counters.connections_displaced);
}
