//! Netlink against the kernel, in network namespaces of the tests' own.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use pullpiri_node_core::network::shape::handle;
use pullpiri_node_core::network::{Forward, Gso, HtbClass, Nat};
use pullpiri_node_host::net::{
    Address, Family, LinkChange, Listener, Netlink, Route, link, namespace, nat, qdisc, sysctl,
};

/// Two namespaces in a directory, removed at the end.
struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    /// `None`, and says so, if this machine allows no network namespaces.
    fn new(test: &str) -> Option<Self> {
        let rig = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["a", "b"] {
            if let Err(error) = namespace::create(&rig.path(name)) {
                println!("skipped: {test}: {error}");
                return None;
            }
        }
        Some(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Joins both by a veth pair with 10.9.0.1 and 10.9.0.2, up.
    fn join(&self) {
        let b = namespace::open(&self.path("b")).unwrap();
        inside(&self.path("a"), |net| {
            use std::os::fd::AsFd;
            net.create_veth(("va", [2, 0, 0, 0, 0, 1]), ("vb", [2, 0, 0, 0, 0, 2]), b.as_fd(), 1500).unwrap();
        });
        for (namespace, name, address) in [("a", "va", "10.9.0.1"), ("b", "vb", "10.9.0.2")] {
            inside(&self.path(namespace), |net| {
                let index = net.link(name).unwrap().unwrap().index;
                net.add_address(&Address { link: index, address: ip(address), prefix: 24, global: true }).unwrap();
                net.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            });
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for name in ["a", "b"] {
            namespace::remove(&self.path(name)).unwrap();
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn inside<T: Send>(path: &Path, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
    namespace::inside(path, || Ok(work(&mut Netlink::open(Family::Route)?))).unwrap()
}

#[test]
fn a_namespace_is_made_once_and_removed_whole() {
    let Some(rig) = Rig::new("a_namespace_is_made_once_and_removed_whole") else { return };
    let path = rig.path("a");
    assert!(namespace::exists(&path));
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = inode(&path);
    namespace::create(&path).unwrap();
    assert_eq!(inode(&path), before);
    let loopback = inside(&path, |net| net.link("lo").unwrap().unwrap());
    assert!(loopback.up && loopback.loopback);
    namespace::remove(&path).unwrap();
    namespace::remove(&path).unwrap();
    assert!(!path.exists());
    // A file that a boot left behind isn't a namespace and is replaced by one.
    std::fs::write(&path, "").unwrap();
    assert!(!namespace::exists(&path));
    namespace::create(&path).unwrap();
    assert!(namespace::exists(&path));
    // This thread never went anywhere.
    assert_ne!(inode(&path), inode(Path::new("/proc/thread-self/ns/net")));
}

#[test]
fn links_are_made_changed_listed_and_removed() {
    let Some(rig) = Rig::new("links_are_made_changed_listed_and_removed") else { return };
    rig.join();
    inside(&rig.path("a"), |net| {
        net.create_bridge("br", [2, 0, 0, 0, 0, 9]).unwrap();
        let bridge = net.link("br").unwrap().unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert_eq!(bridge.address, [2, 0, 0, 0, 0, 9]);
        let veth = net.link("va").unwrap().unwrap();
        let gso = Gso { max_bytes: 8000, max_segments: 5 };
        let change = LinkChange {
            alias: Some("pullpiri/x".into()),
            master: Some(bridge.index),
            gso: Some(gso),
            mtu: Some(1400),
            ..LinkChange::default()
        };
        net.set_link(veth.index, &change).unwrap();
        let veth = net.links().unwrap().into_iter().find(|link| link.name == "va").unwrap();
        assert_eq!((veth.alias.as_deref(), veth.master, veth.gso), (Some("pullpiri/x"), Some(bridge.index), gso));
        assert_eq!((veth.mtu, veth.up), (1400, true));
        // The hardware address doesn't follow the port's.
        assert_eq!(net.link("br").unwrap().unwrap().address, [2, 0, 0, 0, 0, 9]);
        let error = net.create_bridge("br", [2, 0, 0, 0, 0, 9]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        assert!(error.to_string().starts_with("making bridge br"), "{error}");
        net.delete_link("br").unwrap();
        net.delete_link("br").unwrap();
        net.delete_link("va").unwrap();
        assert_eq!(net.link("va").unwrap(), None);
    });
    assert_eq!(inside(&rig.path("b"), |net| net.link("vb").unwrap()), None);
    for bad in ["", "a/b", "sixteen-letters-", "a b", ".."] {
        assert!(link::check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn addresses_and_routes_are_added_found_and_removed() {
    let Some(rig) = Rig::new("addresses_and_routes_are_added_found_and_removed") else { return };
    rig.join();
    inside(&rig.path("a"), |net| {
        let link = net.link("va").unwrap().unwrap().index;
        let v6 = Address { link, address: ip("fd00::1"), prefix: 64, global: true };
        net.add_address(&v6).unwrap();
        net.add_address(&v6).unwrap();
        let addresses = net.addresses().unwrap();
        assert!(addresses.contains(&v6), "{addresses:?}");
        assert!(addresses.contains(&Address { link, address: ip("10.9.0.1"), prefix: 24, global: true }));
        let route = |destination: &str, gateway: Option<&str>| {
            let prefix = if destination.contains(':') { 128 } else { 32 };
            let (destination, gateway) = (ip(destination), gateway.map(ip));
            Route { destination, prefix, gateway, link, protocol: 176, metric: 1077, source: None }
        };
        let routes = [
            route("10.7.0.7", None),
            route("10.7.0.8", Some("10.9.0.2")),
            route("fd07::7", None),
            route("fd07::8", Some("fd00::2")),
        ];
        for wanted in &routes {
            net.add_route(wanted).unwrap();
            net.add_route(wanted).unwrap();
        }
        let mut found: Vec<Route> = net.routes().unwrap().into_iter().filter(|r| r.protocol == 176).collect();
        found.sort();
        let mut wanted = routes.to_vec();
        wanted.sort();
        assert_eq!(found, wanted);
        let to = net.route_to(ip("10.7.0.8")).unwrap().unwrap();
        assert_eq!((to.link, to.gateway, to.source), (link, Some(ip("10.9.0.2")), Some(ip("10.9.0.1"))));
        assert_eq!(net.route_to(ip("192.0.2.7")).unwrap(), None);
        for wanted in &routes {
            net.delete_route(wanted).unwrap();
            net.delete_route(wanted).unwrap();
        }
        net.delete_address(&v6).unwrap();
        net.delete_address(&v6).unwrap();
        assert!(!net.routes().unwrap().iter().any(|route| route.protocol == 176));
        assert!(!net.addresses().unwrap().contains(&v6));
    });
}

#[test]
fn classes_change_in_place() {
    let Some(rig) = Rig::new("classes_change_in_place") else { return };
    rig.join();
    inside(&rig.path("a"), |net| {
        let link = net.link("va").unwrap().unwrap().index;
        let untouched = net.qdiscs(link).unwrap();
        if let Err(error) = net.add_htb(link, 0x7070, 0xfff) {
            println!("skipped: classes_change_in_place: {error}");
            return;
        }
        let root = HtbClass {
            handle: handle(0x7070, 0xffff),
            parent: handle(0x7070, 0),
            rate_bps: 1_000_000_000,
            ceiling_bps: 1_000_000_000,
            burst_ns: 1 << 20,
            ceiling_burst_ns: 1 << 20,
            quantum_bytes: 1514,
            priority: 0,
        };
        // Beyond what 32 bits of bytes per second hold.
        let fast = HtbClass {
            handle: handle(0x7070, 1),
            parent: root.handle,
            rate_bps: 40_000_000_000,
            ceiling_bps: 80_000_000_000,
            priority: 3,
            ..root
        };
        for class in [root, fast] {
            net.set_class(link, &class).unwrap();
        }
        net.add_queue(link, fast.handle, 0, 50, true).unwrap();
        let seen = |net: &mut Netlink, handle| {
            net.classes(link).unwrap().into_iter().find(|seen| seen.class.handle == handle).unwrap()
        };
        assert_eq!(seen(net, fast.handle).class, fast);
        let before = net.qdiscs(link).unwrap();
        let slower = HtbClass { rate_bps: 8_000_000, ceiling_bps: 16_000_000, quantum_bytes: 3000, ..fast };
        net.set_class(link, &slower).unwrap();
        assert_eq!(seen(net, fast.handle).class, slower);
        let kinds = |qdiscs: Vec<qdisc::Qdisc>| qdiscs.into_iter().map(|q| (q.kind, q.handle)).collect::<Vec<_>>();
        assert_eq!(kinds(before), kinds(net.qdiscs(link).unwrap()));
        let qdiscs = net.qdiscs(link).unwrap();
        let top = qdiscs.iter().find(|qdisc| qdisc.parent == qdisc::ROOT).unwrap();
        assert_eq!((top.kind.as_str(), top.default_class), ("htb", Some(0xfff)));
        net.delete_class(link, fast.handle).unwrap();
        net.delete_class(link, fast.handle).unwrap();
        assert_eq!(net.classes(link).unwrap().len(), 1);
        net.delete_root(link, 0x7070).unwrap();
        net.delete_root(link, 0x7070).unwrap();
        assert_eq!(kinds(untouched), kinds(net.qdiscs(link).unwrap()));
    });
}

#[test]
fn a_published_port_leads_to_the_pod_and_back() {
    let Some(rig) = Rig::new("a_published_port_leads_to_the_pod_and_back") else { return };
    rig.join();
    if let Err(error) = namespace::inside(&rig.path("a"), nat::probe) {
        println!("skipped: a_published_port_leads_to_the_pod_and_back: {error}");
        return;
    }
    let server = namespace::inside(&rig.path("b"), || Ok(TcpListener::bind("10.9.0.2:8080").unwrap())).unwrap();
    let answers = std::thread::spawn(move || {
        let mut peers = Vec::new();
        for stream in server.incoming().take(2) {
            let mut stream = stream.unwrap();
            stream.write_all(b"hello").unwrap();
            peers.push(stream.peer_addr().unwrap().ip());
        }
        peers
    });
    let forward = Forward { protocol: 6, host_port: 18080, address: ip("10.9.0.2"), port: 8080 };
    let nat = Nat {
        forwards: vec![forward, Forward { protocol: 17, ..forward }],
        masquerade: vec![(ip("10.7.0.0"), 24), (ip("fd07::"), 64)],
        // More than a socket takes at once unless it is told to.
        pods: (0..20_000_u32).map(|n| IpAddr::from((0x0a07_0000 + n).to_be_bytes())).chain([ip("fd07::7")]).collect(),
        bridges: "va".to_owned(),
        closed: std::collections::BTreeSet::new(),
    };
    let ask = |to: &str| {
        let mut text = String::new();
        let mut stream = TcpStream::connect(to).unwrap();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    inside(&rig.path("a"), |_| {
        nat::replace("test-a", &nat).unwrap();
        // Again is nothing new.
        nat::replace("test-a", &nat).unwrap();
        assert!(sysctl::write("ipv4/conf/va/route_localnet", "1").unwrap());
        assert_eq!(sysctl::read("ipv4/conf/va/route_localnet").unwrap().as_deref(), Some("1"));
        assert!(!sysctl::write("ipv4/conf/va/no_such_setting", "1").unwrap());
        assert!(sysctl::write("ipv4/../../kernel/x", "1").is_err());
        assert_eq!(ask("10.9.0.1:18080"), "hello");
        assert_eq!(ask("127.0.0.1:18080"), "hello");
    });
    let peers = answers.join().unwrap();
    assert_eq!(peers, [ip("10.9.0.1"), ip("10.9.0.1")]);
    inside(&rig.path("a"), |_| {
        nat::replace("test-a", &Nat::default()).unwrap();
        nat::replace("test-a", &Nat::default()).unwrap();
        assert!(TcpStream::connect("10.9.0.1:18080").is_err());
    });
}

#[test]
fn a_table_that_somebody_changed_is_told_from_ours() {
    let test = "a_table_that_somebody_changed_is_told_from_ours";
    let Some(rig) = Rig::new(test) else { return };
    if let Err(error) = namespace::inside(&rig.path("a"), nat::probe) {
        println!("skipped: {test}: {error}");
        return;
    }
    let forward = Forward { protocol: 6, host_port: 18080, address: ip("10.9.0.2"), port: 8080 };
    let nat = Nat {
        forwards: vec![forward],
        masquerade: vec![(ip("10.7.0.0"), 24)],
        pods: (0..5000_u32).map(|n| IpAddr::from((0x0a07_0000 + n).to_be_bytes())).collect(),
        bridges: "va".to_owned(),
        closed: std::collections::BTreeSet::new(),
    };
    inside(&rig.path("a"), |_| {
        assert_eq!(nat::fingerprint("test-a").unwrap(), None);
        let mut listener = Listener::of_table("test-a").unwrap();
        nat::replace("test-a", &nat).unwrap();
        assert!(listener.drain().unwrap());
        let ours = nat::fingerprint("test-a").unwrap();
        assert!(ours.is_some());
        // Another table is nobody's concern.
        nat::replace("other", &Nat { pods: Vec::new(), ..nat.clone() }).unwrap();
        assert_eq!(nat::fingerprint("test-a").unwrap(), ours);
        assert!(!listener.drain().unwrap());
        let nft = |line: &str| std::process::Command::new("nft").args(line.split(' ')).status().ok();
        for line in [
            "delete element inet test-a pods4 { 10.7.0.9 }",
            "flush chain inet test-a guard",
            "flush table inet test-a",
            "delete table inet test-a",
        ] {
            let ours = nat::fingerprint("test-a").unwrap();
            let Some(status) = nft(line) else {
                println!("skipped: {test}: no nft");
                return;
            };
            assert!(status.success(), "{line}");
            assert_ne!(nat::fingerprint("test-a").unwrap(), ours, "{line}");
            assert!(listener.drain().unwrap(), "{line}");
            nat::replace("test-a", &nat).unwrap();
            assert!(listener.drain().unwrap());
        }
        assert_ne!(nat::fingerprint("test-a").unwrap(), ours, "made anew");
    });
}
