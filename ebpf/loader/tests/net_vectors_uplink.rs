//! Single frames through the programs (BPF_PROG_TEST_RUN): classes and code points of what leaves, sources of what arrives.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use net_support::*;
use pullpiri_ebpf::net::{DropReason, Hook, RunVerdict};
use vectors::*;

#[test]
fn the_uplink_gets_the_class() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let class = |flow: &Flow| datapath.run(Hook::UplinkEgress, &flow.frame(), 1).unwrap();
    let classid = |minor: u32| (0x1a << 16) | minor;
    let bulk = Flow::new(ip(OWN), ip(FRIEND), TCP, 1, 2);
    let friend = Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 2);
    let marked = |flow: &Flow, dscp| Flow { dscp, ..*flow };
    for (what, flow, expected) in [
        ("by identity", bulk, classid(2)),
        ("by destination port", Flow::new(ip(OWN), ip(FRIEND), UDP, 1, 7001), classid(1)),
        ("by source port", Flow::new(ip(FRIEND6), ip(OWN6), UDP, 7001, 9), classid(1)),
        ("by code point, before identity", marked(&bulk, 10), classid(1)),
        ("another protocol", Flow::new(ip(OWN), ip(FRIEND), TCP, 1, 7001), classid(2)),
        ("another sender", friend, 0),
        ("another code point", marked(&friend, 11), 0),
        ("of another network", Flow::new(ip(STRANGER), ip(OWN), UDP, 1, 7001), 0),
        ("of nobody", Flow::new(ip("203.0.113.1"), ip(OWN), UDP, 1, 7001), 0),
    ] {
        let run = class(&flow);
        assert_eq!((run.verdict, run.priority), (RunVerdict::Pass, expected), "{what}");
    }
    let counters = datapath.counters().unwrap();
    assert_eq!(counters.classes["default/n1/control"].packets, 3);
    assert_eq!(counters.classes["default/n1/bulk"].packets, 2);
    assert_eq!(counters.other.packets, 4);
}

#[test]
fn the_uplink_sets_code_points() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    for vlan_tags in 0..3 {
        let l3 = 14 + 4 * vlan_tags;
        let flow = Flow::new(ip(OWN), ip(FRIEND), UDP, 1, 7001);
        let mut frame = flow.tagged(vlan_tags);
        // ECN is the network's.
        frame[l3 + 1] |= 1;
        frame[l3 + 10..l3 + 12].copy_from_slice(&[0, 0]);
        let sum = checksum(&frame[l3..l3 + 20]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        let after = datapath.run(Hook::UplinkEgress, &frame, 1).unwrap().packet;
        assert_eq!(after[l3 + 1], (46 << 2) | 1);
        assert_eq!(checksum(&after[l3..l3 + 20]), 0, "the checksum holds");
        assert_eq!(after[l3 + 12..], frame[l3 + 12..]);
        let flow6 = Flow::new(ip(OWN6), ip(FRIEND6), UDP, 1, 7001);
        let before6 = flow6.tagged(vlan_tags);
        let after6 = datapath.run(Hook::UplinkEgress, &before6, 1).unwrap().packet;
        let word = u32::from_be_bytes(after6[l3..l3 + 4].try_into().unwrap());
        assert_eq!((word >> 28, (word >> 22) & 63, (word >> 20) & 3, word & 0xf_ffff), (6, 46, 0, 0));
        assert_eq!(after6[l3 + 4..], before6[l3 + 4..]);
    }
    let bulk = Flow { dscp: 3, ..Flow::new(ip(OWN), ip(FRIEND), TCP, 1, 2) };
    let frame = bulk.frame();
    assert_eq!(datapath.run(Hook::UplinkEgress, &frame, 1).unwrap().packet, frame, "a class without one leaves it");
}

#[test]
fn the_link_brings_no_address_of_this_node() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    for (what, from, to, expected) in [
        ("this node's pod", OWN, FRIEND, Some(DropReason::Spoofed)),
        ("this node's pod, v6", OWN6, FRIEND6, Some(DropReason::Spoofed)),
        ("to the node itself", OWN, "198.51.100.1", Some(DropReason::Spoofed)),
        ("the gateway", "10.20.0.1", OWN, Some(DropReason::Spoofed)),
        ("the gateway, v6", "fd00:20::1", OWN6, Some(DropReason::Spoofed)),
        ("outside", "192.0.2.9", OWN, None),
        ("outside, v6", "2001:db8::1", OWN6, None),
    ] {
        for vlan_tags in 0..3 {
            let frame = Flow::new(ip(from), ip(to), UDP, 1, 2).tagged(vlan_tags);
            let before = datapath.counters().unwrap();
            let verdict = datapath.run(Hook::UplinkIngress, &frame, 1).unwrap().verdict;
            let drops = drops_between(&before, &datapath.counters().unwrap());
            let seen = (verdict == RunVerdict::Pass, drops.first().map(|(why, _)| *why));
            assert_eq!(seen, (expected.is_none(), expected), "{what}, {vlan_tags} VLAN tags");
        }
    }
    // What isn't IP, or isn't whole behind its addresses, is the stack's to judge, or the pod's program's.
    let whole = Flow::new(ip("192.0.2.9"), ip(OWN), UDP, 1, 2).frame();
    let arp = ethernet(0, 0x0806, &[0; 28]);
    for frame in [&whole[..34], &arp[..]] {
        assert_eq!(datapath.run(Hook::UplinkIngress, frame, 1).unwrap().verdict, RunVerdict::Pass);
    }
}
