//! Who asks, from the headers of a proxy that is believed (Kubernetes' "authenticating proxy").

use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;

use crate::auth::UserInfo;
use crate::rest::query::{Plus, unescape};

/// Under which names a proxy says who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    user: Vec<String>,
    group: Vec<String>,
    uid: Vec<String>,
    /// Prefixes, in lower case.
    extra: Vec<String>,
}

impl Default for Headers {
    /// Those that replicas use among each other, and that every Kubernetes uses.
    fn default() -> Self {
        Self::new(
            vec!["x-remote-user".to_owned()],
            vec!["x-remote-group".to_owned()],
            vec!["x-remote-uid".to_owned()],
            vec!["x-remote-extra-".to_owned()],
        )
    }
}

impl Headers {
    pub(super) fn new(user: Vec<String>, group: Vec<String>, uid: Vec<String>, extra: Vec<String>) -> Self {
        let lower = |names: Vec<String>| names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { user: lower(user), group: lower(group), uid: lower(uid), extra: lower(extra) }
    }

    /// The user that a proxy speaks of; `None`: of nobody.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let first = |names: &[String]| {
            let mut values = names.iter().filter_map(|name| text(headers.get(name)?)).filter(|text| !text.is_empty());
            values.next()
        };
        let name = first(&self.user)?;
        let all = |name: &String| headers.get_all(name).iter().filter_map(text).collect::<Vec<_>>();
        let groups: Vec<String> = self.group.iter().flat_map(all).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self.extra.iter().find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let Some((key, value)) = key.zip(text(value)) {
                extra.entry(unescape(key, Plus::IsPlus)).or_default().push(value);
            }
        }
        Some(UserInfo { uid: first(&self.uid).unwrap_or_default(), extra, ..UserInfo::new(name, groups) })
    }

    /// Removes everything by which a proxy says who asks.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        let ours = |name: &str| {
            [&self.user, &self.group, &self.uid].iter().any(|names| names.iter().any(|own| own == name))
                || self.extra.iter().any(|prefix| name.starts_with(prefix.as_str()))
        };
        let names: Vec<HeaderName> = headers.keys().filter(|name| ours(name.as_str())).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Says who asks, as [`Headers::default`] reads it. What can't be said in a header isn't a name that any authenticator gives.
pub(super) fn say(user: &UserInfo, headers: &mut HeaderMap) {
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("x-remote-extra-{}", escape(key)), value);
        }
    }
}

fn text(value: &HeaderValue) -> Option<String> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
}

/// Percent-encodes what a header's name can't hold.
fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02x}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_said_is_read() {
        let mut user = UserInfo::new("jürgen", ["a".to_owned(), "b".to_owned()]);
        user.uid = "17".to_owned();
        user.extra.insert("example.com/Roles %".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let mut headers = HeaderMap::new();
        say(&user, &mut headers);
        assert_eq!(Headers::default().user(&headers), Some(user));
        Headers::default().strip(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn without_a_name_nobody_asks() {
        let mut headers = HeaderMap::new();
        headers.append("x-remote-group", HeaderValue::from_static("system:masters"));
        assert_eq!(Headers::default().user(&headers), None);
        headers.append("x-remote-user", HeaderValue::from_static(""));
        assert_eq!(Headers::default().user(&headers), None);
        let renamed = Headers::new(vec!["X-Who".to_owned()], Vec::new(), Vec::new(), Vec::new());
        headers.append("x-who", HeaderValue::from_static("eve"));
        let user = renamed.user(&headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("eve", 1), "other headers mean nothing");
    }
}
