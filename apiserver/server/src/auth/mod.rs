//! Who asks. A request carries its [`UserInfo`] as an extension, put there by the TLS listener (client certificate) or by
//! the in-process client; nothing else may put it there.

pub(crate) mod certificate;

use std::collections::BTreeMap;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group that every authenticated user is in.
pub const AUTHENTICATED: &str = "system:authenticated";

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
        Self::new("system:apiserver", ["system:masters".to_owned()])
    }
}
