//! Log lines on stderr: text for people, JSON for collectors. `RUST_LOG` filters.

use std::ffi::OsStr;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Without RUST_LOG: our own info, others' warnings; a connection that fails, or a watch that is refused, is told once by whoever retries it.
const DEFAULT_FILTER: &str = "warn,kube_client=error,kube_client::client::builder=off,kube_runtime::watcher=error,pullpiri=info,pullpiri_apiserver=info,pullpiri_store=info,pullpiri_controllers=info,pullpiri_agent=info,pullpiri_node_adapters=info,pullpiri_node_host=info";

pub(crate) fn start(format: LogFormat) {
    let (filter, complaint) = filter(std::env::var_os(EnvFilter::DEFAULT_ENV).as_deref());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
}

/// What `RUST_LOG` asks for and, if that can't be understood, what is wrong with it.
fn filter(asked: Option<&OsStr>) -> (EnvFilter, Option<String>) {
    let default = || EnvFilter::new(DEFAULT_FILTER);
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return (default(), None) };
    let ignored = |why: &str| Some(format!("RUST_LOG={asked:?} is ignored: {why}, expected as in warn,pullpiri=debug"));
    match asked.to_str().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (default(), ignored(&error.to_string())),
        None => (default(), ignored("it is no text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_told_of() {
        for fine in ["", "info", "warn,pullpiri=debug"] {
            assert_eq!(filter(Some(OsStr::new(fine))).1, None, "{fine}");
        }
        assert_eq!(filter(None).0.to_string(), filter(Some(OsStr::new("garbage[["))).0.to_string());
        let complaint = filter(Some(OsStr::new("garbage[["))).1.unwrap();
        assert!(complaint.starts_with("RUST_LOG=\"garbage[[\" is ignored: "), "{complaint}");
    }
}
