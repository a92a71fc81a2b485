//! Whom an aggregated API believes: read from the cluster, looked at again and again, because certificates are rotated.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{self, COMMON_NAME, Serving};
use super::identity::Headers;
use super::{LOOK, LOOK_AT_FIRST, Settings};
use crate::auth::{UserInfo, certificate as certificates};

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// Why nobody can be believed yet.
#[derive(Debug, Error)]
pub(super) enum TrustError {
    #[error("reading ConfigMap {NAMESPACE}/{CONFIG_MAP}")]
    ConfigMap(#[source] kube::Error),
    #[error("reading the Secret with the certificate")]
    Secret(#[source] kube::Error),
    #[error("the leader hasn't made a certificate yet")]
    NoSecret,
    #[error("{what} can't be used: {reason}")]
    Unusable { what: &'static str, reason: String },
}

/// What trust is made from. Equal inputs make equal trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) config: std::collections::BTreeMap<String, String>,
    pub(super) serving: Serving,
}

/// Whose certificates are taken for what.
pub(super) struct Trust {
    pub(super) tls: Arc<ServerConfig>,
    pub(super) serving: Serving,
    front: Option<Arc<dyn ClientCertVerifier>>,
    /// Common names of front proxies; empty: any.
    allowed: Vec<String>,
    pub(super) headers: Headers,
    people: Option<Arc<dyn ClientCertVerifier>>,
    own: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("allowed", &self.allowed).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The API server: it says who asks.
    FrontProxy,
    /// Another replica: it says so too.
    Replica,
    Person(Arc<UserInfo>),
    Unknown,
}

/// Keeps what is trusted up to date, until dropped.
pub(super) async fn follow(client: Client, settings: Settings, trusted: watch::Sender<Option<Arc<Trust>>>) {
    let mut present: Option<Source> = None;
    let mut told = None;
    loop {
        let read = read(&client, &settings).await;
        let made = match read {
            Ok(source) if present.as_ref() == Some(&source) => Ok(None),
            Ok(source) => Trust::new(&source).map(|trust| Some((source, trust))),
            Err(error) => Err(error),
        };
        match made {
            Ok(None) => {}
            Ok(Some((source, trust))) => {
                tracing::info!(front_proxy = trust.front.is_some(), "serving signals");
                present = Some(source);
                told = None;
                trusted.send_replace(Some(Arc::new(trust)));
            }
            // What was believed before stays.
            Err(error) => {
                let text = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                if told.as_ref() != Some(&text) {
                    tracing::warn!("signals: {text}");
                    told = Some(text);
                }
            }
        }
        tokio::time::sleep(if present.is_some() { LOOK } else { LOOK_AT_FIRST }).await;
    }
}

async fn read(client: &Client, settings: &Settings) -> Result<Source, TrustError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let map = maps.get(CONFIG_MAP).await.map_err(TrustError::ConfigMap)?;
    let serving = certificate::read(client, settings).await.map_err(TrustError::Secret)?;
    Ok(Source { config: map.data.unwrap_or_default(), serving: serving.ok_or(TrustError::NoSecret)? })
}

fn unusable<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> TrustError {
    move |reason| TrustError::Unusable { what, reason: reason.to_string() }
}

impl Trust {
    pub(super) fn new(source: &Source) -> Result<Self, TrustError> {
        let Source { config, serving } = source;
        let text = |key: &str| config.get(key).map(String::as_str).unwrap_or_default();
        // What can't be read must not count as empty: without names, any front proxy's certificate would do.
        let list = |key: &'static str| match text(key) {
            "" => Ok(Vec::new()),
            text => serde_json::from_str::<Vec<String>>(text).map_err(unusable(key)),
        };
        let mut all = RootCertStore::empty();
        let mut class = |pem: &str, what: &'static str| {
            let roots = roots(pem, what)?;
            all.extend(roots.roots.iter().cloned());
            if roots.is_empty() { Ok(None) } else { verifier(roots, what).map(Some) }
        };
        let front = class(text("requestheader-client-ca-file"), "the CA of the front proxy")?;
        let people = class(text("client-ca-file"), "the CA of clients")?;
        let own = class(&serving.ca, "our CA")?
            .ok_or_else(|| TrustError::Unusable { what: "our CA", reason: "it is empty".to_owned() })?;
        let identity = &serving.identity;
        let ours = "our certificate";
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(unusable(ours))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(unusable(ours))?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable(ours))?
            .with_client_cert_verifier(verifier(all, "the CAs")?)
            .with_single_cert(vec![certificate], key)
            .map_err(unusable(ours))?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let headers = Headers::new(
            list("requestheader-username-headers")?,
            list("requestheader-group-headers")?,
            list("requestheader-uid-headers")?,
            list("requestheader-extra-headers-prefix")?,
        );
        let allowed = list("requestheader-allowed-names")?;
        Ok(Self { tls: Arc::new(tls), serving: serving.clone(), front, allowed, headers, people, own })
    }

    /// Who showed these certificates. TLS has verified that they are by one of the CAs; here it is by which.
    pub(super) fn peer(&self, certificates: &[CertificateDer<'_>]) -> Peer {
        let Some((first, rest)) = certificates.split_first() else { return Peer::Unknown };
        let by =
            |verifier: &Arc<dyn ClientCertVerifier>| verifier.verify_client_cert(first, rest, UnixTime::now()).is_ok();
        let name = common_name(first).unwrap_or_default();
        if by(&self.own) {
            return if name == COMMON_NAME { Peer::Replica } else { Peer::Unknown };
        }
        // One CA may be both; then the name tells a front proxy from a person.
        let is_named = self.allowed.is_empty() || self.allowed.contains(&name);
        if is_named && self.front.as_ref().is_some_and(by) {
            return Peer::FrontProxy;
        }
        match certificates::user(first).filter(|_| self.people.as_ref().is_some_and(by)) {
            Some(user) => Peer::Person(Arc::new(user)),
            None => Peer::Unknown,
        }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn roots(pem: &str, what: &'static str) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(unusable(what))?).map_err(unusable(what))?;
    }
    Ok(roots)
}

fn verifier(roots: RootCertStore, what: &'static str) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(unusable(what))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::extension::certificate::Pem;
    use crate::tls::{Identity, Pki, ServerNames, paired};

    fn ders(identity: &Identity) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()]
    }

    fn pki(folder: &Path, name: &str) -> Pki {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        Pki::open(&folder, Timestamp::now()).unwrap()
    }

    #[test]
    fn certificates_are_told_apart_by_who_signed_them() {
        let folder = tempfile::tempdir().unwrap();
        let (front, people, stranger) =
            (pki(folder.path(), "front"), pki(folder.path(), "people"), pki(folder.path(), "stranger"));
        let names = ServerNames { dns: ["s.ns.svc".to_owned()].into(), ..ServerNames::default() };
        let (ca, own) = paired(COMMON_NAME, &names, Timestamp::now()).unwrap();
        let identity = Pem { certificate: own.certificate.clone(), key: own.key.clone() };
        let config = [
            ("requestheader-client-ca-file", front.ca_certificate()),
            ("requestheader-allowed-names", "[\"front-proxy-client\"]"),
            ("requestheader-username-headers", "[\"X-Remote-User\"]"),
            ("client-ca-file", people.ca_certificate()),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let source = Source { config, serving: Serving { ca, identity } };
        let trust = Trust::new(&source).unwrap();
        for broken in ["front-proxy-client", "[\"front-proxy-client\"", "{}", "[1]"] {
            let mut source = source.clone();
            source.config.insert("requestheader-allowed-names".to_owned(), broken.to_owned());
            let error = Trust::new(&source).unwrap_err().to_string();
            assert!(error.starts_with("requestheader-allowed-names can't be used: "), "{error}");
        }
        let issue = |pki: &Pki, name: &str| ders(&pki.issue_client(name, &["g".to_owned()]).unwrap());
        assert_eq!(trust.peer(&issue(&front, "front-proxy-client")), Peer::FrontProxy);
        assert_eq!(trust.peer(&issue(&front, "somebody")), Peer::Unknown, "not an allowed name");
        assert_eq!(trust.peer(&ders(&own)), Peer::Replica);
        let Peer::Person(user) = trust.peer(&issue(&people, "alice")) else { panic!("alice is nobody") };
        assert_eq!((user.name.as_str(), user.is_in("g")), ("alice", true));
        // A person who calls herself as we do is a person.
        assert!(matches!(trust.peer(&issue(&people, COMMON_NAME)), Peer::Person(_)));
        assert_eq!(trust.peer(&issue(&stranger, "front-proxy-client")), Peer::Unknown);
        assert_eq!(trust.peer(&[]), Peer::Unknown);
    }
}
