//! One node's policy as NetworkSlices, and back.
//!
//! A slice holds at most [`MAX_ENTRIES`] entries; lists are cut where a slice is full, in the order networks, classes, selectors, ports,
//! rules, endpoints. All slices of a node carry one generation: a node takes it when it has all `count` of them.

use pullpiri_crds::slice::{MAX_ENTRIES, NetworkSliceSpec};
use thiserror::Error;

use crate::compile::Compiled;

/// Slices of one node: what their index can say.
pub const MAX_SLICES: usize = 256;

/// A policy that its slices can't hold.
#[derive(Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("{entries} entries, more than the {most} that a node's slices hold", most = MAX_SLICES * MAX_ENTRIES)]
pub struct TooLarge {
    pub entries: usize,
}

/// Why slices aren't one whole policy.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    #[error("there are no slices")]
    None,
    #[error("slices of nodes {0} and {1} were given together")]
    Nodes(String, String),
    #[error("slices of generations {0} and {1} are there: a change is under way")]
    Generations(i64, i64),
    #[error("slice {index} of {count} of generation {generation} is missing")]
    Missing { index: i32, count: i32, generation: i64 },
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
    let mut slices: Vec<&NetworkSliceSpec> = slices.into_iter().collect();
    slices.sort_by_key(|slice| slice.index);
    let first = slices.first().ok_or(Incomplete::None)?;
    let (node, generation, count) = (&first.node_name, first.generation, first.count);
    for slice in &slices {
        if slice.node_name != *node {
            return Err(Incomplete::Nodes(node.clone(), slice.node_name.clone()));
        }
        if slice.generation != generation {
            return Err(Incomplete::Generations(generation, slice.generation));
        }
    }
    if let Some(index) = (0..count).find(|index| !slices.iter().any(|slice| slice.index == *index)) {
        return Err(Incomplete::Missing { index, count, generation });
    }
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
