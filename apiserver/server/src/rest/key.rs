//! Storage keys: `{group|core}/{plural}/{namespace or -}/{name}`.
//!
//! Groups, plurals, namespaces and names hold no `/` (names with one are refused by validation), so a key splits back without
//! ambiguity, and all objects of a resource, or of a resource in one namespace, share a prefix that no other key has.

use std::sync::Arc;

use crate::registry::Resource;

const CORE: &str = "core";
const CLUSTER: &str = "-";

/// The group and plural under whose keys a resource's objects are kept.
fn home(resource: &Resource) -> (&str, &str) {
    let (group, plural) = match resource.strategy.view_of() {
        Some((group, plural)) => (group, plural),
        None => (resource.group.as_str(), resource.plural.as_str()),
    };
    (if group.is_empty() { CORE } else { group }, plural)
}

/// The key of one object.
pub(crate) fn of(resource: &Resource, namespace: Option<&str>, name: &str) -> Arc<str> {
    let (group, plural) = home(resource);
    format!("{group}/{plural}/{}/{name}", namespace.unwrap_or(CLUSTER)).into()
}

/// The prefix of every object of a resource, or of those in one namespace.
pub(crate) fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    let (group, plural) = home(resource);
    match namespace {
        Some(namespace) => format!("{group}/{plural}/{namespace}/"),
        None => format!("{group}/{plural}/"),
    }
}

/// A key taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// Empty for the core group.
    pub(crate) group: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

/// Takes a key apart; `None` if it isn't one of ours.
pub(crate) fn parse(key: &str) -> Option<Parts<'_>> {
    let mut parts = key.splitn(4, '/');
    let (group, plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Parts {
        group: if group == CORE { "" } else { group },
        plural,
        namespace: (namespace != CLUSTER).then_some(namespace),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_back() {
        let parts = parse("pullpiri.io/scenarios/demo/eco").unwrap();
        assert_eq!(
            (parts.group, parts.plural, parts.namespace, parts.name),
            ("pullpiri.io", "scenarios", Some("demo"), "eco")
        );
        let parts = parse("core/namespaces/-/default").unwrap();
        assert_eq!((parts.group, parts.plural, parts.namespace, parts.name), ("", "namespaces", None, "default"));
        assert_eq!(parse("core/namespaces"), None);
    }
}
