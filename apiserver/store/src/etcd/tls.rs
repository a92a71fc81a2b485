//! TLS towards etcd: by rustls with ring, like everything here.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use super::error::OpenError;

/// PEM files, named as kube-apiserver's flags name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The CA that the servers' certificates are of.
    pub ca_file: PathBuf,
    /// The client's certificate and its key, where servers ask for one.
    pub client: Option<ClientFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

pub(super) fn load(tls: &Tls) -> Result<TlsOptions, OpenError> {
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file)?));
    if let Some(client) = &tls.client {
        options = options.identity(Identity::from_pem(read(&client.certificate_file)?, read(&client.key_file)?));
    }
    Ok(options)
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })
}
