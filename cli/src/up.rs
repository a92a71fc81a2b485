//! `pullpiri up`: API server, controllers and node runtime in one process. The controllers and the node reach the API server without a
//! socket, as users of their own.

use prometheus_client::registry::Registry;
use pullpiri_agent::Claim;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_controllers::{Config, Controllers, Metrics};
use pullpiri_crds::access::CONTROLLERS_USER;
use pullpiri_crds::names::{NODE_GROUP, NODE_USER_PREFIX};
use pullpiri_node_adapters::oci::Zygote;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::args::Up;
use crate::control_plane::{ControlPlane, make_private};
use crate::fail::Failure;
use crate::metrics::{self, Sources};
use crate::{shutdown, workloads};

const AUTHENTICATED: &str = "system:authenticated";

pub(crate) async fn run(arguments: &Up, zygote: Zygote) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    let node = match &arguments.node {
        Some(name) => name.clone(),
        None => hostname()?,
    };
    let crds = pullpiri_crds::all().into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    make_private(&arguments.serving.data_dir)?;
    let _claim = Claim::on(&arguments.serving.data_dir)?;
    let mut control_plane = ControlPlane::open(&arguments.serving, crds).await?;
    let server = control_plane.server.clone();

    let mut registry = Registry::default();
    let controllers = {
        let client = server.client(UserInfo::new(CONTROLLERS_USER, [AUTHENTICATED.to_owned()]));
        let config = Config::new(format!("pullpiri-controllers-{node}"), Metrics::register(&mut registry));
        Controllers::run(client, config, stop.child_token())
    };
    let user = UserInfo::new(format!("{NODE_USER_PREFIX}{node}"), [NODE_GROUP.to_owned(), AUTHENTICATED.to_owned()]);
    let data_dir = &arguments.serving.data_dir;
    let agent =
        workloads::agent(&node, data_dir, &arguments.workloads, zygote, server.client(user), None, &mut registry)
            .await?;
    metrics::serve(arguments.workloads.metrics_listen, Sources::new(registry, Some(server)), stop.clone()).await?;
    control_plane.serve(data_dir)?;

    let (controlled, ended) = run_both(tokio::spawn(controllers), agent.run(stop.clone()), &stop).await;
    // The API server goes last: the others' last words pass through it.
    control_plane.close().await?;
    controlled.map_err(|error| Failure::from_error("running the controllers", &error))?;
    ended.map_err(Failure::from)
}

/// Runs both until told to stop, or until one of them ends: a process without the other would only look as if it were well.
async fn run_both<T>(
    mut controllers: JoinHandle<()>,
    agent: impl Future<Output = T>,
    stop: &CancellationToken,
) -> (Result<(), JoinError>, T) {
    let mut agent = std::pin::pin!(agent);
    tokio::select! {
        ended = &mut agent => {
            stop.cancel();
            (controllers.await, ended)
        }
        controlled = &mut controllers => {
            stop.cancel();
            (controlled, agent.await)
        }
    }
}

fn hostname() -> Result<String, Failure> {
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).map_err(|error| Failure::from_error(format!("reading {path}"), &error))?;
    Ok(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn controllers_that_break_off_end_the_node_too() {
        let stop = CancellationToken::new();
        let broken = tokio::spawn(std::future::pending());
        broken.abort();
        let agent = stop.clone().cancelled_owned();
        let (controlled, ()) = run_both(broken, agent, &stop).await;
        assert!(stop.is_cancelled() && controlled.is_err());
        let stop = CancellationToken::new();
        let controllers = tokio::spawn(stop.clone().cancelled_owned());
        let (controlled, ended) = run_both(controllers, async { 7 }, &stop).await;
        assert!(controlled.is_ok() && ended == 7);
    }
}
