//! kubectl against a TLS listener. Runs every kubectl named in `PULLPIRI_KUBECTL` (paths separated by `:`), else the one on PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use pullpiri_apiserver::tls::{Pki, kubeconfig, names_for};
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_store::memory::MemoryStore;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

struct Cluster {
    server: ApiServer,
    dir: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
        server.install(vec![support::widgets()]).await.unwrap();
        let listener = ApiServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let pki = Pki::open(dir.path(), "2026-11-24T00:00:00Z".parse().unwrap()).unwrap();
        let tls = pki.server_config(&names_for(&[address], None)).unwrap();
        let admin = pki.issue_client("admin", &["system:masters".to_owned()]).unwrap();
        let config = kubeconfig(&format!("https://{address}"), pki.ca_certificate(), &admin);
        std::fs::write(dir.path().join("kubeconfig.yaml"), config).unwrap();
        let serving = server.clone();
        let serving = tokio::spawn(async move { serving.serve(vec![listener], tls).await.unwrap() });
        Self { server, dir, serving }
    }

    async fn stop(self) {
        self.server.stop();
        tokio::time::timeout(support::PATIENCE, self.serving).await.expect("the server stops").unwrap();
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn run(&self, kubectl: &Path, arguments: &[&str], stdin: Option<&str>) -> Output {
        let mut command = Command::new(kubectl);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.dir.path().join("kubeconfig.yaml"))
            .env("EDITOR", "sed -i s/before/after/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.unwrap_or_default().as_bytes()).await.unwrap();
        }
        tokio::time::timeout(support::PATIENCE * 3, child.wait_with_output()).await.expect("kubectl ends").unwrap()
    }

    /// Runs kubectl, expecting success; returns what it printed.
    async fn ok(&self, kubectl: &Path, arguments: &[&str]) -> String {
        let output = self.run(kubectl, arguments, None).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} {}:\n{out}{err}", kubectl.display(), arguments.join(" "));
        format!("{out}{err}")
    }

    async fn fails(&self, kubectl: &Path, arguments: &[&str]) -> String {
        let output = self.run(kubectl, arguments, None).await;
        assert!(!output.status.success(), "{} {} succeeded", kubectl.display(), arguments.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

async fn kubectls() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("PULLPIRI_KUBECTL") {
        return std::env::split_paths(&list).collect();
    }
    let found = Command::new("kubectl").args(["version", "--client"]).output().await;
    match found {
        Ok(output) if output.status.success() => vec![PathBuf::from("kubectl")],
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_does_its_work() {
    let kubectls = kubectls().await;
    if kubectls.is_empty() {
        println!("skipped: no kubectl on PATH (set PULLPIRI_KUBECTL to try others)");
        return;
    }
    for kubectl in kubectls {
        let cluster = Cluster::start().await;
        discovery(&cluster, &kubectl).await;
        built_in(&cluster, &kubectl).await;
        custom(&cluster, &kubectl).await;
        cluster.stop().await;
    }
}

async fn discovery(cluster: &Cluster, kubectl: &Path) {
    let text = cluster.ok(kubectl, &["api-resources"]).await;
    for expected in ["configmaps", "widgets", "test.pullpiri.io/v1", "customresourcedefinitions"] {
        assert!(text.contains(expected), "{expected} in:\n{text}");
    }
    let text = cluster.ok(kubectl, &["api-versions"]).await;
    assert!(text.contains("test.pullpiri.io/v1"), "{text}");
    let text = cluster.ok(kubectl, &["explain", "widgets.spec.size"]).await;
    assert!(text.contains("<integer>"), "{text}");
    let text = cluster.ok(kubectl, &["explain", "configmap.data"]).await;
    assert!(text.contains("map[string]string"), "{text}");
    let text = cluster.ok(kubectl, &["version"]).await;
    assert!(text.contains("v1.37.0+pullpiri"), "{text}");
    let text = cluster.ok(kubectl, &["get", "namespaces"]).await;
    assert!(text.contains("kube-system") && text.contains("Active"), "{text}");
}

async fn built_in(cluster: &Cluster, kubectl: &Path) {
    let manifest = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {app: demo}
data:
  mode: before
---
apiVersion: v1
kind: Secret
metadata:
  name: key
stringData:
  token: abc
";
    let file = cluster.write("objects.yaml", manifest);
    let file = file.to_str().unwrap();
    let text = cluster.ok(kubectl, &["apply", "-f", file]).await;
    assert!(text.contains("configmap/settings created") && text.contains("secret/key created"), "{text}");
    let text = cluster.ok(kubectl, &["apply", "-f", file]).await;
    assert!(text.contains("configmap/settings unchanged"), "{text}");
    let changed = cluster.write("changed.yaml", &manifest.replace("mode: before", "mode: between"));
    let output = cluster.run(kubectl, &["diff", "-f", changed.to_str().unwrap()], None).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("+  mode: between"));
    for (format, expected) in [
        ("wide", "settings"),
        ("yaml", "mode: before"),
        ("json", "\"mode\": \"before\""),
        ("name", "configmap/settings"),
        ("jsonpath={.data.mode}", "before"),
    ] {
        let text = cluster.ok(kubectl, &["get", "configmap", "settings", "-o", format]).await;
        assert!(text.contains(expected), "{format}: {text}");
    }
    let text = cluster.ok(kubectl, &["get", "secret", "key", "-o", "jsonpath={.data.token}"]).await;
    assert_eq!(text, "YWJj");
    let text = cluster.ok(kubectl, &["describe", "configmap", "settings"]).await;
    assert!(text.contains("mode:") && text.contains("Labels:       app=demo"), "{text}");
    let text = cluster.ok(kubectl, &["edit", "configmap", "settings"]).await;
    assert!(text.contains("configmap/settings edited"), "{text}");
    let text = cluster.ok(kubectl, &["get", "cm", "settings", "-o", "jsonpath={.data.mode}"]).await;
    assert_eq!(text, "after");
    cluster.ok(kubectl, &["patch", "cm", "settings", "-p", r#"{"data":{"extra":"1"}}"#]).await;
    cluster.ok(kubectl, &["label", "cm", "settings", "tier=front"]).await;
    cluster.ok(kubectl, &["annotate", "cm", "settings", "note=x"]).await;
    let text = cluster.ok(kubectl, &["get", "cm", "-l", "tier=front", "-o", "name"]).await;
    assert_eq!(text.trim(), "configmap/settings");
    let text = cluster.fails(kubectl, &["get", "cm", "nothing"]).await;
    assert!(text.contains("Error from server (NotFound): configmaps \"nothing\" not found"), "{text}");
    let text = cluster.fails(kubectl, &["create", "configmap", "Bad_Name"]).await;
    assert!(text.contains("metadata.name: Invalid value: \"Bad_Name\""), "{text}");
    cluster.ok(kubectl, &["create", "namespace", "extra"]).await;
    cluster.ok(kubectl, &["create", "configmap", "inside", "-n", "extra", "--from-literal=a=b"]).await;
    cluster.ok(kubectl, &["delete", "namespace", "extra", "--timeout=20s"]).await;
    cluster.ok(kubectl, &["delete", "-f", file]).await;
}

async fn custom(cluster: &Cluster, kubectl: &Path) {
    let manifest = "apiVersion: test.pullpiri.io/v1
kind: Widget
metadata:
  name: one
spec:
  color: green
  replicas: 1
  size: 3
";
    let file = cluster.write("widget.yaml", manifest);
    let file = file.to_str().unwrap();
    let text = cluster.ok(kubectl, &["apply", "--server-side", "-f", file]).await;
    assert!(text.contains("serverside-applied"), "{text}");
    cluster.ok(kubectl, &["apply", "--server-side", "-f", file]).await;
    let text = cluster.ok(kubectl, &["get", "widgets"]).await;
    assert!(text.contains("COLOR") && text.contains("green") && !text.contains("SIZE"), "{text}");
    let text = cluster.ok(kubectl, &["get", "wd", "-o", "wide"]).await;
    assert!(text.contains("SIZE"), "{text}");
    let bad = cluster.write("bad.yaml", &manifest.replace("size: 3", "size: 3000\n  colour: red"));
    let text = cluster.fails(kubectl, &["apply", "-f", bad.to_str().unwrap()]).await;
    assert!(text.contains("spec.colour"), "{text}");
    let text = cluster.fails(kubectl, &["apply", "--validate=false", "-f", bad.to_str().unwrap()]).await;
    assert!(text.contains("spec.size"), "{text}");
    cluster
        .ok(
            kubectl,
            &[
                "patch",
                "widget",
                "one",
                "--subresource=status",
                "--type=merge",
                "-p",
                r#"{"status":{"phase":"Ready"}}"#,
            ],
        )
        .await;
    cluster.ok(kubectl, &["wait", "widget/one", "--for=jsonpath={.status.phase}=Ready", "--timeout=20s"]).await;
    cluster.ok(kubectl, &["scale", "widget/one", "--replicas=4"]).await;
    let text = cluster.ok(kubectl, &["get", "widget", "one", "-o", "jsonpath={.spec.replicas}"]).await;
    assert_eq!(text, "4");
    let text = cluster.ok(kubectl, &["describe", "widget", "one"]).await;
    assert!(text.contains("Phase:"), "{text}");
    cluster
        .ok(kubectl, &["wait", "crd/widgets.test.pullpiri.io", "--for=condition=Established", "--timeout=20s"])
        .await;
    cluster.ok(kubectl, &["delete", "widget", "one"]).await;
    cluster.ok(kubectl, &["delete", "crd", "widgets.test.pullpiri.io", "--timeout=20s"]).await;
}
