//! `pullpiri`: the one binary, all roles.

mod aggregated;
mod apiserver;
mod args;
mod client;
mod control_plane;
mod controllers;
mod convert;
mod fail;
mod identity;
mod image;
mod kubeconfig;
mod logging;
mod metrics;
mod net;
mod node;
mod out;
mod purge;
mod schedule;
mod shutdown;
mod signal;
mod storage;
mod top;
mod up;
mod values;
mod workloads;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use clap_complete::generate;

use pullpiri_node_host::{descriptors, memory};
use tokio::time;

use args::{Cli, Command, Shell};
use fail::Failure;
use pullpiri_node_adapters::oci;

/// By then a start is over.
const STARTED: Duration = Duration::from_secs(5);
/// Often enough that a burst of work isn't held against an idle ECU, rare enough to cost nothing (a millisecond each).
const RELEASE_EVERY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    oci::supervisor_main();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("pullpiri: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Up(arguments) => {
            // Before the first thread: supervisors are forked from it.
            let zygote = oci::zygote::fork()?;
            logging::start(cli.log_format);
            serve(up::run(&arguments, zygote))?;
        }
        Command::Apiserver(arguments) => {
            logging::start(cli.log_format);
            serve(apiserver::run(&arguments))?;
        }
        Command::Controllers(arguments) => {
            logging::start(cli.log_format);
            serve(controllers::run(&arguments))?;
        }
        Command::Node(arguments) => {
            // Before the first thread, too: threads share what a mount namespace changes.
            let cluster = node::Cluster::find(&arguments)?;
            let zygote = oci::zygote::fork_at(cluster.place())?;
            logging::start(cli.log_format);
            serve(node::run(&arguments, cluster, zygote))?;
        }
        Command::Convert(arguments) => {
            let guesses = if arguments.strict { convert::Guesses::Refuse } else { convert::Guesses::Warn };
            if !convert::run(&arguments.paths, guesses)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Crds => print_crds()?,
        Command::Signal(arguments) => block_on(signal::run(&arguments.verb))?,
        Command::Top(arguments) => block_on(top::run(&arguments))?,
        Command::Net(arguments) => return Ok(net::exit(block_on(net::run(&arguments.verb)))),
        Command::Schedule(arguments) => return schedule::run(&arguments.verb),
        Command::Image(arguments) => image::run(&arguments.verb)?,
        Command::Purge(arguments) => block_on(purge::run(&arguments))?,
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments)?,
        Command::Completion { shell } => {
            let generator = match shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            let mut script = Vec::new();
            generate(generator, &mut Cli::command(), "pullpiri", &mut script);
            out::line(String::from_utf8_lossy(&script).trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Two worker threads: an ECU has few cores to spare, and nothing here computes for long.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(work);
    // What still blocks (a client's last answer) doesn't keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// A command that runs for months: what its start touched and nothing needs any more goes back to the kernel, soon and then every minute.
///
/// It may have as many clients as the node allows. The zygote is forked before, so that no container gets to know of that.
fn serve<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match descriptors::raise_limit() {
        Ok(most) => tracing::debug!(most, "files that may be open"),
        Err(error) => tracing::warn!(%error, "no more files may be open than usual"),
    }
    block_on(async {
        let mut due = time::interval_at(time::Instant::now() + STARTED, RELEASE_EVERY);
        tokio::spawn(async move {
            loop {
                due.tick().await;
                if let Err(error) = memory::release_unused() {
                    tracing::debug!(%error, "memory isn't given back");
                }
            }
        });
        work.await
    })
}

fn print_crds() -> Result<(), Failure> {
    for crd in pullpiri_crds::all() {
        out::line(&format!("---\n{}", serde_saphyr::to_string(&serde_json::to_value(crd)?)?.trim_end()))?;
    }
    Ok(())
}
