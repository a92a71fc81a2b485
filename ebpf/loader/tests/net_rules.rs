//! 1,000 random policies, packet by packet against the specification (`pullpiri_net::evaluate`): verdicts, and the rule and the class that decide.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;

use std::net::IpAddr;

use net_support::*;
use pullpiri_crds::network::{NetworkMode, Verdict};
use pullpiri_crds::slice::{SliceClass, SliceEndpoint, SliceNetwork, SlicePort, SliceRule, SliceSelector};
use pullpiri_ebpf::net::{Datapath, Hook, PodPort, RunVerdict, policy};
use pullpiri_net::evaluate::{Allowed, Packet, evaluate};
use pullpiri_net::{Compiled, slices};

const POLICIES: u64 = 1000;
const PACKETS: usize = 40;
const PORTS: [u16; 8] = [1, 22, 80, 81, 443, 5000, 8000, 65535];
const PROTOCOLS: [u8; 5] = [TCP, UDP, ICMP, 47, 132];
const OUTSIDE: [&str; 6] = ["192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8:1::1", "203.0.113.1"];
const SCOPED: [&str; 6] = ["224.0.0.1", "255.255.255.255", "127.0.0.1", "169.254.1.1", "ff02::1", "fe80::1"];
/// Types of multicast listeners' messages (RFC 2710, RFC 3810).
const LISTENERS: [u8; 4] = [130, 131, 132, 143];
const CIDRS: [&str; 10] = [
    "0.0.0.0/0",
    "192.0.0.0/8",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.1/32",
    "198.51.100.0/28",
    "::/0",
    "2001:db8::/32",
    "2001:db8::1/128",
    "10.0.0.0/8",
];

fn small(n: usize) -> i32 {
    i32::try_from(n).unwrap()
}

/// Three networks, of which this node has instances in two; up to 12 instances, some elsewhere; rules that overlap.
fn world(random: &mut Random) -> Compiled {
    let mut world = Compiled { node: "here".into(), ..Compiled::default() };
    for id in 1..=2 {
        world.networks.push(SliceNetwork {
            id,
            name: format!("default/n{id}"),
            mode: NetworkMode::Bridge,
            v4: Some(format!("10.{id}.0.0/24")),
            v6: Some(format!("fd00:{id}::/64")),
            gateways: vec![format!("10.{id}.0.1"), format!("fd00:{id}::1")],
            internal: if random.chance(50) { Verdict::Allow } else { Verdict::Deny },
            egress: random.chance(50),
            masquerade: false,
        });
    }
    let count = 2 + random.below(11);
    for i in 0..count {
        let network = if i == 0 { 1 } else { 1 + random.below(3) };
        let here = i == 0 || (network < 3 && random.chance(50));
        let host = i + 2;
        world.endpoints.push(SliceEndpoint {
            instance: format!("default/i{i}"),
            uid: format!("uid-{i}"),
            model: format!("m{i}"),
            network: small(network),
            identity: small(network * 10 + random.below(3)),
            addresses: vec![format!("10.{network}.0.{host}"), format!("fd00:{network}::{host:x}")],
            node: if here { "here".into() } else { "there".into() },
            via: if here { vec![] } else { vec!["192.0.2.77".into()] },
        });
    }
    let identities: Vec<i32> = world.endpoints.iter().map(|endpoint| endpoint.identity).collect();
    for id in 1..=random.below(40) {
        let range = match random.below(4) {
            0 => (0, 65535),
            1 => (PORTS[0], random.pick(&PORTS)),
            _ => {
                let port = random.pick(&PORTS);
                (port, port)
            }
        };
        let outside = random.chance(40);
        world.rules.push(SliceRule {
            // Several entries of one rule share its id and name.
            id: small(id),
            name: format!("default/n/r{id}"),
            from: if outside { 0 } else { random.pick(&identities) },
            cidr: outside.then(|| random.pick(&CIDRS).to_owned()),
            to: random.pick(&identities),
            protocol: if random.chance(20) { 0 } else { i32::from(random.pick(&PROTOCOLS)) },
            first_port: i32::from(range.0),
            last_port: i32::from(range.1),
        });
    }
    for id in 1..=random.below(6) {
        let name = format!("default/n/c{id}");
        world.classes.push(SliceClass {
            id: small(id),
            name,
            priority: 0,
            guarantee_bps: 0,
            ceiling_bps: None,
            dscp: None,
        });
        for _ in 0..=random.below(3) {
            world.selectors.push(SliceSelector {
                class: small(id),
                identity: if random.chance(50) { 0 } else { random.pick(&identities) },
                network: small(1 + random.below(2)),
                protocol: if random.chance(50) { 0 } else { i32::from(random.pick(&[TCP, UDP, ICMP])) },
                port: if random.chance(50) { 0 } else { i32::from(random.pick(&PORTS)) },
                dscp: random.chance(30).then(|| small(random.below(3))),
            });
        }
    }
    let local: Vec<SliceEndpoint> = world.endpoints.iter().filter(|e| e.node == "here").cloned().collect();
    let published = random.below(4);
    for host_port in PORTS.into_iter().take(published) {
        let endpoint = &local[random.below(local.len())];
        world.ports.push(SlicePort {
            host_port: i32::from(host_port),
            protocol: i32::from(random.pick(&[TCP, UDP])),
            address: endpoint.addresses[random.below(2)].clone(),
            target_port: i32::from(random.pick(&PORTS)),
        });
    }
    world
}

/// An address of any kind, of the family wanted.
fn address(random: &mut Random, world: &Compiled, v4: bool) -> IpAddr {
    loop {
        let text = match random.below(10) {
            0..5 => world.endpoints[random.below(world.endpoints.len())].addresses[usize::from(!v4)].clone(),
            5 => world.networks[random.below(2)].gateways[usize::from(!v4)].clone(),
            6 => if v4 { "10.1.0.99" } else { "fd00:1::99" }.to_owned(),
            7 => random.pick(&SCOPED).to_owned(),
            _ => random.pick(&OUTSIDE).to_owned(),
        };
        let address: IpAddr = text.parse().unwrap();
        if address.is_ipv4() == v4 {
            return address;
        }
    }
}

fn packet_of(flow: &Flow) -> Packet {
    let ports = flow.protocol == TCP || flow.protocol == UDP;
    Packet {
        source: flow.source,
        destination: flow.destination,
        protocol: flow.protocol,
        source_port: if ports { flow.source_port } else { 0 },
        destination_port: if ports { flow.destination_port } else { 0 },
        icmp_type: if flow.protocol == ICMP || flow.protocol == ICMPV6 { flow.icmp_type } else { 0 },
        dscp: flow.dscp,
    }
}

/// One packet of a pod here, in one direction; and which. Each has a source port that no packet before it had: it is the first of its connection.
fn draw(random: &mut Random, world: &Compiled, n: u32) -> (Hook, Flow, Vec<IpAddr>) {
    let local: Vec<&SliceEndpoint> = world.endpoints.iter().filter(|e| e.node == "here").collect();
    let pod = local[random.below(local.len())];
    let own: Vec<IpAddr> = pod.addresses.iter().map(|text| text.parse().unwrap()).collect();
    let v4 = random.chance(50);
    let hook = if random.chance(50) { Hook::PodEgress } else { Hook::PodIngress };
    let mine = own[usize::from(!v4)];
    let mut other = address(random, world, v4);
    while other == mine {
        other = address(random, world, v4);
    }
    let (source, destination) = if hook == Hook::PodEgress { (mine, other) } else { (other, mine) };
    let mut protocol = random.pick(&PROTOCOLS);
    if protocol == ICMP && !v4 {
        protocol = ICMPV6;
    }
    let source_port = if random.chance(30) { random.pick(&PORTS) } else { u16::try_from(10_000 + n % 50_000).unwrap() };
    let mut flow = Flow::new(source, destination, protocol, source_port, random.pick(&PORTS));
    flow.dscp = u8::try_from(random.below(4)).unwrap();
    if random.chance(20) {
        // An answer that nobody asked for.
        flow.icmp_type = if v4 { 0 } else { 129 };
    }
    if !v4 && random.chance(15) {
        flow.protocol = ICMPV6;
        flow.icmp_type = random.pick(&LISTENERS);
        flow.hop_limit = random.pick(&[0, 1, 1, 2, 64, 255]);
        if random.chance(50) {
            flow.source = random.pick(&["fe80::1", "::"]).parse().unwrap();
        }
        if random.chance(50) {
            flow.destination = random.pick(&["ff02::16", "ff02::1", "ff05::2", "fe80::1"]).parse().unwrap();
        }
    }
    (hook, flow, own)
}

/// How many packets were denied and allowed, and how many of them were listeners' messages.
fn check(datapath: &mut Datapath, world: &Compiled, random: &mut Random, seed: u64) -> [usize; 4] {
    let mut seen = [0; 4];
    for n in 0..PACKETS {
        let (hook, flow, own) = draw(random, world, u32::try_from(n).unwrap());
        let context = || format!("seed {seed}, packet {n}: {hook:?} {flow:?}");
        let expected = evaluate(world, &packet_of(&flow));
        datapath.set_run_port(&PodPort { addresses: own, mac: None }).unwrap();
        datapath.forget_connections().unwrap();
        let before = datapath.counters().unwrap();
        let run = datapath.run(hook, &flow.frame(), 1).unwrap();
        let listener = flow.protocol == ICMPV6 && LISTENERS.contains(&flow.icmp_type);
        let allowed = expected.verdict.is_allowed();
        assert_eq!(run.verdict == RunVerdict::Pass, allowed, "{}: {expected:?}", context());
        seen[usize::from(allowed) + if listener { 2 } else { 0 }] += 1;
        if hook == Hook::PodIngress && allowed {
            let after = datapath.counters().unwrap();
            let rose = |what: &str| after.rules[what].packets - before.rules[what].packets;
            match &expected.verdict {
                pullpiri_net::Verdict::Allowed(Allowed::Rule { name, .. }) => {
                    assert_eq!(rose(name), 1, "{}", context())
                }
                pullpiri_net::Verdict::Allowed(Allowed::Internal { network, .. }) => {
                    let rose = after.internal[network].packets - before.internal[network].packets;
                    assert_eq!(rose, 1, "{}", context());
                }
                _ => assert!(before.rules.keys().all(|name| rose(name) == 0), "{}", context()),
            }
        }
        let expected_class = expected.class.map_or(0, |class| 0x10000 | u32::try_from(class.id).unwrap());
        let priority = datapath.run(Hook::UplinkEgress, &flow.frame(), 1).unwrap().priority;
        assert_eq!(priority, expected_class, "class of {}", context());
    }
    seen
}

/// A share of the seeds, on a datapath of its own. What takes time is the kernel's grace periods, which several can wait for at once.
fn enforce(seeds: impl Iterator<Item = u64>) -> Option<[usize; 4]> {
    let mut fixture = Fixture::new()?;
    let datapath = fixture.get();
    datapath.set_run_uplink(1).unwrap();
    let mut seen = [0; 4];
    for seed in seeds {
        let mut random = Random(seed);
        let world = world(&mut random);
        let generation = i64::try_from(seed + 1).unwrap();
        let parts = slices::cut(&world, generation).unwrap();
        datapath.apply(&policy::from_slices(&parts).unwrap()).unwrap();
        let more = check(datapath, &world, &mut random, seed);
        seen = std::array::from_fn(|i| seen[i] + more[i]);
    }
    Some(seen)
}

#[test]
fn a_thousand_random_policies_are_enforced_as_specified() {
    let threads: Vec<_> = (0..8).map(|i| std::thread::spawn(move || enforce((i..POLICIES).step_by(8)))).collect();
    // All of them first: each removes its pins.
    let parts: Vec<_> = threads.into_iter().map(std::thread::JoinHandle::join).collect();
    let parts = parts.into_iter().map(Result::unwrap);
    let Some(parts) = parts.collect::<Option<Vec<_>>>() else { return };
    let seen: [usize; 4] = std::array::from_fn(|i| parts.iter().map(|part| part[i]).sum());
    println!(
        "{POLICIES} policies, {} packets denied, {} allowed; of listeners {} and {}",
        seen[0], seen[1], seen[2], seen[3]
    );
    // Neither side is rare, or the comparison would say little.
    assert!(seen[..2].iter().all(|count| *count > 5000) && seen[2..].iter().all(|count| *count > 100), "{seen:?}");
}
