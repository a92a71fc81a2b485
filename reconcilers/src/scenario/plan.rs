//! What is to be done about a scenario, as data.

use std::fmt;

use pullpiri_crds::claim::Claim;
use pullpiri_crds::scenario::ScenarioStatus;
use pullpiri_state::Notice;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the claim so (server-side apply).
    ApplyClaim(Box<Claim>),
    /// Remove what an earlier scenario of this name left; only that object, known by its UID.
    DeleteClaim { namespace: String, name: String, uid: String },
}

/// What becomes of the edge in the snapshot once the actions are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgeFate {
    /// There was none.
    #[default]
    None,
    /// It is acted on by this plan.
    Consumed(u64),
    /// It can't be acted on yet and stays.
    Kept,
}

/// Actions first, in order, then the status, then the notices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The whole status, if it changes.
    pub status: Option<Box<ScenarioStatus>>,
    pub notices: Vec<Notice>,
    pub edge: EdgeFate,
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
        for action in &self.actions {
            match action {
                Action::ApplyClaim(claim) => {
                    let spec = &claim.spec;
                    writeln!(
                        f,
                        "apply Claim {}: {} {} priority={} since={}",
                        claim.metadata.name.as_deref().unwrap_or_default(),
                        spec.action.as_str(),
                        spec.package,
                        spec.priority.unwrap_or(0),
                        spec.since.as_ref().map(|t| t.0.to_string()).unwrap_or_default(),
                    )?;
                }
                Action::DeleteClaim { name, uid, .. } => writeln!(f, "delete Claim {name} (uid {uid})")?,
            }
        }
        if let Some(status) = &self.status {
            writeln!(
                f,
                "status {:?} truth={:?} claim={}",
                status.state,
                status.truth,
                status.claim.as_deref().unwrap_or("-")
            )?;
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
