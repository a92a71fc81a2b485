//! What the programs and this crate share, as `ebpf/programs/pharos.h` declares it: sizes and offsets in bytes, asserted when this compiles;
//! `tests/net_layout.rs` has a C compiler compare them.
//!
//! Addresses are 16 bytes in network order, IPv4 mapped; numbers are in the machine's order.
#![expect(unsafe_code, reason = "aya's marker for types that the kernel may read and write as bytes")]

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr};

use aya::Pod;
/// Prefixes in the trie: freeing a large one stalls a CPU, so single addresses go to the hash.
pub use pullpiri_crds::slice::MAX_PREFIXES;

/// `PHAROS_LAYOUT`: maps of another layout aren't adopted.
pub const LAYOUT: u32 = 3;
/// Identities from here on stand for prefixes of rules.
pub const CIDR_IDENTITY: u32 = 0x8000_0000;

pub const ENDPOINT: u16 = 1;
pub const LOCAL: u16 = 2;
pub const INTERNAL: u16 = 4;
pub const EGRESS: u16 = 8;
pub const GATEWAY: u16 = 16;
pub const SUBNET: u16 = 32;

pub const HAS_V4: u8 = 1;
pub const HAS_V6: u8 = 2;
pub const HAS_MAC: u8 = 4;

/// Any code point, in a selector and for a class that sets none.
pub const ANY_DSCP: u8 = 0xff;
/// `skb->priority` from a cgroup to the uplink.
pub const PRIORITY: u32 = 0x5048_0000;

/// Connections that one pod's interface may have opened and that are still remembered.
pub const BUDGET: u32 = 8192;
/// How often it is halved at most: then 4,096 interfaces share the table.
pub const MAX_SHARE: u8 = 9;
/// Entries of `pharos_counts`; 0 is nobody's, the others are those that a policy may name.
pub const COUNTERS: u32 = 16384;
/// Buckets of round trips, as `trip_bucket` in `pharos_trips.h` fills them.
pub const BUCKETS: u32 = 42;
/// Ranges of all pairs: what the bounded search can tell apart.
pub const MAX_RANGES: usize = 1 << 18;

const KIND_ADDRESS: u32 = 1;
const KIND_PAIR: u32 = 2;
const KIND_SELECTOR: u32 = 3;
const KIND_CLASS: u32 = 4;
const KIND_ARRIVES: u32 = 5;
const KIND_PUBLISHED: u32 = 6;

pub const STAT_PASS: u32 = 0;
pub const STAT_OPENED: u32 = 32;
pub const STAT_REEVALUATED: u32 = 33;
pub const STAT_DISPLACED: u32 = 34;
pub const STAT_UNCOUNTED: u32 = 35;
pub const STATS: u32 = 64;

/// `struct pharos_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    pub generation: u64,
    pub epoch: u32,
    pub layout: u32,
}

/// `struct pharos_key`: a kind and 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: u32,
    pub body: [u8; 16],
}

/// `struct pharos_identity`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    pub identity: u32,
    pub network: u16,
    pub flags: u16,
    pub shapes: u32,
    pub counter: u32,
}

/// `struct pharos_pair`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair {
    pub first: u32,
    pub count: u32,
    pub unused: [u32; 2],
}

/// `struct pharos_class`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassValue {
    pub id: u32,
    pub dscp: u32,
    pub counter: u32,
    pub unused: u32,
}

/// `union pharos_value`, as the four words that each of its members is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Value {
    pub words: [u32; 4],
}

/// `struct pharos_range`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub last: u32,
    pub counter: u32,
    pub unused: u32,
}

/// `struct pharos_prefix` after its length in bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixBody {
    pub family: u8,
    pub address: [u8; 16],
    pub unused: [u8; 3],
}

/// `struct pharos_port`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    pub v4: [u8; 16],
    pub v6: [u8; 16],
    pub mac: [u8; 6],
    pub has: u8,
    pub share: u8,
}

/// `struct pharos_connection_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionKey {
    pub address: [[u8; 16]; 2],
    pub port: [u16; 2],
    pub protocol: u8,
    pub unused: [u8; 3],
}

/// `struct pharos_half`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Half {
    pub egress_epoch: u32,
    pub ingress_epoch: u32,
    pub counter: u32,
}

/// `struct pharos_connection`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    pub seen_ns: u64,
    pub half: [Half; 2],
    pub closed: u8,
    pub timed: u8,
    pub to_node: u8,
    pub unused: u8,
    pub timed_ms: u32,
    pub opener: u32,
    pub slot: u32,
}

/// `struct pharos_slot`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    pub opener: u32,
    pub slot: u32,
}

/// `struct pharos_bucket_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketKey {
    pub counter: u32,
    pub bucket: u32,
}

/// `struct pharos_counter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Config>() == 16 && offset_of!(Config, epoch) == 8 && offset_of!(Config, layout) == 12);
    assert!(size_of::<Key>() == 20 && offset_of!(Key, body) == 4);
    assert!(size_of::<Identity>() == 16 && offset_of!(Identity, network) == 4 && offset_of!(Identity, flags) == 6);
    assert!(offset_of!(Identity, shapes) == 8 && offset_of!(Identity, counter) == 12);
    assert!(size_of::<Pair>() == 16 && offset_of!(Pair, count) == 4);
    assert!(size_of::<ClassValue>() == 16 && offset_of!(ClassValue, dscp) == 4 && offset_of!(ClassValue, counter) == 8);
    assert!(size_of::<Value>() == 16);
    assert!(size_of::<Range>() == 16 && offset_of!(Range, last) == 4 && offset_of!(Range, counter) == 8);
    assert!(size_of::<PrefixBody>() == 20 && offset_of!(PrefixBody, address) == 1);
    assert!(size_of::<Port>() == 40 && offset_of!(Port, mac) == 32 && offset_of!(Port, has) == 38);
    assert!(offset_of!(Port, share) == 39);
    assert!(size_of::<ConnectionKey>() == 40 && offset_of!(ConnectionKey, port) == 32);
    assert!(offset_of!(ConnectionKey, protocol) == 36);
    assert!(size_of::<Half>() == 12 && offset_of!(Half, ingress_epoch) == 4 && offset_of!(Half, counter) == 8);
    assert!(size_of::<Connection>() == 48 && offset_of!(Connection, half) == 8 && offset_of!(Connection, closed) == 32);
    assert!(offset_of!(Connection, timed) == 33 && offset_of!(Connection, timed_ms) == 36);
    assert!(offset_of!(Connection, opener) == 40 && offset_of!(Connection, slot) == 44);
    assert!(size_of::<Slot>() == 8 && offset_of!(Slot, slot) == 4);
    assert!(size_of::<BucketKey>() == 8 && offset_of!(BucketKey, bucket) == 4);
    assert!(size_of::<Counter>() == 16 && offset_of!(Counter, bytes) == 8);
};

// SAFETY: `repr(C)`, integers only, no padding (their sizes are the sums of their fields', asserted above), any bit pattern is a value.
unsafe impl Pod for Config {}
// SAFETY: as above.
unsafe impl Pod for Key {}
// SAFETY: as above.
unsafe impl Pod for Identity {}
// SAFETY: as above.
unsafe impl Pod for Value {}
// SAFETY: as above.
unsafe impl Pod for Range {}
// SAFETY: as above.
unsafe impl Pod for PrefixBody {}
// SAFETY: as above.
unsafe impl Pod for Port {}
// SAFETY: as above.
unsafe impl Pod for Slot {}
// SAFETY: as above.
unsafe impl Pod for ConnectionKey {}
// SAFETY: as above.
unsafe impl Pod for Connection {}
// SAFETY: as above.
unsafe impl Pod for Counter {}
// SAFETY: as above.
unsafe impl Pod for BucketKey {}

/// 16 bytes in network order; IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that stands for a workload in the node's own network: in the discard prefix 100::/64 (RFC 6666), which no packet carries.
#[must_use]
pub fn host_address(uid: &str) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = fnv1a(uid.as_bytes()).to_be_bytes();
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0x100, 0, 0, 0, pair(a, b), pair(c, d), pair(e, f), pair(g, h)).octets()
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): the same in every release, unlike std's hashers.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Key {
    #[must_use]
    pub fn address(body: [u8; 16]) -> Self {
        Self { kind: KIND_ADDRESS, body }
    }

    #[must_use]
    pub fn pair(from: u32, to: u32) -> Self {
        Self::words(KIND_PAIR, [from, to, 0, 0])
    }

    #[must_use]
    pub fn class(id: u16) -> Self {
        Self::words(KIND_CLASS, [u32::from(id), 0, 0, 0])
    }

    /// `struct pharos_selector_key`.
    #[must_use]
    pub fn selector(identity: u32, network: u16, port: u16, protocol: u8, dscp: u8) -> Self {
        let [n0, n1] = network.to_ne_bytes();
        let [p0, p1] = port.to_ne_bytes();
        let second = u32::from_ne_bytes([n0, n1, p0, p1]);
        Self::words(KIND_SELECTOR, [identity, second, u32::from_ne_bytes([protocol, dscp, 0, 0]), 0])
    }

    /// A published port where it arrives.
    #[must_use]
    pub fn arrives(protocol: u8, port: u16, address: IpAddr) -> Self {
        Self { kind: KIND_ARRIVES | u32::from(protocol) << 8 | u32::from(port) << 16, body: address_bytes(address) }
    }

    /// A published port as pods see it at their gateway of this family.
    #[must_use]
    pub fn published(protocol: u8, port: u16, family: IpAddr) -> Self {
        let kind = KIND_PUBLISHED | u32::from(protocol) << 8 | u32::from(port) << 16;
        Self::words(kind, [if family.is_ipv4() { 4 } else { 6 }, 0, 0, 0])
    }

    fn words(kind: u32, words: [u32; 4]) -> Self {
        let mut body = [0; 16];
        for (bytes, word) in body.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self { kind, body }
    }
}

impl From<Identity> for Value {
    fn from(value: Identity) -> Self {
        let [n0, n1] = value.network.to_ne_bytes();
        let [f0, f1] = value.flags.to_ne_bytes();
        Self { words: [value.identity, u32::from_ne_bytes([n0, n1, f0, f1]), value.shapes, value.counter] }
    }
}

impl Value {
    /// `struct pharos_published`.
    #[must_use]
    pub fn published(counter: u32) -> Self {
        Self { words: [counter, 0, 0, 0] }
    }
}

impl From<Pair> for Value {
    fn from(value: Pair) -> Self {
        Self { words: [value.first, value.count, 0, 0] }
    }
}

impl From<ClassValue> for Value {
    fn from(value: ClassValue) -> Self {
        Self { words: [value.id, value.dscp, value.counter, 0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_programs_build() {
        let key = Key::selector(7, 3, 443, 6, ANY_DSCP);
        assert_eq!(&key.body[..4], &7u32.to_ne_bytes());
        assert_eq!(&key.body[4..6], &3u16.to_ne_bytes());
        assert_eq!(&key.body[6..8], &443u16.to_ne_bytes());
        assert_eq!(&key.body[8..], &[6, 255, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn hosts_have_addresses_that_no_packet_carries() {
        let address = Ipv6Addr::from(host_address("a1b2"));
        assert!(address.segments().starts_with(&[0x100, 0, 0, 0]));
        assert_ne!(host_address("a1b2"), host_address("a1b3"));
        // The published test vector of FNV-1a for "foobar".
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
