//! Queueing disciplines: HTB and its classes. Source: tc-htb(8), linux/pkt_sched.h, net/sched/sch_htb.c.
//!
//! Rates are bits per second at this interface and bytes per second at the kernel's. Bursts are times: how long a class may send at its
//! rate without waiting, in nanoseconds; the kernel keeps them in ticks of 64 ns. Packets are counted with their layer-2 header.

use pullpiri_node_core::network::HtbClass;
use pullpiri_node_core::network::shape::handle;

use super::link::gone_is_done;
use super::socket::Netlink;
use super::wire::{Attributes, Message, flag, read_text, read_u32, read_u64};
use crate::Result;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_GETTCLASS: u16 = 42;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
/// HTB_VER of the kernel, shifted.
const HTB_VERSION: u32 = 3;
/// TC_LINKLAYER_ETHERNET: without, the kernel wants a rate table that it doesn't use.
const LINKLAYER_ETHERNET: u8 = 1;
const TICK_SHIFT: u32 = 6;

/// Bytes of `struct tcmsg`.
const TCMSG: usize = 20;
/// The root of an interface.
pub const ROOT: u32 = 0xffff_ffff;

/// A queueing discipline of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qdisc {
    pub kind: String,
    pub handle: u32,
    pub parent: u32,
    /// HTB's minor number of the class for what belongs to no other.
    pub default_class: Option<u32>,
    pub stats: Stats,
}

/// What went through. Counted by the kernel since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub bytes: u64,
    pub packets: u64,
    pub drops: u32,
    /// Packets that wait now.
    pub queued: u32,
}

/// A class as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HtbClassSeen {
    pub class: HtbClass,
    pub stats: Stats,
}

fn tcmsg(link: u32, handle: u32, parent: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    for (at, value) in [(4, link), (8, handle), (12, parent)] {
        if let Some(place) = header.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    header
}

fn rate_spec(bytes_per_second: u64) -> Vec<u8> {
    let mut spec = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    spec.extend(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

fn ticks(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds >> TICK_SHIFT).unwrap_or(u32::MAX).max(1)
}

fn stats(attributes: Attributes<'_>) -> Stats {
    let Some(all) = attributes.find(TCA_STATS2).map(Attributes) else { return Stats::default() };
    let basic = all.find(TCA_STATS_BASIC).unwrap_or_default();
    let queue = all.find(TCA_STATS_QUEUE).unwrap_or_default();
    let packets = u64::from(read_u32(basic, 8));
    Stats {
        bytes: read_u64(basic, 0),
        packets: all.find(TCA_STATS_PKT64).map_or(packets, |value| read_u64(value, 0)),
        queued: read_u32(queue, 0),
        drops: read_u32(queue, 8),
    }
}

fn parse_class(payload: &[u8]) -> Option<HtbClassSeen> {
    let attributes = Attributes::after(payload, TCMSG);
    if attributes.find(TCA_KIND).map(read_text).as_deref() != Some("htb") {
        return None;
    }
    let options = Attributes(attributes.find(TCA_OPTIONS)?);
    let parms = options.find(TCA_HTB_PARMS)?;
    let rate = |wide: u16, at: usize| {
        let bytes = options.find(wide).map_or(u64::from(read_u32(parms, at)), |value| read_u64(value, 0));
        bytes.saturating_mul(8)
    };
    let time = |at: usize| u64::from(read_u32(parms, at)) << TICK_SHIFT;
    // Two rate specifications of twelve bytes, then buffer, cbuffer, quantum, level, prio.
    let class = HtbClass {
        handle: read_u32(payload, 8),
        parent: read_u32(payload, 12),
        rate_bps: rate(TCA_HTB_RATE64, 8),
        ceiling_bps: rate(TCA_HTB_CEIL64, 20),
        burst_ns: time(24),
        ceiling_burst_ns: time(28),
        quantum_bytes: read_u32(parms, 32),
        priority: read_u32(parms, 40),
    };
    Some(HtbClassSeen { class, stats: stats(attributes) })
}

impl Netlink {
    /// The queueing disciplines of an interface, those of its classes included.
    pub fn qdiscs(&mut self, link: u32) -> Result<Vec<Qdisc>> {
        // The kernel dumps those of all interfaces, whatever is asked.
        let answers = self.dump(&Message::new(RTM_GETQDISC, 0, &tcmsg(link, 0, 0)), "listing queueing disciplines")?;
        let mine = answers.iter().filter(|a| a.kind == RTM_NEWQDISC && read_u32(&a.payload, 4) == link);
        let read = |payload: &[u8]| {
            let attributes = Attributes::after(payload, TCMSG);
            let init = attributes.find(TCA_OPTIONS).and_then(|options| Attributes(options).find(TCA_HTB_INIT));
            let kind = attributes.find(TCA_KIND).map(read_text).unwrap_or_default();
            Qdisc {
                default_class: init.filter(|_| kind == "htb").map(|init| read_u32(init, 8)),
                kind,
                handle: read_u32(payload, 8),
                parent: read_u32(payload, 12),
                stats: stats(attributes),
            }
        };
        Ok(mine.map(|answer| read(&answer.payload)).collect())
    }

    /// Makes HTB the root of an interface. `default_class` is a minor number.
    pub fn add_htb(&mut self, link: u32, major: u16, default_class: u16) -> Result<()> {
        let header = tcmsg(link, handle(major, 0), ROOT);
        let mut message = Message::new(RTM_NEWQDISC, flag::CREATE | flag::REPLACE, &header);
        let mut init = Vec::new();
        for value in [HTB_VERSION, 10, u32::from(default_class), 0, 0] {
            init.extend(value.to_ne_bytes());
        }
        message.text(TCA_KIND, "htb").nested(TCA_OPTIONS, |options| {
            options.bytes(TCA_HTB_INIT, &init);
        });
        self.request(message, &format!("making HTB {major:x}: the root of interface {link}"))
    }

    /// Makes a queue of at most `packets` for a class: `fq_codel` where the kernel has it and it is wanted, else `pfifo`.
    pub fn add_queue(&mut self, link: u32, class: u32, own: u32, packets: u32, fair: bool) -> Result<()> {
        let attempted = format!("making the queue of class {class:x} of interface {link}");
        if fair {
            let mut message = Message::new(RTM_NEWQDISC, flag::CREATE | flag::REPLACE, &tcmsg(link, own, class));
            message.text(TCA_KIND, "fq_codel");
            if self.request(message, &attempted).is_ok() {
                return Ok(());
            }
        }
        let mut message = Message::new(RTM_NEWQDISC, flag::CREATE | flag::REPLACE, &tcmsg(link, own, class));
        message.text(TCA_KIND, "pfifo").u32(TCA_OPTIONS, packets);
        self.request(message, &attempted)
    }

    /// Removes the root queueing discipline with all below; the interface gets the kernel's default back.
    pub fn delete_root(&mut self, link: u32, major: u16) -> Result<()> {
        let message = Message::new(RTM_DELQDISC, 0, &tcmsg(link, handle(major, 0), ROOT));
        let attempted = format!("removing the queueing discipline {major:x}: of interface {link}");
        gone_is_done(self.request(message, &attempted), &[libc::ENOENT, libc::ENODEV, libc::EINVAL])
    }

    /// The HTB classes of an interface.
    pub fn classes(&mut self, link: u32) -> Result<Vec<HtbClassSeen>> {
        let answers = self.dump(&Message::new(RTM_GETTCLASS, 0, &tcmsg(link, 0, 0)), "listing classes")?;
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWTCLASS).filter_map(|a| parse_class(&a.payload)).collect())
    }

    /// Makes a class, or changes it in place: what waits in it stays.
    pub fn set_class(&mut self, link: u32, class: &HtbClass) -> Result<()> {
        let mut message = Message::new(RTM_NEWTCLASS, flag::CREATE, &tcmsg(link, class.handle, class.parent));
        let (rate, ceiling) = (class.rate_bps / 8, class.ceiling_bps / 8);
        let mut parms = rate_spec(rate);
        parms.extend(rate_spec(ceiling));
        let times = [ticks(class.burst_ns), ticks(class.ceiling_burst_ns)];
        for value in times.into_iter().chain([class.quantum_bytes, 0, class.priority]) {
            parms.extend(value.to_ne_bytes());
        }
        message.text(TCA_KIND, "htb").nested(TCA_OPTIONS, |options| {
            options.bytes(TCA_HTB_PARMS, &parms).u64(TCA_HTB_RATE64, rate).u64(TCA_HTB_CEIL64, ceiling);
        });
        self.request(message, &format!("setting class {:x} of interface {link}", class.handle))
    }

    /// Removes a class; one that is gone is no error.
    pub fn delete_class(&mut self, link: u32, class: u32) -> Result<()> {
        let message = Message::new(RTM_DELTCLASS, 0, &tcmsg(link, class, 0));
        let attempted = format!("removing class {class:x} of interface {link}");
        gone_is_done(self.request(message, &attempted), &[libc::ENOENT, libc::ENODEV])
    }
}
