//! Which interface leads to other nodes, and how fast it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::time::{Duration, Instant};

use pullpiri_crds::node::UplinkSpec;
use pullpiri_crds::rate::bits_per_second;
use pullpiri_node_core::network::plan::Uplink;
use pullpiri_node_core::network::shape::{LinkRate, MAJOR, handle};
use pullpiri_node_host::net::{Link, Netlink, link, qdisc};
use pullpiri_node_host::{Result, SysError};

/// As many addresses as a NodeRuntime's status holds.
const ADDRESSES: usize = 8;
/// How long after a resolver had no answer it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is said of the uplink from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// By the NodeRuntime.
    pub spec: Option<UplinkSpec>,
    /// On the command line.
    pub interface: Option<String>,
    pub rate_bps: Option<u64>,
}

impl Said {
    fn name(&self) -> Option<&String> {
        self.spec.as_ref().and_then(|spec| spec.interface.as_ref()).or(self.interface.as_ref())
    }
}

/// Where the API server is. Its name is resolved once; a resolver that doesn't answer blocks for seconds, and is asked again rarely.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    /// A name, if it isn't an address.
    host: Option<String>,
    addresses: Vec<IpAddr>,
    asked: Option<Instant>,
}

impl Server {
    /// A name or an address, which may be in brackets.
    pub fn new(host: Option<&str>) -> Self {
        let Some(host) = host else { return Self::default() };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse() {
            Ok(address) => Self { addresses: vec![address], ..Self::default() },
            Err(_) => Self { host: Some(bare.to_owned()), ..Self::default() },
        }
    }

    /// Its addresses, as far as they are known; the resolver is asked if they aren't, and wasn't lately.
    fn addresses(&mut self, resolve: impl FnOnce(&str) -> Vec<IpAddr>) -> &[IpAddr] {
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if let Some(host) = self.host.as_ref().filter(|_| self.addresses.is_empty() && is_due) {
            self.addresses = resolve(host);
            // Afterwards: it may have taken long.
            self.asked = Some(Instant::now());
        }
        &self.addresses
    }
}

fn resolve(host: &str) -> Vec<IpAddr> {
    // Any port: only addresses are asked for.
    (host, 443).to_socket_addrs().into_iter().flatten().map(|found| found.ip()).collect()
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

/// Why an uplink that somebody named isn't used, if that is new. Of one that nobody named the NodeRuntime's status says enough: a node may be alone.
pub(super) fn news<'a>(
    said: &Said,
    before: &std::result::Result<Found, String>,
    now: &'a std::result::Result<Found, String>,
) -> Option<&'a str> {
    let reason = now.as_ref().err().filter(|_| said.name().is_some())?;
    (before.as_ref().err() != Some(reason)).then_some(reason)
}

/// The uplink, or why there is none. `ours`: interfaces that have our HTB, by our own record. `before`: what was found last.
pub(super) fn find(
    net: &mut Netlink,
    said: &Said,
    server: &mut Server,
    before: Option<&Found>,
    ours: impl Fn(&str) -> bool,
    htb: &std::result::Result<(), String>,
) -> Result<std::result::Result<Found, String>> {
    let link = match pick(net, said, server)? {
        Ok(link) => link,
        Err(reason) => return Ok(Err(reason)),
    };
    let name = link.name.clone();
    // Without a carrier a driver says nothing: what it said last holds, so that a cable that is pulled takes no classes with it.
    let last = before.filter(|found| found.index == link.index).and_then(|found| found.uplink.rate);
    let (rate, mut no_qos) = match rate(&name, said).or_else(|why| last.filter(is_drivers).ok_or(why)) {
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

fn is_drivers(rate: &LinkRate) -> bool {
    matches!(rate, LinkRate::Driver(_))
}

fn pick(net: &mut Netlink, said: &Said, server: &mut Server) -> Result<std::result::Result<Link, String>> {
    let links = net.links()?;
    if let Some(name) = said.name() {
        let found = links.into_iter().find(|link| link.name == *name && !link.loopback);
        return Ok(found.ok_or_else(|| format!("the uplink {name} isn't an interface of this node")));
    }
    for address in server.addresses(resolve) {
        let route = net.route_to(*address)?;
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
        let bps = bits_per_second(&given.0, 1).map_err(|error| format!("spec.uplink.rate: {error}"));
        return bps.map(LinkRate::Declared);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_uplink_that_is_missing_is_told_once() {
        let named = Said { interface: Some("nope0".to_owned()), ..Said::default() };
        let first = Err("it hasn't been looked for yet".to_owned());
        let missing = Err("the uplink nope0 isn't an interface of this node".to_owned());
        assert!(news(&named, &first, &missing).is_some_and(|reason| reason.contains("nope0")));
        assert_eq!(news(&named, &missing, &missing), None);
        assert_eq!(news(&Said::default(), &first, &missing), None, "nobody asked for it");
        let uplink = Uplink { name: "nope0".to_owned(), mtu: 1500, rate: None, shapeable: true };
        let found = Ok(Found { uplink, index: 2, addresses: Vec::new(), no_qos: None });
        assert_eq!(news(&named, &missing, &found), None);
        assert!(news(&named, &found, &missing).is_some(), "it went again");
    }

    #[test]
    fn an_address_needs_no_resolver() {
        for (host, address) in [("192.0.2.7", "192.0.2.7"), ("[fd00::1]", "fd00::1")] {
            let mut server = Server::new(Some(host));
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(server.addresses(|_| panic!("asked for {host}")), [address]);
        }
        assert!(Server::new(None).addresses(|_| panic!("asked for nothing")).is_empty());
    }

    #[test]
    fn a_name_is_asked_for_until_it_is_known_and_not_at_once_again() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut server = Server::new(Some("api.example"));
        assert!(server.addresses(|_| Vec::new()).is_empty());
        assert!(server.addresses(|_| panic!("asked again at once")).is_empty());
        server.asked = server.asked.and_then(|asked| asked.checked_sub(ASK_AGAIN));
        let answer = |host: &str| if host == "api.example" { vec![address] } else { Vec::new() };
        assert_eq!(server.addresses(answer), [address]);
        server.asked = None;
        assert_eq!(server.addresses(|_| panic!("asked for what is known")), [address]);
    }
}
