//! A term: kept by renewals, given back at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{Api, Client};
use pullpiri_reconcilers::lease::Record;
use serde_json::{Value, json};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::election::Election;
use crate::health::Health;

/// The annotation on the Lease that says what doesn't work, one problem a line.
pub const PROBLEMS: &str = "pullpiri.io/problems";
const PROBLEMS_PATH: &str = "/metadata/annotations/pullpiri.io~1problems";
const TELL_PAUSE: Duration = Duration::from_millis(500);
/// After a failure.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Our holding of the Lease. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Reign(Arc<Inner>);

struct Inner {
    client: Client,
    election: Election,
    transitions: AtomicI64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("transitions", &self.transitions).finish_non_exhaustive()
    }
}

/// Why a term's number wasn't raised.
#[derive(Debug, Error)]
pub enum RaiseError {
    #[error("the Lease is no longer ours")]
    NotOurs,
    #[error("raise the Lease's transitions to {to}")]
    Failed {
        to: i64,
        #[source]
        cause: kube::Error,
    },
}

/// Why a write to our Lease had no effect.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has another holder, or is gone.
    NotOurs,
    /// Perhaps the next one has.
    Failed(kube::Error),
}

impl Reign {
    pub(super) fn new(client: Client, election: Election, transitions: i64) -> Self {
        Self(Arc::new(Inner { client, election, transitions: AtomicI64::new(transitions) }))
    }

    /// What everything that is written in this term carries.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.0.transitions.load(Ordering::SeqCst)
    }

    /// Raises the epoch, for one that was made from nothing: the Lease was removed, and others acted under higher numbers before.
    ///
    /// # Errors
    /// [`RaiseError`]
    pub async fn raise(&self, to: i64) -> Result<(), RaiseError> {
        let wire = i32::try_from(to).unwrap_or(i32::MAX);
        match self.patch(vec![json!({"op": "replace", "path": "/spec/leaseTransitions", "value": wire})]).await {
            Ok(()) => {
                self.0.transitions.fetch_max(to, Ordering::SeqCst);
                Ok(())
            }
            Err(Refused::NotOurs) => Err(RaiseError::NotOurs),
            Err(Refused::Failed(cause)) => Err(RaiseError::Failed { to, cause }),
        }
    }

    /// Says on the Lease what keeps its holder from its work, until `over`. Written when that changes.
    pub async fn tell(&self, health: Health, over: CancellationToken) {
        let mut changes = health.changes();
        let mut told: Option<String> = None;
        loop {
            let problems = health.problems();
            let now = (!problems.is_empty()).then(|| problems.join("\n"));
            if now != told {
                // Without problems there is an empty line, not a missing one: it can be written without knowing what is there.
                let value = now.clone().unwrap_or_default();
                let operation = json!({"op": "add", "path": PROBLEMS_PATH, "value": value});
                match self.patch(vec![operation]).await {
                    Ok(()) => told = now,
                    Err(Refused::NotOurs) => return,
                    Err(Refused::Failed(error)) => tracing::debug!(%error, "the Lease isn't told of problems yet"),
                }
            }
            tokio::select! {
                () = over.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
            // What comes together is told together.
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(TELL_PAUSE) => {}
            }
        }
    }

    pub(super) async fn renew(&self) -> Result<(), Refused> {
        self.patch(vec![renewed_now()]).await
    }

    /// So that nobody has to wait for it to run out.
    pub(super) async fn give_back(&self) -> Result<(), Refused> {
        self.patch(vec![json!({"op": "replace", "path": "/spec/holderIdentity", "value": ""}), renewed_now()]).await
    }

    /// Changes the Lease if it is ours, in this term.
    async fn patch(&self, operations: Vec<Value>) -> Result<(), Refused> {
        let Inner { client, election, .. } = &*self.0;
        let transitions = self.epoch();
        let mut body = vec![
            json!({"op": "test", "path": "/spec/holderIdentity", "value": election.identity}),
            json!({"op": "test", "path": "/spec/leaseTransitions", "value": transitions}),
        ];
        body.extend(operations);
        let path = format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}?fieldManager=pullpiri-controllers",
            election.namespace, election.name
        );
        let request = Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/json-patch+json")
            .header(http::header::ACCEPT, "application/json")
            .body(Value::Array(body).to_string().into_bytes())
            .map_err(|cause| Refused::Failed(kube::Error::HttpError(cause)))?;
        match client.request::<Lease>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(Refused::NotOurs),
            // A test that fails is a 422, or whatever else a server makes of it.
            Err(cause @ kube::Error::Api(_)) => {
                let api: Api<Lease> = Api::namespaced(client.clone(), &election.namespace);
                match api.get_opt(&election.name).await {
                    Ok(lease) if self.is_ours(lease.as_ref()) => Err(Refused::Failed(cause)),
                    Ok(_) => Err(Refused::NotOurs),
                    Err(_) => Err(Refused::Failed(cause)),
                }
            }
            Err(cause) => Err(Refused::Failed(cause)),
        }
    }

    fn is_ours(&self, lease: Option<&Lease>) -> bool {
        let Some(lease) = lease else { return false };
        let record = Record::read(lease.spec.as_ref());
        record.holder.as_deref() == Some(self.0.election.identity.as_str()) && record.transitions == self.epoch()
    }
}

fn renewed_now() -> Value {
    json!({"op": "add", "path": "/spec/renewTime", "value": MicroTime(Timestamp::now())})
}
