//! The node of `Topology` with its pods guarded: what they may do, and whether they can.
#![allow(dead_code, reason = "each user needs its own part")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Class, Compiled, Endpoint, Place, Rule, Selector, Source};
use pullpiri_ebpf::net::{Datapath, PodPort};

use super::net_support::*;
use super::netns::{PATIENCE, Topology};

pub const PODS: [(&str, [&str; 2]); 3] =
    [("pa", ["10.20.0.5", "fd00:20::5"]), ("pb", ["10.20.0.6", "fd00:20::6"]), ("pc", ["10.30.0.7", "fd00:30::7"])];

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// a and b may talk; c may reach a at TCP 80 and UDP 5000; a and b may leave the node.
pub fn policy(generation: u64) -> Compiled {
    let pod = |(identity, (name, addresses)): (u32, (&str, [&str; 2]))| {
        endpoint(name, if name == "pc" { 2 } else { 1 }, identity, &addresses, Place::Here)
    };
    let mut endpoints: Vec<Endpoint> = (10..).zip(PODS).map(pod).collect();
    endpoints.push(endpoint("on-host", 1, 13, &[], Place::Here));
    let rule = |id, protocol, port| Rule {
        id,
        name: format!("default/n1/r{id}"),
        from: Source::Identity(12),
        to: 10,
        protocol,
        first_port: port,
        last_port: port,
    };
    let selector = |class, identity, port| Selector {
        class,
        network: 1,
        identity,
        protocol: Some(UDP),
        port: Some(port),
        dscp: None,
    };
    Compiled {
        generation,
        networks: vec![network(1, 20, Verdict::Allow, Verdict::Allow), network(2, 30, Verdict::Allow, Verdict::Deny)],
        endpoints,
        rules: vec![rule(1, TCP, 80), rule(2, UDP, 5000)],
        classes: vec![
            Class { id: 1, name: "default/n1/control".into(), dscp: Some(46) },
            Class { id: 2, name: "default/n1/host".into(), dscp: None },
        ],
        selectors: vec![selector(1, None, 7001), selector(2, Some(13), 7002)],
        ports: vec![],
    }
}

pub fn attach(datapath: &mut Datapath) {
    for (device, addresses) in PODS {
        let port = PodPort { addresses: addresses.iter().map(|text| ip(text)).collect(), mac: None };
        datapath.attach_pod(device, &port).unwrap();
    }
    datapath.attach_uplink("up0", 1).unwrap();
}

/// A node that enforces `policy(1)`, this thread in its namespace. `None` where it can't be.
pub fn node(name: &str) -> Option<(Topology, Fixture)> {
    let (topology, mut fixture) = Topology::with_datapath(name)?;
    fixture.get().apply(&policy(1)).unwrap();
    attach(fixture.get());
    Some((topology, fixture))
}

pub fn ping(topology: &Topology, from: &str, to: &str) -> bool {
    let (netns, to) = (topology.name(from), to.to_owned());
    let args = ["netns", "exec", &netns, "ping", "-c", "1", "-W", "1", &to].map(str::to_owned);
    Command::new("ip").args(args).output().unwrap().status.success()
}

pub fn attached(device: &'static str, topology: &Topology) -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};
    topology.within("node", move || {
        let programs = |direction| SchedClassifier::query_tcx(device, direction).unwrap().1.len();
        programs(TcAttachType::Ingress) + programs(TcAttachType::Egress)
    })
}

/// The kernel detaches a link some milliseconds after its last pin went (RCU).
pub fn wait_attached(device: &'static str, topology: &Topology, expected: usize) {
    let start = Instant::now();
    while attached(device, topology) != expected {
        assert!(start.elapsed() < PATIENCE, "{} programs at {device}, not {expected}", attached(device, topology));
    }
}
