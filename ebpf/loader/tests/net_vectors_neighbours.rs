//! Single frames through the programs (BPF_PROG_TEST_RUN): ARP, neighbour discovery, multicast, ICMP errors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/vectors.rs"]
mod vectors;

use net_support::*;
use pullpiri_ebpf::net::DropReason;
use vectors::*;

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
    assert_eq!(enters(datapath, &message(135, FRIEND6, "ff02::1:ff00:5", OWN6, 255)), None);
    assert_eq!(enters(datapath, &message(136, FRIEND6, OWN6, FRIEND6, 255)), None);
    assert_eq!(enters(datapath, &message(136, FRIEND6, OWN6, FRIEND6, 254)), neighbour);
    assert_eq!(enters(datapath, &message(134, "fe80::1", "ff02::1", "::", 255)), neighbour);
}

#[test]
fn what_is_for_groups_reaches_nobody() {
    let Some(mut fixture) = ready() else { return };
    let datapath = fixture.get();
    let scope = Some(DropReason::Scope);
    // Multicast listeners (RFC 2710, RFC 3810): whatever they carry would reach all of a link.
    for icmp_type in [130, 131, 132, 143] {
        for hop_limit in [0, 1, 64, 255] {
            for (source, destination) in
                [("fe80::5", "ff02::16"), ("::", "ff02::16"), (OWN6, "ff02::16"), ("fe80::5", "ff05::2")]
            {
                let flow = Flow { icmp_type, hop_limit, ..Flow::new(ip(source), ip(destination), ICMPV6, 0, 0) };
                assert_eq!(
                    leaves(datapath, &flow.frame()),
                    scope,
                    "type {icmp_type} {source} {destination} {hop_limit}"
                );
                assert_eq!(
                    enters(datapath, &flow.frame()),
                    scope,
                    "type {icmp_type} {source} {destination} {hop_limit}"
                );
            }
        }
        // To one receiver it is as any ICMP is.
        let flow = |from, to| Flow { icmp_type, hop_limit: 1, ..Flow::new(ip(from), ip(to), ICMPV6, 0, 0) };
        assert_eq!(leaves(datapath, &flow(OWN6, FRIEND6).frame()), None, "{icmp_type}");
        assert_eq!(leaves(datapath, &flow(OWN6, STRANGER6).frame()), Some(DropReason::Denied), "{icmp_type}");
        assert_eq!(leaves(datapath, &flow("fe80::5", FRIEND6).frame()), Some(DropReason::Spoofed), "{icmp_type}");
        assert_eq!(enters(datapath, &flow(STRANGER6, OWN6).frame()), Some(DropReason::Denied), "{icmp_type}");
    }
    // IGMP (RFC 3376), and streams.
    for (protocol, to) in [(2, "224.0.0.22"), (2, "224.0.0.1"), (UDP, "239.1.1.1")] {
        assert_eq!(leaves(datapath, &Flow::new(ip(OWN), ip(to), protocol, 1, 2).frame()), scope, "{protocol} {to}");
        assert_eq!(enters(datapath, &Flow::new(ip(FRIEND), ip(to), protocol, 1, 2).frame()), scope, "{protocol} {to}");
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
