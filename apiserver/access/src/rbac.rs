//! Roles and bindings, by whom they are about.
//!
//! The index follows the stored objects: [`Index::apply`] takes each in, in order of revision. A decision looks up the bindings of the user's
//! name and groups, cluster-wide ones and those of the request's namespace, and asks the rules of the roles that they name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::aggregation::{self, ClusterRole};
use crate::attributes::{Attributes, MASTERS, UserInfo, service_account_user};
use crate::rule::{self, Rule};
use crate::{GROUP, quoted, text};

/// The kinds of [`GROUP`], by their plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterRole,
    Role,
    ClusterRoleBinding,
    RoleBinding,
}

impl Kind {
    #[must_use]
    pub fn of_plural(plural: &str) -> Option<Self> {
        Some(match plural {
            "clusterroles" => Self::ClusterRole,
            "roles" => Self::Role,
            "clusterrolebindings" => Self::ClusterRoleBinding,
            "rolebindings" => Self::RoleBinding,
            _ => return None,
        })
    }
}

/// Which role a binding gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleRef {
    pub api_group: String,
    pub kind: String,
    pub name: String,
}

impl RoleRef {
    /// The `roleRef` of a binding.
    #[must_use]
    pub fn of(binding: &Value) -> Self {
        let field = |name: &str| text(binding, &["roleRef", name]).to_owned();
        Self { api_group: field("apiGroup"), kind: field("kind"), name: field("name") }
    }
}

/// A user, group or service account that a binding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug)]
struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// A subject of a binding.
#[derive(Clone, Debug)]
struct Grant {
    binding: Arc<Binding>,
    subject: usize,
}

impl Grant {
    /// As the reason of a decision names it.
    fn describe(&self) -> String {
        let Binding { namespace, name, role, subjects } = &*self.binding;
        let subject = subjects.get(self.subject).map(|subject| {
            if subject.kind == "ServiceAccount" {
                let home = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                format!("{} {:?}", subject.kind, format!("{}/{home}", subject.name))
            } else {
                format!("{} {:?}", subject.kind, subject.name)
            }
        });
        let subject = subject.unwrap_or_default();
        if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?} of {} {:?} to {subject}", role.kind, role.name)
        } else {
            let full = format!("{name}/{namespace}");
            format!("RoleBinding {full:?} of {} {:?} to {subject}", role.kind, role.name)
        }
    }
}

/// The bindings of one namespace, or of the whole cluster.
#[derive(Debug, Default)]
struct Bindings {
    by_name: BTreeMap<String, Arc<Binding>>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Bindings {
    fn put(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.by_name.remove(name) {
            for of in [&mut self.users, &mut self.groups] {
                of.retain(|_, grants| {
                    grants.retain(|grant| !Arc::ptr_eq(&grant.binding, &old));
                    !grants.is_empty()
                });
            }
        }
        let Some(binding) = binding else { return };
        let binding = Arc::new(binding);
        for (position, subject) in binding.subjects.iter().enumerate() {
            let (of, key) = match subject.kind.as_str() {
                "User" => (&mut self.users, subject.name.clone()),
                "Group" => (&mut self.groups, subject.name.clone()),
                "ServiceAccount" => {
                    // Of the binding's own namespace unless it says another.
                    let home = if subject.namespace.is_empty() { &binding.namespace } else { &subject.namespace };
                    if home.is_empty() {
                        continue;
                    }
                    (&mut self.users, service_account_user(home, &subject.name))
                }
                _ => continue,
            };
            let grants = of.entry(key).or_default();
            let place = grants.partition_point(|grant| grant.binding.name.as_str() <= name);
            grants.insert(place, Grant { binding: Arc::clone(&binding), subject: position });
        }
        self.by_name.insert(name.to_owned(), binding);
    }

    fn of<'a>(&'a self, user: &UserInfo) -> impl Iterator<Item = &'a Grant> {
        let by_group = user.groups.iter().filter_map(|group| self.groups.get(group));
        self.users.get(&user.name).into_iter().chain(by_group).flatten()
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// With what went wrong on the way, which may be empty.
    NoOpinion(String),
}

/// The rules that hold for a user in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// Bindings that name roles which aren't there.
    pub errors: Vec<String>,
}

/// Errors as Go's aggregate prints them.
#[must_use]
pub fn join(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }
    match unique.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Every role and binding.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: BTreeMap<String, ClusterRole>,
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Vec<Rule>>>,
    everywhere: Bindings,
    in_namespace: HashMap<String, Bindings>,
}

impl Index {
    /// Takes in an object as it is now; `None`: it is gone.
    pub fn apply(&mut self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        match kind {
            Kind::ClusterRole => {
                let role = object.map(|object| ClusterRole {
                    labels: aggregation::labels(object),
                    aggregates: aggregation::selectors(object),
                    rules: Rule::of_role(object),
                    effective: Vec::new(),
                });
                match role {
                    Some(role) => self.cluster_roles.insert(name.to_owned(), role),
                    None => self.cluster_roles.remove(name),
                };
                aggregation::gather(&mut self.cluster_roles);
            }
            Kind::Role => {
                let roles = self.roles.entry(namespace.to_owned()).or_default();
                match object {
                    Some(object) => roles.insert(name.to_owned(), Rule::of_role(object)),
                    None => roles.remove(name),
                };
                if roles.is_empty() {
                    self.roles.remove(namespace);
                }
            }
            Kind::ClusterRoleBinding => self.everywhere.put(name, object.map(|object| binding("", name, object))),
            Kind::RoleBinding => {
                let bindings = self.in_namespace.entry(namespace.to_owned()).or_default();
                bindings.put(name, object.map(|object| binding(namespace, name, object)));
                if bindings.by_name.is_empty() {
                    self.in_namespace.remove(namespace);
                }
            }
        }
    }

    /// The rules of the role that a binding in `namespace` (empty: a ClusterRoleBinding) names.
    ///
    /// # Errors
    /// In one sentence, that there is no such role.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<&[Rule], String> {
        let name = &role.name;
        match role.kind.as_str() {
            "ClusterRole" => {
                let role = self.cluster_roles.get(name).map(|role| role.effective.as_slice());
                role.ok_or_else(|| format!("clusterrole.{GROUP} {name:?} not found"))
            }
            "Role" => {
                let role = self.roles.get(namespace).and_then(|roles| roles.get(name)).map(Vec::as_slice);
                role.ok_or_else(|| format!("role.{GROUP} {name:?} not found"))
            }
            other => Err(format!("unsupported role reference kind: {other:?}")),
        }
    }

    fn grants<'a>(&'a self, user: &UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = if namespace.is_empty() { None } else { self.in_namespace.get(namespace) };
        self.everywhere.of(user).chain(local.into_iter().flat_map(|bindings| bindings.of(user)))
    }

    fn find(&self, attributes: &Attributes<'_>) -> Result<&Grant, Vec<String>> {
        let namespace = attributes.resource.as_ref().and_then(|resource| resource.namespace).unwrap_or_default();
        let mut errors = Vec::new();
        for grant in self.grants(attributes.user, namespace) {
            match self.rules_of(&grant.binding.role, &grant.binding.namespace) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => return Ok(grant),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }

    /// Whether some rule allows the request.
    #[must_use]
    pub fn evaluate(&self, attributes: &Attributes<'_>) -> Verdict {
        match self.find(attributes) {
            Ok(_) => Verdict::Allowed,
            Err(errors) if errors.is_empty() => Verdict::NoOpinion(String::new()),
            Err(errors) => Verdict::NoOpinion(format!("RBAC: {}", join(&errors))),
        }
    }

    /// As [`Self::evaluate`], with the binding that allows.
    ///
    /// # Errors
    /// What went wrong on the way to no opinion.
    pub fn explain(&self, attributes: &Attributes<'_>) -> Result<String, String> {
        match self.find(attributes) {
            Ok(grant) => Ok(format!("RBAC: allowed by {}", grant.describe())),
            Err(errors) if errors.is_empty() => Err(String::new()),
            Err(errors) => Err(format!("RBAC: {}", join(&errors))),
        }
    }

    /// Every rule that holds for a user in a namespace (empty: cluster-wide).
    #[must_use]
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut found = Rules::default();
        let mut seen: Vec<&Arc<Binding>> = Vec::new();
        for grant in self.grants(user, namespace) {
            if seen.iter().any(|binding| Arc::ptr_eq(binding, &grant.binding)) {
                continue;
            }
            seen.push(&grant.binding);
            match self.rules_of(&grant.binding.role, &grant.binding.namespace) {
                Ok(rules) => found.rules.extend_from_slice(rules),
                Err(error) => found.errors.push(error),
            }
        }
        found
    }

    /// Whether a user holds everything that it is about to grant, in the namespace of its request (empty: cluster-wide).
    ///
    /// # Errors
    /// What it doesn't hold, as kube-apiserver words it.
    pub fn confirm_no_escalation(&self, user: &UserInfo, namespace: &str, granted: &[Rule]) -> Result<(), String> {
        let held = self.rules_for(user, namespace);
        let missing = rule::missing(&held.rules, granted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = rule::compact(missing).iter().map(Rule::describe).collect();
        lines.sort_unstable();
        lines.dedup();
        let mut message = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted(&user.groups),
            lines.join("\n")
        );
        if !held.errors.is_empty() {
            message.push_str(&format!("; resolution errors: [{}]", join(&held.errors)));
        }
        Err(message)
    }

    /// The aggregating roles whose stored rules aren't what they gather, with what they should be.
    #[must_use]
    pub fn stale_aggregates(&self) -> Vec<(String, Vec<Rule>)> {
        let stale =
            self.cluster_roles.iter().filter(|(_, role)| role.aggregates.is_some() && role.rules != role.effective);
        stale.map(|(name, role)| (name.clone(), role.effective.clone())).collect()
    }
}

/// Whether the user is above all roles.
#[must_use]
pub fn is_master(user: &UserInfo) -> bool {
    user.is_in(MASTERS)
}

/// Everything there is: what it takes to set an aggregation rule.
#[must_use]
pub fn full_authority() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

fn binding(namespace: &str, name: &str, object: &Value) -> Binding {
    let subjects = object.get("subjects").and_then(Value::as_array);
    let subject = |value: &Value| Subject {
        kind: text(value, &["kind"]).to_owned(),
        name: text(value, &["name"]).to_owned(),
        namespace: text(value, &["namespace"]).to_owned(),
    };
    Binding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        role: RoleRef::of(object),
        subjects: subjects.into_iter().flatten().map(subject).collect(),
    }
}
