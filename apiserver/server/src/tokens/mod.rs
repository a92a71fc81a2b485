//! Service account tokens: issued on request, bound to the account (and a Secret, if asked), verified on every request.
//!
//! A token is a JWT (RFC 7519) signed with ECDSA P-256 (ES256), in the claims of Kubernetes. Its signature and times are looked at once and
//! remembered; that the account and the Secret are still the ones it was bound to is asked of the store each time, so a token
//! ends with them. Other parties verify tokens by the documents of OpenID Connect discovery ([`Tokens::configuration`], [`Tokens::key_set`]).

mod jwt;
mod key;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use pullpiri_apply::error::FieldError;
use pullpiri_store::Store;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::auth::{CREDENTIAL_ID, UserInfo};
use crate::builtin::text;
use crate::clock::{Clock, rfc3339};
use crate::status::{GroupResource, Status};
use jwt::Claims;
pub use key::{KeyError, TokenKey};

/// Who issues tokens unless the embedding program says otherwise; the name that clients in a cluster know the server by.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const KEYS_PATH: &str = "/openid/v1/jwks";

const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;
/// Clocks may differ by so much.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// Verified signatures that are remembered.
const REMEMBERED: usize = 1024;

/// Issues and verifies.
#[derive(Debug)]
pub(crate) struct Tokens {
    key: TokenKey,
    issuer: String,
    audiences: Vec<String>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

/// Whose a token is, and what of the wanted audiences it is for.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) user: UserInfo,
    pub(crate) audiences: Vec<String>,
}

impl Tokens {
    pub(crate) fn new(key: TokenKey, issuer: String, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let audiences = vec![issuer.clone()];
        Self { key, issuer, audiences, store, clock, verified: Mutex::default() }
    }

    /// The discovery document. `host` is where the client reached this server.
    pub(crate) fn configuration(&self, host: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{host}{KEYS_PATH}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The public keys (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": [self.key.to_jwk()]})
    }

    async fn object(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let key = format!("core/{plural}/{namespace}/{name}");
        let (found, _) = self.store.get(&key).await.map_err(|error| crate::rest::store_errors::read(&error))?;
        let parse =
            |kv: pullpiri_store::KeyValue| serde_json::from_slice(&kv.value).map_err(|error| Status::internal(&error));
        found.map(parse).transpose()
    }

    /// Answers a TokenRequest for a service account. `request` has passed its schema.
    ///
    /// # Errors
    /// NotFound, Invalid, Conflict and BadRequest as kube-apiserver answers.
    pub(crate) async fn issue(&self, namespace: &str, name: &str, mut request: Value) -> Result<Value, Status> {
        let invalid =
            |name: &str, errors: &[FieldError]| Status::invalid("authentication.k8s.io", "TokenRequest", name, errors);
        for (field, expected) in [("name", name), ("namespace", namespace)] {
            let given = text(&request, &["metadata", field]);
            if !given.is_empty() && given != expected {
                let detail = format!("must match the service account {field} if specified");
                return Err(invalid(name, &[FieldError::invalid(format!("metadata.{field}"), given, detail)]));
            }
        }
        let accounts = GroupResource { group: "", plural: "serviceaccounts" };
        let account = self.object("serviceaccounts", namespace, name).await?;
        let account = account.ok_or_else(|| Status::not_found(accounts, name))?;
        let uid = text(&account, &["metadata", "uid"]);
        let given = text(&request, &["metadata", "uid"]);
        if !given.is_empty() && given != uid {
            let of = GroupResource { group: "authentication.k8s.io", plural: "TokenRequest" };
            let why =
                format!("the UID in the token request ({given}) does not match the UID of the service account ({uid})");
            return Err(Status::conflict(of, name, &why));
        }
        let mut audiences = texts(request.pointer("/spec/audiences"));
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
        let errors = check_spec(&request, seconds);
        if !errors.is_empty() {
            return Err(invalid("", &errors));
        }
        let secret = match request.pointer("/spec/boundObjectRef").filter(|reference| !reference.is_null()) {
            Some(reference) => Some(self.bind(namespace, reference).await?),
            None => None,
        };
        let now = self.clock.now();
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).map_err(|error| Status::internal(&error))?;
        let claims = Claims {
            issuer: self.issuer.clone(),
            audiences: audiences.clone(),
            issued: now.as_second(),
            expires: expires.as_second(),
            not_before: now.as_second(),
            id: uuid::Uuid::new_v4().to_string(),
            namespace: namespace.to_owned(),
            account: (name.to_owned(), uid.to_owned()),
            secret,
        };
        let token = self
            .key
            .sign(&claims.to_value())
            .map_err(|error| Status::internal(format_args!("failed to generate token: {error}")))?;
        let metadata = json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": rfc3339(now)});
        if let Some(fields) = request.as_object_mut() {
            fields.insert("metadata".to_owned(), metadata);
            fields.insert("status".to_owned(), json!({"token": token, "expirationTimestamp": rfc3339(expires)}));
            let spec = fields.entry("spec").or_insert_with(|| json!({}));
            if let Some(spec) = spec.as_object_mut() {
                spec.insert("audiences".to_owned(), json!(audiences));
                spec.insert("expirationSeconds".to_owned(), seconds.into());
                spec.entry("boundObjectRef").or_insert(Value::Null);
            }
        }
        Ok(request)
    }

    /// The Secret that a token shall end with. There are no pods or nodes to bind to.
    async fn bind(&self, namespace: &str, reference: &Value) -> Result<(String, String), Status> {
        let [api_version, kind, name, wanted] =
            ["apiVersion", "kind", "name", "uid"].map(|field| text(reference, &[field]));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        match (group, kind) {
            ("", "Secret") => {}
            ("", "Pod") => return Err(Status::not_found(GroupResource { group: "", plural: "pods" }, name)),
            ("", "Node") => return Err(Status::not_found(GroupResource { group: "", plural: "nodes" }, name)),
            _ => {
                let what = format!("{group}/{version}, Kind={kind}");
                return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
            }
        }
        let secret = self.object("secrets", namespace, name).await?;
        let secret = secret.ok_or_else(|| Status::not_found(GroupResource { group: "", plural: "secrets" }, name))?;
        let uid = text(&secret, &["metadata", "uid"]);
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted \
                 and then recreated"
            );
            return Err(Status::conflict(GroupResource { group: "", plural: "Secret" }, name, &why));
        }
        Ok((name.to_owned(), uid.to_owned()))
    }

    /// Whose a token is. `None` for audiences: this server's own.
    ///
    /// # Errors
    /// Why it isn't accepted, which is told only to who reviews tokens; `Ok(None)`: it is no token of this issuer.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        audiences: Option<&[String]>,
    ) -> Result<Option<Authenticated>, String> {
        let Some(claims) = self.claims(token)? else { return Ok(None) };
        let wanted = audiences.filter(|wanted| !wanted.is_empty()).unwrap_or(&self.audiences);
        let common: Vec<String> = claims.audiences.iter().filter(|one| wanted.contains(one)).cloned().collect();
        if common.is_empty() {
            let quoted = |list: &[String]| list.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
            return Err(format!(
                "token audiences [{}] is invalid for the target audiences [{}]",
                quoted(&claims.audiences),
                quoted(wanted)
            ));
        }
        self.check_times(&claims)?;
        self.check_objects(&claims).await?;
        let (name, uid) = &claims.account;
        let mut user = UserInfo::service_account(&claims.namespace, name, uid);
        user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.id)]);
        Ok(Some(Authenticated { user, audiences: common }))
    }

    fn claims(&self, token: &str) -> Result<Option<Arc<Claims>>, String> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let remembered =
            |this: &Self| this.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).map(Arc::clone);
        if let Some(claims) = remembered(self) {
            return Ok(Some(claims));
        }
        if jwt::issuer_of(token).as_deref() != Some(&self.issuer) {
            return Ok(None);
        }
        let value = self.key.verify(token)?;
        let claims = Arc::new(Claims::parse(&value).ok_or("service account token claims could not be validated")?);
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            // Whoever is still there is verified again.
            verified.clear();
        }
        verified.insert(digest, Arc::clone(&claims));
        Ok(Some(claims))
    }

    fn check_times(&self, claims: &Claims) -> Result<(), String> {
        let now = self.clock.now();
        let (leeway, now) = (LEEWAY.as_secs(), now.as_second());
        if now.saturating_sub(leeway) > claims.expires {
            return Err("service account token has expired".to_owned());
        }
        if now.saturating_add(leeway) < claims.not_before {
            return Err("service account token is not valid yet".to_owned());
        }
        if now.saturating_add(leeway) < claims.issued {
            return Err("service account token is issued in the future".to_owned());
        }
        Ok(())
    }

    /// The account and the Secret are still the ones that the token was bound to.
    async fn check_objects(&self, claims: &Claims) -> Result<(), String> {
        let (name, uid) = &claims.account;
        let namespace = &claims.namespace;
        let account = self.object("serviceaccounts", namespace, name).await.map_err(|status| status.to_string())?;
        let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        let actual = text(&account, &["metadata", "uid"]);
        if actual != uid {
            return Err(format!("service account UID ({actual}) does not match claim ({uid})"));
        }
        if self.is_deleted(&account) {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        let Some((name, uid)) = &claims.secret else { return Ok(()) };
        let invalidated = || "service account token has been invalidated".to_owned();
        let secret =
            self.object("secrets", namespace, name).await.map_err(|_| invalidated())?.ok_or_else(invalidated)?;
        let actual = text(&secret, &["metadata", "uid"]);
        if actual != uid {
            return Err(format!("secret UID ({actual}) does not match service account secret ref claim ({uid})"));
        }
        if self.is_deleted(&secret) { Err(invalidated()) } else { Ok(()) }
    }

    /// Whether something that finalizers hold has been deleted for longer than clocks may differ.
    fn is_deleted(&self, object: &Value) -> bool {
        let deleted: Option<Timestamp> = text(object, &["metadata", "deletionTimestamp"]).parse().ok();
        deleted.is_some_and(|at| self.clock.now().duration_since(at) > LEEWAY)
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn check_spec(request: &Value, seconds: i64) -> Vec<FieldError> {
    const PATH: &str = "spec.expirationSeconds";
    let mut errors = Vec::new();
    if seconds < MIN_SECONDS {
        errors.push(FieldError::invalid(PATH, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_SECONDS {
        errors.push(FieldError::invalid(PATH, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let attestations = request.pointer("/spec/attestations").and_then(Value::as_object);
    if let Some(given) = attestations.filter(|given| !given.is_empty()) {
        let detail = "attestations may only be specified with a webhook bound object reference";
        errors.push(FieldError::invalid("spec.attestations", Value::Object(given.clone()), detail));
    }
    errors
}
