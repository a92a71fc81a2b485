//! The built-in kinds: what a cluster without Pods needs (Namespace, ConfigMap, Secret, ServiceAccount, Event, Lease, CRD, roles
//! and bindings), and the questions about access.
//!
//! Start-up makes only the entries. Their schemas are built when somebody asks ([`schema`]), and what a kind does beyond the
//! generic rules is its strategy, one module each. Names, short names, categories and behaviour are kube-apiserver's (1.37).

pub mod admission_policy;
pub mod config_map;
pub mod event;
pub mod lease;
pub mod namespace;
pub mod rbac;
pub mod resource_quota;
pub mod schema;
pub mod secret;

use serde_json::Value;

use crate::crd;
use crate::registry::{Origin, Resource, SchemaCell, Scope, Strategy, UpsertOnUpdate};
use crate::reviews::Review;
use schema::Root;

/// What differs between two built-in kinds.
#[derive(Clone, Copy)]
struct Kind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    scope: Scope,
    has_status: bool,
    counts_generation: bool,
    upsert: UpsertOnUpdate,
    root: Root,
    strategy: &'static dyn Strategy,
}

/// A kind in namespaces, without status, short names and other peculiarities.
const fn kind(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    root: Root,
    strategy: &'static dyn Strategy,
) -> Kind {
    Kind {
        group,
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        has_status: false,
        counts_generation: false,
        upsert: UpsertOnUpdate::Refuse,
        root,
        strategy,
    }
}

/// Every built-in resource.
#[must_use]
pub fn resources() -> Vec<Resource> {
    let kinds =
        [objects().as_slice(), &[POD_TEMPLATE], admission().as_slice(), roles().as_slice(), reviews().as_slice()]
            .concat();
    kinds.into_iter().map(resource).collect()
}

fn objects() -> [Kind; 8] {
    [
        Kind {
            short_names: &["ns"],
            scope: Scope::Cluster,
            has_status: true,
            ..kind("", "Namespace", "namespaces", "namespace", Root::Namespace, &namespace::NamespaceStrategy)
        },
        Kind {
            short_names: &["cm"],
            ..kind("", "ConfigMap", "configmaps", "configmap", Root::ConfigMap, &config_map::ConfigMapStrategy)
        },
        kind("", "Secret", "secrets", "secret", Root::Secret, &secret::SecretStrategy),
        Kind {
            short_names: &["sa"],
            ..kind(
                "",
                "ServiceAccount",
                "serviceaccounts",
                "serviceaccount",
                Root::ServiceAccount,
                &ServiceAccountStrategy,
            )
        },
        Kind {
            short_names: &["ev"],
            upsert: UpsertOnUpdate::Create,
            ..kind("", "Event", "events", "event", Root::CoreEvent, &event::CoreEventStrategy)
        },
        Kind {
            short_names: &["ev"],
            upsert: UpsertOnUpdate::Create,
            ..kind("events.k8s.io", "Event", "events", "event", Root::Event, &event::EventStrategy)
        },
        Kind {
            upsert: UpsertOnUpdate::Create,
            ..kind("coordination.k8s.io", "Lease", "leases", "lease", Root::Lease, &lease::LeaseStrategy)
        },
        Kind {
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            scope: Scope::Cluster,
            has_status: true,
            counts_generation: true,
            ..kind(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                "customresourcedefinition",
                Root::CustomResourceDefinition,
                &crd::strategy::CrdStrategy,
            )
        },
    ]
}

/// PodTemplate: kept for whoever makes Pods of it, which nothing here does.
const POD_TEMPLATE: Kind = Kind {
    counts_generation: true,
    ..kind("", "PodTemplate", "podtemplates", "podtemplate", Root::PodTemplate, &PodTemplateStrategy)
};

#[derive(Debug)]
struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Kinds that say what may be written.
fn admission() -> [Kind; 3] {
    const POLICIES: &str = "admissionregistration.k8s.io";
    [
        Kind {
            short_names: &["quota"],
            has_status: true,
            ..kind(
                "",
                "ResourceQuota",
                "resourcequotas",
                "resourcequota",
                Root::ResourceQuota,
                &resource_quota::ResourceQuotaStrategy,
            )
        },
        Kind {
            categories: &["api-extensions"],
            scope: Scope::Cluster,
            has_status: true,
            counts_generation: true,
            ..kind(
                POLICIES,
                "ValidatingAdmissionPolicy",
                "validatingadmissionpolicies",
                "validatingadmissionpolicy",
                Root::ValidatingAdmissionPolicy,
                &admission_policy::PolicyStrategy,
            )
        },
        Kind {
            categories: &["api-extensions"],
            scope: Scope::Cluster,
            counts_generation: true,
            ..kind(
                POLICIES,
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
                "validatingadmissionpolicybinding",
                Root::ValidatingAdmissionPolicyBinding,
                &admission_policy::BindingStrategy,
            )
        },
    ]
}

fn roles() -> [Kind; 4] {
    use rbac::{BindingStrategy, RoleStrategy};
    let of = |name, plural, singular, scope, root, strategy: &'static dyn Strategy| Kind {
        scope,
        upsert: UpsertOnUpdate::Create,
        ..kind(pullpiri_access::GROUP, name, plural, singular, root, strategy)
    };
    let (cluster, local) = (Scope::Cluster, Scope::Namespaced);
    [
        of(
            "ClusterRole",
            "clusterroles",
            "clusterrole",
            cluster,
            Root::ClusterRole,
            &RoleStrategy { namespaced: false },
        ),
        of("Role", "roles", "role", local, Root::Role, &RoleStrategy { namespaced: true }),
        of(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
            cluster,
            Root::ClusterRoleBinding,
            &BindingStrategy { namespaced: false },
        ),
        of(
            "RoleBinding",
            "rolebindings",
            "rolebinding",
            local,
            Root::RoleBinding,
            &BindingStrategy { namespaced: true },
        ),
    ]
}

fn reviews() -> [Kind; 6] {
    let of = |group, name, plural, singular, scope, root, strategy: &'static dyn Strategy| Kind {
        scope,
        ..kind(group, name, plural, singular, root, strategy)
    };
    const WHO: &str = "authentication.k8s.io";
    const MAY: &str = "authorization.k8s.io";
    let (cluster, local) = (Scope::Cluster, Scope::Namespaced);
    [
        of(
            MAY,
            "SubjectAccessReview",
            "subjectaccessreviews",
            "subjectaccessreview",
            cluster,
            Root::SubjectAccessReview,
            &ReviewStrategy(Review::SubjectAccess),
        ),
        of(
            MAY,
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            local,
            Root::LocalSubjectAccessReview,
            &ReviewStrategy(Review::LocalSubjectAccess),
        ),
        of(
            MAY,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            cluster,
            Root::SelfSubjectAccessReview,
            &ReviewStrategy(Review::SelfSubjectAccess),
        ),
        of(
            MAY,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
            cluster,
            Root::SelfSubjectRulesReview,
            &ReviewStrategy(Review::SelfSubjectRules),
        ),
        of(
            WHO,
            "SelfSubjectReview",
            "selfsubjectreviews",
            "selfsubjectreview",
            cluster,
            Root::SelfSubjectReview,
            &ReviewStrategy(Review::SelfSubject),
        ),
        of(
            WHO,
            "TokenReview",
            "tokenreviews",
            "tokenreview",
            cluster,
            Root::TokenReview,
            &ReviewStrategy(Review::Token),
        ),
    ]
}

fn resource(kind: Kind) -> Resource {
    let strings = |of: &[&str]| of.iter().map(|&s| s.to_owned()).collect();
    Resource {
        group: kind.group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.kind.to_owned(),
        list_kind: format!("{}List", kind.kind),
        plural: kind.plural.to_owned(),
        singular: kind.singular.to_owned(),
        short_names: strings(kind.short_names),
        categories: strings(kind.categories),
        scope: kind.scope,
        origin: Origin::BuiltIn,
        terminating: false,
        has_status: kind.has_status,
        scale: None,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        schema: SchemaCell::new(move || schema::structural(kind.root)),
        counts_generation: kind.counts_generation,
        upsert_on_update: kind.upsert,
        since: 0,
        deprecation_warning: None,
        storage: true,
        strategy: kind.strategy,
    }
}

/// ServiceAccount: nulls are dropped, and a deletion answers with what was deleted.
#[derive(Debug)]
pub struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    fn has_token(&self) -> bool {
        true
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }
}

/// A kind that is a question.
#[derive(Debug)]
pub struct ReviewStrategy(pub Review);

impl Strategy for ReviewStrategy {
    fn review(&self) -> Option<Review> {
        Some(self.0)
    }

    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
    }
}

/// A TokenRequest, which is sent to a ServiceAccount's `/token`: no resource of its own, but shaped like one.
#[must_use]
pub(crate) fn token_request() -> Resource {
    resource(kind(
        "authentication.k8s.io",
        "TokenRequest",
        "tokenrequests",
        "tokenrequest",
        Root::TokenRequest,
        &TokenRequestStrategy,
    ))
}

#[derive(Debug)]
struct TokenRequestStrategy;

impl Strategy for TokenRequestStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
    }
}

/// Removes null fields at any depth: a typed field that is null is an absent one (Go decodes it so), and clients send
/// `creationTimestamp: null` and `conditions: null` all the time.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, child| !child.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The string at a dotted path, empty when it isn't there.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(object, |at, key| at.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// Sets `parent.key`, making the parent when it isn't there.
pub(crate) fn set(object: &mut Value, path: &[&str], value: Value) {
    let mut at = object;
    for key in path {
        if !at.is_object() {
            *at = Value::Object(serde_json::Map::new());
        }
        let Value::Object(map) = at else { return };
        at = map.entry((*key).to_owned()).or_insert(Value::Null);
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_go_at_any_depth_and_nothing_else() {
        let mut object = json!({"a": null, "b": {"c": null, "d": [{"e": null, "f": 0}]}, "g": "", "h": []});
        drop_nulls(&mut object);
        assert_eq!(object, json!({"b": {"d": [{"f": 0}]}, "g": "", "h": []}));
    }

    #[test]
    fn set_makes_what_lies_between() {
        let mut object = json!({"metadata": {"name": "x"}, "status": null});
        set(&mut object, &["metadata", "labels", "a"], json!("b"));
        set(&mut object, &["status", "phase"], json!("Active"));
        assert_eq!(object, json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "status": {"phase": "Active"}}));
    }

    #[test]
    fn entries_are_cheap_and_complete() {
        let resources = resources();
        let names: Vec<String> = resources.iter().map(|r| format!("{}/{}", r.api_version(), r.plural)).collect();
        assert_eq!(
            names,
            [
                "v1/namespaces",
                "v1/configmaps",
                "v1/secrets",
                "v1/serviceaccounts",
                "v1/events",
                "events.k8s.io/v1/events",
                "coordination.k8s.io/v1/leases",
                "apiextensions.k8s.io/v1/customresourcedefinitions",
                "v1/podtemplates",
                "v1/resourcequotas",
                "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
                "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
                "rbac.authorization.k8s.io/v1/clusterroles",
                "rbac.authorization.k8s.io/v1/roles",
                "rbac.authorization.k8s.io/v1/clusterrolebindings",
                "rbac.authorization.k8s.io/v1/rolebindings",
                "authorization.k8s.io/v1/subjectaccessreviews",
                "authorization.k8s.io/v1/localsubjectaccessreviews",
                "authorization.k8s.io/v1/selfsubjectaccessreviews",
                "authorization.k8s.io/v1/selfsubjectrulesreviews",
                "authentication.k8s.io/v1/selfsubjectreviews",
                "authentication.k8s.io/v1/tokenreviews",
            ]
        );
    }
}
