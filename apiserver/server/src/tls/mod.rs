//! The server's certificates: one CA per data directory, one server certificate that follows the listeners, and client
//! certificates for people, controllers and nodes.
//!
//! Files in `DIR/pki` (keys 0600, written whole by rename): `ca.crt`, `ca.key`, `server.crt`, `server.key`, `sa.key` (of
//! service account tokens). All keys are ECDSA P-256:
//! small, and signed with in well under a millisecond, because start-up waits for them.
//!
//! Certificates are valid from 1975: an ECU may boot before it knows the time, and must not refuse its own certificates then.

mod kubeconfig;
mod names;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tokens::{KeyError, TokenKey};
pub use kubeconfig::kubeconfig;
pub(crate) use names::covers;
pub use names::{ServerNames, names_for};

/// Vehicles live long and have nobody to renew a CA.
const CA_YEARS: i32 = 30;
const LEAF_YEARS: i32 = 10;
/// The clock is never believed to be before this project: an unset clock would make certificates that are expired once it is set.
const FIRST_YEAR: i32 = 2026;

/// Why certificates can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "{} is not a usable {what} ({reason}); restore it, or remove the folder {} to start over with a new CA (issued kubeconfigs stop working)",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )]
    Corrupt { path: PathBuf, what: &'static str, reason: String },
    #[error("creating a certificate for {subject}: {reason}")]
    Create { subject: String, reason: String },
    #[error("configuring TLS: {reason}")]
    Tls { reason: String },
}

/// A certificate and its key as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The CA of one data directory.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    ca: Identity,
    now: Timestamp,
}

impl Pki {
    /// Opens `DIR/pki`, creating the CA when there is none.
    ///
    /// # Errors
    /// A file that can't be read, written or understood.
    pub fn open(data_dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if let Some(certificate) = read(&certificate_path)? {
            let key = read(&key_path)?.ok_or_else(|| PkiError::Corrupt {
                path: key_path.clone(),
                what: "CA key",
                reason: "it is missing, while ca.crt is there".to_owned(),
            })?;
            let pki = Self { dir, ca: Identity { certificate, key }, now };
            pki.check_ca(&certificate_path)?;
            return Ok(pki);
        }
        let made = fs::create_dir_all(&dir).and_then(|()| sync_directory(data_dir));
        made.map_err(|source| PkiError::Write { path: dir.clone(), source })?;
        let ca = create_ca(now)?;
        // The key first: a CA certificate without a key would be taken for a damaged folder.
        write(&key_path, &ca.key)?;
        write(&certificate_path, &ca.certificate)?;
        Ok(Self { dir, ca, now })
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }

    /// The key that service account tokens are signed with: `sa.key`, made when it isn't there.
    ///
    /// # Errors
    /// A file that can't be read, written or understood.
    pub fn token_key(&self) -> Result<TokenKey, PkiError> {
        let path = self.dir.join("sa.key");
        let corrupt = |path: PathBuf| {
            move |error: KeyError| PkiError::Corrupt { path, what: "key for tokens", reason: error.to_string() }
        };
        if let Some(pem) = read(&path)? {
            return TokenKey::from_pem(&pem).map_err(corrupt(path));
        }
        let key = TokenKey::generate().map_err(corrupt(path.clone()))?;
        write(&path, &key.to_pem())?;
        Ok(key)
    }

    /// The certificate can be read, and is of the key.
    fn check_ca(&self, path: &Path) -> Result<(), PkiError> {
        let corrupt = |reason: String| PkiError::Corrupt { path: path.to_owned(), what: "CA certificate", reason };
        let key = self.ca_key()?;
        let der = der(&self.ca.certificate, path)?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| corrupt(error.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(corrupt("it doesn't belong to the key in ca.key".to_owned()));
        }
        Ok(())
    }

    fn ca_key(&self) -> Result<KeyPair, PkiError> {
        KeyPair::from_pem(&self.ca.key).map_err(|error| PkiError::Corrupt {
            path: self.dir.join("ca.key"),
            what: "CA key",
            reason: error.to_string(),
        })
    }

    fn sign(&self, params: &CertificateParams, subject: &str) -> Result<Identity, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca.certificate, self.ca_key()?).map_err(|error| {
            PkiError::Corrupt { path: self.dir.join("ca.crt"), what: "CA certificate", reason: error.to_string() }
        })?;
        let failed = |error: rcgen::Error| PkiError::Create { subject: subject.to_owned(), reason: error.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A client certificate: `user` becomes the common name, `groups` the organisations.
    ///
    /// # Errors
    /// The CA can't sign.
    pub fn issue_client(&self, user: &str, groups: &[String]) -> Result<Identity, PkiError> {
        let mut params = leaf(user, self.now)?;
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, user)
    }

    /// The server's certificate for these names: the one on disk when it covers them, else a new one.
    ///
    /// # Errors
    /// Files that can't be read or written, a CA that can't sign.
    pub fn server_identity(&self, names: &ServerNames) -> Result<Identity, PkiError> {
        let (certificate_path, key_path) = (self.dir.join("server.crt"), self.dir.join("server.key"));
        if let (Some(certificate), Some(key)) = (read(&certificate_path)?, read(&key_path)?)
            && names::covers(&certificate, names, &self.ca.certificate, self.now)
            && KeyPair::from_pem(&key).is_ok()
        {
            return Ok(Identity { certificate, key });
        }
        let mut params = leaf("pullpiri-apiserver", self.now)?;
        params.subject_alt_names =
            names.to_sans().map_err(|reason| PkiError::Create { subject: "the server".to_owned(), reason })?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let identity = self.sign(&params, "the server")?;
        write(&key_path, &identity.key)?;
        write(&certificate_path, &identity.certificate)?;
        Ok(identity)
    }

    /// TLS for the listeners: HTTP/2 and HTTP/1.1, client certificates of our CA optional.
    ///
    /// # Errors
    /// As [`Self::server_identity`].
    pub fn server_config(&self, names: &ServerNames) -> Result<Arc<ServerConfig>, PkiError> {
        let identity = self.server_identity(names)?;
        let tls = |error: &dyn std::fmt::Display| PkiError::Tls { reason: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&self.ca.certificate, &self.dir.join("ca.crt"))?).map_err(|error| tls(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|error| tls(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![der(&identity.certificate, &self.dir.join("server.crt"))?], key)
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// A CA, and one certificate of it for either side of a connection. The CA's key is thrown away: it never signs another.
///
/// # Errors
/// A name that is none, or no randomness.
pub(crate) fn paired(common_name: &str, names: &ServerNames, now: Timestamp) -> Result<(String, Identity), PkiError> {
    let failed = |error: rcgen::Error| PkiError::Create { subject: common_name.to_owned(), reason: error.to_string() };
    let ca = create_ca(now)?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).map_err(failed)?).map_err(failed)?;
    let mut params = leaf(common_name, now)?;
    params.subject_alt_names =
        names.to_sans().map_err(|reason| PkiError::Create { subject: common_name.to_owned(), reason })?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok((ca.certificate, Identity { certificate: certificate.pem(), key: key.serialize_pem() }))
}

fn create_ca(now: Timestamp) -> Result<Identity, PkiError> {
    let mut params = validity(CertificateParams::default(), now, CA_YEARS);
    params.distinguished_name = DistinguishedName::new();
    // The time makes two CAs distinguishable in an error message.
    params.distinguished_name.push(DnType::CommonName, format!("pullpiri-ca@{}", now.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let failed = |error: rcgen::Error| PkiError::Create { subject: "the CA".to_owned(), reason: error.to_string() };
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(common_name: &str, now: Timestamp) -> Result<CertificateParams, PkiError> {
    if common_name.is_empty() {
        return Err(PkiError::Create {
            subject: "a client".to_owned(),
            reason: "the user name is empty; expected a name such as system:node:hpc".to_owned(),
        });
    }
    let mut params = validity(CertificateParams::default(), now, LEAF_YEARS);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn validity(mut params: CertificateParams, now: Timestamp, years: i32) -> CertificateParams {
    let year = i32::from(now.to_zoned(jiff::tz::TimeZone::UTC).year()).max(FIRST_YEAR);
    params.not_before = date_time_ymd(1975, 1, 1);
    params.not_after = date_time_ymd(year + years, 12, 31);
    params
}

/// The DER of a PEM certificate.
fn der(pem: &str, path: &Path) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Corrupt {
        path: path.to_owned(),
        what: "PEM certificate",
        reason: error.to_string(),
    })
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| PkiError::Corrupt {
            path: path.to_owned(),
            what: "PEM file",
            reason: error.to_string(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Writes a file whole (a crash leaves the old one), readable by its owner alone.
fn write(path: &Path, content: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let attempt = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // A CA that a power cut takes away is one that others may have been told of.
        path.parent().map_or(Ok(()), sync_directory)
    };
    attempt().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T02:10:00Z".parse().unwrap()
    }

    fn names(listen: &str) -> ServerNames {
        names_for(&[listen.parse::<SocketAddr>().unwrap()], Some("ecu-1"))
    }

    #[test]
    fn a_pki_is_made_once_and_follows_its_listeners() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let first = pki.server_identity(&names("127.0.0.1:6443")).unwrap();
        let mode = fs::metadata(dir.path().join("pki/ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let again = Pki::open(dir.path(), now()).unwrap();
        assert_eq!(again.ca_certificate(), pki.ca_certificate());
        assert_eq!(again.server_identity(&names("127.0.0.1:6443")).unwrap().certificate, first.certificate);
        let moved = again.server_identity(&names("10.1.2.3:6443")).unwrap();
        assert_ne!(moved.certificate, first.certificate);
        again.server_config(&names("10.1.2.3:6443")).unwrap();
    }

    #[test]
    fn a_client_certificate_names_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let identity = pki.issue_client("system:node:hpc", &["system:nodes".to_owned()]).unwrap();
        let certificate = der(&identity.certificate, Path::new("client")).unwrap();
        let user = crate::auth::certificate::user(&certificate).unwrap();
        assert_eq!(user.name, "system:node:hpc");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(pki.issue_client("", &[]).is_err());
    }

    #[test]
    fn a_damaged_file_is_named_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path(), now()).unwrap();
        let key = dir.path().join("pki/ca.key");
        fs::write(&key, "not a key").unwrap();
        let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is not a usable CA key", key.display())), "{error}");
        fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
        assert!(error.contains("it doesn't belong to the key in ca.key"), "{error}");
        fs::remove_file(&key).unwrap();
        assert!(Pki::open(dir.path(), now()).unwrap_err().to_string().contains("it is missing"));
    }

    #[test]
    fn a_server_certificate_of_another_ca_or_time_is_replaced() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = Pki::open(one.path(), now()).unwrap();
        old.server_identity(&names("127.0.0.1:1")).unwrap();
        let later = now() + jiff::SignedDuration::from_hours(24 * 365 * 12);
        let other = Pki::open(two.path(), later).unwrap();
        for file in ["server.crt", "server.key"] {
            fs::copy(one.path().join("pki").join(file), two.path().join("pki").join(file)).unwrap();
        }
        let foreign = fs::read_to_string(two.path().join("pki/server.crt")).unwrap();
        assert_ne!(other.server_identity(&names("127.0.0.1:1")).unwrap().certificate, foreign);
        let expired = fs::read_to_string(one.path().join("pki/server.crt")).unwrap();
        let again = Pki::open(one.path(), later).unwrap();
        assert_ne!(again.server_identity(&names("127.0.0.1:1")).unwrap().certificate, expired);
    }
}
