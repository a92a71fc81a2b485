//! Sets of fields.
//!
//! A set is a tree: each node is one path element, says whether the path that ends there is a member, and holds what is below.
//! Nodes are sorted, so set operations are one pass over both trees; a node that is no member and has nothing below never exists,
//! so equal sets are equal trees.

use std::cmp::Ordering;

use super::path::{Path, PathElement};

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) element: PathElement,
    pub(crate) mark: Mark,
}

/// A subtree without the element that leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) member: bool,
    pub(crate) children: FieldSet,
}

impl Mark {
    pub(crate) const fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    #[must_use]
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// The set of paths through maps: `FieldSet::of_fields(&[&["status"], &["metadata", "labels"]])`.
    #[must_use]
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        paths.iter().map(|path| Path(path.iter().map(|name| PathElement::field(name)).collect())).collect()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.mark.member) + node.mark.children.len()).sum()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    /// What is known below one element.
    pub(crate) fn get(&self, element: &PathElement) -> Option<&Mark> {
        let at = self.nodes.binary_search_by(|node| node.element.cmp(element)).ok()?;
        self.nodes.get(at).map(|node| &node.mark)
    }

    #[must_use]
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|mark| mark.member),
            [first, rest @ ..] => self.get(first).is_some_and(|mark| mark.children.has(rest)),
        }
    }

    /// Adds one path; its parents don't become members.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let mark = self.descend(first);
        if rest.is_empty() {
            mark.member = true;
        } else {
            mark.children.insert(rest);
        }
    }

    /// The subtree at an element, made if it isn't there; the caller puts a member into it.
    fn descend(&mut self, element: &PathElement) -> &mut Mark {
        let at = match self.nodes.last() {
            // Paths mostly come in order.
            Some(last) if last.element < *element => self.nodes.len(),
            _ => match self.nodes.binary_search_by(|node| node.element.cmp(element)) {
                Ok(at) => return &mut self.nodes[at].mark,
                Err(at) => at,
            },
        };
        self.nodes.insert(at, Node { element: element.clone(), mark: Mark::default() });
        &mut self.nodes[at].mark
    }

    /// Puts a subtree behind the others; an empty one is left out. [`Self::normalise`] is to follow.
    pub(crate) fn push(&mut self, element: PathElement, mark: Mark) {
        if !mark.is_empty() {
            self.nodes.push(Node { element, mark });
        }
    }

    /// Sorts nodes that were pushed in any order, and joins those of one element. Sorting once keeps large sets from taking
    /// quadratic time, in whatever order a request lists them.
    pub(crate) fn normalise(&mut self) {
        if self.nodes.is_sorted_by(|left, right| left.element < right.element) {
            return;
        }
        self.nodes.sort_by(|left, right| left.element.cmp(&right.element));
        self.nodes.dedup_by(|next, kept| {
            let same = next.element == kept.element;
            if same {
                kept.mark.member |= next.mark.member;
                let (ours, theirs) = (std::mem::take(&mut kept.mark.children), std::mem::take(&mut next.mark.children));
                kept.mark.children = ours.union(theirs);
            }
            same
        });
    }

    /// Fields in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let mut ours = self.nodes.into_iter().peekable();
        let mut theirs = other.nodes.into_iter().peekable();
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (Some(our), Some(their)) => our.element.cmp(&their.element),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            let our = if order.is_le() { ours.next() } else { None };
            let their = if order.is_ge() { theirs.next() } else { None };
            match (our, their) {
                (Some(mut our), Some(their)) => {
                    our.mark.member |= their.mark.member;
                    our.mark.children = our.mark.children.union(their.mark.children);
                    nodes.push(our);
                }
                (one, other) => nodes.extend(one.or(other)),
            }
        }
    }

    /// Fields in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::new();
        let mut theirs = other.nodes.iter().peekable();
        for node in &self.nodes {
            while theirs.next_if(|their| their.element < node.element).is_some() {}
            let Some(their) = theirs.next_if(|their| their.element == node.element) else { continue };
            let mark = Mark {
                member: node.mark.member && their.mark.member,
                children: node.mark.children.intersection(&their.mark.children),
            };
            if !mark.is_empty() {
                out.nodes.push(Node { element: node.element.clone(), mark });
            }
        }
        out
    }

    /// Takes the members of the other set out; what is below them stays.
    pub fn subtract(&mut self, other: &Self) {
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.retain_mut(|node| {
            while theirs.next_if(|their| their.element < node.element).is_some() {}
            if let Some(their) = theirs.next_if(|their| their.element == node.element) {
                node.mark.member &= !their.mark.member;
                node.mark.children.subtract(&their.mark.children);
            }
            !node.mark.is_empty()
        });
    }

    /// Takes the members of the other set out, with all that is below them.
    pub fn subtract_recursively(&mut self, other: &Self) {
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.retain_mut(|node| {
            while theirs.next_if(|their| their.element < node.element).is_some() {}
            let Some(their) = theirs.next_if(|their| their.element == node.element) else { return true };
            node.mark.children.subtract_recursively(&their.mark.children);
            !their.mark.member && !node.mark.is_empty()
        });
    }

    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.iter().all(|node| {
            while theirs.next_if(|their| their.element < node.element).is_some() {}
            theirs.next_if(|their| their.element == node.element).is_some_and(|their| {
                (their.mark.member || !node.mark.member) && node.mark.children.is_subset(&their.mark.children)
            })
        })
    }

    /// All members: those of one level before those below it, as conflicts are listed.
    #[must_use]
    pub fn paths(&self) -> Vec<Path> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Path>) {
        for node in self.nodes.iter().filter(|node| node.mark.member) {
            let mut path = prefix.clone();
            path.push(node.element.clone());
            out.push(Path(path));
        }
        for node in &self.nodes {
            prefix.push(node.element.clone());
            node.mark.children.collect(prefix, out);
            prefix.pop();
        }
    }
}

impl FromIterator<Path> for FieldSet {
    fn from_iter<T: IntoIterator<Item = Path>>(paths: T) -> Self {
        let mut set = Self::new();
        for path in paths {
            set.insert(&path.0);
        }
        set
    }
}
