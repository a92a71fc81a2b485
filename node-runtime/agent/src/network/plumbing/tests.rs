use pullpiri_crds::NetworkSliceSpec;
use pullpiri_crds::condition::reason;
use pullpiri_crds::slice::SliceEndpoint;
use pullpiri_node_core::network::plan::{NodeRoute, Uplink};
use pullpiri_node_core::network::shape::LinkRate;

use super::super::describe;
use super::*;

#[test]
fn what_fails_of_a_pod_is_its_failure() {
    let directory = tempfile::tempdir().unwrap();
    let mut plumbing = Plumbing::new("n0", directory.path(), NetworkConfig::default());
    let [stays, leaves] = ["stays", "leaves"].map(|name| PodId(name.to_owned()));
    let [here, there]: [IpAddr; 2] = ["10.20.0.5", "10.20.0.6"].map(|text| text.parse().unwrap());
    let attachment =
        Attachment { network: String::new(), addresses: vec![here], gateways: Vec::new(), ports: Vec::new() };
    plumbing.attachments.insert(stays.clone(), attachment);
    let route = |destination, gateway| NodeRoute { destination, link: "pplb0".to_owned(), gateway };
    let asked = [there];
    let asked = Some((&leaves, asked.as_slice()));
    for (pod, address) in [(&stays, here), (&leaves, there)] {
        let link = pod_link(pod);
        for step in [
            Step::Unguard { link: link.clone() },
            Step::DeleteLink { link: link.clone() },
            Step::Up { link },
            Step::DeleteNamespace { pod: pod.clone() },
            Step::DeleteRoute(route(address, None)),
            Step::AddRoute(route(address, None)),
        ] {
            assert_eq!(plumbing.owner(&step, asked).as_ref(), Some(pod), "{step}");
        }
    }
    for step in [Step::DeleteRoute(route(there, Some(here))), Step::DeleteLink { link: "pplb0".to_owned() }] {
        assert_eq!(plumbing.owner(&step, asked), None, "{step}");
    }
}

fn endpoint(node: &str, address: &str) -> SliceEndpoint {
    SliceEndpoint {
        instance: format!("default/{node}"),
        uid: node.to_owned(),
        model: "model".to_owned(),
        network: 1,
        identity: 1,
        addresses: vec![address.to_owned()],
        node: node.to_owned(),
        via: Vec::new(),
    }
}

#[test]
fn a_link_without_an_address_of_a_family_in_use_is_a_condition_of_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let mut plumbing = Plumbing::new("here", directory.path(), NetworkConfig::default());
    let uplink =
        Uplink { name: "up0".to_owned(), mtu: 1500, rate: Some(LinkRate::Declared(20_000_000)), shapeable: true };
    let found = |addresses: &[&str]| Found {
        uplink: uplink.clone(),
        index: 2,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        no_qos: None,
    };
    let attachment = Attachment {
        network: "default/drive".to_owned(),
        addresses: ["10.20.0.5", "fd00:20::5"].map(|address| address.parse().unwrap()).to_vec(),
        gateways: Vec::new(),
        ports: Vec::new(),
    };
    let said = |plumbing: &Plumbing| describe(plumbing).condition;
    let as_declared = |plumbing: &Plumbing| {
        let (status, why, message) = said(plumbing);
        assert_eq!((status, why), (true, reason::AS_DECLARED), "{message}");
    };
    plumbing.uplink = Ok(found(&["192.0.2.1"]));
    as_declared(&plumbing);
    plumbing.attachments.insert(PodId("pod".to_owned()), attachment);
    let slice = |endpoints: Vec<SliceEndpoint>| {
        let part =
            NetworkSliceSpec { node_name: "here".to_owned(), count: 1, endpoints, ..NetworkSliceSpec::default() };
        Some(Generation { number: 1, parts: vec![part] })
    };
    // Nobody elsewhere has an address of the family: pods here reach each other by their bridge.
    plumbing.generation = slice(vec![endpoint("here", "fd00:20::5"), endpoint("there", "10.20.0.6")]);
    as_declared(&plumbing);
    plumbing.generation = slice(vec![endpoint("here", "fd00:20::5"), endpoint("there", "fd00:20::6")]);
    let (status, why, message) = said(&plumbing);
    assert_eq!((status, why), (false, reason::FAMILY_MISSING), "{message}");
    assert!(message.contains("over IPv6") && message.contains("up0 has no such address"), "{message}");
    plumbing.uplink = Ok(found(&["fd09::1"]));
    as_declared(&plumbing);
    plumbing.generation = slice(vec![endpoint("there", "10.20.0.6"), endpoint("there", "fd00:20::6")]);
    let (status, why, message) = said(&plumbing);
    assert_eq!((status, why), (false, reason::FAMILY_MISSING), "{message}");
    assert!(message.contains("over IPv4"), "{message}");
    plumbing.uplink = Ok(found(&["fd09::1", "192.0.2.1"]));
    as_declared(&plumbing);
    // So is a Pod that has no class.
    for (instance, expected) in [
        ("default/a", "no class takes what default/a sends: it is so"),
        ("default/b", "no class takes what default/a (and 1 more) sends: it is so"),
    ] {
        plumbing.hosts.unclassed.insert(instance.to_owned(), "it is so".to_owned());
        assert_eq!(said(&plumbing), (false, reason::NO_QOS, expected.to_owned()));
    }
}
