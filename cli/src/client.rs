//! Clients for commands that talk to an API server over the network.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::fail::Failure;

/// From the given kubeconfig, else from $KUBECONFIG, ~/.kube/config or the pod's service account.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Failure> {
    with(config(kubeconfig).await?)
}

/// As [`connect`], for who repeats what failed himself: every request is sent once.
pub(crate) async fn connect_once(kubeconfig: Option<&Path>) -> Result<Client, Failure> {
    let mut config = config(kubeconfig).await?;
    config.default_retry = false;
    with(config)
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, Failure> {
    let config = match kubeconfig {
        Some(path) => {
            let what = format!("reading {}", path.display());
            let file = Kubeconfig::read_from(path).map_err(|error| Failure::from_error(&what, &error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| Failure::from_error(&what, &error))?
        }
        None => Config::infer()
            .await
            .map_err(|error| Failure::from_error("finding a kubeconfig; give one with --kubeconfig", &error))?,
    };
    Ok(config)
}

pub(crate) fn with(config: Config) -> Result<Client, Failure> {
    Client::try_from(config).map_err(|error| Failure::from_error("making a Kubernetes client", &error))
}

/// The API server's name or address in a kubeconfig, if it says one.
pub(crate) async fn host(kubeconfig: &Path) -> Option<String> {
    let file = Kubeconfig::read_from(kubeconfig).ok()?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.ok()?;
    config.cluster_url.host().map(str::to_owned)
}
