//! What the Scenario reconciler looks at.

use std::sync::Arc;

use pullpiri_crds::{Claim, Package, Scenario};

use super::edge::Observed;

/// One scenario and what surrounds it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub scenario: Arc<Scenario>,
    /// The Claim that has the scenario's name, whoever made it.
    pub claim: Option<Arc<Claim>>,
    /// The target.
    pub package: Option<Arc<Package>>,
    /// Every Claim on the target, by whomever.
    pub claims: Vec<Arc<Claim>>,
    pub observed: Observed,
}
