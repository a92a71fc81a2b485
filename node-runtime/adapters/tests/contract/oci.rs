//! The `oci` adapter under the contract, and an agent that can be killed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_adapters::oci::{OciOptions, OciRuntime, Zygote, ZygoteError, zygote};
use pullpiri_node_core::runtime::{NetworkMode, PodId};
use pullpiri_node_host::{cgroup, mount, process};

use super::{Backend, Narrow, support};

pub struct Oci {
    data: PathBuf,
    zygote: Mutex<Option<Zygote>>,
}

impl Oci {
    /// Fails with the reason to skip.
    pub async fn new(zygote: Result<Zygote, ZygoteError>, data: &Path, _archive: &Path) -> Result<Self, String> {
        let this = Self { data: data.to_owned(), zygote: Mutex::new(Some(zygote.map_err(|e| e.to_string())?)) };
        let runtime = this.runtime(OciOptions::default()).await.map_err(|e| e.to_string())?;
        runtime.probe().await.map_err(|e| e.to_string())?;
        Ok(this)
    }

    async fn runtime(&self, options: OciOptions) -> Result<OciRuntime, pullpiri_node_adapters::RuntimeError> {
        // The first has the forked zygote, those after it the executed one.
        let zygote = self.zygote.lock().unwrap().take().map_or_else(zygote::execute, Ok).unwrap();
        OciRuntime::open(&self.data, zygote, options).await
    }
}

impl Backend for Oci {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        Box::pin(async { Arc::new(self.runtime(OciOptions::default()).await.unwrap()) as Arc<dyn Runtime> })
    }

    fn open_narrow(&self, narrow: Narrow) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let options = OciOptions {
            log_max_bytes: narrow.log_max_bytes,
            log_max_files: 3,
            log_retention: narrow.retention,
            answer_deadline: narrow.answer_deadline,
            ..OciOptions::default()
        };
        Box::pin(async { Arc::new(self.runtime(options).await.unwrap()) as Arc<dyn Runtime> })
    }

    fn log_dir(&self, pod: &PodId) -> PathBuf {
        self.data.join("logs").join(&pod.0)
    }

    fn log<'a>(&'a self, pod: &'a PodId, container: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let path = self.data.join("logs").join(&pod.0).join(format!("{container}.log"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().filter_map(|l| l.split_once(' ')).map(|(_, l)| l.replacen(" F ", " ", 1)).collect()
        })
    }

    fn kill_sandbox<'a>(&'a self, _: &'a Arc<dyn Runtime>, pod: &'a PodId) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let pids = supervisors(pod);
            assert_eq!(pids.len(), 1, "one supervisor of {pod}");
            for pid in pids {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            true
        })
    }

    fn freeze_sandbox(&self, pod: &PodId) -> bool {
        for pid in supervisors(pod) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        }
        true
    }

    fn record_draft(&self, pod: &PodId, container: &str) -> Option<PathBuf> {
        Some(self.data.join("pods").join(&pod.0).join("c").join(container).join("record.new"))
    }

    fn leftovers(&self, pod: &PodId) -> Vec<String> {
        let mut found = Vec::new();
        let dir = self.data.join("pods").join(&pod.0);
        if dir.exists() {
            found.push(dir.display().to_string());
        }
        let uses = self.data.join("images/uses").join(format!("{}.json", pod.0));
        if uses.exists() {
            found.push(uses.display().to_string());
        }
        found.extend(mount::mounts_below(&dir).unwrap().into_iter().map(|m| m.display().to_string()));
        found.extend(supervisors(pod).into_iter().map(|p| format!("supervisor {p}")));
        let mut hierarchies = vec![PathBuf::from(cgroup::DEFAULT_ROOT)];
        hierarchies.extend(std::fs::read_dir(cgroup::DEFAULT_ROOT).unwrap().map(|e| e.unwrap().path()));
        for hierarchy in hierarchies {
            let group = hierarchy.join(cgroup::pod_group(&pod.0));
            if group.exists() {
                found.push(group.display().to_string());
            }
        }
        found
    }

    fn reports_oom(&self) -> bool {
        true
    }
}

/// Processes that hold the pod's lock, by what /proc says about their descriptors.
pub fn supervisors(pod: &PodId) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim() != "pullpiri-pod" {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let lock = format!("/pods/{}/lock", pod.0);
        if descriptors
            .flatten()
            .any(|d| std::fs::read_link(d.path()).is_ok_and(|t| t.to_string_lossy().ends_with(&lock)))
        {
            found.push(pid);
        }
    }
    found
}

const AGENT: &str = "__agent";

/// Becomes an agent that runs a pod, says so and waits to be killed, if this program was executed to be one: `__agent <data> <pod>
/// <file>`. Its container logs, waits for the file, logs again and exits with 7.
pub fn agent_main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, argument, data, pod, file] = arguments.as_slice() else { return };
    if argument != AGENT {
        return;
    }
    // Something that the agent's parent left open: no supervisor may hold it.
    let leaked = std::fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let zygote = zygote::fork().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let runtime = OciRuntime::open(Path::new(data), zygote, OciOptions::default()).await.unwrap();
        let inside = format!("/shared/{file}");
        let mut container = support::container("c", &["say", "before", "await", &inside, "say", "after", "exit", "7"]);
        container.mounts = vec![pullpiri_node_core::runtime::Mount {
            source: pullpiri_node_core::runtime::MountSource::Bind(Path::new(data).join("shared")),
            target: "/shared".into(),
            read_only: false,
        }];
        let forever = support::container("other", &["forever"]);
        runtime.run_pod(&support::pod(pod, NetworkMode::Own, vec![container, forever])).await.unwrap();
        println!("running");
        futures::future::pending::<()>().await;
    });
}

/// Starts such an agent and waits until its pod runs.
pub fn start_agent(data: &Path, pod: &PodId, file: &str) -> std::process::Child {
    use std::io::BufRead;
    std::fs::create_dir_all(data.join("shared")).unwrap();
    let mut child = std::process::Command::new("/proc/self/exe")
        .args([AGENT, data.to_str().unwrap(), &pod.0, file])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "running");
    child
}

/// The files that a pod's supervisor has open outside of the data directory, `/proc` and `/dev`.
pub fn foreign_files(pod: &PodId) -> Vec<String> {
    let mut found = Vec::new();
    for pid in supervisors(pod) {
        for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default().to_string_lossy().into_owned();
            if target.starts_with('/') && !target.starts_with("/dev/") && !target.contains(&pod.0) {
                found.push(target);
            }
        }
        found.extend(
            [std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_string_lossy().into_owned()]
                .into_iter()
                .filter(|cwd| cwd != "/"),
        );
    }
    found
}

/// A process is there and isn't a zombie.
pub fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| process::start_ticks(pid).is_ok())
        && std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}
