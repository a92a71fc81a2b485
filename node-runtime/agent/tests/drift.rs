//! What others change of a node's network is put right, soon and by no more looks than it takes; what is theirs stays.

#![allow(clippy::unwrap_used, clippy::panic)]

mod town;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pullpiri_agent::{Changes, Plumbing};
use pullpiri_crds::slice::SliceClass;
use pullpiri_node_host::net::namespace;
use town::{Pod, Town, inside, run};

const BRAKE: Pod = Pod { name: "brake", node: 0, network: 0, host: 5 };
const SENSOR: Pod = Pod { name: "sensor", node: 1, network: 0, host: 6 };
/// Twice what is promised: the machine may be busy.
const SOON: Duration = Duration::from_secs(2);

/// The first node, held by what the node runtime holds it by.
struct Held {
    plumbing: Arc<Mutex<Plumbing>>,
    looks: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Held {
    fn new(town: &mut Town) -> Self {
        let plumbing = Arc::new(Mutex::new(town.nodes[0].plumbing.take().unwrap()));
        let (looks, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (path, its, counted, ends) =
            (town.nodes[0].namespace.clone(), Arc::clone(&plumbing), Arc::clone(&looks), Arc::clone(&stop));
        let thread = thread::spawn(move || inside(&path, || hold(&its, &counted, &ends)));
        Self { plumbing, looks, stop, thread: Some(thread) }
    }

    fn repairs(&self) -> u64 {
        self.plumbing.lock().unwrap().repairs()
    }

    /// Looks until there is none for a second; how many there were then.
    fn rest(&self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = (self.looks.load(Ordering::SeqCst), Instant::now());
        while seen.1.elapsed() < Duration::from_secs(1) {
            assert!(Instant::now() < deadline, "it is looked at again and again");
            thread::sleep(Duration::from_millis(20));
            let now = self.looks.load(Ordering::SeqCst);
            if now != seen.0 {
                seen = (now, Instant::now());
            }
        }
        seen.0
    }

    fn end(mut self, town: &mut Town) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        let plumbing = Arc::try_unwrap(self.plumbing).unwrap().into_inner().unwrap();
        town.nodes[0].plumbing = Some(plumbing);
    }
}

fn hold(plumbing: &Mutex<Plumbing>, looks: &AtomicU64, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let table = plumbing.lock().unwrap().table();
        let mut changes = Changes::of(table.as_deref());
        while !stop.load(Ordering::SeqCst) {
            // Given up and taken up again, as beside other things.
            if tokio::time::timeout(Duration::from_millis(30), changes.next()).await.is_ok() {
                let failures = plumbing.lock().unwrap().converge();
                assert!(failures.is_empty(), "{failures:?}");
                looks.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
}

fn class(id: i32, name: &str) -> SliceClass {
    SliceClass { id, name: name.to_owned(), priority: 0, guarantee_bps: 10_000_000, ceiling_bps: None, dscp: None }
}

/// The town with a pod on each node, a published port and a class on the link.
fn town(test: &str) -> Option<Town> {
    let mut town = Town::new(test, Some(100_000_000))?;
    town.attach_as(BRAKE, BRAKE.publishing(18080, 8080));
    town.attach(SENSOR);
    town.apply(1, &[BRAKE, SENSOR], &[class(1, "default/n0/brake")], &[]);
    Some(town)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not put right: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether tools are there and succeed.
fn does(namespace: &Path, lines: &str) -> bool {
    lines.split("; ").all(|line| {
        let mut words = line.split(' ');
        let mut command = std::process::Command::new(words.next().unwrap());
        command.args(words);
        inside(namespace, || command.status()).is_ok_and(|status| status.success())
    })
}

/// What is ours and can be changed, as text: without counters and without numbers that the kernel gives anew.
fn ours(namespace: &Path) -> String {
    let routes = run(namespace, "ip route show proto 176") + &run(namespace, "ip -6 route show proto 176");
    let links = run(namespace, "ip -o link show type veth");
    let up = links.lines().filter(|line| line.contains("pplp") && line.contains(",UP")).count();
    let ports = run(namespace, "ip -o -d link show type veth");
    let ports = ports
        .lines()
        .filter(|line| line.contains("pplp") && line.contains(" master pplb") && line.contains("isolated on"));
    let ports = ports.count();
    let bridges = run(namespace, "ip -o addr show type bridge scope global");
    let tables = run(namespace, "nft list ruleset").lines().filter(|line| !line.contains("elsewhere")).count();
    let set = run(namespace, "cat /proc/sys/net/ipv4/conf/up0/forwarding");
    let classes = run(namespace, "tc class show dev up0").lines().count();
    format!(
        "{routes}\n{up} up, {ports} ports\n{}\n{tables} lines\n{classes} classes\nforwarding {set}",
        bridges.lines().count()
    )
}

#[test]
fn what_others_change_is_put_right_and_told() {
    let Some(mut town) = town("what_others_change_is_put_right_and_told") else { return };
    let at = town.nodes[0].namespace.clone();
    let held = Held::new(&mut town);
    held.rest();
    let before = ours(&at);
    assert!(before.contains("10.20.0.6") && before.contains("fd00:20::6"), "{before}");
    assert_eq!(held.repairs(), 0, "what the node did itself is nobody's change");
    let table = held.plumbing.lock().unwrap().table();
    let pod = run(&at, "ip -o link show type veth");
    let pod = pod.split([':', '@', ' ']).find(|word| word.starts_with("pplp")).unwrap().to_owned();
    let mut lines = vec![
        "ip link set up0 down; ip link set up0 up".to_owned(),
        "tc qdisc del dev up0 root".to_owned(),
        "ip route del 10.20.0.6 proto 176".to_owned(),
        "ip route del 10.20.0.5 proto 176".to_owned(),
        "ip -6 route del fd00:20::6 proto 176".to_owned(),
        format!("ip link set {pod} down"),
        format!("ip link set {pod} nomaster"),
        format!("ip link add other0 type bridge; ip link set {pod} master other0"),
        format!("bridge link set dev {pod} isolated off"),
        "sysctl -qw net.ipv4.conf.up0.forwarding=0".to_owned(),
    ];
    if let Some(table) = table.filter(|_| !run(&at, "nft --version").is_empty()) {
        lines.push(format!("nft delete table inet {table}"));
        lines.push(format!("nft flush chain inet {table} prerouting"));
        lines.push("nft flush ruleset".to_owned());
    }
    for line in &lines {
        let repairs = held.repairs();
        let since = Instant::now();
        assert!(does(&at, line), "{line}");
        until(line, || held.repairs() > repairs && ours(&at) == before);
        println!("{line}: {:?}", since.elapsed());
    }
    let rested = held.rest();
    assert_eq!(ours(&at), before);
    let per_change = rested / u64::try_from(lines.len()).unwrap();
    assert!(per_change <= 5, "{rested} looks at {} changes", lines.len());
    held.end(&mut town);
}

#[test]
fn a_running_pod_keeps_its_namespace_whatever_happens_to_its_link() {
    let Some(mut town) = town("a_running_pod_keeps_its_namespace_whatever_happens_to_its_link") else { return };
    let at = town.nodes[0].namespace.clone();
    let its = BRAKE.namespace(&town);
    let process = town::spawn(&its, "sleep 60");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = inode(&its);
    let held = Held::new(&mut town);
    held.rest();
    let link = run(&at, "ip -o link show type veth");
    let link = link.split([':', '@', ' ']).find(|word| word.starts_with("pplp")).unwrap().to_owned();
    for line in [format!("ip link set {link} down"), format!("ip link del {link}")] {
        assert!(does(&at, &line));
        until(&line, || run(&at, "ping -c 1 -W 1 10.20.0.5").contains("1 received"));
        assert_eq!(inode(&its), before, "{line}");
    }
    held.end(&mut town);
    drop(process);
}

#[test]
fn what_is_others_stays_and_costs_nothing_but_a_look() {
    let Some(mut town) = town("what_is_others_stays_and_costs_nothing_but_a_look") else { return };
    let at = town.nodes[0].namespace.clone();
    let held = Held::new(&mut town);
    let rested = held.rest();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(held.looks.load(Ordering::SeqCst), rested, "nothing happens");
    let made = "ip link add other0 type veth peer name other1; ip link set other1 up; ip link set other0 up; ip addr add 198.51.100.1/24 dev other0; \
                ip route add 203.0.113.0/24 via 198.51.100.2; tc qdisc add dev other0 root handle 7: pfifo";
    assert!(does(&at, made));
    let has_nft = does(&at, "nft add table inet elsewhere; nft add chain inet elsewhere kept");
    held.rest();
    let theirs = [
        ("ip route", "203.0.113.0/24"),
        ("tc qdisc show dev other0", "pfifo 7:"),
        ("nft list tables", if has_nft { "inet elsewhere" } else { "" }),
    ];
    for (line, kept) in theirs {
        assert!(run(&at, line).contains(kept), "{line}");
    }
    assert_eq!(held.repairs(), 0, "none of it was ours");
    // One that somebody puts on the link is left alone, and forgotten as soon as it goes.
    assert!(does(&at, "tc qdisc replace dev up0 root handle 7: pfifo"));
    held.rest();
    assert!(run(&at, "tc qdisc show dev up0").contains("pfifo 7:"));
    assert!(does(&at, "tc qdisc del dev up0 root"));
    until("the classes", || run(&at, "tc qdisc show dev up0").contains("htb"));
    held.end(&mut town);
    assert!(namespace::exists(&at));
}
