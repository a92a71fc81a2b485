//! May they? One question with one answer, asked before a request reaches an object. RBAC will be a second implementation.

use std::fmt;

use crate::auth::UserInfo;
use crate::status::{GroupResource, Status};

/// What a request wants to do.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// get, list, watch, create, update, patch, delete or deletecollection; the lower-case HTTP method for other paths.
    pub verb: &'a str,
    pub path: &'a str,
    /// `None`: a path that is no resource (`/metrics`).
    pub resource: Option<ResourceAttributes<'a>>,
}

/// The resource part of [`Attributes`].
#[derive(Clone, Debug)]
pub struct ResourceAttributes<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// With the reason, which may be empty.
    Deny(String),
}

/// Decides whether a request may go on.
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// Every authenticated user may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAuthenticated;

impl Authorizer for AllowAuthenticated {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.groups.iter().any(|group| group == crate::auth::AUTHENTICATED) {
            Decision::Allow
        } else {
            Decision::Deny(String::new())
        }
    }
}

/// The 403 of a denied request.
#[must_use]
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let (of, name, mut why) = match &attributes.resource {
        None => {
            let of = GroupResource { group: "", plural: "" };
            (of, "", format!("User \"{user}\" cannot {verb} path \"{}\"", attributes.path))
        }
        Some(resource) => {
            let what = if resource.subresource.is_empty() {
                resource.plural.to_owned()
            } else {
                format!("{}/{}", resource.plural, resource.subresource)
            };
            let place = match resource.namespace {
                Some(namespace) => format!("in the namespace \"{namespace}\""),
                None => "at the cluster scope".to_owned(),
            };
            let group = resource.group;
            let why = format!("User \"{user}\" cannot {verb} resource \"{what}\" in API group \"{group}\" {place}");
            (GroupResource { group, plural: resource.plural }, resource.name.unwrap_or_default(), why)
        }
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Status::forbidden(of, name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_say_who_and_what() {
        let user = UserInfo { name: "eve".to_owned(), ..UserInfo::default() };
        let attributes = Attributes {
            user: &user,
            verb: "list",
            path: "/api/v1/namespaces/a/secrets",
            resource: Some(ResourceAttributes {
                group: "",
                version: "v1",
                plural: "secrets",
                subresource: "",
                namespace: Some("a"),
                name: None,
            }),
        };
        let Decision::Deny(reason) = AllowAuthenticated.authorize(&attributes) else { panic!("eve got in") };
        assert_eq!(
            forbidden(&attributes, &reason).message(),
            "secrets is forbidden: User \"eve\" cannot list resource \"secrets\" in API group \"\" in the namespace \"a\""
        );
    }
}
