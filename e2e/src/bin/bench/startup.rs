//! `pullpiri apiserver`: exec → first authenticated answer, with a data directory it finds and with a new one.

use std::time::{Duration, Instant};

use pullpiri_e2e::process::{Pullpiri, free_address};
use pullpiri_e2e::{E2eError, endpoint::Endpoint};

use crate::Bench;
use crate::table::median;

const RUNS: usize = 15;

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("startup");
    let address = free_address()?;
    // The first start makes the keys that the others find.
    let mut first = Pullpiri::start("apiserver", &data_dir, address, &[])?;
    let endpoint = first.ready().await?;
    first.stop();
    let mut found = Vec::new();
    for _ in 0..RUNS {
        let mut server = Pullpiri::start("apiserver", &data_dir, address, &[])?;
        found.push(first_answer(&server, &endpoint).await?);
        server.stop();
    }
    bench.table.at_most("startup: apiserver exec → first authenticated answer", median(&found), "ms", 30.0);
    let mut fresh = Vec::new();
    for run in 0..RUNS {
        let data_dir = bench.path(&format!("startup-{run}"));
        let mut server = Pullpiri::start("apiserver", &data_dir, address, &[])?;
        // The kubeconfig is written last, so it's there whole or not at all.
        while Endpoint::from_kubeconfig(&server.kubeconfig()).is_err() {
            if server.started.elapsed() > Duration::from_secs(10) {
                return Err(E2eError::failed("a new data directory", server.log()));
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let endpoint = Endpoint::from_kubeconfig(&server.kubeconfig())?;
        fresh.push(first_answer(&server, &endpoint).await?);
        server.stop();
    }
    bench.table.report("startup: the same with a new data directory", median(&fresh), "ms");
    Ok(())
}

async fn first_answer(server: &Pullpiri, endpoint: &Endpoint) -> Result<f64, E2eError> {
    loop {
        if let Ok(mut connection) = endpoint.connect().await
            && let Ok(answer) = connection.get("/api/v1/namespaces/default").await
            && answer.status.is_success()
        {
            return Ok(server.started.elapsed().as_secs_f64() * 1e3);
        }
        if Instant::now().duration_since(server.started) > Duration::from_secs(10) {
            return Err(E2eError::failed("the first authenticated answer", server.log()));
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}
