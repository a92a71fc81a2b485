//! The `podman` adapter under the contract, over a podman of the tests' own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_adapters::podman::{PodmanOptions, PodmanRuntime};
use pullpiri_node_core::runtime::PodId;

use super::service::PodmanService;
use super::{Backend, Narrow};

pub struct Podman {
    service: PodmanService,
    data: PathBuf,
}

impl Podman {
    /// Fails with the reason to skip.
    pub async fn new(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let this = Self { service: PodmanService::start(dir)?, data: dir.join("data") };
        this.runtime().probe().await.map_err(|error| error.to_string())?;
        Ok(this)
    }

    fn runtime(&self) -> PodmanRuntime {
        PodmanRuntime::new(&self.service.socket(), &self.data)
    }
}

impl Backend for Podman {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        Box::pin(async { Arc::new(self.runtime()) as Arc<dyn Runtime> })
    }

    fn open_narrow(&self, narrow: Narrow) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let options = PodmanOptions {
            log_max_bytes: narrow.log_max_bytes,
            log_retention: narrow.retention,
            ..PodmanOptions::default()
        };
        let runtime = PodmanRuntime::with_options(&self.service.socket(), &self.data, &options);
        Box::pin(async { Arc::new(runtime) as Arc<dyn Runtime> })
    }

    fn log_dir(&self, pod: &PodId) -> PathBuf {
        self.data.join("podman/logs").join(&pod.0)
    }

    fn log<'a>(&'a self, pod: &'a PodId, container: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            super::cri_lines(&std::fs::read_to_string(self.runtime().log_path(pod, container)).unwrap_or_default())
        })
    }

    /// The infra container's end takes nothing with it: containers have their own process namespaces.
    fn kill_sandbox<'a>(&'a self, _: &'a Arc<dyn Runtime>, _: &'a PodId) -> BoxFuture<'a, bool> {
        Box::pin(async { false })
    }

    fn freeze_sandbox(&self, _: &PodId) -> bool {
        false
    }

    fn record_draft(&self, _: &PodId, _: &str) -> Option<PathBuf> {
        None
    }

    fn leftovers(&self, pod: &PodId) -> Vec<String> {
        let label = format!("label=io.pullpiri.pod={pod}");
        let containers = ["ps", "--all", "--filter", &label, "--format", "{{.Names}}"];
        let pods = ["pod", "ps", "--filter", &label, "--format", "{{.Name}}"];
        [self.service.command(&containers), self.service.command(&pods)].concat()
    }

    fn reports_oom(&self) -> bool {
        // Not on cgroups of version 1.
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }
}
