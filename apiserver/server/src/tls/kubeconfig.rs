//! Kubeconfig files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Identity;

/// A kubeconfig with everything inline, as YAML: one cluster, one user, one context, all named `pullpiri`.
#[must_use]
pub fn kubeconfig(server_url: &str, ca_certificate: &str, client: &Identity) -> String {
    // JSON's strings are YAML's double-quoted ones, so a URL can't break out of its line.
    let server = serde_json::Value::String(server_url.to_owned());
    let ca = STANDARD.encode(ca_certificate);
    let certificate = STANDARD.encode(&client.certificate);
    let key = STANDARD.encode(&client.key);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: pullpiri
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: pullpiri
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: pullpiri
  context:
    cluster: pullpiri
    user: pullpiri
current-context: pullpiri
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_reads_it() {
        let identity = Identity { certificate: "C".to_owned(), key: "K".to_owned() };
        let text = kubeconfig("https://127.0.0.1:6443", "CA", &identity);
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("pullpiri"));
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
    }
}
