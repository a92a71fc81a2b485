//! The two servers, each with a new data directory: ours, and kube-apiserver with etcd.

use std::path::Path;
use std::time::{Duration, Instant};

use pullpiri_e2e::E2eError;
use pullpiri_e2e::endpoint::Endpoint;
use pullpiri_e2e::process::{Pullpiri, free_address};
use pullpiri_e2e::real::ControlPlane;

use crate::idle::{cpu_ticks, pss_kib, tree};
use crate::table::to_f64;

const LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to reach a server that starts.
const AGAIN: Duration = Duration::from_micros(500);

#[derive(Debug)]
enum Processes {
    Ours(Pullpiri),
    Theirs(ControlPlane),
}

/// A server that is ready.
#[derive(Debug)]
pub(super) struct Server {
    processes: Processes,
    pub(super) endpoint: Endpoint,
    /// From exec of its first process until /readyz answered with 200, in milliseconds.
    pub(super) ready_ms: f64,
}

impl Server {
    pub(super) async fn ours(data_dir: &Path) -> Result<Self, E2eError> {
        let server = Pullpiri::start("apiserver", data_dir, free_address()?, &[])?;
        let (kubeconfig, started) = (server.kubeconfig(), server.started);
        Self::until_ready(Processes::Ours(server), &kubeconfig, started).await
    }

    pub(super) async fn theirs() -> Result<Self, E2eError> {
        let plane = ControlPlane::start()?;
        let (kubeconfig, started) = (plane.kubeconfig.clone(), plane.started);
        Self::until_ready(Processes::Theirs(plane), &kubeconfig, started).await
    }

    async fn until_ready(processes: Processes, kubeconfig: &Path, started: Instant) -> Result<Self, E2eError> {
        loop {
            // The same certificate does for every attempt; a connection that is accepted is kept.
            if let Ok(endpoint) = Endpoint::from_kubeconfig(kubeconfig) {
                while started.elapsed() < LIMIT {
                    if let Ok(mut connection) = endpoint.connect().await {
                        while let Ok(answer) = connection.get("/readyz").await {
                            if answer.status.is_success() {
                                let ready_ms = started.elapsed().as_secs_f64() * 1e3;
                                return Ok(Self { processes, endpoint, ready_ms });
                            }
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
            if started.elapsed() >= LIMIT {
                let log = match &processes {
                    Processes::Ours(server) => server.log(),
                    Processes::Theirs(plane) => plane.log(),
                };
                return Err(E2eError::failed("waiting until a server is ready", log));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn pids(&self) -> Vec<u32> {
        match &self.processes {
            Processes::Ours(server) => tree(server.pid()),
            Processes::Theirs(plane) => plane.pids().into_iter().flat_map(tree).collect(),
        }
    }

    /// Of all its processes, in bytes.
    pub(super) fn pss(&self) -> f64 {
        to_f64(self.pids().into_iter().map(pss_kib).sum::<u64>() * 1024)
    }

    /// User and system time of all its processes so far, in milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        to_f64(self.pids().into_iter().map(cpu_ticks).sum::<u64>() * 10)
    }
}
