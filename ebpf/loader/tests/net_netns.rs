//! The datapath on a node made of network namespaces: pods on bridges, an uplink, real protocols; generations and processes that change under traffic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/netns.rs"]
mod netns;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use net_support::*;
use netns::{Conversation, PATIENCE, Topology, missing, sh};
use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Class, Compiled, Endpoint, Network, Place, Rule, Selector, Source};
use pullpiri_ebpf::net::{Datapath, DropReason, PodPort};

const PODS: [(&str, [&str; 2]); 3] =
    [("pa", ["10.20.0.5", "fd00:20::5"]), ("pb", ["10.20.0.6", "fd00:20::6"]), ("pc", ["10.30.0.7", "fd00:30::7"])];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// a and b may talk; c may reach a at TCP 80 and UDP 5000; a and b may leave the node.
fn policy(generation: u64) -> Compiled {
    let network = |id: u16, third: u16, internal, egress| Network {
        id,
        name: format!("default/n{id}"),
        subnets: vec![format!("10.{third}.0.0/24").parse().unwrap(), format!("fd00:{third}::/64").parse().unwrap()],
        gateways: vec![ip(&format!("10.{third}.0.1")), ip(&format!("fd00:{third}::1"))],
        internal,
        egress,
    };
    let endpoint = |(i, (name, addresses)): (u32, (&str, [&str; 2]))| Endpoint {
        instance: format!("default/{name}"),
        uid: name.to_owned(),
        network: if name == "pc" { 2 } else { 1 },
        identity: 10 + i,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        place: Place::Here,
    };
    let mut endpoints: Vec<Endpoint> = (0..).zip(PODS).map(endpoint).collect();
    endpoints.push(Endpoint {
        instance: "default/on-host".into(),
        uid: "on-host".into(),
        network: 1,
        identity: 13,
        addresses: vec![],
        place: Place::Here,
    });
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

fn attach(datapath: &mut Datapath) {
    for (device, addresses) in PODS {
        let port = PodPort { addresses: addresses.iter().map(|text| ip(text)).collect(), mac: None };
        datapath.attach_pod(device, &port).unwrap();
    }
    datapath.attach_uplink("up0", 1).unwrap();
}

/// A node that enforces `policy(1)`, this thread in its namespace. `None` where it can't be.
fn node(name: &str) -> Option<(Topology, Fixture)> {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return None;
    }
    let mut fixture = Fixture::new()?;
    let topology = Topology::new(name);
    topology.enter("node");
    fixture.get().apply(&policy(1)).unwrap();
    attach(fixture.get());
    Some((topology, fixture))
}

fn ping(topology: &Topology, from: &str, to: &str) -> bool {
    let (netns, to) = (topology.name(from), to.to_owned());
    let args = ["netns", "exec", &netns, "ping", "-c", "1", "-W", "1", &to].map(str::to_owned);
    Command::new("ip").args(args).output().unwrap().status.success()
}

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

/// What the agent does, in a process that can be killed. Runs as a test of its own, in a child; does nothing otherwise.
#[test]
fn agent_process() {
    let (Ok(netns), Ok(dir)) = (std::env::var("PULLPIRI_TEST_NETNS"), std::env::var("PULLPIRI_TEST_PINS")) else {
        return;
    };
    netns::enter(&netns);
    let mut datapath = Datapath::open_or_load(Path::new(&dir)).unwrap();
    let generation = datapath.generation().unwrap().unwrap_or(0) + 1;
    datapath.apply(&policy(generation)).unwrap();
    attach(&mut datapath);
    println!("\nready {generation}");
    // Until it is killed.
    let _ = std::io::stdin().read(&mut [0]);
}

/// One that ends with the test, whatever way that does.
struct Agent(Child);

impl Agent {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

fn agent(topology: &Topology, dir: &Path) -> (Agent, u64) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_process", "--nocapture"])
        .env("PULLPIRI_TEST_NETNS", topology.name("node"))
        .env("PULLPIRI_TEST_PINS", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut agent = Agent(child);
    let output = BufReader::new(agent.0.stdout.take().unwrap());
    let (said, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let ready = |line: String| line.strip_prefix("ready ")?.parse::<u64>().ok();
        let _ = said.send(output.lines().map_while(Result::ok).find_map(ready));
    });
    // Loading and the kernel's grace periods take their time on a machine with other work, but not for ever.
    let generation = ready.recv_timeout(6 * PATIENCE).unwrap_or_else(|_| panic!("the agent doesn't get ready"));
    (agent, generation.unwrap())
}

fn attached(device: &'static str, topology: &Topology) -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};
    topology.within("node", move || {
        let programs = |direction| SchedClassifier::query_tcx(device, direction).unwrap().1.len();
        programs(TcAttachType::Ingress) + programs(TcAttachType::Egress)
    })
}

/// The kernel detaches a link some milliseconds after its last pin went (RCU).
fn wait_attached(device: &'static str, topology: &Topology, expected: usize) {
    let start = Instant::now();
    while attached(device, topology) != expected {
        assert!(start.elapsed() < PATIENCE, "{} programs at {device}, not {expected}", attached(device, topology));
    }
}

#[test]
fn an_agent_killed_under_traffic_loses_nothing() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let Some(bpffs) = BpfFs::mount() else { return };
    let topology = Topology::new("kill");
    let dir = bpffs.pins();
    let (mut child, generation) = agent(&topology, &dir);
    assert_eq!(generation, 1);
    let v4 = Conversation::start(&topology, "c", "a", ip("10.20.0.5"), 5000);
    let v6 = Conversation::start(&topology, "b", "a", ip("fd00:20::5"), 81);
    for round in 2..6 {
        v4.proceeds_by(100);
        v6.proceeds_by(100);
        child.kill();
        // Nobody is there, and rules hold.
        v4.proceeds_by(100);
        v6.proceeds_by(100);
        assert!(!ping(&topology, "c", "10.20.0.5"));
        let (next, generation) = agent(&topology, &dir);
        assert_eq!(generation, round, "adopted, not begun anew");
        child = next;
        assert_eq!(attached("pa", &topology), 2, "each program once");
    }
    for conversation in [v4, v6] {
        let (answered, lost) = conversation.finish();
        assert!(answered > 800);
        assert_eq!(lost, 0, "of {answered}");
    }
    child.kill();
    let datapath = Datapath::open_or_load(&dir).unwrap();
    datapath.remove().unwrap();
    assert!(!dir.exists());
    for device in ["pa", "pb", "pc", "up0"] {
        wait_attached(device, &topology, 0);
    }
    assert!(ping(&topology, "c", "10.20.0.5"), "nothing in the way any more");
}

#[test]
fn a_new_layout_takes_over_with_its_first_policy() {
    let Some((topology, mut fixture)) = node("layout") else { return };
    let dir = fixture.dir.clone();
    fixture.datapath = None;
    // As if an earlier release had made these maps.
    let maps = |layout: u32| dir.join(format!("maps-{layout}"));
    std::fs::rename(maps(pullpiri_ebpf::net::layout::LAYOUT), maps(0)).unwrap();
    // The first process of this layout ends before it has a policy: the next finds its maps, empty.
    drop(Datapath::open_or_load(&dir).unwrap());
    assert!(maps(pullpiri_ebpf::net::layout::LAYOUT).join("pharos_config").exists());
    fixture.datapath = Some(Datapath::open_or_load(&dir).unwrap());
    attach(fixture.get());
    assert_eq!(fixture.get().generation().unwrap(), None);
    // Theirs still hold: ours would drop everything.
    assert!(ping(&topology, "a", "10.20.0.6") && !ping(&topology, "c", "10.20.0.5"));
    assert_eq!(fixture.get().counters().unwrap().drops[&DropReason::NotReady], 0);
    fixture.get().apply(&policy(7)).unwrap();
    assert!(ping(&topology, "a", "10.20.0.6") && !ping(&topology, "c", "10.20.0.5"));
    let counters = fixture.get().counters().unwrap();
    assert!(counters.passed > 0 && counters.drops[&DropReason::Denied] > 0);
    assert!(!maps(0).exists());
    assert_eq!(attached("pa", &topology), 2);
}

#[test]
fn a_link_that_cannot_be_adopted_keeps_its_program() {
    let Some((topology, mut fixture)) = node("adopt") else { return };
    let dir = fixture.dir.clone();
    fixture.datapath = None;
    let pins = || {
        let entries = std::fs::read_dir(dir.join("links")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = pins();
    // Something else is found where the link should be: as when the kernel refuses to give it out or to update it.
    let name = before.iter().find(|name| name.starts_with("pc~") && name.ends_with("~pod_egress")).unwrap();
    let (link, kept) = (dir.join("links").join(name), dir.join("kept"));
    std::fs::rename(&link, &kept).unwrap();
    let maps = dir.join(format!("maps-{}", pullpiri_ebpf::net::layout::LAYOUT));
    std::fs::hard_link(maps.join("pharos_names"), &link).unwrap();
    let error = Datapath::open_or_load(&dir).unwrap_err();
    assert_eq!(error.reason(), "AttachFailed");
    assert_eq!(pins(), before, "nothing was unpinned");
    std::fs::remove_file(&link).unwrap();
    std::fs::rename(&kept, &link).unwrap();
    for device in ["pa", "pb", "pc"] {
        assert_eq!(attached(device, &topology), 2, "{device}");
    }
    assert!(ping(&topology, "a", "10.20.0.6") && !ping(&topology, "c", "10.20.0.5"));
    fixture.datapath = Some(Datapath::open_or_load(&dir).unwrap());
    assert_eq!(pins(), before);
    assert!(ping(&topology, "a", "10.20.0.6") && !ping(&topology, "c", "10.20.0.5"));
}

#[test]
fn devices_come_and_go() {
    let Some((topology, mut fixture)) = node("devices") else { return };
    let netns = topology.name("node");
    let links = |fixture: &mut Fixture, device: &str| {
        fixture.get().attached().unwrap().into_iter().filter(|(_, name)| name == device).count()
    };
    assert_eq!(links(&mut fixture, "pa"), 2);
    fixture.get().detach_pod("pb").unwrap();
    assert_eq!(links(&mut fixture, "pb"), 0);
    wait_attached("pb", &topology, 0);
    // Again: what is gone is gone.
    fixture.get().detach_pod("pb").unwrap();
    // The same name, another device: as after a pod was made anew.
    let pod = topology.name("a");
    sh(&format!(
        "ip -n {netns} link del pa
         ip -n {netns} link add pa type veth peer name eth0 netns {pod}
         ip -n {netns} link set pa master br20 up
         ip -n {pod} link set eth0 up
         ip -n {pod} addr add 10.20.0.5/24 dev eth0"
    ));
    assert_eq!(attached("pa", &topology), 0);
    attach(fixture.get());
    assert_eq!((links(&mut fixture, "pa"), attached("pa", &topology)), (2, 2));
    assert!(ping(&topology, "a", "10.20.0.6"));
    // A process that starts after a device went forgets it.
    sh(&format!("ip -n {netns} link del pc"));
    let dir = fixture.dir.clone();
    fixture.datapath = Some(Datapath::open_or_load(&dir).unwrap());
    assert_eq!((links(&mut fixture, "pa"), links(&mut fixture, "pc")), (2, 0));
    assert!(ping(&topology, "a", "10.20.0.6"));
    let error = fixture.get().attach_pod("pc", &PodPort::default()).unwrap_err();
    assert_eq!(error.reason(), "DeviceMissing");
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
