//! The contract of [`Runtime`](pullpiri_node_adapters::Runtime), run against every adapter that works here.
//!
//! The harness is our own because the `oci` adapter's zygote has to be forked before the process has a second thread. It takes a filter
//! as its argument, as `cargo test` passes it on, and prints as the standard harness does. A case that needs what the machine lacks
//! prints `skipped: <reason>`.
//!
//! An adapter joins by a [`Backend`]. Cases touch a runtime through the trait alone; what the trait can't say (where the log is, what a
//! removed pod may have left behind) the backend says.

// A test, but clippy knows tests by their attribute, which these don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cases;
mod kubernetes;
mod oci;
mod podman;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use pullpiri_node_adapters::{LogRetention, Runtime, RuntimeEvent};
use pullpiri_node_core::runtime::{
    ContainerObserved, ContainerSpec, ContainerStateObserved, Exit, NetworkMode, PodId, PodObserved, PodSpec,
};

/// How long anything may take before a case gives up on it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Limits that a test can reach.
#[derive(Clone, Copy)]
struct Narrow {
    /// Of one log file.
    log_max_bytes: u64,
    retention: LogRetention,
    /// For a sandbox that should answer at once.
    answer_deadline: Duration,
}

impl Default for Narrow {
    fn default() -> Self {
        Self { log_max_bytes: 0, retention: LogRetention::default(), answer_deadline: DEADLINE }
    }
}

/// An adapter under test.
trait Backend: Send + Sync {
    fn name(&self) -> &'static str;

    /// A new adapter object over the same state as those before it.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>>;

    /// The same, with other limits.
    fn open_narrow(&self, narrow: Narrow) -> BoxFuture<'_, Arc<dyn Runtime>>;

    /// The directory of a pod's logs.
    fn log_dir(&self, pod: &PodId) -> PathBuf;

    /// What a container has logged, as `stdout one` or `stderr two` per line.
    fn log<'a>(&'a self, pod: &'a PodId, container: &'a str) -> BoxFuture<'a, Vec<String>>;

    /// Kills what keeps the pod's sandbox; `false` if the adapter has no such thing.
    fn kill_sandbox<'a>(&'a self, runtime: &'a Arc<dyn Runtime>, pod: &'a PodId) -> BoxFuture<'a, bool>;

    /// Stops what keeps the pod's sandbox with SIGSTOP; `false` if the adapter has no such thing.
    fn freeze_sandbox(&self, pod: &PodId) -> bool;

    /// Where a container's record is drafted before it takes the place of the last; `None` if the adapter has no such thing.
    fn record_draft(&self, pod: &PodId, container: &str) -> Option<PathBuf>;

    /// Whatever exists that belongs to the pod: processes, directories, mounts, cgroups.
    fn leftovers(&self, pod: &PodId) -> Vec<String>;

    /// Whether exits say that memory ran out.
    fn reports_oom(&self) -> bool;

    /// Whether the adapter starts containers anew, and doesn't leave that to what it is built on.
    fn restarts(&self) -> bool {
        true
    }

    /// Why this case can't be asked of the adapter, if it can't.
    fn lacks(&self, _case: &str) -> Option<&'static str> {
        None
    }

    /// Makes a pod of a case one that this adapter is given.
    fn adapt(&self, _pod: &mut PodSpec) {}

    /// Puts an image where the adapter's containers come from.
    fn load<'a>(&'a self, runtime: &'a Arc<dyn Runtime>, archive: &'a Path) -> BoxFuture<'a, ()> {
        Box::pin(async move { drop(runtime.load_image(archive).await.expect("the workload's image is loaded")) })
    }
}

/// Lines of a log in the form that Kubernetes and podman write, as `stdout one`.
fn cri_lines(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(4, ' ');
        let (_, stream, _, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(format!("{stream} {text}"))
    });
    lines.collect()
}

/// What a case works with.
struct Context {
    backend: Arc<dyn Backend>,
    runtime: Arc<dyn Runtime>,
    case: &'static str,
    dir: tempfile::TempDir,
}

type Case = (&'static str, for<'a> fn(&'a Context) -> BoxFuture<'a, ()>);

impl Context {
    fn id(&self, suffix: &str) -> PodId {
        PodId(format!("t{}-{}-{suffix}", std::process::id(), self.case.replace('_', "-")))
    }

    fn pod(&self, suffix: &str, network: NetworkMode, containers: Vec<ContainerSpec>) -> PodSpec {
        let mut pod = support::pod(&self.id(suffix).0, network, containers);
        self.backend.adapt(&mut pod);
        pod
    }

    /// Runs a pod and waits until all of its containers have begun.
    async fn start(&self, pod: &PodSpec) {
        self.runtime.run_pod(pod).await.unwrap();
        let has_begun = |one: &ContainerObserved| {
            matches!(one.state, ContainerStateObserved::Running { .. } | ContainerStateObserved::Exited(_))
        };
        self.until(&pod.id, "a start", |pod| pod.containers.iter().all(has_begun)).await;
    }

    /// Runs a pod in the host's network with one container `c`.
    async fn run(&self, suffix: &str, args: &[&str]) -> PodSpec {
        let pod = self.pod(suffix, NetworkMode::Host, vec![support::container("c", args)]);
        self.start(&pod).await;
        pod
    }

    async fn observed(&self, pod: &PodId) -> Option<PodObserved> {
        self.runtime.list().await.unwrap().into_iter().find(|p| p.id == *pod)
    }

    async fn container(&self, pod: &PodId, name: &str) -> Option<ContainerObserved> {
        self.observed(pod).await?.containers.into_iter().find(|c| c.name == name)
    }

    /// Waits by the adapter's events until the pod is as wanted.
    async fn until(&self, pod: &PodId, what: &str, wanted: impl Fn(&PodObserved) -> bool) -> PodObserved {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                if let Some(seen) = self.observed(pod).await.filter(&wanted) {
                    return seen;
                }
                loop {
                    match events.next().await.unwrap() {
                        RuntimeEvent::Container { pod: of, .. } | RuntimeEvent::Sandbox { pod: of } if of == *pod => {
                            break;
                        }
                        RuntimeEvent::Resync => break,
                        _ => {}
                    }
                }
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(seen) => seen,
            Err(_) => panic!("{what}: not within {DEADLINE:?}; now {:?}", self.observed(pod).await),
        }
    }

    /// Waits until a container has exited.
    async fn exit(&self, pod: &PodId, container: &str) -> Exit {
        let seen = self.until(pod, "an exit", |p| exit_of(p, container).is_some()).await;
        exit_of(&seen, container).unwrap()
    }

    /// Waits until a line is in the log.
    async fn logged(&self, pod: &PodId, container: &str, line: &str) -> Vec<String> {
        let wait = async {
            loop {
                let log = self.backend.log(pod, container).await;
                if log.iter().any(|l| l == line) {
                    return log;
                }
                // Logs are files: nothing tells that they grew.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(log) => log,
            Err(_) => panic!("{line:?} isn't logged: {:?}", self.backend.log(pod, container).await),
        }
    }

    /// The whole log of a container that ends by itself with code 0.
    async fn output(&self, pod: &PodId, container: &str) -> Vec<String> {
        let exit = self.exit(pod, container).await;
        let log = self.backend.log(pod, container).await;
        assert_eq!(exit.code, 0, "{log:?}");
        log
    }
}

fn exit_of(pod: &PodObserved, container: &str) -> Option<Exit> {
    pod.containers.iter().find(|c| c.name == container).and_then(|c| match &c.state {
        ContainerStateObserved::Exited(exit) => Some(exit.clone()),
        _ => None,
    })
}

fn pid_of(pod: &PodObserved, container: &str) -> Option<u32> {
    pod.containers.iter().find(|c| c.name == container).and_then(|c| match c.state {
        ContainerStateObserved::Running { pid, .. } => Some(pid),
        _ => None,
    })
}

fn main() -> ExitCode {
    pullpiri_node_adapters::oci::supervisor_main();
    oci::agent_main();
    let zygote = pullpiri_node_adapters::oci::zygote::fork();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in cases::ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let dir = match tempfile::Builder::new().prefix("pullpiri-contract-").tempdir() {
        Ok(dir) => dir,
        Err(e) => {
            println!("skipped: no temporary directory: {e}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Runtime::new().expect("an async runtime");
    let failed = runtime.block_on(run_all(zygote, dir.path(), &filter));
    drop(runtime);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run_all(
    zygote: Result<pullpiri_node_adapters::oci::Zygote, pullpiri_node_adapters::oci::ZygoteError>,
    dir: &Path,
    filter: &str,
) -> usize {
    let archive: PathBuf = match support::workload_archive(dir) {
        Ok(archive) => archive,
        Err(e) => {
            println!("skipped: no workload: {e}");
            return 0;
        }
    };
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    match oci::Oci::new(zygote, &dir.join("oci-data"), &archive).await {
        Ok(backend) => backends.push(Arc::new(backend)),
        Err(reason) => println!("skipped: oci: {reason}"),
    }
    match podman::Podman::new(&dir.join("podman")).await {
        Ok(backend) => backends.push(Arc::new(backend)),
        Err(reason) => println!("skipped: podman: {reason}"),
    }
    // A cluster is started for who asks for it only.
    if cases::ALL.iter().any(|(case, _)| format!("kubernetes::{case}").contains(filter)) {
        match kubernetes::Kubernetes::new(&dir.join("kubernetes")).await {
            Ok(backend) => backends.push(Arc::new(backend)),
            Err(reason) => println!("skipped: kubernetes: {reason}"),
        }
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for backend in backends {
        let runtime = backend.open().await;
        backend.load(&runtime, &archive).await;
        for (case, function) in cases::ALL {
            let name = format!("{}::{case}", backend.name());
            if !name.contains(filter) {
                continue;
            }
            if let Some(reason) = backend.lacks(case) {
                println!("test {name} ... not asked: {reason}");
                continue;
            }
            let dir = tempfile::tempdir().expect("a directory for the case");
            let context = Context { backend: Arc::clone(&backend), runtime: Arc::clone(&runtime), case, dir };
            let outcome = tokio::spawn(async move {
                function(&context).await;
                context
            })
            .await;
            match outcome {
                Ok(_) => {
                    passed += 1;
                    println!("test {name} ... ok");
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name.clone());
                }
            }
            let prefix = format!("t{}-{}-", std::process::id(), case.replace('_', "-"));
            for pod in runtime.list().await.unwrap_or_default() {
                if pod.id.0.starts_with(&prefix) {
                    runtime.remove_pod(&pod.id).await.expect("a case's pod is removed");
                }
            }
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored: {failed:?}\n", failed.len());
    failed.len()
}
