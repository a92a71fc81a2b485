//! What is known to be absent, so that a thousand dependents of one owner don't ask a thousand times.
//!
//! An object that was seen to go is absent for everybody: a UID never comes back. An owner that couldn't be found is absent only
//! under the very coordinates of the reference: the same UID may well live in another namespace or under another name, where it is
//! the owner of others.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::graph::Uid;

/// As many as an owner's dependents are likely to be looked at together; an evicted one is simply read again.
const MOST: usize = 4096;

/// A reference as its dependent's namespace makes it mean something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinates {
    pub namespace: String,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: Uid,
}

/// A set that forgets its oldest members.
#[derive(Debug)]
struct Recent<T> {
    known: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: Clone + Eq + Hash> Recent<T> {
    /// Whether it is new.
    fn add(&mut self, item: T) -> bool {
        let new = self.known.insert(item.clone());
        if new {
            self.order.push_back(item);
            if self.order.len() > MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        new
    }
}

#[derive(Debug, Default)]
struct Sets {
    gone: Recent<Uid>,
    unfound: Recent<Coordinates>,
}

#[derive(Debug, Default)]
pub struct Absent {
    sets: Mutex<Sets>,
    /// Held by whoever reads all objects of a kind to tell where an absent owner is.
    searching: tokio::sync::Mutex<()>,
}

impl Absent {
    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to search; `None` while somebody does: it takes memory and time, and is done for a warning.
    pub fn search(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.searching.try_lock().ok()
    }

    /// An object was seen to go.
    pub fn went(&self, uid: Uid) {
        self.sets().gone.add(uid);
    }

    #[must_use]
    pub fn is_gone(&self, uid: Uid) -> bool {
        self.sets().gone.known.contains(&uid)
    }

    /// An owner isn't where a reference says. Returns whether that is news.
    pub fn not_found(&self, coordinates: Coordinates) -> bool {
        self.sets().unfound.add(coordinates)
    }

    #[must_use]
    pub fn is_unfound(&self, coordinates: &Coordinates) -> bool {
        self.sets().unfound.known.contains(coordinates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_in_one_namespace_says_nothing_of_another() {
        let absent = Absent::default();
        let at = |namespace: &str| Coordinates {
            namespace: namespace.to_owned(),
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: "a".to_owned(),
            uid: Uid::of("u"),
        };
        assert!(absent.not_found(at("x")));
        assert!(!absent.not_found(at("x")));
        assert!(absent.is_unfound(&at("x")) && !absent.is_unfound(&at("y")));
        assert!(!absent.is_gone(Uid::of("u")));
        absent.went(Uid::of("u"));
        assert!(absent.is_gone(Uid::of("u")));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let absent = Absent::default();
        for index in 0..=MOST {
            absent.went(Uid::of(&index.to_string()));
        }
        assert!(!absent.is_gone(Uid::of("0")));
        assert!(absent.is_gone(Uid::of("1")));
    }
}
