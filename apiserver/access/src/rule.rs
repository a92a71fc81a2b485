//! One rule of a role: what it allows, and whether one set of rules contains another.

use serde_json::{Map, Value, json};

use crate::{Attributes, quoted, texts};

const ALL: &str = "*";

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    /// `modelinstances`, `modelinstances/status`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Empty: of any name.
    pub resource_names: Vec<String>,
    /// `/metrics`, `/healthz/*`.
    pub non_resource_urls: Vec<String>,
}

fn has(set: &[String], one: &str) -> bool {
    set.iter().any(|own| own == one)
}

fn matches(set: &[String], one: &str) -> bool {
    set.iter().any(|own| own == ALL || own == one)
}

/// `*/status` as a rule's resource.
fn is_any(pattern: &str, subresource: &str) -> bool {
    !subresource.is_empty() && pattern.strip_prefix("*/") == Some(subresource)
}

/// Whether a rule's resource is `plural/subresource`, without putting it together.
fn is_resource(pattern: &str, plural: &str, subresource: &str) -> bool {
    match pattern.strip_prefix(plural) {
        Some("") => subresource.is_empty(),
        Some(rest) => !subresource.is_empty() && rest.strip_prefix('/') == Some(subresource),
        None => false,
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == ALL || pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

impl Rule {
    /// From its JSON; what isn't a list of texts counts as an empty one.
    #[must_use]
    pub fn parse(value: &Value) -> Self {
        Self {
            verbs: texts(value, "verbs"),
            api_groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            resource_names: texts(value, "resourceNames"),
            non_resource_urls: texts(value, "nonResourceURLs"),
        }
    }

    /// The `rules` of a role.
    #[must_use]
    pub fn of_role(role: &Value) -> Vec<Self> {
        role.get("rules").and_then(Value::as_array).into_iter().flatten().map(Self::parse).collect()
    }

    /// Its JSON, without empty lists.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        let lists = [
            ("apiGroups", &self.api_groups),
            ("nonResourceURLs", &self.non_resource_urls),
            ("resourceNames", &self.resource_names),
            ("resources", &self.resources),
        ];
        for (field, list) in lists {
            if !list.is_empty() {
                object.insert(field.to_owned(), json!(list));
            }
        }
        object.insert("verbs".to_owned(), json!(self.verbs));
        Value::Object(object)
    }

    /// Whether the rule lets this request through.
    #[must_use]
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !matches(&self.verbs, attributes.verb) {
            return false;
        }
        let Some(resource) = &attributes.resource else {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, attributes.path));
        };
        let is_meant = |pattern: &String| {
            pattern == ALL
                || is_resource(pattern, resource.plural, resource.subresource)
                || is_any(pattern, resource.subresource)
        };
        matches(&self.api_groups, resource.group)
            && self.resources.iter().any(is_meant)
            && (self.resource_names.is_empty() || has(&self.resource_names, resource.name.unwrap_or_default()))
    }

    /// The same as rules of one verb, one resource and one name each.
    fn break_down(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part =
                        Self { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Self::default() };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(
                            self.resource_names.iter().map(|name| Self { resource_names: one(name), ..part.clone() }),
                        );
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            parts.extend(self.verbs.iter().map(|verb| Self {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Self::default()
            }));
        }
        parts
    }

    /// Whether this rule contains a broken-down one.
    fn covers(&self, part: &Self) -> bool {
        let in_set = |set: &[String], wanted: &[String]| has(set, ALL) || wanted.iter().all(|one| has(set, one));
        let resources = has(&self.resources, ALL)
            || part.resources.iter().all(|wanted| {
                has(&self.resources, wanted)
                    || wanted.split_once('/').is_some_and(|(_, sub)| self.resources.iter().any(|own| is_any(own, sub)))
            });
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|one| has(&self.resource_names, one)));
        let url_covers = |own: &String, wanted: &String| {
            own == wanted || (own.ends_with('*') && wanted.starts_with(own.trim_end_matches('*')))
        };
        let urls = part
            .non_resource_urls
            .iter()
            .all(|wanted| self.non_resource_urls.iter().any(|own| url_covers(own, wanted)));
        in_set(&self.verbs, &part.verbs) && in_set(&self.api_groups, &part.api_groups) && resources && names && urls
    }

    /// As messages show a rule: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    #[must_use]
    pub fn describe(&self) -> String {
        let lists = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `wanted` isn't in `held`, broken down.
#[must_use]
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::break_down);
    parts.filter(|part| !held.iter().any(|own| own.covers(part))).collect()
}

/// Joins broken-down rules that differ by their verb alone.
#[must_use]
pub fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut Rule| {
            part.non_resource_urls.is_empty()
                && rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls.is_empty()
        };
        match joined.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ResourceAttributes, UserInfo};

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        Rule::parse(&json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names}))
    }

    #[test]
    fn which_requests_a_rule_allows() {
        let user = UserInfo::default();
        let cases = [
            // verbs, groups, resources, names | verb, group, resource, subresource, name | allowed
            (rule(&["get"], &[""], &["pods"], &[]), ("get", "", "pods", "", "a"), true),
            (rule(&["get"], &[""], &["pods"], &[]), ("list", "", "pods", "", ""), false),
            (rule(&["get"], &[""], &["pods"], &[]), ("get", "apps", "pods", "", "a"), false),
            (rule(&["get"], &[""], &["pods"], &[]), ("get", "", "pods", "log", "a"), false),
            (rule(&["get"], &[""], &["pods"], &[]), ("get", "", "podsets", "", "a"), false),
            (rule(&["get"], &[""], &["pods/log"], &[]), ("get", "", "pods", "log", "a"), true),
            (rule(&["get"], &[""], &["pods/log"], &[]), ("get", "", "pods", "", "a"), false),
            (rule(&["get"], &["*"], &["*/scale"], &[]), ("get", "x", "things", "scale", "a"), true),
            (rule(&["get"], &["*"], &["*/scale"], &[]), ("get", "x", "things", "", "a"), false),
            (rule(&["*"], &["*"], &["*"], &[]), ("impersonate", "x", "things", "status", "a"), true),
            (rule(&["get"], &[""], &["pods"], &["a", "b"]), ("get", "", "pods", "", "b"), true),
            (rule(&["get"], &[""], &["pods"], &["a", "b"]), ("get", "", "pods", "", "c"), false),
            // Names can't be known of a create or a whole list.
            (rule(&["create"], &[""], &["pods"], &["a"]), ("create", "", "pods", "", ""), false),
        ];
        for (rule, (verb, group, plural, subresource, name), allowed) in cases {
            let name = (!name.is_empty()).then_some(name);
            let resource = ResourceAttributes { group, plural, subresource, name, ..ResourceAttributes::default() };
            let attributes = Attributes { user: &user, verb, path: "/", resource: Some(resource) };
            assert_eq!(rule.allows(&attributes), allowed, "{rule:?} {attributes:?}");
        }
    }

    #[test]
    fn which_paths_a_rule_allows() {
        let user = UserInfo::default();
        let cases = [
            ("/metrics", "/metrics", true),
            ("/metrics", "/metrics/slis", false),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz/*", "/healthz", false),
            ("/api*", "/apis/x", true),
            ("*", "/", true),
        ];
        for (pattern, path, allowed) in cases {
            let rule = Rule::parse(&json!({"verbs": ["get"], "nonResourceURLs": [pattern]}));
            let attributes = Attributes { user: &user, verb: "get", path, resource: None };
            assert_eq!(rule.allows(&attributes), allowed, "{pattern} {path}");
            // A rule about paths says nothing of resources.
            let resource = Some(ResourceAttributes { plural: "pods", ..ResourceAttributes::default() });
            assert!(!rule.allows(&Attributes { resource, ..attributes }));
        }
    }

    #[test]
    fn what_is_missing() {
        let held = [rule(&["get", "list"], &["", "apps"], &["pods", "*/status"], &[])];
        let cases = [
            (rule(&["get"], &[""], &["pods"], &[]), ""),
            (rule(&["get"], &[""], &["pods"], &["a"]), ""),
            (rule(&["get"], &["apps"], &["sets/status"], &[]), ""),
            (rule(&["delete"], &[""], &["pods"], &[]), r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#),
            (
                rule(&["get", "delete", "patch"], &[""], &["pods"], &[]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}"#,
            ),
            (rule(&["get"], &["*"], &["pods"], &[]), r#"{APIGroups:["*"], Resources:["pods"], Verbs:["get"]}"#),
            (
                Rule::parse(&json!({"verbs": ["get"], "nonResourceURLs": ["/a"]})),
                r#"{NonResourceURLs:["/a"], Verbs:["get"]}"#,
            ),
        ];
        for (wanted, expected) in cases {
            let missing = compact(missing(&held, std::slice::from_ref(&wanted)));
            let described: Vec<String> = missing.iter().map(Rule::describe).collect();
            assert_eq!(described.join("\n"), expected, "{wanted:?}");
        }
        let named = [rule(&["get"], &[""], &["pods"], &["a"])];
        assert!(!missing(&named, &[rule(&["get"], &[""], &["pods"], &[])]).is_empty(), "one name isn't all of them");
        let urls = [Rule::parse(&json!({"verbs": ["get"], "nonResourceURLs": ["/a/*"]}))];
        assert!(
            missing(&urls, &[Rule::parse(&json!({"verbs": ["get"], "nonResourceURLs": ["/a/b", "/a/*"]}))]).is_empty()
        );
    }
}
