//! What to say about a node that fell silent, or answers again.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::instance::Phase;
use pullpiri_crds::names::NODE_FINALIZER;
use pullpiri_crds::{ModelInstance, NodeRuntime};
use pullpiri_state::{Notice, Severity};

use super::heartbeat::Pulse;
use crate::conditions::{self, Verdict, Wanted};
use crate::placement::Readiness;

/// One node and what is bound to it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub node: Arc<NodeRuntime>,
    pub pulse: Pulse,
    pub instances: Vec<Arc<ModelInstance>>,
}

impl Snapshot {
    /// Whether the node may be given work: it answers, and doesn't say itself that it isn't ready.
    #[must_use]
    pub fn readiness(node: &NodeRuntime, pulse: Pulse) -> Readiness {
        let ready = node.status.as_ref().and_then(|s| conditions::find(&s.conditions, kind::READY));
        match pulse {
            Pulse::Alive { .. } if ready.is_none_or(|c| c.status != Verdict::False.as_str()) => Readiness::Ready,
            Pulse::Alive { .. } | Pulse::Unheard { .. } => Readiness::NotReady,
            Pulse::Silent => Readiness::Silent,
        }
    }
}

/// One write to a status, under our own field manager: it names only what it is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    NodeCondition {
        node: String,
        uid: String,
        condition: Box<Condition>,
    },
    /// Phase Unknown and this condition.
    InstanceUnknown {
        namespace: String,
        name: String,
        uid: String,
        condition: Box<Condition>,
    },
    /// Let an instance go that nobody will ever report gone: its finalizers without the node's.
    ReleaseInstance {
        namespace: String,
        name: String,
        uid: String,
        resource_version: String,
        finalizers: Vec<String>,
    },
}

/// What is to be done about a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub notices: Vec<Notice>,
    /// When to look again if nothing happens.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            match action {
                Action::NodeCondition { node, condition: c, .. } => {
                    writeln!(f, "status NodeRuntime {node}: {}={} {}: {}", c.type_, c.status, c.reason, c.message)?;
                }
                Action::InstanceUnknown { name, condition: c, .. } => {
                    writeln!(f, "status ModelInstance {name}: phase=Unknown {}={} {}", c.type_, c.status, c.reason)?;
                }
                Action::ReleaseInstance { name, .. } => writeln!(f, "release ModelInstance {name}")?,
            }
        }
        for notice in &self.notices {
            writeln!(f, "notice {} {}: {}", notice.severity.as_str(), notice.reason, notice.note)?;
        }
        if let Some(at) = self.look_again_at {
            writeln!(f, "look again at {at}")?;
        }
        if self.is_empty() {
            writeln!(f, "nothing")?;
        }
        Ok(())
    }
}

/// What is to be done about a node.
#[must_use]
pub fn decide(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let node = &*snapshot.node;
    if node.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    match snapshot.pulse {
        Pulse::Alive { until } => Plan { look_again_at: Some(until), ..answering(node, now) },
        Pulse::Unheard { until } if until > now => Plan { look_again_at: Some(until), ..Plan::default() },
        Pulse::Silent | Pulse::Unheard { .. } => silent(snapshot, now),
    }
}

/// What is to be done about instances whose node has been removed: those on their way out are let go, since nobody is left to
/// report them gone. The others are their Package's to remove.
#[must_use]
pub fn abandoned(instances: &[Arc<ModelInstance>]) -> Plan {
    let actions = instances
        .iter()
        .filter(|instance| instance.metadata.deletion_timestamp.is_some())
        .filter(|instance| instance.metadata.finalizers.iter().flatten().any(|f| f == NODE_FINALIZER))
        .map(|instance| Action::ReleaseInstance {
            namespace: instance.metadata.namespace.clone().unwrap_or_default(),
            name: instance.metadata.name.clone().unwrap_or_default(),
            uid: instance.metadata.uid.clone().unwrap_or_default(),
            resource_version: instance.metadata.resource_version.clone().unwrap_or_default(),
            finalizers: instance
                .metadata
                .finalizers
                .iter()
                .flatten()
                .filter(|f| *f != NODE_FINALIZER)
                .cloned()
                .collect(),
        })
        .collect();
    Plan { actions, ..Plan::default() }
}

fn answering(node: &NodeRuntime, now: Timestamp) -> Plan {
    let on_record = node.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ours = conditions::find(on_record, kind::READY)
        .is_some_and(|c| c.status == Verdict::Unknown.as_str() && c.reason == reason::HEARTBEAT_LOST);
    if !ours {
        return Plan::default();
    }
    let wanted = Wanted::new(kind::READY, Verdict::True, reason::HEARTBEAT, "the node runtime answers again");
    Plan {
        actions: conditions::compute(on_record, vec![wanted], node.metadata.generation, now)
            .into_iter()
            .map(|condition| of_node(node, condition))
            .collect(),
        notices: vec![Notice {
            severity: Severity::Normal,
            reason: reason::HEARTBEAT,
            note: "the node runtime answers again".to_owned(),
        }],
        look_again_at: None,
    }
}

fn of_node(node: &NodeRuntime, condition: Condition) -> Action {
    Action::NodeCondition {
        node: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        condition: Box::new(condition),
    }
}

fn silent(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let node = &*snapshot.node;
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut plan = Plan::default();
    let on_record = node.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let known = conditions::find(on_record, kind::READY)
        .is_some_and(|c| c.status == Verdict::Unknown.as_str() && c.reason == reason::HEARTBEAT_LOST);
    if !known {
        let message = "the node runtime's lease ran out without a heartbeat";
        let wanted = Wanted::new(kind::READY, Verdict::Unknown, reason::HEARTBEAT_LOST, message);
        for condition in conditions::compute(on_record, vec![wanted], node.metadata.generation, now) {
            plan.actions.push(of_node(node, condition));
        }
        plan.notices.push(Notice {
            severity: Severity::Warning,
            reason: reason::HEARTBEAT_LOST,
            note: message.to_owned(),
        });
    }
    let mut instances: Vec<&Arc<ModelInstance>> = snapshot.instances.iter().collect();
    instances.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
    for instance in instances {
        // One that the node never reported on has nothing that could be out of date.
        let Some(status) = instance.status.as_ref().filter(|s| s.phase != Phase::Unknown) else {
            continue;
        };
        let wanted =
            Wanted::new(kind::READY, Verdict::Unknown, reason::HEARTBEAT_LOST, format!("node {name} doesn't answer"));
        for condition in conditions::compute(&status.conditions, vec![wanted], status.observed_generation, now) {
            plan.actions.push(Action::InstanceUnknown {
                namespace: instance.metadata.namespace.clone().unwrap_or_default(),
                name: instance.metadata.name.clone().unwrap_or_default(),
                uid: instance.metadata.uid.clone().unwrap_or_default(),
                condition: Box::new(condition),
            });
        }
    }
    plan
}
