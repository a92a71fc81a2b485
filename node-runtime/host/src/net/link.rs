//! Network interfaces: veth pairs, bridges, and what is set on them. Source: rtnetlink(7), linux/if_link.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use pullpiri_node_core::network::Gso;

use super::socket::Netlink;
use super::wire::{Attributes, Message, flag, read_text, read_u32};
use crate::{Result, SysError};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_GETNSID: u16 = 90;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_TXQLEN: u16 = 13;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// Attributes of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// Bytes of `struct ifinfomsg`.
const IFINFO: usize = 16;
/// Of `struct rtgenmsg`, padded.
const GENERAL: usize = 4;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// The longest name that an interface may have, in bytes.
pub const NAME_MAX: usize = 15;

/// An interface as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, …; physical ones have none.
    pub kind: Option<String>,
    pub up: bool,
    pub loopback: bool,
    /// Bytes.
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The number that this namespace has for the one in which the other end is, if that is another.
    pub peer_namespace: Option<u32>,
    /// Whether it hears no other isolated port of its bridge, but the bridge itself.
    pub isolated: bool,
    /// The hardware address.
    pub address: Vec<u8>,
    pub alias: Option<String>,
    /// The kind of its root queueing discipline.
    pub qdisc: String,
    /// The largest packets that the stack may hand it to cut up, in bytes and in segments.
    pub gso: Gso,
    /// Packets.
    pub queue_length: u32,
}

/// What to set on an interface. `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    pub up: Option<bool>,
    pub mtu: Option<u32>,
    pub alias: Option<String>,
    /// The bridge's index.
    pub master: Option<u32>,
    pub gso: Option<Gso>,
    pub address: Option<[u8; 6]>,
    /// Of the port of a bridge, which it must be already.
    pub isolated: Option<bool>,
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    for (at, value) in [(4, index), (8, flags), (12, change)] {
        if let Some(place) = header.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    header
}

fn parse(payload: &[u8]) -> Link {
    let flags = read_u32(payload, 8);
    let mut link = Link {
        index: read_u32(payload, 4),
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in Attributes::after(payload, IFINFO) {
        match kind {
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_MTU => link.mtu = read_u32(value, 0),
            IFLA_QDISC => link.qdisc = read_text(value),
            IFLA_MASTER => link.master = Some(read_u32(value, 0)),
            IFLA_LINK_NETNSID => link.peer_namespace = Some(read_u32(value, 0)),
            IFLA_LINKINFO => {
                link.kind = Attributes(value).find(IFLA_INFO_KIND).map(read_text);
                let port = Attributes(value).find(IFLA_INFO_SLAVE_DATA);
                let isolated = port.and_then(|port| Attributes(port).find(IFLA_BRPORT_ISOLATED));
                link.isolated = isolated.is_some_and(|isolated| isolated.first() == Some(&1));
            }
            IFLA_IFALIAS => link.alias = Some(read_text(value)),
            IFLA_GSO_MAX_SEGS => link.gso.max_segments = read_u32(value, 0),
            IFLA_GSO_MAX_SIZE => link.gso.max_bytes = read_u32(value, 0),
            IFLA_TXQLEN => link.queue_length = read_u32(value, 0),
            _ => {}
        }
    }
    link
}

impl Netlink {
    /// Every interface of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.dump(&Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)), "listing interfaces")?;
        Ok(answers.iter().filter(|answer| answer.kind == RTM_NEWLINK).map(|answer| parse(&answer.payload)).collect())
    }

    /// The interface of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.get(message, &format!("looking for interface {name}")) {
            Ok(answer) => Ok(Some(parse(&answer.payload))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number that this namespace has for another, as `Link::peer_namespace` says it; `None`: no interface here has its other end there. Numbers are
    /// given when interfaces are listed.
    pub fn namespace_number(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<u32>> {
        let descriptor = u32::try_from(namespace.as_raw_fd()).unwrap_or(u32::MAX);
        let mut message = Message::new(RTM_GETNSID, 0, &[0; GENERAL]);
        message.u32(NETNSA_FD, descriptor);
        let answer = self.get(message, "asking for the number of a network namespace")?;
        let number = Attributes::after(&answer.payload, GENERAL).find(NETNSA_NSID).map(|value| read_u32(value, 0));
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        Ok(number.filter(|number| *number != u32::MAX))
    }

    /// Makes a veth pair: `name` here, `peer` in another network namespace, both down.
    pub fn create_veth(
        &mut self,
        (name, address): (&str, [u8; 6]),
        (peer, peer_address): (&str, [u8; 6]),
        peer_namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL, &ifinfo(0, 0, 0));
        let namespace = u32::try_from(peer_namespace.as_raw_fd()).unwrap_or(u32::MAX);
        message.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu).bytes(IFLA_ADDRESS, &address);
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested_after(VETH_INFO_PEER, &ifinfo(0, 0, 0), |other| {
                    other.text(IFLA_IFNAME, peer).u32(IFLA_MTU, mtu).bytes(IFLA_ADDRESS, &peer_address);
                    other.u32(IFLA_NET_NS_FD, namespace);
                });
            });
        });
        self.request(message, &format!("making veth {name}"))
    }

    /// Makes a bridge, down, with a hardware address that doesn't follow its ports' (pods remember it).
    pub fn create_bridge(&mut self, name: &str, address: [u8; 6]) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL, &ifinfo(0, 0, 0));
        message.text(IFLA_IFNAME, name).bytes(IFLA_ADDRESS, &address);
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge").nested(IFLA_INFO_DATA, |data| {
                // Without a querier, snooping loses the multicast by which IPv6 neighbours are found.
                data.u8(IFLA_BR_MCAST_SNOOPING, 0);
            });
        });
        self.request(message, &format!("making bridge {name}"))
    }

    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> Result<()> {
        let flags = u32::from(change.up == Some(true)) * IFF_UP;
        let mask = u32::from(change.up.is_some()) * IFF_UP;
        let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, flags, mask));
        if let Some(mtu) = change.mtu {
            message.u32(IFLA_MTU, mtu);
        }
        if let Some(alias) = &change.alias {
            message.bytes(IFLA_IFALIAS, alias.as_bytes());
        }
        if let Some(master) = change.master {
            message.u32(IFLA_MASTER, master);
        }
        if let Some(gso) = change.gso {
            message.u32(IFLA_GSO_MAX_SIZE, gso.max_bytes).u32(IFLA_GSO_MAX_SEGS, gso.max_segments);
        }
        if let Some(address) = &change.address {
            message.bytes(IFLA_ADDRESS, address);
        }
        if let Some(isolated) = change.isolated {
            message.nested(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_SLAVE_KIND, "bridge").nested(IFLA_INFO_SLAVE_DATA, |port| {
                    port.u8(IFLA_BRPORT_ISOLATED, u8::from(isolated));
                });
            });
        }
        self.request(message, &format!("setting interface {index}: {change:?}"))
    }

    /// Removes an interface; one that is gone is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut message = Message::new(RTM_DELLINK, 0, &ifinfo(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        gone_is_done(self.request(message, &format!("removing interface {name}")), &[libc::ENODEV])
    }
}

/// What is to be removed and isn't there is removed.
pub(super) fn gone_is_done(result: Result<()>, gone: &[i32]) -> Result<()> {
    match result {
        Err(error) if error.raw_os_error().is_some_and(|code| gone.contains(&code)) => Ok(()),
        other => other,
    }
}

/// What the driver says of the interface's speed, in bits per second; `None` if it says nothing, as most virtual ones and those
/// that are down do.
pub fn speed(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    let megabits: u64 = text.trim().parse().ok()?;
    (megabits > 0 && megabits < u64::from(u32::MAX)).then(|| megabits.saturating_mul(1_000_000))
}

/// Whether `name` may name an interface.
pub fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != "..";
    if fits && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
        return Ok(());
    }
    Err(SysError::io(
        format!("checking the interface name {name:?}"),
        std::io::Error::other("expected 1 to 15 printable characters without '/' and ':'"),
    ))
}
