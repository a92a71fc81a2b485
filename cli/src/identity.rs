//! Whether a node's name and its client certificate belong together.
//!
//! The API server lets a node write its own objects only. With a certificate that was copied to the wrong ECU two nodes would write as
//! one, or one would be refused everything without knowing why. The node compares by itself.

use std::path::Path;

use base64::Engine;
use kube::config::{AuthInfo, Kubeconfig};
use pullpiri_crds::names::{NODE_USER_PREFIX, rfc1123};
use x509_parser::pem::parse_x509_pem;

use crate::fail::Failure;

/// Refuses a kubeconfig whose certificate is another node's. One that is no node's (a person's, a token) is for the API server to judge.
pub(crate) fn check(kubeconfig: &Path, name: &str) -> Result<(), Failure> {
    let what = format!("reading {}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| Failure::from_error(what, &error))?;
    match common_name(&file).as_deref().and_then(|user| user.strip_prefix(NODE_USER_PREFIX)) {
        Some(other) if rfc1123(other) != rfc1123(name) => Err(Failure::new(format!(
            "{} holds the certificate of node {other} ({NODE_USER_PREFIX}{other}), but this node is --name {name}; give it one \
             made by `pullpiri kubeconfig --user {NODE_USER_PREFIX}{name}`, or --name {other}",
            kubeconfig.display()
        ))),
        _ => Ok(()),
    }
}

/// Of the current context's client certificate, if it has one.
fn common_name(file: &Kubeconfig) -> Option<String> {
    let current = file.current_context.as_deref()?;
    let context = file.contexts.iter().find(|context| context.name == current)?.context.as_ref()?;
    let user = context.user.as_deref()?;
    let auth = file.auth_infos.iter().find(|auth| auth.name == user)?.auth_info.as_ref()?;
    let pem = certificate(auth)?;
    let (_, pem) = parse_x509_pem(&pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn certificate(auth: &AuthInfo) -> Option<Vec<u8>> {
    match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD.decode(data).ok(),
        (None, Some(path)) => std::fs::read(path).ok(),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pullpiri_apiserver::tls::{Pki, kubeconfig};

    use super::*;

    #[test]
    fn another_nodes_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), Timestamp::now()).unwrap();
        let path = dir.path().join("node.yaml");
        let write = |user: &str| {
            let client = pki.issue_client(user, &["system:nodes".to_owned()]).unwrap();
            std::fs::write(&path, kubeconfig("https://127.0.0.1:6443", pki.ca_certificate(), &client)).unwrap();
        };
        write("system:node:HPC");
        for name in ["HPC", "hpc"] {
            assert!(check(&path, name).is_ok(), "{name}");
        }
        let error = check(&path, "zone").unwrap_err().to_string();
        for part in ["system:node:HPC", "--name zone", "node.yaml"] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        write("admin");
        assert!(check(&path, "zone").is_ok());
    }
}
