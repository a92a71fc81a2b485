//! `/metrics` over plain HTTP, for `--metrics-listen`: everything that the parts of this process count. Beside it `/healthz`, that it answers at all,
//! and `/readyz`, that it does its work.
//!
//! prometheus-client writes OpenMetrics, where a counter's family has no `_total` and a text ends with `# EOF`. Scrapers ask for either form; the one that
//! they all read is Prometheus' text format 0.0.4, so that is what is sent.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fail::Failure;

/// Where the text comes from.
pub(crate) struct Sources {
    registry: Registry,
    server: Option<pullpiri_apiserver::ApiServer>,
    ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Sources {
    pub(crate) fn new(registry: Registry, server: Option<pullpiri_apiserver::ApiServer>) -> Self {
        Self { registry, server, ready: Box::new(|| Ok(())) }
    }

    /// What `/readyz` says, and why not; without this it is always ready.
    pub(crate) fn ready_if(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready = Box::new(ready);
        self
    }

    /// As [`Sources::ready_if`], of what gives no reason.
    pub(crate) fn ready_when(self, ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.ready_if(move || if ready() { Ok(()) } else { Err("not ready".to_owned()) })
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        let mut text = pullpiri_apiserver::prometheus_text(&text);
        if let Some(server) = &self.server {
            text.push_str(&server.metrics()?);
        }
        Ok(text)
    }
}

/// Binds the address and serves until `stop`. The bind is awaited, so that an address in use ends the program.
pub(crate) async fn serve(
    address: Option<SocketAddr>,
    sources: Sources,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::from_error(format!("listening on {address} for metrics"), &error))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving metrics");
    let sources = Arc::new(sources);
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a scraper's connection couldn't be accepted");
                        continue;
                    }
                },
            };
            let sources = Arc::clone(&sources);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&sources, &request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                if let Err(error) =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                {
                    tracing::debug!(%error, "a scraper's connection broke");
                }
            });
        }
    });
    Ok(())
}

fn answer(sources: &Sources, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match sources.text() {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match (sources.ready)() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
