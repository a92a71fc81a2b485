//! The differential suite: every request of `e2e/conformance/differential` is answered by a real kube-apiserver and by ours alike, but for
//! what the data lists with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use pullpiri_e2e::differential::{compare, load};
use pullpiri_e2e::endpoint::Endpoint;
use pullpiri_e2e::process::{Pullpiri, free_address};

/// What the suite promises to send at least, and how much of it is bad.
const REQUESTS: usize = 300;
const BAD: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A real kube-apiserver with an etcd, in a directory of its own; ended with the value.
struct Real {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Real {
    fn cluster(folder: &Path, verb: &[&str]) -> (bool, String) {
        let port = free_address().expect("a port").port();
        // Three ports in a row are used; those after a free one near the top of the range are free more often than not.
        let output = Command::new(root().join("hack/kube/cluster.sh"))
            .args(verb)
            .env("PULLPIRI_KUBE_DIR", folder.join("cluster"))
            .env("PULLPIRI_KUBE_PORT", port.to_string())
            .output()
            .expect("cluster.sh starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// `None` where there is no Go toolchain to build it.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (started, text) = Self::cluster(folder.path(), &["up", "--apiserver-only"]);
        if let Some(reason) = text.lines().find(|line| line.starts_with("skipped: ")) {
            println!("{reason}");
            return None;
        }
        assert!(started, "the real server doesn't start:\n{text}");
        let kubeconfig = folder.path().join("cluster/admin.kubeconfig");
        Some(Self { folder, kubeconfig })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        Self::cluster(self.folder.path(), &["down"]);
    }
}

/// A kubeconfig from the environment, for working on the scripts against servers that run already.
fn given(variable: &str) -> Option<Endpoint> {
    let path = std::env::var_os(variable)?;
    Some(Endpoint::from_kubeconfig(Path::new(&path)).expect("the kubeconfig is read"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_answer_alike() {
    let scripts = load(&root().join("e2e/conformance/differential")).expect("the scripts are read");
    let (real_server, real) = match given("PULLPIRI_DIFFERENTIAL_REAL") {
        Some(endpoint) => (None, endpoint),
        None => {
            let Some(server) = Real::start() else { return };
            let endpoint = Endpoint::from_kubeconfig(&server.kubeconfig).expect("its kubeconfig is read");
            (Some(server), endpoint)
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours_server, ours) = match given("PULLPIRI_DIFFERENTIAL_OURS") {
        Some(endpoint) => (None, endpoint),
        None => {
            let address = free_address().expect("a port");
            let mut server =
                Pullpiri::start("apiserver", &folder.path().join("ours"), address, &[]).expect("it starts");
            let endpoint = server.ready().await.expect("it gets ready");
            (Some(server), endpoint)
        }
    };
    let outcome = compare(&scripts, &real, &ours).await.expect("both servers can be talked to");
    println!(
        "{} requests, {} of them refused by the real server as they should be, {} differences listed",
        outcome.requests, outcome.refused, outcome.listed
    );
    for failure in &outcome.failures {
        println!("{failure}\n");
    }
    drop((real_server, ours_server));
    assert!(outcome.failures.is_empty(), "{} steps are answered differently", outcome.failures.len());
    assert!(outcome.requests >= REQUESTS, "{} requests", outcome.requests);
    assert!(outcome.refused >= BAD, "{} bad requests", outcome.refused);
}
