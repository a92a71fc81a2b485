//! What k8s-openapi's schemas don't say: the markers of the Go types, by the name of the definition.

/// `x-kubernetes-list-type` and what goes with it, by definition and property.
pub(super) struct List {
    pub(super) definition: &'static str,
    pub(super) property: &'static str,
    pub(super) kind: &'static str,
    pub(super) map_key: Option<&'static str>,
    /// Whether a strategic merge patch merges the list (by the map key when there is one).
    pub(super) merges: bool,
}

const fn list(definition: &'static str, property: &'static str, kind: &'static str) -> List {
    List { definition, property, kind, map_key: None, merges: false }
}

pub(super) const LISTS: &[List] = &[
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
pub(super) const ATOMIC: &[&str] = &[
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
pub(super) const OPTIONAL: &[&str] =
    &["io.k8s.api.core.v1.LocalObjectReference", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"];

/// Definitions that stand for any JSON value (Go's `JSON`, `JSONSchemaPropsOrBool` …): published without a type.
pub(super) const ANY: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
];

/// Definitions whose values are free-form: nothing below them is pruned, and field ownership is deduced.
pub(super) const FREE: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
];
