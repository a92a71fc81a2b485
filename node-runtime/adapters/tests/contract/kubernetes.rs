//! The `kubernetes` adapter under the contract, over a Kubernetes of the tests' own with a real kubelet (hack/kube).
//!
//! Its pods are never restarted, as the others' aren't by themselves: a kubelet does what the others leave to the node runtime. Cases that are about
//! what a kubelet keeps to itself aren't run, and say why.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use pullpiri_crds::model::RestartPolicy;
use pullpiri_crds::names::LABEL_INSTANCE_UID;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_adapters::kubernetes::KubernetesRuntime;
use pullpiri_node_core::runtime::{PodId, PodSpec};

use super::{Backend, Narrow};

/// As hack/kube/cluster.sh names its node, and that node's network namespace.
const NODE: &str = "kube-node";
const NETNS: &str = "/run/netns/pullpiri-kube";
const BINARIES: [&str; 5] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "pause"];

const RESTARTS: &str = "a kubelet restarts containers by itself";
const LATER: &str = "a kubelet takes a Pod up before it starts containers, and tells of what fails while the Pod waits";
const ELSEWHERE: &str = "its node is in a network namespace of its own here";
const KUBELETS: &str = "logs and sandboxes are the kubelet's";
const PROCESSES: &str = "a kubelet limits processes for all Pods alike";
/// What isn't run, and why.
const LACKS: [(&str, &str); 20] = [
    ("restarts_in_the_same_sandbox", RESTARTS),
    ("the_process_limit_holds", PROCESSES),
    ("a_missing_mount_source_is_refused", LATER),
    ("a_sub_path_never_leads_out_of_its_volume", RESTARTS),
    ("users_and_capabilities", "Kubernetes gives other users than root no capabilities"),
    ("a_bad_capability_is_refused", LATER),
    ("a_port_is_published_from_a_network_of_its_own", ELSEWHERE),
    ("a_pod_joins_a_network_namespace_that_is_there", "the cluster's network is the kubelet's to make"),
    ("the_host_network_is_the_nodes", ELSEWHERE),
    ("a_missing_image_is_named", LATER),
    ("a_missing_program_is_refused_and_nothing_stays", LATER),
    ("a_missing_working_directory_is_refused", LATER),
    ("a_failing_second_container_takes_the_first_with_it", LATER),
    ("a_start_that_cannot_be_recorded_spares_the_others", KUBELETS),
    ("a_killed_sandbox_takes_its_containers_with_it", KUBELETS),
    ("logs_of_removed_pods_are_kept_for_a_while", KUBELETS),
    ("a_flood_of_output_leaves_a_bounded_log", KUBELETS),
    ("a_frozen_sandbox_holds_nothing_up", KUBELETS),
    ("a_sandbox_without_descriptors_goes_on", KUBELETS),
    ("a_sandbox_that_cannot_be_reached_is_taken_over_later", KUBELETS),
];

pub struct Kubernetes {
    dir: PathBuf,
    port: u16,
    client: Client,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn script(dir: &Path, port: u16) -> Command {
    let mut command = Command::new(root().join("hack/kube/cluster.sh"));
    command.env("PULLPIRI_KUBE_DIR", dir).env("PULLPIRI_KUBE_PORT", port.to_string());
    command
}

impl Kubernetes {
    /// Fails with the reason to skip.
    pub async fn new(dir: &Path) -> Result<Self, String> {
        let built = root().join("target/kube/bin");
        for name in BINARIES {
            if !built.join(name).is_file() {
                return Err(format!(
                    "no {}; hack/kube/build.sh builds it where there is Go",
                    built.join(name).display()
                ));
            }
        }
        for command in ["etcd", "containerd", "runc", "ip", "nsenter"] {
            Command::new(command).arg("--version").output().map_err(|error| format!("{command}: {error}"))?;
        }
        if !nix::unistd::geteuid().is_root() {
            return Err("a node needs root".to_owned());
        }
        if Path::new(NETNS).exists() {
            return Err("another cluster with a node runs".to_owned());
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        let output = script(dir, port).args(["up", "--node"]).output().map_err(|error| error.to_string())?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let file = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        Ok(Self { dir: dir.to_owned(), port, client })
    }

    async fn runtime(&self) -> Arc<dyn Runtime> {
        let runtime = KubernetesRuntime::new(self.client.clone(), NODE);
        // Its watch begins with that.
        runtime.probe().await.expect("the API server answers");
        Arc::new(runtime)
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        let _ended = script(&self.dir, self.port).arg("down").output();
    }
}

impl Backend for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        Box::pin(self.runtime())
    }

    fn open_narrow(&self, _: Narrow) -> BoxFuture<'_, Arc<dyn Runtime>> {
        Box::pin(self.runtime())
    }

    fn load<'a>(&'a self, _: &'a Arc<dyn Runtime>, archive: &'a Path) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let status = script(&self.dir, self.port).arg("import").arg(archive).status();
            assert!(status.expect("the script can be run").success());
        })
    }

    fn lacks(&self, case: &str) -> Option<&'static str> {
        LACKS.iter().find(|(name, _)| *name == case).map(|(_, reason)| *reason)
    }

    fn adapt(&self, pod: &mut PodSpec) {
        pod.lifecycle.restart = RestartPolicy::Never;
        pod.lifecycle.grace_seconds = 1;
    }

    fn restarts(&self) -> bool {
        false
    }

    fn log_dir(&self, pod: &PodId) -> PathBuf {
        let entries = std::fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten();
        let prefix = format!("default_{pod}_");
        let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        found.next().map(|entry| entry.path()).unwrap_or_default()
    }

    fn log<'a>(&'a self, pod: &'a PodId, container: &'a str) -> BoxFuture<'a, Vec<String>> {
        let path = self.log_dir(pod).join(container).join("0.log");
        Box::pin(async move { super::cri_lines(&std::fs::read_to_string(path).unwrap_or_default()) })
    }

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
        let pods: Api<Pod> = Api::all(self.client.clone());
        let params = ListParams::default().labels(&format!("{LABEL_INSTANCE_UID}={pod}"));
        let list = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(pods.list(&params)));
        list.expect("Pods are listed").into_iter().filter_map(|pod| pod.metadata.name).collect()
    }

    fn reports_oom(&self) -> bool {
        // Not on cgroups of version 1.
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }
}
