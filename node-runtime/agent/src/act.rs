//! Carries out a plan's actions on one pod, in order, and brings back what came of each and how the pod is now.
//!
//! One that fails ends the row: what follows was decided for a state that isn't there. Then the runtime is asked how things are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use pullpiri_crds::model::Adapter;
use pullpiri_node_adapters::{Runtime, RuntimeError, RuntimeEvent};
use pullpiri_node_core::Action;
use pullpiri_node_core::memory::{Failure, FailureKind};
use pullpiri_node_core::plan::HostStep;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, NetworkMode, PodId, PodObserved};
use pullpiri_node_host::process::Pidfd;
use pullpiri_node_host::{SysError, process};
use tracing::error;

use crate::host;
use crate::metrics::Metrics;
use crate::network::Network;

/// How long a runtime may take to know that a process of its has ended, which is usually a moment after the kernel does.
const NEWS: Duration = Duration::from_secs(5);

/// What was done and how it is now.
#[derive(Debug)]
pub(crate) struct Acted {
    pub outcomes: Vec<(Action, Result<(), Failure>)>,
    pub effects: Vec<Effect>,
}

/// How the world differs afterwards.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The pod on this adapter, all of it.
    Pod(Adapter, Option<PodObserved>),
    Container(Adapter, ContainerObserved),
    /// The instance has volumes on disk, or none any more.
    Directory(bool),
    /// The pod has its place in a Network, or none any more.
    Attached(bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Executor {
    runtimes: Vec<Arc<dyn Runtime>>,
    volumes: PathBuf,
    network: Network,
    metrics: Metrics,
}

impl Executor {
    pub fn new(runtimes: Vec<Arc<dyn Runtime>>, volumes: PathBuf, network: Network, metrics: Metrics) -> Self {
        Self { runtimes, volumes, network, metrics }
    }

    pub fn runtime(&self, adapter: Adapter) -> Option<&Arc<dyn Runtime>> {
        self.runtimes.iter().find(|runtime| runtime.adapter() == adapter)
    }

    /// Takes away what of the node's network isn't a pod's.
    pub async fn close_network(&self) {
        self.network.close().await;
    }

    pub async fn act(&self, actions: Vec<Action>) -> Acted {
        let mut acted = Acted { outcomes: Vec::new(), effects: Vec::new() };
        for action in actions {
            let outcome = self.act_one(&action, &mut acted.effects).await;
            let failed = outcome.is_err();
            acted.outcomes.push((action, outcome));
            if failed {
                break;
            }
        }
        acted
    }

    async fn act_one(&self, action: &Action, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        match action {
            Action::RemoveFiles { pod } => {
                let directory = self.volumes.join(&pod.0);
                blocking(move || host::remove_volumes(&directory).map_err(|error| volume_failure(&error))).await?;
                effects.push(Effect::Directory(false));
                Ok(())
            }
            Action::Detach { pod } => {
                self.network.detach(pod.clone()).await?;
                effects.push(Effect::Attached(false));
                Ok(())
            }
            Action::ProjectFiles { steps, .. } => prepare(steps.clone()).await,
            Action::RunPod { adapter, spec, steps } => {
                let runtime = self.get(*adapter)?;
                let (joins, steps): (Vec<_>, Vec<_>) =
                    steps.iter().cloned().partition(|step| matches!(step, HostStep::Attach { .. }));
                if !steps.is_empty() {
                    effects.push(Effect::Directory(true));
                    prepare(steps).await?;
                }
                for join in joins {
                    if let HostStep::Attach { pod, attachment } = join {
                        effects.push(Effect::Attached(true));
                        self.network.attach(pod, *attachment).await?;
                    }
                }
                let began = Instant::now();
                match runtime.run_pod(spec).await {
                    Ok(pod) => {
                        self.metrics.started(began.elapsed());
                        if spec.network == NetworkMode::Host {
                            self.network.poke();
                        }
                        effects.push(Effect::Pod(*adapter, Some(pod)));
                        Ok(())
                    }
                    Err(error) => {
                        self.look(runtime, &spec.id, effects).await;
                        Err(failure(&error))
                    }
                }
            }
            Action::EndContainer { pod, adapter, container, pid, grace } => {
                let runtime = self.get(*adapter)?;
                // Before the end that they are to tell of.
                let events = runtime.events();
                end(runtime.as_ref(), (pod, container, *pid), *grace).await?;
                effects.push(until_ended(runtime.as_ref(), events, (pod, container, *pid), NEWS).await?);
                Ok(())
            }
            Action::StartContainer { pod, adapter, container, attempt } => {
                let runtime = self.get(*adapter)?;
                match runtime.start_container(pod, container, *attempt).await {
                    Ok(container) => {
                        self.metrics.restarts.inc();
                        effects.push(Effect::Container(*adapter, container));
                        Ok(())
                    }
                    Err(error) => {
                        self.look(runtime, pod, effects).await;
                        Err(failure(&error))
                    }
                }
            }
            Action::StopPod { pod, adapter, grace, .. } => {
                let runtime = self.get(*adapter)?;
                let stopped = runtime.stop_pod(pod, *grace).await;
                // Its exit codes, before it is removed.
                self.look(runtime, pod, effects).await;
                gone_is_done(stopped)
            }
            Action::RemovePod { pod, adapter, .. } => {
                let runtime = self.get(*adapter)?;
                let removed = gone_is_done(runtime.remove_pod(pod).await);
                match &removed {
                    Ok(()) => {
                        self.network.gone(pod.clone());
                        effects.push(Effect::Pod(*adapter, None));
                    }
                    Err(_) => self.look(runtime, pod, effects).await,
                }
                removed
            }
        }
    }

    fn get(&self, adapter: Adapter) -> Result<&Arc<dyn Runtime>, Failure> {
        self.runtime(adapter).ok_or_else(|| Failure {
            kind: FailureKind::RuntimeMissing,
            message: format!("this node has no adapter {}", adapter.as_str()),
        })
    }

    /// How the pod is now. If the runtime doesn't say, what was known stays.
    async fn look(&self, runtime: &Arc<dyn Runtime>, id: &PodId, effects: &mut Vec<Effect>) {
        if let Ok(pods) = runtime.list().await {
            let pod = pods.into_iter().find(|pod| pod.id == *id);
            effects.push(Effect::Pod(runtime.adapter(), pod));
        }
    }
}

/// What comes of `work`, also if it panics: whoever waits for it would wait for ever.
pub(crate) async fn surely(actions: &[Action], work: impl Future<Output = Acted> + Send + 'static) -> Acted {
    match tokio::spawn(work).await {
        Ok(acted) => acted,
        Err(error) => {
            let message = format!("carrying out what was decided broke off: {error}");
            error!(first = actions.first().map(tracing::field::display), message);
            let failure = Failure { kind: FailureKind::Failed, message };
            Acted {
                outcomes: actions.first().map(|one| (one.clone(), Err(failure))).into_iter().collect(),
                effects: Vec::new(),
            }
        }
    }
}

/// Ends a container's first process. If that has ended by itself, its number may be another process' of this machine by now: what the runtime doesn't
/// know as the container's after it was opened is left alone.
async fn end(runtime: &dyn Runtime, (id, container, pid): (&PodId, &str, u32), grace: Duration) -> Result<(), Failure> {
    let failed = |error: SysError| Failure { kind: FailureKind::Failed, message: error.to_string() };
    let Some(process) = Pidfd::find(pid).map_err(failed)? else { return Ok(()) };
    let pods = runtime.list().await.map_err(|error| failure(&error))?;
    if !pods.iter().any(|pod| pod.id == *id && runs_as(pod, container, pid)) {
        return Ok(());
    }
    blocking(move || process::end(&process, grace).map_err(failed)).await
}

/// Whether this process is the one that a container runs as.
fn runs_as(pod: &PodObserved, container: &str, pid: u32) -> bool {
    pod.containers.iter().any(|known| {
        known.name == container && matches!(known.state, ContainerStateObserved::Running { pid: now, .. } if now == pid)
    })
}

/// Waits by the runtime's events until it knows that the container's process has ended; how the pod is then.
async fn until_ended(
    runtime: &dyn Runtime,
    mut events: BoxStream<'static, RuntimeEvent>,
    (id, container, pid): (&PodId, &str, u32),
    limit: Duration,
) -> Result<Effect, Failure> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut is_late = false;
    loop {
        let pods = runtime.list().await.map_err(|error| failure(&error))?;
        let pod = pods.into_iter().find(|pod| pod.id == *id);
        if !pod.as_ref().is_some_and(|pod| runs_as(pod, container, pid)) {
            return Ok(Effect::Pod(runtime.adapter(), pod));
        }
        if is_late {
            let message = format!(
                "container {container}: process {pid} has ended, but runtime {} still says that it runs, {} s later",
                runtime.adapter().as_str(),
                limit.as_secs()
            );
            return Err(Failure { kind: FailureKind::Failed, message });
        }
        let news = async {
            loop {
                match events.next().await {
                    Some(RuntimeEvent::Container { pod, .. } | RuntimeEvent::Sandbox { pod }) if pod == *id => return,
                    Some(RuntimeEvent::Resync) => return,
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        // An event may be lost, so the last look is without one.
        is_late = tokio::time::timeout_at(deadline, news).await.is_err();
    }
}

async fn prepare(steps: Vec<HostStep>) -> Result<(), Failure> {
    blocking(move || host::prepare(&steps).map_err(|error| volume_failure(&error))).await
}

async fn blocking(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure { kind: FailureKind::Failed, message: format!("preparing volumes: {error}") }),
    }
}

fn volume_failure(error: &host::HostError) -> Failure {
    Failure { kind: FailureKind::Volume, message: error.to_string() }
}

fn gone_is_done(result: Result<(), RuntimeError>) -> Result<(), Failure> {
    match result {
        Ok(()) | Err(RuntimeError::NoPod { .. }) => Ok(()),
        Err(error) => Err(failure(&error)),
    }
}

pub(crate) fn failure(error: &RuntimeError) -> Failure {
    let kind = match error {
        RuntimeError::ImageMissing { .. } => FailureKind::ImageMissing,
        RuntimeError::Unavailable { .. } => FailureKind::RuntimeMissing,
        RuntimeError::PortTaken { .. } => FailureKind::PortTaken,
        RuntimeError::Refused { .. } | RuntimeError::Archive { .. } => FailureKind::Refused,
        RuntimeError::NoPod { .. } | RuntimeError::Failed { .. } => FailureKind::Failed,
    };
    Failure { kind, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use pullpiri_node_core::runtime::{ContainerSpec, Exit, PodSpec, RuntimeInfo, Timestamp};
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn what_panics_has_failed() {
        let actions = [Action::RemoveFiles { pod: PodId("p".into()) }, Action::Detach { pod: PodId("p".into()) }];
        let acted = surely(&actions, async { panic!("a bug") }).await;
        assert_eq!(acted.outcomes.len(), 1);
        assert_eq!(acted.outcomes[0].0, actions[0]);
        let failure = acted.outcomes[0].1.as_ref().unwrap_err();
        assert!(failure.message.contains("a bug"), "{failure:?}");
    }

    /// A runtime with one pod, of which it tells when it is asked to.
    #[derive(Debug)]
    struct Slow {
        pod: Mutex<PodObserved>,
        events: broadcast::Sender<RuntimeEvent>,
    }

    impl Slow {
        fn new() -> Self {
            Self::running(7)
        }

        fn running(pid: u32) -> Self {
            let state = ContainerStateObserved::Running { pid, started_at: Timestamp(1) };
            let container = ContainerObserved {
                name: "c".into(),
                attempt: 0,
                state,
                container_id: String::new(),
                image_id: String::new(),
                before: None,
            };
            let pod = PodObserved {
                id: PodId("p".into()),
                namespace: String::new(),
                name: String::new(),
                hash: String::new(),
                adapter: Adapter::Oci,
                sandbox_alive: true,
                containers: vec![container],
            };
            Self { pod: Mutex::new(pod), events: broadcast::channel(8).0 }
        }
    }

    impl Runtime for Slow {
        fn adapter(&self) -> Adapter {
            Adapter::Oci
        }
        fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
            panic!("not asked for")
        }
        fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>> {
            Box::pin(async { Ok(vec![self.pod.lock().unwrap().clone()]) })
        }
        fn image<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
            panic!("not asked for")
        }
        fn load_image<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>> {
            panic!("not asked for")
        }
        fn run_pod<'a>(&'a self, _: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>> {
            panic!("not asked for")
        }
        fn start_container<'a>(
            &'a self,
            _: &'a PodId,
            _: &'a ContainerSpec,
            _: u32,
        ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>> {
            panic!("not asked for")
        }
        fn stop_pod<'a>(&'a self, _: &'a PodId, _: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
            panic!("not asked for")
        }
        fn remove_pod<'a>(&'a self, _: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>> {
            panic!("not asked for")
        }
        fn events(&self) -> BoxStream<'static, RuntimeEvent> {
            let receiver = self.events.subscribe();
            futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await.ok()?, receiver)) })
                .boxed()
        }
    }

    #[tokio::test]
    async fn an_end_is_known_once_the_runtime_tells_of_it() {
        let runtime = Slow::new();
        let id = PodId("p".into());
        let (events, limit) = (runtime.events(), Duration::from_secs(60));
        let tell = async {
            // Something of another pod's is no news.
            let _ = runtime.events.send(RuntimeEvent::Sandbox { pod: PodId("other".into()) });
            tokio::task::yield_now().await;
            let exit = Exit { code: 143, oom_killed: false, started_at: Timestamp(1), finished_at: Timestamp(2) };
            let container = {
                let mut pod = runtime.pod.lock().unwrap();
                pod.containers[0].state = ContainerStateObserved::Exited(exit);
                pod.containers[0].clone()
            };
            let _ = runtime.events.send(RuntimeEvent::Container { pod: id.clone(), container });
        };
        let (ended, ()) = tokio::join!(until_ended(&runtime, events, (&id, "c", 7), limit), tell);
        let Effect::Pod(Adapter::Oci, Some(pod)) = ended.unwrap() else { panic!("a pod") };
        assert!(matches!(pod.containers[0].state, ContainerStateObserved::Exited(_)));
    }

    #[tokio::test]
    async fn only_the_containers_own_process_is_ended() {
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let (pid, id) = (process.id(), PodId("p".into()));
        // The container that had this number has ended, unseen.
        end(&Slow::new(), (&id, "c", pid), Duration::ZERO).await.unwrap();
        assert!(process.try_wait().unwrap().is_none());
        let runtime = Slow::running(pid);
        for (pod, container) in [("other", "c"), ("p", "other")] {
            end(&runtime, (&PodId(pod.into()), container, pid), Duration::ZERO).await.unwrap();
        }
        assert!(process.try_wait().unwrap().is_none());
        end(&runtime, (&id, "c", pid), Duration::ZERO).await.unwrap();
        assert!(process.wait().unwrap().code().is_none());
        end(&runtime, (&id, "c", pid), Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn a_runtime_that_never_knows_of_an_end_is_told_of() {
        let runtime = Slow::new();
        let ended = until_ended(&runtime, runtime.events(), (&PodId("p".into()), "c", 7), Duration::ZERO).await;
        assert!(ended.unwrap_err().message.contains("still says that it runs"));
    }
}
