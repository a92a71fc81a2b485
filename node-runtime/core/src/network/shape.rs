//! How the uplink is shared: from the classes of Networks to HTB's numbers.
//!
//! Method: hierarchical token buckets (Devera; tc-htb(8)). The root may send at the link's rate. A class sends at its guarantee whatever
//! others do, without waiting for the root; beyond that it borrows from the root up to its ceiling, lower priorities (numbers) first,
//! equal ones in turns of a quantum. What belongs to no class has one of its own with what the guarantees leave.
//!
//! Units: rates are bits per second of layer-2 bytes (14 bytes of Ethernet header counted, checksum and preamble not); times nanoseconds.

use pullpiri_crds::slice::SliceClass;
use serde::{Deserialize, Serialize};

/// The major number of our HTB, `pp` in ASCII: `tc class show` prints `7070:1` for the first class.
pub const MAJOR: u16 = 0x7070;
/// The class that stands for the link.
pub const ROOT_MINOR: u16 = 0xffff;
/// The class of what belongs to no other. The minor numbers of Networks' classes are 1 to 4095.
pub const DEFAULT_MINOR: u16 = 0xfffe;
/// Priorities of HTB (TC_HTB_NUMPRIO): 0 to 7. What belongs to no class is served last.
const LAST_PRIORITY: u32 = 7;
/// A class sends for this long without waiting after it was idle. HTB's timer is late by up to some milliseconds on a loaded machine,
/// and what a bucket can't hold meanwhile is lost to the class: with 2 ms the rate stays within 1 %. More would delay others.
const BURST_NS: u64 = 2_000_000;
/// The link's own: shorter, as what it lets go at once waits in the driver's queue, in front of everybody.
const ROOT_BURST_NS: u64 = 1_000_000;
/// A frame of Ethernet with its header, in bytes.
const FRAME: u64 = 1514;
/// A quantum is never below a frame (a turn would send nothing at times) nor so large that a turn is felt.
const QUANTUM_MAX: u64 = 30_000;
/// A queue holds this much time at its class' ceiling…
const QUEUE_NS: u64 = 50_000_000;
/// …and at least so many packets, that a burst of a slow class fits.
const QUEUE_MIN: u64 = 32;
const QUEUE_MAX: u64 = 1000;
/// A packet that the stack cuts up later may take the link for so long: others wait for it.
const GSO_NS: u64 = 500_000;
/// What the kernel has by default (GSO_LEGACY_MAX_SIZE, GSO_MAX_SEGS).
const GSO_BYTES: u64 = 65_536;
const GSO_SEGMENTS: u64 = 65_535;
/// Below, TCP's headers leave no room for a segment (two frames).
const GSO_MIN_BYTES: u64 = 3_028;
const SECOND_NS: u64 = 1_000_000_000;

/// A class of HTB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HtbClass {
    /// `major:minor`, as [`handle`] makes it.
    pub handle: u32,
    /// The class above, or the qdisc's handle.
    pub parent: u32,
    pub rate_bps: u64,
    pub ceiling_bps: u64,
    /// How long it may send at `rate_bps` without waiting.
    pub burst_ns: u64,
    /// The same at `ceiling_bps`.
    pub ceiling_burst_ns: u64,
    /// Bytes that it sends in its turn among classes of the same priority.
    pub quantum_bytes: u32,
    /// 0 is served first.
    pub priority: u32,
}

/// How large generic segmentation offload's packets may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gso {
    pub max_bytes: u32,
    pub max_segments: u32,
}

impl Default for Gso {
    fn default() -> Self {
        Self { max_bytes: narrow(GSO_BYTES), max_segments: narrow(GSO_SEGMENTS) }
    }
}

/// The rate of a link and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRate {
    /// An operator: taken as it is.
    Declared(u64),
    /// The driver, for the wire. Each frame takes 24 bytes more there than we count (checksum, preamble, gap: IEEE 802.3), so that HTB at
    /// that rate would never be the narrowest place, and queues would build up in the driver.
    Driver(u64),
}

impl LinkRate {
    #[must_use]
    pub fn bps(self) -> u64 {
        match self {
            Self::Declared(bps) | Self::Driver(bps) => bps,
        }
    }

    /// What HTB's root sends at most.
    fn usable_bps(self) -> u64 {
        match self {
            Self::Declared(bps) => bps,
            Self::Driver(bps) => bps / 100 * 98,
        }
    }
}

/// HTB on the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub root: HtbClass,
    /// With the one for the rest, by handle.
    pub classes: Vec<HtbClass>,
    pub gso: Gso,
}

/// `major:minor` as the kernel keeps it.
#[must_use]
pub const fn handle(major: u16, minor: u16) -> u32 {
    // `From` isn't const.
    let [high, low] = major.to_be_bytes();
    let [higher, lower] = minor.to_be_bytes();
    u32::from_be_bytes([high, low, higher, lower])
}

/// The minor number of a handle.
#[must_use]
pub const fn minor(handle: u32) -> u16 {
    let [_, _, high, low] = handle.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The tree for `classes` on a link of `rate`.
#[must_use]
pub fn tree<'a>(classes: impl IntoIterator<Item = &'a SliceClass>, rate: LinkRate) -> Tree {
    let link = rate.usable_bps();
    let root_handle = handle(MAJOR, ROOT_MINOR);
    let root = HtbClass {
        handle: root_handle,
        parent: handle(MAJOR, 0),
        rate_bps: link,
        ceiling_bps: link,
        burst_ns: ROOT_BURST_NS,
        ceiling_burst_ns: ROOT_BURST_NS,
        quantum_bytes: quantum(link),
        priority: 0,
    };
    // HTB has no rate of zero.
    let least = (link / 1000).max(8);
    let mut guaranteed: u64 = 0;
    let class = |minor: u16, guarantee: u64, ceiling: u64, priority: u32| {
        let rate = guarantee.clamp(least, ceiling.max(least));
        HtbClass {
            handle: handle(MAJOR, minor),
            parent: root_handle,
            rate_bps: rate,
            ceiling_bps: ceiling.max(rate),
            burst_ns: BURST_NS,
            ceiling_burst_ns: BURST_NS,
            quantum_bytes: quantum(rate),
            priority: priority.min(LAST_PRIORITY),
        }
    };
    let mut all = Vec::new();
    for given in classes {
        // Bounds of the schema; what violates them can't be a class.
        let Some(minor) = u16::try_from(given.id).ok().filter(|id| (1..=4095).contains(id)) else { continue };
        let guarantee = u64::try_from(given.guarantee_bps).unwrap_or(0).min(link);
        let ceiling = given.ceiling_bps.and_then(|bps| u64::try_from(bps).ok()).unwrap_or(link).min(link);
        guaranteed = guaranteed.saturating_add(guarantee);
        all.push(class(minor, guarantee, ceiling, u32::try_from(given.priority).unwrap_or(LAST_PRIORITY)));
    }
    // A hundredth even if nothing is left: ARP and the like are in it.
    let rest = link.saturating_sub(guaranteed).max(link / 100);
    all.push(class(DEFAULT_MINOR, rest, link, LAST_PRIORITY));
    all.sort_by_key(|class| class.handle);
    all.dedup_by_key(|class| class.handle);
    Tree { root, classes: all, gso: gso(link) }
}

/// How large packets may be on a link: so that none takes it for longer than half a millisecond, nor less than two frames.
#[must_use]
pub fn gso(link_bps: u64) -> Gso {
    let bytes = (link_bps / 8).saturating_mul(GSO_NS) / SECOND_NS;
    if bytes >= GSO_BYTES {
        return Gso::default();
    }
    let bytes = bytes.max(GSO_MIN_BYTES);
    Gso { max_bytes: narrow(bytes), max_segments: narrow((bytes / FRAME).max(2)) }
}

/// How many packets a class' queue holds.
#[must_use]
pub fn queue_packets(ceiling_bps: u64) -> u32 {
    let bytes = u128::from(ceiling_bps / 8) * u128::from(QUEUE_NS) / u128::from(SECOND_NS);
    let packets = u64::try_from(bytes / u128::from(FRAME)).unwrap_or(QUEUE_MAX);
    narrow(packets.clamp(QUEUE_MIN, QUEUE_MAX))
}

/// A millisecond's worth: equal classes borrow in proportion to their guarantees.
fn quantum(rate_bps: u64) -> u32 {
    narrow((rate_bps / 8 / 1000).clamp(FRAME, QUANTUM_MAX))
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
