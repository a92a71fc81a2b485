//! Nobody grants what it doesn't hold: who writes a role must hold its rules or be allowed to `escalate`; who writes a binding must hold the
//! rules of its role or be allowed to `bind` it. (`pkg/registry/rbac/*/policybased`.)

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pullpiri_access::rbac::{Kind, RoleRef, full_authority, is_master};
use pullpiri_access::{GROUP, Rule};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::access::Access;
use crate::authz::{Attributes as Wish, Authorizer, Decision, ResourceAttributes};
use crate::status::{GroupResource, Status};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Escalation(pub(crate) Arc<Access>);

impl Escalation {
    async fn check(&self, attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        let Some(kind) = Kind::of_plural(&attributes.resource.plural) else { return Ok(()) };
        if is_master(attributes.user) || old.is_some_and(|old| same_but_for_collection(new, old)) {
            return Ok(());
        }
        match self.judge(kind, attributes, new, old) {
            // What this server acknowledged counts.
            Err(_) if self.0.catch_up().await => self.judge(kind, attributes, new, old),
            outcome => outcome,
        }
    }

    fn judge(&self, kind: Kind, attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        match kind {
            Kind::ClusterRole | Kind::Role => self.judge_role(attributes, new, old),
            Kind::ClusterRoleBinding | Kind::RoleBinding => self.judge_binding(attributes, new),
        }
    }

    fn may(&self, attributes: &Attributes<'_>, verb: &str, plural: &str, name: Option<&str>) -> bool {
        let resource = ResourceAttributes {
            group: GROUP,
            version: "*",
            plural,
            namespace: attributes.namespace,
            name,
            ..ResourceAttributes::default()
        };
        let wish = Wish { user: attributes.user, verb, path: "", resource: Some(resource) };
        self.0.authorize(&wish) == Decision::Allow
    }

    fn confirm(&self, attributes: &Attributes<'_>, name: &str, rules: &[Rule]) -> Result<(), Status> {
        let namespace = attributes.namespace.unwrap_or_default();
        let held = self.0.index().confirm_no_escalation(attributes.user, namespace, rules);
        held.map_err(|why| Status::forbidden(attributes.resource.group_resource(), name, &why))
    }

    fn judge_role(&self, attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        // A creation's request names nothing.
        let named = (attributes.operation == Operation::Update).then_some(attributes.name);
        if self.may(attributes, "escalate", &attributes.resource.plural, named) {
            return Ok(());
        }
        self.confirm(attributes, attributes.name, &Rule::of_role(new))?;
        let aggregates = |role: &Value| {
            let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
            selectors.is_some_and(|selectors| !selectors.is_empty())
        };
        if aggregates(new) || old.is_some_and(aggregates) {
            // What it gathers can be anything.
            self.confirm(attributes, attributes.name, &full_authority()).map_err(|_| {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                Status::forbidden(attributes.resource.group_resource(), attributes.name, why)
            })?;
        }
        Ok(())
    }

    fn judge_binding(&self, attributes: &Attributes<'_>, new: &Value) -> Result<(), Status> {
        let role = RoleRef::of(new);
        let plural = match role.kind.as_str() {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation says what is wrong with it.
            _ => return Ok(()),
        };
        if self.may(attributes, "bind", plural, Some(&role.name)) {
            return Ok(());
        }
        let namespace = attributes.namespace.unwrap_or_default();
        let rules = self.0.index().rules_of(&role, namespace).map(<[Rule]>::to_vec).map_err(|_| {
            let of = GroupResource { group: GROUP, plural: plural.trim_end_matches('s') };
            Status::not_found(of, &role.name)
        })?;
        self.confirm(attributes, attributes.name, &rules)
    }
}

/// Whether nothing but what garbage collection needs is changed.
fn same_but_for_collection(new: &Value, old: &Value) -> bool {
    const FREE: [&str; 4] = ["finalizers", "managedFields", "ownerReferences", "resourceVersion"];
    let stripped = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|field, _| !FREE.contains(&field.as_str()));
        }
        object
    };
    stripped(new) == stripped(old)
}

impl Admission for Escalation {
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match object {
            Some(new) if attributes.resource.group == GROUP => {
                async move { self.check(attributes, new, old).await }.boxed()
            }
            _ => std::future::ready(Ok(())).boxed(),
        }
    }
}
