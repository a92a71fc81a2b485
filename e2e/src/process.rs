//! The product's binary as a child process, in a directory and on a port of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::E2eError;
use crate::endpoint::Endpoint;

/// The binary under test: `$PULLPIRI_BIN`, else the one beside this program.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf, E2eError> {
    let beside = std::env::current_exe().ok().and_then(|path| {
        path.ancestors().skip(1).take(3).map(|folder| folder.join("pullpiri")).find(|candidate| candidate.is_file())
    });
    std::env::var_os("PULLPIRI_BIN").map(PathBuf::from).filter(|path| path.is_file()).or(beside).ok_or_else(|| {
        E2eError::failed(
            "finding the pullpiri binary",
            "set PULLPIRI_BIN or run `cargo build --package pullpiri` first",
        )
    })
}

/// The static demo service: `$PULLPIRI_DEMO_SERVICE`, else where hack/tools.sh builds it.
///
/// # Errors
/// If there is none; `make test` builds it.
pub fn demo_service() -> Result<PathBuf, E2eError> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/release/demo-service");
    std::env::var_os("PULLPIRI_DEMO_SERVICE")
        .map(PathBuf::from)
        .into_iter()
        .chain([built])
        .find(|path| path.is_file())
        .ok_or_else(|| E2eError::failed("finding the demo service", "set PULLPIRI_DEMO_SERVICE; `make test` builds it"))
}

/// A loopback address that nothing listens on now, below the ports that the kernel gives to connections (ip(7),
/// `ip_local_port_range`): until a server takes it, no connection of another test does.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Result<SocketAddr, E2eError> {
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 20_000;
    static TURN: AtomicU32 = AtomicU32::new(0);
    // Processes of tests that run at once begin at different places.
    let start = std::process::id().wrapping_mul(97);
    (0..PORTS)
        .filter_map(|_| {
            let turn = start.wrapping_add(TURN.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(FIRST + turn % PORTS).ok()?;
            TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr()).ok()
        })
        .next()
        .ok_or_else(|| E2eError::failed("finding a free port", "none of 20,000"))
}

/// A running `pullpiri`. Dropping it sends SIGTERM, then SIGKILL after ten seconds.
#[derive(Debug)]
pub struct Pullpiri {
    child: Child,
    pub data_dir: PathBuf,
    pub address: SocketAddr,
    pub started: Instant,
    log: PathBuf,
}

impl Pullpiri {
    /// Starts `pullpiri COMMAND --data-dir DIR --listen ADDRESS EXTRA…`. Its log goes to `DIR.log`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(command: &str, data_dir: &Path, address: SocketAddr, extra: &[&str]) -> Result<Self, E2eError> {
        let what = format!("starting pullpiri {command}");
        let log = data_dir.with_extension("log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|error| E2eError::failed(format!("opening {}", log.display()), error))?;
        let other = file.try_clone().map_err(|error| E2eError::failed(what.clone(), error))?;
        let mut process = Command::new(binary()?);
        process.arg(command).arg("--data-dir").arg(data_dir).arg("--listen").arg(address.to_string()).args(extra);
        process.stdin(Stdio::null()).stdout(file).stderr(other);
        let started = Instant::now();
        let child = process.spawn().map_err(|error| E2eError::failed(what, error))?;
        Ok(Self { child, data_dir: data_dir.to_path_buf(), address, started, log })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig.yaml")
    }

    /// What it logged, for messages.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// If it ends first, or doesn't get ready.
    pub async fn ready(&mut self) -> Result<Endpoint, E2eError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(E2eError::failed(
                    "waiting for pullpiri",
                    format!("it ended with {status}:\n{}", self.log()),
                ));
            }
            if let Ok(endpoint) = Endpoint::from_kubeconfig(&self.kubeconfig())
                && endpoint.address == self.address
                && let Ok(mut connection) = endpoint.connect().await
                && let Ok(answer) = connection.get("/readyz").await
                && answer.status.is_success()
            {
                return Ok(endpoint);
            }
            if Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for pullpiri", format!("not ready after 30 s:\n{}", self.log())));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended; then there is nothing to signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end; the exit code if there is one.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill9();
        None
    }
}

impl Drop for Pullpiri {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Runs the binary to its end; stdout if it exits with 0.
///
/// # Errors
/// With stderr otherwise.
pub fn run(arguments: &[&str]) -> Result<String, E2eError> {
    let what = format!("pullpiri {}", arguments.join(" "));
    let output =
        Command::new(binary()?).args(arguments).output().map_err(|error| E2eError::failed(what.clone(), error))?;
    if !output.status.success() {
        let message = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        return Err(E2eError::failed(what, message));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
