//! What tests across processes and benchmarks share: the product's binary as a child process, a bare HTTPS client whose cost is known,
//! and waiting for states.
//!
//! Nothing here reaches beyond loopback. Everything that is started ends with the value that stands for it.

pub mod differential;
pub mod endpoint;
pub mod faults;
pub mod pair;
pub mod podman;
pub mod process;
pub mod real;
pub mod workload;

use std::future::Future;
use std::time::{Duration, Instant};

/// Why a step of a test or benchmark didn't work.
#[derive(Debug, thiserror::Error)]
pub enum E2eError {
    #[error("{what}: {message}")]
    Failed { what: String, message: String },
    #[error("{what}: not within {seconds} s; last seen: {last}")]
    TimedOut { what: String, seconds: u64, last: String },
}

impl E2eError {
    pub fn failed(what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Failed { what: what.into(), message: message.to_string() }
    }
}

/// Polls `probe` until it gives a value; an `Err` holds what was seen instead.
///
/// # Errors
/// [`E2eError::TimedOut`] with the last thing seen.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> Result<T, E2eError>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => {
                return Err(E2eError::TimedOut { what: what.to_owned(), seconds: limit.as_secs(), last });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}
