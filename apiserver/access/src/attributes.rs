//! What a request wants, and who asks.

use std::collections::BTreeMap;

/// The group that every authenticated user is in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The user and the group of whoever gave no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Its members may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of every service account.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user by name and groups; `system:authenticated` is added.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// The server itself (its garbage collector, namespace and CRD controllers).
    #[must_use]
    pub fn apiserver() -> Self {
        Self::new("system:apiserver", [MASTERS.to_owned()])
    }

    /// Whoever gave no credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// A service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = [SERVICE_ACCOUNTS.to_owned(), service_account_group(namespace)];
        Self { uid: uid.to_owned(), ..Self::new(service_account_user(namespace, name), groups) }
    }

    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// The user name of a service account.
#[must_use]
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The group of all service accounts of a namespace.
#[must_use]
pub fn service_account_group(namespace: &str) -> String {
    format!("{SERVICE_ACCOUNTS}:{namespace}")
}

/// Namespace and name of the service account that a user name stands for.
#[must_use]
pub fn as_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// What a request wants to do.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// get, list, watch, create, update, patch, delete, deletecollection or a verb that no request has (impersonate, bind, escalate); the
    /// lower-case HTTP method for other paths.
    pub verb: &'a str,
    pub path: &'a str,
    /// `None`: a path that is no resource (`/metrics`).
    pub resource: Option<ResourceAttributes<'a>>,
}

/// The resource part of [`Attributes`].
#[derive(Clone, Debug, Default)]
pub struct ResourceAttributes<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    /// Empty: the resource itself.
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
    /// Of a list or watch: what its field selector says of `metadata.name`.
    pub name: Option<&'a str>,
    /// What the field selector of a list, watch or deletecollection says must be equal: field and value.
    pub fields: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_are_users_of_a_form() {
        let account = UserInfo::service_account("demo", "robot", "u1");
        assert_eq!(account.name, "system:serviceaccount:demo:robot");
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:demo", "system:authenticated"]);
        assert_eq!(as_service_account(&account.name), Some(("demo", "robot")));
        for name in ["robot", "system:serviceaccount:demo", "system:serviceaccount::x", "system:serviceaccount:a:b:c"] {
            assert_eq!(as_service_account(name), None, "{name}");
        }
    }
}
