//! How long a large policy takes to compile: 10 Networks of 1,000 rules, 1,000 instances on two nodes. One line of JSON, medians of 5.
//!
//! `cargo run --release -p pullpiri-net --example compilation`

#![allow(clippy::unwrap_used, reason = "a measurement that can't be made ends")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use pullpiri_crds::instance::InstanceNetwork;
use pullpiri_crds::network::{NetworkSpec, RuleProtocol, Verdict};
use pullpiri_net::{Compiled, compile};
use world::{World, from_model, instance, network, node, rule, subnet};

const RUNS: usize = 5;

fn large() -> World {
    let nodes = vec![node("hpc", "192.0.2.1", None), node("zone", "192.0.2.2", None)];
    let mut world = World { nodes, ..World::default() };
    for n in 0..10 {
        let to = |i: usize| format!("m{}", (i + 10) % 1000);
        let one = |i: usize| rule(from_model(&format!("m{i}"), None), Some(&to(i)), Some(RuleProtocol::Tcp), &["80"]);
        let spec = NetworkSpec {
            subnet: subnet(&format!("10.{n}.0.0/16"), None),
            internal: Some(Verdict::Deny),
            allow: (0..1000).map(one).collect(),
            ..NetworkSpec::default()
        };
        world.networks.push(network(&format!("net{n}"), spec));
    }
    for i in 0..1000 {
        let joined = InstanceNetwork {
            name: format!("net{}", i % 10),
            addresses: vec![format!("10.{}.{}.{}", i % 10, i / 250, i % 250 + 2)],
            gateways: vec![format!("10.{}.0.1", i % 10)],
        };
        world.instances.push(instance(&format!("i{i}"), &format!("m{i}"), &[], Some(joined), world::NODES[i % 2]));
    }
    world
}

fn milliseconds(work: impl Fn()) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn main() {
    let world = large();
    let first = compile(&world.inputs(), &BTreeMap::new());
    let again = compile(&world.inputs(), &first.nodes);
    assert!(first == again, "a compilation of the same gives the same");
    let entries: usize = first.nodes.values().map(Compiled::entries).sum();
    let anew = milliseconds(|| drop(compile(&world.inputs(), &BTreeMap::new())));
    let repeated = milliseconds(|| drop(compile(&world.inputs(), &first.nodes)));
    println!("{{\"entries\":{entries},\"first_ms\":{anew:.1},\"again_ms\":{repeated:.1}}}");
}
