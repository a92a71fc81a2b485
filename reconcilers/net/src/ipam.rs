//! Addresses of a Network's models.
//!
//! An instance takes one address of each family that the subnet has: the lowest free one, so that the same past gives the same
//! addresses. The network's own address (in IPv6 the subnet-router anycast address, RFC 4291 section 2.6.1), IPv4's broadcast address and the
//! gateway, which is the first usable address, are nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::network::{NetworkMode, NetworkSpec, Subnet};
use pullpiri_crds::prefix::{Family, Prefix, number};
use thiserror::Error;

use crate::FieldError;

/// Prefix lengths of an IPv4 subnet: from the largest private network to the smallest with room for a model.
const V4_LENGTHS: (u8, u8) = (8, 30);
/// Prefix lengths of an IPv6 subnet.
const V6_LENGTHS: (u8, u8) = (48, 126);

/// What no model can have addresses of, and why: the sections of RFC 6890's registry that hosts, links and groups have for themselves.
const RESERVED: [(&str, &str); 10] = [
    ("0.0.0.0/8", "stands for hosts of this network"),
    ("127.0.0.0/8", "is loopback"),
    ("169.254.0.0/16", "is link-local"),
    ("224.0.0.0/4", "is multicast"),
    ("240.0.0.0/4", "is reserved, and holds broadcast"),
    ("::/96", "holds loopback and the unspecified address"),
    ("::ffff:0:0/96", "stands for IPv4 addresses"),
    ("100::/64", "is discarded, and stands for models without addresses here"),
    ("fe80::/10", "is link-local"),
    ("ff00::/8", "is multicast"),
];

/// No address is free.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("subnet {subnet} has {capacity} {} for models and {used} {} in use", if *.capacity == 1 { "address" } else { "addresses" }, if *.used == 1 { "is" } else { "are" })]
pub struct Exhausted {
    pub subnet: String,
    /// Addresses that models can have.
    pub capacity: u128,
    /// Of those, how many are in use.
    pub used: u128,
}

/// The addresses of a subnet: at most one prefix of each family, IPv4 first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    prefixes: Vec<Prefix>,
}

impl Pool {
    /// # Errors
    /// [`FieldError`] if neither family is set, or one isn't a network of its family, without host bits, of a length that models fit in.
    pub fn new(subnet: &Subnet) -> Result<Self, FieldError> {
        let given = [(&subnet.v4, Family::V4, "spec.subnet.v4"), (&subnet.v6, Family::V6, "spec.subnet.v6")];
        let mut prefixes = Vec::new();
        for (text, family, field) in given {
            if let Some(text) = text {
                prefixes.push(prefix(text, family).map_err(|message| FieldError::new(field, message))?);
            }
        }
        if prefixes.is_empty() {
            return Err(FieldError::new("spec.subnet", "v4 or v6 must be set"));
        }
        Ok(Self { prefixes })
    }

    /// The networks, IPv4 first.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// The gateway's addresses, IPv4 first: the first usable one of each family.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.prefixes.iter().map(|p| p.address(p.first() + 1)).collect()
    }

    /// How many instances it has addresses for.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        self.prefixes.iter().map(capacity).min().unwrap_or(0)
    }

    /// Whether an instance may have this address.
    #[must_use]
    pub fn assignable(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|p| {
            let (first, last) = usable(p);
            p.family() == Family::of(address) && (first..=last).contains(&number(address))
        })
    }

    /// An address of each family, IPv4 first: the lowest that nobody has. `used` may hold addresses of other networks.
    ///
    /// # Errors
    /// [`Exhausted`] if a family has none left.
    pub fn allocate(&self, used: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, Exhausted> {
        self.prefixes.iter().map(|prefix| lowest(prefix, used)).collect()
    }
}

fn lowest(prefix: &Prefix, used: &BTreeSet<IpAddr>) -> Result<IpAddr, Exhausted> {
    let (first, last) = usable(prefix);
    let taken = || used.range(prefix.address(first)..=prefix.address(last)).copied().map(number);
    let mut candidate = first;
    for number in taken() {
        if number != candidate {
            break;
        }
        candidate += 1;
    }
    if candidate > last {
        let used = taken().fold(0_u128, |count, _| count + 1);
        return Err(Exhausted { subnet: prefix.to_string(), capacity: capacity(prefix), used });
    }
    Ok(prefix.address(candidate))
}

/// The first and the last address that an instance may have.
fn usable(prefix: &Prefix) -> (u128, u128) {
    let last = match prefix.family() {
        Family::V4 => prefix.last() - 1,
        Family::V6 => prefix.last(),
    };
    (prefix.first() + 2, last)
}

fn capacity(prefix: &Prefix) -> u128 {
    let (first, last) = usable(prefix);
    last - first + 1
}

fn prefix(text: &str, family: Family) -> Result<Prefix, String> {
    let (example, (least, most)) = match family {
        Family::V4 => ("10.20.0.0/24", V4_LENGTHS),
        Family::V6 => ("fd00:20::/64", V6_LENGTHS),
    };
    let prefix = Prefix::parse(text).map_err(|error| error.to_string())?;
    if prefix.family() != family {
        let number = if family == Family::V4 { 4 } else { 6 };
        return Err(format!("must be an IPv{number} network, as {example}; got {text}"));
    }
    if !(least..=most).contains(&prefix.length()) {
        return Err(format!("must have a length from /{least} to /{most}; got {text}"));
    }
    for (reserved, why) in RESERVED {
        if Prefix::parse(reserved).is_ok_and(|reserved| reserved.overlaps(&prefix)) {
            return Err(format!("must hold addresses that models can have, and {reserved} {why}; got {text}"));
        }
    }
    Ok(prefix)
}

/// The mode that a spec states or implies: Bridge with a subnet, else Host.
#[must_use]
pub fn mode(spec: &NetworkSpec) -> NetworkMode {
    match (spec.mode, &spec.subnet) {
        (Some(mode), _) => mode,
        (None, Some(_)) => NetworkMode::Bridge,
        (None, None) => NetworkMode::Host,
    }
}

/// Whether a network takes in models of these labels without being named by their package.
#[must_use]
pub fn attaches(spec: &NetworkSpec, labels: &BTreeMap<String, String>) -> bool {
    spec.attach.as_ref().is_some_and(|selector| {
        // The schema refuses an empty selector; it must not take in everything where no schema was asked.
        !selector.match_labels.is_empty()
            && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// The prefixes of two pools that share addresses, if any.
#[must_use]
pub fn overlap(a: &Pool, b: &Pool) -> Option<(Prefix, Prefix)> {
    a.prefixes.iter().find_map(|x| b.prefixes.iter().find(|y| x.overlaps(y)).map(|y| (*x, *y)))
}
