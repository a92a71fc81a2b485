//! `pullpiri node`: this ECU's node runtime, joined to a control plane elsewhere. The control plane may be away, at the start too.

use prometheus_client::registry::Registry;
use pullpiri_agent::Claim;
use pullpiri_node_adapters::oci::Zygote;

use crate::args::Node;
use crate::client::{connect, host};
use crate::control_plane::make_private;
use crate::fail::Failure;
use crate::metrics::{self, Sources};
use crate::{identity, shutdown, workloads};

pub(crate) async fn run(arguments: &Node, zygote: Zygote) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    identity::check(&arguments.kubeconfig, &arguments.name)?;
    let client = connect(Some(&arguments.kubeconfig)).await?;
    let api_server = host(&arguments.kubeconfig).await;
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
    metrics::serve(arguments.workloads.metrics_listen, Sources::new(registry, None), stop.clone()).await?;
    agent.run(stop).await.map_err(Failure::from)
}
