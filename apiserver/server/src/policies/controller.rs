//! Follows policies and bindings, and writes what the type checker says of a policy into its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pullpiri_apply::schema::Schema;
use pullpiri_apply::schema::cel::expression;
use serde_json::{Value, json};

use super::compiled::{Binding, Policy};
use super::{Policies, Set, types};
use crate::builtin::{set, text};
use crate::objects::{ChangeItem, ChangeKind, Objects, Subresource};
use crate::registry::{Resource, Resources};
use crate::status::Status;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";
/// How long to wait when the store can't be read.
const RETRY: Duration = Duration::from_secs(1);
/// A policy is checked against at most so many kinds.
const MOST_KINDS: usize = 10;

/// What is stored, by name.
#[derive(Default)]
struct Stored {
    policies: BTreeMap<Arc<str>, (Arc<Policy>, Value)>,
    bindings: BTreeMap<Arc<str>, Arc<Binding>>,
}

impl Stored {
    fn set(&self) -> Set {
        Set {
            policies: self.policies.values().map(|(policy, _)| Arc::clone(policy)).collect(),
            bindings: self.bindings.values().cloned().collect(),
        }
    }
}

fn resource(objects: &Objects, plural: &str) -> Result<Arc<Resource>, Status> {
    let resource = objects.registry().snapshot().get(GROUP, "v1", plural).cloned();
    resource.ok_or_else(|| Status::internal(format!("{plural} is not registered")))
}

/// Puts in force what is stored, before the first request.
///
/// # Errors
/// What the store answers.
pub(crate) async fn load(objects: &Objects, policies: &Policies) -> Result<(), Status> {
    read(objects).await.map(|(stored, _)| policies.replace(stored.set()))
}

async fn read(objects: &Objects) -> Result<(Stored, pullpiri_store::Revision), Status> {
    let mut stored = Stored::default();
    let (of_bindings, revision) = objects.list(&resource(objects, BINDINGS)?, None).await?;
    for binding in of_bindings {
        stored.bindings.insert(text(&binding, &["metadata", "name"]).into(), Arc::new(Binding::parse(&binding)));
    }
    // Read later than the revision that changes are followed from: nothing is missed, at worst something is seen twice.
    let (of_policies, _) = objects.list(&resource(objects, POLICIES)?, None).await?;
    for policy in of_policies {
        stored.policies.insert(text(&policy, &["metadata", "name"]).into(), (Arc::new(Policy::parse(&policy)), policy));
    }
    Ok((stored, revision))
}

/// Keeps policies in force and their status for as long as it is polled.
pub(crate) async fn run(objects: Objects, policies: Arc<Policies>) {
    loop {
        if let Err(status) = follow(&objects, &policies).await {
            tracing::warn!(%status, "admission policies can't be read, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn follow(objects: &Objects, policies: &Policies) -> Result<(), Status> {
    let (mut stored, revision) = read(objects).await?;
    let (mut changes, _) = objects.changes(Some(revision)).await?;
    policies.replace(stored.set());
    let mut kinds = objects.registry().subscribe();
    for (_, policy) in stored.policies.values() {
        write_status(objects, policy).await?;
    }
    loop {
        tokio::select! {
            item = changes.next() => {
                let change = match item {
                    Some(ChangeItem::Change(change)) => change,
                    Some(ChangeItem::Resync) => return Ok(()),
                    None => return Err(Status::service_unavailable("the store is closed")),
                };
                if &*change.group != GROUP {
                    continue;
                }
                let name = Arc::clone(&change.name);
                let gone = change.kind == ChangeKind::Deleted;
                match &*change.plural {
                    POLICIES if gone => drop(stored.policies.remove(&name)),
                    POLICIES => {
                        let policy = change.object()?.clone();
                        stored.policies.insert(name, (Arc::new(Policy::parse(&policy)), policy.clone()));
                        policies.replace(stored.set());
                        write_status(objects, &policy).await?;
                    }
                    BINDINGS if gone => drop(stored.bindings.remove(&name)),
                    BINDINGS => drop(stored.bindings.insert(name, Arc::new(Binding::parse(change.object()?)))),
                    _ => {}
                }
                policies.replace(stored.set());
            }
            Ok(()) = kinds.changed() => {
                // A kind that a policy is about may have come, or have another schema.
                for (_, policy) in stored.policies.values() {
                    write_status(objects, policy).await?;
                }
            }
        }
    }
}

async fn write_status(objects: &Objects, policy: &Value) -> Result<(), Status> {
    let warnings = check_types(&objects.registry().snapshot(), policy);
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let generation = policy.pointer("/metadata/generation").cloned().unwrap_or(Value::Null);
    let says = |object: &Value| {
        object.pointer("/status/typeChecking") == Some(&checked)
            && object.pointer("/status/observedGeneration") == Some(&generation)
    };
    if says(policy) {
        return Ok(());
    }
    let edit = |object: &mut Value| {
        if says(object) || object.pointer("/metadata/generation") != Some(&generation) {
            return false;
        }
        set(object, &["status", "typeChecking"], checked.clone());
        set(object, &["status", "observedGeneration"], generation.clone());
        true
    };
    let name = text(policy, &["metadata", "name"]);
    match objects.modify(&resource(objects, POLICIES)?, Subresource::Status, None, name, &edit).await {
        Err(status) if matches!(status.reason(), "NotFound" | "Conflict") => Ok(()),
        other => other.map(drop),
    }
}

/// `expressionWarnings`: what is wrong with expressions, given the schemas of the kinds that the policy names.
fn check_types(resources: &Resources, policy: &Value) -> Vec<Value> {
    let parsed = |resource: &Arc<Resource>| Schema::parse(&resource.schema.published()).ok();
    let spec = policy.get("spec").unwrap_or(&Value::Null);
    let schemas: Vec<(String, Schema)> = kinds(resources, policy)
        .into_iter()
        .filter_map(|resource| Some((format!("{}, Kind={}", resource.api_version(), resource.kind), parsed(resource)?)))
        .collect();
    let params = param_kind(resources, spec).and_then(parsed);
    let variables = spec.get("variables").and_then(Value::as_array);
    let names = |kind| {
        let mut names = types::of_kind(spec, kind, params.as_ref()).with_variables();
        for variable in variables.into_iter().flatten() {
            // One that is no good is told of where it is used.
            let _ = names.define(text(variable, &["name"]), text(variable, &["expression"]));
        }
        names
    };
    let kinds: Vec<_> = schemas.iter().map(|(kind, schema)| (kind, names(schema))).collect();
    let mut warnings = Vec::new();
    let validations = spec.get("validations").and_then(Value::as_array);
    for (index, validation) in validations.into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &[field]);
            let complaints: Vec<String> = kinds
                .iter()
                .filter(|_| !source.is_empty())
                .filter_map(|(kind, names)| {
                    let error = expression::check(source, names).err()?;
                    Some(format!("{kind}: {error}\n"))
                })
                .collect();
            if !complaints.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": complaints.join("\n")}));
            }
        }
    }
    warnings
}

/// The resource of a policy's parameters, if it is served.
fn param_kind<'a>(resources: &'a Resources, spec: &Value) -> Option<&'a Arc<Resource>> {
    let api_version = text(spec, &["paramKind", "apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    resources.by_kind(group, version, text(spec, &["paramKind", "kind"]))
}

/// The resources that a policy names without a wildcard, as far as they are served.
fn kinds<'a>(resources: &'a Resources, policy: &Value) -> Vec<&'a Arc<Resource>> {
    let list = |rule: &Value, name: &str| -> Vec<String> {
        let items = rule.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rules = policy.pointer("/spec/matchConstraints/resourceRules").and_then(Value::as_array);
    let mut found = Vec::new();
    for rule in rules.into_iter().flatten() {
        for group in list(rule, "apiGroups") {
            for version in list(rule, "apiVersions") {
                for plural in list(rule, "resources") {
                    found.extend(resources.get(&group, &version, &plural));
                }
            }
        }
    }
    found.truncate(MOST_KINDS);
    found
}
