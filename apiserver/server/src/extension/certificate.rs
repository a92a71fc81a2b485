//! The certificate of an aggregated API: made, renewed and told by the leader.

use std::collections::BTreeMap;

use jiff::{Span, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;

use super::{LOOK, Settings};
use crate::tls::{Identity, PkiError, ServerNames, paired};

const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Its certificate's common name, by which replicas know each other.
pub(super) const COMMON_NAME: &str = "system:pullpiri:signals";
const MANAGER: &str = "pullpiri-controllers";
/// A certificate with less left is replaced.
const REPLACED_BEFORE_DAYS: i64 = 90;

/// What the Secret holds, all as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    /// The CA of the certificate, then the one before it.
    pub(super) ca: String,
    pub(super) identity: Pem,
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pem {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why the certificate isn't as it should be.
#[derive(Debug, Error)]
enum KeepError {
    #[error("APIService {0} isn't there: signals can't be reached through the API server until it is")]
    NoApiService(String),
    #[error("APIService {0} names no Service")]
    NoService(String),
    #[error("{what}")]
    Api {
        what: String,
        #[source]
        cause: kube::Error,
    },
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Keeps certificate and `caBundle` right, until dropped. For the leader: writes through `client`, only when something is wrong.
pub async fn keep_certificate(client: Client, settings: Settings) {
    let mut told = None;
    loop {
        match put_right(&client, &settings).await {
            Ok(()) => told = None,
            Err(error) => {
                let text = describe(&error);
                if told.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                    told = Some(text);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn describe(error: &KeepError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> KeepError {
    let what = what.into();
    move |cause| KeepError::Api { what, cause }
}

async fn put_right(client: &Client, settings: &Settings) -> Result<(), KeepError> {
    let name = &settings.api_service;
    let services: Api<APIService> = Api::all(client.clone());
    let service = services.get_opt(name).await.map_err(failed(format!("reading APIService {name}")))?;
    let spec = service.and_then(|service| service.spec).ok_or_else(|| KeepError::NoApiService(name.clone()))?;
    let target = spec.service.and_then(|service| service.name.zip(service.namespace));
    let (service, namespace) = target.ok_or_else(|| KeepError::NoService(name.clone()))?;
    let dns = [format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")];
    let names = ServerNames { dns: dns.into(), ..ServerNames::default() };
    let serving = ensure_secret(client, settings, &names).await?;
    if spec.ca_bundle.as_ref().is_none_or(|bundle| bundle.0 != serving.ca.as_bytes()) {
        let body = json!({"spec": {"caBundle": ByteString(serving.ca.into_bytes())}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let written = services.patch(name, &params, &Patch::Merge(body)).await;
        written.map_err(failed(format!("writing the caBundle of APIService {name}")))?;
        tracing::info!(apiservice = name, "its caBundle is right now");
    }
    Ok(())
}

async fn ensure_secret(client: &Client, settings: &Settings, names: &ServerNames) -> Result<Serving, KeepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let what = format!("Secret {}/{}", settings.namespace, settings.secret);
    let present = secrets.get_opt(&settings.secret).await.map_err(failed(format!("reading {what}")))?;
    let before = present.as_ref().and_then(parse);
    let now = Timestamp::now();
    if let Some(serving) = before.as_ref().filter(|serving| fits(serving, names, now)) {
        return Ok(serving.clone());
    }
    let (ca, identity) = paired(COMMON_NAME, names, now)?;
    let ca = match before.as_ref().and_then(|before| first_certificate(&before.ca)) {
        Some(old) => format!("{ca}{old}"),
        None => ca,
    };
    let secret = secret(settings, present.as_ref(), &ca, &identity);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let written = match &present {
        Some(_) => secrets.replace(&settings.secret, &params, &secret).await,
        None => secrets.create(&params, &secret).await,
    };
    written.map_err(failed(format!("writing {what}")))?;
    tracing::info!(secret = what, "a new certificate");
    Ok(Serving { ca, identity: Pem { certificate: identity.certificate, key: identity.key } })
}

fn secret(settings: &Settings, present: Option<&Secret>, ca: &str, identity: &Identity) -> Secret {
    let metadata = present.map_or_else(
        || ObjectMeta { name: Some(settings.secret.clone()), ..ObjectMeta::default() },
        |present| ObjectMeta { managed_fields: None, ..present.metadata.clone() },
    );
    let data = [(CA, ca), (CERTIFICATE, &identity.certificate), (KEY, &identity.key)];
    let data: BTreeMap<String, ByteString> =
        data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    let type_ = present.map_or_else(|| Some("kubernetes.io/tls".to_owned()), |present| present.type_.clone());
    Secret { metadata, data: Some(data), type_, ..Secret::default() }
}

/// The Secret as a replica reads it; `None`: something is missing.
fn parse(secret: &Secret) -> Option<Serving> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok().filter(|text| !text.is_empty());
    let identity = Pem { certificate: text(CERTIFICATE)?, key: text(KEY)? };
    Some(Serving { ca: text(CA)?, identity })
}

fn fits(serving: &Serving, names: &ServerNames, now: Timestamp) -> bool {
    let soon = now.checked_add(Span::new().hours(REPLACED_BEFORE_DAYS * 24)).unwrap_or(Timestamp::MAX);
    first_certificate(&serving.ca).is_some_and(|ca| {
        crate::tls::covers(&serving.identity.certificate, names, &ca, soon)
            && rcgen::KeyPair::from_pem(&serving.identity.key).is_ok()
    })
}

/// The first certificate of a PEM text.
fn first_certificate(pem: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let end = pem.find(END)?;
    Some(format!("{}\n", pem.get(..end + END.len())?.trim_start()))
}

/// What the Secret holds now.
pub(super) async fn read(client: &Client, settings: &Settings) -> Result<Option<Serving>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    Ok(secrets.get_opt(&settings.secret).await?.as_ref().and_then(parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let [namespace, secret, api_service] = ["ns", "s", "a"].map(str::to_owned);
        Settings { namespace, secret, api_service }
    }

    fn names(dns: &str) -> ServerNames {
        ServerNames { dns: [dns.to_owned()].into(), ..ServerNames::default() }
    }

    #[test]
    fn a_certificate_is_kept_while_it_fits() {
        let now: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
        let (ca, identity) = paired(COMMON_NAME, &names("a.b.svc"), now).unwrap();
        let secret = secret(&settings(), None, &ca, &identity);
        let serving = parse(&secret).unwrap();
        assert!(fits(&serving, &names("a.b.svc"), now));
        assert!(!fits(&serving, &names("other.b.svc"), now));
        assert!(!fits(&serving, &names("a.b.svc"), "2036-11-25T00:00:00Z".parse().unwrap()), "in its last months");
        // With the CA before beside it, it still fits; with only that one, it doesn't.
        let (older, _) = paired(COMMON_NAME, &names("a.b.svc"), "2026-11-24T00:00:00Z".parse().unwrap()).unwrap();
        assert!(fits(&Serving { ca: format!("{ca}{older}"), ..serving.clone() }, &names("a.b.svc"), now));
        assert!(!fits(&Serving { ca: format!("{older}{ca}"), ..serving }, &names("a.b.svc"), now));
        assert_eq!(parse(&Secret::default()), None);
    }
}
