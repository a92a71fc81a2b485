//! The status of a Network: a function of its review, of what each node was told and of what each node says.
//!
//! * `Ready`: it is valid, and every node that it is on holds some generation of it.
//! * `Progressing`: a node doesn't hold the newest yet.
//! * `Resolved`: every Model and Network that it names exists. Nothing new is placed into one that isn't.
//! * `Degraded`: something of it has no effect: a node that can't, a port that is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpiri_crds::Network;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::network::{NetworkMode, NetworkNodeStatus, NetworkStatus};
use pullpiri_crds::node::NodeNetwork;
use pullpiri_net::declared::name_of;
use pullpiri_net::{ObjectName, Review};
use pullpiri_state::{Notice, Severity};

use super::decide::{Target, node_key};
use super::plan::StatusWrite;
use super::snapshot::Snapshot;
use crate::conditions::{self, Verdict, Wanted};

/// As many nodes as the schema keeps in the status.
const NODES_LISTED: usize = 256;
/// What a node says that can do nothing.
const NO_BACKEND: &str = "none";
/// What a node says that can share its link.
const WITH_QOS: &str = "htb";

pub(super) fn compute(
    snapshot: &Snapshot,
    reviews: &BTreeMap<ObjectName, Review>,
    targets: &BTreeMap<String, Target>,
    now: Timestamp,
) -> Vec<StatusWrite> {
    let nodes: BTreeMap<String, &NodeNetwork> = snapshot
        .nodes
        .iter()
        .filter_map(|node| {
            let network = node.status.as_ref()?.network.as_ref()?;
            Some((node_key(node.metadata.name.as_deref()?), network))
        })
        .collect();
    let mut networks: Vec<&Arc<Network>> = snapshot.networks.iter().collect();
    networks.sort_by_key(|network| name_of(network));
    networks
        .into_iter()
        .filter_map(|network| {
            let review = reviews.get(&name_of(network))?;
            let account = Account { network, review, targets, nodes: &nodes };
            let next = account.status(now);
            let on_record = network.status.clone().unwrap_or_default();
            let notices = notices(&on_record.conditions, &next.conditions);
            let status = (!same(&on_record, &next)).then(|| Box::new(next));
            (status.is_some()).then(|| StatusWrite { network: Arc::clone(network), status, notices })
        })
        .collect()
}

/// One Network and what there is to say of it.
struct Account<'a> {
    network: &'a Network,
    review: &'a Review,
    targets: &'a BTreeMap<String, Target>,
    nodes: &'a BTreeMap<String, &'a NodeNetwork>,
}

impl Account<'_> {
    fn status(&self, now: Timestamp) -> NetworkStatus {
        let generation = self.network.metadata.generation;
        let on_record = self.network.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        let wanted = vec![self.ready(), self.progressing(), self.resolved(), self.degraded()];
        NetworkStatus {
            observed_generation: generation,
            mode: Some(self.review.mode),
            addresses: (self.review.mode == NetworkMode::Bridge).then(|| i64::from(self.review.addresses)),
            nodes: self.review.members.iter().take(NODES_LISTED).map(|(name, count)| self.node(name, *count)).collect(),
            conditions: conditions::compute(on_record, wanted, generation, now),
        }
    }

    fn node(&self, name: &str, models: u32) -> NetworkNodeStatus {
        NetworkNodeStatus {
            name: name.to_owned(),
            models: i32::try_from(models).unwrap_or(i32::MAX),
            backend: self.nodes.get(name).map_or_else(|| NO_BACKEND.to_owned(), |network| network.backend.clone()),
            current: self.enforced() && self.lag(name).is_none() || !self.review.enforced && self.valid(),
        }
    }

    fn valid(&self) -> bool {
        self.review.invalid.is_empty()
    }

    /// Whether nodes have something to do for it.
    fn enforced(&self) -> bool {
        self.valid() && self.review.enforced
    }

    /// What of the newest generation a node doesn't hold; none if it holds it.
    fn lag(&self, node: &str) -> Option<String> {
        let held = self.nodes.get(node).and_then(|network| network.generation);
        match (self.targets.get(node), held) {
            (Some(Target::Generation(wanted)), Some(held)) if held == *wanted => None,
            (Some(Target::Generation(wanted)), Some(held)) => {
                Some(format!("node {node} holds generation {held} of {wanted}"))
            }
            (Some(Target::Generation(wanted)), None) => Some(format!("node {node} holds none of {wanted} yet")),
            (Some(Target::TooLarge(said)), _) => Some(said.clone()),
            (None, _) => Some(format!("node {node} isn't there")),
        }
    }

    fn ready(&self) -> Wanted {
        let no = |reason, message: String| Wanted::new(kind::READY, Verdict::False, reason, message);
        if let Some(first) = self.review.invalid.first() {
            let said: Vec<&str> = self.review.invalid.iter().map(|problem| problem.message.as_str()).collect();
            return no(first.reason, said.join("; "));
        }
        if let Some(problem) = &self.review.unshared {
            return no(problem.reason, problem.message.clone());
        }
        if !self.review.enforced {
            return Wanted::new(kind::READY, Verdict::True, reason::AS_DECLARED, "nodes have nothing to do for it");
        }
        let members = || self.review.members.keys();
        let too_large = members().find_map(|node| match self.targets.get(node) {
            Some(Target::TooLarge(said)) => Some(said),
            Some(Target::Generation(_)) | None => None,
        });
        if let Some(said) = too_large {
            return no(reason::NETWORK_INVALID, format!("{said}; it keeps what it was told before"));
        }
        let holds = |node: &String| self.nodes.get(node).is_some_and(|network| network.generation.is_some());
        match members().find(|node| !holds(node)) {
            Some(node) => no(reason::STARTING, self.lag(node).unwrap_or_default()),
            None => {
                let count = self.review.members.len();
                let message = if count == 0 { "no model is in it".to_owned() } else { format!("on {count} nodes") };
                Wanted::new(kind::READY, Verdict::True, reason::AS_DECLARED, message)
            }
        }
    }

    fn progressing(&self) -> Wanted {
        let behind: Vec<String> = match self.enforced() {
            true => self.review.members.keys().filter_map(|node| self.lag(node)).collect(),
            false => Vec::new(),
        };
        if behind.is_empty() {
            return Wanted::new(kind::PROGRESSING, Verdict::False, reason::AS_DECLARED, "");
        }
        Wanted::new(kind::PROGRESSING, Verdict::True, reason::UPDATING, behind.join("; "))
    }

    fn resolved(&self) -> Wanted {
        let unresolved = &self.review.unresolved;
        if unresolved.is_empty() {
            return Wanted::new(kind::RESOLVED, Verdict::True, reason::ALL_RESOLVED, "");
        }
        let message = format!(
            "{}; what names it has no effect as a whole, and nothing new is placed into this Network",
            unresolved.join("; ")
        );
        Wanted::new(kind::RESOLVED, Verdict::False, reason::SELECTOR_UNKNOWN, message)
    }

    fn degraded(&self) -> Wanted {
        let mut problems: Vec<(&'static str, String)> = Vec::new();
        if self.enforced() {
            let shared = self.network.spec.qos.is_some() && self.review.unshared.is_none();
            for node in self.review.members.keys() {
                let backend = self.nodes.get(node).map_or(NO_BACKEND, |network| network.backend.as_str());
                if backend == NO_BACKEND {
                    problems.push((reason::NO_NETWORKING, format!("node {node} does nothing for Networks")));
                } else if shared && !backend.contains(WITH_QOS) {
                    let message = format!("node {node} ({backend}) doesn't share its link by classes");
                    problems.push((reason::NO_QOS, message));
                }
            }
        }
        problems.extend(self.review.degraded.iter().map(|problem| (problem.reason, problem.message.clone())));
        match problems.first() {
            None => Wanted::new(kind::DEGRADED, Verdict::False, reason::AS_DECLARED, ""),
            Some((first, _)) => {
                let said: Vec<&str> = problems.iter().map(|(_, message)| message.as_str()).collect();
                Wanted::new(kind::DEGRADED, Verdict::True, first, said.join("; "))
            }
        }
    }
}

/// What people are told: that something is wrong, or right again.
fn notices(on_record: &[Condition], next: &[Condition]) -> Vec<Notice> {
    let good = |condition: &Condition| {
        let wanted = if condition.type_ == kind::DEGRADED { Verdict::False } else { Verdict::True };
        condition.status == wanted.as_str()
    };
    next.iter()
        .filter(|condition| condition.type_ != kind::PROGRESSING)
        .filter_map(|condition| {
            let before = conditions::find(on_record, &condition.type_);
            let reason = REASONS.into_iter().find(|reason| *reason == condition.reason)?;
            match (before, good(condition)) {
                (Some(before), _) if before.status == condition.status && before.reason == condition.reason => None,
                (None, true) => None,
                (_, good) => Some(Notice {
                    severity: if good { Severity::Normal } else { Severity::Warning },
                    reason,
                    note: format!("{}={}: {}", condition.type_, condition.status, condition.message),
                }),
            }
        })
        .collect()
}

/// The reasons that are worth an Event.
const REASONS: [&str; 10] = [
    reason::AS_DECLARED,
    reason::ALL_RESOLVED,
    reason::NETWORK_INVALID,
    reason::SUBNET_OVERLAPS,
    reason::GUARANTEE_EXCEEDS_LINK,
    reason::SELECTOR_UNKNOWN,
    reason::HOST_PORT_TAKEN,
    reason::NO_NETWORKING,
    reason::NO_QOS,
    reason::FAMILY_MISSING,
];

fn same(on_record: &NetworkStatus, next: &NetworkStatus) -> bool {
    let ours = conditions::of_same_types(&on_record.conditions, &next.conditions);
    NetworkStatus { conditions: ours, ..on_record.clone() } == *next
}
