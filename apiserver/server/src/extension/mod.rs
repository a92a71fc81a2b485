//! Virtual resources as an aggregated API of a real Kubernetes: the same server ([`ApiServer::virtual_only`]) behind an APIService.
//!
//! ```text
//! kubectl → kube-apiserver ──(front proxy)──→ any replica ──(if it follows)──→ the leader → ApiServer
//! ```
//!
//! * Who asks: the front proxy's certificate and its `X-Remote-*` headers, or a client certificate of the cluster's CA, both as ConfigMap
//!   kube-system/extension-apiserver-authentication says. A follower forwards as a front proxy of our own, with the certificate that all
//!   replicas share.
//! * Whether they may: a SubjectAccessReview, remembered for ten seconds.
//! * The certificate: made by the leader, kept in a Secret, its CA in the APIService's `caBundle`. Its CA's key isn't kept: a new certificate brings a
//!   new CA, and for a while both are trusted.
//!
//! What is served lives in the memory of the leader; with another leader it begins anew, and watches are told to list again.

mod certificate;
mod forward;
mod identity;
mod listen;
mod review;
mod trust;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::ApiServer;
use crate::http::Limits;

pub use certificate::keep_certificate;

/// How often what others keep (certificates, trust) is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// The same until it is there.
const LOOK_AT_FIRST: Duration = Duration::from_secs(1);

/// Whether this process may act at the moment.
pub type Acts = Arc<dyn Fn() -> bool + Send + Sync>;

/// What this replica is.
#[derive(Clone, Default)]
pub enum Role {
    /// Nobody is known to lead.
    #[default]
    Unknown,
    Leading {
        server: ApiServer,
        acts: Acts,
    },
    /// The leader's `host:port`.
    Following {
        address: String,
    },
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("Unknown"),
            Self::Leading { .. } => f.write_str("Leading"),
            Self::Following { address } => f.debug_struct("Following").field("address", address).finish(),
        }
    }
}

/// Where an aggregated API keeps what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the Secret.
    pub namespace: String,
    /// The Secret with certificate and key, shared by all replicas.
    pub secret: String,
    /// The APIService whose Service this is.
    pub api_service: String,
}

/// Serves until dropped. `client` reads what is trusted and asks whether somebody may; its requests must have an end.
pub async fn serve(listener: TcpListener, client: Client, settings: Settings, role: watch::Receiver<Role>) {
    let (trusted, trusts) = watch::channel(None);
    let limits = Limits::default();
    tokio::join!(
        trust::follow(client.clone(), settings, trusted),
        listen::accept(listener, client, trusts, role, &limits)
    );
}
