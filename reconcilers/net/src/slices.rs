//! One node's policy as NetworkSlices, and back.
//!
//! A slice holds at most [`MAX_ENTRIES`] entries; lists are cut where a slice is full, in the order networks, classes, selectors, ports,
//! rules, endpoints. All slices of a node carry one generation: a node takes it when it has all `count` of them.

use pullpiri_crds::slice::{MAX_ENTRIES, NetworkSliceSpec, whole};
use thiserror::Error;

pub use pullpiri_crds::slice::Incomplete;

use crate::compile::Compiled;

/// Slices of one node: what their index can say.
pub const MAX_SLICES: usize = 256;

/// A policy that its slices can't hold.
#[derive(Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("{entries} entries, more than the {most} that a node's slices hold", most = MAX_SLICES * MAX_ENTRIES)]
pub struct TooLarge {
    pub entries: usize,
}

/// Cuts a policy into slices.
///
/// # Errors
/// [`TooLarge`] if it doesn't fit into [`MAX_SLICES`].
pub fn cut(compiled: &Compiled, generation: i64) -> Result<Vec<NetworkSliceSpec>, TooLarge> {
    let entries = compiled.entries();
    let count = entries.div_ceil(MAX_ENTRIES).max(1);
    let too_large = TooLarge { entries };
    if count > MAX_SLICES {
        return Err(too_large);
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
