//! What holds for every object and configuration.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "managed_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use pullpiri_apply::{
    managed::{FieldSet, Force, PathElement, comparison, entries, field_set},
    patch::{self, PatchKind},
};
use serde_json::{Map, Value, json};
use support::{Writer, spec, stored};

fn word() -> impl Strategy<Value = String> {
    "[abc]"
}

fn words() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(word(), word(), 0..3).prop_map(|map| json!(map))
}

fn tags() -> impl Strategy<Value = Value> {
    proptest::sample::subsequence(vec!["a", "b", "c", "d"], 1..4).prop_shuffle().prop_map(|tags| json!(tags))
}

fn free() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from), word().prop_map(Value::from)];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            proptest::collection::btree_map(word(), inner.clone(), 1..3).prop_map(|map| json!(map)),
            proptest::collection::vec(inner, 1..3).prop_map(Value::from),
        ]
    })
}

fn item() -> impl Strategy<Value = Value> {
    (proptest::option::of(word()), proptest::option::of(tags()), proptest::option::of(subs())).prop_map(
        |(value, tags, sub)| {
            let parts = [("value", value.map(Value::from)), ("tags", tags), ("sub", sub)];
            Value::Object(parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?))).collect())
        },
    )
}

fn subs() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(0..4, word(), 1..3)
        .prop_map(|subs| subs.into_iter().map(|(id, v)| json!({"id": id, "v": v})).collect::<Value>())
}

fn items() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(word(), item(), 0..3).prop_map(|items| keyed(items, "name")).prop_shuffle_list()
}

trait ShuffleList: Strategy<Value = Value> + Sized {
    fn prop_shuffle_list(self) -> BoxedStrategy<Value>;
}

impl<S: Strategy<Value = Value> + 'static> ShuffleList for S {
    fn prop_shuffle_list(self) -> BoxedStrategy<Value> {
        self.prop_map(|list| list.as_array().cloned().unwrap_or_default()).prop_shuffle().prop_map(Value::Array).boxed()
    }
}

fn keyed(items: BTreeMap<String, Value>, key: &str) -> Value {
    items
        .into_iter()
        .map(|(name, mut item)| {
            item[key] = Value::from(name);
            item
        })
        .collect()
}

fn ports() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map((80..83, proptest::option::of(Just("UDP"))), proptest::option::of(word()), 0..3)
        .prop_map(|ports| {
            ports
                .into_iter()
                .map(|((port, protocol), name)| {
                    let mut out = json!({"port": port});
                    if let Some(protocol) = protocol {
                        out["protocol"] = json!(protocol);
                    }
                    if let Some(name) = name {
                        out["name"] = json!(name);
                    }
                    out
                })
                .collect()
        })
}

/// A Thing without empty lists, which nobody owns.
fn thing() -> impl Strategy<Value = Value> {
    let parts = (
        // Always something: an empty map is owned as a whole, which a fuller one then isn't.
        (0..3).prop_map(|replicas| Some(Value::from(replicas))),
        proptest::option::of(words()),
        proptest::option::of(tags()),
        proptest::option::of(items()),
        proptest::option::of(ports()),
        proptest::option::of(words().prop_map(|map| json!({"x": map.to_string()}))),
        proptest::option::of(proptest::collection::btree_map(word(), free(), 1..3).prop_map(|map| json!(map))),
        proptest::option::of(words()),
    );
    parts.prop_map(|(replicas, labels, tags, items, ports, selector, free, own_labels)| {
        let parts = [
            ("replicas", replicas),
            ("labels", labels),
            ("tags", tags),
            ("items", items),
            ("ports", ports),
            ("selector", selector),
            ("free", free),
        ];
        let filled =
            |part: &Value| !part.as_array().is_some_and(Vec::is_empty) && !part.as_object().is_some_and(Map::is_empty);
        let fields: Map<String, Value> =
            parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part.filter(filled)?))).collect();
        let mut out = spec(Value::Object(fields));
        if let Some(labels) = own_labels.filter(filled) {
            out["metadata"]["labels"] = labels;
        }
        out
    })
}

fn owned_by(object: &Value, manager: &str) -> FieldSet {
    support::entry(object, manager).and_then(|entry| entry.fields_v1).unwrap_or_default()
}

fn without_owners(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// The system's fields, that nobody owns.
fn system() -> FieldSet {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "uid"],
        &["metadata", "managedFields"],
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn apply_is_idempotent(live in thing(), config in thing()) {
        let live = Writer::new("other").update(None, live);
        let once = Writer::new("ctl").force(Some(&live), &config);
        let again = Writer::new("ctl").at(30).try_apply(Some(&once), &config, Force::No).unwrap();
        prop_assert!(!again.changed);
        prop_assert_eq!(again.object, once);
    }

    #[test]
    fn what_is_applied_is_there_and_owned(live in thing(), config in thing()) {
        let live = Writer::new("other").apply(None, &live);
        let applied = Writer::new("ctl").force(Some(&live), &config);
        // Applying the configuration to itself finds every field of it in the object.
        let schema = support::thing();
        let named = field_set(&config, &schema);
        prop_assert!(named.is_subset(&field_set(&applied, &schema)));
        let mut expected = named;
        expected.subtract(&system());
        prop_assert_eq!(owned_by(&applied, "ctl"), expected);
    }

    #[test]
    fn an_apply_never_touches_what_only_others_own(first in thing(), mine in thing(), then in thing()) {
        let live = Writer::new("ctl").apply(None, &mine);
        let live = Writer::new("other").force(Some(&live), &first);
        let theirs = owned_by(&live, "other");
        let mut only_theirs = theirs;
        only_theirs.subtract(&owned_by(&live, "ctl"));
        let Ok(applied) = Writer::new("ctl").try_apply(Some(&live), &then, Force::No) else { return Ok(()) };
        let schema = support::thing();
        let changes = comparison(&live, &stored(applied.object.clone()), &schema);
        prop_assert!(only_theirs.intersection(&changes.removed).is_empty());
        prop_assert!(only_theirs.intersection(&changes.modified).is_empty());
        prop_assert!(only_theirs.is_subset(&owned_by(&applied.object, "other")));
    }

    #[test]
    fn letting_go_of_everything_restores_what_was_there(live in thing(), config in thing()) {
        let live = Writer::new("other").apply(None, &live);
        let Ok(applied) = Writer::new("ctl").try_apply(Some(&live), &config, Force::No) else { return Ok(()) };
        let empty = json!({"apiVersion": "example.io/v1", "kind": "Thing", "metadata": {"name": "thing"}});
        let left = Writer::new("ctl").apply(Some(&stored(applied.object)), &empty);
        let schema = support::thing();
        let changes = comparison(&without_owners(&live), &without_owners(&left), &schema);
        prop_assert!(changes.is_same(), "{changes:?}");
        prop_assert_eq!(owned_by(&left, "other"), owned_by(&live, "other"));
    }

    #[test]
    fn an_update_owns_all_that_it_changed(old in thing(), new in thing()) {
        let live = Writer::new("one").update(None, old);
        let updated = Writer::new("two").update(Some(&live), new);
        let schema = support::thing();
        let changes = comparison(&live, &updated, &schema);
        let mut changed = changes.added.union(changes.modified);
        changed.subtract(&system());
        prop_assert!(changed.is_subset(&owned_by(&updated, "two")));
        prop_assert!(changed.intersection(&owned_by(&updated, "one")).is_empty());
        prop_assert!(changes.removed.intersection(&owned_by(&updated, "one")).is_empty());
        // Every field has an owner.
        let all = entries(&updated).unwrap().into_iter().filter_map(|entry| entry.fields_v1).fold(FieldSet::new(), FieldSet::union);
        let mut orphans = field_set(&updated, &schema);
        orphans.subtract(&system());
        orphans.subtract(&all);
        prop_assert!(orphans.is_empty(), "{:?}", orphans.paths().iter().map(ToString::to_string).collect::<Vec<_>>());
    }

    #[test]
    fn comparing_is_symmetric(old in thing(), new in thing()) {
        let schema = support::thing();
        let there = comparison(&old, &new, &schema);
        let back = comparison(&new, &old, &schema);
        prop_assert_eq!(&there.added, &back.removed);
        prop_assert_eq!(&there.removed, &back.added);
        prop_assert_eq!(&there.modified, &back.modified);
        prop_assert!(comparison(&old, &old, &schema).is_same());
        prop_assert!(there.added.intersection(&there.modified).is_empty());
        prop_assert!(there.removed.intersection(&there.modified).is_empty());
    }

    #[test]
    fn empty_patches_change_nothing(object in thing()) {
        let schema = support::thing();
        for (kind, empty) in [(PatchKind::Strategic, "{}"), (PatchKind::Merge, "{}"), (PatchKind::Json, "[]")] {
            let patched = patch::apply(kind, empty.as_bytes(), &object, Some(&schema)).unwrap();
            prop_assert_eq!(&patched, &object);
        }
    }

    #[test]
    fn a_strategic_patch_has_what_it_says(object in thing(), mut patch in thing()) {
        let schema = support::thing();
        // Its merge key is only one of the two keys of a port: ports that share it are one to a patch and two to everybody else.
        patch["spec"].as_object_mut().unwrap().remove("ports");
        let patched = patch::apply(PatchKind::Strategic, patch.to_string().as_bytes(), &object, Some(&schema)).unwrap();
        let again = patch::apply(PatchKind::Strategic, patch.to_string().as_bytes(), &patched, Some(&schema)).unwrap();
        prop_assert_eq!(&again, &patched);
        // Everything that the patch names by name or key has the patch's value; nothing else changed.
        for (name, value) in patch["spec"].as_object().unwrap() {
            if !value.is_array() && !value.is_object() {
                prop_assert_eq!(&patched["spec"][name], value);
            }
        }
        let named = field_set(&patch, &schema);
        let changes = comparison(&object, &patched, &schema);
        prop_assert!(changes.removed.intersection(&named).is_empty());
    }

    #[test]
    fn a_merge_patch_between_maps_leads_from_one_to_the_other(from in words(), to in words()) {
        let mut patch: Map<String, Value> = to.as_object().unwrap().clone();
        for name in from.as_object().unwrap().keys() {
            patch.entry(name.clone()).or_insert(Value::Null);
        }
        let patched = patch::apply(PatchKind::Merge, Value::Object(patch).to_string().as_bytes(), &from, None).unwrap();
        prop_assert_eq!(patched, to);
    }
}

#[test]
fn paths_of_a_set_lead_back_to_it() {
    let schema = support::thing();
    let object = spec(json!({"items": [{"name": "a", "sub": [{"id": 1}]}], "tags": ["x"]}));
    let set = field_set(&object, &schema);
    let again: FieldSet = set.paths().into_iter().collect();
    assert_eq!(again, set);
    assert!(set.has(&[PathElement::field("spec"), PathElement::field("tags"), PathElement::value(json!("x"))]));
}
