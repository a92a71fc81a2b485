//! Single frames through the programs (BPF_PROG_TEST_RUN): fragments, options, truncated, malformed and random ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use net_support::*;
use pullpiri_ebpf::net::{DropReason, Hook, RunVerdict};
use vectors::*;

fn v4_fragment(id: u16, field: u16, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (v4(STRANGER), v4(OWN));
    ethernet(
        0,
        0x0800,
        &V4 { source, destination, protocol: UDP, tos: 0, options: &[], id, fragment: field, payload }.bytes(),
    )
}

fn v6_fragment(id: u32, field: u16, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend(field.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    ethernet(0, 0x86dd, &ipv6(v6(STRANGER6), v6(OWN6), 0, 44, 64, &bytes))
}

#[test]
fn fragments_follow_their_first() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let datagram = {
        let mut bytes = udp(9, 5000, &[0; 24]);
        bytes[4..6].copy_from_slice(&56u16.to_be_bytes());
        bytes
    };
    let tail = [0; 24];
    let unknown = Some(DropReason::Fragment);
    assert_eq!(enters(datapath, &v4_fragment(1, 4, &tail)), unknown, "before its first");
    assert_eq!(enters(datapath, &v4_fragment(1, 0x2000, &datagram)), None, "the first");
    assert_eq!(enters(datapath, &v4_fragment(1, 4, &tail)), None, "after its first");
    assert_eq!(enters(datapath, &v4_fragment(2, 4, &tail)), unknown, "another datagram");
    let denied = udp(9, 5001, &[0; 24]);
    assert_eq!(enters(datapath, &v4_fragment(3, 0x2000, &denied)), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &v4_fragment(3, 4, &tail)), unknown, "of one that was denied");
    assert_eq!(
        enters(datapath, &v4_fragment(4, 0x2000, &datagram[..6])),
        Some(DropReason::Malformed),
        "too short for ports"
    );
    assert_eq!(enters(datapath, &v4_fragment(1, 8190, &tail)), Some(DropReason::Malformed), "past the largest packet");

    assert_eq!(enters(datapath, &v6_fragment(1, 32, UDP, &tail)), unknown);
    assert_eq!(enters(datapath, &v6_fragment(1, 1, UDP, &datagram)), None);
    assert_eq!(enters(datapath, &v6_fragment(1, 32, UDP, &tail)), None);
    assert_eq!(enters(datapath, &v6_fragment(2, 32, UDP, &tail)), unknown);
    assert_eq!(enters(datapath, &v6_fragment(5, 0, UDP, &udp(9, 5000, b"x"))), None, "an atomic fragment (RFC 6946)");
    assert_eq!(
        enters(datapath, &v6_fragment(6, 1, 60, &[60, 0, 0, 0, 0, 0, 0, 0])),
        Some(DropReason::Malformed),
        "a chain that goes on in the next"
    );
    // The policy changes between two fragments.
    let mut next = policy(2);
    next.rules.retain(|rule| rule.id != 2);
    datapath.apply(&next).unwrap();
    assert_eq!(enters(datapath, &v4_fragment(1, 7, &tail)), Some(DropReason::Denied));
}

#[test]
fn options_and_extension_headers_hide_nothing() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let (source, destination) = (v4(STRANGER), v4(OWN));
    for words in 0..=10 {
        for (port, expected) in [(80, None), (91, Some(DropReason::Denied))] {
            let options = vec![1; words * 4];
            let payload = tcp(u16::try_from(100 + words).unwrap(), port, 2);
            let packet = V4 {
                source,
                destination,
                protocol: TCP,
                tos: 0,
                options: &options,
                id: 0,
                fragment: 0,
                payload: &payload,
            };
            assert_eq!(enters(datapath, &ethernet(0, 0x0800, &packet.bytes())), expected, "{words} words of options");
        }
    }
    let chain = |headers: &[u8], last: &[u8], final_next: u8| {
        let mut bytes = Vec::new();
        for (i, _) in headers.iter().enumerate() {
            let next = headers.get(i + 1).copied().unwrap_or(final_next);
            // 8 bytes; a routing header of type 4 (SRv6, RFC 8754).
            bytes.extend([next, 0, 4, 0, 0, 0, 0, 0]);
        }
        bytes.extend(last);
        let first = headers.first().copied().unwrap_or(final_next);
        ethernet(0, 0x86dd, &ipv6(v6(STRANGER6), v6(OWN6), 0, first, 64, &bytes))
    };
    for (i, headers) in (200u16..).zip([&[0u8] as &[u8], &[60], &[43], &[0, 60, 43, 60], &[0, 43, 60, 60, 60, 60, 60]])
    {
        assert_eq!(enters(datapath, &chain(headers, &tcp(i, 80, 2), TCP)), None, "{headers:?}");
        assert_eq!(enters(datapath, &chain(headers, &tcp(i, 91, 2), TCP)), Some(DropReason::Denied), "{headers:?}");
    }
    let malformed = Some(DropReason::Malformed);
    assert_eq!(enters(datapath, &chain(&[60; 8], &tcp(1, 80, 2), TCP)), malformed, "too many");
    assert_eq!(enters(datapath, &chain(&[60, 0], &tcp(1, 80, 2), TCP)), malformed, "hop-by-hop, but not first");
    let mut source_routed = chain(&[43], &tcp(1, 80, 2), TCP);
    source_routed[14 + 40 + 2] = 0;
    assert_eq!(enters(datapath, &source_routed), malformed, "routing type 0");
    let mut endless = chain(&[60], &tcp(1, 80, 2), TCP);
    endless[14 + 40 + 1] = 200;
    assert_eq!(enters(datapath, &endless), Some(DropReason::Truncated));
    assert_eq!(enters(datapath, &chain(&[], &[0; 8], 59)), Some(DropReason::Denied), "no next header");
}

#[test]
fn truncation_at_every_byte_is_seen() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let whole = [
        Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 2).frame(),
        Flow::new(ip(FRIEND), ip(OWN), UDP, 1, 2).frame(),
        Flow::new(ip(FRIEND), ip(OWN), ICMP, 0, 0).frame(),
        Flow::new(ip(FRIEND6), ip(OWN6), TCP, 1, 2).frame(),
        Flow::new(ip(FRIEND6), ip(OWN6), UDP, 1, 2).tagged(2),
        Flow::new(ip(FRIEND6), ip(OWN6), ICMPV6, 0, 0).tagged(1),
    ];
    for frame in whole {
        assert_eq!(enters(datapath, &frame), None);
        // The kernel takes no frame shorter than an Ethernet header.
        for length in 14..frame.len() {
            let Ok(run) = datapath.run(Hook::PodIngress, &frame[..length], 1) else {
                assert!(length < 14 + 40, "refused at {length}");
                continue;
            };
            assert_eq!(run.verdict, RunVerdict::Drop, "{length} of {}", frame.len());
            assert_eq!(enters(datapath, &frame[..length]), Some(DropReason::Truncated), "{length} of {}", frame.len());
        }
        let mut padded = frame.clone();
        padded.extend([0; 18]);
        assert_eq!(enters(datapath, &padded), None, "padding is no part of it");
    }
    // Headers that end within the padding: the length of the packet itself counts.
    let mut short = Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 2).frame();
    short[16..18].copy_from_slice(&30u16.to_be_bytes());
    assert_eq!(enters(datapath, &short), Some(DropReason::Truncated));
}

#[test]
fn contradictions_are_malformed() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let good = Flow::new(ip(FRIEND), ip(OWN), TCP, 1, 2).frame();
    let good6 = Flow::new(ip(FRIEND6), ip(OWN6), UDP, 1, 2).frame();
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let malformed = Some(DropReason::Malformed);
    for (what, frame, expected) in [
        ("version 5", with(&good, 14, &[0x55]), malformed),
        ("version 6 as IPv4", with(&good, 14, &[0x65]), malformed),
        ("header of 16 bytes", with(&good, 14, &[0x44]), malformed),
        ("header of 0 bytes", with(&good, 14, &[0x40]), malformed),
        ("shorter than its header", with(&good, 16, &[0, 19]), malformed),
        ("of no length", with(&good, 16, &[0, 0]), malformed),
        ("longer than the frame", with(&good, 16, &[1, 0]), Some(DropReason::Truncated)),
        ("header beyond its end", with(&good, 14, &[0x4f]), malformed),
        ("TCP header of 16 bytes", with(&good, 14 + 20 + 12, &[0x40]), malformed),
        ("TCP header beyond its end", with(&good, 14 + 20 + 12, &[0xf0]), Some(DropReason::Truncated)),
        ("SYN and FIN", with(&good, 14 + 20 + 13, &[0x03]), malformed),
        ("SYN and RST", with(&good, 14 + 20 + 13, &[0x06]), malformed),
        ("version 4 as IPv6", with(&good6, 14, &[0x45]), malformed),
        ("v6 longer than the frame", with(&good6, 18, &[1, 0]), Some(DropReason::Truncated)),
        ("a mapped address on the wire", with(&good6, 22, &v4(FRIEND).to_ipv6_mapped().octets()), malformed),
        ("UDP of 7 bytes", with(&good6, 14 + 40 + 4, &[0, 7]), malformed),
        ("UDP beyond its end", with(&good6, 14 + 40 + 4, &[1, 0]), Some(DropReason::Truncated)),
        ("neither IP nor ARP", with(&good, 12, &[0x88, 0xf7]), Some(DropReason::Protocol)),
    ] {
        assert_eq!(enters(datapath, &frame), expected, "{what}");
    }
}

#[test]
fn random_bytes_never_pass_as_something_else() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let mut random = Random(7);
    let whole = Flow::new(ip(STRANGER6), ip(OWN6), TCP, 9, 80).tagged(1);
    for _ in 0..2000 {
        let mut frame = whole.clone();
        for _ in 0..=random.below(3) {
            let at = 14 + random.below(frame.len() - 14);
            frame[at] = u8::try_from(random.below(256)).unwrap();
        }
        frame.truncate(frame.len() - random.below(20));
        for hook in [Hook::PodIngress, Hook::PodEgress] {
            // Whatever it is: one counter says so.
            let _ = outcome(datapath, hook, &frame);
        }
    }
}
