//! The node runtime of this process: its adapters and its agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use prometheus_client::registry::Registry;
use pullpiri_agent::{Agent, Config, NetworkConfig};
use pullpiri_crds::model::Adapter;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_adapters::kubernetes::KubernetesRuntime;
use pullpiri_node_adapters::oci::{OciOptions, OciRuntime, Zygote};
use pullpiri_node_adapters::podman::PodmanRuntime;

use crate::args::{RuntimeChoice, Workloads};
use crate::fail::Failure;

/// An agent over the adapters that this machine may have. The zygote was forked before this process had threads.
pub(crate) async fn agent(
    name: &str,
    data_dir: &Path,
    workloads: &Workloads,
    zygote: Zygote,
    client: Client,
    api_server: Option<String>,
    registry: &mut Registry,
) -> Result<Agent, Failure> {
    let data_dir = absolute(data_dir)?;
    let oci: Arc<dyn Runtime> = Arc::new(OciRuntime::open(&data_dir, zygote, OciOptions::default()).await?);
    let podman: Arc<dyn Runtime> = Arc::new(PodmanRuntime::new(&workloads.podman_socket, &data_dir));
    check(workloads.runtime, &oci, &podman).await?;
    let mut runtimes = vec![oci, podman];
    if let Some(node) = &workloads.kubernetes_node {
        runtimes.push(Arc::new(KubernetesRuntime::new(client.clone(), node)));
    } else if workloads.runtime == RuntimeChoice::Kubernetes {
        return Err(Failure::new(
            "--runtime kubernetes needs --kubernetes-node: the name of this machine's Kubernetes node",
        ));
    }
    let mut config = Config::new(name, data_dir);
    // Nobody can ask an unspecified address.
    config.metrics_address =
        workloads.metrics_listen.filter(|address| !address.ip().is_unspecified()).map(|address| address.to_string());
    config.stop_workloads = workloads.stop_workloads;
    config.network = NetworkConfig { uplink: workloads.uplink.clone(), link_rate_bps: workloads.link_rate, api_server };
    config.default_adapter = match workloads.runtime {
        RuntimeChoice::Auto => None,
        RuntimeChoice::Oci => Some(Adapter::Oci),
        RuntimeChoice::Podman => Some(Adapter::Podman),
        RuntimeChoice::Kubernetes => Some(Adapter::Kubernetes),
    };
    Ok(Agent::new(config, client, runtimes, registry)?)
}

/// A node that can run nothing says why and ends, rather than wait for work that it can't do.
async fn check(choice: RuntimeChoice, oci: &Arc<dyn Runtime>, podman: &Arc<dyn Runtime>) -> Result<(), Failure> {
    let candidates: &[&Arc<dyn Runtime>] = match choice {
        RuntimeChoice::Auto => &[oci, podman],
        RuntimeChoice::Oci => &[oci],
        // It may come later as well.
        RuntimeChoice::Kubernetes => return Ok(()),
        RuntimeChoice::Podman => {
            // Its service may come later, and is waited for.
            if let Err(error) = podman.probe().await {
                tracing::warn!(%error, "podman is this node's default runtime; its workloads wait until it answers");
            }
            return Ok(());
        }
    };
    let mut reasons = Vec::new();
    for runtime in candidates {
        match runtime.probe().await {
            Ok(_) => return Ok(()),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Failure::new(format!("no container runtime works here: {}", reasons.join("; "))))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::from_error(format!("resolving {}", path.display()), &error))
}
