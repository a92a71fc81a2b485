//! Nodes: each may read and write what is bound to it, and nothing else.
//!
//! What that is depends on the kinds of the product, so it is data, a [`Policy`]. Three sorts of objects: a node's *own* (their name follows
//! from its), those *bound* to it (a field holds its name, and lists name that field in their selector), and those that a bound object
//! *refers* to (by name, in its own namespace), which it may read. [`Nodes`] follows the bound objects.
//!
//! A decision about a request can't see the object, so a write of a bound object is allowed here and checked by [`Nodes::check_write`] when the
//! object is at hand. Modelled on Kubernetes' node authoriser and NodeRestriction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::attributes::{Attributes, ResourceAttributes, UserInfo};
use crate::rbac::Verdict;
use crate::rule::Rule;
use crate::writes::{Writes, check_status};
use crate::{text, texts};

/// What stands for the node's name in [`Own::name`].
const NODE: &str = "{node}";

/// Objects whose name follows from the node's.
#[derive(Clone, Debug)]
struct Own {
    group: String,
    plural: String,
    /// Empty: no namespace.
    namespace: String,
    name: String,
    verbs: Vec<String>,
    /// What of `verbs` also holds for `/status`.
    status_verbs: Vec<String>,
    writes: Writes,
}

/// Objects with a field that holds their node's name.
#[derive(Clone, Debug)]
struct Bound {
    group: String,
    plural: String,
    /// `spec.nodeName`
    field: String,
    verbs: Vec<String>,
    status_verbs: Vec<String>,
    references: Vec<Reference>,
    writes: Writes,
}

/// Where a bound object names objects of its namespace.
#[derive(Clone, Debug)]
struct Reference {
    group: String,
    plural: String,
    /// `spec.template.spec.volumes[].configMap.name`
    paths: Vec<String>,
}

/// What nodes may do.
#[derive(Clone, Debug)]
pub struct Policy {
    user_prefix: String,
    /// Who isn't in it is no node, whatever its name.
    group: String,
    own: Vec<Own>,
    bound: Vec<Bound>,
    /// What every node may do.
    rules: Vec<Rule>,
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{field} of a node policy: expected {expected}")]
pub struct PolicyError {
    field: String,
    expected: &'static str,
}

impl Policy {
    /// From its JSON:
    /// ```json
    /// {"userPrefix": "system:node:", "group": "system:nodes",
    ///  "own": [{"apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": "kube-node-lease", "name": "{node}",
    ///           "verbs": ["get", "update"], "statusVerbs": [], "writes": ["spec", "metadata.labels"],
    ///           "reservedLabels": {"domains": ["kubernetes.io"], "but": ["kubernetes.io/hostname", "node.kubernetes.io/"]}}],
    ///  "bound": [{"apiGroup": "example.com", "resource": "things", "field": "spec.nodeName", "verbs": ["get", "list", "watch", "patch"],
    ///             "statusVerbs": ["patch"], "writes": ["metadata.finalizers[example.com/node]"],
    ///             "references": [{"apiGroup": "", "resource": "secrets", "paths": ["spec.volumes[].secret.secretName"]}]}],
    ///  "rules": [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]}
    /// ```
    ///
    /// Of an object that it may write, a node changes the parts in `writes` and no others.
    ///
    /// # Errors
    /// A field that is missing or empty.
    pub fn parse(value: &Value) -> Result<Self, PolicyError> {
        let wanted = |value: &Value, field: &str| match text(value, &[field]) {
            "" => Err(PolicyError { field: field.to_owned(), expected: "a text" }),
            given => Ok(given.to_owned()),
        };
        let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let verbs = |value: &Value, field: &str| texts(value, field);
        let writes = |entry: &Value| {
            let reserved = entry.get("reservedLabels").unwrap_or(&Value::Null);
            Writes::new(&texts(entry, "writes"), texts(reserved, "domains"), texts(reserved, "but"))
        };
        let mut own = Vec::new();
        for entry in list(value, "own") {
            own.push(Own {
                group: text(&entry, &["apiGroup"]).to_owned(),
                plural: wanted(&entry, "resource")?,
                namespace: text(&entry, &["namespace"]).to_owned(),
                name: wanted(&entry, "name")?,
                verbs: verbs(&entry, "verbs"),
                status_verbs: verbs(&entry, "statusVerbs"),
                writes: writes(&entry),
            });
        }
        let mut bound = Vec::new();
        for entry in list(value, "bound") {
            let mut references = Vec::new();
            for reference in list(&entry, "references") {
                references.push(Reference {
                    group: text(&reference, &["apiGroup"]).to_owned(),
                    plural: wanted(&reference, "resource")?,
                    paths: texts(&reference, "paths"),
                });
            }
            bound.push(Bound {
                group: text(&entry, &["apiGroup"]).to_owned(),
                plural: wanted(&entry, "resource")?,
                field: wanted(&entry, "field")?,
                verbs: verbs(&entry, "verbs"),
                status_verbs: verbs(&entry, "statusVerbs"),
                references,
                writes: writes(&entry),
            });
        }
        Ok(Self {
            user_prefix: wanted(value, "userPrefix")?,
            group: wanted(value, "group")?,
            own,
            bound,
            rules: list(value, "rules").iter().map(Rule::parse).collect(),
        })
    }

    /// Group and plural of each kind whose objects [`Nodes::apply`] wants to see.
    pub fn bound(&self) -> impl Iterator<Item = (&str, &str)> {
        self.bound.iter().map(|bound| (bound.group.as_str(), bound.plural.as_str()))
    }
}

/// How users spell their node's name: as it stands in objects, or `None` for no name at all.
pub type Spelling = fn(&str) -> Option<String>;

/// What is known of one bound object.
#[derive(Debug)]
struct Entry {
    node: Arc<str>,
    references: Vec<Arc<str>>,
}

/// A policy, and which objects are bound to whom.
#[derive(Debug)]
pub struct Nodes {
    policy: Policy,
    spelling: Spelling,
    /// By [`key`].
    entries: HashMap<Arc<str>, Entry>,
    /// Which nodes may read what is referred to, by [`key`], and how many objects say so.
    readers: HashMap<Arc<str>, BTreeMap<Arc<str>, u32>>,
    names: HashMap<Arc<str>, u32>,
}

fn key(group: &str, plural: &str, namespace: &str, name: &str) -> String {
    format!("{plural}.{group}/{namespace}/{name}")
}

impl Nodes {
    #[must_use]
    pub fn new(policy: Policy, spelling: Spelling) -> Self {
        let (entries, readers, names) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { policy, spelling, entries, readers, names }
    }

    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The node that a user is; `Some(None)`: a node without a usable name.
    #[must_use]
    pub fn identity(&self, user: &UserInfo) -> Option<Option<String>> {
        let name = user.name.strip_prefix(&self.policy.user_prefix)?;
        user.is_in(&self.policy.group).then(|| (self.spelling)(name))
    }

    /// Takes in a bound object as it is now; `None`: it is gone.
    pub fn apply(&mut self, group: &str, plural: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key_text = key(group, plural, namespace, name);
        if let Some(old) = self.entries.remove(key_text.as_str()) {
            self.forget(&old);
        }
        let Some(object) = object else { return };
        let Some(bound) = self.policy.bound.iter().find(|bound| bound.group == group && bound.plural == plural) else {
            return;
        };
        let node = at(object, &bound.field);
        if node.is_empty() {
            return;
        }
        let mut references: Vec<String> = Vec::new();
        for reference in &bound.references {
            for path in &reference.paths {
                walk(object, path, &mut |name| {
                    references.push(key(&reference.group, &reference.plural, namespace, name));
                });
            }
        }
        references.sort_unstable();
        references.dedup();
        let node = self.named(node);
        let references: Vec<Arc<str>> = references.into_iter().map(|text| self.reader(&text, &node)).collect();
        self.entries.insert(key_text.into(), Entry { node, references });
    }

    /// One shared text per node.
    fn named(&mut self, node: &str) -> Arc<str> {
        let known = self.names.get_key_value(node).map(|(known, _)| Arc::clone(known));
        let node = known.unwrap_or_else(|| node.into());
        *self.names.entry(Arc::clone(&node)).or_default() += 1;
        node
    }

    fn reader(&mut self, reference: &str, node: &Arc<str>) -> Arc<str> {
        let known = self.readers.get_key_value(reference).map(|(known, _)| Arc::clone(known));
        let reference = known.unwrap_or_else(|| reference.into());
        *self.readers.entry(Arc::clone(&reference)).or_default().entry(Arc::clone(node)).or_default() += 1;
        reference
    }

    fn forget(&mut self, old: &Entry) {
        for reference in &old.references {
            let Some(nodes) = self.readers.get_mut(reference) else { continue };
            if let Some(count) = nodes.get_mut(&old.node) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    nodes.remove(&old.node);
                }
            }
            if nodes.is_empty() {
                self.readers.remove(reference);
            }
        }
        if let Some(count) = self.names.get_mut(&old.node) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.names.remove(&old.node);
            }
        }
    }

    /// Whether a request of a node is about what is its own. No opinion about anybody else.
    #[must_use]
    pub fn evaluate(&self, attributes: &Attributes<'_>) -> Verdict {
        let no = |why: &str| Verdict::NoOpinion(why.to_owned());
        let node = match self.identity(attributes.user) {
            None => return no(""),
            Some(None) => {
                return Verdict::NoOpinion(format!("unknown node for user {:?}", attributes.user.name));
            }
            Some(Some(node)) => node,
        };
        if self.policy.rules.iter().any(|rule| rule.allows(attributes)) {
            return Verdict::Allowed;
        }
        let Some(resource) = &attributes.resource else { return no("") };
        let is_it = |group: &str, plural: &str| group == resource.group && plural == resource.plural;
        if let Some(own) = self.policy.own.iter().find(|own| is_it(&own.group, &own.plural)) {
            return own.evaluate(&node, attributes.verb, resource);
        }
        if let Some(bound) = self.policy.bound.iter().find(|bound| is_it(&bound.group, &bound.plural)) {
            return self.evaluate_bound(bound, &node, attributes.verb, resource);
        }
        let is_referred =
            self.policy.bound.iter().flat_map(|bound| &bound.references).any(|r| is_it(&r.group, &r.plural));
        if !is_referred {
            return no("");
        }
        if !matches!(attributes.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !resource.subresource.is_empty() {
            return no("cannot read subresource");
        }
        let Some(namespace) = resource.namespace else {
            return no("can only read namespaced object of this type");
        };
        let Some(name) = resource.name else { return no("No Object name found") };
        let readers = self.readers.get(key(resource.group, resource.plural, namespace, name).as_str());
        if readers.is_some_and(|nodes| nodes.contains_key(node.as_str())) { Verdict::Allowed } else { unrelated(&node) }
    }

    fn evaluate_bound(&self, bound: &Bound, node: &str, verb: &str, resource: &ResourceAttributes<'_>) -> Verdict {
        if !is_listed(&bound.verbs, &bound.status_verbs, verb, resource.subresource) {
            return Verdict::NoOpinion(refused(&bound.verbs, &bound.status_verbs, resource.subresource));
        }
        match verb {
            "list" | "watch" if resource.name.is_none() => {
                let selected = resource.fields.iter().any(|(field, value)| *field == bound.field && value == node);
                if selected {
                    Verdict::Allowed
                } else {
                    Verdict::NoOpinion(format!(
                        "can only list/watch {} with {} field selector",
                        bound.plural, bound.field
                    ))
                }
            }
            "get" | "list" | "watch" => {
                let namespace = resource.namespace.unwrap_or_default();
                let key = key(resource.group, resource.plural, namespace, resource.name.unwrap_or_default());
                let is_bound = self.entries.get(key.as_str()).is_some_and(|entry| &*entry.node == node);
                if is_bound { Verdict::Allowed } else { unrelated(node) }
            }
            // The object is looked at when it is at hand.
            _ => Verdict::Allowed,
        }
    }

    /// Whether a node may make `new` (absent for a deletion) of `old` (absent for a creation). Everybody else may, as far as this goes.
    ///
    /// # Errors
    /// Why not, in the words that follow "is forbidden: ".
    pub fn check_write(
        &self,
        user: &UserInfo,
        resource: &ResourceAttributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), String> {
        let Some(node) = self.identity(user) else { return Ok(()) };
        let node = node.ok_or_else(|| format!("could not determine node from user {:?}", user.name))?;
        let is_it = |group: &str, plural: &str| group == resource.group && plural == resource.plural;
        let plural = resource.plural;
        let parts = |writes: &Writes| {
            let Some(new) = new else { return Ok(()) };
            let checked = if resource.subresource.is_empty() {
                writes.check(plural, new, old)
            } else {
                check_status(plural, new, old)
            };
            checked.map_err(|why| format!("node {node:?} {why}"))
        };
        if let Some(own) = self.policy.own.iter().find(|own| is_it(&own.group, &own.plural)) {
            let wanted = own.name(&node);
            if resource.name == Some(wanted.as_str()) {
                return parts(&own.writes);
            }
            let given = resource.name.unwrap_or_default();
            return Err(format!("node {node:?} can only write {plural} named {wanted:?}, not {given:?}"));
        }
        let Some(bound) = self.policy.bound.iter().find(|bound| is_it(&bound.group, &bound.plural)) else {
            return Ok(());
        };
        let is_bound = |object: &Value| at(object, &bound.field) == node;
        let what = if resource.subresource.is_empty() { "" } else { " status of" };
        if ![old, new].into_iter().flatten().all(is_bound) {
            return Err(format!("node {node:?} can only write the{what} {plural} with {} set to itself", bound.field));
        }
        parts(&bound.writes)
    }
}

fn unrelated(node: &str) -> Verdict {
    Verdict::NoOpinion(format!("no relationship found between node '{node}' and this object"))
}

fn is_listed(verbs: &[String], status_verbs: &[String], verb: &str, subresource: &str) -> bool {
    let listed = match subresource {
        "" => verbs,
        "status" => status_verbs,
        _ => return false,
    };
    listed.iter().any(|one| one == verb)
}

fn refused(verbs: &[String], status_verbs: &[String], subresource: &str) -> String {
    match subresource {
        "" => format!("can only {} resources of this type", verbs.join("/")),
        "status" if !status_verbs.is_empty() => format!("can only {} the status of this type", status_verbs.join("/")),
        _ => "cannot access subresource".to_owned(),
    }
}

impl Own {
    fn name(&self, node: &str) -> String {
        self.name.replace(NODE, node)
    }

    fn evaluate(&self, node: &str, verb: &str, resource: &ResourceAttributes<'_>) -> Verdict {
        if !is_listed(&self.verbs, &self.status_verbs, verb, resource.subresource) {
            return Verdict::NoOpinion(refused(&self.verbs, &self.status_verbs, resource.subresource));
        }
        if resource.namespace.unwrap_or_default() != self.namespace {
            let (plural, namespace) = (&self.plural, &self.namespace);
            return Verdict::NoOpinion(format!("can only access {plural} in the {namespace:?} namespace"));
        }
        // The name of what is created is looked at when the object is at hand.
        let is_own = match resource.name {
            None => verb == "create",
            Some(name) => name == self.name(node),
        };
        if is_own {
            return Verdict::Allowed;
        }
        Verdict::NoOpinion(format!("node '{node}' can only access {} named {:?}", self.plural, self.name(node)))
    }
}

/// The text at a dotted path.
fn at<'a>(object: &'a Value, path: &str) -> &'a str {
    path.split('.').try_fold(object, |at, field| at.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Visits every text at a path; `[]` after a field stands for each item of its list.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str)) {
    let (step, rest) = path.split_once('.').map_or((path, ""), |(step, rest)| (step, rest));
    let (field, each) = step.strip_suffix("[]").map_or((step, false), |field| (field, true));
    let Some(below) = value.get(field) else { return };
    let mut go = |below: &Value| match (rest, below) {
        ("", Value::String(text)) if !text.is_empty() => visit(text),
        ("", _) => {}
        (rest, below) => walk(below, rest, visit),
    };
    match below {
        Value::Array(items) if each => items.iter().for_each(go),
        _ if each => {}
        below => go(below),
    }
}
