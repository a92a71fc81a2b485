//! What the programs counted since they were first attached: packets, and bytes of layer 2.

use std::collections::BTreeMap;

use super::layout::Counter;

/// Why a packet was dropped: `enum pharos_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    Truncated,
    Malformed,
    Spoofed,
    Fragment,
    Denied,
    Outside,
    Vacant,
    Destination,
    Unrelated,
    NotReady,
    Protocol,
    Neighbour,
    Scope,
}

impl DropReason {
    pub const ALL: [Self; 13] = [
        Self::Truncated,
        Self::Malformed,
        Self::Spoofed,
        Self::Fragment,
        Self::Denied,
        Self::Outside,
        Self::Vacant,
        Self::Destination,
        Self::Unrelated,
        Self::NotReady,
        Self::Protocol,
        Self::Neighbour,
        Self::Scope,
    ];

    /// Its number in `pharos.h`.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Truncated => 1,
            Self::Malformed => 2,
            Self::Spoofed => 3,
            Self::Fragment => 4,
            Self::Denied => 5,
            Self::Outside => 6,
            Self::Vacant => 7,
            Self::Destination => 8,
            Self::Unrelated => 9,
            Self::NotReady => 10,
            Self::Protocol => 11,
            Self::Neighbour => 12,
            Self::Scope => 13,
        }
    }

    /// A label for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Spoofed => "spoofed",
            Self::Fragment => "fragment",
            Self::Denied => "denied",
            Self::Outside => "outside",
            Self::Vacant => "vacant",
            Self::Destination => "destination",
            Self::Unrelated => "unrelated",
            Self::NotReady => "not-ready",
            Self::Protocol => "protocol",
            Self::Neighbour => "neighbour",
            Self::Scope => "scope",
        }
    }
}

/// What was counted under one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl Traffic {
    /// The sum over CPUs.
    pub(super) fn sum<'a>(counters: impl Iterator<Item = &'a Counter>) -> Self {
        counters.fold(Self::default(), |sum, counter| Self {
            packets: sum.packets.wrapping_add(counter.packets),
            bytes: sum.bytes.wrapping_add(counter.bytes),
        })
    }
}

/// Round trips of a class: from where a packet leaves its pod until what answers it enters the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundTrips {
    /// How many took less than the bucket's bound, and not less than that of the bucket before.
    pub buckets: [u64; BUCKETS],
}

/// [`layout::BUCKETS`](super::layout::BUCKETS), as a length.
const BUCKETS: usize = 42;
const _: () = assert!(super::layout::BUCKETS == 42);

impl Default for RoundTrips {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS] }
    }
}

impl RoundTrips {
    /// The bound of a bucket in nanoseconds; the last one has none.
    #[must_use]
    pub fn bound_ns(bucket: usize) -> Option<u64> {
        let below = |n: usize| 1_u64.checked_shl(u32::try_from(13 + n).ok()?);
        match bucket {
            0 => below(0),
            last if last + 1 >= BUCKETS => None,
            // 1.5 · 2^(13 + n), then 2^(14 + n).
            odd if odd % 2 == 1 => below((odd - 1) / 2).map(|low| low + low / 2),
            even => below(even / 2),
        }
    }
}

/// Rules, classes and networks are those of the generation that this process applied last; a name keeps its numbers from one generation, and one
/// process, to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// What entered pods here, by the rule that allowed it: `<namespace>/<network>/<rule>`. Answers aren't counted.
    pub rules: BTreeMap<String, Traffic>,
    /// What entered pods here from inside of their network: `<namespace>/<name>`.
    pub internal: BTreeMap<String, Traffic>,
    /// What entered pods here by a published port of the node, or went out to one: `<host port>/<protocol>`.
    pub ports: BTreeMap<String, Traffic>,
    /// What left by an uplink: `<namespace>/<network>/<class>`. Bytes on the wire, each segment's headers included.
    pub classes: BTreeMap<String, Traffic>,
    /// Round trips of what pods here sent, by class.
    pub round_trips: BTreeMap<String, RoundTrips>,
    /// What left by an uplink without a class, and what entered pods from this node itself.
    pub other: Traffic,
    pub drops: BTreeMap<DropReason, u64>,
    /// Packets that pod programs let pass.
    pub passed: u64,
    pub connections_opened: u64,
    /// Connections that a later generation was asked about and allowed.
    pub connections_reevaluated: u64,
    /// Connections that were forgotten because their pod opened more than its budget.
    pub connections_displaced: u64,
    /// Packets and round trips that no counter had room for.
    pub uncounted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_by_half_octaves() {
        let bounds: Vec<Option<u64>> = (0..6).map(RoundTrips::bound_ns).collect();
        assert_eq!(bounds, [8192, 12288, 16384, 24576, 32768, 49152].map(Some));
        assert!((1..41).all(|bucket| RoundTrips::bound_ns(bucket) > RoundTrips::bound_ns(bucket - 1)));
        assert_eq!(RoundTrips::bound_ns(41), None);
    }
}
