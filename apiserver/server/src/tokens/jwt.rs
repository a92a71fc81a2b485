//! What stands in a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::builtin::text;

/// The claims of a service account token. Times are whole seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) issued: i64,
    pub(super) expires: i64,
    pub(super) not_before: i64,
    pub(super) id: String,
    pub(super) namespace: String,
    /// Name and UID.
    pub(super) account: (String, String),
    pub(super) secret: Option<(String, String)>,
}

impl Claims {
    pub(super) fn to_value(&self) -> Value {
        let reference = |(name, uid): &(String, String)| json!({"name": name, "uid": uid});
        let mut own = Map::new();
        own.insert("namespace".to_owned(), json!(self.namespace));
        if let Some(secret) = &self.secret {
            own.insert("secret".to_owned(), reference(secret));
        }
        own.insert("serviceaccount".to_owned(), reference(&self.account));
        json!({
            "aud": self.audiences,
            "exp": self.expires,
            "iat": self.issued,
            "iss": self.issuer,
            "jti": self.id,
            "kubernetes.io": own,
            "nbf": self.not_before,
            "sub": pullpiri_access::attributes::service_account_user(&self.namespace, &self.account.0),
        })
    }

    /// `None`: something is missing.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let own = value.get("kubernetes.io")?;
        let reference = |field: &str| {
            let (name, uid) = (text(own, &[field, "name"]), text(own, &[field, "uid"]));
            (!name.is_empty() && !uid.is_empty()).then(|| (name.to_owned(), uid.to_owned()))
        };
        let number = |field: &str| value.get(field).and_then(Value::as_i64);
        let audiences = match value.get("aud")? {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => return None,
        };
        let secret = match own.get("secret") {
            None | Some(Value::Null) => None,
            Some(_) => Some(reference("secret")?),
        };
        Some(Self {
            issuer: text(value, &["iss"]).to_owned(),
            audiences,
            issued: number("iat")?,
            expires: number("exp")?,
            not_before: number("nbf")?,
            id: text(value, &["jti"]).to_owned(),
            namespace: text(own, &["namespace"]).to_owned(),
            account: reference("serviceaccount")?,
            secret,
        })
    }
}

/// One part of a token, decoded.
pub(super) fn part(text: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// Who says to have issued a token; nothing is verified yet.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    part(payload)?.get("iss")?.as_str().map(str::to_owned)
}
