//! The node's heartbeat: a Lease that is renewed, and nothing else. One request each ten seconds. It is the NodeRuntime's own, and goes with it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use pullpiri_crds::names::{NODE_LEASE_NAMESPACE, node_lease};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Heartbeat;
use crate::metrics::Metrics;
use crate::retry::{Retry, Verdict, judge, sentence};

pub(crate) async fn beat(
    client: Client,
    node: String,
    times: Heartbeat,
    owner: watch::Receiver<Option<OwnerReference>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, NODE_LEASE_NAMESPACE);
    let mut held: Option<Lease> = None;
    let mut retry = Retry::default();
    let mut failures: u32 = 0;
    loop {
        let owner = owner.borrow().clone();
        let wait = match renew(&api, &node, times, owner, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                metrics.connected.set(1);
                if failures > 3 {
                    info!("the heartbeat is heard again");
                }
                failures = 0;
                retry.succeeded();
                times.renew
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if judge(&error) == Verdict::Transient {
                    metrics.connected.set(0);
                }
                // An API server of the same process takes a moment to be ready: that is no news.
                if failures == 8 {
                    warn!(error = sentence(&error), "the heartbeat isn't heard; what runs goes on");
                } else {
                    debug!(%error, "renewing the heartbeat failed");
                }
                retry.delay().min(times.renew)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(
    api: &Api<Lease>,
    node: &str,
    times: Heartbeat,
    owner: Option<OwnerReference>,
    held: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let name = node_lease(node);
    let current = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(&name).await?,
    };
    let now = MicroTime(Timestamp::now());
    match current {
        Some(mut lease) => {
            if let Some(owner) = owner {
                lease.metadata.owner_references = Some(vec![owner]);
            }
            let spec = lease.spec.get_or_insert_default();
            spec.renew_time = Some(now);
            spec.holder_identity = Some(node.to_owned());
            spec.lease_duration_seconds = seconds(times.hold);
            // With its resourceVersion: if somebody changed it, it is read again at the next beat.
            api.replace(&name, &PostParams::default(), &lease).await
        }
        None => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name),
                    owner_references: owner.map(|owner| vec![owner]),
                    ..Default::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(node.to_owned()),
                    lease_duration_seconds: seconds(times.hold),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    ..Default::default()
                }),
            };
            api.create(&PostParams::default(), &lease).await
        }
    }
}

fn seconds(span: Duration) -> Option<i32> {
    i32::try_from(span.as_secs()).ok()
}
