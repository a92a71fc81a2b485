//! May they? One question with one answer, asked before a request reaches an object. [`crate::access`] answers by roles and bindings.

use std::fmt;

use futures::future::BoxFuture;
pub use pullpiri_access::attributes::{Attributes, ResourceAttributes};
use pullpiri_access::rbac::Rules;

use crate::auth::UserInfo;
use crate::status::{GroupResource, Status};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// With the reason, which may be empty.
    Deny(String),
}

/// Decides whether a request may go on.
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// As [`Self::authorize`], with the reason of either answer, for who asks about access.
    fn explain(&self, attributes: &Attributes<'_>) -> (Decision, String) {
        match self.authorize(attributes) {
            Decision::Allow => (Decision::Allow, String::new()),
            Decision::Deny(reason) => (Decision::Deny(reason.clone()), reason),
        }
    }

    /// Everything that a user may do in a namespace; `None`: this authoriser can't tell.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Option<Rules> {
        None
    }

    /// Waits until what this server acknowledged before the call counts, if it doesn't yet; true when there was something to wait for. So a
    /// denial is never due to a view that is behind.
    fn catch_up(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}

/// Asks an authoriser, again if its view was behind.
///
/// # Errors
/// 403.
pub(crate) async fn check(authorizer: &dyn Authorizer, attributes: &Attributes<'_>) -> Result<(), Status> {
    match authorizer.authorize(attributes) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => {
            if authorizer.catch_up().await {
                return match authorizer.authorize(attributes) {
                    Decision::Allow => Ok(()),
                    Decision::Deny(reason) => Err(forbidden(attributes, &reason)),
                };
            }
            Err(forbidden(attributes, &reason))
        }
    }
}

/// Every authenticated user may do everything, and whoever isn't may look at health and version.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAuthenticated;

impl Authorizer for AllowAuthenticated {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let is_open = attributes.resource.is_none()
            && ["/livez", "/readyz", "/version"].iter().any(|open| attributes.path.starts_with(open));
        if is_open || attributes.user.is_in(crate::auth::AUTHENTICATED) {
            Decision::Allow
        } else {
            Decision::Deny(String::new())
        }
    }
}

/// Text that can't be taken for HTML.
fn sanitized(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The 403 of a denied request.
#[must_use]
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let (of, name, why) = match &attributes.resource {
        None => {
            let of = GroupResource { group: "", plural: "" };
            (of, "", format!("User {user:?} cannot {verb} path {:?}", attributes.path))
        }
        Some(resource) => {
            let what = if resource.subresource.is_empty() {
                resource.plural.to_owned()
            } else {
                format!("{}/{}", resource.plural, resource.subresource)
            };
            let place = match resource.namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            let group = resource.group;
            let why = format!("User {user:?} cannot {verb} resource {what:?} in API group {group:?} {place}");
            (GroupResource { group, plural: resource.plural }, resource.name.unwrap_or_default(), why)
        }
    };
    let mut why = sanitized(&why);
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
        let resource = |plural, subresource, namespace, name| {
            Some(ResourceAttributes { plural, subresource, namespace, name, ..ResourceAttributes::default() })
        };
        let cases = [
            (
                "list",
                resource("secrets", "", Some("a"), None),
                "secrets is forbidden: User \"eve\" cannot list resource \"secrets\" in API group \"\" in the namespace \"a\"",
            ),
            (
                "patch",
                resource("namespaces", "status", None, Some("x")),
                "namespaces \"x\" is forbidden: User \"eve\" cannot patch resource \"namespaces/status\" in API group \"\" at the cluster \
                 scope",
            ),
            ("get", None, "forbidden: User \"eve\" cannot get path \"/a&lt;b&gt;\""),
        ];
        for (verb, resource, expected) in cases {
            let attributes = Attributes { user: &user, verb, path: "/a<b>", resource };
            let Decision::Deny(reason) = AllowAuthenticated.authorize(&attributes) else { panic!("eve got in") };
            assert_eq!(forbidden(&attributes, &reason).message(), expected);
        }
    }
}
