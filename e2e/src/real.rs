//! A real kube-apiserver on etcd, started by hack/kube/cluster.sh, for tests that compare with it or run against it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::E2eError;
use crate::process::free_address;

/// The name of the node, if one is started.
pub const NODE: &str = "kube-node";

/// A running control plane that the script started; dropping it ends it.
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
            if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
                return Some("no Go toolchain".to_owned());
            }
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

    /// Why none with a node (kubelet, containerd) can be started here.
    #[must_use]
    pub fn missing_node() -> Option<String> {
        if let Some(missing) = Self::missing() {
            return Some(missing);
        }
        for name in ["kube-controller-manager", "kube-scheduler", "kubelet", "pause"] {
            let binary = binaries().join(name);
            if !binary.is_file() {
                return Some(format!("no {}; hack/kube/build.sh builds it", binary.display()));
            }
        }
        for command in ["containerd", "runc", "ip", "nsenter"] {
            if Command::new(command).arg("--version").output().is_err() {
                return Some(format!("no {command}"));
            }
        }
        if !nix::unistd::geteuid().is_root() {
            return Some("a node needs root".to_owned());
        }
        // Its names are fixed: one at a time.
        Path::new("/run/netns/pullpiri-kube").exists().then(|| "another cluster with a node runs".to_owned())
    }

    /// Starts etcd and kube-apiserver; aggregated APIs are reached at their Service's external name.
    ///
    /// # Errors
    /// What the script said.
    pub fn start() -> Result<Self, E2eError> {
        Self::start_with("")
    }

    /// The same with more flags of kube-apiserver.
    ///
    /// # Errors
    /// What the script said.
    pub fn start_with(flags: &str) -> Result<Self, E2eError> {
        Self::up("--apiserver-only", &format!("--enable-aggregator-routing=false {flags}"))
    }

    /// Starts a whole Kubernetes with the node [`NODE`].
    ///
    /// # Errors
    /// What the script said.
    pub fn start_node() -> Result<Self, E2eError> {
        Self::start_node_with("")
    }

    /// The same with more flags of kube-apiserver.
    ///
    /// # Errors
    /// What the script said.
    pub fn start_node_with(flags: &str) -> Result<Self, E2eError> {
        Self::up("--node", flags)
    }

    fn up(parts: &str, flags: &str) -> Result<Self, E2eError> {
        let failed = |message: String| E2eError::failed("starting a kube-apiserver", message);
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        // The script uses a few ports from this one on.
        let port = free_address()?.port();
        let output = Self::script(folder.path(), port)
            .args(["up", parts])
            .env("PULLPIRI_KUBE_APISERVER_FLAGS", flags)
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

    /// The script, for its other verbs (`import`, `run`).
    #[must_use]
    pub fn command(&self) -> Command {
        Self::script(self.folder.path(), self.port)
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

/// etcd and kube-apiserver with what the script gives them, as children of this process whose memory, CPU time and start are known. Dropping it ends
/// them.
#[derive(Debug)]
pub struct ControlPlane {
    children: Vec<Child>,
    /// Of the admin, with inline certificates.
    pub kubeconfig: PathBuf,
    /// When etcd was executed; kube-apiserver was at once after it.
    pub started: Instant,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts both with a new data directory, whose certificates are there already.
    ///
    /// # Errors
    /// What the script said, or if one of them can't be executed.
    pub fn start() -> Result<Self, E2eError> {
        let failed = |message: String| E2eError::failed("starting a kube-apiserver", message);
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let plan = RealKube::script(folder.path(), free_address()?.port()).arg("plan").output();
        let plan = plan.map_err(|error| failed(error.to_string()))?;
        if !plan.status.success() {
            return Err(failed(String::from_utf8_lossy(&plan.stderr).into_owned()));
        }
        let text = String::from_utf8_lossy(&plan.stdout).into_owned();
        let mut lines: Vec<&str> = text.lines().collect();
        let kubeconfig = PathBuf::from(lines.pop().unwrap_or_default());
        let log = std::fs::File::create(folder.path().join("log")).map_err(|error| failed(error.to_string()))?;
        let mut plane = Self { children: Vec::new(), kubeconfig, started: Instant::now(), folder };
        for line in lines {
            let mut words = line.split('\t');
            let mut command = Command::new(words.next().unwrap_or_default());
            let logs = log.try_clone().and_then(|out| Ok((out, log.try_clone()?)));
            let (out, err) = logs.map_err(|error| failed(error.to_string()))?;
            command.args(words).stdin(Stdio::null()).stdout(out).stderr(err);
            plane.children.push(command.spawn().map_err(|error| failed(format!("{line}: {error}")))?);
        }
        Ok(plane)
    }

    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// What they logged, for messages.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // kube-apiserver first: without etcd it would wait. It drains for longer than anybody needs here.
        for child in self.children.iter_mut().rev() {
            if let Ok(pid) = i32::try_from(child.id()) {
                // It may have ended.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            let deadline = Instant::now() + Duration::from_secs(2);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
