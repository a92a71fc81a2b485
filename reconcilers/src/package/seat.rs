//! Seats: the models of a package, resolved, and where placement puts each of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use pullpiri_crds::instance::{ModelInstance, Phase, Template};
use pullpiri_crds::model::Model;
use pullpiri_crds::names::same_node;
use pullpiri_crds::package::PackageModel;

use super::snapshot::Snapshot;
use super::template::{Unresolved, resolve};
use crate::ownership::{self, Ownership};
use crate::placement::{self, Loads, Place};

/// One model of the package.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    pub entry: &'a PackageModel,
    pub model: Option<&'a Model>,
    pub resolved: Result<Arc<Template>, Vec<Unresolved>>,
    /// One for each node it should run on; never empty.
    pub places: Vec<Place>,
}

impl Seat<'_> {
    /// Whether it has no instance yet and any node will do.
    pub fn floats(&self) -> bool {
        self.entry.node.is_none()
            && self.entry.node_selector.is_none()
            && self.places.iter().all(|place| matches!(place, Place::Free(_)))
    }
}

/// The instances under the package's name, by who owns them.
#[derive(Debug, Default)]
pub(super) struct Instances<'a> {
    pub mine: Vec<&'a ModelInstance>,
    pub predecessors: Vec<&'a ModelInstance>,
    pub foreign: Vec<&'a ModelInstance>,
}

impl<'a> Instances<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut all = Self::default();
        for instance in &snapshot.instances {
            match ownership::of(&instance.metadata, &*snapshot.package) {
                Ownership::Mine => all.mine.push(&**instance),
                Ownership::Predecessor => all.predecessors.push(&**instance),
                Ownership::Foreign => all.foreign.push(&**instance),
            }
        }
        all.mine.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        all.predecessors.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        all
    }
}

/// Every model's seat, in the order of the package.
pub(super) fn seats<'a>(snapshot: &'a Snapshot, mine: &[&ModelInstance], loads: &mut Loads) -> Vec<Seat<'a>> {
    snapshot
        .package
        .spec
        .models
        .iter()
        .map(|entry| {
            let bound: BTreeSet<String> = mine
                .iter()
                .filter(|i| i.spec.model == entry.name)
                .filter_map(|i| snapshot.nodes.iter().find(|n| same_node(&n.name, &i.spec.node_name)))
                .map(|node| node.name.clone())
                .collect();
            Seat {
                entry,
                model: snapshot.models.get(&entry.name).map(|model| &**model),
                resolved: resolve(entry, snapshot).map(Arc::new),
                places: placement::place(entry, &snapshot.nodes, &bound, loads),
            }
        })
        .collect()
}

/// Whether an instance may still be using what it was given: it runs, should run, or wasn't reported stopped since it was told to.
#[must_use]
pub fn holds(instance: &ModelInstance) -> bool {
    let Some(status) = &instance.status else {
        // Nobody has started what was made to be stopped.
        return instance.spec.run || instance.metadata.generation.is_none_or(|generation| generation > 1);
    };
    let current = status.observed_generation.zip(instance.metadata.generation).is_some_and(|(seen, now)| seen >= now);
    let ended = match status.phase {
        Phase::Pending | Phase::Succeeded | Phase::Failed => true,
        Phase::Running | Phase::Unknown => false,
    };
    instance.spec.run || !(current && ended)
}
