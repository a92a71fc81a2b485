//! Measures how the uplink is shared, between two nodes in network namespaces with the agent's own plumbing: one JSON line per number.
//!
//! `cargo run --release -p pullpiri-agent --example network [-- RUNS [WHAT…]]`; WHAT: guarantee, reclaimed, ceilings, latency, restart.
//! Needs root, iperf3, HTB and tcx. Medians of RUNS (5). Rates are layer-2 bytes, as HTB sends them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that can't be made ends")]

#[path = "../tests/town/mod.rs"]
mod town;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pullpiri_agent::{NetworkConfig, Plumbing};
use pullpiri_crds::slice::{SliceClass, SliceSelector};
use pullpiri_node_core::network::shape::minor;
use pullpiri_node_core::realtime::{Policy, Settings};
use pullpiri_node_host::net::{Family, Netlink};
use pullpiri_node_host::sched;
use town::{Pod, Process, Town, inside, run, spawn};

const BRAKE: Pod = Pod { name: "brake", node: 0, network: 0, host: 5 };
const SENSOR: Pod = Pod { name: "sensor", node: 1, network: 0, host: 6 };
const PODS: [Pod; 2] = [BRAKE, SENSOR];
/// Ports of the classes, and of what belongs to none.
const HIGH: u16 = 5201;
const LOW: u16 = 5202;
const REST: u16 = 5203;
const ECHO: u16 = 5210;
const MBIT: u64 = 1_000_000;

/// Takes the number of runs.
type Measure = fn(usize);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [hold, name, data] = arguments.as_slice()
        && hold == "--hold"
    {
        return hold_network(name, Path::new(data));
    }
    let runs = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(5);
    let is_wanted = |what: &str| arguments.len() < 2 || arguments[1..].iter().any(|wanted| wanted == what);
    let measurements: [(&str, Measure); 5] = [
        ("guarantee", guarantee),
        ("reclaimed", reclaimed),
        ("ceilings", ceilings),
        ("latency", latency),
        ("restart", restart),
    ];
    for (what, measure) in measurements {
        if is_wanted(what) {
            measure(runs);
        }
    }
}

/// A node runtime, to be killed.
fn hold_network(name: &str, data: &Path) {
    let config = NetworkConfig { uplink: Some("up0".to_owned()), link_rate_bps: Some(100 * MBIT), api_server: None };
    let mut plumbing = Plumbing::new(name, data, config);
    plumbing.open();
    println!("{}", plumbing.failure().unwrap_or("ready"));
    loop {
        thread::park();
    }
}

fn class(id: i32, guarantee_mbit: u64, ceiling_mbit: Option<u64>) -> SliceClass {
    let bps = |mbit: u64| i64::try_from(mbit * MBIT).unwrap();
    SliceClass {
        id,
        name: format!("default/n0/{id}"),
        priority: id - 1,
        guarantee_bps: bps(guarantee_mbit),
        ceiling_bps: ceiling_mbit.map(bps),
        dscp: None,
    }
}

fn selector(class: i32, port: u16) -> SliceSelector {
    SliceSelector { class, identity: 0, network: 0, protocol: 0, port: i32::from(port), dscp: None }
}

struct Scene {
    town: Town,
    _servers: Vec<Process>,
}

impl Scene {
    fn new(what: &str, link_mbit: u64, classes: &[SliceClass]) -> Option<Self> {
        let mut town = Town::new(what, Some(link_mbit * MBIT))?;
        for pod in PODS {
            town.attach(pod);
        }
        let selectors = [selector(1, HIGH), selector(1, ECHO), selector(2, LOW)];
        let used: Vec<SliceSelector> =
            selectors.into_iter().filter(|s| classes.iter().any(|class| class.id == s.class)).collect();
        town.apply(1, &PODS, classes, &used);
        let sensor = SENSOR.namespace(&town);
        let servers = [HIGH, LOW, REST].map(|port| spawn(&sensor, &format!("nice -n 19 iperf3 -s -p {port}")));
        let deadline = Instant::now() + Duration::from_secs(10);
        while [HIGH, LOW, REST].iter().any(|port| !run(&sensor, "ss -Hltn").contains(&format!(":{port} "))) {
            assert!(Instant::now() < deadline, "iperf3 doesn't listen");
        }
        Some(Self { town, _servers: servers.into() })
    }

    fn load(&self, port: u16, more: &str) -> Process {
        // The link is what is scarce here, not the CPUs that both ends share.
        let line = format!("nice -n 19 iperf3 -c {} -p {port} -t 60 {more}", SENSOR.address());
        spawn(&BRAKE.namespace(&self.town), line.trim_end())
    }

    /// Bytes that a class has sent so far, after what its queue had no room for.
    fn bytes(&self, class: u16) -> u64 {
        let classes = inside(&self.town.nodes[0].namespace, || {
            let mut net = Netlink::open(Family::Route).unwrap();
            let link = net.link("up0").unwrap().unwrap().index;
            net.classes(link).unwrap()
        });
        classes.iter().find(|seen| minor(seen.class.handle) == class).unwrap().stats.bytes
    }

    /// Bits per second of a class, after a second of getting going.
    fn rate(&self, class: u16) -> f64 {
        thread::sleep(Duration::from_secs(1));
        let (before, began) = (self.bytes(class), Instant::now());
        thread::sleep(Duration::from_secs(3));
        let (after, took) = (self.bytes(class), began.elapsed());
        bits(after - before) / took.as_secs_f64()
    }
}

fn bits(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(what: &str, value: f64, bar: &str, detail: &str) {
    println!("{{\"what\":\"{what}\",\"value\":{value:.4},\"bar\":\"{bar}\"{detail}}}");
}

fn guarantee(runs: usize) {
    let Some(scene) = Scene::new("guarantee", 100, &[class(1, 40, None)]) else { return };
    let _greedy = scene.load(REST, "-P 8");
    let values = (0..runs).map(|_| {
        let _flow = scene.load(HIGH, "");
        scene.rate(1) / 40e6
    });
    tell("guarantee held against 8 greedy flows", median(values.collect()), ">= 0.97", "");
}

fn reclaimed(runs: usize) {
    let Some(scene) = Scene::new("reclaimed", 100, &[class(1, 40, None), class(2, 20, None)]) else { return };
    let values = (0..runs).map(|_| {
        let _flow = scene.load(LOW, "-P 2");
        scene.rate(2) / 100e6
    });
    tell("unused share reclaimed", median(values.collect()), ">= 0.95", "");
}

fn ceilings(runs: usize) {
    for mbit in [10_u32, 50, 100, 500, 1000] {
        let ceiling = u64::from(mbit);
        let Some(scene) = Scene::new("ceilings", ceiling * 2, &[class(1, 1, None), class(2, 1, Some(ceiling))]) else {
            return;
        };
        let values = (0..runs).map(|_| {
            let _flow = scene.load(LOW, "-P 4");
            scene.rate(2) / (f64::from(mbit) * 1e6)
        });
        let ratio = median(values.collect());
        let detail = format!(",\"ceilingMbit\":{mbit},\"ratio\":{ratio:.4}");
        tell("rate error of a ceiling", (ratio - 1.0).abs(), "<= 0.03", &detail);
    }
}

/// A thread that is to measure the network waits for no CPU: where SCHED_FIFO isn't allowed, it does, and the numbers say less.
fn urgent() {
    let settings = Settings { policy: Policy::Fifo { priority: 40 }, reset_on_fork: true };
    let _ = sched::set_settings(0, &settings);
}

/// The 99th percentile of round trips, in microseconds.
fn round_trips(scene: &Scene, port: u16) -> f64 {
    let (sensor, brake) = (SENSOR.namespace(&scene.town), BRAKE.namespace(&scene.town));
    let server = inside(&sensor, || UdpSocket::bind((SENSOR.address(), port)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let client = inside(&brake, || UdpSocket::bind((BRAKE.address(), 0)).unwrap());
    client.connect((SENSOR.address(), port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let over = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        scope.spawn(|| {
            urgent();
            let mut buffer = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], from);
                }
            }
        });
        let asking = scope.spawn(|| {
            urgent();
            let mut times = Vec::new();
            let began = Instant::now();
            let mut number: u64 = 0;
            while began.elapsed() < Duration::from_secs(3) {
                number += 1;
                let sent = Instant::now();
                let _ = client.send(&number.to_be_bytes());
                let mut buffer = [0; 64];
                // One that is lost counts as long as it was waited for.
                while client.recv(&mut buffer).is_ok_and(|length| buffer[..length] != number.to_be_bytes()) {}
                times.push(sent.elapsed().as_secs_f64() * 1e6);
                thread::sleep(Duration::from_millis(1));
            }
            times
        });
        let times = asking.join().unwrap();
        over.store(true, Ordering::Relaxed);
        times
    });
    times.sort_by(f64::total_cmp);
    times[(times.len() * 99 / 100).min(times.len() - 1)]
}

/// Each round idle, the high class and one shared class, one after the other: what the machine does meanwhile is in all of them. The median of the
/// rounds' ratios.
fn latency(runs: usize) {
    let Some(scene) = Scene::new("latency", 100, &[class(1, 20, None)]) else { return };
    let (mut idle, mut high, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    // Whatever is only slow the first time.
    round_trips(&scene, ECHO);
    for round in 0..runs.max(5) {
        let quiet = |idle: &mut Vec<f64>| idle.push(round_trips(&scene, ECHO));
        // In either order, so that neither is always the first.
        if round % 2 == 0 {
            quiet(&mut idle);
        }
        let greedy = scene.load(REST, "-P 8");
        thread::sleep(Duration::from_secs(1));
        high.push(round_trips(&scene, ECHO));
        // Beside the greedy flows, in the class of what belongs to none.
        shared.push(round_trips(&scene, ECHO + 1));
        drop(greedy);
        thread::sleep(Duration::from_secs(1));
        if round % 2 == 1 {
            quiet(&mut idle);
        }
    }
    let ratios = |above: &[f64], below: &[f64]| above.iter().zip(below).map(|(a, b)| a / b).collect::<Vec<_>>();
    let (to_shared, to_idle) = (ratios(&high, &shared), ratios(&high, &idle));
    let of = |values: &[f64]| median(values.to_vec());
    let worst = to_idle.iter().copied().fold(0.0, f64::max);
    let detail = format!(
        ",\"idleUs\":{:.0},\"highUs\":{:.0},\"sharedUs\":{:.0},\"rounds\":{},\"worstToIdle\":{worst:.2}",
        of(&idle),
        of(&high),
        of(&shared),
        high.len()
    );
    tell("p99 round trip of the high class against one shared class", of(&to_shared), "<= 0.05", &detail);
    tell("p99 round trip of the high class against idle", of(&to_idle), "<= 2", &detail);
}

fn restart(runs: usize) {
    let Some(mut scene) = Scene::new("restart", 100, &[class(1, 20, None)]) else { return };
    let town = &mut scene.town;
    let agents: Vec<_> = town
        .nodes
        .iter_mut()
        .map(|node| {
            drop(node.plumbing.take());
            (node.namespace.clone(), node.name.clone(), node.data.clone())
        })
        .collect();
    let start = |(namespace, name, data): &(std::path::PathBuf, String, std::path::PathBuf)| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--hold", name]).arg(data).stdout(Stdio::piped());
        let mut process = Process(inside(namespace, || command.spawn()).unwrap());
        let mut line = String::new();
        let out = process.0.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        process
    };
    let receiver = inside(&SENSOR.namespace(town), || UdpSocket::bind((SENSOR.address(), HIGH)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let sender = inside(&BRAKE.namespace(town), || UdpSocket::bind((BRAKE.address(), HIGH)).unwrap());
    sender.connect((SENSOR.address(), HIGH)).unwrap();
    let over = AtomicBool::new(false);
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent: u32 = 0;
            while !over.load(Ordering::Relaxed) {
                sender.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                thread::sleep(Duration::from_micros(100));
            }
            sent
        });
        let receiving = scope.spawn(|| {
            let mut received: u32 = 0;
            let mut buffer = [0; 16];
            while receiver.recv(&mut buffer).is_ok() {
                received += 1;
            }
            received
        });
        for _ in 0..runs {
            // Dropping is SIGKILL.
            let held: Vec<Process> = agents.iter().map(start).collect();
            drop(held);
        }
        over.store(true, Ordering::Relaxed);
        (sending.join().unwrap(), receiving.join().unwrap())
    });
    let lost = f64::from(sent) - f64::from(received);
    let detail = format!(",\"sent\":{sent},\"kills\":{}", runs * agents.len());
    tell("packets lost over kill -9 and restart of node runtimes", lost, "= 0", &detail);
    for node in &mut scene.town.nodes {
        node.start();
    }
}
