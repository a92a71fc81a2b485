//! Signals as an aggregated API, for `pullpiri controllers --signals-listen`: the leader has them, the others send on what they are asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kube::Client;
use pullpiri_apiserver::ApiServer;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::extension::{self, Role, Settings, keep_certificate};
use pullpiri_controllers::lead::{Gate, Standing};
use pullpiri_controllers::signal::ApiSignals;
use pullpiri_controllers::{Config, Controllers};
use pullpiri_crds::access::CONTROLLERS_USER;
use pullpiri_crds::signal;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fail::Failure;

/// The annotation on the Lease that says where its holder serves signals.
pub(crate) const ADDRESS: &str = "pullpiri.io/signals-address";
/// The Secret with the certificate, beside the Lease.
const SECRET: &str = "pullpiri-signals-tls";

/// Signals that are served by this process.
#[derive(Clone)]
pub(crate) struct Aggregated {
    definition: Value,
    settings: Settings,
    /// The server of the term, while there is one.
    leading: Arc<watch::Sender<Option<Role>>>,
}

impl Aggregated {
    /// Binds the address and serves from now on, as what `standing` says that this process is.
    pub(crate) async fn start(
        address: SocketAddr,
        client: Client,
        namespace: &str,
        standing: watch::Receiver<Standing>,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Failure::from_error(format!("listening on {address} for signals"), &error))?;
        let settings = Settings {
            namespace: namespace.to_owned(),
            secret: SECRET.to_owned(),
            api_service: format!("{}.{}", signal::VERSION, signal::GROUP),
        };
        let (leading, led) = watch::channel(None);
        let (role, roles) = watch::channel(Role::Unknown);
        tokio::spawn(roles_of(standing, led, role));
        tokio::spawn(extension::serve(listener, client, settings.clone(), roles));
        let definition = serde_json::to_value(signal::definition()?)?;
        Ok(Self { definition, settings, leading: Arc::new(leading) })
    }

    /// Runs the controllers of a term with the signals of the term, which begin and end with it.
    pub(crate) async fn lead(&self, client: Client, gate: Gate, config: Config, over: CancellationToken) {
        let server = match ApiServer::virtual_only(std::slice::from_ref(&self.definition)) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, "signals can't be served");
                return;
            }
        };
        let acts: extension::Acts = Arc::new(move || gate.is_open());
        self.leading.send_replace(Some(Role::Leading { server: server.clone(), acts }));
        let source = ApiSignals::new(server.client(UserInfo::new(CONTROLLERS_USER, [])));
        tokio::select! {
            () = Controllers::run_with(client.clone(), config, source, over) => {}
            () = keep_certificate(client, self.settings.clone()) => {}
        }
        self.leading.send_replace(None);
        server.stop();
    }
}

/// Only here is the role set, from both that decide it.
async fn roles_of(
    mut standing: watch::Receiver<Standing>,
    mut leading: watch::Receiver<Option<Role>>,
    role: watch::Sender<Role>,
) {
    loop {
        let now = match &*standing.borrow_and_update() {
            Standing::Leading { .. } => leading.borrow_and_update().clone().unwrap_or_default(),
            Standing::Following { annotations, .. } => match annotations.get(ADDRESS) {
                Some(address) => Role::Following { address: address.clone() },
                None => Role::Unknown,
            },
            Standing::Unknown => Role::Unknown,
        };
        role.send_replace(now);
        let changed = tokio::select! {
            changed = standing.changed() => changed,
            changed = leading.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Where other replicas reach this one.
pub(crate) fn advertised(listen: SocketAddr, given: Option<&str>) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    let pod: Option<IpAddr> = std::env::var("POD_IP").ok().and_then(|text| text.parse().ok());
    let ip = if listen.ip().is_unspecified() { pod.unwrap_or(listen.ip()) } else { listen.ip() };
    SocketAddr::new(ip, listen.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_given_is_told() {
        assert_eq!(advertised("10.0.0.1:8443".parse().unwrap(), None), "10.0.0.1:8443");
        assert_eq!(advertised("0.0.0.0:8443".parse().unwrap(), Some("ecu-1:443")), "ecu-1:443");
    }

    #[tokio::test]
    async fn the_role_follows_the_standing() {
        let (standing, stands) = watch::channel(Standing::Unknown);
        let (_leading, leads) = watch::channel(None);
        let (role, mut roles) = watch::channel(Role::Unknown);
        let task = tokio::spawn(roles_of(stands, leads, role));
        let annotations = [(ADDRESS.to_owned(), "10.0.0.2:8443".to_owned())].into();
        standing.send_replace(Standing::Following { holder: "b".to_owned(), annotations });
        let seen = roles.wait_for(|role| matches!(role, Role::Following { .. })).await.unwrap().clone();
        assert!(matches!(seen, Role::Following { address } if address == "10.0.0.2:8443"));
        // Elected, but the term's server isn't there yet.
        standing.send_replace(Standing::Leading { epoch: 2 });
        roles.wait_for(|role| matches!(role, Role::Unknown)).await.unwrap();
        drop(standing);
        task.await.unwrap();
    }
}
