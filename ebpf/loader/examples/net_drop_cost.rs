//! What a denied packet costs, against nftables with a set, on one path: the same sender, the same veth, alternated. Prints one line of JSON.
//!
//! A pod's network namespace sends UDP from one pinned thread; the node's namespace drops what its veth delivers. Transmission over a veth runs the
//! receiving side on the sender's CPU before the call returns, so the thread's CPU time (and that of the CPU's ksoftirqd, should it take over) over
//! packets is the whole cost of a packet: sending, delivery, and the verdict. Variants:
//!
//! * `tcx`: our programs (stateful; spoofing, connection, identities, rules) with 10, 1,000 and 10,000 rules
//! * `nft_forward`: nftables as one writes a stateful allow list: forward hook, `ct state`, a set of 1,000 concatenations
//! * `nft_ingress`: the same set at the netdev ingress hook of the veth, where there is no connection state
//! * `floor`: an nftables `drop` alone at that hook: what is left is sending and delivery
//!
//! `run_denied_ns` and `run_established_ns` are the program alone, by BPF_PROG_TEST_RUN at 1,000 rules: a packet that no rule allows, and one of a
//! connection that was allowed; `run_denied_one_pair_…` with all rules between these two, where a search is longest.
//!
//! `ratio` compares tcx with nft_forward (the same job), `ratio_verdict` what they cost above the floor, `ratio_ingress` and
//! `ratio_ingress_verdict` the same against the stateless set.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a measurement that can't be made ends")]

use std::fmt::Write as _;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Compiled, Endpoint, Network, Place, Rule, Source};
use pullpiri_ebpf::net::{Datapath, DropReason, Hook, PodPort, RunVerdict, ensure_bpffs, probe};

const ROUNDS: usize = 9;
const BATCH: usize = 64;
const PACKETS: usize = 64 * 600;
const SOURCE: &str = "10.201.0.5";
const TARGET: &str = "10.202.0.5";
/// Ports that no rule allows.
const FIRST_DENIED: u16 = 40_000;

fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Topology {
    pod: String,
    node: String,
    target: String,
    bpffs: tempfile::TempDir,
}

impl Topology {
    fn new() -> Self {
        let id = std::process::id();
        let this = Self {
            pod: format!("ppdc-a-{id}"),
            node: format!("ppdc-n-{id}"),
            target: format!("ppdc-b-{id}"),
            bpffs: tempfile::tempdir().unwrap(),
        };
        ensure_bpffs(this.bpffs.path()).unwrap();
        let Self { pod, node, target, .. } = &this;
        sh(&format!(
            "for n in {pod} {node} {target}; do ip netns add $n; ip netns exec $n sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; ip -n $n link set lo up; done
             ip -n {node} link add pa type veth peer name eth0 netns {pod}
             ip -n {node} link add pb type veth peer name eth0 netns {target}
             for n in {pod} {target}; do ip -n $n link set eth0 up; done
             ip -n {node} link set pa up; ip -n {node} link set pb up
             ip -n {node} addr add 10.201.0.1/24 dev pa; ip -n {node} addr add 10.202.0.1/24 dev pb
             ip -n {pod} addr add {SOURCE}/24 dev eth0; ip -n {target} addr add {TARGET}/24 dev eth0
             ip -n {pod} route add default via 10.201.0.1; ip -n {target} route add default via 10.202.0.1
             ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1"
        ));
        this
    }

    fn enter(&self, name: &str) {
        let file = std::fs::File::open(Path::new("/run/netns").join(name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    fn nft(&self, rules: &str) {
        use std::io::Write;
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Packets that reached the target's veth.
    fn delivered(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = text.lines().find(|line| line.trim_start().starts_with("pb:")).unwrap();
        line.split_whitespace().nth(10).unwrap().parse().unwrap()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.bpffs.path(), nix::mount::MntFlags::MNT_DETACH);
        for name in [&self.pod, &self.node, &self.target] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Rules between 100 × 100 identities, the sender's and the target's among them.
fn policy(rules: u16, generation: u64) -> Compiled {
    let network = |id: u16| Network {
        id,
        name: format!("bench/n{id}"),
        subnets: vec![format!("10.20{id}.0.0/24").parse().unwrap()],
        gateways: vec![format!("10.20{id}.0.1").parse().unwrap()],
        internal: Verdict::Deny,
        egress: Verdict::Deny,
    };
    let endpoint = |network: u16, host: u16| Endpoint {
        instance: format!("bench/i{network}-{host}"),
        uid: format!("{network}-{host}"),
        network,
        identity: u32::from(network) * 1000 + u32::from(host),
        addresses: vec![format!("10.20{network}.0.{host}").parse().unwrap()],
        place: Place::Here,
    };
    let rule = |i: u16| Rule {
        id: u32::from(i) + 1,
        name: format!("bench/n2/r{i}"),
        from: Source::Identity(1000 + 5 + u32::from(i) % 100),
        to: 2000 + 5 + u32::from(i) / 100 % 100,
        protocol: 17,
        first_port: 1000 + i,
        last_port: 1000 + i,
    };
    Compiled {
        generation,
        networks: vec![network(1), network(2)],
        endpoints: (5..105).flat_map(|host| [endpoint(1, host), endpoint(2, host)]).collect(),
        rules: (0..rules).map(rule).collect(),
        ..Compiled::default()
    }
}

/// The same rules as a set of nftables.
fn nft_set(table: &str, rules: u16) -> String {
    let mut text =
        format!("add set {table} allowed {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 65536; }}\n");
    write!(text, "add element {table} allowed {{ ").unwrap();
    for i in 0..rules {
        let (from, to, port) = (5 + i % 100, 5 + i / 100 % 100, 1000 + i);
        write!(text, "10.201.0.{from} . 10.202.0.{to} . udp . {port}, ").unwrap();
    }
    text.push_str("}\n");
    text
}

fn ksoftirqd_ns(cpu: usize) -> u64 {
    let name = format!("ksoftirqd/{cpu}");
    let found = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .find(|entry| std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    let Some(entry) = found else { return 0 };
    let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// CPU nanoseconds per packet.
fn send(socket: &UdpSocket, cpu: usize) -> f64 {
    let payload = [0u8; 64];
    let buffers: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&payload)]).collect();
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut spent = 0;
    // The first part warms the caches.
    for part in [PACKETS / 10, PACKETS] {
        let before = ksoftirqd_ns(cpu);
        let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        for batch in 0..part / BATCH {
            let port = |i: usize| FIRST_DENIED + u16::try_from((batch * BATCH + i) % 1024).unwrap();
            let to: Vec<Option<SockaddrIn>> =
                (0..BATCH).map(|i| Some(SocketAddrV4::new(TARGET.parse().unwrap(), port(i)).into())).collect();
            sendmmsg(socket.as_raw_fd(), &mut headers, &buffers, to, [], MsgFlags::empty()).unwrap();
        }
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        let thread = std::time::Duration::from(end) - std::time::Duration::from(start);
        spent = u64::try_from(thread.as_nanos()).unwrap() + ksoftirqd_ns(cpu) - before;
    }
    precise(spent) / precise(u64::try_from(PACKETS).unwrap())
}

/// Below 2^53: exact.
fn precise(n: u64) -> f64 {
    let (high, low) = (u32::try_from(n >> 32).unwrap(), u32::try_from(n & 0xffff_ffff).unwrap());
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Tcx(u16),
    NftForward,
    NftIngress,
    Floor,
}

const VARIANTS: [Variant; 6] = [
    Variant::Tcx(10),
    Variant::Tcx(1000),
    Variant::Tcx(10_000),
    Variant::NftForward,
    Variant::NftIngress,
    Variant::Floor,
];

fn measure(
    topology: &Topology,
    datapath: &mut Datapath,
    socket: &UdpSocket,
    cpu: usize,
    variant: Variant,
    round: usize,
) -> f64 {
    match variant {
        Variant::Tcx(rules) => {
            datapath.apply(&policy(rules, u64::try_from(round + 1).unwrap())).unwrap();
            let addresses: Vec<IpAddr> = vec![SOURCE.parse().unwrap()];
            datapath.attach_pod("pa", &PodPort { addresses, mac: None }).unwrap();
        }
        Variant::NftForward => topology.nft(&format!(
            "add table ip bench\nadd chain ip bench forward {{ type filter hook forward priority 0; policy drop; }}\n{}
             add rule ip bench forward ct state established,related accept
             add rule ip bench forward ip saddr . ip daddr . meta l4proto . th dport @allowed accept\n",
            nft_set("ip bench", 1000)
        )),
        Variant::NftIngress => topology.nft(&format!(
            "add table netdev bench\nadd chain netdev bench in {{ type filter hook ingress device pa priority 0; policy drop; }}\n{}
             add rule netdev bench in ip saddr . ip daddr . meta l4proto . th dport @allowed accept\n",
            nft_set("netdev bench", 1000)
        )),
        Variant::Floor => topology.nft(
            "add table netdev bench\nadd chain netdev bench in { type filter hook ingress device pa priority 0; policy drop; }\n",
        ),
    }
    let before = topology.delivered();
    let denied = |datapath: &Datapath| datapath.counters().unwrap().drops[&DropReason::Denied];
    let dropped = denied(datapath);
    let cost = send(socket, cpu);
    // ARP goes on beside it.
    assert!(topology.delivered() - before < 8, "something got through");
    match variant {
        Variant::Tcx(_) => {
            assert_eq!(denied(datapath) - dropped, u64::try_from(PACKETS + PACKETS / 10 / BATCH * BATCH).unwrap());
            datapath.detach_pod("pa").unwrap();
        }
        Variant::NftForward => topology.nft("delete table ip bench\n"),
        Variant::NftIngress | Variant::Floor => topology.nft("delete table netdev bench\n"),
    }
    cost
}

/// All rules between the sender and the target, every second port: nothing to merge, and the longest search there is.
fn one_pair(rules: u16) -> Compiled {
    let mut policy = policy(0, 1);
    policy.rules = (0..rules)
        .map(|i| Rule {
            id: u32::from(i) + 1,
            name: format!("bench/n2/r{i}"),
            from: Source::Identity(1005),
            to: 2005,
            protocol: 17,
            first_port: 20_001 + 2 * i,
            last_port: 20_001 + 2 * i,
        })
        .collect();
    policy
}

/// Nanoseconds of pod_egress alone, a packet that is denied: with 10 and 10,000 rules of one pair; with 1,000 of many; and an established one.
fn program_alone(datapath: &mut Datapath) -> [f64; 4] {
    let [few, many] = [10, 10_000].map(|rules| alone(datapath, one_pair(rules), [10, 202, 0, 5], RunVerdict::Drop));
    let mut policy = policy(1000, 1);
    policy.networks[0].egress = Verdict::Allow;
    let denied = alone(datapath, policy.clone(), [10, 202, 0, 5], RunVerdict::Drop);
    [few, many, denied, alone(datapath, policy, [203, 0, 113, 1], RunVerdict::Pass)]
}

fn alone(datapath: &mut Datapath, policy: Compiled, destination: [u8; 4], verdict: RunVerdict) -> f64 {
    datapath.apply(&policy).unwrap();
    datapath.set_run_port(&PodPort { addresses: vec![SOURCE.parse().unwrap()], mac: None }).unwrap();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0, 10, 201, 0, 5]);
    frame.extend(destination);
    // Port 40000.
    frame.extend([0x9c, 0x40, 0x9c, 0x40, 0, 72, 0, 0]);
    frame.extend([0; 64]);
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let run = datapath.run(Hook::PodEgress, &frame, 100_000).unwrap();
        assert_eq!(run.verdict, verdict);
        costs.push(precise(u64::try_from(run.duration.as_nanos()).unwrap()));
    }
    median(&costs)
}

fn main() {
    let has = |tool: &str| Command::new(tool).arg("-V").output().is_ok_and(|output| output.status.success());
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("not root")
    } else if !has("ip") {
        Some("no ip (iproute2)")
    } else if !has("nft") {
        Some("no nft")
    } else {
        None
    };
    if let Some(missing) = missing {
        println!("{{\"bench\":\"net_drop_cost\",\"skipped\":\"{missing}\"}}");
        return;
    }
    let topology = Topology::new();
    let pins = topology.bpffs.path().join("node");
    if let Some(missing) = probe(&pins).missing() {
        println!("{{\"bench\":\"net_drop_cost\",\"skipped\":\"{}\"}}", missing.replace('"', "'"));
        return;
    }
    let cpu = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
    topology.enter(&topology.pod);
    let socket = UdpSocket::bind((SOURCE, 0)).unwrap();
    topology.enter(&topology.node);
    let mut datapath = Datapath::open_or_load(&pins).unwrap();
    // The gateway's hardware address is asked for once.
    socket.send_to(b"x", (TARGET, 9)).unwrap();
    let mut costs = [const { Vec::new() }; VARIANTS.len()];
    for round in 0..ROUNDS {
        for i in 0..VARIANTS.len() {
            // Another order each round.
            let i = (i + round) % VARIANTS.len();
            costs[i].push(measure(&topology, &mut datapath, &socket, cpu, VARIANTS[i], round));
        }
    }
    let [few, many, denied, established] = program_alone(&mut datapath);
    datapath.remove().unwrap();
    let [ten, thousand, ten_thousand, forward, ingress, floor] = costs.map(|list| median(&list));
    println!(
        "{{\"bench\":\"net_drop_cost\",\"packets\":{PACKETS},\"rounds\":{ROUNDS},\"tcx_10_ns\":{ten:.1},\"tcx_1000_ns\":{thousand:.1},\
         \"tcx_10000_ns\":{ten_thousand:.1},\"nft_forward_1000_ns\":{forward:.1},\"nft_ingress_1000_ns\":{ingress:.1},\"floor_ns\":{floor:.1},\
         \"run_denied_ns\":{denied:.0},\"run_established_ns\":{established:.0},\
         \"run_denied_one_pair_10_ns\":{few:.0},\"run_denied_one_pair_10000_ns\":{many:.0},\
         \"ratio\":{:.3},\"ratio_verdict\":{:.3},\"ratio_ingress\":{:.3},\"ratio_ingress_verdict\":{:.3},\"growth\":{:.3},\"growth_verdict\":{:.3}}}",
        thousand / forward,
        (thousand - floor) / (forward - floor),
        thousand / ingress,
        (thousand - floor) / (ingress - floor),
        ten_thousand / ten,
        (ten_thousand - floor) / (ten - floor),
    );
}
