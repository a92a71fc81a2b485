//! What the kernel tells of changes: to interfaces, addresses, routes, queueing disciplines and settings of a network namespace, and to its tables of
//! nftables. Nothing is asked and nobody waits: a socket is read when it is readable.
//!
//! Source: netlink(7), linux/rtnetlink.h, linux/netfilter/nfnetlink.h.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};

use super::socket::Family;
use super::wire::{Attributes, Messages, read_text};
use crate::{Result, SysError};

/// Groups by their numbers, of which each is a bit: RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV4_NETCONF and
/// _IPV6_NETCONF.
const ROUTE_GROUPS: [u32; 8] = [1, 4, 5, 7, 9, 11, 24, 25];
/// NFNLGRP_NFTABLES.
const NFTABLES_GROUPS: [u32; 1] = [7];
/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;
/// In every message of nftables that is about something in a table.
const NFTABLES_TABLE: u16 = 1;
/// As large as the kernel makes a datagram.
const BUFFER: usize = 32 << 10;
/// For what comes at once, as when a hundred interfaces go. What doesn't fit is told as lost, which is a change as well.
const QUEUE: usize = 256 << 10;

/// Hears of changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// Of tables of nftables this one alone is of interest.
    table: Option<String>,
    buffer: Vec<u8>,
}

impl Listener {
    /// Hears of interfaces, addresses, routes, queueing disciplines and settings.
    ///
    /// # Errors
    /// If the kernel lets nobody hear.
    pub fn of_links() -> Result<Self> {
        Self::open(Family::Route, &ROUTE_GROUPS, None)
    }

    /// Hears of one table of nftables.
    ///
    /// # Errors
    /// If the kernel has no nftables, or lets nobody hear.
    pub fn of_table(table: &str) -> Result<Self> {
        Self::open(Family::Netfilter, &NFTABLES_GROUPS, Some(table.to_owned()))
    }

    fn open(family: Family, groups: &[u32], table: Option<String>) -> Result<Self> {
        let fail = |e| SysError::errno("listening to the kernel's changes of the network", e);
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(fail)?;
        if setsockopt(&socket, RcvBufForce, &QUEUE).is_err() {
            let _ = setsockopt(&socket, RcvBuf, &QUEUE);
        }
        let mask = groups.iter().fold(0_u32, |mask, group| mask | 1 << (group - 1));
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, mask)).map_err(fail)?;
        Ok(Self { socket, table, buffer: vec![0; BUFFER] })
    }

    /// Reads all that was told. Whether something of interest is among it.
    ///
    /// # Errors
    /// If nothing can be heard any more.
    pub fn drain(&mut self) -> Result<bool> {
        let mut changed = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => changed |= self.concerns(self.buffer.get(..length).unwrap_or_default()),
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => {}
                // Some was lost: nobody knows what.
                Err(Errno::ENOBUFS) => changed = true,
                Err(errno) => return Err(SysError::errno("hearing of changes of the network", errno)),
            }
        }
    }

    fn concerns(&self, datagram: &[u8]) -> bool {
        let Some(table) = &self.table else { return true };
        Messages(datagram).any(|message| {
            let named = Attributes::after(message.payload, NFGEN).find(NFTABLES_TABLE);
            named.is_some_and(|named| read_text(named) == *table)
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
