//! Which writes a policy looks at.

use pullpiri_apply::selector::label::LabelSelector;
use serde_json::Value;

use crate::admission::{Attributes, Operation};
use crate::builtin::text;

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// `plural`, `plural/subresource`, `*`, `*/*`, `plural/*` or `*/subresource`.
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

/// `matchConstraints` of a policy, `matchResources` of a binding.
#[derive(Debug)]
pub(super) struct Match {
    rules: Vec<Rule>,
    exclude: Vec<Rule>,
    /// Another version of the same resource will do.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

fn texts(rule: &Value, list: &str) -> Vec<String> {
    rule.get(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn rules(resources: &Value, list: &str) -> Vec<Rule> {
    let rule = |rule: &Value| Rule {
        operations: texts(rule, "operations"),
        groups: texts(rule, "apiGroups"),
        versions: texts(rule, "apiVersions"),
        resources: texts(rule, "resources"),
        names: texts(rule, "resourceNames"),
        scope: text(rule, &["scope"]).to_owned(),
    };
    resources.get(list).and_then(Value::as_array).into_iter().flatten().map(rule).collect()
}

/// A selector that can't be read selects nothing: the policy is as good as none, and says so when it is written.
fn selector(resources: &Value, name: &str) -> LabelSelector {
    match resources.get(name) {
        None | Some(Value::Null) => LabelSelector::everything(),
        Some(selector) => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn fits(&self, attributes: &Attributes<'_>, equivalent: bool) -> bool {
        let resource = attributes.resource;
        let operation = match attributes.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        };
        let scope = match self.scope.as_str() {
            "Cluster" => !resource.is_namespaced(),
            "Namespaced" => resource.is_namespaced(),
            _ => true,
        };
        scope
            && has(&self.operations, operation)
            && has(&self.groups, &resource.group)
            && (equivalent || has(&self.versions, &resource.version))
            && self.resources.iter().any(|pattern| fits(pattern, &resource.plural, attributes.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}

fn fits(pattern: &str, plural: &str, subresource: &str) -> bool {
    let (of, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
    (of == "*" || of == plural) && (sub == "*" || sub == subresource)
}

impl Match {
    pub(super) fn parse(resources: &Value) -> Self {
        Self {
            rules: rules(resources, "resourceRules"),
            exclude: rules(resources, "excludeResourceRules"),
            equivalent: text(resources, &["matchPolicy"]) != "Exact",
            namespaces: selector(resources, "namespaceSelector"),
            objects: selector(resources, "objectSelector"),
        }
    }

    /// Whether a write is looked at, but for the namespace's labels.
    pub(super) fn fits(&self, attributes: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> bool {
        let rules = |rules: &[Rule]| rules.iter().any(|rule| rule.fits(attributes, self.equivalent));
        let chosen = |object: Option<&Value>| object.is_some_and(|object| self.objects.matches(labels(object)));
        (self.rules.is_empty() || rules(&self.rules))
            && !rules(&self.exclude)
            && (self.objects.is_everything() || chosen(new) || chosen(old))
    }

    pub(super) fn asks_namespace(&self) -> bool {
        !self.namespaces.is_everything()
    }

    /// Whether the namespace is chosen; what is in none is.
    pub(super) fn fits_namespace(&self, namespace: Option<&Value>) -> bool {
        namespace.is_none_or(|namespace| self.namespaces.matches(labels(namespace)))
    }
}

fn labels(object: &Value) -> Option<&serde_json::Map<String, Value>> {
    object.pointer("/metadata/labels").and_then(Value::as_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_resources() {
        for (pattern, plural, subresource, wanted) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "", true),
            ("*/*", "pods", "status", true),
            ("pods/*", "pods", "status", true),
            ("*/status", "pods", "status", true),
            ("*/status", "pods", "", false),
            ("pods/status", "nodes", "status", false),
        ] {
            assert_eq!(fits(pattern, plural, subresource), wanted, "{pattern} {plural}/{subresource}");
        }
    }
}
