//! Log lines on stderr: text for people, JSON for collectors. `RUST_LOG` filters.

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Without RUST_LOG: our own info, others' warnings; a connection that fails is told once by whoever retries it.
const DEFAULT_FILTER: &str = "warn,kube_client=error,kube_client::client::builder=off,pullpiri=info,pullpiri_apiserver=info,pullpiri_store=info,pullpiri_controllers=info,pullpiri_agent=info,pullpiri_node_adapters=info,pullpiri_node_host=info";

pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
