//! Pods of a kubelet get the classes of a Network of mode Host: on a CNI plugin's veth pair, and in the node's own network by their kubelet's cgroup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod town;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pullpiri_agent::Pods;
use pullpiri_crds::NetworkSliceSpec;
use pullpiri_crds::network::{NetworkMode, Verdict};
use pullpiri_crds::slice::{SliceClass, SliceEndpoint, SliceNetwork, SliceSelector};
use pullpiri_node_core::network::Generation;
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Address, Family, LinkChange, Netlink, Route, namespace, sysctl};
use town::{Node, Town, inside, ip, run};

const LIMIT: Duration = Duration::from_secs(10);
const UID: &str = "5a0d2c6e-0b1f-4a5e-9c1d-1f2e3d4c5b6a";
const CLASS: &str = "default/host/all";

/// A workload that sends one datagram to the other node whenever it is told to.
struct Sender(Child);

impl Sender {
    fn start(namespace: &Path, cgroup: Option<&Path>) -> Self {
        let join = cgroup.map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).unwrap_or_default();
        let script = format!("{join}echo; while read -r _; do echo x > /dev/udp/192.0.2.2/7009; done");
        let mut command = Command::new("bash");
        command.args(["-ec", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut this = Self(inside(namespace, || command.spawn()).unwrap());
        // A socket belongs to the cgroup in which it is made.
        std::io::Read::read_exact(this.0.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        this
    }

    fn send(&mut self, count: usize) {
        self.0.stdin.as_mut().unwrap().write_all(&b"\n".repeat(count)).unwrap();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace as a CNI plugin makes it: 10.30.0.2 behind the node's `cni0`, routed.
struct Cni(PathBuf);

impl Cni {
    fn new(town: &Town) -> Self {
        let path = town.directory.path().join("guest");
        namespace::create(&path).unwrap();
        let there = namespace::open(&path).unwrap();
        let ends = [(town.nodes[0].namespace.as_path(), "cni0", "10.30.0.1"), (&path, "eth0", "10.30.0.2")];
        inside(ends[0].0, || {
            let mut net = Netlink::open(Family::Route).unwrap();
            net.create_veth(("cni0", [2, 0, 0, 0, 7, 1]), ("eth0", [2, 0, 0, 0, 7, 2]), there.as_fd(), 1500).unwrap();
            sysctl::write("ipv4/conf/all/forwarding", "1").unwrap();
        });
        for (namespace, name, address) in ends {
            inside(namespace, || {
                let mut net = Netlink::open(Family::Route).unwrap();
                let link = net.link(name).unwrap().unwrap().index;
                net.add_address(&Address { link, address: ip(address), prefix: 24, global: true }).unwrap();
                net.set_link(link, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
                if name == "eth0" {
                    let gateway = Some(ip("10.30.0.1"));
                    let destination = ip("0.0.0.0");
                    net.add_route(&Route {
                        destination,
                        prefix: 0,
                        gateway,
                        link,
                        protocol: 4,
                        metric: 0,
                        source: None,
                    })
                    .unwrap();
                }
            });
        }
        Self(path)
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        let _ = namespace::remove(&self.0);
    }
}

/// A Network of mode Host with one class for all that its one endpoint sends.
fn slice(node: &Node, endpoints: &[&str]) -> NetworkSliceSpec {
    let endpoint = |uid: &&str| SliceEndpoint {
        instance: "default/guest".to_owned(),
        uid: (*uid).to_owned(),
        model: "guest".to_owned(),
        network: 1,
        identity: 1,
        addresses: Vec::new(),
        node: node.name.clone(),
        via: Vec::new(),
    };
    let network = SliceNetwork {
        id: 1,
        name: "default/host".to_owned(),
        mode: NetworkMode::Host,
        v4: None,
        v6: None,
        gateways: Vec::new(),
        internal: Verdict::Allow,
        egress: false,
        masquerade: false,
    };
    let class = SliceClass {
        id: 1,
        name: CLASS.to_owned(),
        priority: 1,
        guarantee_bps: 1_000_000,
        ceiling_bps: None,
        dscp: None,
    };
    NetworkSliceSpec {
        node_name: node.name.clone(),
        count: 1,
        networks: vec![network],
        endpoints: endpoints.iter().map(endpoint).collect(),
        classes: vec![class],
        selectors: vec![SliceSelector { class: 1, identity: 0, network: 1, protocol: 17, port: 7009, dscp: None }],
        ..NetworkSliceSpec::default()
    }
}

fn take(node: &mut Node, number: i64, endpoints: &[&str]) {
    let mut slice = slice(node, endpoints);
    slice.generation = number;
    node.with(|plumbing| plumbing.take(Some(Generation { number, parts: vec![slice] })));
    assert_eq!(node.plumbing.as_ref().unwrap().failure(), None);
}

fn know(node: &mut Node, pods: &[(&str, &[u32])]) {
    let pods: Pods = pods
        .iter()
        .map(|(uid, pids)| (PodId((*uid).to_owned()), pids.iter().copied().collect::<BTreeSet<u32>>()))
        .collect::<BTreeMap<_, _>>();
    node.with(|plumbing| plumbing.know(pods));
    assert_eq!(node.plumbing.as_ref().unwrap().failure(), None);
}

/// What is attached for workloads whose network isn't ours.
fn attached(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.pins().join("links")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with("~guest_egress") || name.ends_with("~host_egress")).collect()
}

/// Ten datagrams more are in the class, and no other is.
fn has_its_class(node: &Node, sender: &mut Sender) {
    let count = || {
        let counters = node.plumbing.as_ref().unwrap().counters().unwrap().0;
        (counters.classes[CLASS].packets, counters.other.packets)
    };
    let before = count().0;
    sender.send(10);
    let began = Instant::now();
    while count().0 < before + 10 {
        assert!(began.elapsed() < LIMIT, "{:?} after {before}", count());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(count().0, before + 10);
}

/// Ten datagrams more are in no class.
fn has_no_class(node: &Node, sender: &mut Sender) {
    let count = || node.plumbing.as_ref().unwrap().counters().unwrap().0;
    let before = count();
    sender.send(10);
    let began = Instant::now();
    while count().other.packets < before.other.packets + 10 {
        assert!(began.elapsed() < LIMIT, "{:?} after {:?}", count().other, before.other);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(count().classes[CLASS].packets, before.classes[CLASS].packets);
}

fn town(test: &str) -> Option<Town> {
    let town = Town::new(test, Some(100_000_000))?;
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: {test}: no bash");
        return None;
    }
    Some(town)
}

#[test]
fn a_pod_on_a_cni_plugins_interface_has_its_class_until_it_goes() {
    let Some(mut town) = town("a_pod_on_a_cni_plugins_interface_has_its_class_until_it_goes") else { return };
    let cni = Cni::new(&town);
    let mut sender = Sender::start(&cni.0, None);
    let pid = sender.0.id();
    let node = &mut town.nodes[0];
    take(node, 1, &[UID]);
    assert_eq!(attached(node), [""; 0], "nobody says that it is there");
    has_no_class(node, &mut sender);
    know(node, &[(UID, &[pid])]);
    let there = attached(node);
    assert!(there.len() == 1 && there[0].starts_with("cni0~") && there[0].ends_with("~guest_egress"), "{there:?}");
    has_its_class(node, &mut sender);
    // Between two starts of its container.
    know(node, &[(UID, &[])]);
    assert_eq!(attached(node), there);
    // Another node runtime takes it over, also before it is told of any Pod.
    node.start();
    assert_eq!(attached(node), there);
    has_its_class(node, &mut sender);
    know(node, &[(UID, &[pid])]);
    assert_eq!(attached(node), there);
    has_its_class(node, &mut sender);
    // With the Pod it goes, and with the network.
    know(node, &[]);
    assert_eq!(attached(node), [""; 0]);
    has_no_class(node, &mut sender);
    know(node, &[(UID, &[pid])]);
    assert_eq!(attached(node), there);
    take(node, 2, &[]);
    assert_eq!(attached(node), [""; 0]);
    take(node, 3, &[UID]);
    assert_eq!(attached(node), there);
    // One that went while nobody was there.
    drop(node.plumbing.take());
    run(&node.namespace, "ip link del cni0");
    node.start();
    know(node, &[]);
    assert_eq!(attached(node), [""; 0]);
}

#[test]
fn an_interface_with_filters_of_others_is_left_alone() {
    let Some(mut town) = town("an_interface_with_filters_of_others_is_left_alone") else { return };
    let cni = Cni::new(&town);
    let mut sender = Sender::start(&cni.0, None);
    let pid = sender.0.id();
    let node = &mut town.nodes[0];
    take(node, 1, &[UID]);
    run(&node.namespace, "tc qdisc add dev cni0 clsact");
    know(node, &[(UID, &[pid])]);
    assert_eq!(attached(node), [""; 0]);
    has_no_class(node, &mut sender);
    run(&node.namespace, "tc qdisc del dev cni0 clsact");
    know(node, &[(UID, &[pid, 1])]);
    has_its_class(node, &mut sender);
}

/// Groups of a kubelet in a hierarchy of version 2; removed at the end.
struct Kubelet(PathBuf);

impl Kubelet {
    fn new() -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
        let this = Self(root.join(format!("pullpiri-test-{}", std::process::id())));
        std::fs::create_dir_all(this.container()).ok()?;
        Some(this)
    }

    fn container(&self) -> PathBuf {
        self.0.join(format!("kubepods/burstable/pod{UID}/1f00"))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let container = self.container();
        let groups = container.ancestors().take_while(|group| group.starts_with(&self.0));
        for group in groups {
            let began = Instant::now();
            while std::fs::remove_dir(group).is_err() && group.exists() && began.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn a_pod_in_the_nodes_own_network_has_its_class() {
    let Some(mut town) = town("a_pod_in_the_nodes_own_network_has_its_class") else { return };
    let Some(kubelet) = Kubelet::new() else {
        println!("skipped: a_pod_in_the_nodes_own_network_has_its_class: no cgroup v2");
        return;
    };
    let node = &mut town.nodes[0];
    let mut sender = Sender::start(&node.namespace, Some(&kubelet.container()));
    let pid = sender.0.id();
    take(node, 1, &["the-instance"]);
    has_no_class(node, &mut sender);
    know(node, &[("the-instance", &[pid])]);
    let there = attached(node);
    assert!(there.len() == 1 && there[0].ends_with("~host_egress"), "{there:?}");
    has_its_class(node, &mut sender);
    node.start();
    assert_eq!(attached(node), there);
    know(node, &[("the-instance", &[pid])]);
    has_its_class(node, &mut sender);
    know(node, &[]);
    assert_eq!(attached(node), [""; 0]);
    has_no_class(node, &mut sender);
    drop(sender);
}
