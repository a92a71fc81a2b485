//! HTTP/1.1 over podman's unix socket: a connection for each request, since podman has no limit on them and a broken one then concerns
//! one request only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

/// The libpod API that podman 4.0 and all later ones serve. Without a host before it: podman 4 looks at the third part of what it is sent whether it is
/// asked as libpod or as docker, and a docker's stop has another parameter for its time.
const BASE: &str = "/v4.0.0/libpod";
/// An answer larger than this isn't one.
const MAX_ANSWER: usize = 64 << 20;

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(
        "there is no socket at {path}; start podman's API service, for instance with `systemctl enable --now podman.socket`"
    )]
    NoSocket { path: PathBuf },
    #[error("connecting to {path}: {source}")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{method} {path}: {message}")]
    Broken { method: Method, path: String, message: String },
    #[error("{method} {path}: no answer within {} s", within.as_secs_f64())]
    Late { method: Method, path: String, within: Duration },
    /// podman answered, and said no.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
}

impl HttpError {
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::NoSocket { .. } | Self::Connect { .. } | Self::Broken { .. } | Self::Late { .. } => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
    /// What podman may take to answer, beyond what it was told to wait for.
    deadline: Duration,
}

impl Client {
    pub fn new(socket: &Path, deadline: Duration) -> Self {
        Self { socket: socket.to_owned(), deadline }
    }

    /// The answer's status and body, unless podman says no.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        kind: &'static str,
    ) -> Result<http::Response<Incoming>, HttpError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => HttpError::NoSocket { path: self.socket.clone() },
            _ => HttpError::Connect { path: self.socket.clone(), source },
        })?;
        let broken = |error: &dyn std::fmt::Display| HttpError::Broken {
            method: method.clone(),
            path: path.to_owned(),
            message: error.to_string(),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{BASE}{path}"))
            .header(http::header::HOST, "podman")
            .header(http::header::CONTENT_TYPE, kind)
            .body(body)
            .map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let text = collect(response).await.map_err(|error| broken(&error))?;
        let message = serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|answer| answer.get("message")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&text).trim().to_owned());
        Err(HttpError::Refused { status, message })
    }

    /// [`read`](Self::read), unless that takes too long. podman goes on with what it does; who asks again finds what came of it.
    async fn read_in_time(
        &self,
        method: Method,
        path: &str,
        body: Body,
        allowance: Duration,
    ) -> Result<Bytes, HttpError> {
        let within = self.deadline.saturating_add(allowance);
        let answer = self.read(method.clone(), path, body, "application/json");
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Late { method, path: path.to_owned(), within }),
        }
    }

    async fn read(&self, method: Method, path: &str, body: Body, kind: &'static str) -> Result<Bytes, HttpError> {
        let response = self.send(method.clone(), path, body, kind).await?;
        collect(response).await.map_err(|error| HttpError::Broken {
            method,
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    fn parse<T: DeserializeOwned>(method: &Method, path: &str, answer: &[u8]) -> Result<T, HttpError> {
        serde_json::from_slice(answer).map_err(|error| HttpError::Broken {
            method: method.clone(),
            path: path.to_owned(),
            message: format!("the answer isn't what libpod v4 says: {error}"),
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let answer = self.read_in_time(Method::GET, path, empty(), Duration::ZERO).await?;
        Self::parse(&Method::GET, path, &answer)
    }

    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Bytes, HttpError> {
        let body = body.map_or_else(empty, |value| full(value.to_string()));
        self.read_in_time(Method::POST, path, body, Duration::ZERO).await
    }

    /// [`post`](Self::post) of what makes podman wait for as long as `allowance`.
    pub async fn post_and_wait(&self, path: &str, allowance: Duration) -> Result<Bytes, HttpError> {
        self.read_in_time(Method::POST, path, empty(), allowance).await
    }

    pub async fn create<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, HttpError> {
        let answer = self.post(path, Some(body)).await?;
        Self::parse(&Method::POST, path, &answer)
    }

    /// podman's version. `/version` tells it too, after asking the package manager about each of podman's programs: that takes seconds.
    pub async fn version(&self) -> Result<String, HttpError> {
        let (path, within) = ("/_ping", self.deadline);
        let asked = tokio::time::timeout(within, self.send(Method::GET, path, empty(), "application/json")).await;
        let late = |_| HttpError::Late { method: Method::GET, path: path.to_owned(), within };
        let response = asked.map_err(late)??;
        let version = response.headers().get("Libpod-API-Version").and_then(|version| version.to_str().ok());
        version.map(str::to_owned).ok_or_else(|| HttpError::Broken {
            method: Method::GET,
            path: path.to_owned(),
            message: "the answer names no libpod version; is this podman's socket?".to_owned(),
        })
    }

    /// What isn't there is as good as deleted.
    pub async fn delete(&self, path: &str) -> Result<(), HttpError> {
        match self.read_in_time(Method::DELETE, path, empty(), Duration::ZERO).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// However long it takes: an image may be large and the disk slow.
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, file: tokio::fs::File) -> Result<T, HttpError> {
        use futures::StreamExt;
        let frames = tokio_util::io::ReaderStream::with_capacity(file, 1 << 16).map(|chunk| chunk.map(Frame::data));
        let body = BodyExt::boxed(StreamBody::new(frames));
        let answer = self.read(Method::POST, path, body, "application/x-tar").await?;
        Self::parse(&Method::POST, path, &answer)
    }

    /// An answer that goes on.
    pub async fn stream(&self, path: &str) -> Result<Incoming, HttpError> {
        Ok(self.send(Method::GET, path, empty(), "application/json").await?.into_body())
    }
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

async fn collect(response: http::Response<Incoming>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    Ok(limited.collect().await?.to_bytes())
}

/// Percent-encoded for a path segment or a query's value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `filters=…` of a list or of events.
pub(super) fn filters(filters: &Value) -> String {
    format!("filters={}", encode(&filters.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("localhost/blis:1.0"), "localhost%2Fblis%3A1.0");
        assert_eq!(encode("a-b_c.d~é"), "a-b_c.d~%C3%A9");
    }

    #[tokio::test]
    async fn a_missing_socket_says_what_to_do() {
        let client = Client::new(Path::new("/nonexistent/podman.sock"), Duration::from_secs(60));
        let error = client.get::<Value>("/info").await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/podman.sock; start podman's API service"), "{error}");
    }

    #[tokio::test]
    async fn a_service_that_says_nothing_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("podman.sock");
        // The kernel takes the connection; nobody reads it.
        let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(&socket, Duration::from_millis(20));
        let limit = Duration::from_secs(60);
        for answer in [
            tokio::time::timeout(limit, client.get::<Value>("/info")).await.unwrap().err(),
            tokio::time::timeout(limit, client.post("/x", None)).await.unwrap().err(),
            tokio::time::timeout(limit, client.delete("/x")).await.unwrap().err(),
            tokio::time::timeout(limit, client.version()).await.unwrap().err(),
        ] {
            let error = answer.unwrap();
            assert!(matches!(&error, HttpError::Late { .. }) && error.to_string().contains("within 0.02 s"), "{error}");
        }
    }
}
