//! Carries out a plan's actions on one pod, in order, and brings back what came of each and how the pod is now.
//!
//! One that fails ends the row: what follows was decided for a state that isn't there. Then the runtime is asked how things are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pullpiri_crds::model::Adapter;
use pullpiri_node_adapters::{Runtime, RuntimeError};
use pullpiri_node_core::Action;
use pullpiri_node_core::memory::{Failure, FailureKind};
use pullpiri_node_core::plan::HostStep;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, NetworkMode, PodId, PodObserved};
use pullpiri_node_host::{SysError, process};

use crate::host;
use crate::metrics::Metrics;
use crate::network::Network;

/// How often, and how long apart, a runtime is asked whether it knows that a process has ended.
const LOOKS: u32 = 400;
const LOOK: Duration = Duration::from_millis(5);

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
                let (pid, grace) = (*pid, *grace);
                let failed = |error: SysError| Failure { kind: FailureKind::Failed, message: error.to_string() };
                blocking(move || process::end(pid, grace).map_err(failed)).await?;
                self.until_ended(runtime, pod, container, pid, effects).await;
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

    /// Looks until the runtime knows that the container's process has ended, which is a moment after the kernel does.
    async fn until_ended(
        &self,
        runtime: &Arc<dyn Runtime>,
        id: &PodId,
        container: &str,
        pid: u32,
        effects: &mut Vec<Effect>,
    ) {
        for _ in 0..LOOKS {
            let Ok(pods) = runtime.list().await else { return };
            let pod = pods.into_iter().find(|pod| pod.id == *id);
            let runs = pod.as_ref().is_some_and(|pod| {
                pod.containers.iter().any(|known| {
                    known.name == container
                        && matches!(known.state, ContainerStateObserved::Running { pid: now, .. } if now == pid)
                })
            });
            if !runs {
                effects.push(Effect::Pod(runtime.adapter(), pod));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How the pod is now. If the runtime doesn't say, what was known stays.
    async fn look(&self, runtime: &Arc<dyn Runtime>, id: &PodId, effects: &mut Vec<Effect>) {
        if let Ok(pods) = runtime.list().await {
            let pod = pods.into_iter().find(|pod| pod.id == *id);
            effects.push(Effect::Pod(runtime.adapter(), pod));
        }
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
        RuntimeError::Refused { .. } | RuntimeError::Archive { .. } => FailureKind::Refused,
        RuntimeError::NoPod { .. } | RuntimeError::Failed { .. } => FailureKind::Failed,
    };
    Failure { kind, message: error.to_string() }
}
