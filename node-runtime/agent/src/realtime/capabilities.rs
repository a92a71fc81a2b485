//! What this node can do in real time, found by trying.

use std::path::Path;

use pullpiri_crds::condition::reason;
use pullpiri_crds::node::NodeRealtime;
use pullpiri_node_core::realtime::Fact;
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT};
use pullpiri_node_host::sched;

/// What the NodeRuntime shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub status: Option<NodeRealtime>,
    pub condition: Fact,
}

/// Tries everything; some milliseconds of system calls.
pub(crate) async fn probe() -> Capability {
    let found = tokio::task::spawn_blocking(|| {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok();
        let exclusive = Err("exclusive cpusets aren't made by this version".to_owned());
        let monitor = Err("this version has no monitor".to_owned());
        sched::probe(cgroups.as_ref(), Path::new("/proc"), Path::new("/sys"), exclusive, monitor)
    });
    let why = match found.await {
        Ok(Ok(found)) => {
            let (status, condition) = found.node();
            return Capability { status, condition };
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Capability { status: None, condition: Fact::no(reason::NO_REAL_TIME, why) }
}
