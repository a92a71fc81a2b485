//! A small world for single frames: a pod of its own, a friend, a stranger; and what a program makes of a frame.

#![allow(dead_code, reason = "each user needs its own part")]

use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Class, Compiled, Place, PublishedPort, Rule, Selector, Source};
use pullpiri_ebpf::net::{Datapath, DropReason, Hook, PodPort, RunVerdict};

use super::net_support::*;

pub const OWN: &str = "10.20.0.5";
pub const OWN6: &str = "fd00:20::5";
pub const FRIEND: &str = "10.20.0.6";
pub const FRIEND6: &str = "fd00:20::6";
pub const STRANGER: &str = "10.30.0.7";
pub const STRANGER6: &str = "fd00:30::7";

pub fn rule(id: u32, from: Source, to: u32, protocol: u8, first_port: u16, last_port: u16) -> Rule {
    Rule { id, name: format!("default/n1/r{id}"), from, to, protocol, first_port, last_port }
}

/// Two pods of one network that may talk, one of another that may only by rules.
pub fn policy(generation: u64) -> Compiled {
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

pub fn ready() -> Option<Fixture> {
    let mut fixture = Fixture::new()?;
    let datapath = fixture.get();
    datapath.apply(&policy(1)).unwrap();
    datapath.set_run_port(&PodPort { addresses: vec![ip(OWN), ip(OWN6)], mac: Some(MAC_A) }).unwrap();
    datapath.set_run_uplink(0x1a).unwrap();
    Some(fixture)
}

/// `None`: passed; else why it was dropped, by the one counter that rose.
pub fn outcome(datapath: &Datapath, hook: Hook, frame: &[u8]) -> Option<DropReason> {
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

pub fn enters(datapath: &Datapath, frame: &[u8]) -> Option<DropReason> {
    outcome(datapath, Hook::PodIngress, frame)
}

pub fn leaves(datapath: &Datapath, frame: &[u8]) -> Option<DropReason> {
    outcome(datapath, Hook::PodEgress, frame)
}
