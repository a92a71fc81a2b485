//! What a namespace's status says about its deletion (`pkg/controller/namespace/deletion/status_condition_utils.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::crd::conditions::{Condition, set_condition};

/// What one pass over a namespace's content found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// By `plural.group`: how many objects are left.
    pub objects: BTreeMap<String, usize>,
    /// By finalizer: how many objects it holds.
    pub finalizers: BTreeMap<String, usize>,
    /// What couldn't be listed or deleted, and why.
    pub failures: Vec<String>,
}

impl Remains {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
    }

    /// Writes the conditions; returns whether any changed.
    pub fn write(&self, namespace: &mut Value, now: Timestamp) -> bool {
        let list = |of: &BTreeMap<String, usize>, word: &str| -> String {
            let parts: Vec<String> =
                of.iter().map(|(name, count)| format!("{name} {word} {count} resource instances")).collect();
            parts.join(", ")
        };
        let mut failures = self.failures.clone();
        failures.sort_unstable();
        let failed =
            format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
        let remaining = format!("Some resources are remaining: {}", list(&self.objects, "has"));
        let held = format!("Some content in the namespace has finalizers remaining: {}", list(&self.finalizers, "in"));
        let conditions = [
            Condition {
                kind: "NamespaceDeletionDiscoveryFailure",
                status: false,
                reason: "ResourcesDiscovered",
                message: "All resources successfully discovered",
            },
            Condition {
                kind: "NamespaceDeletionGroupVersionParsingFailure",
                status: false,
                reason: "ParsedGroupVersions",
                message: "All legacy kube types successfully parsed",
            },
            if failures.is_empty() {
                Condition {
                    kind: "NamespaceDeletionContentFailure",
                    status: false,
                    reason: "ContentDeleted",
                    message: "All content successfully deleted, may be waiting on finalization",
                }
            } else {
                Condition {
                    kind: "NamespaceDeletionContentFailure",
                    status: true,
                    reason: "ContentDeletionFailed",
                    message: &failed,
                }
            },
            if self.objects.is_empty() {
                Condition {
                    kind: "NamespaceContentRemaining",
                    status: false,
                    reason: "ContentRemoved",
                    message: "All content successfully removed",
                }
            } else {
                Condition {
                    kind: "NamespaceContentRemaining",
                    status: true,
                    reason: "SomeResourcesRemain",
                    message: &remaining,
                }
            },
            if self.finalizers.is_empty() {
                Condition {
                    kind: "NamespaceFinalizersRemaining",
                    status: false,
                    reason: "ContentHasNoFinalizers",
                    message: "All content-preserving finalizers finished",
                }
            } else {
                Condition {
                    kind: "NamespaceFinalizersRemaining",
                    status: true,
                    reason: "SomeFinalizersRemain",
                    message: &held,
                }
            },
        ];
        let mut changed = false;
        for condition in conditions {
            changed |= set_condition(namespace, condition, now);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_say_what_is_left() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let mut namespace = json!({"status": {"phase": "Terminating"}});
        let mut remains = Remains::default();
        remains.objects.insert("widgets.example.com".to_owned(), 2);
        remains.objects.insert("configmaps.".to_owned(), 1);
        remains.finalizers.insert("example.com/hold".to_owned(), 2);
        assert!(remains.write(&mut namespace, now));
        insta::assert_json_snapshot!("remaining", namespace["status"]);
        assert!(!remains.write(&mut namespace, now));
        assert!(Remains::default().write(&mut namespace, now));
        insta::assert_json_snapshot!("removed", namespace["status"]);
        let failed =
            Remains { failures: vec!["b: no space".to_owned(), "a: no space".to_owned()], ..Remains::default() };
        assert!(failed.write(&mut namespace, now));
        assert_eq!(
            namespace["status"]["conditions"][2]["message"],
            "Failed to delete all resource types, 2 remaining: a: no space, b: no space"
        );
    }
}
