use std::collections::BTreeMap;
use std::net::IpAddr;

use insta::assert_snapshot;
use pullpiri_crds::network::{NetworkMode, Verdict};
use pullpiri_crds::slice::{NetworkSliceSpec, SliceClass, SliceEndpoint, SliceNetwork, SlicePort};

use super::plan::{NodeRoute, Uplink};
use super::shape::{DEFAULT_MINOR, MAJOR, ROOT_MINOR, handle, minor};
use super::steps::{LinkSeen, TreeSeen};
use super::*;

const NODE: &str = "zone";

/// A kernel that does what steps say.
#[derive(Default)]
struct Kernel {
    seen: Observed,
    attachments: BTreeMap<PodId, Attachment>,
    generation: Option<Generation>,
    uplink: Option<Uplink>,
}

impl Kernel {
    fn new() -> Self {
        let uplink =
            Uplink { name: "eth0".to_owned(), mtu: 1500, rate: Some(LinkRate::Declared(100_000_000)), shapeable: true };
        let mut kernel = Self { uplink: Some(uplink), ..Self::default() };
        kernel.seen.links.insert("eth0".to_owned(), LinkSeen { up: true, ..LinkSeen::default() });
        kernel.seen.nat = Some(Nat::default());
        kernel
    }

    fn steps(&self) -> Vec<Step> {
        let input = Input {
            node: NODE,
            key: NODE,
            others: Forwards::default(),
            attachments: &self.attachments,
            generation: self.generation.as_ref(),
            uplink: self.uplink.as_ref(),
            v6: V6Forwarding::PerLink,
        };
        steps(&desired(&input), &self.seen)
    }

    /// Plans and does, at most `limit` steps of it; the steps as text.
    fn converge(&mut self, limit: usize) -> String {
        let steps = self.steps();
        let mut text = String::new();
        for step in steps.into_iter().take(limit) {
            text.push_str(&format!("{step}\n"));
            self.act(step);
        }
        text
    }

    fn settle(&mut self) -> String {
        let text = self.converge(usize::MAX);
        assert_eq!(self.steps(), [], "deciding on the result gives nothing");
        text
    }

    fn restart_agent(&mut self) {
        self.seen.guarded.clear();
        self.seen.nat = None;
    }

    fn act(&mut self, step: Step) {
        let seen = &mut self.seen;
        match step {
            Step::Unguard { link } => {
                seen.guarded.remove(&link);
            }
            Step::DeleteLink { link } => {
                seen.links.remove(&link);
                seen.addresses.retain(|(name, _)| *name != link);
                seen.routes.retain(|route| route.link != link);
                seen.settings.retain(|key, _| !key.contains(&link));
            }
            Step::DeleteNamespace { pod } => {
                seen.namespaces.remove(&pod);
            }
            Step::DeleteRoute(route) => {
                seen.routes.remove(&route);
            }
            Step::MakeBridge { link, alias, .. } => {
                seen.links.entry(link).or_default().alias = Some(alias);
            }
            Step::AddAddress { link, address } => {
                seen.addresses.insert((link, address));
            }
            Step::DeleteAddress { link, address } => {
                seen.addresses.remove(&(link, address));
            }
            Step::Set { key, value } => {
                if key.contains("eth0") {
                    seen.originals.entry(key.clone()).or_insert_with(|| "0".to_owned());
                }
                seen.settings.insert(key, Some(value));
            }
            Step::Restore { key, value } => {
                seen.originals.remove(&key);
                seen.settings.insert(key, Some(value));
            }
            Step::Up { link } => seen.links.get_mut(&link).unwrap().up = true,
            Step::MakeNamespace { pod } => {
                seen.namespaces.insert(pod);
            }
            Step::MakeVeth { pod, link, .. } => {
                assert!(seen.namespaces.contains(&pod) && seen.links.contains_key(&link.bridge));
                let (master, alias) = (Some(link.bridge), Some(link.alias));
                let made = LinkSeen { index: 0, up: false, master, alias, gso: link.gso, isolated: true };
                assert!(seen.links.insert(link.link, made).is_none());
            }
            Step::Guard { link, .. } => {
                assert!(seen.links.contains_key(&link));
                seen.guarded.insert(link);
            }
            Step::Configure { link, .. } => {
                assert!(seen.guarded.contains(&link.link), "nothing passes unguarded");
                assert!(!seen.links[&link.link].up);
            }
            Step::Join { link, bridge, .. } => {
                let seen = seen.links.get_mut(&link).unwrap();
                (seen.master, seen.isolated) = (Some(bridge), false);
            }
            Step::Isolate { link, .. } => seen.links.get_mut(&link).unwrap().isolated = true,
            Step::Resize { link, gso, .. } | Step::ResizeUplink { link, gso } => {
                seen.links.get_mut(&link).unwrap().gso = gso;
            }
            Step::AddRoute(route) => {
                assert!(seen.links.get(&route.link).unwrap().up);
                seen.routes.insert(route);
            }
            Step::MakeTree { link } => {
                let gso = seen.links[&link].gso;
                seen.trees.insert(link, TreeSeen { gso, ..TreeSeen::default() });
            }
            Step::SetClass { link, class } => {
                seen.trees.get_mut(&link).unwrap().classes.insert(class.handle, class);
            }
            Step::MakeQueue { link, class, .. } => {
                seen.trees.get_mut(&link).unwrap().queues.insert(class);
            }
            Step::DeleteClass { link, class } => {
                let tree = seen.trees.get_mut(&link).unwrap();
                tree.classes.remove(&class);
                tree.queues.remove(&class);
            }
            Step::DeleteTree { link } => {
                seen.trees.remove(&link);
            }
            Step::GuardUplink { link, .. } => {
                seen.guarded.insert(link);
            }
            Step::Translate(nat) => seen.nat = Some(nat),
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str) -> PodId {
    PodId(format!("uid-{name}"))
}

fn on(network: &str, addresses: &[&str], gateways: &[&str]) -> Attachment {
    let parse = |list: &[&str]| list.iter().map(|text| ip(text)).collect();
    Attachment {
        network: format!("default/{network}"),
        addresses: parse(addresses),
        gateways: parse(gateways),
        ports: Vec::new(),
    }
}

fn class(id: i32, priority: i32, guarantee_bps: i64, ceiling_bps: Option<i64>) -> SliceClass {
    SliceClass { id, name: format!("default/drive/{id}"), priority, guarantee_bps, ceiling_bps, dscp: None }
}

fn slice(generation: i64) -> NetworkSliceSpec {
    NetworkSliceSpec { node_name: NODE.to_owned(), generation, index: 0, count: 1, ..NetworkSliceSpec::default() }
}

fn drive(generation: i64) -> Generation {
    let endpoint = |instance: &str, node: &str, address: &str, via: &[&str]| SliceEndpoint {
        instance: format!("default/{instance}"),
        uid: format!("uid-{instance}"),
        model: instance.to_owned(),
        network: 1,
        identity: 1,
        addresses: vec![address.to_owned()],
        node: node.to_owned(),
        via: via.iter().map(|text| (*text).to_owned()).collect(),
    };
    let part = NetworkSliceSpec {
        networks: vec![SliceNetwork {
            id: 1,
            name: "default/drive".to_owned(),
            mode: NetworkMode::Bridge,
            v4: Some("10.20.0.0/24".to_owned()),
            v6: None,
            gateways: vec!["10.20.0.1".to_owned()],
            internal: Verdict::Allow,
            egress: true,
            masquerade: true,
        }],
        endpoints: vec![
            endpoint("brake", NODE, "10.20.0.5", &[]),
            endpoint("sensor", "hpc", "10.20.0.6", &["192.0.2.7", "fd00::7"]),
            endpoint("lost", "none", "10.20.0.7", &[]),
        ],
        classes: vec![class(1, 0, 20_000_000, None), class(2, 5, 0, Some(50_000_000))],
        ports: vec![
            SlicePort { host_port: 8080, protocol: 6, address: "10.20.0.5".to_owned(), target_port: 80 },
            SlicePort { host_port: 8081, protocol: 6, address: "10.20.0.9".to_owned(), target_port: 80 },
        ],
        ..slice(generation)
    };
    Generation { number: generation, parts: vec![part] }
}

#[test]
fn a_pods_network_from_attach_to_detach() {
    let mut kernel = Kernel::new();
    assert_eq!(kernel.settle(), "", "a node without networks isn't touched");
    let before = kernel.seen.clone();
    kernel.attachments.insert(pod("brake"), on("drive", &["10.20.0.5"], &["10.20.0.1"]));
    assert_snapshot!("attach", kernel.settle());
    let second = on("drive", &["10.20.0.8", "fd00:20::8"], &["10.20.0.1", "fd00:20::1"]);
    kernel.attachments.insert(pod("steer"), second);
    assert_snapshot!("attach_second", kernel.settle());
    kernel.generation = Some(drive(1));
    assert_snapshot!("generation", kernel.settle());
    kernel.restart_agent();
    assert_snapshot!("adopt", kernel.settle());
    kernel.uplink.as_mut().unwrap().rate = Some(LinkRate::Declared(10_000_000));
    assert_snapshot!("slower_link", kernel.settle());
    let mut changed = drive(2);
    changed.parts[0].classes[0].guarantee_bps = 1_000_000;
    changed.parts[0].classes.remove(1);
    changed.parts[0].endpoints.remove(1);
    kernel.generation = Some(changed);
    assert_snapshot!("generation_2", kernel.settle());
    kernel.attachments.remove(&pod("steer"));
    assert_snapshot!("detach", kernel.settle());
    kernel.attachments.clear();
    kernel.generation = None;
    assert_snapshot!("detach_last", kernel.settle());
    kernel.seen.settings = before.settings.clone();
    kernel.seen.nat = before.nat.clone();
    assert_eq!(kernel.seen, before, "nothing is left");
}

#[test]
fn a_crash_after_any_step_leaves_nothing_half_made() {
    for limit in 0.. {
        let mut kernel = Kernel::new();
        kernel.attachments.insert(pod("brake"), on("drive", &["10.20.0.5"], &["10.20.0.1"]));
        kernel.generation = Some(drive(1));
        let all = kernel.steps().len();
        kernel.converge(limit);
        kernel.restart_agent();
        kernel.settle();
        kernel.attachments.clear();
        kernel.generation = None;
        let all_removals = kernel.steps().len();
        kernel.converge(limit);
        kernel.restart_agent();
        kernel.settle();
        assert!(kernel.seen.links.keys().eq(["eth0"]), "{:?}", kernel.seen.links);
        assert!(kernel.seen.namespaces.is_empty() && kernel.seen.routes.is_empty() && kernel.seen.trees.is_empty());
        if limit > all.max(all_removals) {
            break;
        }
    }
}

#[test]
fn what_others_made_is_left_alone() {
    let mut kernel = Kernel::new();
    let theirs = LinkSeen { alias: Some("pullpiri/0123456789abcdef/x".to_owned()), ..LinkSeen::default() };
    kernel.seen.links.insert("docker0".to_owned(), LinkSeen::default());
    kernel.seen.links.insert("pplp0000000000".to_owned(), theirs.clone());
    kernel.seen.links.insert("pplb0000000000".to_owned(), theirs);
    assert_eq!(kernel.settle(), "");
}

#[test]
fn an_attachment_that_changed_is_made_anew() {
    let mut kernel = Kernel::new();
    kernel.attachments.insert(pod("brake"), on("drive", &["10.20.0.5"], &["10.20.0.1"]));
    kernel.settle();
    kernel.attachments.insert(pod("brake"), on("drive", &["10.20.0.6"], &["10.20.0.1"]));
    let text = kernel.settle();
    assert!(text.contains("delete    namespace uid-brake") && text.contains("configure uid-brake"), "{text}");
    assert!(kernel.seen.routes.iter().all(|route| route.destination == ip("10.20.0.6")));
    let local = |route: &NodeRoute| route.gateway.is_none();
    assert!(kernel.seen.routes.iter().all(local));
}

#[test]
fn no_link_rate_means_no_queues() {
    for break_it in [|uplink: &mut Uplink| uplink.rate = None, |uplink: &mut Uplink| uplink.shapeable = false] {
        let mut kernel = Kernel::new();
        kernel.generation = Some(drive(1));
        break_it(kernel.uplink.as_mut().unwrap());
        kernel.settle();
        assert!(kernel.seen.trees.is_empty());
    }
}

#[test]
fn what_guarantees_leave_is_for_the_rest() {
    let classes = [class(1, 0, 60_000_000, None), class(2, 9, 30_000_000, Some(20_000_000)), class(9999, 0, 1, None)];
    let tree = shape::tree(&classes, LinkRate::Declared(100_000_000));
    let of = |id: u16| *tree.classes.iter().find(|class| minor(class.handle) == id).unwrap();
    assert_eq!(tree.classes.len(), 3);
    assert_eq!((tree.root.handle, tree.root.rate_bps), (handle(MAJOR, ROOT_MINOR), 100_000_000));
    assert_eq!((of(1).rate_bps, of(1).ceiling_bps, of(1).priority), (60_000_000, 100_000_000, 0));
    // A guarantee above the ceiling is no guarantee.
    assert_eq!((of(2).rate_bps, of(2).ceiling_bps, of(2).priority), (20_000_000, 20_000_000, 7));
    assert_eq!(of(DEFAULT_MINOR).rate_bps, 10_000_000);
    let full = shape::tree(&[class(1, 0, 100_000_000, None)], LinkRate::Declared(100_000_000));
    assert_eq!(full.classes[1].rate_bps, 1_000_000);
    // The wire takes more than we count.
    assert_eq!(shape::tree(&[], LinkRate::Driver(1_000_000_000)).root.rate_bps, 980_000_000);
}

#[test]
fn packets_are_bounded_by_the_links_rate() {
    let bytes = |mbit: u64| shape::gso(mbit * 1_000_000).max_bytes;
    assert_eq!([bytes(1), bytes(10), bytes(100), bytes(1000), bytes(10_000)], [3028, 3028, 6250, 62_500, 65_536]);
    assert_eq!(shape::gso(10_000_000).max_segments, 2);
    let packets = |mbit: u64| shape::queue_packets(mbit * 1_000_000);
    assert_eq!([packets(1), packets(10), packets(100), packets(1000)], [32, 41, 412, 1000]);
}

#[test]
fn a_generation_is_taken_when_all_of_it_is_there() {
    let part = |generation, index, count| NetworkSliceSpec { index, count, ..slice(generation) };
    let number = |slices: &[NetworkSliceSpec]| assemble(slices).map(|generation| generation.number);
    assert_eq!(number(&[]), None);
    assert_eq!(number(&[part(3, 1, 2)]), None);
    assert_eq!(number(&[part(3, 1, 2), part(3, 0, 2)]), Some(3));
    assert_eq!(number(&[part(3, 0, 2), part(3, 1, 2), part(4, 0, 2)]), Some(3));
    assert_eq!(number(&[part(3, 0, 2), part(4, 1, 2)]), None);
    assert_eq!(number(&[part(3, 0, 2), part(3, 5, 2)]), None);
    assert_eq!(number(&[part(3, 0, 1), part(3, 1, 2)]), None);
    let parts = assemble(&[part(3, 1, 2), part(3, 0, 2)]).unwrap().parts;
    assert_eq!(parts.iter().map(|part| part.index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn names_fit_and_differ() {
    let long = "a-very-long-uid-of-more-than-fifteen-bytes";
    let names = [pod_link(&PodId(long.into())), pod_link(&pod("b")), bridge("a", "x/y"), bridge("b", "x/y")];
    assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert_eq!(hardware_address("x")[0], 2);
    assert!((4096..70_000).contains(&metric("zone")));
}

#[test]
fn an_interface_that_was_whole_goes_up_again_and_one_that_never_was_is_made_anew() {
    let mut kernel = Kernel::new();
    kernel.attachments.insert(pod("brake"), on("drive", &["10.20.0.5"], &["10.20.0.1"]));
    kernel.settle();
    let link = pod_link(&pod("brake"));
    kernel.seen.links.get_mut(&link).unwrap().up = false;
    let anew = kernel.steps();
    assert!(anew.iter().any(|step| matches!(step, Step::DeleteNamespace { .. })), "{anew:?}");
    kernel.seen.whole.insert(link.clone());
    assert_eq!(kernel.steps(), [Step::Up { link: link.clone() }]);
    // One that went is made in the namespace in which the pod is.
    kernel.seen.links.remove(&link);
    let steps = kernel.steps();
    assert!(steps.iter().any(|step| matches!(step, Step::MakeVeth { .. })), "{steps:?}");
    assert!(!steps.iter().any(|step| matches!(step, Step::DeleteNamespace { .. })), "{steps:?}");
}
