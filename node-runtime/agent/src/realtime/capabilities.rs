//! What this node can do in real time, found by trying.

use std::path::Path;

use pullpiri_crds::condition::reason;
use pullpiri_crds::node::NodeRealtime;
use pullpiri_node_core::realtime::{Cpus, Fact};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT};
use pullpiri_node_host::process;
use pullpiri_node_host::sched::{self, ApartCpus};

use super::monitor;

/// What the NodeRuntime shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub status: Option<NodeRealtime>,
    pub condition: Fact,
}

/// What the kernel side needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub cgroups: Option<Cgroups>,
    /// Online, and in this process' affinity.
    pub cpus: Cpus,
    /// Why deadlines aren't watched.
    pub monitor: Result<(), String>,
}

/// Tries everything; some milliseconds of system calls.
pub(crate) async fn probe() -> (Found, Capability) {
    let found = tokio::task::spawn_blocking(|| {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok();
        let apart = cgroups.as_ref().map_or_else(|| Err("no cgroups are mounted".to_owned()), ApartCpus::find);
        let exclusive = apart.map(|_| ());
        let monitor = monitor::probe();
        // The kernel's type information, read for that, is some ten megabytes that nobody needs any more.
        process::trim_heap();
        let found = sched::probe(cgroups.as_ref(), Path::new("/proc"), Path::new("/sys"), exclusive, monitor.clone());
        found.map(|found| (Found { cgroups, cpus: found.cpus.clone(), monitor }, found))
    });
    let why = match found.await {
        Ok(Ok((found, capabilities))) => {
            let (status, condition) = capabilities.node();
            return (found, Capability { status, condition });
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let found = Found { cgroups: None, cpus: Cpus::default(), monitor: Err(why.clone()) };
    (found, Capability { status: None, condition: Fact::no(reason::NO_REAL_TIME, why) })
}
