//! What a node runtime asked the API server for, what a Pod sends, and what a node counts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub mod cluster;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// On the node's address in the network namespace that hack/kube/cluster.sh gives it.
pub const METRICS: &str = "10.217.9.2:9464";

/// The API server's record of who asked for what.
pub struct Audit {
    policy: PathBuf,
    log: PathBuf,
}

impl Audit {
    pub fn new(folder: &Path) -> Self {
        let this = Self { policy: folder.join("audit.yaml"), log: folder.join("audit.log") };
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]});
        std::fs::write(&this.policy, policy.to_string()).unwrap();
        this
    }

    /// Of kube-apiserver. It is strict about owners, as OpenShift's is: what sets one needs rights to it.
    pub fn flags(&self) -> String {
        let strict = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement";
        format!("{strict} --audit-policy-file={} --audit-log-path={}", self.policy.display(), self.log.display())
    }

    /// What this user was let do and what was refused, as `rights` names it.
    pub fn of(&self, user: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let who = event["impersonatedUser"]["username"].as_str().or(event["user"]["username"].as_str());
            let object = &event["objectRef"];
            if who != Some(user) || !object.is_object() {
                continue;
            }
            let part = |name: &str| object[name].as_str().unwrap_or_default();
            let sub = if part("subresource").is_empty() { String::new() } else { format!("/{}", part("subresource")) };
            let mut verbs = vec![event["verb"].as_str().unwrap()];
            // An apply that makes its object needs that, too, and is recorded as the patch that it is.
            if verbs == ["patch"] && event["responseStatus"]["code"] == 201 {
                verbs.push("create");
            }
            // By whoever authorises, or by admission.
            let is_refused = event["responseStatus"]["code"] == 403;
            let told = if is_refused { &mut refused } else { &mut used };
            told.extend(verbs.iter().map(|verb| right(part("apiGroup"), &format!("{}{sub}", part("resource")), verb)));
        }
        (used, refused)
    }
}

fn right(group: &str, resource: &str, verb: &str) -> String {
    format!("{verb} {group}/{resource}")
}

/// What rbac/requests.txt says that this test sees of a node.
pub fn recorded() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rbac/requests.txt")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pods node "));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            right(words[1].trim_matches('-'), words[2], words[0])
        })
        .collect()
}

/// What rules of a role give.
pub fn rights(rules: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        let list = |name: &str| -> Vec<String> {
            rule[name].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        for group in list("apiGroups") {
            for resource in list("resources") {
                all.extend(list("verbs").iter().map(|verb| right(&group, &resource, verb)));
            }
        }
    }
    all
}

/// Sends ten datagrams from the network namespace of a process.
pub fn send_from(pid: i32, to: &'static str) -> std::io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let sending = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..10).try_for_each(|_| socket.send_to(b"x", to).map(drop))
    });
    sending.join().unwrap()
}

/// What the node counted of a class.
pub fn metric(name: &str, class: &str) -> Result<u64, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(METRICS).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let wanted = format!("pullpiri_node_network_{name}{{class=\"{class}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&wanted)).ok_or("it isn't counted")?;
    value.trim().parse().map_err(|error| format!("{value}: {error}"))
}
