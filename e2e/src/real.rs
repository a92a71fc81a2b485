//! A real kube-apiserver on etcd, started by hack/kube/cluster.sh, for tests that compare with it or run against it.

use std::path::{Path, PathBuf};
use std::process::Command;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::E2eError;
use crate::process::free_address;

/// A running control plane; dropping it ends it.
#[derive(Debug)]
pub struct RealKube {
    folder: tempfile::TempDir,
    port: u16,
    pub kubeconfig: PathBuf,
}

fn hack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/kube/cluster.sh")
}

/// Where hack/kube/build.sh leaves the binaries.
fn binaries() -> PathBuf {
    std::env::var_os("PULLPIRI_KUBE_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kube/bin"))
}

impl RealKube {
    /// Why none can be started here.
    #[must_use]
    pub fn missing() -> Option<String> {
        let binary = binaries().join("kube-apiserver");
        if !binary.is_file() {
            return Some(format!("no {}; hack/kube/build.sh builds it", binary.display()));
        }
        if !hack().is_file() {
            return Some(format!("no {}", hack().display()));
        }
        let etcd = Command::new("etcd").arg("--version").output().is_ok_and(|output| output.status.success());
        (!etcd).then(|| "no etcd".to_owned())
    }

    fn script(folder: &Path, port: u16) -> Command {
        let mut command = Command::new(hack());
        command.env("PULLPIRI_KUBE_DIR", folder.join("kube")).env("PULLPIRI_KUBE_PORT", port.to_string());
        command.env("PULLPIRI_KUBE_BIN", binaries());
        command
    }

    /// Starts etcd and kube-apiserver; aggregated APIs are reached at their Service's external name.
    ///
    /// # Errors
    /// What the script said.
    pub fn start() -> Result<Self, E2eError> {
        let failed = |message: String| E2eError::failed("starting a kube-apiserver", message);
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        // The script uses a few ports from this one on.
        let port = free_address()?.port();
        let output = Self::script(folder.path(), port)
            .args(["up", "--apiserver-only"])
            .env("PULLPIRI_KUBE_APISERVER_FLAGS", "--enable-aggregator-routing=false")
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let _ended = Self::script(folder.path(), port).arg("down").output();
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let kubeconfig = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Self { folder, port, kubeconfig })
    }

    /// A client as its admin.
    ///
    /// # Errors
    /// If the kubeconfig can't be read.
    pub async fn client(&self) -> Result<Client, E2eError> {
        let failed = |message: String| E2eError::failed("making a client of the kube-apiserver", message);
        let file = Kubeconfig::read_from(&self.kubeconfig).map_err(|error| failed(error.to_string()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let mut config = config.map_err(|error| failed(error.to_string()))?;
        config.default_retry = false;
        Client::try_from(config).map_err(|error| failed(error.to_string()))
    }

    /// The folder with its certificates.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.folder.path().join("kube/pki")
    }
}

impl Drop for RealKube {
    fn drop(&mut self) {
        let _ended = Self::script(self.folder.path(), self.port).arg("down").output();
    }
}
