//! Everything under `/metrics` is what Prometheus' own checker accepts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use pullpiri_e2e::process::{Pullpiri, free_address};
use pullpiri_e2e::{E2eError, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn scrape(address: std::net::SocketAddr) -> Result<String, E2eError> {
    let failed = |error: std::io::Error| E2eError::failed("scraping", error);
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(failed)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| E2eError::failed("scraping", "no body"))?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    Ok(body.to_owned())
}

fn promtool(text: &str) {
    let mut checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test]
async fn promtool_accepts_the_metrics_of_every_part() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("skipped: no promtool (Debian package prometheus)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let metrics = free_address().unwrap();
    let listen = metrics.to_string();
    let arguments = ["--node", "meter", "--metrics-listen", &listen];
    let mut server = Pullpiri::start("up", &folder.path().join("data"), free_address().unwrap(), &arguments).unwrap();
    let endpoint = server.ready().await.unwrap();
    let mut connection = endpoint.connect().await.unwrap();
    let ours = wait_for("the metrics of all parts", std::time::Duration::from_secs(20), || async {
        let text = scrape(metrics).await.map_err(|error| error.to_string())?;
        let parts = ["pullpiri_apiserver_", "pullpiri_controllers_", "pullpiri_node_"];
        let missing: Vec<_> = parts.into_iter().filter(|part| !text.contains(part)).collect();
        if missing.is_empty() { Ok(text) } else { Err(format!("missing: {missing:?}")) }
    });
    promtool(&ours.await.unwrap());
    let of_the_server = connection.get("/metrics").await.unwrap();
    assert!(of_the_server.status.is_success());
    promtool(std::str::from_utf8(&of_the_server.body).unwrap());
}
