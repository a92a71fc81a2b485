//! Who may use which names: within a group, plural, singular and short names are one space and kinds another, and the first
//! CRD to claim a name keeps it (`pkg/controller/status/naming_controller.go` of apiextensions-apiserver).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// `spec.names` and `status.acceptedNames`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    pub plural: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub singular: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list_kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

/// The names of everybody else in the group.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    pub fn add(&mut self, names: &Names) {
        self.resources.extend([&names.plural, &names.singular].into_iter().filter(|name| !name.is_empty()).cloned());
        self.resources.extend(names.short_names.iter().cloned());
        self.kinds.extend([&names.kind, &names.list_kind].into_iter().filter(|name| !name.is_empty()).cloned());
    }
}

/// The condition `NamesAccepted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub accepted: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Accepts the requested names that are free; the others stay as they were accepted before. The verdict names the last conflict.
#[must_use]
pub fn accept(requested: &Names, before: &Names, taken: &Taken) -> (Names, Verdict) {
    let mut names = before.clone();
    let mut verdict = Verdict { accepted: true, reason: "NoConflicts", message: "no conflicts found".to_owned() };
    let mut refuse = |reason, message| verdict = Verdict { accepted: false, reason, message };
    let in_use = |name: &str| format!("\"{name}\" is already in use");

    let slots: [(&str, &str, &mut String, &BTreeSet<String>, &'static str); 2] = [
        (&requested.plural, &before.plural, &mut names.plural, &taken.resources, "PluralConflict"),
        (&requested.singular, &before.singular, &mut names.singular, &taken.resources, "SingularConflict"),
    ];
    for (wanted, had, slot, used, reason) in slots {
        if wanted != had && used.contains(wanted) {
            refuse(reason, in_use(wanted));
        } else {
            wanted.clone_into(slot);
        }
    }
    let conflicts: Vec<String> = requested
        .short_names
        .iter()
        .filter(|name| !before.short_names.contains(name) && taken.resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    match conflicts.as_slice() {
        [] => names.short_names.clone_from(&requested.short_names),
        [one] => refuse("ShortNamesConflict", one.clone()),
        many => refuse("ShortNamesConflict", format!("[{}]", many.join(", "))),
    }
    let slots: [(&str, &str, &mut String, &'static str); 2] = [
        (&requested.kind, &before.kind, &mut names.kind, "KindConflict"),
        (&requested.list_kind, &before.list_kind, &mut names.list_kind, "ListKindConflict"),
    ];
    for (wanted, had, slot, reason) in slots {
        if wanted != had && taken.kinds.contains(wanted) {
            refuse(reason, in_use(wanted));
        } else {
            wanted.clone_into(slot);
        }
    }
    names.categories.clone_from(&requested.categories);
    (names, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, kind: &str, short: &[&str]) -> Names {
        Names {
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|&s| s.to_owned()).collect(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            categories: Vec::new(),
        }
    }

    #[test]
    fn free_names_are_accepted() {
        let wanted = names("scenarios", "Scenario", &["sc"]);
        let (accepted, verdict) = accept(&wanted, &Names::default(), &Taken::default());
        assert_eq!(accepted, wanted);
        assert_eq!((verdict.accepted, verdict.reason), (true, "NoConflicts"));
    }

    #[test]
    fn a_taken_name_is_refused_alone() {
        let mut taken = Taken::default();
        taken.add(&names("packages", "Package", &["sc"]));
        let wanted = names("scenarios", "Scenario", &["sc"]);
        let (accepted, verdict) = accept(&wanted, &Names::default(), &taken);
        assert_eq!(accepted, Names { short_names: Vec::new(), ..wanted.clone() });
        assert_eq!(
            (verdict.accepted, verdict.reason, verdict.message.as_str()),
            (false, "ShortNamesConflict", "\"sc\" is already in use")
        );

        let mut taken = Taken::default();
        taken.add(&names("others", "Scenario", &[]));
        let (accepted, verdict) = accept(&wanted, &Names::default(), &taken);
        assert_eq!((accepted.kind.as_str(), verdict.reason), ("", "ListKindConflict"));
    }

    #[test]
    fn own_names_are_never_in_conflict_with_oneself() {
        let wanted = names("scenarios", "Scenario", &["sc"]);
        let mut taken = Taken::default();
        taken.add(&wanted);
        let (accepted, verdict) = accept(&wanted, &wanted, &taken);
        assert!(verdict.accepted);
        assert_eq!(accepted, wanted);
    }
}
