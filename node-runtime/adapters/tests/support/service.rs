//! A podman of the tests' own: its service on a socket in a temporary directory, with its own storage. Nothing of it is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The service, until dropped.
#[derive(Debug)]
pub struct PodmanService {
    child: Child,
    dir: PathBuf,
}

impl PodmanService {
    /// Starts the service in `dir`; an error is the reason to skip.
    pub fn start(dir: &Path) -> Result<Self, String> {
        for program in ["podman", "runc", "conmon"] {
            if Command::new(program).arg("--version").output().is_err() {
                return Err(format!("no {program}"));
            }
        }
        // The limits that podman wants by default may be above those of this machine.
        let config = "[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n[engine]\nevents_logger=\"file\"\n";
        std::fs::write(dir.join("containers.conf"), config).map_err(|error| error.to_string())?;
        let child = Self::podman(dir)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", dir.join("podman.sock").display()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("podman.log")).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| format!("podman can't be run: {error}"))?;
        let mut service = Self { child, dir: dir.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(service.socket()).is_err() {
            if let Ok(Some(status)) = service.child.try_wait() {
                let log = std::fs::read_to_string(dir.join("podman.log")).unwrap_or_default();
                return Err(format!("podman's service ended with {status}: {log}"));
            }
            if Instant::now() > deadline {
                return Err("podman's service doesn't listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(service)
    }

    fn podman(dir: &Path) -> Command {
        let mut command = Command::new("podman");
        // vfs mounts nothing that could be left behind. conmon leaves a file named `oom` where it was started.
        command
            .current_dir(dir)
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("runroot"))
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime=runc"])
            .arg("--tmpdir")
            .arg(dir.join("tmp"))
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            .stdin(Stdio::null());
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("podman.sock")
    }

    /// What a podman command prints, by lines.
    #[allow(dead_code, reason = "each test crate uses its own part")]
    pub fn command(&self, arguments: &[&str]) -> Vec<String> {
        let output = Self::podman(&self.dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Ends the service and starts it again on the same storage; containers go on.
    #[allow(dead_code, reason = "each test crate uses its own part")]
    pub fn restart(&mut self) -> Result<(), String> {
        self.end();
        let fresh = Self::start(&self.dir.clone())?;
        // The old child has ended; the new one is this service's from now on.
        let mut fresh = std::mem::ManuallyDrop::new(fresh);
        std::mem::swap(&mut self.child, &mut fresh.child);
        Ok(())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.socket());
    }
}

impl Drop for PodmanService {
    fn drop(&mut self) {
        let _ = Self::podman(&self.dir).args(["pod", "rm", "--all", "--force", "--time=0"]).output();
        let _ = Self::podman(&self.dir).args(["rm", "--all", "--force", "--time=0"]).output();
        self.end();
    }
}
