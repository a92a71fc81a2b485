//! Golden answers about the example brake-and-video.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pullpiri_crds::{ModelInstance, Network, NetworkSlice, NodeRuntime};
use pullpiri_net::{Inputs, compile, slices};
use serde_json::json;

use super::explain::{Answer, Cluster, Question, explain};
use super::print;

const NETWORK: &str = include_str!("../../../examples/brake-and-video/network.yaml");

fn instance(name: &str, model: &str, role: &str, network: serde_json::Value, node: &str) -> ModelInstance {
    let mut spec = json!({
        "package": "p", "model": model, "nodeName": node,
        "template": {"labels": {"role": role}, "spec": {"containers": []}},
    });
    if network.is_null() {
        spec["template"]["spec"]["hostNetwork"] = json!(true);
    } else {
        spec["network"] = network;
    }
    serde_json::from_value(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec,
    }))
    .unwrap()
}

fn joined(v4: &str, v6: &str) -> serde_json::Value {
    json!({"name": "chassis", "addresses": [v4, v6], "gateways": ["10.20.0.1", "fd00:20::1"]})
}

fn in_cabin(v4: &str) -> serde_json::Value {
    json!({"name": "cabin", "addresses": [v4], "gateways": ["10.40.0.1"]})
}

fn cluster() -> Cluster {
    let mut network: Network = serde_saphyr::from_str(NETWORK).unwrap();
    network.metadata.namespace = Some("default".to_owned());
    network.spec.ports = vec![
        serde_json::from_value(json!({"hostPort": 8080, "targetPort": 80, "to": {"matchLabels": {"role": "sensor"}}}))
            .unwrap(),
    ];
    network.spec.allow.push(
        serde_json::from_value(json!({
            "name": "radio", "from": {"network": "cabin", "model": "radio"}, "to": {"matchLabels": {"role": "sensor"}},
            "protocol": "TCP", "ports": ["80"],
        }))
        .unwrap(),
    );
    let cabin: Network = serde_json::from_value(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "cabin", "namespace": "default"},
        "spec": {"subnet": {"v4": "10.40.0.0/24"}, "egress": {"masquerade": true}},
    }))
    .unwrap();
    let mut broken = network.clone();
    broken.metadata.name = Some("broken".to_owned());
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "SubnetOverlaps", "message": "it overlaps",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    broken.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
    let node = |name: &str, address: &str, generation: i64| -> NodeRuntime {
        serde_json::from_value(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": name}, "spec": {},
            "status": {"network": {"backend": "tcx+htb", "addresses": [address], "generation": generation}},
        }))
        .unwrap()
    };
    let lost = json!({"name": "broken", "addresses": ["10.30.0.2"], "gateways": ["10.30.0.1"]});
    let mut cluster = Cluster {
        networks: vec![network, cabin],
        instances: vec![
            instance("brake-1", "brake", "brake", joined("10.20.0.2", "fd00:20::2"), "hpc"),
            instance("video-1", "video", "", joined("10.20.0.3", "fd00:20::3"), "hpc"),
            instance("sensor-1", "sensor", "sensor", joined("10.20.0.4", "fd00:20::4"), "zone"),
            instance("screen-1", "screen", "", joined("10.20.0.5", "fd00:20::5"), "zone"),
            instance("screen-2", "screen", "", joined("10.20.0.6", "fd00:20::6"), "hpc"),
            instance("host-1", "host", "", serde_json::Value::Null, "hpc"),
            instance("lost-1", "lost", "", lost, "hpc"),
            instance("radio-1", "radio", "", in_cabin("10.40.0.2"), "zone"),
            instance("tuner-1", "tuner", "", in_cabin("10.40.0.3"), "zone"),
            instance("phone-1", "phone", "", in_cabin("10.40.0.4"), "hpc"),
        ],
        nodes: vec![node("hpc", "192.0.2.1", 3), node("zone", "192.0.2.2", 2)],
        slices: Vec::new(),
    };
    let inputs = Inputs {
        networks: cluster.networks.iter().collect(),
        instances: cluster.instances.iter().collect(),
        nodes: cluster.nodes.iter().collect(),
        ..Inputs::default()
    };
    for compiled in compile(&inputs, &BTreeMap::new()).nodes.values() {
        for spec in slices::cut(compiled, 3).unwrap() {
            cluster.slices.push(NetworkSlice::new(&format!("{}-{}", spec.node_name, spec.index), spec));
        }
    }
    cluster.networks.push(broken);
    cluster
}

fn ask(cluster: &Cluster, from: &str, to: &str, port: &str) -> Result<Vec<Answer>, String> {
    explain(cluster, &Question::parse("default", from, to, port)?)
}

#[test]
fn answers_in_words() {
    let cluster = cluster();
    let mut text = String::new();
    for (from, to, port) in [
        ("sensor", "brake", "7001/UDP"),
        ("sensor-1", "brake-1", "7002/udp"),
        ("brake", "sensor", "7001/UDP"),
        ("video", "screen", "7002/TCP"),
        ("fd00:20::4", "brake", "7001/UDP"),
        ("brake", "203.0.113.9", "443/TCP"),
        ("203.0.113.9", "10.20.0.4", "80/TCP"),
        ("203.0.113.9", "192.0.2.2", "8080/TCP"),
        // A published port, from beside it: what it leads to is asked, too.
        ("screen-1", "10.20.0.1", "8080/TCP"),
        ("radio", "10.40.0.1", "8080/TCP"),
        ("tuner", "10.40.0.1", "8080/TCP"),
        ("tuner", "192.0.2.2", "8080/TCP"),
        ("tuner", "10.20.0.1", "8080/TCP"),
        ("tuner", "10.40.0.1", "8081/TCP"),
        // From another node: by the node's address, and not by a gateway there is on each.
        ("phone", "192.0.2.2", "8080/TCP"),
        ("phone", "10.40.0.1", "8080/TCP"),
        ("screen-2", "192.0.2.2", "8080/TCP"),
        ("host", "brake", "7001/UDP"),
        ("host", "brake", "icmp"),
        ("lost", "brake", "7001/UDP"),
        ("brake", "10.20.0.77", "1/TCP"),
        ("ghost", "brake", "1/TCP"),
        ("brake", "brake-1", "1/TCP"),
        ("203.0.113.9", "203.0.113.10", "1/TCP"),
        ("brake", "sensor", "70000/TCP"),
        ("brake", "sensor", "7001"),
        ("brake", "sensor", "7001/SCTP"),
    ] {
        let _ = writeln!(text, "$ pullpiri net explain {from} {to} {port}");
        match ask(&cluster, from, to, port) {
            Ok(answers) => {
                let allowed = answers.iter().all(Answer::is_allowed);
                let _ = writeln!(text, "{}[{}]", print::text(&answers), i32::from(!allowed));
            }
            Err(error) => {
                let _ = writeln!(text, "pullpiri: {error}\n[2]");
            }
        }
    }
    insta::assert_snapshot!("explain_text", text);
}

#[test]
fn answers_for_programs() {
    let cluster = cluster();
    let mut text = String::new();
    for (from, to, port) in
        [("sensor", "brake", "7001/UDP"), ("brake", "sensor", "7001/UDP"), ("lost", "brake", "1/TCP")]
    {
        let json = print::json(&ask(&cluster, from, to, port).unwrap());
        let _ = writeln!(text, "{}", serde_json::to_string_pretty(&json).unwrap());
    }
    insta::assert_snapshot!("explain_json", text);
}

#[test]
fn a_change_under_way_is_no_answer() {
    let mut cluster = cluster();
    cluster.slices[0].spec.count = 2;
    let error = ask(&cluster, "sensor", "brake", "7001/UDP").unwrap_err();
    assert_eq!(error, "NetworkSlices of node hpc: slice 1 of 2 of generation 3 is missing");
}
