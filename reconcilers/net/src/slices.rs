//! One node's policy as NetworkSlices, and back.
//!
//! A slice holds at most [`MAX_ENTRIES`] entries; lists are cut where a slice is full, in the order networks, classes, selectors, ports,
//! rules, endpoints. All slices of a node carry one generation: a node takes it when it has all `count` of them.

use std::collections::BTreeSet;

use pullpiri_crds::network::Verdict;
use pullpiri_crds::prefix::Prefix;
use pullpiri_crds::slice::{MAX_ENTRIES, MAX_NAMES, MAX_PREFIXES, NetworkSliceSpec, whole};
use thiserror::Error;

pub use pullpiri_crds::slice::Incomplete;

use crate::compile::Compiled;

/// Slices of one node: what their index can say.
pub const MAX_SLICES: usize = 256;

/// A policy that its slices, or the node's kernel, can't hold.
#[derive(Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    #[error("{0} entries, more than the {most} that a node's slices hold", most = MAX_SLICES * MAX_ENTRIES)]
    Entries(usize),
    #[error("{0} names of rules, classes, networks and ports, more than the {MAX_NAMES} that its kernel counts by")]
    Names(usize),
    #[error("{0} prefixes of subnets and rules, more than the {MAX_PREFIXES} that its kernel tells apart")]
    Prefixes(usize),
}

/// Cuts a policy into slices.
///
/// # Errors
/// [`TooLarge`] if it doesn't fit into [`MAX_SLICES`], or into the tables of a kernel.
pub fn cut(compiled: &Compiled, generation: i64) -> Result<Vec<NetworkSliceSpec>, TooLarge> {
    let entries = compiled.entries();
    let count = entries.div_ceil(MAX_ENTRIES).max(1);
    let too_large = TooLarge::Entries(entries);
    if count > MAX_SLICES {
        return Err(too_large);
    }
    let (names, prefixes) = (names(compiled), prefixes(compiled));
    if names > MAX_NAMES {
        return Err(TooLarge::Names(names));
    }
    if prefixes > MAX_PREFIXES {
        return Err(TooLarge::Prefixes(prefixes));
    }
    let count_field = i32::try_from(count).map_err(|_| too_large)?;
    let mut slices = Vec::with_capacity(count);
    let mut rest = compiled.clone();
    for index in 0..count_field {
        let mut room = MAX_ENTRIES;
        slices.push(NetworkSliceSpec {
            node_name: compiled.node.clone(),
            generation,
            index,
            count: count_field,
            networks: take(&mut rest.networks, &mut room),
            classes: take(&mut rest.classes, &mut room),
            selectors: take(&mut rest.selectors, &mut room),
            ports: take(&mut rest.ports, &mut room),
            rules: take(&mut rest.rules, &mut room),
            endpoints: take(&mut rest.endpoints, &mut room),
        });
    }
    Ok(slices)
}

/// How many names the kernel counts by.
fn names(compiled: &Compiled) -> usize {
    let rules: BTreeSet<&str> = compiled.rules.iter().map(|rule| rule.name.as_str()).collect();
    let ports: BTreeSet<(i32, i32)> = compiled.ports.iter().map(|port| (port.host_port, port.protocol)).collect();
    let internal = compiled.networks.iter().filter(|network| network.internal == Verdict::Allow).count();
    rules.len() + compiled.classes.len() + ports.len() + internal
}

/// How many prefixes it tells apart: single addresses are in another table, and a rule about an address of a network has no effect.
fn prefixes(compiled: &Compiled) -> usize {
    let subnets: Vec<Prefix> = (compiled.networks.iter().flat_map(|network| [&network.v4, &network.v6]).flatten())
        .filter_map(|text| Prefix::parse(text).ok())
        .collect();
    let named: BTreeSet<&str> = compiled.rules.iter().filter_map(|rule| rule.cidr.as_deref()).collect();
    let outside = named.into_iter().filter_map(|text| Prefix::parse(text).ok());
    let outside = outside.filter(|prefix| !prefix.is_single() && !subnets.iter().any(|subnet| subnet.covers(prefix)));
    subnets.len() + outside.count()
}

fn take<T>(list: &mut Vec<T>, room: &mut usize) -> Vec<T> {
    let n = list.len().min(*room);
    *room -= n;
    let rest = list.split_off(n);
    std::mem::replace(list, rest)
}

/// Joins the slices of one node, in any order. Returns their generation and the policy.
///
/// # Errors
/// [`Incomplete`] if they aren't all slices of one generation of one node.
pub fn join<'a>(slices: impl IntoIterator<Item = &'a NetworkSliceSpec>) -> Result<(i64, Compiled), Incomplete> {
    let slices = whole(slices)?;
    let generation = slices.first().map_or(0, |slice| slice.generation);
    Ok((generation, gather(slices)))
}

/// Everything that slices of one node say, whether or not they belong together.
#[must_use]
pub fn gather<'a>(slices: impl IntoIterator<Item = &'a NetworkSliceSpec>) -> Compiled {
    let mut compiled = Compiled::default();
    for slice in slices {
        compiled.node.clone_from(&slice.node_name);
        compiled.networks.extend(slice.networks.iter().cloned());
        compiled.classes.extend(slice.classes.iter().cloned());
        compiled.selectors.extend(slice.selectors.iter().cloned());
        compiled.ports.extend(slice.ports.iter().cloned());
        compiled.rules.extend(slice.rules.iter().cloned());
        compiled.endpoints.extend(slice.endpoints.iter().cloned());
    }
    compiled
}

#[cfg(test)]
mod tests {
    use pullpiri_crds::slice::{SliceNetwork, SliceRule};

    use super::*;

    fn rule(id: i32, name: String, cidr: String) -> SliceRule {
        SliceRule { id, name, from: 0, cidr: Some(cidr), to: 1, protocol: 6, first_port: 1, last_port: 1 }
    }

    fn network() -> SliceNetwork {
        SliceNetwork {
            id: 1,
            name: "default/n".to_owned(),
            mode: pullpiri_crds::network::NetworkMode::Bridge,
            v4: Some("10.0.0.0/8".to_owned()),
            v6: None,
            gateways: Vec::new(),
            internal: Verdict::Allow,
            egress: false,
            masquerade: false,
        }
    }

    #[test]
    fn more_names_than_a_kernel_counts_by_are_refused_before_it_sees_them() {
        let of = |rules: i32| Compiled {
            networks: vec![network()],
            // Two entries of one rule have one name.
            rules: (0..2 * rules).map(|n| rule(n / 2, format!("r{}", n / 2), "192.0.2.1/32".to_owned())).collect(),
            ..Compiled::default()
        };
        assert!(cut(&of(16_382), 1).is_ok());
        let error = cut(&of(16_383), 1).unwrap_err();
        assert_eq!(error, TooLarge::Names(16_384));
        assert!(error.to_string().contains("16384 names") && error.to_string().contains("the 16383 that"), "{error}");
    }

    #[test]
    fn more_prefixes_than_a_kernel_tells_apart_are_refused_before_it_sees_them() {
        let of = |prefixes: i32| Compiled {
            networks: vec![network()],
            rules: (0..prefixes)
                .flat_map(|n| {
                    let cidr = format!("172.{}.{}.0/24", 16 + n / 256, n % 256);
                    // Neither a single address nor one of a network's own counts.
                    [cidr, format!("192.0.2.{}/32", n % 256), format!("10.0.{}.0/24", n % 256)]
                })
                .map(|cidr| rule(1, "r".to_owned(), cidr))
                .collect(),
            ..Compiled::default()
        };
        assert!(cut(&of(4095), 1).is_ok());
        assert_eq!(cut(&of(4096), 1), Err(TooLarge::Prefixes(4097)));
    }
}
