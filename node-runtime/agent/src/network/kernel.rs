//! Looks at the node's network, and does one step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use pullpiri_node_core::network::plan::{NodeRoute, PodLink};
use pullpiri_node_core::network::shape::{DEFAULT_MINOR, MAJOR, handle};
use pullpiri_node_core::network::steps::{LinkSeen, TreeSeen};
use pullpiri_node_core::network::{
    BRIDGE_PREFIX, Desired, Observed, POD_LINK, ROUTE_PROTOCOL, Step, namespace_path, table,
};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Address, Family, Link, LinkChange, Netlink, Route, namespace, nat, qdisc, sysctl};
use pullpiri_node_host::{Result, SysError};

use super::disk::Record;

/// Where things are done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// What the node's things are called by.
    pub key: &'a str,
    pub namespaces: &'a Path,
    pub metric: u32,
}

/// What is there of what `desired` speaks of, and of what is ours. `guarded`, `whole` and `nat` are the caller's to fill in.
pub(super) fn observe(net: &mut Netlink, place: Place<'_>, desired: &Desired, record: &Record) -> Result<Observed> {
    let links = net.links()?;
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let name_of = |index: u32| names.get(&index).map(|name| (*name).to_owned());
    let mut observed = Observed { originals: record.settings.clone(), ..Observed::default() };
    for link in &links {
        let (master, alias) = (link.master.and_then(name_of), link.alias.clone());
        let index = link.index;
        let seen = LinkSeen { index, up: link.up, master, alias, gso: link.gso, isolated: link.isolated };
        observed.links.insert(link.name.clone(), seen);
    }
    let is_ours = |name: &str| {
        let alias = observed.links.get(name).and_then(|link| link.alias.as_ref());
        alias.is_some_and(|alias| alias.starts_with(&desired.alias_prefix))
    };
    for address in net.addresses()? {
        if let Some(name) = name_of(address.link).filter(|name| name.starts_with(BRIDGE_PREFIX) && is_ours(name)) {
            observed.addresses.insert((name, address.address));
        }
    }
    for route in net.routes()? {
        if route.protocol == ROUTE_PROTOCOL && route.metric == place.metric {
            let Some(link) = name_of(route.link) else { continue };
            observed.routes.insert(NodeRoute { destination: route.destination, link, gateway: route.gateway });
        }
    }
    observed.namespaces = namespaces(place.namespaces);
    for key in desired.settings.keys() {
        // Those of a bridge that is still to be made can't be known.
        let is_there = key.split('/').nth(2).is_none_or(|link| link == "all" || observed.links.contains_key(link));
        if is_there {
            observed.settings.insert(key.clone(), sysctl::read(key)?);
        }
    }
    for (name, gso) in &record.trees {
        if let Some(link) = links.iter().find(|link| link.name == *name)
            && let Some(mut tree) = tree(net, link)?
        {
            tree.gso = *gso;
            observed.trees.insert(name.clone(), tree);
        }
    }
    Ok(observed)
}

/// Those that are alive; the files of others, which a boot leaves behind, are removed.
fn namespaces(directory: &Path) -> BTreeSet<PodId> {
    let Ok(files) = std::fs::read_dir(directory) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for path in files.filter_map(|file| Some(file.ok()?.path())) {
        if !namespace::exists(&path) {
            let _ = namespace::remove(&path);
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            found.insert(PodId(name.to_owned()));
        }
    }
    found
}

/// Our HTB on an interface, if it is there.
fn tree(net: &mut Netlink, link: &Link) -> Result<Option<TreeSeen>> {
    let qdiscs = net.qdiscs(link.index)?;
    let root = qdiscs.iter().find(|qdisc| qdisc.parent == qdisc::ROOT);
    if root.is_none_or(|root| root.kind != "htb" || root.handle != handle(MAJOR, 0)) {
        return Ok(None);
    }
    let classes = net.classes(link.index)?.into_iter().map(|seen| (seen.class.handle, seen.class)).collect();
    let queues = qdiscs.iter().map(|qdisc| qdisc.parent).filter(|parent| *parent != qdisc::ROOT).collect();
    Ok(Some(TreeSeen { classes, queues, ..TreeSeen::default() }))
}

/// Does one step, but for programs and records, which are the caller's.
pub(super) fn act(net: &mut Netlink, place: Place<'_>, step: &Step) -> Result<()> {
    let path = |pod: &PodId| namespace_path(place.namespaces, pod);
    match step {
        Step::Unguard { .. } | Step::Guard { .. } | Step::GuardUplink { .. } => Ok(()),
        Step::DeleteLink { link } => net.delete_link(link),
        Step::DeleteNamespace { pod } => namespace::remove(&path(pod)),
        Step::DeleteRoute(route) => match route_of(net, place, route)? {
            Some(route) => net.delete_route(&route),
            None => Ok(()),
        },
        Step::MakeBridge { link, alias, address } => {
            if net.link(link)?.is_none() {
                net.create_bridge(link, *address)?;
            }
            change(net, link, LinkChange { alias: Some(alias.clone()), ..LinkChange::default() })
        }
        Step::AddAddress { link, address } => {
            let address = full(index(net, link)?, *address);
            net.add_address(&address)
        }
        Step::DeleteAddress { link, address } => {
            let address = full(index(net, link)?, *address);
            net.delete_address(&address)
        }
        Step::Set { key, value } | Step::Restore { key, value } => sysctl::write(key, value).map(drop),
        Step::Up { link } => change(net, link, LinkChange { up: Some(true), ..LinkChange::default() }),
        Step::MakeNamespace { pod } => namespace::create(&path(pod)),
        Step::MakeVeth { pod, link, addresses } => make_veth(net, &path(pod), link, *addresses),
        Step::Configure { pod, link } => namespace::inside(&path(pod), || configure(link)),
        Step::Resize { pod, link, gso } => {
            let wanted = LinkChange { gso: Some(*gso), ..LinkChange::default() };
            let inner = wanted.clone();
            // The pod's end first: what the node's says is what is looked at.
            namespace::inside(&path(pod), || change(&mut Netlink::open(Family::Route)?, POD_LINK, inner))?;
            change(net, link, wanted)
        }
        Step::Join { link, bridge, .. } => {
            let bridge = index(net, bridge)?;
            change(net, link, LinkChange { master: Some(bridge), ..LinkChange::default() })
        }
        Step::Isolate { link, .. } => isolate(net, link),
        Step::AddRoute(route) => match route_of(net, place, route)? {
            Some(route) => net.add_route(&route),
            None => Err(missing(&route.link)),
        },
        Step::MakeTree { link } => {
            let index = index(net, link)?;
            net.add_htb(index, MAJOR, DEFAULT_MINOR)
        }
        Step::SetClass { link, class } => {
            let index = index(net, link)?;
            net.set_class(index, class)
        }
        Step::MakeQueue { link, class, packets } => {
            let index = index(net, link)?;
            net.add_queue(index, *class, 0, *packets, true)
        }
        Step::DeleteClass { link, class } => {
            let index = index(net, link)?;
            net.delete_class(index, *class)
        }
        Step::DeleteTree { link } => match net.link(link)? {
            Some(link) => net.delete_root(link.index, MAJOR),
            None => Ok(()),
        },
        Step::ResizeUplink { link, gso } => change(net, link, LinkChange { gso: Some(*gso), ..LinkChange::default() }),
        Step::Translate(nat) => nat::replace(&table(place.key), nat),
    }
}

fn missing(link: &str) -> SysError {
    SysError { attempted: format!("looking for interface {link}"), source: std::io::Error::other("it isn't there") }
}

fn index(net: &mut Netlink, name: &str) -> Result<u32> {
    net.link(name)?.map(|link| link.index).ok_or_else(|| missing(name))
}

fn change(net: &mut Netlink, name: &str, wanted: LinkChange) -> Result<()> {
    let index = index(net, name)?;
    net.set_link(index, &wanted)
}

/// An address with the prefix of a single one.
fn full(link: u32, address: IpAddr) -> Address {
    Address { link, address, prefix: bits(address), global: true }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn route_of(net: &mut Netlink, place: Place<'_>, route: &NodeRoute) -> Result<Option<Route>> {
    let Some(link) = net.link(&route.link)? else { return Ok(None) };
    Ok(Some(Route {
        destination: route.destination,
        prefix: bits(route.destination),
        gateway: route.gateway,
        link: link.index,
        protocol: ROUTE_PROTOCOL,
        metric: place.metric,
        source: None,
    }))
}

fn make_veth(net: &mut Netlink, namespace: &Path, link: &PodLink, addresses: [[u8; 6]; 2]) -> Result<()> {
    let [here, there] = addresses;
    let peer = namespace::open(namespace)?;
    // Before the pod's end is made, which takes what is default then.
    let v6 = link.attachment.addresses.iter().any(IpAddr::is_ipv6);
    namespace::inside(namespace, || prepare(v6))?;
    net.create_veth((&link.link, here), (POD_LINK, there), peer.as_fd(), link.mtu)?;
    let bridge = index(net, &link.bridge)?;
    let wanted = LinkChange {
        alias: Some(link.alias.clone()),
        master: Some(bridge),
        gso: Some(link.gso),
        ..LinkChange::default()
    };
    change(net, &link.link, wanted)?;
    isolate(net, &link.link)
}

/// Pods send to each other over their gateway, where they are judged; what they send to all of a link (neighbour discovery, ARP) is for the
/// gateway alone.
fn isolate(net: &mut Netlink, port: &str) -> Result<()> {
    change(net, port, LinkChange { isolated: Some(true), ..LinkChange::default() })
}

/// Settings of a pod's interfaces to be: it is told its addresses and routes, and takes none from strangers.
fn prepare(v6: bool) -> Result<()> {
    let off = if v6 { "0" } else { "1" };
    for (key, value) in [
        ("ipv4/conf/default/accept_redirects", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv6/conf/default/accept_redirects", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/autoconf", "0"),
        // An address that was given out is nobody else's, and detection takes a second.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/default/disable_ipv6", off),
    ] {
        sysctl::write(key, value)?;
    }
    Ok(())
}

/// The pod's end, from inside.
fn configure(link: &PodLink) -> Result<()> {
    let mut net = Netlink::open(Family::Route)?;
    let index = index(&mut net, POD_LINK)?;
    net.set_link(index, &LinkChange { up: Some(true), gso: Some(link.gso), ..LinkChange::default() })?;
    for (address, gateway) in link.attachment.addresses.iter().zip(&link.attachment.gateways) {
        net.add_address(&full(index, *address))?;
        let unspecified: IpAddr = if address.is_ipv4() { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u8; 16]) };
        let route = Route {
            destination: *gateway,
            prefix: bits(*gateway),
            gateway: None,
            link: index,
            // RTPROT_STATIC: as an administrator would.
            protocol: 4,
            metric: 0,
            source: None,
        };
        net.add_route(&route)?;
        net.add_route(&Route { destination: unspecified, prefix: 0, gateway: Some(*gateway), ..route })?;
    }
    Ok(())
}
