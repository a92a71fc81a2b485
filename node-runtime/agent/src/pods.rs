//! What the runtimes have: listed once and again whenever events may have been missed, and kept up to date by events in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pullpiri_crds::model::Adapter;
use pullpiri_node_adapters::{Runtime, RuntimeError, RuntimeEvent};
use pullpiri_node_core::Snapshot;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, PodId, PodObserved, RuntimeInfo};
use pullpiri_node_core::snapshot::AdapterState;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::network::Pods;
use crate::node::Message;

/// A runtime that says nothing for so long isn't there.
const PROBE: Duration = Duration::from_secs(10);
/// Between probes of a runtime that doesn't work. Adapters announce that theirs came back by an event; this is for those that can't.
const RETRY: Duration = Duration::from_secs(30);

/// What a runtime answered.
pub(crate) type Listed = Result<(RuntimeInfo, Vec<PodObserved>), RuntimeError>;

/// Listens to one runtime until `stop`.
pub(crate) async fn listen(runtime: Arc<dyn Runtime>, messages: mpsc::Sender<Message>, stop: CancellationToken) {
    let adapter = runtime.adapter();
    // Subscribed before the list, so that nothing falls in between.
    let mut events = runtime.events();
    let mut available = false;
    let mut list = true;
    loop {
        if list {
            let listed = ask(runtime.as_ref()).await;
            available = listed.is_ok();
            if messages.send(Message::Listed(adapter, listed)).await.is_err() {
                return;
            }
        }
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
            () = tokio::time::sleep(RETRY), if !available => Some(RuntimeEvent::Resync),
        };
        list = event == Some(RuntimeEvent::Resync);
        match event {
            Some(RuntimeEvent::Resync) => {}
            Some(event) => {
                if messages.send(Message::Runtime(adapter, event)).await.is_err() {
                    return;
                }
            }
            None => {
                // The stream ended: subscribe anew, and find out what was missed.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                events = runtime.events();
                list = true;
            }
        }
    }
}

pub(crate) async fn ask(runtime: &dyn Runtime) -> Listed {
    let asked = async {
        let info = runtime.probe().await?;
        Ok((info, runtime.list().await?))
    };
    match tokio::time::timeout(PROBE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(RuntimeError::Unavailable {
            adapter: runtime.adapter().as_str(),
            message: format!("no answer within {} s", PROBE.as_secs()),
        }),
    }
}

/// The Pods of the node's kubelet that are there, with the processes that are known of each; `None`: the API server hasn't said.
pub(crate) fn of_kubelet(snapshot: &Snapshot) -> Option<Pods> {
    if let Some(AdapterState::Unavailable { .. }) = snapshot.node.adapters.get(&Adapter::Kubernetes) {
        return None;
    }
    let pods = snapshot.pods.iter().filter(|((_, adapter), _)| *adapter == Adapter::Kubernetes);
    let processes = pods.map(|((id, _), pod)| {
        let running = pod.containers.iter().filter_map(|container| match container.state {
            ContainerStateObserved::Running { pid, .. } if pid > 0 => Some(pid),
            _ => None,
        });
        (id.clone(), running.collect::<BTreeSet<u32>>(), pod.sandbox_alive)
    });
    Some(
        processes.filter(|(_, pids, is_alive)| *is_alive || !pids.is_empty()).map(|(id, pids, _)| (id, pids)).collect(),
    )
}

/// Folds an event into what is known. `false`: the pod isn't known, so the runtime is to be asked.
pub(crate) fn fold(pods: &mut BTreeMap<(PodId, Adapter), PodObserved>, adapter: Adapter, event: RuntimeEvent) -> bool {
    match event {
        RuntimeEvent::Container { pod, container } => match pods.get_mut(&(pod, adapter)) {
            Some(pod) => {
                fold_container(pod, container);
                true
            }
            None => false,
        },
        RuntimeEvent::Sandbox { pod } => match pods.get_mut(&(pod, adapter)) {
            Some(pod) => {
                pod.sandbox_alive = false;
                true
            }
            None => true,
        },
        RuntimeEvent::Resync => false,
    }
}

/// Takes `container` over if it is news: events and lists may cross, and a container's past must not overwrite its present.
pub(crate) fn fold_container(pod: &mut PodObserved, container: ContainerObserved) {
    let Some(known) = pod.containers.iter_mut().find(|known| known.name == container.name) else {
        pod.containers.push(container);
        return;
    };
    if is_news(known, &container) {
        *known = container;
    }
}

fn is_news(known: &ContainerObserved, told: &ContainerObserved) -> bool {
    if told.attempt != known.attempt {
        return told.attempt > known.attempt;
    }
    match (&known.state, &told.state) {
        (ContainerStateObserved::Created | ContainerStateObserved::Waiting { .. }, _) => true,
        // The end of an earlier pod's container of this name isn't this one's.
        (ContainerStateObserved::Running { started_at, .. }, ContainerStateObserved::Exited(exit)) => {
            exit.finished_at >= *started_at
        }
        (ContainerStateObserved::Running { .. }, _) => false,
        (ContainerStateObserved::Exited(exit), ContainerStateObserved::Running { started_at, .. }) => {
            *started_at > exit.finished_at
        }
        (ContainerStateObserved::Exited(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpiri_node_core::runtime::{Exit, Timestamp};

    fn container(attempt: u32, state: ContainerStateObserved) -> ContainerObserved {
        ContainerObserved {
            name: "x".into(),
            attempt,
            state,
            container_id: "id".into(),
            image_id: String::new(),
            before: None,
        }
    }

    fn running(at: i64) -> ContainerStateObserved {
        ContainerStateObserved::Running { pid: 1, started_at: Timestamp(at) }
    }

    fn exited(from: i64, to: i64) -> ContainerStateObserved {
        let exit = Exit { code: 0, oom_killed: false, started_at: Timestamp(from), finished_at: Timestamp(to) };
        ContainerStateObserved::Exited(exit)
    }

    #[test]
    fn what_is_late_is_no_news() {
        for (known, told, expected) in [
            ((0, running(5)), (0, exited(5, 9)), true),
            ((0, running(5)), (0, running(5)), false),
            ((0, running(5)), (1, running(7)), true),
            ((1, running(7)), (0, exited(5, 6)), false),
            ((0, exited(5, 9)), (0, running(5)), false),
            ((0, exited(5, 9)), (0, running(12)), true),
            ((0, running(12)), (0, exited(5, 9)), false),
            ((0, ContainerStateObserved::Created), (0, running(1)), true),
            ((0, exited(5, 9)), (1, ContainerStateObserved::Created), true),
        ] {
            let (known, told) = (container(known.0, known.1), container(told.0, told.1));
            assert_eq!(is_news(&known, &told), expected, "{known:?} {told:?}");
        }
    }
}
