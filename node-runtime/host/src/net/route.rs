//! Addresses and routes. Source: rtnetlink(7), linux/if_addr.h, linux/rtnetlink.h.

use std::net::IpAddr;

use super::link::gone_is_done;
use super::socket::Netlink;
use super::wire::{Attributes, Message, flag, read_u32};
use crate::{Result, SysError};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: an address that was given out is nobody else's, and detection takes a second.
const IFA_F_NODAD: u32 = 0x02;
/// Bytes of `struct ifaddrmsg`.
const IFADDR: usize = 8;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
/// Bytes of `struct rtmsg`.
const RTMSG: usize = 12;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
/// The gateway is reached over this interface, whatever other routes say.
const RTNH_F_ONLINK: u32 = 4;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The interface's index.
    pub link: u32,
    pub address: IpAddr,
    pub prefix: u8,
    /// Of use beyond its link.
    pub global: bool,
}

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// The interface's index.
    pub link: u32,
    /// Who made it: see rt_protos of iproute2.
    pub protocol: u8,
    /// Smaller is preferred.
    pub metric: u32,
    /// The source address of packets that the node itself sends.
    pub source: Option<IpAddr>,
}

fn family(address: &IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}

pub(super) fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn address_message(kind: u16, flags: u16, Address { link, address, prefix, .. }: &Address) -> Message {
    let mut header = vec![family(address), *prefix, 0, SCOPE_UNIVERSE];
    header.extend(link.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    let bytes = octets(address);
    message.bytes(IFA_LOCAL, &bytes).bytes(IFA_ADDRESS, &bytes);
    message
}

fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
    let scope = if route.gateway.is_none() && route.destination.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let mut header =
        vec![family(&route.destination), route.prefix, 0, 0, RT_TABLE_MAIN, route.protocol, scope, RTN_UNICAST];
    let route_flags = if route.gateway.is_some() { RTNH_F_ONLINK } else { 0 };
    header.extend(route_flags.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    if route.prefix > 0 {
        message.bytes(RTA_DST, &octets(&route.destination));
    }
    if let Some(gateway) = &route.gateway {
        message.bytes(RTA_GATEWAY, &octets(gateway));
    }
    message.u32(RTA_OIF, route.link);
    if route.metric > 0 {
        message.u32(RTA_PRIORITY, route.metric);
    }
    if let Some(source) = &route.source {
        message.bytes(RTA_PREFSRC, &octets(source));
    }
    message
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let at = |index: usize| payload.get(index).copied().unwrap_or(0);
    let attributes = Attributes::after(payload, RTMSG);
    let table = attributes.find(RTA_TABLE).map_or(u32::from(at(4)), |value| read_u32(value, 0));
    if at(7) != RTN_UNICAST || table != u32::from(RT_TABLE_MAIN) {
        return None;
    }
    let unspecified = if i32::from(at(0)) == libc::AF_INET {
        IpAddr::from([0_u8; 4])
    } else if i32::from(at(0)) == libc::AF_INET6 {
        IpAddr::from([0_u8; 16])
    } else {
        return None;
    };
    Some(Route {
        destination: attributes.find(RTA_DST).and_then(read_address).unwrap_or(unspecified),
        prefix: at(1),
        gateway: attributes.find(RTA_GATEWAY).and_then(read_address),
        link: attributes.find(RTA_OIF).map_or(0, |value| read_u32(value, 0)),
        protocol: at(5),
        metric: attributes.find(RTA_PRIORITY).map_or(0, |value| read_u32(value, 0)),
        source: attributes.find(RTA_PREFSRC).and_then(read_address),
    })
}

impl Netlink {
    /// Every address of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let answers = self.dump(&Message::new(RTM_GETADDR, 0, &[0; IFADDR]), "listing addresses")?;
        let read = |payload: &Vec<u8>| {
            let attributes = Attributes::after(payload, IFADDR);
            let bytes = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
            Some(Address {
                link: read_u32(payload, 4),
                address: read_address(bytes)?,
                prefix: payload.get(1).copied()?,
                global: payload.get(3).copied() == Some(SCOPE_UNIVERSE),
            })
        };
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWADDR).filter_map(|answer| read(&answer.payload)).collect())
    }

    /// Gives an interface an address; one that it has is no error.
    pub fn add_address(&mut self, address: &Address) -> Result<()> {
        let mut message = address_message(RTM_NEWADDR, flag::CREATE | flag::REPLACE, address);
        message.u32(IFA_FLAGS, IFA_F_NODAD);
        self.request(message, &format!("adding address {}/{}", address.address, address.prefix))
    }

    pub fn delete_address(&mut self, address: &Address) -> Result<()> {
        let message = address_message(RTM_DELADDR, 0, address);
        let attempted = format!("removing address {}/{}", address.address, address.prefix);
        gone_is_done(self.request(message, &attempted), &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// Every unicast route of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let answers = self.dump(&Message::new(RTM_GETROUTE, 0, &[0; RTMSG]), "listing routes")?;
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWROUTE).filter_map(|a| parse_route(&a.payload)).collect())
    }

    /// Adds a route, or replaces that of the same destination and metric.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let message = route_message(RTM_NEWROUTE, flag::CREATE | flag::REPLACE, route);
        self.request(message, &format!("adding the route to {}/{}", route.destination, route.prefix))
    }

    /// Removes a route; one that is gone is no error.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let message = route_message(RTM_DELROUTE, 0, route);
        let attempted = format!("removing the route to {}/{}", route.destination, route.prefix);
        gone_is_done(self.request(message, &attempted), &[libc::ESRCH, libc::ENODEV])
    }

    /// How packets to `address` would go; `None` if nowhere.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<Route>> {
        let bytes = octets(&address);
        let bits = u8::try_from(bytes.len().saturating_mul(8)).unwrap_or(0);
        let mut header = [0; RTMSG];
        header[0] = family(&address);
        header[1] = bits;
        let mut message = Message::new(RTM_GETROUTE, 0, &header);
        message.bytes(RTA_DST, &bytes);
        match self.get(message, &format!("looking for the route to {address}")) {
            Ok(answer) => Ok(read_found(&answer.payload, address)),
            Err(error) if is_unreachable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_unreachable(error: &SysError) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
}

/// A looked-up route may be of any table and type.
fn read_found(payload: &[u8], destination: IpAddr) -> Option<Route> {
    let attributes = Attributes::after(payload, RTMSG);
    Some(Route {
        destination,
        prefix: payload.get(1).copied()?,
        gateway: attributes.find(RTA_GATEWAY).and_then(read_address),
        link: attributes.find(RTA_OIF).map(|value| read_u32(value, 0))?,
        protocol: payload.get(5).copied()?,
        metric: attributes.find(RTA_PRIORITY).map_or(0, |value| read_u32(value, 0)),
        source: attributes.find(RTA_PREFSRC).and_then(read_address),
    })
}
