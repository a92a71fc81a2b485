//! A bare HTTP/1.1 client over TLS with a client certificate. One connection, one request at a time: what it costs is small and known,
//! which a benchmark needs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::E2eError;

/// An API server and a user's certificate for it.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    tls: TlsConnector,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Reads a kubeconfig with inline certificates.
    ///
    /// # Errors
    /// If the file can't be read or lacks something.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, E2eError> {
        let what = format!("reading {}", path.display());
        let failed = |message: String| E2eError::failed(what.clone(), message);
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let config: Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let decode = |holder: &Value, field: &str| {
            let text = holder[field].as_str().ok_or_else(|| failed(format!("no {field}")))?;
            STANDARD.decode(text).map_err(|error| failed(format!("{field}: {error}")))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&decode(cluster, "certificate-authority-data")?) {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        let chain = CertificateDer::pem_slice_iter(&decode(user, "client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed(error.to_string()))?;
        let key = decode(user, "client-key-data")?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| failed(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| failed(error.to_string()))?;
        let server = cluster["server"].as_str().unwrap_or_default();
        let address = server
            .trim_start_matches("https://")
            .parse()
            .map_err(|_| failed(format!("server {server:?} is no https://IP:PORT")))?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If nothing listens or the handshake fails.
    pub async fn connect(&self) -> Result<Connection, E2eError> {
        let failed = |message: String| E2eError::failed(format!("connecting to {}", self.address), message);
        let stream = TcpStream::connect(self.address).await.map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.address.to_string() })
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// An answer with its headers, read whole.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it isn't.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Connection {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If the connection breaks. An HTTP error is an [`Answer`].
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer, E2eError> {
        let failed = |message: String| E2eError::failed(format!("{method} {path}"), message);
        self.sender.ready().await.map_err(|error| failed(error.to_string()))?;
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("host", &self.host)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(error.to_string()))?;
        let answer = self.sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok(Answer { status, body })
    }

    /// Sends a request with these headers and reads the whole answer.
    ///
    /// # Errors
    /// If the connection breaks. An HTTP error is an answer.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Exchange, E2eError> {
        let failed = |message: String| E2eError::failed(format!("{method} {path}"), message);
        self.sender.ready().await.map_err(|error| failed(error.to_string()))?;
        let mut request = Request::builder().method(method.clone()).uri(path).header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(error.to_string()))?;
        let answer = self.sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok(Exchange { status: parts.status, headers: parts.headers, body })
    }

    /// GET, up to the answer's body.
    async fn opened(&mut self, path: &str) -> Result<hyper::body::Incoming, E2eError> {
        let failed = |message: String| E2eError::failed(format!("GET {path}"), message);
        self.sender.ready().await.map_err(|error| failed(error.to_string()))?;
        let request = Request::builder()
            .uri(path)
            .header("host", &self.host)
            .header("accept", "application/json")
            .body(Full::new(Bytes::new()))
            .map_err(|error| failed(error.to_string()))?;
        let answer = self.sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(failed(answer.status().to_string()));
        }
        Ok(answer.into_body())
    }

    /// GET of something long: its bytes are counted as they come, and thrown away.
    ///
    /// # Errors
    /// If the connection breaks, or the answer isn't 200.
    pub async fn drain(&mut self, path: &str) -> Result<usize, E2eError> {
        let (mut body, mut bytes) = (self.opened(path).await?, 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| E2eError::failed(format!("GET {path}"), error))?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// GET.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn get(&mut self, path: &str) -> Result<Answer, E2eError> {
        self.request(Method::GET, path, "application/json", Bytes::new()).await
    }
}

/// An open watch: one JSON document per line.
#[derive(Debug)]
pub struct Watch {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
    /// The connection ends when its sender is dropped.
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Turns the connection into a watch of `path`, which has `watch=1` in its query.
    ///
    /// # Errors
    /// If the server doesn't answer with 200.
    pub async fn watch(mut self, path: &str) -> Result<Watch, E2eError> {
        Ok(Watch { body: self.opened(path).await?, buffer: Vec::new(), _sender: self.sender })
    }
}

impl Watch {
    /// The next event.
    ///
    /// # Errors
    /// If the watch ends.
    pub async fn next(&mut self) -> Result<Value, E2eError> {
        let line = self.line().await?;
        serde_json::from_slice(&line).map_err(|error| E2eError::failed("reading a watch event", error))
    }

    /// The next event as it came.
    ///
    /// # Errors
    /// If the watch ends.
    pub async fn line(&mut self) -> Result<Vec<u8>, E2eError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.drain(..=end).collect());
            }
            let frame =
                self.body.frame().await.ok_or_else(|| E2eError::failed("watching", "the server ended the watch"))?;
            let frame = frame.map_err(|error| E2eError::failed("watching", error))?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}
