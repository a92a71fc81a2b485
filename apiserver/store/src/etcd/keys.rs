//! Where things are in etcd, and how its revisions and ours translate.
//!
//! Under a prefix P (`/pullpiri`): `P/objects/KEY` is what the store keeps; `P/last` is rewritten by each write of ours in the same
//! transaction, so its mod_revision is the revision of the last write and its value says who made it; `P/shared/NAME` is what
//! all API servers of one cluster have in common.
//!
//! etcd counts revisions from 1 (the empty store), this crate from 0: ours are etcd's less one.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::KeyValue as EtcdKeyValue;

use crate::{KeyValue, Revision};

#[derive(Clone, Debug)]
pub(super) struct Keys {
    root: String,
    objects: String,
}

impl Keys {
    /// `prefix` with or without slashes around it.
    pub(super) fn new(prefix: &str) -> Self {
        let root = match prefix.trim_matches('/') {
            "" => "/".to_owned(),
            name => format!("/{name}/"),
        };
        Self { objects: format!("{root}objects/"), root }
    }

    /// Everything of ours: first key and end.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        (self.root.clone().into_bytes(), end_of(&self.root))
    }

    /// Every object whose key starts with `prefix`: first key and end.
    pub(super) fn objects(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let whole = format!("{}{prefix}", self.objects);
        let end = end_of(&whole);
        (whole.into_bytes(), end)
    }

    pub(super) fn object(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.objects).into_bytes()
    }

    /// The first key strictly after this object's.
    pub(super) fn after(&self, key: &str) -> Vec<u8> {
        format!("{}{key}\0", self.objects).into_bytes()
    }

    pub(super) fn last(&self) -> Vec<u8> {
        format!("{}last", self.root).into_bytes()
    }

    pub(super) fn shared(&self, name: &str) -> Vec<u8> {
        format!("{}shared/{name}", self.root).into_bytes()
    }

    /// The store's key of one of etcd's; `None` if it is no object of ours (nobody here writes keys that aren't UTF-8).
    pub(super) fn name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(self.objects.as_bytes())?).ok()
    }

    pub(super) fn key_value(&self, kv: EtcdKeyValue) -> Option<KeyValue> {
        let (created, modified) = (ours(kv.create_revision()), ours(kv.mod_revision()));
        let key: Arc<str> = self.name(kv.key())?.into();
        let (_, value) = kv.into_key_value();
        Some(KeyValue { key, value: Bytes::from(value), created, modified })
    }
}

/// The end of the range of everything that starts with `prefix`, which isn't empty. UTF-8 has no byte 0xFF: the last one can be raised.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// etcd's revision as ours.
pub(super) fn ours(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0).saturating_sub(1))
}

/// Our revision as etcd's. One that etcd can't have reached yet stays one.
pub(super) fn theirs(revision: Revision) -> i64 {
    i64::try_from(revision.0.saturating_add(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_translate_back() {
        for prefix in ["/pullpiri", "pullpiri/", "/pullpiri/"] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.object("core/pods/a/é"), "/pullpiri/objects/core/pods/a/é".as_bytes());
            assert_eq!(keys.name(&keys.object("core/pods/a/é")), Some("core/pods/a/é"));
            assert_eq!(keys.name(&keys.last()), None);
            assert_eq!(keys.all(), (b"/pullpiri/".to_vec(), b"/pullpiri0".to_vec()));
        }
        assert_eq!(Keys::new("/").last(), b"/last");
    }

    #[test]
    fn a_range_ends_behind_the_last_key_with_its_prefix() {
        let keys = Keys::new("p");
        for prefix in ["", "a/", "é", "\u{10ffff}"] {
            let (start, end) = keys.objects(prefix);
            for key in [prefix.to_owned(), format!("{prefix}\u{10ffff}\u{10ffff}")] {
                assert!(start <= keys.object(&key) && keys.object(&key) < end);
            }
        }
        assert!(keys.objects("a").1 <= keys.object("b") && keys.after("a") > keys.object("a"));
        assert!(keys.after("a") < keys.object("a\0\0"));
    }

    #[test]
    fn revisions_translate_back() {
        assert_eq!((ours(1), ours(7), ours(0)), (Revision(0), Revision(6), Revision(0)));
        assert_eq!((theirs(Revision(0)), theirs(Revision(6)), theirs(Revision(u64::MAX))), (1, 7, i64::MAX));
    }
}
