//! From a method and a path to what is asked for. The registry isn't consulted here: a path names a group, version and plural,
//! and whether they exist is the caller's question.

use http::Method;

use crate::rest::query::{Plus, Query, unescape};

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/livez`, `/readyz`, `/healthz`, with an optional single check.
    Health {
        endpoint: &'static str,
        check: Option<String>,
    },
    Version,
    Metrics,
    /// `/api`, `/apis` and what stands below them without being a resource.
    Discovery,
    /// `/openapi/…`
    OpenApi,
    /// How others verify this server's tokens: the discovery document, and the keys.
    OpenIdConfiguration,
    OpenIdKeys,
    /// `/`: the paths that exist.
    Index,
    Resource(ResourcePath),
    Unknown,
}

/// A path below `/api/v1` or `/apis/{group}/{version}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
    /// The old `/watch/` prefix stood in the path.
    pub(crate) legacy_watch: bool,
}

pub(crate) fn route(path: &str) -> Route {
    let mut segments: Vec<String> = path.split('/').skip(1).map(|segment| unescape(segment, Plus::IsPlus)).collect();
    // One slash at the end is none.
    let is_open = segments.last().is_some_and(String::is_empty);
    if is_open {
        segments.pop();
    }
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    if parts.contains(&"") || (is_open && matches!(parts.first(), Some(&("livez" | "readyz" | "healthz")))) {
        return Route::Unknown;
    }
    match parts.as_slice() {
        [] => Route::Index,
        ["livez", check @ ..] => health("livez", check),
        ["readyz", check @ ..] => health("readyz", check),
        ["healthz", check @ ..] => health("healthz", check),
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["openapi", ..] => Route::OpenApi,
        [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Route::OpenIdKeys,
        ["api"] | ["apis"] | ["api" | "apis", _] | ["apis", _, _] => Route::Discovery,
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

fn health(endpoint: &'static str, check: &[&str]) -> Route {
    Route::Health { endpoint, check: (!check.is_empty()).then(|| check.join("/")) }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let (legacy_watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let mut path =
        ResourcePath { group: group.to_owned(), version: version.to_owned(), legacy_watch, ..ResourcePath::default() };
    let (plural, name, sub) = match rest {
        // A namespace's own subresources, not resources named so.
        ["namespaces", name, sub @ ("status" | "finalize")] => ("namespaces", Some(name), *sub),
        ["namespaces", namespace, plural, rest @ ..] => {
            path.namespace = Some((*namespace).to_owned());
            (*plural, rest.first(), rest.get(1).copied().unwrap_or_default())
        }
        [plural, rest @ ..] => (*plural, rest.first(), rest.get(1).copied().unwrap_or_default()),
        [] => return Route::Unknown,
    };
    let used = if path.namespace.is_some() { 5 } else { 3 };
    if rest.len() > used {
        return Route::Unknown;
    }
    path.plural = plural.to_owned();
    path.name = name.map(|name| (*name).to_owned());
    path.subresource = sub.to_owned();
    Route::Resource(path)
}

/// The verb of a request on a resource, for authorisation, limits and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// `None`: no such method.
    pub(crate) fn of(method: &Method, path: &ResourcePath, query: &Query) -> Option<Self> {
        let watching = path.legacy_watch || query.flag("watch").unwrap_or(false);
        let named = path.name.is_some();
        Some(match *method {
            // A name in the path is a get, whatever the query says; the old prefix watches it.
            Method::GET | Method::HEAD if named && !path.legacy_watch => Self::Get,
            Method::GET | Method::HEAD if watching => Self::Watch,
            Method::GET | Method::HEAD => Self::List,
            Method::POST => Self::Create,
            Method::PUT if named => Self::Update,
            Method::PATCH if named => Self::Patch,
            Method::DELETE if named => Self::Delete,
            Method::DELETE => Self::DeleteCollection,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    pub(crate) const fn is_mutating(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> String {
        match route(path) {
            Route::Resource(p) => format!(
                "{}|{}|{}|{}|{}|{}{}",
                p.group,
                p.version,
                p.plural,
                p.namespace.unwrap_or_default(),
                p.name.unwrap_or_default(),
                p.subresource,
                if p.legacy_watch { "|watch" } else { "" }
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/namespaces", "|v1|namespaces|||"),
            ("/api/v1/namespaces/default", "|v1|namespaces||default|"),
            ("/api/v1/namespaces/default/finalize", "|v1|namespaces||default|finalize"),
            ("/api/v1/namespaces/default/configmaps/a%2Fb", "|v1|configmaps|default|a/b|"),
            ("/api/v1/watch/namespaces/x/secrets", "|v1|secrets|x|||watch"),
            ("/apis/pullpiri.io/v1alpha1/scenarios", "pullpiri.io|v1alpha1|scenarios|||"),
            ("/apis/pullpiri.io/v1alpha1/namespaces/d/scenarios/s/status", "pullpiri.io|v1alpha1|scenarios|d|s|status"),
            ("/apis/pullpiri.io/v1alpha1", "Discovery"),
            ("/api/v1/", "Discovery"),
            ("/apis", "Discovery"),
            ("/openapi/v3/api/v1", "OpenApi"),
            ("/", "Index"),
            ("/nope", "Unknown"),
            ("/api/v1/namespaces/", "|v1|namespaces|||"),
            ("//", "Unknown"),
            ("//api", "Unknown"),
            ("/api//v1", "Unknown"),
            ("/api/v1//namespaces", "Unknown"),
            ("/api/v1/namespaces//default", "Unknown"),
            ("/api/v1/namespaces//", "Unknown"),
            ("/healthz/", "Unknown"),
            ("*", "Index"),
            ("/api/v1/a/b/c/d", "Unknown"),
        ];
        for (given, expected) in cases {
            assert_eq!(path(given), expected, "{given}");
        }
        assert_eq!(route("/readyz/ping"), Route::Health { endpoint: "readyz", check: Some("ping".to_owned()) });
    }
}
