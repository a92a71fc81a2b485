//! `pullpiri controllers`: the controllers alone, against any Kubernetes API server. Of several, one acts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kube::Client;
use prometheus_client::registry::Registry;
use pullpiri_controllers::health::{Health, Unmet, check_version};
use pullpiri_controllers::lead::{self, Election, Gate, Standing, guarded};
use pullpiri_controllers::{Config, Controllers as Running, Metrics};
use pullpiri_crds::names::CONTROLLERS_LEASE_NAMESPACE;
use pullpiri_reconcilers::lease::Timing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::aggregated::{self, Aggregated};
use crate::args::Controllers;
use crate::client::connect_once;
use crate::fail::Failure;
use crate::metrics::{self, Sources};
use crate::shutdown;

/// Between looks at an API server that is too old, or isn't there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Where a pod finds its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

pub(crate) async fn run(arguments: &Controllers) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    let election = election(arguments)?;
    // Without retries of its own: what failed comes back with a delay of its own, and nothing is sent behind the lease's back.
    let client = connect_once(arguments.kubeconfig.as_deref()).await?;
    let health = Health::default();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let told = health.clone();
    let sources = Sources::new(registry, None).ready_if(move || told.ready());
    metrics::serve(arguments.metrics_listen, sources, stop.clone()).await?;
    let config = Config { health: health.clone(), ..Config::new(election.identity.clone(), metrics) };
    if !recent_enough(&guarded(client.clone(), Gate::always_open()), &health, &stop).await {
        return Ok(());
    }
    let (standing, stands) = watch::channel(Standing::default());
    let signals = match arguments.signals_listen {
        Some(address) => {
            let client = guarded(client.clone(), Gate::always_open());
            Some(Aggregated::start(address, client, &election.namespace, stands.clone()).await?)
        }
        None => None,
    };
    if !arguments.election.leader_elect {
        standing.send_replace(Standing::Leading { epoch: 1 });
        act(client, Gate::always_open(), config, signals, stop).await;
        return Ok(());
    }
    let following = tokio::spawn(follow(stands, health));
    lead::run(client.clone(), election, standing, stop, |reign, gate, over| {
        let config = Config { reign: Some(reign), ..config.clone() };
        act(client.clone(), gate, config, signals.clone(), over)
    })
    .await;
    following.abort();
    Ok(())
}

/// What is done while nobody else does it.
async fn act(client: Client, gate: Gate, config: Config, signals: Option<Aggregated>, over: CancellationToken) {
    let client = guarded(client, gate.clone());
    match signals {
        Some(signals) => signals.lead(client, gate, config, over).await,
        None => Running::run(client, config, over).await,
    }
}

/// A follower is ready once it knows whom it follows.
async fn follow(mut stands: watch::Receiver<Standing>, health: Health) {
    loop {
        match &*stands.borrow_and_update() {
            Standing::Unknown => health.pending(Some("looking for the holder of the lease")),
            Standing::Following { .. } => health.pending(None),
            // The controllers say so themselves.
            Standing::Leading { .. } => {}
        }
        if stands.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until the API server is one to work with. False: told to stop.
async fn recent_enough(client: &Client, health: &Health, stop: &CancellationToken) -> bool {
    let mut told = None;
    loop {
        let text = match check_version(client).await {
            Ok(()) => return true,
            Err(error @ Unmet::TooOld { .. }) => error.to_string(),
            Err(Unmet::NoAnswer(error)) => Failure::from_error("the API server doesn't answer", &error).to_string(),
        };
        health.pending(Some(&text));
        if told.as_ref() != Some(&text) {
            tracing::error!("{text}");
            told = Some(text);
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn election(arguments: &Controllers) -> Result<Election, Failure> {
    let given = &arguments.election;
    let timing = Timing::new(
        given.leader_elect_lease_duration,
        given.leader_elect_renew_deadline,
        given.leader_elect_retry_period,
    )
    .map_err(|error| Failure::from_error("--leader-elect-…", &error))?;
    let namespace = given.leader_elect_namespace.clone().unwrap_or_else(own_namespace);
    let advertised =
        arguments.signals_listen.map(|listen| aggregated::advertised(listen, arguments.signals_advertise.as_deref()));
    Ok(Election {
        namespace,
        name: given.leader_elect_name.clone(),
        identity: identity(),
        timing,
        annotations: advertised.into_iter().map(|address| (aggregated::ADDRESS.to_owned(), address)).collect(),
    })
}

fn own_namespace() -> String {
    first_line(Path::new(NAMESPACE_FILE)).unwrap_or_else(|| CONTROLLERS_LEASE_NAMESPACE.to_owned())
}

/// The pod's or host's name, and what no other process ever had: an epoch must not be shared by two that followed each other.
fn identity() -> String {
    let host = std::env::var("POD_NAME").ok().or_else(|| first_line(Path::new("/proc/sys/kernel/hostname")));
    let unique = first_line(Path::new("/proc/sys/kernel/random/uuid"));
    format!(
        "{}_{}",
        host.unwrap_or_else(|| "pullpiri".to_owned()),
        unique.unwrap_or_else(|| std::process::id().to_string())
    )
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
}
