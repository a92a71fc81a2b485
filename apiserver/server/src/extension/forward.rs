//! From a follower to the leader: as the front proxy does it, with the certificate that replicas share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use super::certificate::Serving;
use super::identity::{self, Headers};
use super::trust::Trust;
use crate::auth::UserInfo;
use crate::http::Body;
use crate::http::body::BodyError;
use crate::status::Status;

/// A leader that can't be reached in this time is gone.
const CONNECT: Duration = Duration::from_secs(2);
/// What is between two neighbours only (RFC 9110, section 7.6.1), and what the connection itself says.
const HOP_BY_HOP: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// A way to one leader.
struct Way {
    address: String,
    trust: Arc<Trust>,
    client: Client,
}

#[derive(Default)]
pub(super) struct Forwarder(Mutex<Option<Way>>);

impl Forwarder {
    /// Sends a request on, for `user`.
    pub(super) async fn forward(
        &self,
        address: &str,
        trust: &Arc<Trust>,
        user: &UserInfo,
        mut head: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Status> {
        let unreachable = |why: &dyn std::fmt::Display| {
            tracing::debug!(address, %why, "the leader can't be reached");
            Status::service_unavailable("the leader of the controllers, which has the signals, can't be reached")
                .with_retry_after(1)
        };
        let client = self.way(address, trust).map_err(|error| unreachable(&error))?;
        for name in HOP_BY_HOP {
            head.headers.remove(name);
        }
        trust.headers.strip(&mut head.headers);
        Headers::default().strip(&mut head.headers);
        identity::say(user, &mut head.headers);
        let path = head.uri.path_and_query().cloned();
        let mut request = Request::new(kube::client::Body::from(body));
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        if let Some(path) = path {
            *request.uri_mut() = path.into();
        }
        let response = client.send(request).await.map_err(|error| unreachable(&error))?;
        let (mut head, body) = response.into_parts();
        for name in HOP_BY_HOP {
            head.headers.remove(name);
        }
        let chunks = body.into_data_stream().map(|chunk| chunk.map_err(|error| BodyError::new(&error)));
        Ok(Response::from_parts(head, Body::stream(chunks)))
    }

    fn way(&self, address: &str, trust: &Arc<Trust>) -> Result<Client, String> {
        let mut way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = way.as_ref()
            && way.address == address
            && Arc::ptr_eq(&way.trust, trust)
        {
            return Ok(way.client.clone());
        }
        let client = connect(address, &trust.serving)?;
        *way = Some(Way { address: address.to_owned(), trust: Arc::clone(trust), client: client.clone() });
        Ok(client)
    }
}

fn connect(address: &str, serving: &Serving) -> Result<Client, String> {
    let url = format!("https://{address}").parse().map_err(|error| format!("{address}: {error}"))?;
    let mut config = Config::new(url);
    let roots: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(serving.ca.as_bytes()).map(|der| der.map(|der| der.to_vec())).collect();
    config.root_cert = Some(roots.map_err(|error| error.to_string())?);
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    config.tls_server_name = Some(server_name(&serving.identity.certificate).ok_or("our certificate has no name")?);
    let auth: AuthInfo = serde_json::from_value(json!({
        "client-certificate-data": STANDARD.encode(&serving.identity.certificate),
        "client-key-data": STANDARD.encode(&serving.identity.key),
    }))
    .map_err(|error| error.to_string())?;
    config.auth_info = auth;
    Client::try_from(config).map_err(|error| error.to_string())
}

/// The first DNS name of a certificate.
fn server_name(pem: &str) -> Option<String> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}
