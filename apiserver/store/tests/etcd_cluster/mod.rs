//! etcd clusters for tests: real `etcd` processes on loopback, and what can happen to them.
//!
//! A member's clients and peers reach it through proxies of this process, so that it can be cut off. A cut drops nothing and closes
//! nothing: bytes wait until it heals, as they would in the kernel of a machine that lost its network.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests, each of which uses a part"
)]

mod proxy;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy::Proxy;
use tempfile::TempDir;

/// PEM files for a cluster's clients.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

struct Member {
    name: String,
    process: Option<Child>,
    arguments: Vec<String>,
    clients: SocketAddr,
    peers: SocketAddr,
    client_proxy: Option<Proxy>,
    peer_proxy: Option<Proxy>,
    /// As etcd writes it, once it is known.
    id: Option<u64>,
}

pub struct Cluster {
    members: Vec<Member>,
    folder: TempDir,
    scheme: &'static str,
}

/// Below the ports that the kernel gives to connections, so that none takes it before the member does.
fn free_address() -> SocketAddr {
    static TURN: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 9_000).unwrap();
    (0..9_000)
        .map(|_| 12_000 + (start + TURN.fetch_add(1, Ordering::Relaxed) % 9_000))
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr()).ok())
        .expect("a free port")
}

/// Why there is no etcd here; said once for each test.
pub fn missing() -> bool {
    let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = there.is_err();
    if missing {
        println!("skipped: no etcd (apt-get install etcd-server)");
    }
    missing
}

impl Cluster {
    /// One member that clients reach directly. It answers once a client waits for it.
    pub fn single() -> Self {
        Self::single_with(None, &[])
    }

    pub fn single_with(certificates: Option<&Certificates>, flags: &[&str]) -> Self {
        let folder = folder();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let mut member = member(0, folder.path(), scheme);
        let peers = format!("http://{}", member.peers);
        member.arguments.extend(["--initial-advertise-peer-urls".into(), peers.clone()]);
        member.arguments.extend(["--initial-cluster".into(), format!("{}={peers}", member.name)]);
        member.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        if let Some(files) = certificates {
            let path = |path: &Path| path.display().to_string();
            member.arguments.extend(["--cert-file".into(), path(&files.certificate)]);
            member.arguments.extend(["--key-file".into(), path(&files.key)]);
            member.arguments.extend(["--trusted-ca-file".into(), path(&files.ca), "--client-cert-auth".into()]);
        }
        let mut cluster = Self { members: vec![member], folder, scheme };
        cluster.start(0);
        cluster
    }

    /// Three members behind proxies, with a leader. Needs a tokio runtime, on which the proxies run.
    pub async fn of_three() -> Self {
        let folder = folder();
        let mut members: Vec<Member> = (0..3).map(|index| member(index, folder.path(), "http")).collect();
        for member in &mut members {
            member.client_proxy = Some(Proxy::start(member.clients).await);
            member.peer_proxy = Some(Proxy::start(member.peers).await);
        }
        let url = |member: &Member| format!("http://{}", member.peer_proxy.as_ref().unwrap().address());
        let all: Vec<String> = members.iter().map(|member| format!("{}={}", member.name, url(member))).collect();
        for member in &mut members {
            member.arguments.extend(["--initial-advertise-peer-urls".into(), url(member)]);
            member.arguments.extend(["--initial-cluster".into(), all.join(",")]);
        }
        let mut cluster = Self { members, folder, scheme: "http" };
        for index in 0..3 {
            cluster.start(index);
        }
        cluster.leader().await;
        for member in &mut cluster.members {
            member.id = Some(status(member).await.unwrap().0);
        }
        cluster
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What clients connect to.
    pub fn servers(&self) -> Vec<String> {
        let address = |member: &Member| member.client_proxy.as_ref().map_or(member.clients, Proxy::address);
        self.members.iter().map(|member| format!("{}://{}", self.scheme, address(member))).collect()
    }

    pub fn start(&mut self, index: usize) {
        let member = &mut self.members[index];
        let log = self.folder.path().join(format!("{}.log", member.name));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("etcd");
        command.args(&member.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        member.process = Some(command.spawn().unwrap());
    }

    /// The member that all reachable ones follow.
    pub async fn leader(&self) -> usize {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let mut seen = Vec::new();
            for (index, member) in self.members.iter().enumerate() {
                if let Some((id, leader)) = status(member).await {
                    seen.push((index, id, leader));
                }
            }
            let leader = seen.iter().find(|(_, id, leader)| id == leader);
            if let Some((index, id, _)) = leader
                && seen.len() == self.members.len()
                && seen.iter().all(|(_, _, followed)| followed == id)
            {
                return *index;
            }
            assert!(std::time::Instant::now() < deadline, "no leader: {seen:?}{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of each member's log.
    fn last_words(&self) -> String {
        let mut said = String::new();
        for member in &self.members {
            let log = std::fs::read_to_string(self.folder.path().join(format!("{}.log", member.name)));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(5)..].join("\n");
            said.push_str(&format!("\n{} (port {}):\n{end}", member.name, member.clients.port()));
        }
        said
    }

    /// kill -9.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let pid = self.members[index].process.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    /// Cuts the member off from the others, or heals that. Clients still reach it.
    pub fn isolate(&self, index: usize, cut: bool) {
        let id = self.members[index].id.unwrap();
        for (other, member) in self.members.iter().enumerate() {
            let proxy = member.peer_proxy.as_ref().unwrap();
            if other == index { proxy.cut(cut) } else { proxy.cut_from(cut.then_some(id)) }
        }
    }

    /// Cuts the member off from clients, or heals that.
    pub fn hide(&self, index: usize, cut: bool) {
        self.members[index].client_proxy.as_ref().unwrap().cut(cut);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

fn folder() -> TempDir {
    // In memory where there is such a place: what is tested here needs a file system, not a disk.
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn member(index: usize, folder: &Path, scheme: &str) -> Member {
    let (clients, peers) = (free_address(), free_address());
    let name = format!("m{index}");
    let data = folder.join(&name).display().to_string();
    let url = format!("{scheme}://{clients}");
    let arguments = [
        ("--name", name.clone()),
        ("--data-dir", data),
        ("--listen-client-urls", url.clone()),
        ("--advertise-client-urls", url),
        ("--listen-peer-urls", format!("http://{peers}")),
        ("--initial-cluster-state", "new".to_owned()),
        ("--heartbeat-interval", "50".to_owned()),
        ("--election-timeout", "500".to_owned()),
        // Above 1.5 MB only for the tests of large values.
        ("--max-request-bytes", "10000000".to_owned()),
        ("--log-level", "warn".to_owned()),
        ("--logger", "zap".to_owned()),
        ("--log-outputs", "stderr".to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    Member { name, process: None, arguments, clients, peers, client_proxy: None, peer_proxy: None, id: None }
}

/// The member's id and its leader's, asked past the proxy.
async fn status(member: &Member) -> Option<(u64, u64)> {
    let ask = async {
        let mut client = etcd_client::Client::connect([format!("http://{}", member.clients)], None).await.ok()?;
        let status = client.status().await.ok()?;
        Some((status.header()?.member_id(), status.leader()))
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok()?
}
