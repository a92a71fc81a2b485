//! Schemas of the built-in kinds, made at run time from k8s-openapi's types.
//!
//! Two forms. [`definitions`]: named definitions that refer to each other, as `/openapi` publishes them. [`structural`]: one tree
//! without references, for defaulting, pruning, server-side apply and strategic merge patches. The extensions that the Go types
//! carry as markers (list types, merge keys) are not in k8s-openapi, so [`LISTS`] and [`ATOMIC`] say them.
//!
//! Nothing here is kept: a caller that needs a form again builds it again (about a millisecond) or keeps it.
//!
//! Source of the facts: `api/openapi-spec/swagger.json` of Kubernetes 1.37.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::{
    admissionregistration, authentication, authorization, autoscaling, coordination, core, events, rbac,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// A built-in kind whose schema can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Namespace,
    ConfigMap,
    Secret,
    ServiceAccount,
    CoreEvent,
    Event,
    Lease,
    PodTemplate,
    ResourceQuota,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
    CustomResourceDefinition,
    ClusterRole,
    Role,
    ClusterRoleBinding,
    RoleBinding,
    SubjectAccessReview,
    LocalSubjectAccessReview,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
    SelfSubjectReview,
    TokenReview,
    /// What is sent to `/token`; no resource of its own.
    TokenRequest,
    /// What `/scale` shows; no resource of its own.
    Scale,
}

impl Root {
    /// Adds the kind's definition, and all that it refers to, to a generator; returns its name.
    fn add(self, generator: &mut SchemaGenerator) -> &'static str {
        match self {
            Self::Namespace => {
                generator.subschema_for::<core::v1::Namespace>();
                "io.k8s.api.core.v1.Namespace"
            }
            Self::ConfigMap => {
                generator.subschema_for::<core::v1::ConfigMap>();
                "io.k8s.api.core.v1.ConfigMap"
            }
            Self::Secret => {
                generator.subschema_for::<core::v1::Secret>();
                "io.k8s.api.core.v1.Secret"
            }
            Self::ServiceAccount => {
                generator.subschema_for::<core::v1::ServiceAccount>();
                "io.k8s.api.core.v1.ServiceAccount"
            }
            Self::CoreEvent => {
                generator.subschema_for::<core::v1::Event>();
                "io.k8s.api.core.v1.Event"
            }
            Self::Event => {
                generator.subschema_for::<events::v1::Event>();
                "io.k8s.api.events.v1.Event"
            }
            Self::Lease => {
                generator.subschema_for::<coordination::v1::Lease>();
                "io.k8s.api.coordination.v1.Lease"
            }
            Self::PodTemplate => {
                generator.subschema_for::<core::v1::PodTemplate>();
                "io.k8s.api.core.v1.PodTemplate"
            }
            Self::ResourceQuota => {
                generator.subschema_for::<core::v1::ResourceQuota>();
                "io.k8s.api.core.v1.ResourceQuota"
            }
            Self::ValidatingAdmissionPolicy => {
                generator.subschema_for::<admissionregistration::v1::ValidatingAdmissionPolicy>();
                "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy"
            }
            Self::ValidatingAdmissionPolicyBinding => {
                generator.subschema_for::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>();
                "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding"
            }
            Self::CustomResourceDefinition => {
                generator.subschema_for::<apiextensions::CustomResourceDefinition>();
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
            }
            Self::ClusterRole => {
                generator.subschema_for::<rbac::v1::ClusterRole>();
                "io.k8s.api.rbac.v1.ClusterRole"
            }
            Self::Role => {
                generator.subschema_for::<rbac::v1::Role>();
                "io.k8s.api.rbac.v1.Role"
            }
            Self::ClusterRoleBinding => {
                generator.subschema_for::<rbac::v1::ClusterRoleBinding>();
                "io.k8s.api.rbac.v1.ClusterRoleBinding"
            }
            Self::RoleBinding => {
                generator.subschema_for::<rbac::v1::RoleBinding>();
                "io.k8s.api.rbac.v1.RoleBinding"
            }
            Self::SubjectAccessReview => {
                generator.subschema_for::<authorization::v1::SubjectAccessReview>();
                "io.k8s.api.authorization.v1.SubjectAccessReview"
            }
            Self::LocalSubjectAccessReview => {
                generator.subschema_for::<authorization::v1::LocalSubjectAccessReview>();
                "io.k8s.api.authorization.v1.LocalSubjectAccessReview"
            }
            Self::SelfSubjectAccessReview => {
                generator.subschema_for::<authorization::v1::SelfSubjectAccessReview>();
                "io.k8s.api.authorization.v1.SelfSubjectAccessReview"
            }
            Self::SelfSubjectRulesReview => {
                generator.subschema_for::<authorization::v1::SelfSubjectRulesReview>();
                "io.k8s.api.authorization.v1.SelfSubjectRulesReview"
            }
            Self::SelfSubjectReview => {
                generator.subschema_for::<authentication::v1::SelfSubjectReview>();
                "io.k8s.api.authentication.v1.SelfSubjectReview"
            }
            Self::TokenReview => {
                generator.subschema_for::<authentication::v1::TokenReview>();
                "io.k8s.api.authentication.v1.TokenReview"
            }
            Self::TokenRequest => {
                generator.subschema_for::<authentication::v1::TokenRequest>();
                "io.k8s.api.authentication.v1.TokenRequest"
            }
            Self::Scale => {
                generator.subschema_for::<autoscaling::v1::Scale>();
                "io.k8s.api.autoscaling.v1.Scale"
            }
        }
    }

    const fn group_and_kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Namespace => ("", "Namespace"),
            Self::ConfigMap => ("", "ConfigMap"),
            Self::Secret => ("", "Secret"),
            Self::ServiceAccount => ("", "ServiceAccount"),
            Self::CoreEvent => ("", "Event"),
            Self::Event => ("events.k8s.io", "Event"),
            Self::Lease => ("coordination.k8s.io", "Lease"),
            Self::PodTemplate => ("", "PodTemplate"),
            Self::ResourceQuota => ("", "ResourceQuota"),
            Self::ValidatingAdmissionPolicy => ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
            Self::ValidatingAdmissionPolicyBinding => {
                ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding")
            }
            Self::CustomResourceDefinition => ("apiextensions.k8s.io", "CustomResourceDefinition"),
            Self::ClusterRole => ("rbac.authorization.k8s.io", "ClusterRole"),
            Self::Role => ("rbac.authorization.k8s.io", "Role"),
            Self::ClusterRoleBinding => ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "RoleBinding"),
            Self::SubjectAccessReview => ("authorization.k8s.io", "SubjectAccessReview"),
            Self::LocalSubjectAccessReview => ("authorization.k8s.io", "LocalSubjectAccessReview"),
            Self::SelfSubjectAccessReview => ("authorization.k8s.io", "SelfSubjectAccessReview"),
            Self::SelfSubjectRulesReview => ("authorization.k8s.io", "SelfSubjectRulesReview"),
            Self::SelfSubjectReview => ("authentication.k8s.io", "SelfSubjectReview"),
            Self::TokenReview => ("authentication.k8s.io", "TokenReview"),
            Self::TokenRequest => ("authentication.k8s.io", "TokenRequest"),
            Self::Scale => ("autoscaling", "Scale"),
        }
    }

    /// The kind that serves this group, version v1 and kind.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        [
            Self::Namespace,
            Self::ConfigMap,
            Self::Secret,
            Self::ServiceAccount,
            Self::CoreEvent,
            Self::Event,
            Self::Lease,
            Self::PodTemplate,
            Self::ResourceQuota,
            Self::ValidatingAdmissionPolicy,
            Self::ValidatingAdmissionPolicyBinding,
            Self::CustomResourceDefinition,
            Self::ClusterRole,
            Self::Role,
            Self::ClusterRoleBinding,
            Self::RoleBinding,
            Self::SubjectAccessReview,
            Self::LocalSubjectAccessReview,
            Self::SelfSubjectAccessReview,
            Self::SelfSubjectRulesReview,
            Self::SelfSubjectReview,
            Self::TokenReview,
        ]
        .into_iter()
        .find(|root| root.group_and_kind() == (group, kind))
    }
}

/// `x-kubernetes-list-type` and what goes with it, by definition and property.
struct List {
    definition: &'static str,
    property: &'static str,
    kind: &'static str,
    map_key: Option<&'static str>,
    /// Whether a strategic merge patch merges the list (by the map key when there is one).
    merges: bool,
}

const fn list(definition: &'static str, property: &'static str, kind: &'static str) -> List {
    List { definition, property, kind, map_key: None, merges: false }
}

const LISTS: &[List] = &[
    list("io.k8s.api.core.v1.NamespaceSpec", "finalizers", "atomic"),
    List {
        definition: "io.k8s.api.core.v1.NamespaceStatus",
        property: "conditions",
        kind: "map",
        map_key: Some("type"),
        merges: true,
    },
    list("io.k8s.api.core.v1.ServiceAccount", "imagePullSecrets", "atomic"),
    List {
        definition: "io.k8s.api.core.v1.ServiceAccount",
        property: "secrets",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames",
        "categories",
        "atomic",
    ),
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames",
        "shortNames",
        "atomic",
    ),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", "versions", "atomic"),
    List {
        definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        property: "conditions",
        kind: "map",
        map_key: Some("type"),
        merges: false,
    },
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        "storedVersions",
        "atomic",
    ),
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion",
        "additionalPrinterColumns",
        "atomic",
    ),
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion",
        "selectableFields",
        "atomic",
    ),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "allOf", "atomic"),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "anyOf", "atomic"),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "enum", "atomic"),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "oneOf", "atomic"),
    list("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "required", "atomic"),
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        "x-kubernetes-list-map-keys",
        "atomic",
    ),
    List {
        definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        property: "x-kubernetes-validations",
        kind: "map",
        map_key: Some("rule"),
        merges: true,
    },
    list(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.WebhookConversion",
        "conversionReviewVersions",
        "atomic",
    ),
    list("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "validations", "atomic"),
    list("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "auditAnnotations", "atomic"),
    List {
        definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec",
        property: "matchConditions",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec",
        property: "variables",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus",
        property: "conditions",
        kind: "map",
        map_key: Some("type"),
        merges: false,
    },
    list("io.k8s.api.admissionregistration.v1.TypeChecking", "expressionWarnings", "atomic"),
    list("io.k8s.api.admissionregistration.v1.MatchResources", "resourceRules", "atomic"),
    list("io.k8s.api.admissionregistration.v1.MatchResources", "excludeResourceRules", "atomic"),
    list("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "apiGroups", "atomic"),
    list("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "apiVersions", "atomic"),
    list("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "operations", "atomic"),
    list("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "resourceNames", "atomic"),
    list("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "resources", "atomic"),
    List {
        definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec",
        property: "validationActions",
        kind: "set",
        map_key: None,
        merges: false,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "containers",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "initContainers",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "ephemeralContainers",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "volumes",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "imagePullSecrets",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.PodSpec",
        property: "hostAliases",
        kind: "map",
        map_key: Some("ip"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.Container",
        property: "env",
        kind: "map",
        map_key: Some("name"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.Container",
        property: "volumeMounts",
        kind: "map",
        map_key: Some("mountPath"),
        merges: true,
    },
    List {
        definition: "io.k8s.api.core.v1.Container",
        property: "volumeDevices",
        kind: "map",
        map_key: Some("devicePath"),
        merges: true,
    },
    list("io.k8s.api.core.v1.ResourceQuotaSpec", "scopes", "atomic"),
    list("io.k8s.api.core.v1.ScopeSelector", "matchExpressions", "atomic"),
    list("io.k8s.api.core.v1.ScopedResourceSelectorRequirement", "values", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "categories", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "shortNames", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", "resources", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "dryRun", "atomic"),
    List {
        definition: "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        property: "finalizers",
        kind: "set",
        map_key: None,
        merges: true,
    },
    list("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "managedFields", "atomic"),
    List {
        definition: "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        property: "ownerReferences",
        kind: "map",
        map_key: Some("uid"),
        merges: true,
    },
    list("io.k8s.apimachinery.pkg.apis.meta.v1.StatusDetails", "causes", "atomic"),
    list("io.k8s.api.rbac.v1.AggregationRule", "clusterRoleSelectors", "atomic"),
    list("io.k8s.api.rbac.v1.ClusterRole", "rules", "atomic"),
    list("io.k8s.api.rbac.v1.Role", "rules", "atomic"),
    list("io.k8s.api.rbac.v1.ClusterRoleBinding", "subjects", "atomic"),
    list("io.k8s.api.rbac.v1.RoleBinding", "subjects", "atomic"),
    list("io.k8s.api.rbac.v1.PolicyRule", "apiGroups", "atomic"),
    list("io.k8s.api.rbac.v1.PolicyRule", "nonResourceURLs", "atomic"),
    list("io.k8s.api.rbac.v1.PolicyRule", "resourceNames", "atomic"),
    list("io.k8s.api.rbac.v1.PolicyRule", "resources", "atomic"),
    list("io.k8s.api.rbac.v1.PolicyRule", "verbs", "atomic"),
    list("io.k8s.api.authorization.v1.SubjectAccessReviewSpec", "groups", "atomic"),
    list("io.k8s.api.authorization.v1.ResourceRule", "apiGroups", "atomic"),
    list("io.k8s.api.authorization.v1.ResourceRule", "resourceNames", "atomic"),
    list("io.k8s.api.authorization.v1.ResourceRule", "resources", "atomic"),
    list("io.k8s.api.authorization.v1.ResourceRule", "verbs", "atomic"),
    list("io.k8s.api.authorization.v1.NonResourceRule", "nonResourceURLs", "atomic"),
    list("io.k8s.api.authorization.v1.NonResourceRule", "verbs", "atomic"),
    list("io.k8s.api.authorization.v1.SubjectRulesReviewStatus", "resourceRules", "atomic"),
    list("io.k8s.api.authorization.v1.SubjectRulesReviewStatus", "nonResourceRules", "atomic"),
    list("io.k8s.api.authorization.v1.FieldSelectorAttributes", "requirements", "atomic"),
    list("io.k8s.api.authorization.v1.LabelSelectorAttributes", "requirements", "atomic"),
    list("io.k8s.api.authentication.v1.TokenReviewSpec", "audiences", "atomic"),
    list("io.k8s.api.authentication.v1.TokenReviewStatus", "audiences", "atomic"),
    list("io.k8s.api.authentication.v1.UserInfo", "groups", "atomic"),
    list("io.k8s.api.authentication.v1.TokenRequestSpec", "audiences", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector", "matchExpressions", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", "values", "atomic"),
    list("io.k8s.apimachinery.pkg.apis.meta.v1.FieldSelectorRequirement", "values", "atomic"),
];

/// Definitions with `x-kubernetes-map-type: atomic`.
const ATOMIC: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Definitions of which k8s-openapi requires fields that the Go types don't.
const OPTIONAL: &[&str] = &["io.k8s.api.core.v1.LocalObjectReference", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"];

/// Definitions that stand for any JSON value (Go's `JSON`, `JSONSchemaPropsOrBool` …): published without a type.
const ANY: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
];

/// Definitions whose values are free-form: nothing below them is pruned, and field ownership is deduced.
const FREE: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
];

const PREFIX: &str = "#/definitions/";

/// Named definitions, with references of the form `#/definitions/NAME` (siblings allowed, as Swagger 2.0 documents have them).
#[derive(Debug)]
pub struct Definitions {
    pub by_name: Map<String, Value>,
    /// The definition of each root asked for, in order.
    pub roots: Vec<&'static str>,
}

/// The definitions of these kinds and all that they refer to, and those that every group's paths refer to (DeleteOptions, Status …).
#[must_use]
pub fn definitions(roots: &[Root]) -> Definitions {
    let mut generator = SchemaSettings::draft07().into_generator();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::ObjectMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::APIResourceList>();
    definitions_with(generator, roots, true)
}

fn definitions_with(mut generator: SchemaGenerator, roots: &[Root], shared: bool) -> Definitions {
    let names: Vec<&'static str> = roots.iter().map(|root| root.add(&mut generator)).collect();
    let mut by_name: Map<String, Value> = generator.take_definitions(false);
    for (name, definition) in &mut by_name {
        complete(name, definition);
    }
    for (root, name) in roots.iter().zip(&names) {
        let (group, kind) = root.group_and_kind();
        set_kind(&mut by_name, name, group, kind);
        if let Some(definition) = by_name.get_mut(*name).and_then(Value::as_object_mut)
            && let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut)
        {
            // k8s-openapi's types always have metadata; on the wire it may be absent.
            required.retain(|field| field != "metadata" || *root == Root::CoreEvent);
            if required.is_empty() {
                definition.remove("required");
            }
        }
    }
    if shared {
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "DeleteOptions");
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "Status");
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", "", "APIResourceList");
    }
    Definitions { by_name, roots: names }
}

fn set_kind(by_name: &mut Map<String, Value>, name: &str, group: &str, kind: &str) {
    if let Some(definition) = by_name.get_mut(name).and_then(Value::as_object_mut) {
        definition.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!([{"group": group, "kind": kind, "version": "v1"}]),
        );
    }
}

/// Adds what k8s-openapi's schema of a definition lacks, and takes out what the Go types don't publish.
fn complete(name: &str, definition: &mut Value) {
    let Some(map) = definition.as_object_mut() else { return };
    if ANY.contains(&name) {
        map.retain(|key, _| key == "description");
        return;
    }
    if OPTIONAL.contains(&name) {
        map.remove("required");
    }
    if ATOMIC.contains(&name) {
        map.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for list in LISTS.iter().filter(|list| list.definition == name) {
        let Some(property) = properties.get_mut(list.property).and_then(Value::as_object_mut) else { continue };
        property.insert("x-kubernetes-list-type".to_owned(), json!(list.kind));
        if let Some(key) = list.map_key {
            property.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
        }
        if list.merges {
            property.insert("x-kubernetes-patch-strategy".to_owned(), json!("merge"));
            if let Some(key) = list.map_key {
                property.insert("x-kubernetes-patch-merge-key".to_owned(), json!(key));
            }
        }
    }
}

/// The kind's schema as one tree. Every typed field is nullable and none is required, because that is how Go decodes a built-in
/// kind (null and absent are the zero value); what a kind insists on is its strategy's to say.
#[must_use]
pub fn structural(root: Root) -> Arc<Value> {
    let definitions = definitions_with(SchemaSettings::draft07().into_generator(), &[root], false);
    let Some(name) = definitions.roots.first() else { return Arc::new(Value::Null) };
    let mut tree = inline(&definitions.by_name, name, &mut BTreeSet::new());
    if let Some(map) = tree.as_object_mut() {
        map.remove("nullable");
        if let Some(metadata) = map.get_mut("properties").and_then(|properties| properties.get_mut("metadata"))
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.remove("nullable");
        }
    }
    Arc::new(tree)
}

fn inline(definitions: &Map<String, Value>, name: &str, above: &mut BTreeSet<String>) -> Value {
    if ANY.contains(&name) {
        return json!({"x-kubernetes-preserve-unknown-fields": true, "nullable": true});
    }
    if FREE.contains(&name) || !above.insert(name.to_owned()) {
        return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true});
    }
    let mut tree = definitions.get(name).cloned().unwrap_or(Value::Null);
    resolve(definitions, &mut tree, above);
    above.remove(name);
    tree
}

/// Replaces references below a schema node, and drops what only documents.
fn resolve(definitions: &Map<String, Value>, node: &mut Value, above: &mut BTreeSet<String>) {
    if let Some(target) = node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(PREFIX)) {
        *node = inline(definitions, target, above);
        return;
    }
    let Some(map) = node.as_object_mut() else { return };
    map.remove("description");
    map.remove("required");
    map.remove("x-kubernetes-group-version-kind");
    map.insert("nullable".to_owned(), Value::Bool(true));
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, property) in properties {
            resolve(definitions, property, above);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(key) {
            resolve(definitions, child, above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(node: &Value, out: &mut BTreeSet<String>) {
        match node {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    out.insert(target.strip_prefix(PREFIX).unwrap().to_owned());
                }
                map.values().for_each(|child| references(child, out));
            }
            Value::Array(items) => items.iter().for_each(|child| references(child, out)),
            _ => {}
        }
    }

    #[test]
    fn definitions_are_closed_and_every_fact_has_its_place() {
        let all = [
            Root::Namespace,
            Root::ConfigMap,
            Root::Secret,
            Root::ServiceAccount,
            Root::CoreEvent,
            Root::Event,
            Root::Lease,
            Root::PodTemplate,
            Root::ResourceQuota,
            Root::ValidatingAdmissionPolicy,
            Root::ValidatingAdmissionPolicyBinding,
            Root::CustomResourceDefinition,
            Root::ClusterRole,
            Root::Role,
            Root::ClusterRoleBinding,
            Root::RoleBinding,
            Root::SubjectAccessReview,
            Root::LocalSubjectAccessReview,
            Root::SelfSubjectAccessReview,
            Root::SelfSubjectRulesReview,
            Root::SelfSubjectReview,
            Root::TokenReview,
            Root::TokenRequest,
        ];
        let definitions = definitions(&all);
        let mut targets = BTreeSet::new();
        for definition in definitions.by_name.values() {
            references(definition, &mut targets);
        }
        for target in &targets {
            assert!(definitions.by_name.contains_key(target), "{target} is referred to but not defined");
        }
        for list in LISTS {
            let property = &definitions.by_name[list.definition]["properties"][list.property];
            assert_eq!(property["type"], "array", "{} {}", list.definition, list.property);
        }
        for name in ATOMIC.iter().chain(ANY) {
            assert!(definitions.by_name.contains_key(*name), "{name}");
        }
        assert_eq!(definitions.roots.len(), all.len());
    }

    #[test]
    fn structural_trees_have_no_references_and_keep_merge_keys() {
        for root in [Root::Namespace, Root::CustomResourceDefinition, Root::CoreEvent] {
            let tree = structural(root);
            let mut targets = BTreeSet::new();
            references(&tree, &mut targets);
            assert!(targets.is_empty(), "{root:?}: {targets:?}");
            let owners = &tree["properties"]["metadata"]["properties"]["ownerReferences"];
            assert_eq!(owners["x-kubernetes-list-map-keys"], json!(["uid"]));
            assert_eq!(owners["x-kubernetes-patch-merge-key"], "uid");
            assert_eq!(owners["items"]["x-kubernetes-map-type"], "atomic");
            assert_eq!(tree["type"], "object");
            assert!(tree.get("nullable").is_none());
        }
        let crd = structural(Root::CustomResourceDefinition);
        let version = &crd["properties"]["spec"]["properties"]["versions"]["items"]["properties"];
        assert_eq!(
            version["schema"]["properties"]["openAPIV3Schema"],
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true})
        );
    }
}
