//! A node with pods, as network namespaces: bridges with gateways, veths, an uplink; and threads that work inside of one.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::net_support::Fixture;

/// Long enough for a machine under load; nothing waits this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Why there can be none here.
pub fn missing() -> Option<String> {
    for tool in ["ip", "tc", "ping"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return Some(format!("no {tool}"));
        }
    }
    // Tests of one process ask at the same time.
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let name = format!("ppt-probe-{}-{}", std::process::id(), ASKED.fetch_add(1, Ordering::Relaxed));
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let _ = Command::new("ip").args(["netns", "del", &name]).output();
    match made {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("ip: {error}")),
    }
}

/// Namespaces `<prefix>-node`, `-a`, `-b` (network 10.20.0.0/24) and `-c` (10.30.0.0/24) and `-out` (192.0.2.0/24) behind the node's `up0`.
pub struct Topology {
    prefix: String,
}

impl Topology {
    /// With programs of its own, this thread in the node's namespace. `None` where it can't be, said why.
    pub fn with_datapath(name: &str) -> Option<(Self, Fixture)> {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return None;
        }
        let fixture = Fixture::new()?;
        let topology = Self::new(name);
        topology.enter("node");
        Some((topology, fixture))
    }

    pub fn new(name: &str) -> Self {
        let this = Self { prefix: format!("pp{name}-{}", std::process::id()) };
        let [node, out] = [this.name("node"), this.name("out")];
        // Addresses are usable at once: no detection of duplicates.
        let mut script = String::new();
        for part in ["node", "a", "b", "c", "out"] {
            let netns = this.name(part);
            script += &format!(
                "ip netns add {netns}
                 ip netns exec {netns} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
                    net.ipv6.conf.all.dad_transmits=0 net.ipv6.conf.default.dad_transmits=0
                 ip -n {netns} link set lo up\n"
            );
        }
        script += &format!("ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n");
        for third in [20, 30] {
            script += &format!(
                "ip -n {node} link add br{third} type bridge
                 ip -n {node} link set br{third} up
                 ip -n {node} addr add 10.{third}.0.1/24 dev br{third}
                 ip -n {node} addr add fd00:{third}::1/64 dev br{third} nodad\n"
            );
        }
        for (pod, third, host) in [("a", 20, 5), ("b", 20, 6), ("c", 30, 7)] {
            let netns = this.name(pod);
            script += &format!(
                "ip -n {node} link add p{pod} type veth peer name eth0 netns {netns}
                 ip -n {node} link set p{pod} master br{third} up
                 ip -n {netns} link set eth0 up
                 ip -n {netns} addr add 10.{third}.0.{host}/24 dev eth0
                 ip -n {netns} addr add fd00:{third}::{host}/64 dev eth0 nodad
                 ip -n {netns} route add default via 10.{third}.0.1
                 ip -n {netns} route add default via fd00:{third}::1\n"
            );
        }
        script += &format!(
            "ip -n {node} link add up0 type veth peer name eth0 netns {out}
             ip -n {node} link set up0 up
             ip -n {out} link set eth0 up
             ip -n {node} addr add 192.0.2.1/24 dev up0
             ip -n {out} addr add 192.0.2.2/24 dev eth0\n"
        );
        sh(&script);
        this
    }

    pub fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    pub fn enter(&self, part: &str) {
        enter(&self.name(part));
    }

    /// Works in a namespace, on a thread of its own.
    pub fn within<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(part, work).join().unwrap()
    }

    pub fn spawn<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let name = self.name(part);
        std::thread::spawn(move || {
            enter(&name);
            work()
        })
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for part in ["node", "a", "b", "c", "out"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(part)]).output();
        }
    }
}

/// Moves this thread. Not by `ip netns exec`: that hides a bpffs.
pub fn enter(name: &str) {
    let file = std::fs::File::open(Path::new("/run/netns").join(name)).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Questions and answers over UDP, one at a time, until it is stopped: a packet that is lost either way is a question without an answer.
pub struct Conversation {
    stop: Arc<AtomicBool>,
    stop_answering: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    asking: Option<JoinHandle<u64>>,
    answering: Option<JoinHandle<()>>,
}

impl Drop for Conversation {
    /// A test that failed leaves no traffic to the others.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stop_answering.store(true, Ordering::Relaxed);
    }
}

impl Conversation {
    pub fn start(topology: &Topology, asker: &str, answerer: &str, address: IpAddr, port: u16) -> Self {
        let (stop, stop_answering) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let answered = Arc::new(AtomicU64::new(0));
        let socket = topology.within(answerer, move || UdpSocket::bind((address, port)).unwrap());
        let stopped = Arc::clone(&stop_answering);
        let answering = std::thread::spawn(move || {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            }
        });
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let asking = topology.spawn(asker, move || {
            let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect((address, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let (mut asked, mut lost, mut buffer) = (0u64, 0, [0; 64]);
            while !stopped.load(Ordering::Relaxed) {
                asked += 1;
                socket.send(&asked.to_be_bytes()).unwrap();
                match socket.recv(&mut buffer) {
                    Ok(8) if buffer[..8] == asked.to_be_bytes() => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => lost += 1,
                }
                // A pace, or two conversations would leave no CPU to what is tested.
                std::thread::sleep(Duration::from_micros(200));
            }
            lost
        });
        Self { stop, stop_answering, answered, asking: Some(asking), answering: Some(answering) }
    }

    /// Waits until so many more questions were answered.
    pub fn proceeds_by(&self, more: u64) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        let start = std::time::Instant::now();
        while self.answered.load(Ordering::Relaxed) < until {
            assert!(start.elapsed() < PATIENCE, "traffic stands still");
            std::thread::yield_now();
        }
    }

    /// `(answered, lost)`.
    pub fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.asking.take().unwrap().join().unwrap();
        self.stop_answering.store(true, Ordering::Relaxed);
        self.answering.take().unwrap().join().unwrap();
        (self.answered.load(Ordering::Relaxed), lost)
    }
}
