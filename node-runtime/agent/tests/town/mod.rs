//! Two nodes as network namespaces that a veth pair joins, each with the agent's plumbing, and pods on them that are namespaces without
//! containers. Shared by the tests and the measurements.

#![allow(dead_code, reason = "each user needs its own part")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pullpiri_agent::{NetworkConfig, Plumbing};
use pullpiri_crds::NetworkSliceSpec;
use pullpiri_crds::network::{NetworkMode, Verdict};
use pullpiri_crds::slice::{SliceClass, SliceEndpoint, SliceNetwork, SlicePort, SliceSelector};
use pullpiri_node_core::network::{Attachment, Generation, HostPort, key};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Address, Family, LinkChange, Netlink, namespace, sysctl};

/// Of every network here.
const PREFIX: u8 = 24;

pub struct Town {
    pub directory: tempfile::TempDir,
    pub nodes: Vec<Node>,
}

pub struct Node {
    pub name: String,
    pub namespace: PathBuf,
    pub data: PathBuf,
    pub address: IpAddr,
    pub plumbing: Option<Plumbing>,
    rate_bps: Option<u64>,
}

/// A pod to be: its name, its node's index, its network's number and its address' last byte.
#[derive(Clone, Copy)]
pub struct Pod {
    pub name: &'static str,
    pub node: usize,
    pub network: u8,
    pub host: u8,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    namespace::inside(path, || Ok(work())).unwrap()
}

impl Pod {
    pub fn id(&self, town: &Town) -> PodId {
        // Names of interfaces follow from it, and tests run beside each other in namespaces of their own.
        PodId(format!("{}-{}", self.name, town.tag()))
    }

    pub fn address(&self) -> IpAddr {
        ip(&format!("10.2{}.0.{}", self.network, self.host))
    }

    pub fn v6(&self) -> IpAddr {
        ip(&format!("fd00:2{}::{}", self.network, self.host))
    }

    pub fn attachment(&self) -> Attachment {
        Attachment {
            network: format!("default/n{}", self.network),
            addresses: vec![self.address(), self.v6()],
            gateways: vec![ip(&format!("10.2{}.0.1", self.network)), ip(&format!("fd00:2{}::1", self.network))],
            ports: Vec::new(),
        }
    }

    pub fn publishing(&self, host_port: u16, port: u16) -> Attachment {
        Attachment { ports: vec![HostPort { protocol: 6, host_port, port }], ..self.attachment() }
    }

    pub fn namespace(&self, town: &Town) -> PathBuf {
        town.nodes[self.node].data.join("netns").join(&self.id(town).0)
    }
}

impl Town {
    /// `None`, and says so, where network namespaces or programs aren't allowed.
    pub fn new(test: &str, rate_bps: Option<u64>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut town = Self { directory, nodes: Vec::new() };
        for (index, name) in ["a", "b"].into_iter().enumerate() {
            let namespace = town.directory.path().join(format!("node-{name}"));
            if let Err(error) = namespace::create(&namespace) {
                println!("skipped: {test}: {error}");
                return None;
            }
            // What is compared later is settled from the start.
            inside(&namespace, || sysctl::write("ipv6/conf/default/accept_dad", "0").unwrap());
            let tag = town.tag();
            let data = town.directory.path().join(format!("data-{name}"));
            let address = ip(&format!("192.0.2.{}", index + 1));
            town.nodes.push(Node { name: format!("{tag}-{name}"), namespace, data, address, plumbing: None, rate_bps });
        }
        town.join();
        town.settle();
        for node in &mut town.nodes {
            node.start();
        }
        let missing = town.nodes[0].plumbing.as_ref().unwrap().state().missing;
        if let Some(missing) = missing {
            println!("skipped: {test}: {missing}");
            return None;
        }
        Some(town)
    }

    fn tag(&self) -> String {
        let random = self.directory.path().file_name().unwrap().to_string_lossy().to_lowercase();
        format!("t{}", random.replace(|c: char| !c.is_ascii_alphanumeric(), ""))
    }

    fn join(&self) {
        let there = namespace::open(&self.nodes[1].namespace).unwrap();
        inside(&self.nodes[0].namespace, || {
            let mut net = Netlink::open(Family::Route).unwrap();
            net.create_veth(("up0", [2, 0, 0, 0, 9, 1]), ("up0", [2, 0, 0, 0, 9, 2]), there.as_fd(), 1500).unwrap();
        });
        for node in &self.nodes {
            let v6 = ip(if node.address == ip("192.0.2.1") { "fd09::1" } else { "fd09::2" });
            inside(&node.namespace, || {
                let mut net = Netlink::open(Family::Route).unwrap();
                let link = net.link("up0").unwrap().unwrap().index;
                for (address, prefix) in [(node.address, 24), (v6, 64)] {
                    net.add_address(&Address { link, address, prefix, global: true }).unwrap();
                }
                net.set_link(link, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            });
        }
    }

    /// Until both ends have their carrier and what the kernel gives them then.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        for node in &self.nodes {
            while !run(&node.namespace, "ip addr show up0").contains("fe80:") {
                assert!(Instant::now() < deadline, "the link doesn't come up");
            }
            while !run(&node.namespace, "ip link show up0").contains("state UP") {
                assert!(Instant::now() < deadline, "the link doesn't come up");
            }
        }
    }

    pub fn attach(&mut self, pod: Pod) {
        self.attach_as(pod, pod.attachment());
    }

    pub fn attach_as(&mut self, pod: Pod, attachment: Attachment) {
        let id = pod.id(self);
        self.nodes[pod.node].with(|plumbing| plumbing.attach(&id, &attachment)).unwrap();
    }

    pub fn detach(&mut self, pod: Pod) {
        let id = pod.id(self);
        self.nodes[pod.node].with(|plumbing| plumbing.detach(&id)).unwrap();
    }

    /// Has both nodes take a generation with these pods, and classes with their selectors.
    pub fn apply(&mut self, number: i64, pods: &[Pod], classes: &[SliceClass], selectors: &[SliceSelector]) {
        self.apply_with(number, pods, classes, selectors, &[]);
    }

    pub fn apply_with(
        &mut self,
        number: i64,
        pods: &[Pod],
        classes: &[SliceClass],
        selectors: &[SliceSelector],
        ports: &[SlicePort],
    ) {
        for index in 0..self.nodes.len() {
            let slice = self.slice(index, number, pods, classes, selectors, ports);
            let generation = Generation { number, parts: vec![slice] };
            self.nodes[index].with(|plumbing| plumbing.take(Some(generation)));
            let failure = self.nodes[index].plumbing.as_ref().unwrap().failure().map(str::to_owned);
            assert_eq!(failure, None, "node {index}");
        }
    }

    /// A node's part of a generation.
    pub fn slice_of(&self, index: usize, number: i64, pods: &[Pod]) -> NetworkSliceSpec {
        self.slice(index, number, pods, &[], &[], &[])
    }

    fn slice(
        &self,
        index: usize,
        generation: i64,
        pods: &[Pod],
        classes: &[SliceClass],
        selectors: &[SliceSelector],
        ports: &[SlicePort],
    ) -> NetworkSliceSpec {
        let mut networks: Vec<SliceNetwork> = Vec::new();
        let mut endpoints = Vec::new();
        for (pod, identity) in pods.iter().zip(1..) {
            let id = i32::from(pod.network);
            if !networks.iter().any(|network| network.id == id) {
                networks.push(SliceNetwork {
                    id,
                    name: format!("default/n{id}"),
                    mode: NetworkMode::Bridge,
                    v4: Some(format!("10.2{id}.0.0/{PREFIX}")),
                    v6: Some(format!("fd00:2{id}::/64")),
                    gateways: vec![format!("10.2{id}.0.1"), format!("fd00:2{id}::1")],
                    internal: Verdict::Allow,
                    egress: true,
                    masquerade: true,
                });
            }
            let via: Vec<String> = if pod.node == index {
                Vec::new()
            } else {
                let v6 = if pod.node == 0 { "fd09::1" } else { "fd09::2" };
                vec![self.nodes[pod.node].address.to_string(), v6.to_owned()]
            };
            endpoints.push(SliceEndpoint {
                instance: format!("default/{}", pod.name),
                uid: pod.id(self).0,
                model: pod.name.to_owned(),
                network: id,
                identity,
                addresses: vec![pod.address().to_string(), pod.v6().to_string()],
                node: self.nodes[pod.node].name.clone(),
                via,
            });
        }
        NetworkSliceSpec {
            node_name: self.nodes[index].name.clone(),
            generation,
            index: 0,
            count: 1,
            networks,
            endpoints,
            classes: classes.to_vec(),
            selectors: selectors.to_vec(),
            ports: if index == 0 { ports.to_vec() } else { Vec::new() },
            ..NetworkSliceSpec::default()
        }
    }

    /// Everything away.
    pub fn clear(&mut self, pods: &[Pod]) {
        for pod in pods {
            self.detach(*pod);
        }
        for node in &mut self.nodes {
            node.with(|plumbing| plumbing.take(None));
        }
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if node.plumbing.is_some() {
                let pods: Vec<PodId> = node.plumbing.as_ref().unwrap().state().attached.into_iter().collect();
                node.with(|plumbing| {
                    for pod in &pods {
                        let _ = plumbing.detach(pod);
                    }
                    plumbing.take(None);
                });
            }
            let _ = namespace::remove(&node.namespace);
            let _ = std::fs::remove_dir_all(node.pins());
        }
    }
}

impl Node {
    /// Where its programs and maps are pinned.
    pub fn pins(&self) -> PathBuf {
        let installation = std::fs::read_to_string(self.data.join("network/installation")).unwrap_or_default();
        Path::new("/sys/fs/bpf/pullpiri").join(key(&self.name, installation.trim()))
    }

    /// A node runtime begins; whatever was there before was killed.
    pub fn start(&mut self) {
        self.start_on("up0", self.rate_bps);
    }

    pub fn start_on(&mut self, uplink: &str, link_rate_bps: Option<u64>) {
        let config = NetworkConfig { uplink: Some(uplink.to_owned()), link_rate_bps, api_server: None };
        drop(self.plumbing.take());
        let (name, data) = (self.name.clone(), self.data.clone());
        let plumbing = inside(&self.namespace, || {
            let mut plumbing = Plumbing::new(&name, &data, config);
            plumbing.open();
            plumbing
        });
        self.plumbing = Some(plumbing);
    }

    pub fn with<T: Send>(&mut self, work: impl FnOnce(&mut Plumbing) -> T + Send) -> T {
        let plumbing = self.plumbing.as_mut().unwrap();
        inside(&self.namespace, || work(plumbing))
    }

    /// What tools say of the namespace, to be compared.
    pub fn picture(&self) -> String {
        let mut text = String::new();
        for line in [
            "ip -d link",
            "ip addr",
            "ip route show table all",
            "ip -6 route show table all",
            "tc qdisc",
            "tc class show dev up0",
            "nft list ruleset",
            "grep . /proc/sys/net/ipv4/conf/up0/forwarding /proc/sys/net/ipv6/conf/up0/forwarding",
            "grep -s . /proc/sys/net/ipv6/conf/up0/force_forwarding",
        ] {
            let output = run(&self.namespace, line);
            // Timers of bridges run whether or not anything happens.
            let output: String = output
                .lines()
                .map(|line| {
                    let mut after = false;
                    let is_time = |word: &&str| !std::mem::replace(&mut after, word.ends_with("timer"));
                    line.split(' ').filter(|word| !word.is_empty()).filter(is_time).collect::<Vec<_>>().join(" ") + "\n"
                })
                .collect();
            text.push_str(&format!("# {line}\n{output}"));
        }
        text
    }
}

/// Panics with the lines that differ.
pub fn assert_same(before: &str, after: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(after));
    let missing: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let added: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "missing: {missing:#?}\nadded: {added:#?}");
}

/// A command's output, in a namespace; empty if there is no such command.
pub fn run(namespace: &Path, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let output = inside(namespace, || command.output());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// A process in a namespace; killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn spawn(namespace: &Path, line: &str) -> Process {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::null());
    Process(inside(namespace, || command.spawn()).unwrap())
}
