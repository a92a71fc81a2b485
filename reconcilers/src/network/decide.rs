//! From everything observed to slices and statuses.
//!
//! A node's policy has one generation, which rises with any change of it and never falls: a node that comes back compares it with what its
//! kernel holds. A plan that was cut off between two slices is completed under the same generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pullpiri_crds::names::{LABEL_NODE, MAX_SUBDOMAIN, rfc1123};
use pullpiri_crds::{NetworkSlice, NetworkSliceSpec};
use pullpiri_net::{Compiled, compile, slices};

use super::plan::{Action, Plan};
use super::snapshot::Snapshot;
use super::status;
use crate::naming::label_value;
use crate::{field_manager, ownership};

/// The label by which we know what we wrote (app.kubernetes.io, recommended labels).
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Room for `-255` behind a node's name.
const LONGEST_STEM: usize = MAX_SUBDOMAIN - 4;

/// What a node is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All slices of this generation.
    Generation(i64),
    /// More than slices hold: what is there stays, and this is said.
    TooLarge(String),
}

/// What is to be done about Networks.
#[must_use]
pub fn decide(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let on_record = ours(snapshot);
    let previous = on_record.iter().map(|(node, slices)| (node.clone(), told(slices))).collect();
    let outcome = compile(&snapshot.inputs(), &previous);
    let reported = reported(snapshot);
    let mut targets: BTreeMap<String, Target> = BTreeMap::new();
    let mut wanted: BTreeMap<String, NetworkSlice> = BTreeMap::new();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (node, compiled) in &outcome.nodes {
        // A node that is gone needs nothing.
        let Some(reported) = reported.get(node) else { continue };
        let there = on_record.get(node).map(Vec::as_slice).unwrap_or_default();
        match slices_of(compiled, there, *reported) {
            Ok((generation, specs)) => {
                targets.insert(node.clone(), Target::Generation(generation));
                wanted.extend(specs.into_iter().map(|spec| (slice_name(node, spec.index), spec)).map(build));
            }
            Err(too_large) => {
                kept.extend(there.iter().filter_map(|slice| slice.metadata.name.as_deref()));
                targets.insert(node.clone(), Target::TooLarge(format!("node {node} would have {too_large}")));
            }
        }
    }
    let mut plan = Plan::default();
    for (name, slice) in &wanted {
        let there = snapshot.slices.iter().find(|s| s.metadata.name.as_deref() == Some(name));
        let same = there.is_some_and(|s| s.spec == slice.spec && ownership::carries(&s.metadata, &slice.metadata));
        if !same {
            plan.actions.push(Action::ApplySlice(Box::new(slice.clone())));
        }
    }
    for slice in on_record.values().flatten() {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        if !wanted.contains_key(name) && !kept.contains(name) && slice.metadata.deletion_timestamp.is_none() {
            let uid = slice.metadata.uid.clone().unwrap_or_default();
            plan.actions.push(Action::DeleteSlice { name: name.to_owned(), uid });
        }
    }
    plan.statuses = status::compute(snapshot, &outcome.reviews, &targets, now);
    plan
}

/// The name of a node's slice.
#[must_use]
pub fn slice_name(node: &str, index: i32) -> String {
    let stem = if node.len() <= LONGEST_STEM { node.to_owned() } else { label_value(node) };
    format!("{stem}-{index}")
}

fn build((name, spec): (String, NetworkSliceSpec)) -> (String, NetworkSlice) {
    let labels = [
        (LABEL_NODE.to_owned(), label_value(&spec.node_name)),
        (MANAGED_BY.to_owned(), field_manager::NETWORK.to_owned()),
    ];
    let mut slice = NetworkSlice::new(&name, spec);
    slice.metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels.into()), ..ObjectMeta::default() };
    (name, slice)
}

/// The slices that we wrote, by node, in the order of their parts.
fn ours(snapshot: &Snapshot) -> BTreeMap<String, Vec<Arc<NetworkSlice>>> {
    let mut by_node: BTreeMap<String, Vec<Arc<NetworkSlice>>> = BTreeMap::new();
    let mine = |slice: &&Arc<NetworkSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == field_manager::NETWORK)
    };
    for slice in snapshot.slices.iter().filter(mine) {
        by_node.entry(node_key(&slice.spec.node_name)).or_default().push(Arc::clone(slice));
    }
    for slices in by_node.values_mut() {
        slices.sort_by(|a, b| (a.spec.index, &a.metadata.name).cmp(&(b.spec.index, &b.metadata.name)));
    }
    by_node
}

/// What a node was told last, or while a change is under way what all its slices say together.
fn told(slices: &[Arc<NetworkSlice>]) -> Compiled {
    match slices::join(slices.iter().map(|slice| &slice.spec)) {
        Ok((_, compiled)) => compiled,
        Err(_) => {
            let mut newest: Vec<&NetworkSliceSpec> = slices.iter().map(|slice| &slice.spec).collect();
            newest.sort_by_key(|spec| (std::cmp::Reverse(spec.generation), spec.index));
            slices::gather(newest)
        }
    }
}

/// The nodes that there are, with the generation that each one's kernel holds.
fn reported(snapshot: &Snapshot) -> BTreeMap<String, i64> {
    snapshot
        .nodes
        .iter()
        .map(|node| {
            let network = node.status.as_ref().and_then(|status| status.network.as_ref());
            let generation = network.and_then(|network| network.generation).unwrap_or(0);
            (node_key(node.metadata.name.as_deref().unwrap_or_default()), generation)
        })
        .collect()
}

/// A node's slices, under the generation on record if that says the same, else under the next.
fn slices_of(
    compiled: &Compiled,
    there: &[Arc<NetworkSlice>],
    reported: i64,
) -> Result<(i64, Vec<NetworkSliceSpec>), slices::TooLarge> {
    let newest = there.iter().map(|slice| slice.spec.generation).max().unwrap_or(0);
    if newest > 0 && newest >= reported {
        let same = slices::cut(compiled, newest)?;
        let agrees = |slice: &Arc<NetworkSlice>| same.contains(&slice.spec);
        if there.iter().filter(|slice| slice.spec.generation == newest).all(agrees) {
            return Ok((newest, same));
        }
    }
    let next = newest.max(reported).saturating_add(1);
    Ok((next, slices::cut(compiled, next)?))
}

pub(super) fn node_key(name: &str) -> String {
    rfc1123(name).unwrap_or_else(|| name.to_owned())
}
