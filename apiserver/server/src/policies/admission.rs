//! The plugin: every binding whose policy looks at a write has its say.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use pullpiri_apply::schema::cel::expression::{Expression, Outcome, Scope};
use pullpiri_apply::selector::label::LabelSelector;
use pullpiri_store::{Range, Store};
use serde_json::{Value, json};

use super::compiled::{Action, Binding, OnFailure, ParamRef, Policy, Validation};
use super::{Policies, Set};
use crate::admission::{Admission, Attributes, Operation};
use crate::registry::Registry;
use crate::rest::object::Object;
use crate::rest::{key, store_errors};
use crate::status::{Cause, Status};

/// Never looked at, lest nobody could mend a policy that refuses everything.
const EXEMPT: &str = "admissionregistration.k8s.io";
/// The longest message that a `messageExpression` may give.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// The plugin.
#[derive(Debug)]
pub(crate) struct PolicyAdmission {
    pub(crate) policies: Arc<Policies>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
}

/// What a policy found.
struct Finding {
    message: String,
    reason: String,
}

impl Finding {
    fn new(message: String, reason: &str) -> Self {
        Self { message, reason: reason.to_owned() }
    }
}

impl PolicyAdmission {
    async fn check(
        &self,
        set: &Set,
        attributes: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let mut namespace = None;
        for binding in &set.bindings {
            let Some(policy) = set.policies.iter().find(|policy| policy.name == binding.policy) else { continue };
            let matches = [Some(&policy.constraints), binding.resources.as_ref()];
            if !matches.iter().flatten().all(|matched| matched.fits(attributes, new, old)) {
                continue;
            }
            if namespace.is_none() {
                namespace = Some(self.namespace(attributes, new.or(old)).await?);
            }
            let namespace = namespace.as_ref().and_then(Option::as_ref);
            if !matches.iter().flatten().all(|matched| !matched.asks_namespace() || matched.fits_namespace(namespace)) {
                continue;
            }
            let findings = match self.params(policy, binding, attributes).await? {
                Ok(params) => {
                    params.iter().flat_map(|params| evaluate(policy, attributes, new, old, namespace, params)).collect()
                }
                Err(why) if policy.on_failure == OnFailure::Refuse => vec![Finding::new(why, "Invalid")],
                Err(_) => Vec::new(),
            };
            for finding in findings {
                act(policy, binding, attributes, &finding)?;
            }
        }
        Ok(())
    }

    /// The namespace that a write is in, or that it is about.
    async fn namespace(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<Option<Value>, Status> {
        let resource = attributes.resource;
        if resource.group.is_empty() && resource.plural == "namespaces" {
            return Ok(object.cloned());
        }
        match attributes.namespace {
            Some(namespace) => self.read(&format!("core/namespaces/-/{namespace}")).await,
            None => Ok(None),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Value>, Status> {
        let (found, _) = self.store.get(key).await.map_err(|error| store_errors::read(&error))?;
        found.map(|found| Object::stored(&found).to_value()).transpose()
    }

    /// The parameters that a policy is to be evaluated with: one null for a policy without. The inner error says why there are none.
    async fn params(
        &self,
        policy: &Policy,
        binding: &Binding,
        attributes: &Attributes<'_>,
    ) -> Result<Result<Vec<Value>, String>, Status> {
        let (Some((group, version, kind)), Some(reference)) = (&policy.param_kind, &binding.params) else {
            return Ok(Ok(vec![Value::Null]));
        };
        let registry = self.registry.snapshot();
        let Some(resource) = registry.by_kind(group, version, kind) else {
            return Ok(Err(format!(
                "failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'"
            )));
        };
        let namespace = match (resource.is_namespaced(), reference.namespace.is_empty()) {
            (false, _) => None,
            (true, false) => Some(reference.namespace.as_str()),
            (true, true) => match attributes.namespace {
                Some(namespace) => Some(namespace),
                None => {
                    return Ok(Err(
                        "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                            .to_owned(),
                    ));
                }
            },
        };
        let mut params = Vec::new();
        if reference.name.is_empty() {
            let selector = LabelSelector::from_object(&reference.selector).unwrap_or_else(|_| LabelSelector::nothing());
            let range = Range { prefix: key::prefix(resource, namespace), ..Range::default() };
            let page = self.store.list(range).await.map_err(|error| store_errors::read(&error))?;
            for stored in &page.items {
                let value = Object::stored(stored).to_value()?;
                if selector.matches(value.pointer("/metadata/labels").and_then(Value::as_object)) {
                    params.push(value);
                }
            }
        } else {
            params.extend(self.read(&key::of(resource, namespace, &reference.name)).await?);
        }
        Ok(found(params, reference))
    }
}

fn found(params: Vec<Value>, reference: &ParamRef) -> Result<Vec<Value>, String> {
    if params.is_empty() && reference.deny_without {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(format!("failed to configure binding: {why}"));
    }
    Ok(params)
}

/// The `request` of expressions.
fn request(attributes: &Attributes<'_>) -> Value {
    let resource = attributes.resource;
    let operation = match attributes.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    };
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let of = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    json!({
        "kind": kind, "requestKind": kind, "resource": of, "requestResource": of,
        "subResource": attributes.subresource, "requestSubResource": attributes.subresource,
        "name": attributes.name, "namespace": attributes.namespace.unwrap_or_default(),
        "operation": operation, "dryRun": attributes.dry_run,
        "userInfo": {
            "username": attributes.user.name, "uid": attributes.user.uid,
            "groups": attributes.user.groups, "extra": attributes.user.extra,
        },
    })
}

fn evaluate(
    policy: &Policy,
    attributes: &Attributes<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
    namespace: Option<&Value>,
    params: &Value,
) -> Vec<Finding> {
    let mut scope = Scope::default();
    scope.bind("object", new.unwrap_or(&Value::Null));
    scope.bind("oldObject", old.unwrap_or(&Value::Null));
    scope.bind("request", &request(attributes));
    scope.bind("namespaceObject", namespace.unwrap_or(&Value::Null));
    scope.bind("params", params);
    let mut findings = Vec::new();
    let failed = |findings: &mut Vec<Finding>, why: String| {
        if policy.on_failure == OnFailure::Refuse {
            findings.push(Finding::new(why, "Invalid"));
        }
    };
    // One condition that is false is enough, whatever becomes of the others.
    let conditions: Vec<_> =
        policy.conditions.iter().map(|(name, condition)| (name, said(&scope, condition))).collect();
    if conditions.iter().any(|(_, outcome)| matches!(outcome, Ok(Outcome::Bool(false)))) {
        return findings;
    }
    for (name, outcome) in conditions {
        if let Err(why) = outcome {
            failed(&mut findings, format!("failed to evaluate match condition '{name}': {why}"));
            return findings;
        }
    }
    for (name, variable) in &policy.variables {
        if let Ok(expression) = variable {
            scope.define(name, expression);
        }
    }
    for validation in &policy.validations {
        match said(&scope, &validation.expression) {
            Ok(Outcome::Bool(true)) => {}
            Ok(_) => findings.push(Finding::new(message(&scope, validation), &validation.reason)),
            Err(why) => {
                failed(&mut findings, format!("expression '{}' resulted in error: {why}", validation.source));
            }
        }
    }
    findings
}

fn said(scope: &Scope, expression: &Result<Expression, String>) -> Result<Outcome, String> {
    scope.evaluate(expression.as_ref().map_err(Clone::clone)?)
}

fn message(scope: &Scope, validation: &Validation) -> String {
    if let Some(expression) = &validation.message_expression
        && let Ok(Outcome::Text(text)) = scope.evaluate(expression)
    {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n') {
            return text.to_owned();
        }
    }
    if validation.message.is_empty() {
        format!("failed expression: {}", validation.source.trim())
    } else {
        validation.message.clone()
    }
}

/// Does with a finding what the binding wants.
fn act(policy: &Policy, binding: &Binding, attributes: &Attributes<'_>, finding: &Finding) -> Result<(), Status> {
    let (name, bound, message) = (&policy.name, &binding.name, &finding.message);
    if binding.actions.contains(&Action::Audit) {
        tracing::info!(policy = name, binding = bound, object = attributes.name, message, "a policy isn't kept");
    }
    if binding.actions.contains(&Action::Warn)
        && let Some(warnings) = attributes.warnings
    {
        warnings.push(format!(
            "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"
        ));
    }
    if !binding.actions.contains(&Action::Deny) {
        return Ok(());
    }
    let why = format!("ValidatingAdmissionPolicy '{name}' with binding '{bound}' denied request: {message}");
    let (code, reason) = match finding.reason.as_str() {
        "Unauthorized" => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        "Forbidden" => (StatusCode::FORBIDDEN, "Forbidden"),
        "RequestEntityTooLarge" => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
    };
    let forbidden = Status::forbidden(attributes.resource.group_resource(), attributes.name, &why);
    let cause = Cause { reason: String::new(), message: why, field: String::new() };
    Err(Status::new(code, reason, forbidden.message()).with_details(forbidden.details().cloned()).with_cause(cause))
}

impl Admission for PolicyAdmission {
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let set = self.policies.current();
        let resource = attributes.resource;
        if set.bindings.is_empty() || resource.group == EXEMPT || resource.strategy.review().is_some() {
            return std::future::ready(Ok(())).boxed();
        }
        async move {
            let new = object.map(|object| &*object);
            self.check(&set, attributes, new, old).await
        }
        .boxed()
    }
}
