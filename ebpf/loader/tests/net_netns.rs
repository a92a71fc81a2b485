//! The datapath on a node made of network namespaces: pods on bridges, an uplink, real protocols; generations that change under traffic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/netns.rs"]
mod netns;
#[path = "net_support/node.rs"]
mod node;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net_support::*;
use netns::{Conversation, PATIENCE, Topology, sh};
use node::{PODS, at, node, ping, policy};
use pullpiri_ebpf::net::DropReason;
use pullpiri_ebpf::net::policy::Source;

/// Whether a connection comes about; bytes go both ways if so.
fn connects(topology: &Topology, from: &str, to: &str, address: &'static str, port: u16) -> bool {
    const BYTES: usize = 4 << 20;
    let listener = topology.within(to, move || TcpListener::bind(at(address, port)).unwrap());
    let client = topology.spawn(from, move || {
        let mut stream = TcpStream::connect_timeout(&at(address, port), Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Long segments: what the stack hands over in one piece is larger than the wire's packets.
        stream.write_all(&vec![7; BYTES]).unwrap();
        let mut sum = [0; 8];
        stream.read_exact(&mut sum).unwrap();
        Some(u64::from_be_bytes(sum))
    });
    let server = std::thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        let mut stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if start.elapsed() > Duration::from_secs(2) => return,
                Err(_) => std::thread::yield_now(),
            }
        };
        stream.set_nonblocking(false).unwrap();
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes).unwrap();
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        stream.write_all(&sum.to_be_bytes()).unwrap();
    });
    let sum = client.join().unwrap();
    server.join().unwrap();
    sum.inspect(|sum| assert_eq!(*sum, 7 * u64::try_from(BYTES).unwrap())).is_some()
}

#[test]
fn pods_talk_as_allowed() {
    let Some((topology, mut fixture)) = node("talk") else { return };
    for (from, to, expected) in [
        ("a", "10.20.0.6", true),
        ("b", "fd00:20::5", true),
        ("a", "10.20.0.1", true),
        ("c", "fd00:30::1", true),
        ("a", "192.0.2.1", true),
        ("c", "10.20.0.5", false),
        ("a", "fd00:30::7", false),
        ("c", "192.0.2.1", false),
        ("node", "10.20.0.5", true),
    ] {
        assert_eq!(ping(&topology, from, to), expected, "ping {from} {to}");
    }
    assert!(connects(&topology, "a", "b", "10.20.0.6", 81));
    assert!(connects(&topology, "b", "a", "fd00:20::5", 81));
    assert!(connects(&topology, "c", "a", "10.20.0.5", 80));
    assert!(connects(&topology, "c", "a", "fd00:20::5", 80));
    let before = fixture.get().counters().unwrap();
    assert!(!connects(&topology, "c", "a", "10.20.0.5", 81));
    assert!(!connects(&topology, "a", "c", "10.30.0.7", 80));
    let after = fixture.get().counters().unwrap();
    assert!(after.drops[&DropReason::Denied] > before.drops[&DropReason::Denied]);
    for reason in [DropReason::Malformed, DropReason::Truncated, DropReason::Spoofed, DropReason::NotReady] {
        assert_eq!(after.drops[&reason], 0, "{reason:?}");
    }
    assert!(after.rules["default/n1/r1"].bytes > 8 << 20);

    // A datagram of three fragments.
    let receiver = topology.within("a", || UdpSocket::bind(at("10.20.0.5", 5000)).unwrap());
    topology.within("c", || {
        UdpSocket::bind(at("10.30.0.7", 0)).unwrap().send_to(&[5; 4000], at("10.20.0.5", 5000)).unwrap();
    });
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 8000];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 4000);

    // An error about a datagram comes back to who sent it.
    let refused = topology.within("c", || {
        let socket = UdpSocket::bind(at("10.30.0.7", 0)).unwrap();
        socket.connect(at("10.20.0.5", 5000)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    drop(receiver);
    refused.send(b"anybody?").unwrap();
    assert_eq!(refused.recv(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    // Somebody else's address.
    let netns = topology.name("a");
    sh(&format!("ip -n {netns} addr add 10.20.0.66/24 dev eth0"));
    topology.within("a", || {
        UdpSocket::bind(at("10.20.0.66", 0)).unwrap().send_to(b"x", at("10.20.0.1", 9)).unwrap();
    });
    let start = Instant::now();
    let spoofed = |fixture: &mut Fixture| {
        let drops = fixture.get().counters().unwrap().drops;
        drops[&DropReason::Spoofed] + drops[&DropReason::Neighbour]
    };
    while spoofed(&mut fixture) == 0 {
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn generations_change_under_traffic_without_loss() {
    let Some((topology, mut fixture)) = node("switch") else { return };
    let kept = Conversation::start(&topology, "c", "a", ip("10.20.0.5"), 5000);
    let inside = Conversation::start(&topology, "a", "b", ip("fd00:20::6"), 81);
    kept.proceeds_by(100);
    inside.proceeds_by(100);
    for generation in 2..30 {
        let mut next = policy(generation);
        // Every number another: only names last.
        let shift = u32::try_from(generation).unwrap();
        for endpoint in &mut next.endpoints {
            endpoint.identity += shift;
        }
        for rule in &mut next.rules {
            rule.to += shift;
            rule.from = Source::Identity(12 + shift);
        }
        for selector in &mut next.selectors {
            selector.identity = selector.identity.map(|identity| identity + shift);
        }
        fixture.get().apply(&next).unwrap();
        kept.proceeds_by(20);
        inside.proceeds_by(20);
    }
    for conversation in [kept, inside] {
        let (answered, lost) = conversation.finish();
        assert!(answered > 500);
        assert_eq!(lost, 0, "of {answered}");
    }
    // And one that the next generation denies ends.
    let ended = Conversation::start(&topology, "c", "a", ip("10.20.0.5"), 5000);
    ended.proceeds_by(50);
    let mut closed = policy(99);
    closed.rules.retain(|rule| rule.id != 2);
    fixture.get().apply(&closed).unwrap();
    let before = fixture.get().counters().unwrap().drops[&DropReason::Denied];
    let start = Instant::now();
    while fixture.get().counters().unwrap().drops[&DropReason::Denied] == before {
        assert!(start.elapsed() < PATIENCE, "it goes on");
    }
    assert!(ended.finish().1 > 0);
}

/// Bytes that an HTB class sent.
fn class_packets(netns: &str, class: &str) -> u64 {
    let output = Command::new("tc").args(["-n", netns, "-s", "class", "show", "dev", "up0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.contains(&format!("class htb {class} ")));
    let sent = lines.nth(1).unwrap_or_default();
    sent.split_whitespace().nth(3).and_then(|packets| packets.parse().ok()).unwrap_or(0)
}

#[test]
fn classes_reach_the_queues_of_the_uplink() {
    let Some((topology, mut fixture)) = node("classes") else { return };
    let netns = topology.name("node");
    sh(&format!(
        "tc -n {netns} qdisc add dev up0 root handle 1: htb default 0xfff
         for minor in 1 2 fff; do tc -n {netns} class add dev up0 parent 1: classid 1:$minor htb rate 100mbit; done"
    ));
    // The sender's address is gone at the uplink, its class isn't.
    let nft = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    if nft {
        sh(&format!(
            "ip netns exec {netns} nft 'add table ip nat; add chain ip nat post {{ type nat hook postrouting priority 100; }}; \
             add rule ip nat post oifname up0 masquerade'"
        ));
    } else {
        println!("skipped: no nft: without masquerading");
        sh(&format!("ip -n {} route add default via 192.0.2.1", topology.name("out")));
    }
    let receiver = topology.within("out", || UdpSocket::bind(at("192.0.2.2", 7001)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let send = |from: &'static str, port: u16| {
        topology.within("a", move || {
            let socket = UdpSocket::bind(at(from, 0)).unwrap();
            for _ in 0..10 {
                socket.send_to(b"x", at("192.0.2.2", port)).unwrap();
            }
        });
    };
    send("10.20.0.5", 7001);
    for _ in 0..10 {
        let (_, from) = receiver.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from.ip(), ip(if nft { "192.0.2.1" } else { "10.20.0.5" }));
    }
    assert_eq!(class_packets(&netns, "1:1"), 10);
    assert_eq!(fixture.get().counters().unwrap().classes["default/n1/control"].packets, 10);
    let rest = class_packets(&netns, "1:fff");
    send("10.20.0.5", 7003);
    let start = Instant::now();
    while class_packets(&netns, "1:fff") < rest + 10 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(class_packets(&netns, "1:1"), 10);
    from_a_cgroup(&mut fixture, &netns);
}

#[test]
fn round_trips_are_measured_by_class() {
    let Some((topology, mut fixture)) = node("trips") else { return };
    let b = PODS[1].1[0];
    let echo = topology.within("b", move || UdpSocket::bind(at(b, 7001)).unwrap());
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..10 {
            let (length, from) = echo.recv_from(&mut [0; 8]).unwrap();
            echo.send_to(&vec![0; length], from).unwrap();
        }
    });
    topology.within("a", move || {
        let socket = UdpSocket::bind(at(PODS[0].1[0], 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..10 {
            socket.send_to(b"x", at(b, 7001)).unwrap();
            socket.recv_from(&mut [0; 8]).unwrap();
        }
    });
    server.join().unwrap();
    let counters = fixture.get().counters().unwrap();
    let trips = |class: &str| counters.round_trips[class].buckets.iter().sum::<u64>();
    assert_eq!(trips("default/n1/control"), 10, "{:?}", counters.round_trips);
    assert_eq!(trips("default/n1/host"), 0);
}

/// A workload in the node's own network. Runs in a child; does nothing otherwise.
#[test]
fn workload_process() {
    let (Ok(netns), Ok(cgroup)) = (std::env::var("PULLPIRI_TEST_NETNS"), std::env::var("PULLPIRI_TEST_CGROUP")) else {
        return;
    };
    std::fs::write(Path::new(&cgroup).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    netns::enter(&netns);
    // A socket belongs to the cgroup in which it was made.
    let socket = UdpSocket::bind(at("192.0.2.1", 0)).unwrap();
    for port in [7002, 7004] {
        for _ in 0..10 {
            socket.send_to(b"x", at("192.0.2.2", port)).unwrap();
        }
    }
}

/// Removed when a test is done, in this order.
struct Cgroups(Vec<PathBuf>);

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in &self.0 {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// A workload in the node's own network, by its cgroup.
fn from_a_cgroup(fixture: &mut Fixture, netns: &str) {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let Some(root) = roots.into_iter().find(|root| Path::new(root).join("cgroup.procs").exists()) else {
        println!("skipped: no cgroup v2");
        return;
    };
    let parent = PathBuf::from(root).join(format!("pullpiri-test-{}", std::process::id()));
    let inner = parent.join("inner");
    let _guard = Cgroups(vec![inner.clone(), parent.clone()]);
    std::fs::create_dir_all(&inner).unwrap();
    fixture.get().attach_host(&parent, "on-host").unwrap();
    // Again, as after a restart.
    fixture.get().attach_host(&parent, "on-host").unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workload_process"])
        .env("PULLPIRI_TEST_NETNS", netns)
        .env("PULLPIRI_TEST_CGROUP", &inner)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let start = Instant::now();
    while status.success() && class_packets(netns, "1:2") < 10 {
        assert!(start.elapsed() < PATIENCE, "{}", class_packets(netns, "1:2"));
    }
    let counters = fixture.get().counters().unwrap();
    use std::os::unix::fs::MetadataExt;
    let id = std::fs::metadata(&parent).unwrap().ino();
    fixture.get().detach_host(id).unwrap();
    assert!(status.success());
    assert_eq!(counters.classes["default/n1/host"].packets, 10);
    assert!(!fixture.get().attached().unwrap().iter().any(|(_, device)| *device == id.to_string()));
}
