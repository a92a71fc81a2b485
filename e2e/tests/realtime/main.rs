//! Real-time tasks on a real kernel: real containers, an agent in this process, threads as the kernel has them.
//!
//! The harness is our own because the `oci` adapter's zygote has to be forked before the process has a second thread. It takes a filter
//! as its argument, as `cargo test` passes it on, and prints as the standard harness does. What the machine lacks is `skipped: <reason>`.

// A test, but clippy knows tests by their attribute, which these don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../agent_support/mod.rs"]
mod agent_support;
mod apart;
mod cases;
mod rig;

use std::process::ExitCode;

use futures::future::BoxFuture;
use pullpiri_node_adapters::oci::{supervisor_main, zygote};
use rig::Rig;

type Case = (&'static str, for<'a> fn(&'a Rig) -> BoxFuture<'a, ()>);

fn main() -> ExitCode {
    supervisor_main();
    // Before there is a second thread.
    let zygote = zygote::fork();
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<Case> = cases::ALL
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter)))
        .copied()
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    // With RUST_LOG, what the agent says.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    println!("\nrunning {} tests", chosen.len());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rig = match runtime.block_on(async { Rig::new(zygote.map_err(|error| error.to_string())).await }) {
        Ok(rig) => std::sync::Arc::new(rig),
        Err(reason) => {
            println!("skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let mut failed = Vec::new();
    for (name, case) in &chosen {
        let rig = std::sync::Arc::clone(&rig);
        let outcome = runtime.block_on(async move {
            let case = *case;
            tokio::spawn(async move { case(&rig).await }).await
        });
        let ok = outcome.is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(*name);
        }
    }
    runtime.block_on(rig.stop());
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed: {failed:?}", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
