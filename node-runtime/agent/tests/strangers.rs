//! Who is on the link beside the nodes: pretends to be a pod, or has the node route for it. And a second node of the same name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod town;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pullpiri_agent::{NetworkConfig, Plumbing};
use pullpiri_ebpf::net::DropReason;
use pullpiri_node_core::network::Generation;
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Address, Family, LinkChange, Netlink, namespace, sysctl};
use town::{Pod, Town, assert_same, inside, ip, run};

const BRAKE: Pod = Pod { name: "brake", node: 0, network: 0, host: 5 };
const SENSOR: Pod = Pod { name: "sensor", node: 1, network: 0, host: 6 };
const LOCAL: Pod = Pod { name: "local", node: 0, network: 0, host: 7 };
const PODS: [Pod; 3] = [BRAKE, SENSOR, LOCAL];
const LIMIT: Duration = Duration::from_secs(10);

/// Another machine on the link between the nodes.
struct Stranger(PathBuf);

impl Stranger {
    fn join(town: &Town) -> Self {
        let this = Self(town.directory.path().join("stranger"));
        namespace::create(&this.0).unwrap();
        let path = this.0.display();
        run(&town.nodes[1].namespace, "ip link add link up0 name mv0 type macvlan mode bridge");
        run(&town.nodes[1].namespace, &format!("ip link set mv0 netns {path}"));
        for line in ["addr add 192.0.2.66/24 dev mv0", "addr add fd09::66/64 dev mv0 nodad", "link set mv0 up"] {
            run(&this.0, &format!("ip {line}"));
        }
        run(&this.0, "ip route add 10.20.0.0/24 via 192.0.2.1");
        run(&this.0, "ip route add fd00:20::/64 via fd09::1");
        this
    }

    /// Sends as if it had that address.
    fn send_as(&self, source: IpAddr, to: IpAddr) {
        let address = if source.is_ipv4() { format!("{source}/32") } else { format!("{source}/128 nodad") };
        run(&self.0, &format!("ip addr add dev lo {address}"));
        let socket = inside(&self.0, || UdpSocket::bind((source, 0)).unwrap());
        socket.send_to(b"I am one of you", (to, 7000)).unwrap();
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = namespace::remove(&self.0);
    }
}

fn spoofed(town: &Town) -> u64 {
    town.nodes[0].plumbing.as_ref().unwrap().counters().unwrap().0.drops[&DropReason::Spoofed]
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn nobody_on_the_link_is_taken_for_a_pod() {
    let Some(mut town) = Town::new("nobody_on_the_link_is_taken_for_a_pod", None) else { return };
    for pod in PODS {
        town.attach(pod);
    }
    town.apply(1, &PODS, &[], &[]);
    let [hears4, hears6] = [BRAKE.address(), BRAKE.v6()].map(|address| {
        let socket = inside(&BRAKE.namespace(&town), || UdpSocket::bind((address, 7000)).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    });
    let stranger = Stranger::join(&town);
    if !run(&stranger.0, "ip link show mv0").contains("mv0") {
        println!("skipped: the kernel has no macvlan");
        return;
    }
    let mut buffer = [0; 64];
    let mut truly = |pod: Pod| {
        for (from, to, hears) in [(pod.address(), BRAKE.address(), &hears4), (pod.v6(), BRAKE.v6(), &hears6)] {
            let socket = inside(&pod.namespace(&town), || UdpSocket::bind((from, 0)).unwrap());
            socket.send_to(b"truly", (to, 7000)).unwrap();
            let (length, who) = hears.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], who.ip()), (b"truly".as_slice(), from), "nothing else came before");
        }
    };
    truly(SENSOR);
    truly(LOCAL);
    for (what, source, to) in [
        ("a pod of the node itself", LOCAL.address(), BRAKE.address()),
        ("a pod of the node itself, v6", LOCAL.v6(), BRAKE.v6()),
        ("a pod of the other node", SENSOR.address(), BRAKE.address()),
        ("the gateway", ip("10.20.0.1"), BRAKE.address()),
        ("the gateway, v6", ip("fd00:20::1"), BRAKE.v6()),
    ] {
        let before = spoofed(&town);
        stranger.send_as(source, to);
        until(what, || spoofed(&town) > before);
    }
    truly(SENSOR);
    truly(LOCAL);
}

#[test]
fn the_node_routes_for_nobody_but_its_pods() {
    let Some(mut town) = Town::new("the_node_routes_for_nobody_but_its_pods", None) else { return };
    if !Path::new("/usr/sbin/nft").exists() {
        println!("skipped: nft isn't installed");
        return;
    }
    // A namespace begins with what the machine has.
    inside(&town.nodes[0].namespace, || sysctl::write("ipv4/conf/all/forwarding", "0").unwrap());
    let before = town.nodes[0].picture();
    let stranger = Stranger::join(&town);
    if !run(&stranger.0, "ip link show mv0").contains("mv0") {
        println!("skipped: the kernel has no macvlan");
        return;
    }
    // Behind the first node is another network.
    let behind = town.directory.path().join("behind");
    namespace::create(&behind).unwrap();
    let there = namespace::open(&behind).unwrap();
    let node = town.nodes[0].namespace.clone();
    inside(&node, || {
        let mut net = Netlink::open(Family::Route).unwrap();
        net.create_veth(("in0", [2, 0, 0, 0, 9, 5]), ("in0", [2, 0, 0, 0, 9, 6]), there.as_fd(), 1500).unwrap();
    });
    for (space, address) in [(&node, "203.0.113.1"), (&behind, "203.0.113.2")] {
        inside(space, || {
            let mut net = Netlink::open(Family::Route).unwrap();
            let link = net.link("in0").unwrap().unwrap().index;
            net.set_link(link, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            net.add_address(&Address { link, address: ip(address), prefix: 24, global: true }).unwrap();
        });
    }
    run(&stranger.0, "ip route add 203.0.113.0/24 via 192.0.2.1");
    let target = inside(&behind, || UdpSocket::bind("203.0.113.2:7000").unwrap());
    target.set_nonblocking(true).unwrap();
    let source = inside(&stranger.0, || UdpSocket::bind("192.0.2.66:0").unwrap());
    let mut buffer = [0; 64];
    let send = || source.send_to(b"route this", "203.0.113.2:7000").unwrap();

    town.attach(BRAKE);
    town.apply(1, &[BRAKE], &[], &[]);
    let dropped = || {
        let rules = run(&node, "nft list ruleset");
        let rule = rules
            .lines()
            .find(|line| line.contains("iifname \"up0\"") && line.contains("meta nfproto ipv4"))
            .unwrap_or_default();
        let count = rule.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        count.unwrap_or_else(|| panic!("{rules}"))
    };
    assert_eq!(dropped(), 0);
    send();
    until("what isn't for a pod is dropped", || dropped() > 0);
    assert!(target.recv(&mut buffer).is_err());

    // Somebody makes the node a router: that is theirs.
    inside(&node, || sysctl::write("ipv4/conf/all/forwarding", "1").unwrap());
    town.nodes[0].with(|plumbing| plumbing.converge());
    until("what others have the node forward is forwarded", || {
        send();
        target.recv(&mut buffer).is_ok()
    });
    inside(&node, || sysctl::write("ipv4/conf/all/forwarding", "0").unwrap());
    inside(&node, || Netlink::open(Family::Route).unwrap().delete_link("in0").unwrap());
    town.clear(&[BRAKE]);
    let _ = namespace::remove(&behind);
    drop(stranger);
    assert_same(&before, &town.nodes[0].picture());
}

#[test]
fn two_nodes_of_one_name_on_one_machine_do_not_meet() {
    let Some(mut town) = Town::new("two_nodes_of_one_name_on_one_machine_do_not_meet", None) else { return };
    town.attach(BRAKE);
    town.apply(1, &[BRAKE], &[], &[]);
    let before = town.nodes[0].picture();
    let (name, node) = (town.nodes[0].name.clone(), town.nodes[0].namespace.clone());
    let data = town.directory.path().join("second");
    let id = PodId(format!("second-{name}"));
    inside(&node, || {
        // No uplink: that one has the first.
        let config = NetworkConfig { uplink: Some("none0".to_owned()), link_rate_bps: None, api_server: None };
        let mut second = Plumbing::new(&name, &data, config);
        second.open();
        second.attach(&id, &LOCAL.attachment()).unwrap();
        second.take(Some(Generation { number: 7, parts: vec![town.slice_of(0, 7, &[LOCAL])] }));
        assert_eq!(second.failure(), None);
        let links = run(&node, "ip -d link");
        assert_eq!(links.matches(": pplb").count(), 2, "{links}");
        second.detach(&id).unwrap();
        second.take(None);
        second.close();
        assert_eq!(second.failure(), None);
    });
    assert_same(&before, &town.nodes[0].picture());
    // The first one is whole: programs, maps and all.
    town.nodes[0].start();
    assert_eq!(town.nodes[0].plumbing.as_ref().unwrap().failure(), None);
    assert!(run(&BRAKE.namespace(&town), "ping -c 1 -W 5 10.20.0.1").contains("1 received"));
    assert_same(&before, &town.nodes[0].picture());
}
