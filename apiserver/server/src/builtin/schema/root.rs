//! The kinds whose schemas can be made, and what each is called where.

use k8s_openapi::api::{
    admissionregistration, authentication, authorization, autoscaling, coordination, core, events, rbac,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use schemars::{JsonSchema, SchemaGenerator};

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
    pub(super) fn add(self, generator: &mut SchemaGenerator) -> &'static str {
        let (add, name) = self.definition();
        add(generator);
        name
    }

    /// What adds the definition, and its name.
    fn definition(self) -> (fn(&mut SchemaGenerator), &'static str) {
        match self {
            Self::Namespace => (of::<core::v1::Namespace>, "io.k8s.api.core.v1.Namespace"),
            Self::ConfigMap => (of::<core::v1::ConfigMap>, "io.k8s.api.core.v1.ConfigMap"),
            Self::Secret => (of::<core::v1::Secret>, "io.k8s.api.core.v1.Secret"),
            Self::ServiceAccount => (of::<core::v1::ServiceAccount>, "io.k8s.api.core.v1.ServiceAccount"),
            Self::CoreEvent => (of::<core::v1::Event>, "io.k8s.api.core.v1.Event"),
            Self::Event => (of::<events::v1::Event>, "io.k8s.api.events.v1.Event"),
            Self::Lease => (of::<coordination::v1::Lease>, "io.k8s.api.coordination.v1.Lease"),
            Self::PodTemplate => (of::<core::v1::PodTemplate>, "io.k8s.api.core.v1.PodTemplate"),
            Self::ResourceQuota => (of::<core::v1::ResourceQuota>, "io.k8s.api.core.v1.ResourceQuota"),
            Self::ValidatingAdmissionPolicy => (
                of::<admissionregistration::v1::ValidatingAdmissionPolicy>,
                "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
            ),
            Self::ValidatingAdmissionPolicyBinding => (
                of::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>,
                "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
            ),
            Self::CustomResourceDefinition => (
                of::<apiextensions::CustomResourceDefinition>,
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            ),
            Self::ClusterRole => (of::<rbac::v1::ClusterRole>, "io.k8s.api.rbac.v1.ClusterRole"),
            Self::Role => (of::<rbac::v1::Role>, "io.k8s.api.rbac.v1.Role"),
            Self::ClusterRoleBinding => (of::<rbac::v1::ClusterRoleBinding>, "io.k8s.api.rbac.v1.ClusterRoleBinding"),
            Self::RoleBinding => (of::<rbac::v1::RoleBinding>, "io.k8s.api.rbac.v1.RoleBinding"),
            Self::SubjectAccessReview => {
                (of::<authorization::v1::SubjectAccessReview>, "io.k8s.api.authorization.v1.SubjectAccessReview")
            }
            Self::LocalSubjectAccessReview => (
                of::<authorization::v1::LocalSubjectAccessReview>,
                "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
            ),
            Self::SelfSubjectAccessReview => (
                of::<authorization::v1::SelfSubjectAccessReview>,
                "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            ),
            Self::SelfSubjectRulesReview => {
                (of::<authorization::v1::SelfSubjectRulesReview>, "io.k8s.api.authorization.v1.SelfSubjectRulesReview")
            }
            Self::SelfSubjectReview => {
                (of::<authentication::v1::SelfSubjectReview>, "io.k8s.api.authentication.v1.SelfSubjectReview")
            }
            Self::TokenReview => (of::<authentication::v1::TokenReview>, "io.k8s.api.authentication.v1.TokenReview"),
            Self::TokenRequest => (of::<authentication::v1::TokenRequest>, "io.k8s.api.authentication.v1.TokenRequest"),
            Self::Scale => (of::<autoscaling::v1::Scale>, "io.k8s.api.autoscaling.v1.Scale"),
        }
    }

    pub(super) const fn group_and_kind(self) -> (&'static str, &'static str) {
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

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}
