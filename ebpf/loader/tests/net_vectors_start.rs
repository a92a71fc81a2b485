//! Single frames through the programs (BPF_PROG_TEST_RUN): what passes before the first generation, and what becomes of connections that are older.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use net_support::*;
use pullpiri_ebpf::net::{DropReason, Hook, PodPort, RunVerdict};
use vectors::*;

/// Amid a TCP connection.
fn acknowledges(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let payload = tcp(from.1, to.1, 0x10);
    let (source, destination) = (v4(from.0), v4(to.0));
    let packet = V4 { source, destination, protocol: TCP, tos: 0, options: &[], id: 1, fragment: 0, payload: &payload };
    ethernet(0, 0x0800, &packet.bytes())
}

#[test]
fn connections_from_before_the_first_policy_begin_anew_with_who_may_open_them() {
    let Some(mut fixture) = Fixture::new() else { return };
    let datapath = fixture.get();
    datapath.set_run_port(&PodPort { addresses: vec![ip(OWN), ip(OWN6)], mac: Some(MAC_A) }).unwrap();
    datapath.set_run_uplink(0x1a).unwrap();
    let (own, outside, stranger) = ((OWN, 40_000), ("203.0.113.9", 443), (STRANGER, 40_000));
    let (asks, answers) = (acknowledges(own, outside), acknowledges(outside, own));
    // Nothing passes a pod's interface, ARP neither, and nothing is remembered of it.
    for _ in 0..2 {
        assert_eq!(leaves(datapath, &asks), Some(DropReason::NotReady));
        assert_eq!(enters(datapath, &answers), Some(DropReason::NotReady));
        assert_eq!(leaves(datapath, &ethernet(0, 0x0806, &[0; 28])), Some(DropReason::NotReady));
    }
    // The link is the node's own as well.
    assert_eq!(datapath.run(Hook::UplinkIngress, &answers, 1).unwrap().verdict, RunVerdict::Pass);
    assert_eq!((datapath.connections(), datapath.counters().unwrap().connections_opened), (0, 0));
    datapath.apply(&policy(1)).unwrap();
    assert_eq!(enters(datapath, &answers), Some(DropReason::Denied), "nobody knows what it answers");
    assert_eq!(leaves(datapath, &asks), None, "its network may talk to the outside");
    assert_eq!(enters(datapath, &answers), None, "now it does");
    // Opened from elsewhere: by a rule.
    let (asks, answers) = (acknowledges(stranger, (OWN, 85)), acknowledges((OWN, 85), stranger));
    assert_eq!(leaves(datapath, &answers), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &asks), None);
    assert_eq!(leaves(datapath, &answers), None);
}
