//! `pullpiri controllers`: the controllers alone, against any Kubernetes API server.

use prometheus_client::registry::Registry;
use pullpiri_controllers::{Config, Controllers as Running, Metrics};

use crate::args::Controllers;
use crate::client::connect;
use crate::fail::Failure;
use crate::metrics::{self, Sources};
use crate::shutdown;

pub(crate) async fn run(arguments: &Controllers) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    let client = connect(arguments.kubeconfig.as_deref()).await?;
    let mut registry = Registry::default();
    let config = Config::new(format!("pullpiri-controllers-{}", std::process::id()), Metrics::register(&mut registry));
    metrics::serve(arguments.metrics_listen, Sources::new(registry, None), stop.clone()).await?;
    Running::run(client, config, stop).await;
    Ok(())
}
