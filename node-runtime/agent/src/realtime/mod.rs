//! Real time: what this node can do, and the threads that it schedules.
//!
//! One task owns the kernel side. It is told what instances want ([`Realtime::want`]), looks at their threads, has `node-runtime/core::realtime` say
//! what is to be done, does it, reads it back, and tells the node task how they stand. While there are threads to hold it looks again
//! every [`engine::DRIFT`]; a node without real-time tasks sleeps.

mod capabilities;
mod engine;
mod kernel;
mod metrics;
mod monitor;
mod state;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pullpiri_crds::ModelInstanceStatus;
use pullpiri_crds::instance::{InstanceTask, TaskStatus};
use pullpiri_node_core::Snapshot;
use pullpiri_node_core::plan::Event;
use pullpiri_node_core::realtime::Report;
use pullpiri_node_core::runtime::{ContainerStateObserved, PodId};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::node::Message;
use crate::register::Facts;

use monitor::EventQueue;

pub(crate) use capabilities::Capability;
pub(crate) use metrics::Metrics;

/// Events that are taken from the monitor at once.
const DRAIN: usize = 256;

/// What an instance wants of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub namespace: String,
    pub name: String,
    pub generation: Option<i64>,
    pub tasks: Vec<InstanceTask>,
    /// The first process of each container that runs, in the model's order.
    pub containers: Vec<(String, i32)>,
}

/// An instance, what it wants (`None`: nothing any more), and what was known of its tasks before.
#[derive(Debug)]
struct Order {
    id: PodId,
    wanted: Option<Wanted>,
    known: Vec<TaskStatus>,
}

#[derive(Debug)]
enum Request {
    Order(Order),
    /// Answered once every order before it was looked at.
    Settle(oneshot::Sender<()>),
}

/// What the node task hears.
#[derive(Debug)]
pub(crate) struct News {
    pub id: PodId,
    pub report: Option<Report>,
    pub events: Vec<Event>,
}

/// The way to the task that owns the kernel side.
#[derive(Debug)]
pub(crate) struct Realtime {
    requests: mpsc::UnboundedSender<Request>,
    sent: BTreeMap<PodId, Wanted>,
    /// Instances that an earlier life of this process gave something, and that nobody has spoken of yet.
    unclaimed: BTreeSet<PodId>,
}

impl Realtime {
    pub fn start(
        data_dir: &Path,
        messages: mpsc::Sender<Message>,
        facts: watch::Sender<Facts>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let state = state::File::open(data_dir);
        let unclaimed = state.instances.keys().cloned().collect();
        tokio::spawn(run(state, receiver, messages, facts, metrics, stop));
        Self { requests, sent: BTreeMap::new(), unclaimed }
    }

    /// Tells what an instance wants, if that is news.
    pub fn want(&mut self, id: &PodId, wanted: Option<Wanted>, known: &[TaskStatus]) {
        let is_claimed = !self.unclaimed.remove(id);
        if is_claimed && self.sent.get(id) == wanted.as_ref() {
            return;
        }
        match &wanted {
            Some(wanted) => self.sent.insert(id.clone(), wanted.clone()),
            None => self.sent.remove(id),
        };
        let order = Order { id: id.clone(), wanted, known: known.to_vec() };
        let _ = self.requests.send(Request::Order(order));
    }

    /// Resolves when what was told so far was looked at.
    pub async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        if self.requests.send(Request::Settle(done)).is_ok() {
            let _ = settled.await;
        }
    }

    /// Gives up what was held for instances that aren't there any more.
    pub fn retain(&mut self, is_there: impl Fn(&PodId) -> bool) {
        let gone: Vec<PodId> = self.sent.keys().chain(&self.unclaimed).filter(|id| !is_there(id)).cloned().collect();
        for id in gone {
            self.want(&id, None, &[]);
        }
    }
}

/// What an instance wants as things are; `None` without real-time tasks.
pub(crate) fn wanted(snapshot: &Snapshot, id: &PodId) -> Option<Wanted> {
    let accepted = snapshot.instances.get(id)?.memory.accepted.as_ref()?;
    if accepted.spec.realtime.is_empty() {
        return None;
    }
    let running = |name: &str| {
        let mut containers = snapshot.pods.values().filter(|pod| pod.id == *id).flat_map(|pod| &pod.containers);
        let found = containers.find_map(|container| match container.state {
            ContainerStateObserved::Running { pid, .. } if container.name == name => i32::try_from(pid).ok(),
            _ => None,
        });
        found.filter(|pid| *pid > 0)
    };
    let names = accepted.spec.template.spec.containers.iter().map(|container| container.name.as_str());
    Some(Wanted {
        namespace: accepted.metadata.namespace.clone().unwrap_or_default(),
        name: accepted.metadata.name.clone().unwrap_or_default(),
        generation: accepted.metadata.generation,
        tasks: accepted.spec.realtime.clone(),
        containers: names.filter_map(|name| Some((name.to_owned(), running(name)?))).collect(),
    })
}

/// What is known of an instance's tasks: what was told of the same processes may be ahead of what had been written down when an earlier life of this
/// process ended.
pub(crate) fn known<'a>(memory: &'a ModelInstanceStatus, told: Option<&ModelInstanceStatus>) -> Cow<'a, [TaskStatus]> {
    let processes = |status: &ModelInstanceStatus| -> Vec<(String, Option<i64>)> {
        status.containers.iter().map(|container| (container.name.clone(), container.pid)).collect()
    };
    let Some(told) = told.filter(|told| processes(told) == processes(memory)) else {
        return Cow::Borrowed(&memory.realtime);
    };
    let ahead = |known: &TaskStatus| {
        let told = told.realtime.iter().find(|told| told.name == known.name);
        told.filter(|told| (told.jobs, told.repairs) > (known.jobs, known.repairs)).unwrap_or(known).clone()
    };
    Cow::Owned(memory.realtime.iter().map(ahead).collect())
}

/// Waits for events of the monitor, and takes some.
async fn hear(events: &mut Option<AsyncFd<EventQueue>>) -> Vec<monitor::Event> {
    let Some(queue) = events else { return std::future::pending().await };
    let Ok(mut ready) = queue.readable_mut().await else { return std::future::pending().await };
    let drained = ready.get_inner_mut().0.drain(DRAIN);
    if drained.len() < DRAIN {
        ready.clear_ready();
    }
    drained
}

fn register(queue: EventQueue) -> Option<AsyncFd<EventQueue>> {
    // Deprecated because an object could close its descriptor while it is registered. This one is owned by the AsyncFd alone and has no way to
    // close it but its end.
    #[allow(deprecated)]
    let registered = AsyncFd::with_interest(queue, Interest::READABLE);
    registered.inspect_err(|error| warn!(%error, "misses and new threads are found at the next look only")).ok()
}

/// Probes, then obeys orders until `stop`. What is held stays held: containers outlive this process.
async fn run(
    state: state::File,
    mut requests: mpsc::UnboundedReceiver<Request>,
    messages: mpsc::Sender<Message>,
    facts: watch::Sender<Facts>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let (found, mut capability) = capabilities::probe().await;
    facts.send_modify(|facts| facts.realtime = Some(capability.clone()));
    let mut engine = engine::Engine::new(state, found, metrics);
    let [mut jobs, mut threads]: [Option<AsyncFd<EventQueue>>; 2] = [None, None];
    let mut settling: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let wake = engine.next_wake();
        tokio::select! {
            () = stop.cancelled() => return,
            request = requests.recv() => {
                let Some(request) = request else { return };
                let mut next = Some(request);
                while let Some(request) = next {
                    match request {
                        Request::Order(order) => engine.obey(order),
                        Request::Settle(done) => settling.push(done),
                    }
                    next = requests.try_recv().ok();
                }
            }
            events = hear(&mut jobs) => events.iter().for_each(|event| engine.hear(event)),
            events = hear(&mut threads) => events.iter().for_each(|event| engine.hear(event)),
            () = tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)), if wake.is_some() => {}
        }
        if settling.is_empty() && engine.next_wake().is_none_or(|due| due > tokio::time::Instant::now()) {
            continue;
        }
        let passed = tokio::task::spawn_blocking(move || {
            let news = engine.pass();
            (engine, news)
        });
        let news;
        (engine, news) = match passed.await {
            Ok(passed) => passed,
            Err(error) => {
                warn!(%error, "the real-time task ends");
                return;
            }
        };
        if let Some(queues) = engine.take_events() {
            [jobs, threads] = queues.map(register);
        }
        if !engine.is_watching() {
            (jobs, threads) = (None, None);
        }
        for done in settling.drain(..) {
            let _ = done.send(());
        }
        for news in news {
            if messages.send(Message::Realtime(news)).await.is_err() {
                return;
            }
        }
        if engine.take_surprise() {
            let (found, now) = capabilities::probe().await;
            engine.found(found);
            if now != capability {
                debug!(condition = now.condition.message, "what this node can do in real time changed");
                capability = now.clone();
                facts.send_modify(|facts| facts.realtime = Some(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_of_the_same_processes_counts_where_it_is_ahead() {
        let status = |pid: i64, jobs: i64| -> ModelInstanceStatus {
            serde_json::from_value(serde_json::json!({
                "phase": "Running",
                "containers": [{"name": "c", "state": "Running", "pid": pid, "restarts": 0}],
                "realtime": [{"name": "t", "jobs": jobs}],
            }))
            .unwrap()
        };
        let jobs = |told: Option<ModelInstanceStatus>| known(&status(7, 12), told.as_ref())[0].jobs;
        assert_eq!(jobs(None), 12);
        assert_eq!(jobs(Some(status(7, 64))), 64);
        assert_eq!(jobs(Some(status(7, 3))), 12);
        // Those of the process before.
        assert_eq!(jobs(Some(status(6, 64))), 12);
    }
}
