//! Questions in the form of objects: they are created, answered and forgotten. May somebody do something, may I, what may I,
//! who am I, whose is this token?

mod selectors;

use std::collections::BTreeMap;

use pullpiri_access::Rule;
use pullpiri_apply::error::{FieldError, FieldErrorKind, print};
use pullpiri_apply::selector::FieldSelector;
use serde_json::{Map, Value, json};

use crate::access::NODES_CANNOT_TELL;
use crate::auth::UserInfo;
use crate::authz::{Attributes, Authorizer, Decision, ResourceAttributes};
use crate::builtin::text;
use crate::clock::rfc3339;
use crate::status::Status;
use crate::tokens::Tokens;

/// A kind that is a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    SubjectAccess,
    LocalSubjectAccess,
    SelfSubjectAccess,
    SelfSubjectRules,
    SelfSubject,
    Token,
}

/// Whom to ask.
#[derive(Clone, Copy)]
pub(crate) struct Oracle<'a> {
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) tokens: &'a Tokens,
    pub(crate) now: jiff::Timestamp,
}

impl Review {
    /// The question with its answer.
    ///
    /// # Errors
    /// A question that can't be understood.
    pub(crate) async fn answer(
        self,
        oracle: Oracle<'_>,
        user: &UserInfo,
        namespace: Option<&str>,
        mut question: Value,
    ) -> Result<Value, Status> {
        let status = match self {
            Self::SubjectAccess | Self::LocalSubjectAccess | Self::SelfSubjectAccess => {
                let errors = self.check_access(&question);
                if !errors.is_empty() {
                    // Kubernetes leaves out the kind here.
                    return Err(Status::invalid("authorization.k8s.io", "", "", &errors));
                }
                if self == Self::LocalSubjectAccess
                    && text(&question, &["metadata", "namespace"]) != namespace.unwrap_or_default()
                {
                    let namespace = namespace.unwrap_or_default();
                    let message = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
                    return Err(Status::bad_request(message));
                }
                let other = subject(&question);
                access(oracle, if self == Self::SelfSubjectAccess { user } else { &other }, &question).await
            }
            Self::SelfSubjectRules => {
                let namespace = text(&question, &["spec", "namespace"]);
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                let status = rules(oracle, user, namespace).await;
                set(&mut question, "spec", json!({}));
                status
            }
            Self::SelfSubject => {
                set(&mut question, "metadata", json!({"creationTimestamp": rfc3339(oracle.now)}));
                json!({"userInfo": user_info(user)})
            }
            Self::Token => {
                let token = text(&question, &["spec", "token"]);
                if token.is_empty() {
                    return Err(Status::bad_request("token is required for TokenReview in authentication"));
                }
                let audiences = question.pointer("/spec/audiences").and_then(Value::as_array);
                let audiences: Vec<String> =
                    audiences.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
                match oracle.tokens.authenticate(token, Some(&audiences)).await {
                    Ok(Some(known)) => {
                        json!({"authenticated": true, "user": user_info(&known.user), "audiences": known.audiences})
                    }
                    Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
                    Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
                }
            }
        };
        set(&mut question, "status", status);
        Ok(question)
    }

    fn check_access(self, question: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let part = |name: &str| question.get("spec").and_then(|spec| spec.get(name)).filter(|part| !part.is_null());
        let (resource, path) = (part("resourceAttributes"), part("nonResourceAttributes"));
        if resource.is_some() == path.is_some() {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(of_path("spec", path, detail));
        }
        let nobody = text(question, &["spec", "user"]).is_empty()
            && part("groups").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if self != Self::SelfSubjectAccess && nobody {
            errors.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
        }
        errors.extend(resource.map(selectors::check).unwrap_or_default());
        let mut metadata = question.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        metadata.remove("managedFields");
        let mut detail = "must be empty";
        if self == Self::LocalSubjectAccess {
            metadata.remove("namespace");
            detail = "must be empty except for namespace";
        }
        metadata.retain(|_, value| !value.is_null());
        if !metadata.is_empty() {
            let given = question.get("metadata").cloned().unwrap_or_default();
            errors.push(FieldError::invalid("metadata", given, detail));
        }
        if self == Self::LocalSubjectAccess {
            let given = resource.map(|resource| text(resource, &["namespace"])).unwrap_or_default();
            if resource.is_some() && given != text(question, &["metadata", "namespace"]) {
                let detail = "must match metadata.namespace";
                errors.push(FieldError::invalid("spec.resourceAttributes.namespace", given, detail));
            }
            if let Some(path) = path {
                let detail = "disallowed on this kind of request";
                errors.push(of_path("spec.nonResourceAttributes", Some(path), detail));
            }
        }
        errors
    }
}

/// An error that shows a path as Kubernetes' internal type has it.
fn of_path(at: &str, path: Option<&Value>, detail: &str) -> FieldError {
    let shown = path.map_or_else(
        || "null".to_owned(),
        |path| {
            let field = |name: &str| print::json(&Value::from(text(path, &[name])));
            format!("{{\"Path\":{},\"Verb\":{}}}", field("path"), field("verb"))
        },
    );
    FieldError::new(FieldErrorKind::Invalid, at, None, format!("{shown}: {detail}"))
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(field.to_owned(), json!(text));
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(info)
}

/// Who a review is about.
fn subject(question: &Value) -> UserInfo {
    let spec = question.get("spec").unwrap_or(&Value::Null);
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra: BTreeMap<String, Vec<String>> = spec
        .get("extra")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.clone(), texts(values)))
        .collect();
    UserInfo {
        name: text(spec, &["user"]).to_owned(),
        uid: text(spec, &["uid"]).to_owned(),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra,
    }
}

/// What the field selector of a question says must be equal.
fn fields(resource: &Value) -> Vec<(String, String)> {
    let selector = resource.get("fieldSelector").unwrap_or(&Value::Null);
    let raw = FieldSelector::parse(text(selector, &["rawSelector"])).unwrap_or_default();
    let mut fields: Vec<(String, String)> =
        raw.terms().iter().filter(|term| term.equal).map(|term| (term.field.clone(), term.value.clone())).collect();
    for requirement in selector.get("requirements").and_then(Value::as_array).into_iter().flatten() {
        let values = requirement.get("values").and_then(Value::as_array);
        if let ("In", Some([Value::String(value)])) = (text(requirement, &["operator"]), values.map(Vec::as_slice)) {
            fields.push((text(requirement, &["key"]).to_owned(), value.clone()));
        }
    }
    fields
}

async fn access(oracle: Oracle<'_>, user: &UserInfo, question: &Value) -> Value {
    let spec = question.get("spec").unwrap_or(&Value::Null);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let resource = spec.get("resourceAttributes").filter(|part| !part.is_null());
    let (namespace, name) = match resource {
        Some(resource) => (some(text(resource, &["namespace"])), some(text(resource, &["name"]))),
        None => (None, None),
    };
    let attributes = match resource {
        Some(resource) => Attributes {
            user,
            verb: text(resource, &["verb"]),
            path: "",
            resource: Some(ResourceAttributes {
                group: text(resource, &["group"]),
                version: text(resource, &["version"]),
                plural: text(resource, &["resource"]),
                subresource: text(resource, &["subresource"]),
                namespace: namespace.as_deref(),
                name: name.as_deref(),
                fields: fields(resource),
            }),
        },
        None => Attributes {
            user,
            verb: text(spec, &["nonResourceAttributes", "verb"]),
            path: text(spec, &["nonResourceAttributes", "path"]),
            resource: None,
        },
    };
    let mut answer = oracle.authorizer.explain(&attributes);
    if answer.0 != Decision::Allow && oracle.authorizer.catch_up().await {
        answer = oracle.authorizer.explain(&attributes);
    }
    let (decision, reason) = answer;
    let mut status = json!({"allowed": decision == Decision::Allow});
    if !reason.is_empty() {
        set(&mut status, "reason", reason.into());
    }
    status
}

async fn rules(oracle: Oracle<'_>, user: &UserInfo, namespace: &str) -> Value {
    oracle.authorizer.catch_up().await;
    let Some(found) = oracle.authorizer.rules_for(user, namespace) else {
        return json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true});
    };
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        if !rule.resources.is_empty() {
            resources.push(Rule { non_resource_urls: Vec::new(), ..rule.clone() }.to_value());
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let incomplete = found.errors.iter().any(|error| error == NODES_CANNOT_TELL);
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
    if !found.errors.is_empty() {
        set(&mut status, "evaluationError", pullpiri_access::rbac::join(&found.errors).into());
    }
    status
}
