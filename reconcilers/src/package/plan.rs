//! What is to be done about a package, as data.

use std::collections::BTreeSet;
use std::fmt;

use pullpiri_crds::instance::ModelInstance;
use pullpiri_crds::package::PackageStatus;
use pullpiri_crds::schedule::ScheduleStatus;
use pullpiri_state::Notice;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Remove an instance: only that object, known by its UID.
    DeleteInstance { namespace: String, name: String, uid: String, why: &'static str },
    /// Make the instance so (server-side apply).
    ApplyInstance { instance: Box<ModelInstance>, why: &'static str },
}

impl Action {
    /// Whether it takes what packages share: time of a node's CPUs, or addresses of a Network.
    #[must_use]
    pub const fn takes_shared(&self) -> bool {
        match self {
            Self::DeleteInstance { .. } => false,
            Self::ApplyInstance { instance, .. } => {
                instance.spec.run && (!instance.spec.realtime.is_empty() || instance.spec.network.is_some())
            }
        }
    }
}

/// Actions first (every removal before any addition), then the statuses, then the notices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The whole status of its Schedule, if it changes.
    pub schedule: Option<Box<ScheduleStatus>>,
    /// The whole status, if it changes.
    pub status: Option<Box<PackageStatus>>,
    pub notices: Vec<Notice>,
    /// Networks that had no address left for it.
    pub starved: BTreeSet<String>,
    /// A Network comes to a node by it, whose link it is guaranteed a part of.
    pub takes_link: bool,
    /// A node's link had too little left for it.
    pub is_crowded: bool,
    /// An instance carries this epoch, which is above ours: another leader decides now, and nothing is done.
    pub superseded_by: Option<i64>,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.schedule.is_none() && self.status.is_none()
    }

    /// Whether it takes what packages share, so that no other may be decided before it is carried out.
    #[must_use]
    pub fn takes_shared(&self) -> bool {
        self.takes_link || self.actions.iter().any(Action::takes_shared)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(epoch) = self.superseded_by {
            return writeln!(f, "nothing: superseded by epoch {epoch}");
        }
        for action in &self.actions {
            match action {
                Action::DeleteInstance { name, why, .. } => writeln!(f, "delete ModelInstance {name}: {why}")?,
                Action::ApplyInstance { instance, why } => {
                    writeln!(
                        f,
                        "apply ModelInstance {}: node={} run={} ({why})",
                        instance.metadata.name.as_deref().unwrap_or_default(),
                        instance.spec.node_name,
                        instance.spec.run,
                    )?;
                    settings(f, instance)?;
                }
            }
        }
        if let Some(status) = &self.schedule {
            schedule(f, status)?;
        }
        if let Some(status) = &self.status {
            writeln!(
                f,
                "status {:?} desired={:?} claim={} ready={}",
                status.state,
                status.desired,
                status.claim.as_deref().unwrap_or("-"),
                status.ready.as_deref().unwrap_or("-"),
            )?;
            for m in &status.models {
                writeln!(
                    f,
                    "  model {} node={} instance={} phase={} {}",
                    m.name,
                    m.node.as_deref().unwrap_or("-"),
                    m.instance.as_deref().unwrap_or("-"),
                    m.phase.map_or("-", pullpiri_crds::instance::Phase::as_str),
                    m.message.as_deref().unwrap_or(""),
                )?;
            }
            for c in &status.conditions {
                writeln!(f, "  {}={} {}: {}", c.type_, c.status, c.reason, c.message)?;
            }
        }
        for notice in &self.notices {
            writeln!(f, "notice {} {}: {}", notice.severity.as_str(), notice.reason, notice.note)?;
        }
        if self.is_empty() && self.notices.is_empty() {
            writeln!(f, "nothing")?;
        }
        Ok(())
    }
}

/// What an instance has beside its template.
fn settings(f: &mut fmt::Formatter<'_>, instance: &ModelInstance) -> fmt::Result {
    if let Some(network) = &instance.spec.network {
        writeln!(f, "  network {} {} via {}", network.name, network.addresses.join(","), network.gateways.join(","))?;
    }
    for task in &instance.spec.realtime {
        writeln!(
            f,
            "  task {} container={} thread={} {:?} priority={} cpu={} response={} of {}",
            task.name,
            task.container.as_deref().unwrap_or("-"),
            task.thread.as_deref().unwrap_or("-"),
            task.policy,
            task.priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string()),
            task.cpu,
            task.response_time_ns,
            task.deadline_ns,
        )?;
    }
    Ok(())
}

fn schedule(f: &mut fmt::Formatter<'_>, status: &ScheduleStatus) -> fmt::Result {
    let shown = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    writeln!(f, "schedule status package={}", status.package.as_deref().unwrap_or("-"))?;
    for task in &status.tasks {
        writeln!(
            f,
            "  task {} node={} cpu={} priority={} response={} of {} slack={} schedulable={}",
            task.name,
            task.node.as_deref().unwrap_or("-"),
            shown(task.cpu.map(i64::from)),
            shown(task.priority.map(i64::from)),
            shown(task.response_time_ns),
            task.deadline_ns,
            shown(task.slack_ns),
            task.schedulable,
        )?;
    }
    for c in &status.conditions {
        writeln!(f, "  {}={} {}: {}", c.type_, c.status, c.reason, c.message)?;
    }
    Ok(())
}
