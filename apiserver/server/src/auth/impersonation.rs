//! Acting as another user: `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY` headers of somebody who may.
//!
//! The constrained modes of Kubernetes (KEP 5284, on since 1.36) are tried first, each with its two questions: may the request be made on
//! behalf of such a user (`impersonate-on:MODE:VERB`), and may this user be impersonated (`impersonate:MODE`)? Then the plain
//! `impersonate`, which asks for each part of the identity. The first refusal is what a client hears. The mode for the node that a pod runs
//! on is missing, as there are no pods.

use std::collections::BTreeMap;

use http::HeaderMap;
use pullpiri_access::attributes::{
    ANONYMOUS, AUTHENTICATED, Attributes, MASTERS, ResourceAttributes, SERVICE_ACCOUNTS, UNAUTHENTICATED,
    as_service_account, service_account_group,
};

use super::UserInfo;
use crate::authz::{Authorizer, check, forbidden};
use crate::rest::query::{Plus, unescape};
use crate::status::Status;

const GROUP: &str = "authentication.k8s.io";
const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const USER: &str = "impersonate-user";
const GROUPS: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the headers ask for, as they give it.
///
/// # Errors
/// 400 for parts of an identity without a user.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(unescape(key, Plus::IsPlus)).or_default().push(text(value));
        }
    }
    let wanted = UserInfo {
        name: first(USER),
        uid: first(UID),
        groups: headers.get_all(GROUPS).iter().map(text).collect(),
        extra,
    };
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty() {
        return Ok(None);
    }
    let list = |texts: &[String]| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let groups = if wanted.groups.is_empty() {
        "[]string(nil)".to_owned()
    } else {
        format!("[]string{{{}}}", list(&wanted.groups))
    };
    let extra = if wanted.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> =
            wanted.extra.iter().map(|(key, values)| format!("{key:?}:[]string{{{}}}", list(values))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    Err(Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, Extra:{extra}}} without impersonating a user name",
        wanted.uid
    )))
}

/// Whom a request is made as; `None`: nobody else.
///
/// # Errors
/// 400 for headers without a user, 403 for somebody who may not.
pub(crate) async fn impersonated(
    headers: &HeaderMap,
    request: &Attributes<'_>,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let mut refusal = None;
    if let Some(mode) = Mode::of(&wanted) {
        match mode.check(&wanted, request, authorizer).await {
            Ok(user) => return Ok(Some(user)),
            Err(status) => refusal = Some(status),
        }
    }
    let plain = Asking { authorizer, requestor: request.user, verb: "impersonate", user_group: "" };
    match plain.check(&wanted, None).await {
        Ok(user) => Ok(Some(user)),
        Err(status) => Err(refusal.unwrap_or(status)),
    }
}

/// A constrained mode.
#[derive(Clone, Copy)]
enum Mode {
    Node,
    ServiceAccount,
    UserInfo,
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())
}

impl Mode {
    /// The one that such a user falls under. Of nodes and service accounts the name alone may be given.
    fn of(wanted: &UserInfo) -> Option<Self> {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        if node_name(&wanted.name).is_some() {
            return only_name.then_some(Self::Node);
        }
        if as_service_account(&wanted.name).is_some() {
            return only_name.then_some(Self::ServiceAccount);
        }
        Some(Self::UserInfo)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Node => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
        }
    }

    async fn check(
        self,
        wanted: &UserInfo,
        request: &Attributes<'_>,
        authorizer: &dyn Authorizer,
    ) -> Result<UserInfo, Status> {
        let on = format!("impersonate-on:{}:{}", self.name(), request.verb);
        check(authorizer, &Attributes { verb: &on, ..request.clone() }).await?;
        let verb = format!("impersonate:{}", self.name());
        Asking { authorizer, requestor: request.user, verb: &verb, user_group: GROUP }.check(wanted, Some(self)).await
    }
}

/// The questions about the parts of an identity.
struct Asking<'a> {
    authorizer: &'a dyn Authorizer,
    requestor: &'a UserInfo,
    verb: &'a str,
    /// The API group that users and groups count to in this mode.
    user_group: &'a str,
}

impl Asking<'_> {
    async fn ask(&self, resource: ResourceAttributes<'_>) -> Result<(), Status> {
        let attributes = Attributes { user: self.requestor, verb: self.verb, path: "", resource: Some(resource) };
        check(self.authorizer, &attributes).await
    }

    /// What a constrained mode allows nobody.
    fn check_bounds(&self, wanted: &UserInfo) -> Result<(), Status> {
        let refuse = |group, plural, name, why: &str| {
            let resource = ResourceAttributes { group, version: "v1", plural, name, ..ResourceAttributes::default() };
            let attributes = Attributes { user: self.requestor, verb: self.verb, path: "", resource: Some(resource) };
            Err(forbidden(&attributes, why))
        };
        if wanted.groups.iter().any(String::is_empty) {
            return refuse(self.user_group, "groups", None, "impersonating the empty string group is not allowed");
        }
        if wanted.is_in(MASTERS) {
            let why = "impersonating the system:masters group is not allowed";
            return refuse(self.user_group, "groups", Some(MASTERS), why);
        }
        for (key, values) in &wanted.extra {
            let why = if key.is_empty() {
                "impersonating the empty string key in extra is not allowed".to_owned()
            } else if key.split_once('/').is_none_or(|(domain, path)| domain.is_empty() || path.is_empty()) {
                format!("impersonating an invalid key in extra is not allowed: {key:?} must be a domain-prefixed path")
            } else if key.chars().any(char::is_uppercase) {
                format!("impersonating a non-lowercase key in extra is not allowed: {key:?}")
            } else if values.iter().any(String::is_empty) {
                "impersonating the empty string value in extra is not allowed".to_owned()
            } else {
                continue;
            };
            return refuse(GROUP, "userextras", None, &why);
        }
        Ok(())
    }

    async fn check(&self, wanted: &UserInfo, mode: Option<Mode>) -> Result<UserInfo, Status> {
        let mut user = wanted.clone();
        let of = |group, plural, name| ResourceAttributes {
            group,
            version: "v1",
            plural,
            name: Some(name),
            ..ResourceAttributes::default()
        };
        let mut name = of(self.user_group, "users", wanted.name.as_str());
        if let (Some(Mode::Node), Some(node)) = (mode, node_name(&wanted.name)) {
            name = of(self.user_group, "nodes", node);
            user.groups = vec![NODES.to_owned()];
        } else if let Some((namespace, account)) = as_service_account(&wanted.name) {
            name = of(self.user_group, "serviceaccounts", account);
            name.namespace = Some(namespace);
            if user.groups.is_empty() {
                user.groups = vec![SERVICE_ACCOUNTS.to_owned(), service_account_group(namespace)];
            }
        }
        self.ask(name).await?;
        if !wanted.uid.is_empty() {
            self.ask(of(GROUP, "uids", &wanted.uid)).await?;
        }
        if mode.is_some() {
            self.check_bounds(wanted)?;
        }
        for group in &wanted.groups {
            self.ask(of(self.user_group, "groups", group)).await?;
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.ask(ResourceAttributes { subresource: key, ..of(GROUP, "userextras", value) }).await?;
            }
        }
        let own = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        let is_told = user.is_in(own) || user.is_in(UNAUTHENTICATED);
        if !is_told {
            user.groups.push(own.to_owned());
        }
        Ok(user)
    }
}
