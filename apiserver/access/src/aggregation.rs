//! ClusterRoles that gather the rules of others by label (`aggregationRule`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::rule::Rule;
use crate::{text, texts};

/// A label selector (`matchLabels` and `matchExpressions`, all of which must hold).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: BTreeMap<String, String>,
    /// Key, operator, values.
    expressions: Vec<(String, String, Vec<String>)>,
}

/// The selectors of an aggregation rule; `None` for a role that has its own rules.
pub(crate) fn selectors(role: &Value) -> Option<Vec<Selector>> {
    let rule = role.get("aggregationRule").filter(|rule| !rule.is_null())?;
    let all = rule.get("clusterRoleSelectors").and_then(Value::as_array);
    Some(all.into_iter().flatten().map(Selector::parse).collect())
}

/// The labels of an object.
pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

impl Selector {
    fn parse(value: &Value) -> Self {
        let labels = value.get("matchLabels").and_then(Value::as_object);
        let expressions = value.get("matchExpressions").and_then(Value::as_array);
        Self {
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            expressions: expressions
                .into_iter()
                .flatten()
                .map(|one| (text(one, &["key"]).to_owned(), text(one, &["operator"]).to_owned(), texts(one, "values")))
                .collect(),
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |(key, operator, values): &(String, String, Vec<String>)| {
            let value = labels.get(key);
            let listed = value.is_some_and(|value| values.contains(value));
            match operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        };
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value)) && self.expressions.iter().all(holds)
    }
}

/// A ClusterRole as aggregation sees it.
#[derive(Clone, Debug)]
pub(crate) struct ClusterRole {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) aggregates: Option<Vec<Selector>>,
    /// What is stored.
    pub(crate) rules: Vec<Rule>,
    /// What counts: for a role that aggregates, what it gathers.
    pub(crate) effective: Vec<Rule>,
}

/// Works out what each aggregating role gathers, through others that aggregate, too: the least set that its selectors give. Roles are
/// gathered by name, a rule that is there already isn't added again.
pub(crate) fn gather(roles: &mut BTreeMap<String, ClusterRole>) {
    for role in roles.values_mut() {
        role.effective = if role.aggregates.is_some() { Vec::new() } else { role.rules.clone() };
    }
    let aggregating: Vec<String> =
        roles.iter().filter(|(_, role)| role.aggregates.is_some()).map(|(name, _)| name.clone()).collect();
    // A rule travels along at most as many roles as there are.
    for _ in 0..=aggregating.len() {
        let mut changed = false;
        for name in &aggregating {
            let Some(selectors) = roles.get(name).and_then(|role| role.aggregates.as_ref()) else { continue };
            let mut gathered: Vec<Rule> = Vec::new();
            for selector in selectors {
                let others = roles.iter().filter(|(other, role)| *other != name && selector.matches(&role.labels));
                for rule in others.flat_map(|(_, role)| &role.effective) {
                    if !gathered.contains(rule) {
                        gathered.push(rule.clone());
                    }
                }
            }
            if let Some(role) = roles.get_mut(name)
                && role.effective != gathered
            {
                role.effective = gathered;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}
