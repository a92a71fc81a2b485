//! Who owns whom, by UID: only objects that have owners, are owners or are being deleted in a way that concerns their dependents.
//!
//! Pure: changes go in, work comes out. A node that was only ever named by a reference has no place ([`Node::at`] is `None`);
//! its dependents are to be checked against the live objects once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// An object's UID in 16 bytes: a UUID's own, or a digest of what isn't one (references may carry anything).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u128);

impl Uid {
    #[must_use]
    pub fn of(text: &str) -> Self {
        uuid::Uuid::try_parse(text).map_or_else(
            |_| {
                let digest = Sha256::digest(text);
                Self(digest.iter().take(16).fold(0, |value, byte| value << 8 | u128::from(*byte)))
            },
            |uuid| Self(uuid.as_u128()),
        )
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub group: Arc<str>,
    pub plural: Arc<str>,
    /// Empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub block_owner_deletion: Option<bool>,
}

/// What the graph reads of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub uid: String,
    pub deletion_timestamp: Option<String>,
    pub finalizers: Option<Vec<String>>,
    pub owner_references: Option<Vec<OwnerReference>>,
}

impl Metadata {
    #[must_use]
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().flatten().any(|finalizer| finalizer == name)
    }

    pub fn owners(&self) -> impl Iterator<Item = &OwnerReference> {
        self.owner_references.iter().flatten()
    }
}

/// Deletes dependents before the object.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Takes the object out of its dependents' owners before it goes.
pub const ORPHAN: &str = "orphan";

#[derive(Debug, Default)]
struct Node {
    at: Option<Place>,
    /// The owners, and whether each of them waits for this object.
    owners: Vec<(Uid, bool)>,
    dependents: BTreeSet<Uid>,
    deleting: bool,
    /// Being deleted, and its dependents go first.
    foreground: bool,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Find out whether the object still has an owner, or still has dependents to wait for.
    Check(Uid),
    /// Take the object out of its dependents' owners.
    Orphan(Uid),
}

/// What a check needs to know of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub at: Place,
    pub deleting: bool,
    pub foreground: bool,
    pub has_dependents: bool,
    /// A dependent is being deleted in the foreground too: together they may be a cycle.
    pub dependent_in_foreground: bool,
    /// Its deletion waits for a dependent.
    pub blocked: bool,
}

#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    /// How many objects are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// An object was created, changed or found.
    pub fn observe(&mut self, at: Place, metadata: &Metadata, work: &mut Vec<Work>) {
        let uid = Uid::of(&metadata.uid);
        let deleting = metadata.deletion_timestamp.is_some();
        let foreground = deleting && metadata.has_finalizer(FOREGROUND);
        let orphan = deleting && metadata.has_finalizer(ORPHAN);
        let known = self.nodes.contains_key(&uid);
        if !known && metadata.owners().next().is_none() && !foreground && !orphan {
            return;
        }
        let owners: Vec<(Uid, bool)> =
            metadata.owners().map(|owner| (Uid::of(&owner.uid), owner.block_owner_deletion.unwrap_or(false))).collect();
        let node = self.nodes.entry(uid).or_default();
        let before = std::mem::replace(&mut node.owners, owners.clone());
        let was_foreground = std::mem::replace(&mut node.foreground, foreground);
        node.deleting = deleting;
        let namespace = Arc::clone(&at.namespace);
        let moved = node.at.as_ref().is_some_and(|known| *known != at);
        node.at = Some(at);
        if foreground && !was_foreground {
            work.push(Work::Check(uid));
            work.extend(node.dependents.iter().map(|dependent| Work::Check(*dependent)));
        }
        if orphan {
            work.push(Work::Orphan(uid));
        }
        if moved {
            work.extend(node.dependents.iter().map(|dependent| Work::Check(*dependent)));
        }
        if !known || before != owners {
            self.connect(uid, &namespace, &before, &owners, work);
        }
    }

    fn connect(
        &mut self,
        uid: Uid,
        namespace: &str,
        before: &[(Uid, bool)],
        owners: &[(Uid, bool)],
        work: &mut Vec<Work>,
    ) {
        for (owner, blocks) in before {
            let still = owners.iter().any(|(other, other_blocks)| other == owner && other_blocks == blocks);
            if !still {
                let gone = !owners.iter().any(|(other, _)| other == owner);
                if let Some(node) = self.nodes.get_mut(owner) {
                    if gone {
                        node.dependents.remove(&uid);
                    }
                    if node.foreground {
                        work.push(Work::Check(*owner));
                    }
                    if gone {
                        self.drop_if_idle(*owner);
                    }
                }
            }
        }
        for (owner, _) in owners {
            let node = self.nodes.entry(*owner).or_default();
            node.dependents.insert(uid);
            let in_reach = node.at.as_ref().is_some_and(|at| at.namespace.is_empty() || *at.namespace == *namespace);
            // An owner that was never seen, is out of reach, or takes its dependents with it.
            if !in_reach || node.foreground {
                work.push(Work::Check(uid));
            }
        }
    }

    /// The live owner of somebody was read: it is there.
    pub fn found(&mut self, uid: Uid, at: Place) {
        if let Some(node) = self.nodes.get_mut(&uid) {
            node.at.get_or_insert(at);
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: Uid, work: &mut Vec<Work>) {
        let Some(mut node) = self.nodes.remove(&uid) else { return };
        // An object may name itself as its owner.
        node.dependents.remove(&uid);
        work.extend(node.dependents.iter().map(|dependent| Work::Check(*dependent)));
        for (owner, _) in node.owners {
            if let Some(node) = self.nodes.get_mut(&owner) {
                node.dependents.remove(&uid);
                if node.foreground {
                    work.push(Work::Check(owner));
                }
            }
            self.drop_if_idle(owner);
        }
        if !node.dependents.is_empty() {
            // Keeps the dependents findable in case the same UID turns up again (it was only unreadable, or moved).
            self.nodes.insert(uid, Node { dependents: node.dependents, ..Node::default() });
        }
    }

    /// Forgets a node that neither owns nor is owned nor waits.
    fn drop_if_idle(&mut self, uid: Uid) {
        let idle = self
            .nodes
            .get(&uid)
            .is_some_and(|node| node.dependents.is_empty() && node.owners.is_empty() && !node.foreground);
        if idle {
            self.nodes.remove(&uid);
        }
    }

    /// What a worker needs to know about an object; `None` when it was never seen.
    #[must_use]
    pub fn view(&self, uid: Uid) -> Option<View> {
        let node = self.nodes.get(&uid)?;
        let dependents =
            || node.dependents.iter().filter_map(|dependent| Some((*dependent, self.nodes.get(dependent)?)));
        let blocks = |dependent: &Node| dependent.owners.iter().any(|(owner, blocks)| *owner == uid && *blocks);
        Some(View {
            at: node.at.clone()?,
            deleting: node.deleting,
            foreground: node.foreground,
            has_dependents: !node.dependents.is_empty(),
            dependent_in_foreground: dependents().any(|(_, dependent)| dependent.foreground),
            blocked: dependents().any(|(_, dependent)| blocks(dependent)),
        })
    }

    /// The dependents of an object and where they are.
    #[must_use]
    pub fn dependents(&self, uid: Uid) -> Vec<(Uid, Place)> {
        let Some(node) = self.nodes.get(&uid) else { return Vec::new() };
        node.dependents.iter().filter_map(|uid| Some((*uid, self.nodes.get(uid)?.at.clone()?))).collect()
    }

    /// Whether an object's owners leave something to find out: one was never seen, is out of reach or takes its dependents along;
    /// or the object itself waits for dependents.
    fn is_open(&self, node: &Node) -> bool {
        let in_reach = |owner: &Place| {
            owner.namespace.is_empty() || node.at.as_ref().is_some_and(|at| at.namespace == owner.namespace)
        };
        node.foreground
            || node.owners.iter().any(|(owner, _)| {
                self.nodes.get(owner).is_none_or(|owner| owner.foreground || !owner.at.as_ref().is_some_and(in_reach))
            })
    }

    /// Everything that is to be checked when all objects have just been read.
    #[must_use]
    pub fn open(&self) -> Vec<Work> {
        let open = self.nodes.iter().filter(|(_, node)| node.at.is_some() && self.is_open(node));
        let mut work: Vec<Work> = open.map(|(uid, _)| Work::Check(*uid)).collect();
        work.sort_unstable();
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        Place { group: "g".into(), plural: "p".into(), namespace: "a".into(), name: name.into() }
    }

    fn metadata(uid: &str, owners: &[(&str, bool)]) -> Metadata {
        Metadata {
            uid: uid.to_owned(),
            owner_references: Some(
                owners
                    .iter()
                    .map(|(uid, blocks)| OwnerReference {
                        uid: (*uid).to_owned(),
                        block_owner_deletion: Some(*blocks),
                        ..OwnerReference::default()
                    })
                    .collect(),
            ),
            ..Metadata::default()
        }
    }

    fn deleted(mut metadata: Metadata, finalizers: &[&str]) -> Metadata {
        metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        metadata.finalizers = Some(finalizers.iter().map(|&f| f.to_owned()).collect());
        metadata
    }

    fn observe(graph: &mut Graph, name: &str, metadata: &Metadata) -> Vec<Work> {
        let mut work = Vec::new();
        graph.observe(place(name), metadata, &mut work);
        work
    }

    fn check(uid: &str) -> Work {
        Work::Check(Uid::of(uid))
    }

    #[test]
    fn objects_without_ties_cost_nothing() {
        let mut graph = Graph::default();
        assert!(observe(&mut graph, "x", &metadata("x", &[])).is_empty());
        assert!(observe(&mut graph, "x", &deleted(metadata("x", &[]), &["other"])).is_empty());
        assert_eq!(graph.len(), 0);
    }

    #[test]
    fn an_unseen_owner_is_checked_once() {
        let mut graph = Graph::default();
        assert_eq!(observe(&mut graph, "d1", &metadata("d1", &[("o", false)])), [check("d1")]);
        assert_eq!(graph.open(), [check("d1")]);
        graph.found(Uid::of("o"), place("o"));
        assert!(graph.open().is_empty());
        assert!(observe(&mut graph, "d2", &metadata("d2", &[("o", false)])).is_empty());
        // The same content again is no news.
        assert!(observe(&mut graph, "d2", &metadata("d2", &[("o", false)])).is_empty());
    }

    #[test]
    fn an_owner_out_of_reach_is_checked() {
        let mut graph = Graph::default();
        graph.observe(place("d1"), &metadata("d1", &[("o", false)]), &mut Vec::new());
        graph.found(Uid::of("o"), Place { namespace: "b".into(), ..place("o") });
        assert_eq!(observe(&mut graph, "d2", &metadata("d2", &[("o", false)])), [check("d2")]);
        graph.remove(Uid::of("o"), &mut Vec::new());
        graph.found(Uid::of("o"), Place { namespace: "".into(), ..place("o") });
        assert!(observe(&mut graph, "d3", &metadata("d3", &[("o", false)])).is_empty());
    }

    #[test]
    fn a_gone_owner_leaves_its_dependents_to_check() {
        let mut graph = Graph::default();
        observe(&mut graph, "d1", &metadata("d1", &[("o", false)]));
        observe(&mut graph, "d2", &metadata("d2", &[("o", true)]));
        let mut work = Vec::new();
        graph.remove(Uid::of("o"), &mut work);
        work.sort_unstable();
        let mut expected = vec![check("d1"), check("d2")];
        expected.sort_unstable();
        assert_eq!(work, expected);
        for dependent in ["d1", "d2"] {
            graph.remove(Uid::of(dependent), &mut Vec::new());
        }
        assert_eq!(graph.len(), 0, "nothing is left of them");
    }

    #[test]
    fn foreground_waits_for_blocking_dependents_alone() {
        let mut graph = Graph::default();
        observe(&mut graph, "d1", &metadata("d1", &[("o", true)]));
        observe(&mut graph, "d2", &metadata("d2", &[("o", false)]));
        let work = observe(&mut graph, "o", &deleted(metadata("o", &[]), &[FOREGROUND]));
        assert_eq!(work.len(), 3);
        assert_eq!(work[0], check("o"));
        assert_eq!(graph.open().len(), 3, "the same when everything is read anew");
        let view = graph.view(Uid::of("o")).unwrap();
        assert!(view.blocked);
        assert_eq!(graph.dependents(Uid::of("o")).len(), 2);
        // A reference that stops blocking lets the owner go on.
        assert!(observe(&mut graph, "d1", &metadata("d1", &[("o", false)])).contains(&check("o")));
        assert!(!graph.view(Uid::of("o")).unwrap().blocked);
        // So does a dependent's end.
        let mut work = Vec::new();
        graph.remove(Uid::of("d1"), &mut work);
        assert_eq!(work, [check("o")]);
    }

    #[test]
    fn dropping_a_reference_unties() {
        let mut graph = Graph::default();
        observe(&mut graph, "d", &metadata("d", &[("o", true)]));
        assert!(observe(&mut graph, "d", &metadata("d", &[])).is_empty());
        assert!(graph.view(Uid::of("o")).is_none());
        assert_eq!(graph.len(), 1);
    }

    #[test]
    fn orphaning_is_work_of_its_own() {
        let mut graph = Graph::default();
        observe(&mut graph, "d", &metadata("d", &[("o", false)]));
        let work = observe(&mut graph, "o", &deleted(metadata("o", &[]), &[ORPHAN]));
        assert_eq!(work, [Work::Orphan(Uid::of("o"))]);
        assert_eq!(graph.dependents(Uid::of("o")), [(Uid::of("d"), place("d"))]);
    }

    #[test]
    fn cycles_are_seen() {
        let mut graph = Graph::default();
        observe(&mut graph, "a", &metadata("a", &[("b", true)]));
        observe(&mut graph, "b", &metadata("b", &[("a", true)]));
        observe(&mut graph, "a", &deleted(metadata("a", &[("b", true)]), &[FOREGROUND]));
        assert!(graph.view(Uid::of("b")).unwrap().dependent_in_foreground);
    }

    #[test]
    fn uids_that_are_no_uuids_differ() {
        assert_ne!(Uid::of("a"), Uid::of("b"));
        assert_eq!(Uid::of("11111111-2222-3333-4444-555555555555"), Uid(0x1111_1111_2222_3333_4444_5555_5555_5555));
    }

    proptest::proptest! {
        /// Whatever happens, an edge is known at both ends, and an empty world leaves an empty graph.
        #[test]
        fn edges_are_symmetric(steps in proptest::collection::vec((0_u8..5, 0_u8..5, proptest::bool::ANY, 0_u8..4), 0..40)) {
            let mut graph = Graph::default();
            let mut work = Vec::new();
            for (object, owner, blocks, what) in steps {
                let (object, owner) = (object.to_string(), owner.to_string());
                match what {
                    0 => graph.observe(place(&object), &metadata(&object, &[(&owner, blocks)]), &mut work),
                    1 => graph.observe(place(&object), &metadata(&object, &[]), &mut work),
                    2 => graph.observe(place(&object), &deleted(metadata(&object, &[]), &[FOREGROUND]), &mut work),
                    _ => graph.remove(Uid::of(&object), &mut work),
                }
                for (uid, node) in &graph.nodes {
                    for (owner, _) in &node.owners {
                        proptest::prop_assert!(graph.nodes[owner].dependents.contains(uid));
                    }
                }
            }
            for object in 0..5 {
                graph.remove(Uid::of(&object.to_string()), &mut work);
            }
            for object in 0..5 {
                graph.remove(Uid::of(&object.to_string()), &mut work);
            }
            proptest::prop_assert_eq!(graph.len(), 0);
        }
    }
}
