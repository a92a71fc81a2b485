//! Single frames through the programs (BPF_PROG_TEST_RUN): well-formed, unusual and malformed ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;

use std::net::IpAddr;

use net_support::*;
use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Class, Compiled, Endpoint, Network, Place, PublishedPort, Rule, Selector, Source};
use pullpiri_ebpf::net::{Datapath, DropReason, Hook, PodPort, RunVerdict};

const OWN: &str = "10.20.0.5";
const OWN6: &str = "fd00:20::5";
const FRIEND: &str = "10.20.0.6";
const FRIEND6: &str = "fd00:20::6";
const STRANGER: &str = "10.30.0.7";
const STRANGER6: &str = "fd00:30::7";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(id: u16, third: u16, internal: Verdict, egress: Verdict) -> Network {
    Network {
        id,
        name: format!("default/n{id}"),
        subnets: vec![format!("10.{third}.0.0/24").parse().unwrap(), format!("fd00:{third}::/64").parse().unwrap()],
        gateways: vec![ip(&format!("10.{third}.0.1")), ip(&format!("fd00:{third}::1"))],
        internal,
        egress,
    }
}

fn endpoint(name: &str, network: u16, identity: u32, addresses: &[&str], place: Place) -> Endpoint {
    Endpoint {
        instance: format!("default/{name}"),
        uid: name.to_owned(),
        network,
        identity,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        place,
    }
}

fn rule(id: u32, from: Source, to: u32, protocol: u8, first_port: u16, last_port: u16) -> Rule {
    Rule { id, name: format!("default/n1/r{id}"), from, to, protocol, first_port, last_port }
}

/// Two pods of one network that may talk, one of another that may only by rules.
fn policy(generation: u64) -> Compiled {
    Compiled {
        generation,
        networks: vec![network(1, 20, Verdict::Allow, Verdict::Allow), network(2, 30, Verdict::Deny, Verdict::Deny)],
        endpoints: vec![
            endpoint("own", 1, 10, &[OWN, OWN6], Place::Here),
            endpoint("friend", 1, 11, &[FRIEND, FRIEND6], Place::Elsewhere),
            endpoint("stranger", 2, 12, &[STRANGER, STRANGER6], Place::Elsewhere),
            endpoint("on-host", 1, 13, &[], Place::Here),
        ],
        rules: vec![
            rule(1, Source::Identity(12), 10, TCP, 80, 90),
            rule(2, Source::Identity(12), 10, UDP, 5000, 5000),
            rule(3, Source::Outside("192.0.2.0/24".parse().unwrap()), 10, TCP, 443, 443),
            rule(4, Source::Outside("198.51.100.9/32".parse().unwrap()), 10, 0, 0, 65535),
            rule(5, Source::Outside("2001:db8::/32".parse().unwrap()), 10, ICMP, 0, 65535),
        ],
        classes: vec![
            Class { id: 1, name: "default/n1/control".into(), dscp: Some(46) },
            Class { id: 2, name: "default/n1/bulk".into(), dscp: None },
        ],
        selectors: vec![
            Selector { class: 1, network: 1, identity: None, protocol: Some(UDP), port: Some(7001), dscp: None },
            Selector { class: 1, network: 1, identity: None, protocol: None, port: None, dscp: Some(10) },
            Selector { class: 2, network: 1, identity: Some(10), protocol: None, port: None, dscp: None },
        ],
        ports: vec![PublishedPort { host_port: 8080, protocol: TCP, address: ip(OWN), target_port: 8000 }],
    }
}

fn ready() -> Option<Fixture> {
    let mut fixture = Fixture::new()?;
    let datapath = fixture.get();
    datapath.apply(&policy(1)).unwrap();
    datapath.set_run_port(&PodPort { addresses: vec![ip(OWN), ip(OWN6)], mac: Some(MAC_A) }).unwrap();
    datapath.set_run_uplink(0x1a).unwrap();
    Some(fixture)
}

/// `None`: passed; else why it was dropped, by the one counter that rose.
fn outcome(datapath: &Datapath, hook: Hook, frame: &[u8]) -> Option<DropReason> {
    let before = datapath.counters().unwrap();
    let run = datapath.run(hook, frame, 1).unwrap();
    let after = datapath.counters().unwrap();
    let drops = drops_between(&before, &after);
    match run.verdict {
        RunVerdict::Pass => {
            assert_eq!((drops.as_slice(), after.passed), ([].as_slice(), before.passed + 1));
            None
        }
        RunVerdict::Drop => {
            let [(reason, 1)] = drops.as_slice() else { panic!("a drop that counted {drops:?}") };
            assert_eq!(after.passed, before.passed);
            Some(*reason)
        }
    }
}

fn enters(datapath: &Datapath, frame: &[u8]) -> Option<DropReason> {
    outcome(datapath, Hook::PodIngress, frame)
}

fn leaves(datapath: &Datapath, frame: &[u8]) -> Option<DropReason> {
    outcome(datapath, Hook::PodEgress, frame)
}

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

fn arp(operation: u16, sender_mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender_mac);
    bytes.extend(v4(sender).octets());
    bytes.extend([0; 6]);
    bytes.extend(v4(target).octets());
    ethernet(0, 0x0806, &bytes)
}

#[test]
fn arp_is_about_oneself() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    assert_eq!(leaves(datapath, &arp(1, MAC_A, OWN, FRIEND)), None);
    assert_eq!(leaves(datapath, &arp(2, MAC_A, OWN, FRIEND)), None);
    assert_eq!(leaves(datapath, &arp(1, MAC_A, "0.0.0.0", OWN)), None, "a probe");
    assert_eq!(leaves(datapath, &arp(2, MAC_A, "10.20.0.1", FRIEND)), Some(DropReason::Neighbour), "as the gateway");
    assert_eq!(leaves(datapath, &arp(2, MAC_B, OWN, FRIEND)), Some(DropReason::Neighbour), "another's hardware");
    assert_eq!(leaves(datapath, &arp(3, MAC_A, OWN, FRIEND)), Some(DropReason::Malformed), "RARP");
    assert_eq!(enters(datapath, &arp(1, MAC_A, FRIEND, OWN)), None);
    let frame = arp(1, MAC_A, OWN, FRIEND);
    for length in 14..frame.len() {
        assert_eq!(leaves(datapath, &frame[..length]), Some(DropReason::Truncated), "{length}");
    }
}

#[test]
fn neighbour_discovery_is_about_oneself() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let message = |kind: u8, source: &str, destination: &str, target: &str, hop_limit: u8| {
        let mut rest = vec![0; 4];
        rest.extend(v6(target).octets());
        let bytes = ipv6(v6(source), v6(destination), 0, ICMPV6, hop_limit, &icmp(kind, 0, &rest));
        ethernet(0, 0x86dd, &bytes)
    };
    let neighbour = Some(DropReason::Neighbour);
    assert_eq!(leaves(datapath, &message(135, OWN6, "ff02::1:ff00:6", FRIEND6, 255)), None, "solicitation");
    assert_eq!(leaves(datapath, &message(135, "::", "ff02::1:ff00:5", OWN6, 255)), None, "duplicate address detection");
    assert_eq!(leaves(datapath, &message(135, "fe80::5", "ff02::1:ff00:6", FRIEND6, 255)), None);
    assert_eq!(leaves(datapath, &message(136, OWN6, FRIEND6, OWN6, 255)), None, "advertisement");
    assert_eq!(leaves(datapath, &message(136, OWN6, FRIEND6, "fd00:20::1", 255)), neighbour, "as the gateway");
    assert_eq!(leaves(datapath, &message(136, FRIEND6, OWN6, OWN6, 255)), Some(DropReason::Spoofed));
    assert_eq!(leaves(datapath, &message(135, OWN6, "ff02::1:ff00:6", FRIEND6, 64)), neighbour, "from afar");
    assert_eq!(leaves(datapath, &message(135, OWN6, STRANGER6, FRIEND6, 255)), neighbour, "to another link");
    assert_eq!(leaves(datapath, &message(133, "fe80::5", "ff02::2", "::", 255)), None, "router solicitation");
    assert_eq!(leaves(datapath, &message(134, "fe80::5", "ff02::1", "::", 255)), neighbour, "a pod is no router");
    assert_eq!(leaves(datapath, &message(137, OWN6, FRIEND6, "::", 255)), neighbour, "redirect");
    assert_eq!(leaves(datapath, &message(143, "fe80::5", "ff02::16", "::", 1)), None, "multicast listener report");
    assert_eq!(enters(datapath, &message(135, FRIEND6, "ff02::1:ff00:5", OWN6, 255)), None);
    assert_eq!(enters(datapath, &message(136, FRIEND6, OWN6, FRIEND6, 255)), None);
    assert_eq!(enters(datapath, &message(136, FRIEND6, OWN6, FRIEND6, 254)), neighbour);
    assert_eq!(enters(datapath, &message(134, "fe80::1", "ff02::1", "::", 255)), neighbour);
}

#[test]
fn multicast_listeners_talk_to_groups_of_their_link() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let neighbour = Some(DropReason::Neighbour);
    for icmp_type in [130, 131, 132, 143] {
        let message = |source: &str, destination: &str, hop_limit: u8| {
            let flow = Flow::new(ip(source), ip(destination), ICMPV6, 0, 0);
            Flow { icmp_type, hop_limit, ..flow }.frame()
        };
        for (what, source, destination, hop_limit, expected) in [
            ("a report", "fe80::5", "ff02::16", 1, None),
            ("before it has an address", "::", "ff02::16", 1, None),
            ("routed", "fe80::5", "ff02::16", 64, neighbour),
            ("as neighbour discovery", "fe80::5", "ff02::16", 255, neighbour),
            ("not to be sent", "fe80::5", "ff02::16", 0, neighbour),
            ("to one receiver of its link", "fe80::5", "fe80::6", 1, neighbour),
        ] {
            let frame = message(source, destination, hop_limit);
            assert_eq!(leaves(datapath, &frame), expected, "type {icmp_type} leaves: {what}");
            assert_eq!(enters(datapath, &frame), expected, "type {icmp_type} enters: {what}");
        }
        for hop_limit in [1, 64, 255] {
            assert_eq!(leaves(datapath, &message(OWN6, FRIEND6, hop_limit)), neighbour, "{icmp_type} to a friend");
            assert_eq!(leaves(datapath, &message(OWN6, STRANGER6, hop_limit)), neighbour, "{icmp_type} to a stranger");
            assert_eq!(leaves(datapath, &message("fe80::5", FRIEND6, hop_limit)), neighbour, "{icmp_type} to a friend");
            for source in [FRIEND6, STRANGER6, "2001:db8:1::1", "fd00:20::1", "fe80::6", "::"] {
                let frame = message(source, OWN6, hop_limit);
                assert_eq!(enters(datapath, &frame), neighbour, "{icmp_type} from {source} to a pod");
            }
        }
        assert_eq!(leaves(datapath, &message(OWN6, "ff02::16", 1)), neighbour, "{icmp_type} by its address");
        assert_eq!(leaves(datapath, &message(FRIEND6, "ff02::16", 1)), Some(DropReason::Spoofed), "{icmp_type}");
        assert_eq!(enters(datapath, &message(STRANGER6, "ff02::16", 1)), neighbour, "{icmp_type} by an address");
    }
}

fn error4(from: &str, to: &str, about: &Flow) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(&about.frame()[14..14 + 28]);
    let payload = icmp(3, 4, &rest);
    let packet = V4 {
        source: v4(from),
        destination: v4(to),
        protocol: ICMP,
        tos: 0,
        options: &[],
        id: 0,
        fragment: 0,
        payload: &payload,
    };
    ethernet(0, 0x0800, &packet.bytes())
}

#[test]
fn icmp_errors_about_connections_of_an_earlier_policy_are_unrelated() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let unrelated = Some(DropReason::Unrelated);
    let router = "203.0.113.254";
    let out = Flow::new(ip(OWN), ip("203.0.113.1"), UDP, 40_000, 53);
    let kept = Flow::new(ip(STRANGER), ip(OWN), TCP, 50_000, 80);
    let ended = Flow::new(ip(STRANGER), ip(OWN), UDP, 50_000, 5000);
    assert_eq!(leaves(datapath, &out.frame()), None);
    for flow in [kept, ended] {
        assert_eq!(enters(datapath, &flow.frame()), None);
        assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &flow)), None);
    }
    assert_eq!(enters(datapath, &error4(router, OWN, &out)), None);
    let mut next = policy(2);
    next.rules.retain(|rule| rule.id != 2);
    datapath.apply(&next).unwrap();
    for flow in [kept, ended] {
        assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &flow)), unrelated, "not judged yet: {flow:?}");
    }
    assert_eq!(enters(datapath, &error4(router, OWN, &out)), unrelated, "not judged yet");
    assert_eq!(enters(datapath, &kept.frame()), None);
    assert_eq!(enters(datapath, &ended.frame()), Some(DropReason::Denied));
    assert_eq!(enters(datapath, &out.reversed().frame()), None);
    assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &kept)), None, "what is allowed still");
    assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &ended)), unrelated, "what isn't any more");
    assert_eq!(enters(datapath, &error4(router, OWN, &out)), None, "by the answer that was judged");
}

#[test]
fn icmp_errors_belong_to_connections() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let unrelated = Some(DropReason::Unrelated);
    let error6 = |from: &str, to: &str, about: &Flow| {
        let mut rest = vec![0; 4];
        rest.extend(&about.frame()[14..]);
        ethernet(0, 0x86dd, &ipv6(v6(from), v6(to), 0, ICMPV6, 64, &icmp(2, 0, &rest)))
    };
    let router = "203.0.113.254";
    let out = Flow::new(ip(OWN), ip("203.0.113.1"), TCP, 40_000, 443);
    assert_eq!(enters(datapath, &error4(router, OWN, &out)), unrelated, "about nothing");
    assert_eq!(leaves(datapath, &out.frame()), None);
    assert_eq!(enters(datapath, &error4(router, OWN, &out)), None, "path MTU");
    assert_eq!(enters(datapath, &error4(router, OWN, &out.reversed())), unrelated, "about what it got");
    assert_eq!(enters(datapath, &error4(router, OWN, &Flow { source_port: 1, ..out })), unrelated);
    let asked = Flow::new(ip(STRANGER), ip(OWN), UDP, 50_000, 5000);
    assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &asked)), unrelated);
    assert_eq!(enters(datapath, &asked.frame()), None);
    assert_eq!(leaves(datapath, &error4(OWN, STRANGER, &asked)), None, "port unreachable");
    let ping = Flow::new(ip(OWN), ip("203.0.113.9"), ICMP, 0, 0);
    assert_eq!(leaves(datapath, &ping.frame()), None);
    assert_eq!(enters(datapath, &error4(router, OWN, &ping)), None, "about an echo");
    let out6 = Flow::new(ip(OWN6), ip("2001:db8:1::1"), UDP, 40_000, 53);
    assert_eq!(enters(datapath, &error6("2001:db8:2::1", OWN6, &out6)), unrelated);
    assert_eq!(leaves(datapath, &out6.frame()), None);
    assert_eq!(enters(datapath, &error6("2001:db8:2::1", OWN6, &out6)), None, "packet too big");
    let frame = error6("2001:db8:2::1", OWN6, &out6);
    for length in 14 + 40 + 8..14 + 40 + 8 + 40 + 4 {
        let mut cut = frame[..length].to_vec();
        let payload = u16::try_from(length - 54).unwrap();
        cut[18..20].copy_from_slice(&payload.to_be_bytes());
        assert_eq!(enters(datapath, &cut), Some(DropReason::Truncated), "{length}");
    }
    let redirect = {
        let payload = icmp(5, 1, &[0; 32]);
        let (source, destination) = (v4("10.20.0.1"), v4(OWN));
        ethernet(
            0,
            0x0800,
            &V4 { source, destination, protocol: ICMP, tos: 0, options: &[], id: 0, fragment: 0, payload: &payload }
                .bytes(),
        )
    };
    assert_eq!(enters(datapath, &redirect), Some(DropReason::Neighbour));
}

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
