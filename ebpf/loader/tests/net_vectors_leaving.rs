//! Single frames through the programs (BPF_PROG_TEST_RUN): fragments, options, truncated and malformed ones on their way out, from a pod, from the
//! node's own network, by the uplink.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use std::os::unix::fs::MetadataExt;

use net_support::*;
use pullpiri_ebpf::net::{Datapath, DropReason, Hook, Run, RunVerdict};
use vectors::*;

const OUTSIDE: &str = "203.0.113.1";
const OUTSIDE6: &str = "2001:db8:1::1";
const CONTROL: u16 = 7001;

fn four(from: &str, to: &str, (id, fragment): (u16, u16), options: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (v4(from), v4(to));
    ethernet(0, 0x0800, &V4 { source, destination, protocol, tos: 0, options, id, fragment, payload }.bytes())
}

/// With extension headers of 8 bytes each before the last.
fn six(from: &str, to: &str, headers: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, _) in headers.iter().enumerate() {
        // A routing header of type 4 (SRv6, RFC 8754).
        bytes.extend([headers.get(i + 1).copied().unwrap_or(protocol), 0, 4, 0, 0, 0, 0, 0]);
    }
    bytes.extend(payload);
    ethernet(0, 0x86dd, &ipv6(v6(from), v6(to), 0, headers.first().copied().unwrap_or(protocol), 64, &bytes))
}

fn six_fragment(from: &str, to: &str, id: u32, field: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![UDP, 0];
    bytes.extend(field.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    ethernet(0, 0x86dd, &ipv6(v6(from), v6(to), 0, 44, 64, &bytes))
}

/// The first 32 of 56 bytes of a datagram.
fn first_part(port: u16) -> Vec<u8> {
    let mut bytes = udp(9, port, &[0; 24]);
    bytes[4..6].copy_from_slice(&56_u16.to_be_bytes());
    bytes
}

/// Frames that contradict themselves, by what of them does, whoever sends them.
fn malformed(from: &str, to: &str, from6: &str, to6: &str) -> Vec<(&'static str, Vec<u8>)> {
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let good = Flow::new(ip(from), ip(to), TCP, 1, CONTROL).frame();
    let good6 = Flow::new(ip(from6), ip(to6), UDP, 1, CONTROL).frame();
    vec![
        ("version 5", with(&good, 14, &[0x55])),
        ("header of 16 bytes", with(&good, 14, &[0x44])),
        ("header beyond its end", with(&good, 14, &[0x4f])),
        ("shorter than its header", with(&good, 16, &[0, 19])),
        ("TCP header of 16 bytes", with(&good, 14 + 20 + 12, &[0x40])),
        ("SYN and FIN", with(&good, 14 + 20 + 13, &[0x03])),
        ("version 4 as IPv6", with(&good6, 14, &[0x45])),
        ("UDP of 7 bytes", with(&good6, 14 + 40 + 4, &[0, 7])),
        ("too many extension headers", six(from6, to6, &[60; 8], UDP, &udp(1, CONTROL, b"x"))),
        ("hop-by-hop, but not first", six(from6, to6, &[60, 0], UDP, &udp(1, CONTROL, b"x"))),
    ]
}

/// Whole frames of class `control`.
fn whole(from: &str, to: &str, from6: &str, to6: &str, vlan_tags: usize) -> Vec<Vec<u8>> {
    vec![
        Flow::new(ip(from), ip(to), UDP, 1, CONTROL).tagged(vlan_tags),
        Flow::new(ip(from6), ip(to6), UDP, 1, CONTROL).tagged(vlan_tags),
    ]
}

#[test]
fn what_leaves_a_pod_is_whole_and_makes_sense() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    for frame in (0..3).flat_map(|tags| whole(OWN, FRIEND, OWN6, FRIEND6, tags)) {
        assert_eq!(leaves(datapath, &frame), None);
        for length in 14..frame.len() {
            // The kernel itself refuses what is shorter than an IP header.
            if datapath.run(Hook::PodEgress, &frame[..length], 1).is_ok() {
                assert_eq!(leaves(datapath, &frame[..length]), Some(DropReason::Truncated), "{length}");
            } else {
                assert!(length < 14 + 40, "refused at {length}");
            }
        }
    }
    for (what, frame) in malformed(OWN, FRIEND, OWN6, FRIEND6) {
        assert_eq!(leaves(datapath, &frame), Some(DropReason::Malformed), "{what}");
    }
    let denied = Some(DropReason::Denied);
    for words in 0..=10_u16 {
        let options = vec![1; usize::from(words) * 4];
        for (to, expected) in [(FRIEND, None), (STRANGER, denied)] {
            let frame = four(OWN, to, (0, 0), &options, TCP, &tcp(300 + words, 22, 2));
            assert_eq!(leaves(datapath, &frame), expected, "{words} words of options to {to}");
        }
    }
    for (i, headers) in (400_u16..).zip([&[0_u8] as &[u8], &[60], &[43], &[0, 60, 43, 60]]) {
        for (to, expected) in [(FRIEND6, None), (STRANGER6, denied)] {
            let frame = six(OWN6, to, headers, TCP, &tcp(i, 22, 2));
            assert_eq!(leaves(datapath, &frame), expected, "{headers:?} to {to}");
        }
    }
}

#[test]
fn fragments_leave_a_pod_behind_their_first() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let (tail, unknown) = ([0; 24], Some(DropReason::Fragment));
    let part = |to: &str, id: u16, field: u16, bytes: &[u8]| four(OWN, to, (id, field), &[], UDP, bytes);
    assert_eq!(leaves(datapath, &part(OUTSIDE, 1, 4, &tail)), unknown, "before its first");
    assert_eq!(leaves(datapath, &part(OUTSIDE, 1, 0x2000, &first_part(53))), None);
    assert_eq!(leaves(datapath, &part(OUTSIDE, 1, 4, &tail)), None);
    assert_eq!(leaves(datapath, &part(OUTSIDE, 2, 4, &tail)), unknown, "another datagram");
    assert_eq!(leaves(datapath, &part(STRANGER, 3, 0x2000, &first_part(53))), Some(DropReason::Denied));
    assert_eq!(leaves(datapath, &part(STRANGER, 3, 4, &tail)), unknown, "of one that was denied");
    let spoofed = four(FRIEND, OUTSIDE, (1, 4), &[], UDP, &tail);
    assert_eq!(leaves(datapath, &spoofed), Some(DropReason::Spoofed));
    assert_eq!(leaves(datapath, &six_fragment(OWN6, OUTSIDE6, 1, 32, &tail)), unknown);
    assert_eq!(leaves(datapath, &six_fragment(OWN6, OUTSIDE6, 1, 1, &first_part(53))), None);
    assert_eq!(leaves(datapath, &six_fragment(OWN6, OUTSIDE6, 1, 32, &tail)), None);
}

fn by_the_uplink(datapath: &Datapath, frame: &[u8]) -> Run {
    let run = datapath.run(Hook::UplinkEgress, frame, 1).unwrap();
    assert_eq!(run.verdict, RunVerdict::Pass, "classes are no verdict");
    run
}

#[test]
fn the_uplink_classifies_what_it_can_read_and_leaves_the_rest_as_it_is() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let class = |minor: u32| (0x1a << 16) | minor;
    for frame in (0..3).flat_map(|tags| whole(OWN, FRIEND, OWN6, FRIEND6, tags)) {
        assert_eq!(by_the_uplink(datapath, &frame).priority, class(1));
        for length in 14..frame.len() {
            let cut = &frame[..length];
            if datapath.run(Hook::UplinkEgress, cut, 1).is_ok() {
                let run = by_the_uplink(datapath, cut);
                assert_eq!((run.priority, run.packet.as_slice()), (0, cut), "{length}");
            }
        }
    }
    for (what, frame) in malformed(OWN, FRIEND, OWN6, FRIEND6) {
        let run = by_the_uplink(datapath, &frame);
        assert_eq!((run.priority, run.packet == frame), (0, true), "{what}");
    }
    for words in 0..=10 {
        let frame = four(OWN, FRIEND, (0, 0), &vec![1; words * 4], UDP, &udp(1, CONTROL, b"x"));
        let run = by_the_uplink(datapath, &frame);
        assert_eq!((run.priority, run.packet[15] >> 2), (class(1), 46), "{words} words of options");
        assert_eq!(checksum(&run.packet[14..34 + words * 4]), 0, "the checksum holds over {words} words of options");
    }
    for headers in [&[0_u8] as &[u8], &[60], &[43], &[0, 60, 43, 60]] {
        let frame = six(OWN6, FRIEND6, headers, UDP, &udp(1, CONTROL, b"x"));
        assert_eq!(by_the_uplink(datapath, &frame).priority, class(1), "{headers:?}");
    }
    // Ports of a later fragment are known from its first, which the pod's program saw; else the sender alone counts.
    let part = |id: u16, field: u16, bytes: &[u8]| four(OWN, FRIEND, (id, field), &[], UDP, bytes);
    assert_eq!(leaves(datapath, &part(1, 0x2000, &first_part(CONTROL))), None);
    assert_eq!(by_the_uplink(datapath, &part(1, 0x2000, &first_part(CONTROL))).priority, class(1));
    assert_eq!(by_the_uplink(datapath, &part(1, 4, &[0; 24])).priority, class(1));
    assert_eq!(by_the_uplink(datapath, &part(2, 4, &[0; 24])).priority, class(2));
    let part = |id: u32, field: u16, bytes: &[u8]| six_fragment(OWN6, FRIEND6, id, field, bytes);
    assert_eq!(leaves(datapath, &part(1, 1, &first_part(CONTROL))), None);
    assert_eq!(by_the_uplink(datapath, &part(1, 32, &[0; 24])).priority, class(1));
    assert_eq!(by_the_uplink(datapath, &part(2, 32, &[0; 24])).priority, class(2));
}

#[test]
fn neither_options_nor_fragments_hide_where_a_source_comes_from() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    for (what, frame) in [
        ("options", four(OWN, FRIEND, (0, 0), &[1; 40], UDP, &udp(1, 2, b"x"))),
        ("a later fragment", four(OWN, FRIEND, (1, 4), &[], UDP, &[0; 24])),
        ("extension headers", six(OWN6, FRIEND6, &[0, 60, 43], UDP, &udp(1, 2, b"x"))),
        ("a later fragment, v6", six_fragment(OWN6, FRIEND6, 1, 32, &[0; 24])),
    ] {
        assert_eq!(datapath.run(Hook::UplinkIngress, &frame, 1).unwrap().verdict, RunVerdict::Drop, "{what}");
    }
}

/// Of this process, in the version 2 hierarchy.
fn own_cgroup() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
    Some(root.join(path).metadata().ok()?.ino())
}

#[test]
fn workloads_in_the_nodes_network_get_their_class() {
    let Some(mut fixture) = ready() else { return };
    let Some(cgroup) = own_cgroup() else {
        println!("skipped: there is no cgroup v2 hierarchy");
        return;
    };
    let datapath = fixture.get();
    // Whoever isn't known has no class, and is let pass.
    let node = "198.51.100.1";
    let node6 = "2001:db8:2::1";
    let sends = |datapath: &Datapath, frame: &[u8]| {
        let run = datapath.run(Hook::HostEgress, frame, 1).unwrap();
        assert_eq!(run.verdict, RunVerdict::Pass);
        run.priority
    };
    let class = |number: u32| 0x5048 << 16 | number;
    let control = Flow::new(ip(node), ip(OUTSIDE), UDP, 1, CONTROL);
    let control6 = Flow::new(ip(node6), ip(OUTSIDE6), UDP, 1, CONTROL);
    assert_eq!(sends(datapath, &control.frame()), 0);
    datapath.set_run_host(cgroup, "on-host").unwrap();
    let by_dscp = Flow { dscp: 10, ..Flow::new(ip(node), ip(OUTSIDE), TCP, 1, 2) };
    for (what, flow, expected) in [
        ("by port", control, class(1)),
        ("by port, v6", control6, class(1)),
        ("by code point", by_dscp, class(1)),
        ("in no class", Flow::new(ip(node), ip(OUTSIDE), TCP, 1, 2), 0),
        ("another's class", Flow::new(ip(node6), ip(OUTSIDE6), TCP, 1, 2), 0),
    ] {
        assert_eq!(sends(datapath, &flow.frame()), expected, "{what}");
    }
    for words in 0..=10 {
        let frame = four(node, OUTSIDE, (0, 0), &vec![1; words * 4], UDP, &udp(1, CONTROL, b"x"));
        assert_eq!(sends(datapath, &frame), class(1), "{words} words of options");
    }
    for headers in [&[0_u8] as &[u8], &[60], &[43], &[0, 60, 43, 60]] {
        let frame = six(node6, OUTSIDE6, headers, UDP, &udp(1, CONTROL, b"x"));
        assert_eq!(sends(datapath, &frame), class(1), "{headers:?}");
    }
    for frame in whole(node, OUTSIDE, node6, OUTSIDE6, 0) {
        for length in 14..frame.len() {
            let run = datapath.run(Hook::HostEgress, &frame[..length], 1);
            assert!(run.is_err() || sends(datapath, &frame[..length]) == 0, "{length}");
        }
    }
    for (what, frame) in malformed(node, OUTSIDE, node6, OUTSIDE6) {
        assert_eq!(sends(datapath, &frame), 0, "{what}");
    }
    let part = |id: u16, field: u16, bytes: &[u8]| four(node, OUTSIDE, (id, field), &[], UDP, bytes);
    assert_eq!(sends(datapath, &part(1, 4, &[0; 24])), 0, "before its first");
    assert_eq!(sends(datapath, &part(1, 0x2000, &first_part(CONTROL))), class(1));
    assert_eq!(sends(datapath, &part(1, 4, &[0; 24])), class(1));
    assert_eq!(sends(datapath, &six_fragment(node6, OUTSIDE6, 1, 1, &first_part(CONTROL))), class(1));
    assert_eq!(sends(datapath, &six_fragment(node6, OUTSIDE6, 1, 32, &[0; 24])), class(1));
    assert_eq!(sends(datapath, &six_fragment(node6, OUTSIDE6, 2, 32, &[0; 24])), 0);
}
