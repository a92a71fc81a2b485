//! `pullpiri node`: this ECU's node runtime, joined to a control plane elsewhere. The control plane may be away, at the start too.
//!
//! In a pod of a DaemonSet it lives in the host's mount namespace (`--host-mount-namespace`), where all of its paths are, so that what it starts
//! is nobody's container but its own. Of the pod it keeps an open directory with the service account's token, which the kubelet renews in there.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use kube::{Client, Config};
use prometheus_client::registry::Registry;
use pullpiri_agent::Claim;
use pullpiri_node_adapters::oci::Zygote;
use pullpiri_node_adapters::oci::zygote::Place;
use pullpiri_node_host::mount;

use crate::args::{HostOf, Node};
use crate::client::{self, connect};
use crate::control_plane::make_private;
use crate::fail::Failure;
use crate::metrics::{self, Sources};
use crate::{identity, shutdown, workloads};

/// Where the kubelet mounts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the control plane is reached.
#[derive(Debug)]
pub(crate) struct Cluster {
    way: Way,
    place: Place,
}

#[derive(Debug)]
enum Way {
    Kubeconfig(PathBuf),
    ServiceAccount {
        config: Box<Config>,
        /// Of the pod's mount namespace, which may have been left: token and authority are read through it.
        _directory: File,
    },
}

impl Cluster {
    /// Finds out, and enters the host's mount namespace if that is wanted. This process must have one thread.
    pub(crate) fn find(arguments: &Node) -> Result<Self, Failure> {
        let way = match &arguments.kubeconfig {
            Some(path) => Way::Kubeconfig(path.clone()),
            None => service_account(Path::new(SERVICE_ACCOUNT))?,
        };
        let host = arguments.host_mount_namespace.map(|of| match of {
            HostOf::Init => mount::HostOf::Init,
            HostOf::Runtime => mount::HostOf::Runtime,
        });
        let place = match host {
            Some(of) => {
                mount::enter_host(of).map_err(|error| Failure::from_error("--host-mount-namespace", &error))?;
                Place::Outside
            }
            None => Place::Beside,
        };
        Ok(Self { way, place })
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    async fn connect(&self, name: &str) -> Result<Client, Failure> {
        match &self.way {
            Way::Kubeconfig(path) => {
                identity::check(path, name)?;
                connect(Some(path)).await
            }
            Way::ServiceAccount { config, .. } => client::with(Config::clone(config)),
        }
    }

    /// The API server's name or address. A cluster's own address for it is translated on each node, and leads nowhere.
    async fn api_server(&self) -> Option<String> {
        match &self.way {
            Way::Kubeconfig(path) => client::host(path).await,
            Way::ServiceAccount { .. } => None,
        }
    }
}

fn service_account(directory: &Path) -> Result<Way, Failure> {
    let attempted = "finding the pod's service account; outside of a pod give a --kubeconfig";
    let mut config = Config::incluster_env().map_err(|error| Failure::from_error(attempted, &error))?;
    let directory = File::open(directory).map_err(|error| Failure::from_error(attempted, &error))?;
    let kept = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    config.root_cert_file = Some(kept.join("ca.crt"));
    config.auth_info.token_file = Some(kept.join("token").display().to_string());
    Ok(Way::ServiceAccount { config: Box::new(config), _directory: directory })
}

pub(crate) async fn run(arguments: &Node, cluster: Cluster, zygote: Zygote) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    let client = cluster.connect(&arguments.name).await?;
    let api_server = cluster.api_server().await;
    make_private(&arguments.data_dir)?;
    let _claim = Claim::on(&arguments.data_dir)?;
    let mut registry = Registry::default();
    let agent = workloads::agent(
        &arguments.name,
        &arguments.data_dir,
        &arguments.workloads,
        zygote,
        client,
        api_server,
        &mut registry,
    )
    .await?;
    let sources = Sources::new(registry, None).ready_when(agent.connected());
    metrics::serve(arguments.workloads.metrics_listen, sources, stop.clone()).await?;
    agent.run(stop).await.map_err(Failure::from)
}
