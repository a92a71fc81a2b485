//! A client certificate as a user: the common name is the user, every organisation a group. Whether the certificate is to be
//! trusted was decided by the TLS handshake.

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::{CREDENTIAL_ID, UserInfo};

/// The user of a verified certificate; `None` when it has no common name.
pub(crate) fn user(der: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    let mut user = UserInfo::new(name, groups.collect::<Vec<_>>());
    let fingerprint: String = Sha256::digest(der.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")]);
    Some(user)
}
