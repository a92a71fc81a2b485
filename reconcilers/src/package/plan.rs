//! What is to be done about a package, as data.

use std::fmt;

use pullpiri_crds::instance::ModelInstance;
use pullpiri_crds::package::PackageStatus;
use pullpiri_state::Notice;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Remove an instance: only that object, known by its UID.
    DeleteInstance { namespace: String, name: String, uid: String, why: &'static str },
    /// Make the instance so (server-side apply).
    ApplyInstance { instance: Box<ModelInstance>, why: &'static str },
}

/// Actions first (every removal before any addition), then the status, then the notices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The whole status, if it changes.
    pub status: Option<Box<PackageStatus>>,
    pub notices: Vec<Notice>,
    /// An instance carries this epoch, which is above ours: another leader decides now, and nothing is done.
    pub superseded_by: Option<i64>,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.status.is_none()
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
                Action::ApplyInstance { instance, why } => writeln!(
                    f,
                    "apply ModelInstance {}: node={} run={} ({why})",
                    instance.metadata.name.as_deref().unwrap_or_default(),
                    instance.spec.node_name,
                    instance.spec.run,
                )?,
            }
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
