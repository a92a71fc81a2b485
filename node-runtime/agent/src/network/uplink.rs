//! Which interface leads to other nodes, and how fast it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};

use pullpiri_crds::node::UplinkSpec;
use pullpiri_node_core::network::plan::Uplink;
use pullpiri_node_core::network::shape::{LinkRate, MAJOR, handle};
use pullpiri_node_core::quantity;
use pullpiri_node_host::net::{Link, Netlink, link, qdisc};
use pullpiri_node_host::{Result, SysError};

/// As many addresses as a NodeRuntime's status holds.
const ADDRESSES: usize = 8;

/// What is said of the uplink from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// By the NodeRuntime.
    pub spec: Option<UplinkSpec>,
    /// On the command line.
    pub interface: Option<String>,
    pub rate_bps: Option<u64>,
    /// The API server: a name or an address.
    pub api_server: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub uplink: Uplink,
    pub index: u32,
    /// By which other nodes reach it.
    pub addresses: Vec<IpAddr>,
    /// Why it can't be shared by classes.
    pub no_qos: Option<String>,
}

/// The uplink, or why there is none. `ours`: interfaces that have our HTB, by our own record.
pub(super) fn find(
    net: &mut Netlink,
    said: &Said,
    ours: impl Fn(&str) -> bool,
    htb: &std::result::Result<(), String>,
) -> Result<std::result::Result<Found, String>> {
    let link = match pick(net, said)? {
        Ok(link) => link,
        Err(reason) => return Ok(Err(reason)),
    };
    let name = link.name.clone();
    let (rate, mut no_qos) = match rate(&name, said) {
        Ok(rate) => (Some(rate), None),
        Err(reason) => (None, Some(reason)),
    };
    if let Err(reason) = htb {
        no_qos = Some(reason.clone());
    }
    let root = net.qdiscs(link.index)?.into_iter().find(|qdisc| qdisc.parent == qdisc::ROOT);
    // The kernel's own defaults have no handle.
    let foreign = root.filter(|root| root.handle != 0 && !(root.handle == handle(MAJOR, 0) && ours(&name)));
    if let Some(root) = foreign {
        no_qos = Some(format!(
            "{name} has a queueing discipline that somebody else put there ({} {:x}:); it is left alone",
            root.kind,
            root.handle >> 16
        ));
    }
    let on_it = net.addresses()?.into_iter().filter(|address| address.link == link.index && address.global);
    let addresses: BTreeSet<IpAddr> = on_it.map(|address| address.address).collect();
    let shapeable = no_qos.is_none();
    let uplink = Uplink { name, mtu: link.mtu, rate, shapeable };
    Ok(Ok(Found { uplink, index: link.index, addresses: addresses.into_iter().take(ADDRESSES).collect(), no_qos }))
}

fn pick(net: &mut Netlink, said: &Said) -> Result<std::result::Result<Link, String>> {
    let links = net.links()?;
    let given = said.spec.as_ref().and_then(|spec| spec.interface.as_ref()).or(said.interface.as_ref());
    if let Some(name) = given {
        let found = links.into_iter().find(|link| link.name == *name && !link.loopback);
        return Ok(found.ok_or_else(|| format!("the uplink {name} isn't an interface of this node")));
    }
    let mut towards: Vec<IpAddr> = Vec::new();
    if let Some(host) = &said.api_server {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse() {
            Ok(address) => towards.push(address),
            // Any port: only addresses are asked for.
            Err(_) => towards.extend((bare, 443).to_socket_addrs().into_iter().flatten().map(|found| found.ip())),
        }
    }
    for address in towards {
        let route = net.route_to(address)?;
        let link = route.and_then(|route| links.iter().find(|link| link.index == route.link && !link.loopback));
        if let Some(link) = link {
            return Ok(Ok(link.clone()));
        }
    }
    let is_default = |destination: IpAddr| {
        destination == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || destination == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let mut defaults: Vec<_> =
        net.routes()?.into_iter().filter(|route| route.prefix == 0 && is_default(route.destination)).collect();
    defaults.sort_by_key(|route| (route.destination.is_ipv6(), route.metric));
    let found = defaults.iter().find_map(|route| links.iter().find(|link| link.index == route.link && !link.loopback));
    Ok(found.cloned().ok_or_else(|| {
        "no interface leads to other nodes: there is no default route; name one with --uplink".to_owned()
    }))
}

fn rate(name: &str, said: &Said) -> std::result::Result<LinkRate, String> {
    if let Some(given) = said.spec.as_ref().and_then(|spec| spec.rate.as_ref()) {
        return match quantity::units(&given.0) {
            Ok(bps) if bps > 0 => Ok(LinkRate::Declared(bps)),
            Ok(_) => Err("spec.uplink.rate is 0".to_owned()),
            Err(error) => Err(format!("spec.uplink.rate: {error}")),
        };
    }
    if let Some(bps) = said.rate_bps.filter(|bps| *bps > 0) {
        return Ok(LinkRate::Declared(bps));
    }
    link::speed(name).map(LinkRate::Driver).ok_or_else(|| {
        format!("nobody says how fast {name} is: set spec.uplink.rate of the NodeRuntime, or --link-rate")
    })
}

/// Whether the kernel has HTB, tried on the loopback of a network namespace that goes at once.
pub(super) fn probe_htb(scratch: &std::path::Path) -> std::result::Result<(), String> {
    use pullpiri_node_host::net::{Family, namespace};
    let tried = || -> Result<()> {
        namespace::create(scratch)?;
        namespace::inside(scratch, || {
            let mut net = Netlink::open(Family::Route)?;
            let lo = net.link("lo")?.map_or(1, |link| link.index);
            net.add_htb(lo, MAJOR, 1)
        })
    };
    let result = tried().map_err(|error: SysError| format!("the kernel has no HTB: {error}"));
    let _ = namespace::remove(scratch);
    result
}
