//! Pods whose interface somebody else made, as a CNI plugin does: what they send gets their class, and nothing else happens to it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/netns.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use net_support::*;
use netns::{PATIENCE, Topology, sh};
use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Class, Compiled, Network, Place, Selector};
use pullpiri_ebpf::net::{Datapath, DropReason, Hook, PodPort};

const OUT: &str = "192.0.2.2";
/// Pod a's, of a network of ours; and b's there.
const A: &str = "10.20.0.5";
const B: &str = "10.20.0.6";
/// The guest's, of which no policy knows.
const GUEST: &str = "10.30.0.7";

/// Pods a and b in a network of their own with a class for all they send, and the guest in the node's own with one for its port 7002.
fn policy() -> Compiled {
    let bridged = network(1, 20, Verdict::Allow, Verdict::Allow);
    let host = Network { id: 2, name: "default/n2".to_owned(), subnets: vec![], gateways: vec![], ..bridged.clone() };
    let here =
        |uid: &str, network, identity, addresses: &[&str]| endpoint(uid, network, identity, addresses, Place::Here);
    let selector =
        |class, network, identity, port| Selector { class, network, identity, protocol: Some(UDP), port, dscp: None };
    Compiled {
        generation: 1,
        networks: vec![bridged, host],
        endpoints: vec![here("a", 1, 10, &[A]), here("b", 1, 11, &[B]), here("guest", 2, 12, &[])],
        classes: [(1, "bridged/all"), (2, "host/seven")]
            .map(|(id, name)| Class { id, name: format!("default/{name}"), dscp: None })
            .into(),
        selectors: vec![selector(1, 1, None, None), selector(2, 2, Some(12), Some(7002))],
        ..Compiled::default()
    }
}

/// A node that enforces it, this thread in its namespace; the guest's veth is `pc`, and nothing is attached to that yet.
fn node(name: &str) -> Option<(Topology, Fixture)> {
    let (topology, mut fixture) = Topology::with_datapath(name)?;
    // Answers aren't asked for, but nothing may be lost on its way for want of one; the guest has another's address as well as its own.
    sh(&format!(
        "ip -n {} route add default via 192.0.2.1; ip -n {} addr add {A}/32 dev eth0",
        topology.name("out"),
        topology.name("c")
    ));
    fixture.get().attach_uplink("up0", 1).unwrap();
    Some((topology, fixture))
}

fn hear(topology: &Topology, part: &str, address: &'static str, port: u16) -> UdpSocket {
    let socket = topology.within(part, move || UdpSocket::bind((ip(address), port)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Has a pod send ten datagrams of so many bytes.
fn send(topology: &Topology, part: &str, from: &'static str, to: (&'static str, u16), bytes: usize) {
    topology.within(part, move || {
        let socket = UdpSocket::bind((ip(from), 0)).unwrap();
        for _ in 0..10 {
            socket.send_to(&vec![7; bytes], SocketAddr::from((ip(to.0), to.1))).unwrap();
        }
    });
}

/// The same to the outside, until all of it is there.
fn reaches_out(topology: &Topology, from: &'static str, port: u16, bytes: usize) {
    let receiver = hear(topology, "out", OUT, port);
    send(topology, "c", from, (OUT, port), bytes);
    let mut buffer = vec![0; bytes + 1];
    for _ in 0..10 {
        let (length, sender) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((length, sender.ip()), (bytes, ip(from)));
    }
}

fn packets(datapath: &Datapath, class: &str) -> u64 {
    datapath.counters().unwrap().classes[class].packets
}

#[test]
fn a_guest_has_its_class_and_nothing_of_its_is_dropped() {
    let Some((topology, mut fixture)) = node("guest") else { return };
    // Before any policy, too.
    fixture.get().attach_guest("pc", "guest").unwrap();
    reaches_out(&topology, GUEST, 7002, 8);
    fixture.get().apply(&policy()).unwrap();
    reaches_out(&topology, GUEST, 7002, 8);
    reaches_out(&topology, GUEST, 7003, 8);
    assert_eq!(packets(fixture.get(), "default/host/seven"), 10);
    // Fragments without ports are of their first one's class.
    reaches_out(&topology, GUEST, 7002, 4000);
    assert_eq!(packets(fixture.get(), "default/host/seven"), 10 + 10 * 3);
    // Nobody's class by an address that isn't its own.
    reaches_out(&topology, A, 7003, 8);
    let counters = fixture.get().counters().unwrap();
    assert_eq!(counters.classes["default/bridged/all"].packets, 0);
    assert!(counters.drops.values().all(|count| *count == 0), "{:?}", counters.drops);
}

#[test]
fn a_guest_is_nobody_else_to_a_pod() {
    let Some((topology, mut fixture)) = node("forger") else { return };
    let datapath = fixture.get();
    datapath.apply(&policy()).unwrap();
    for (device, address) in [("pa", A), ("pb", B)] {
        datapath.attach_pod(device, &PodPort { addresses: vec![ip(address)], mac: None }).unwrap();
    }
    datapath.attach_guest("pc", "guest").unwrap();
    let receiver = hear(&topology, "b", B, 7002);
    send(&topology, "a", A, (B, 7002), 8);
    for _ in 0..10 {
        receiver.recv_from(&mut [0; 8]).unwrap();
    }
    // With its class, and with a's address.
    send(&topology, "c", A, (B, 7002), 8);
    let start = Instant::now();
    while fixture.get().counters().unwrap().drops[&DropReason::Spoofed] < 10 {
        assert!(start.elapsed() < PATIENCE, "{:?}", fixture.get().counters().unwrap().drops);
    }
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv_from(&mut [0; 8]).is_err());
}

#[test]
fn guests_are_adopted_and_let_go() {
    let Some((topology, mut fixture)) = node("adopt") else { return };
    fixture.get().apply(&policy()).unwrap();
    fixture.get().attach_guest("pc", "guest").unwrap();
    let attached = |fixture: &mut Fixture| {
        let attached = fixture.get().attached().unwrap();
        attached
            .into_iter()
            .filter(|(hook, _)| *hook == Hook::GuestEgress)
            .map(|(_, device)| device)
            .collect::<Vec<_>>()
    };
    // Another process: nothing is lost in between, and what it attaches is what is there.
    fixture.datapath = None;
    reaches_out(&topology, GUEST, 7002, 8);
    let dir = fixture.dir.clone();
    fixture.datapath = Some(Datapath::open_or_load(&dir).unwrap());
    assert_eq!(attached(&mut fixture), ["pc"]);
    fixture.get().attach_guest("pc", "guest").unwrap();
    fixture.get().apply(&policy()).unwrap();
    reaches_out(&topology, GUEST, 7002, 8);
    assert_eq!(packets(fixture.get(), "default/host/seven"), 20);
    fixture.get().detach_guest("pc").unwrap();
    assert_eq!(attached(&mut fixture), [""; 0]);
    reaches_out(&topology, GUEST, 7002, 8);
    assert_eq!(packets(fixture.get(), "default/host/seven"), 20);
    // Of a pod that is gone nothing is left, and its name may be another's.
    fixture.get().attach_guest("pc", "guest").unwrap();
    sh(&format!("ip -n {} link del pc", topology.name("node")));
    assert_eq!(fixture.get().attach_guest("pc", "guest").unwrap_err().reason(), "DeviceMissing");
    fixture.get().detach_guest("pc").unwrap();
    assert_eq!(attached(&mut fixture), [""; 0]);
    // Where somebody has programs, theirs are the only ones.
    fixture.get().attach_pod("pa", &PodPort { addresses: vec![ip(A)], mac: None }).unwrap();
    assert_eq!(fixture.get().attach_guest("pa", "guest").unwrap_err().reason(), "DeviceTaken");
}
