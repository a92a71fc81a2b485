//! Which of several Claims on a Package decides: the highest priority, then the latest `since`, then the name that comes first.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use pullpiri_crds::claim::Claim;
use pullpiri_crds::package::DesiredRun;
use pullpiri_crds::scenario::Action;

/// What an action wishes for.
#[must_use]
pub const fn wish(action: Action) -> DesiredRun {
    match action {
        Action::Launch | Action::Update => DesiredRun::Running,
        Action::Terminate => DesiredRun::Stopped,
    }
}

/// Since when a claim stands: as it says, else since it was made.
#[must_use]
pub fn since(claim: &Claim) -> Timestamp {
    let created = || claim.metadata.creation_timestamp.as_ref().map(|t| t.0);
    claim.spec.since.as_ref().map(|t| t.0).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The claim that decides. Claims on their way out don't count.
#[must_use]
pub fn winner<'a>(claims: impl IntoIterator<Item = &'a Arc<Claim>>) -> Option<&'a Arc<Claim>> {
    claims
        .into_iter()
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
        .max_by_key(|claim| (claim.spec.priority.unwrap_or(0), since(claim), Reverse(claim.metadata.name.clone())))
}
