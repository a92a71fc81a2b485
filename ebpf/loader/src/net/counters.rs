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
    /// What left by an uplink without a class, and what entered pods from this node itself.
    pub other: Traffic,
    pub drops: BTreeMap<DropReason, u64>,
    /// Packets that pod programs let pass.
    pub passed: u64,
    pub connections_opened: u64,
    /// Connections that a later generation was asked about and allowed.
    pub connections_reevaluated: u64,
}
