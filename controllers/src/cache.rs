//! What we know of one kind: the objects of the API server, as watched and as answered to our own writes.
//!
//! An answer to a write is newer than the watch; a watch event may be older than what is here already. The resource version decides (it is a
//! number that grows, and comparing it is allowed since Kubernetes 1.35); the UID tells an object from its predecessor of the same name.
//!
//! A list is read after it began to be asked for, so it is newer than all that was here by then, whatever the numbers: after a backup was
//! restored they may be lower than before. Only what came up while it was being read may be newer than it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::Resource;

/// An object's namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What became of an object.
#[derive(Debug)]
pub(crate) struct Change<K> {
    pub before: Option<Arc<K>>,
    pub after: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object before and after, as far as there is one.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.before.iter().chain(&self.after)
    }
}

/// How many deleted objects are remembered, so that a late answer to a write doesn't bring one back.
const GRAVES: usize = 512;

/// Terms under which an object is found.
pub(crate) type Index<K> = fn(&K) -> Vec<String>;

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    terms: HashMap<String, BTreeSet<Key>>,
    graves: VecDeque<String>,
    /// The list that is under way.
    listing: Option<Listing>,
    synced: bool,
}

#[derive(Default)]
struct Listing {
    /// Keys seen since it began.
    seen: HashSet<Key>,
    /// Those of them that were written meanwhile.
    written: HashSet<Key>,
}

/// How an object came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// On the list that is under way.
    Listed,
    /// By a watch, or as the answer to a write.
    News,
}

/// The objects of one kind.
pub(crate) struct Cache<K> {
    inner: RwLock<Inner<K>>,
    index: Index<K>,
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl<K: Resource> Cache<K> {
    pub fn new(index: Index<K>) -> Self {
        let inner = Inner {
            objects: HashMap::new(),
            terms: HashMap::new(),
            graves: VecDeque::new(),
            listing: None,
            synced: false,
        };
        Self { inner: RwLock::new(inner), index }
    }

    // A poisoned lock means that a thread panicked between two plain map operations; the maps themselves are sound.
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// The objects that the index files under `term`, ordered by key.
    pub fn under(&self, term: &str) -> Vec<Arc<K>> {
        let inner = self.read();
        let keys = inner.terms.get(term).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// How many objects are filed under `term`.
    pub fn count(&self, term: &str) -> usize {
        self.read().terms.get(term).map_or(0, BTreeSet::len)
    }

    /// The keys filed under `term`, in order.
    pub fn keys_under(&self, term: &str) -> Vec<Key> {
        self.read().terms.get(term).into_iter().flatten().cloned().collect()
    }

    pub fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().cloned().collect()
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Whether a whole list has been seen.
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    /// Takes in an object. `None` if it is old news.
    pub fn put(&self, mut object: K, by: Arrival) -> Option<Change<K>> {
        slim(&mut object);
        let key = Key::of(&object);
        let mut inner = self.write();
        let is_newest = inner.is_newest(&key, by);
        if object.meta().uid.as_ref().is_some_and(|uid| inner.graves.contains(uid)) {
            return None;
        }
        let before = inner.objects.get(&key).cloned();
        if let Some(before) = &before {
            let (known, given) = (version(&**before), version(&object));
            let is_old =
                if is_newest { known == given && before.meta().uid == object.meta().uid } else { known >= given };
            if is_old && given.is_some() {
                return None;
            }
        }
        let after = Arc::new(object);
        inner.file(&key, before.as_deref(), Some(&after), self.index);
        inner.objects.insert(key, Arc::clone(&after));
        Some(Change { before, after: Some(after) })
    }

    /// An object with this UID is gone. `None` if it isn't here.
    pub fn remove(&self, key: &Key, uid: Option<&str>) -> Option<Change<K>> {
        let mut inner = self.write();
        if let Some(uid) = uid {
            inner.bury(uid);
        }
        let before = inner.objects.get(key).cloned()?;
        if uid.is_some() && before.meta().uid.as_deref() != uid {
            return None;
        }
        inner.objects.remove(key);
        inner.file(key, Some(&*before), None, self.index);
        Some(Change { before: Some(before), after: None })
    }

    /// A list begins.
    pub fn list_begins(&self) {
        self.write().listing = Some(Listing::default());
    }

    /// The list is complete: what wasn't on it, and didn't come up since, is gone.
    pub fn list_ends(&self) -> Vec<Change<K>> {
        let mut inner = self.write();
        let Listing { seen, .. } = inner.listing.take().unwrap_or_default();
        inner.synced = true;
        let lost: Vec<Key> = inner.objects.keys().filter(|key| !seen.contains(key)).cloned().collect();
        lost.into_iter()
            .filter_map(|key| {
                let before = inner.objects.remove(&key)?;
                if let Some(uid) = &before.meta().uid {
                    inner.bury(uid);
                }
                inner.file(&key, Some(&*before), None, self.index);
                Some(Change { before: Some(before), after: None })
            })
            .collect()
    }
}

impl<K> Inner<K> {
    fn file(&mut self, key: &Key, before: Option<&K>, after: Option<&K>, index: Index<K>) {
        let old = before.map(index).unwrap_or_default();
        let new = after.map(index).unwrap_or_default();
        if old == new {
            return;
        }
        for term in old {
            if let Some(keys) = self.terms.get_mut(&term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.terms.remove(&term);
                }
            }
        }
        for term in new {
            self.terms.entry(term).or_default().insert(key.clone());
        }
    }

    /// Whether the object of this key is newer than the one that is here, whatever their versions say. Notes that it was seen.
    fn is_newest(&mut self, key: &Key, by: Arrival) -> bool {
        let Some(Listing { seen, written }) = &mut self.listing else { return false };
        seen.insert(key.clone());
        match by {
            Arrival::Listed => !written.contains(key),
            Arrival::News => {
                written.insert(key.clone());
                false
            }
        }
    }

    fn bury(&mut self, uid: &str) {
        if self.graves.len() >= GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back(uid.to_owned());
    }
}

/// The resource version as a number; `None` where a server doesn't number them.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref().and_then(|v| v.parse().ok())
}

/// Drops what no decision looks at and what makes up half of an object's size.
fn slim<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn object(name: &str, uid: &str, version: u64, label: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("ns".to_owned()),
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_string()),
                labels: Some([("l".to_owned(), label.to_owned())].into()),
                managed_fields: Some(Vec::new()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn news(cache: &Cache<ConfigMap>, object: ConfigMap) -> Option<Change<ConfigMap>> {
        cache.put(object, Arrival::News)
    }

    fn cache() -> Cache<ConfigMap> {
        Cache::new(|o| o.metadata.labels.iter().flatten().map(|(_, v)| v.clone()).collect())
    }

    #[test]
    fn the_newest_version_stays_whatever_the_order_of_arrival() {
        let cache = cache();
        assert!(news(&cache, object("a", "1", 7, "x")).is_some());
        assert!(news(&cache, object("a", "1", 5, "y")).is_none());
        assert!(news(&cache, object("a", "1", 7, "y")).is_none());
        assert!(news(&cache, object("a", "1", 9, "y")).is_some());
        assert_eq!((cache.count("x"), cache.count("y")), (0, 1));
        assert!(cache.get(&Key::new("ns", "a")).unwrap().metadata.managed_fields.is_none());
    }

    #[test]
    fn what_was_deleted_does_not_come_back_but_its_successor_does() {
        let cache = cache();
        let key = Key::new("ns", "a");
        news(&cache, object("a", "1", 1, "x"));
        assert!(cache.remove(&key, Some("1")).is_some());
        assert!(news(&cache, object("a", "1", 2, "x")).is_none(), "a late answer to a write");
        assert!(news(&cache, object("a", "2", 3, "x")).is_some());
        assert!(cache.remove(&key, Some("1")).is_none(), "a late event about the predecessor");
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn a_list_is_right_even_if_its_numbers_are_lower() {
        let cache = cache();
        let label =
            |name: &str| cache.get(&Key::new("ns", name)).unwrap().metadata.labels.clone().unwrap()["l"].clone();
        let uid = |name: &str| cache.get(&Key::new("ns", name)).unwrap().metadata.uid.clone().unwrap();
        for name in ["restored", "successor", "same", "written"] {
            news(&cache, object(name, name, 50, "lost"));
        }
        cache.list_begins();
        assert!(cache.put(object("restored", "restored", 9, "x"), Arrival::Listed).is_some());
        assert!(cache.put(object("successor", "another", 9, "x"), Arrival::Listed).is_some());
        assert!(cache.put(object("same", "same", 50, "lost"), Arrival::Listed).is_none());
        // What was written while the list was read may be newer than it.
        assert!(news(&cache, object("written", "written", 60, "w")).is_some());
        assert!(cache.put(object("written", "written", 50, "lost"), Arrival::Listed).is_none());
        assert!(cache.list_ends().is_empty());
        assert_eq!((label("restored"), label("successor"), label("written")), ("x".into(), "x".into(), "w".into()));
        assert_eq!(uid("successor"), "another");
        // Afterwards numbers count again.
        assert!(news(&cache, object("restored", "restored", 8, "old")).is_none());
    }

    #[test]
    fn what_a_list_ends_does_not_come_back_by_a_late_answer() {
        let cache = cache();
        news(&cache, object("a", "1", 1, "x"));
        cache.list_begins();
        assert_eq!(cache.list_ends().len(), 1);
        assert!(news(&cache, object("a", "1", 2, "x")).is_none());
        assert!(news(&cache, object("a", "2", 3, "x")).is_some(), "its successor");
    }

    #[test]
    fn a_list_removes_what_is_not_on_it_but_not_what_was_just_written() {
        let cache = cache();
        news(&cache, object("a", "1", 1, "x"));
        news(&cache, object("b", "2", 2, "x"));
        assert!(!cache.synced());
        cache.list_begins();
        cache.put(object("b", "2", 2, "x"), Arrival::Listed);
        news(&cache, object("c", "3", 9, "x"));
        let lost = cache.list_ends();
        assert_eq!(lost.len(), 1);
        assert!(cache.synced());
        assert_eq!(cache.keys_under("x"), [Key::new("ns", "b"), Key::new("ns", "c")]);
    }
}
