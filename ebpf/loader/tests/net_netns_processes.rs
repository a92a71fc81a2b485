//! The datapath on a node made of network namespaces: processes, layouts and devices that come and go, under traffic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;
#[path = "net_support/netns.rs"]
mod netns;
#[path = "net_support/node.rs"]
mod node;

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use net_support::*;
use netns::{Conversation, PATIENCE, Topology, missing, sh};
use node::{at, attach, attached, node, ping, policy, wait_attached};
use pullpiri_ebpf::net::{Datapath, DropReason, PodPort};

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

/// It waits in the node until the address of its receiver is known, and meanwhile the rules come.
#[test]
fn what_the_link_brought_before_the_first_policy_does_not_count_as_checked() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let Some(mut fixture) = Fixture::new() else { return };
    let topology = Topology::new("start");
    topology.enter("node");
    attach(fixture.get());
    let (netns, out) = (topology.name("node"), topology.name("out"));
    // Somebody on the link has the address of b, whom a trusts.
    sh(&format!(
        "ip netns exec {netns} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0 \
            net.ipv4.neigh.br20.mcast_solicit=60
         ip -n {out} addr add 10.20.0.6/32 dev lo
         ip -n {out} route add 10.20.0.5/32 via 192.0.2.1"
    ));
    let receiver = topology.within("a", || UdpSocket::bind(at("10.20.0.5", 5001)).unwrap());
    receiver.set_nonblocking(true).unwrap();
    topology.within("out", || {
        UdpSocket::bind(at("10.20.0.6", 0)).unwrap().send_to(b"x", at("10.20.0.5", 5001)).unwrap();
    });
    let waits = || {
        let args = ["-n", &netns, "neigh", "show", "10.20.0.5", "dev", "br20"];
        String::from_utf8(Command::new("ip").args(args).output().unwrap().stdout).unwrap().contains("INCOMPLETE")
    };
    let start = Instant::now();
    while !waits() {
        assert!(start.elapsed() < PATIENCE, "it didn't come");
    }
    fixture.get().apply(&policy(1)).unwrap();
    while fixture.get().counters().unwrap().drops[&DropReason::Spoofed] == 0 {
        assert!(start.elapsed() < PATIENCE, "it doesn't go on");
        assert!(receiver.recv(&mut [0; 8]).is_err(), "it got in");
    }
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

/// So many connections of a, each its own.
fn open(topology: &Topology, first_port: u16, connections: u16) {
    topology.within("a", move || {
        let socket = UdpSocket::bind(at("10.20.0.5", 0)).unwrap();
        for port in first_port..first_port + connections {
            socket.send_to(b"x", at("192.0.2.2", port)).unwrap();
        }
    });
}

#[test]
fn many_pods_have_less_to_remember_each_so_that_none_displaces_others() {
    let Some((topology, mut fixture)) = node("share") else { return };
    let netns = topology.name("node");
    let displaced = |fixture: &mut Fixture| fixture.get().counters().unwrap().connections_displaced;
    open(&topology, 10_000, 6_000);
    assert_eq!(displaced(&mut fixture), 0);
    // Eleven in all: more than have whole budgets.
    for i in 0..8 {
        sh(&format!("ip -n {netns} link add d{i} type veth peer name e{i}"));
        let port = PodPort { addresses: vec![ip(&format!("10.20.0.{}", 20 + i))], mac: None };
        fixture.get().attach_pod(&format!("d{i}"), &port).unwrap();
    }
    open(&topology, 20_000, 4_096);
    assert_eq!(displaced(&mut fixture), 4_096, "one of its own for each");
    open(&topology, 30_000, 10);
    assert_eq!(displaced(&mut fixture), 4_106);
    // With three it is as before.
    for i in 0..8 {
        fixture.get().detach_pod(&format!("d{i}")).unwrap();
    }
    let opened = fixture.get().counters().unwrap().connections_opened;
    open(&topology, 40_000, 8_192);
    let now = fixture.get().counters().unwrap();
    let more = now.connections_displaced - 4_106;
    assert!(more <= 4_096 && now.connections_opened == opened + 8_192, "{more}");
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
