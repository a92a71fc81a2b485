//! The node's heartbeat: a Lease that is renewed, and nothing else. One request each ten seconds. It is the NodeRuntime's own, and goes with it.
//!
//! It is made as that. To make it that later takes the right to delete it where a cluster is strict about owners (the admission plugin
//! OwnerReferencesPermissionEnforcement, as OpenShift has it), which a node hasn't: then it is renewed as it is.

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
use crate::tenure::Holder;

/// How long a first heartbeat waits for its NodeRuntime: by then its kind is served, also where that was installed together with the node.
const FOR_OWNER: Duration = Duration::from_secs(30);

pub(crate) async fn beat(
    client: Client,
    (node, holder): (String, Holder),
    times: Heartbeat,
    mut owner: watch::Receiver<Option<OwnerReference>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut beat = Beat {
        api: Api::namespaced(client, NODE_LEASE_NAMESPACE),
        name: node_lease(&node),
        holder,
        times,
        held: None,
        rival: None,
        may_adopt: true,
    };
    let mut retry = Retry::default();
    let mut failures: u32 = 0;
    loop {
        let renewed = tokio::select! {
            () = stop.cancelled() => return,
            renewed = beat.renew(&mut owner) => renewed,
        };
        let wait = match renewed {
            Ok(lease) => {
                beat.held = Some(lease);
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

struct Beat {
    api: Api<Lease>,
    name: String,
    holder: Holder,
    times: Heartbeat,
    held: Option<Lease>,
    /// Another installation that was told of.
    rival: Option<String>,
    /// Whether the API server wasn't seen to refuse another owner.
    may_adopt: bool,
}

impl Beat {
    async fn renew(&mut self, owner: &mut watch::Receiver<Option<OwnerReference>>) -> Result<Lease, kube::Error> {
        let current = match self.held.take() {
            Some(lease) => Some(lease),
            None => self.api.get_opt(&self.name).await?,
        };
        let Some(mut lease) = current else { return self.create(owner).await };
        let spec = lease.spec.get_or_insert_default();
        // Who began while the API server wasn't in reach, or in the same moment.
        if let Some(rival) = self.holder.other(spec).filter(|rival| self.rival.as_deref() != Some(*rival)) {
            warn!("{rival} has held this node's lease: if that one still runs, give one of the two another --name");
            self.rival = Some(rival.to_owned());
        }
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.holder_identity = Some(self.holder.name());
        spec.lease_duration_seconds = seconds(self.times.hold);
        let owner = owner.borrow().clone().map(|owner| vec![owner]);
        if self.may_adopt && owner.is_some() && lease.metadata.owner_references != owner {
            let mut owned = lease.clone();
            owned.metadata.owner_references = owner;
            match self.replace(&owned).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    let kept = self.replace(&lease).await?;
                    debug!(message = status.message, "the heartbeat stays as it was made");
                    self.may_adopt = false;
                    return Ok(kept);
                }
                replaced => return replaced,
            }
        }
        self.replace(&lease).await
    }

    /// With its resourceVersion: if somebody changed it, it is read again at the next beat.
    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.api.replace(&self.name, &PostParams::default(), lease).await
    }

    async fn create(&self, owner: &mut watch::Receiver<Option<OwnerReference>>) -> Result<Lease, kube::Error> {
        // A node that may not register beats all the same: it may have been registered before.
        let owner = match tokio::time::timeout(FOR_OWNER, owner.wait_for(Option::is_some)).await {
            Ok(Ok(owner)) => owner.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: owner.map(|owner| vec![owner]),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.name()),
                lease_duration_seconds: seconds(self.times.hold),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..Default::default()
            }),
        };
        self.api.create(&PostParams::default(), &lease).await
    }
}

fn seconds(span: Duration) -> Option<i32> {
    i32::try_from(span.as_secs()).ok()
}
