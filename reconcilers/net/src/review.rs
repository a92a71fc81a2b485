//! Whether Networks may be: each on its own, and among the others.
//!
//! A Network is applied as a whole or not at all; its last valid state isn't kept, so what a person reads is what the kernels hold. Of two that
//! exclude each other the older one stays: what is new can't take from what runs.
//!
//! One thing is judged apart: guarantees that exceed a node's link. A link that negotiates down must not cut off what it carries; so then
//! the Network's classes are applied nowhere, and its addresses and rules stay. A Network that nobody is in yet is refused if no node could
//! keep its guarantees, so that nothing is placed that can't be served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::Network;
use pullpiri_crds::condition::reason;
use pullpiri_crds::network::NetworkMode;
use pullpiri_crds::prefix::{Family, Prefix};

use crate::compile::{Inputs, MAX_CLASSES};
use crate::declared::{self, Declared, name_of};
use crate::ipam;
use crate::members::{Member, runtime};
use crate::unknown::{self, Unknown, unknown};
use crate::{FieldError, ObjectName};

/// Why something isn't as declared: a reason of `pullpiri_crds::condition` and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

impl Problem {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::new(reason::NETWORK_INVALID, error.to_string())
    }
}

/// What is to be said of a Network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    pub mode: NetworkMode,
    /// Why it isn't applied. Its models then reach nothing.
    pub invalid: Vec<Problem>,
    /// Why its classes aren't applied, anywhere.
    pub unshared: Option<Problem>,
    /// What names something that isn't there, by field: that rule, port or class has no effect until it is.
    pub unresolved: Vec<String>,
    /// Published ports that lead nowhere, and addresses that can't be used.
    pub degraded: Vec<Problem>,
    /// Its instances by node.
    pub members: BTreeMap<String, u32>,
    /// Those that have an address: of each family one.
    pub addresses: u32,
    /// Whether nodes have something to do for it.
    pub enforced: bool,
}

/// The outcome of the first look: who is valid, and what is to be said.
pub(crate) struct Reviewed {
    pub valid: BTreeMap<ObjectName, Declared>,
    pub reviews: BTreeMap<ObjectName, Review>,
    /// The valid ones, oldest first.
    pub by_age: Vec<ObjectName>,
}

pub(crate) fn review(inputs: &Inputs<'_>, members: &[Member<'_>]) -> Reviewed {
    let mut networks: Vec<&Network> = inputs.networks.clone();
    networks.sort_by_key(|network| (&network.metadata.creation_timestamp, name_of(network)));
    let mut reviewed = Reviewed { valid: BTreeMap::new(), reviews: BTreeMap::new(), by_age: Vec::new() };
    let uplinks = uplinks(inputs);
    for network in networks {
        let name = name_of(network);
        let mut review = Review {
            mode: ipam::mode(&network.spec),
            invalid: Vec::new(),
            unshared: None,
            unresolved: Vec::new(),
            degraded: Vec::new(),
            members: BTreeMap::new(),
            addresses: 0,
            enforced: false,
        };
        for member in members.iter().filter(|member| member.network == name) {
            *review.members.entry(member.node.clone()).or_default() += 1;
            review.addresses += u32::from(!member.addresses.is_empty());
        }
        match declared::read(network) {
            Err(errors) => review.invalid = errors.into_iter().map(Problem::from).collect(),
            Ok(declared) => {
                review.invalid = overlaps(&declared, &reviewed, &uplinks);
                if review.invalid.is_empty() {
                    review.enforced = declared.mode == NetworkMode::Bridge || !declared.classes.is_empty();
                    reviewed.by_age.push(name.clone());
                    reviewed.valid.insert(name.clone(), declared);
                }
            }
        }
        reviewed.reviews.insert(name, review);
    }
    let unknown = unresolved(inputs, members, &mut reviewed);
    share_links(inputs, &mut reviewed);
    leave_out(&unknown, &mut reviewed);
    paths(inputs, &mut reviewed);
    unclassed(members, &mut reviewed);
    reviewed
}

/// The addresses that nodes have on their links.
fn uplinks(inputs: &Inputs<'_>) -> BTreeSet<(IpAddr, String)> {
    let mut found = BTreeSet::new();
    for node in &inputs.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let network = node.status.as_ref().and_then(|status| status.network.as_ref());
        for address in network.iter().flat_map(|network| &network.addresses) {
            if let Ok(address) = address.parse() {
                found.insert((address, name.clone()));
            }
        }
    }
    found
}

fn overlaps(declared: &Declared, older: &Reviewed, uplinks: &BTreeSet<(IpAddr, String)>) -> Vec<Problem> {
    let Some(pool) = &declared.pool else { return Vec::new() };
    let mut problems = Vec::new();
    let field = |prefix: &Prefix| match prefix.family() {
        Family::V4 => "spec.subnet.v4",
        Family::V6 => "spec.subnet.v6",
    };
    for name in &older.by_age {
        let theirs = older.valid.get(name).and_then(|other| other.pool.as_ref());
        if let Some((ours, theirs)) = theirs.and_then(|theirs| ipam::overlap(pool, theirs)) {
            let message = format!("{}: {ours} overlaps {theirs} of Network {name}, which is older", field(&ours));
            problems.push(Problem::new(reason::SUBNET_OVERLAPS, message));
        }
    }
    for (address, node) in uplinks {
        if let Some(prefix) = pool.prefixes().iter().find(|prefix| prefix.contains(*address)) {
            let message = format!("{}: {prefix} holds {address}, the address of node {node}", field(prefix));
            problems.push(Problem::new(reason::SUBNET_OVERLAPS, message));
        }
    }
    problems
}

/// Takes the classes from Networks whose guarantees don't fit beside those of older ones.
fn share_links(inputs: &Inputs<'_>, reviewed: &mut Reviewed) {
    let mut promised: BTreeMap<String, u64> = BTreeMap::new();
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    for name in reviewed.by_age.clone() {
        let (Some(declared), Some(review)) = (reviewed.valid.get_mut(&name), reviewed.reviews.get_mut(&name)) else {
            continue;
        };
        if declared.classes.is_empty() {
            continue;
        }
        let own = declared.classes.iter().fold(0_u64, |sum, class| sum.saturating_add(class.guarantee_bps));
        let problem = review.members.keys().find_map(|node| {
            let network = runtime(inputs, node)?.status.as_ref()?.network.as_ref()?;
            let link = network.link_bps.and_then(|bps| u64::try_from(bps).ok())?;
            let others = promised.get(node).copied().unwrap_or(0);
            (own.saturating_add(others) > link).then(|| {
                let message = format!(
                    "spec.qos: guarantees of {own} bit/s and {others} bit/s of older Networks exceed the link of node {node}, which has \
                     {link} bit/s; no class of this Network is applied"
                );
                Problem::new(reason::GUARANTEE_EXCEEDS_LINK, message)
            })
        });
        let nowhere = || {
            let links = inputs.nodes.iter().map(|node| node.status.as_ref()?.network.as_ref()?.link_bps);
            let best =
                links.collect::<Option<Vec<i64>>>()?.into_iter().max().and_then(|bps| u64::try_from(bps).ok())?;
            (review.members.is_empty() && own > best).then(|| {
                let message = format!(
                    "spec.qos: guarantees of {own} bit/s exceed the link of every node; the fastest has {best} bit/s"
                );
                Problem::new(reason::GUARANTEE_EXCEEDS_LINK, message)
            })
        };
        let crowded = || {
            review.members.keys().find_map(|node| {
                let all = classes.get(node).copied().unwrap_or(0) + declared.classes.len();
                (all > MAX_CLASSES).then(|| {
                    let message = format!("spec.qos: node {node} would have {all} classes; {MAX_CLASSES} are possible");
                    Problem::new(reason::NETWORK_INVALID, message)
                })
            })
        };
        match problem.or_else(nowhere).or_else(crowded) {
            Some(problem) => {
                review.unshared = Some(problem);
                review.enforced = declared.mode == NetworkMode::Bridge;
                declared.classes.clear();
            }
            None => {
                for node in review.members.keys() {
                    let sum = promised.entry(node.clone()).or_default();
                    *sum = sum.saturating_add(own);
                    *classes.entry(node.clone()).or_default() += declared.classes.len();
                }
            }
        }
    }
}

/// Finds nodes that other nodes' models can't reach over a family: they have no address of it on their link.
fn paths(inputs: &Inputs<'_>, reviewed: &mut Reviewed) {
    for (name, declared) in &reviewed.valid {
        let Some((pool, review)) = declared.pool.as_ref().zip(reviewed.reviews.get_mut(name)) else { continue };
        if review.members.len() < 2 {
            continue;
        }
        for node in review.members.keys() {
            let status = runtime(inputs, node).and_then(|node| node.status.as_ref());
            let Some(network) = status.and_then(|status| status.network.as_ref()) else { continue };
            let has = |family| {
                let addresses = network.addresses.iter().filter_map(|address| address.parse().ok());
                addresses.map(Family::of).any(|other| other == family)
            };
            for family in pool.prefixes().iter().map(Prefix::family).filter(|family| !has(*family)) {
                let message = format!(
                    "node {node} has no {family} address on its link: its models and those of other nodes don't reach each other over {family}"
                );
                review.degraded.push(Problem::new(reason::FAMILY_MISSING, message));
            }
        }
    }
}

/// Finds models with the node's network whose packets no class takes: what they send is known by their cgroup, which only runtime oci and a kubelet make.
fn unclassed(members: &[Member<'_>], reviewed: &mut Reviewed) {
    let is_shared = |declared: &Declared| declared.mode == NetworkMode::Host && !declared.classes.is_empty();
    for (member, runtime) in members.iter().filter_map(|member| Some((member, member.elsewhere?))) {
        if !reviewed.valid.get(&member.network).is_some_and(is_shared) {
            continue;
        }
        if let Some(review) = reviewed.reviews.get_mut(&member.network) {
            let message = format!(
                "{} on node {} runs under {}: no class of this Network takes what it sends; use runtime oci or kubernetes",
                member.instance,
                member.node,
                runtime.as_str()
            );
            review.degraded.push(Problem::new(reason::NO_QOS, message));
        }
    }
}

/// Finds what Networks name and what isn't there.
fn unresolved(
    inputs: &Inputs<'_>,
    members: &[Member<'_>],
    reviewed: &mut Reviewed,
) -> BTreeMap<ObjectName, Vec<Unknown>> {
    let mut models: BTreeSet<(&str, &str)> =
        inputs.models.iter().map(|name| (name.namespace.as_str(), name.name.as_str())).collect();
    models.extend(members.iter().map(|member| (member.instance.namespace.as_str(), member.model)));
    let mut found = BTreeMap::new();
    for (name, declared) in &reviewed.valid {
        let namespace = name.namespace.as_str();
        let has_model = |model: &str| models.contains(&(namespace, model));
        let mode = |other: &str| reviewed.valid.get(&ObjectName::new(namespace, other)).map(|other| other.mode);
        let unknown = unknown(declared, &has_model, &mode);
        if let Some(review) = reviewed.reviews.get_mut(name) {
            review.unresolved = unknown.iter().map(|unknown| unknown.message.clone()).collect();
        }
        found.insert(name.clone(), unknown);
    }
    found
}

/// Leaves out what names something that isn't there. What its classes are guaranteed stays reserved.
fn leave_out(unknown: &BTreeMap<ObjectName, Vec<Unknown>>, reviewed: &mut Reviewed) {
    for (name, unknown) in unknown {
        let Some((declared, review)) = reviewed.valid.get_mut(name).zip(reviewed.reviews.get_mut(name)) else {
            continue;
        };
        unknown::leave_out(declared, unknown);
        review.enforced = declared.mode == NetworkMode::Bridge || !declared.classes.is_empty();
    }
}
