//! A podman service of our own: its storage, socket and configuration in one folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::E2eError;

/// A running `podman system service`. Dropping it ends the service and removes its containers.
#[derive(Debug)]
pub struct Podman {
    folder: PathBuf,
    service: Child,
}

impl Podman {
    /// Whether podman and runc are on this machine.
    #[must_use]
    pub fn available() -> bool {
        ["podman", "runc"].iter().all(|command| {
            Command::new(command)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
    }

    /// Starts the service and waits for its socket.
    ///
    /// # Errors
    /// If it doesn't come up.
    pub fn start(folder: &Path) -> Result<Self, E2eError> {
        let what = "starting a podman service";
        std::fs::create_dir_all(folder).map_err(|error| E2eError::failed(what, error))?;
        // Limits above the hard ones of this process can't be given to containers.
        let configuration = "[containers]\ndefault_ulimits=[\"nofile=16384:16384\",\"nproc=16384:16384\"]\n[engine]\nevents_logger=\"file\"\n";
        std::fs::write(folder.join("containers.conf"), configuration).map_err(|error| E2eError::failed(what, error))?;
        let socket = format!("unix://{}", folder.join("podman.sock").display());
        let mut command = Self::command_in(folder);
        command
            .args(["system", "service", "--time=0", &socket])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let service = command.spawn().map_err(|error| E2eError::failed(what, error))?;
        let podman = Self { folder: folder.to_path_buf(), service };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !podman.socket().exists() {
            if Instant::now() >= deadline {
                return Err(E2eError::failed(what, "no socket after 20 s"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(podman)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("podman.sock")
    }

    /// `podman …` on this service's storage.
    ///
    /// # Errors
    /// If it exits with anything but 0.
    pub fn run(&self, arguments: &[&str]) -> Result<String, E2eError> {
        let what = format!("podman {}", arguments.join(" "));
        let output = Self::command_in(&self.folder)
            .args(arguments)
            .output()
            .map_err(|error| E2eError::failed(what.clone(), error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(E2eError::failed(what, String::from_utf8_lossy(&output.stderr)))
        }
    }

    fn command_in(folder: &Path) -> Command {
        let mut command = Command::new("podman");
        // conmon leaves a file named `oom` where it was started.
        command.current_dir(folder).env("CONTAINERS_CONF", folder.join("containers.conf"));
        command
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--runroot")
            .arg(folder.join("run"))
            .arg("--tmpdir")
            .arg(folder.join("tmp"));
        command.args(["--cgroup-manager=cgroupfs", "--runtime=runc"]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Best effort: what is left is in a folder that goes away with its owner.
        let _ = self.run(&["rm", "--all", "--force", "--time=0"]);
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}
