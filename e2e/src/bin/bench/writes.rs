//! Durable creates per second: 32 writers, each on its own connection, 2 KB ConfigMaps.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use pullpiri_e2e::E2eError;
use pullpiri_e2e::process::{Pullpiri, free_address};
use serde_json::json;

use crate::Bench;
use crate::table::{median, to_f64};

const WRITERS: usize = 32;
const RUNS: usize = 5;
const SPAN: Duration = Duration::from_secs(3);

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("writes");
    let mut server = Pullpiri::start("apiserver", &data_dir, free_address()?, &[])?;
    let endpoint = server.ready().await?;
    let mut rates = Vec::new();
    for run in 0..RUNS {
        let began = Instant::now();
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let endpoint = endpoint.clone();
            writers.push(tokio::spawn(async move {
                let mut connection = endpoint.connect().await?;
                let mut written = 0_u64;
                while began.elapsed() < SPAN {
                    let name = format!("run-{run}-writer-{writer}-{written}");
                    let body = config_map(&name, 2048);
                    let path = "/api/v1/namespaces/default/configmaps";
                    let answer = connection.request(Method::POST, path, "application/json", body).await?;
                    if answer.status != StatusCode::CREATED {
                        let text = String::from_utf8_lossy(&answer.body).into_owned();
                        return Err(E2eError::failed(format!("creating {name}"), text));
                    }
                    written += 1;
                }
                Ok(written)
            }));
        }
        let mut written = 0;
        for writer in writers {
            written += writer.await.map_err(|error| E2eError::failed("a writer", error))??;
        }
        rates.push(to_f64(written) / began.elapsed().as_secs_f64());
    }
    bench.table.at_least("writes: durable creates of 2 KB objects with 32 writers", median(&rates), "1/s", 2000.0);
    server.stop();
    Ok(())
}

/// A ConfigMap of about `size` bytes as JSON.
pub(crate) fn config_map(name: &str, size: usize) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"payload": "x".repeat(size.saturating_sub(160))},
    });
    Bytes::from(object.to_string())
}
