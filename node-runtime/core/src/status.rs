//! What the API server is told of an instance: a function of the snapshot and of what is remembered, computed whole each time.
//!
//! Only `lastTransitionTime` and `history` look at the status before. Times are cut to what an object's fields can hold, so that a
//! status that comes back equals the one that was sent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::instance::{ContainerState, ContainerStatus, Phase, TaskStatus};
use pullpiri_crds::model::RestartPolicy;
use pullpiri_crds::scenario::Transition;
use pullpiri_crds::{ModelInstance, ModelInstanceStatus};

use crate::decide::{Desired, is_finished};
use crate::memory::{ContainerMemory, FailureKind, FailureMemory, Memory, Run};
use crate::realtime::{Fact, Report};
use crate::restart::{Backoff, wanted};
use crate::runtime::{ContainerStateObserved, PodObserved, Timestamp};

/// As many transitions as the schema allows.
const HISTORY: usize = 16;
/// As many characters as the schema allows in a container's message, and enough for a condition's.
const MESSAGE: usize = 1024;

/// Why an instance that should run isn't started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub reason: &'static str,
    pub message: String,
    /// Nothing but another template or node would help.
    pub refused: bool,
}

pub(crate) struct Facts<'a> {
    pub now: Timestamp,
    pub accepted: &'a ModelInstance,
    pub object: Option<&'a ModelInstance>,
    pub desired: Desired,
    /// The object is of an epoch below one that was seen.
    pub stale: bool,
    pub pod: Option<&'a PodObserved>,
    pub blocked: Option<&'a Blocked>,
    pub degraded: &'a [String],
    pub backoff: &'a Backoff,
    pub realtime: Option<&'a Report>,
    /// Whether the pod is attached to its Network; why it can't be.
    pub attached: bool,
    pub no_network: Option<&'a str>,
}

/// The reason that stands on conditions and Events for a failed operation.
#[must_use]
pub const fn failure_reason(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::ImageMissing => reason::IMAGE_MISSING,
        FailureKind::RuntimeMissing => reason::RUNTIME_MISSING,
        FailureKind::Volume => reason::VOLUME_MISSING,
        FailureKind::Network => reason::NO_NETWORKING,
        FailureKind::PortTaken => reason::HOST_PORT_TAKEN,
        FailureKind::Refused | FailureKind::Failed => reason::RUNTIME_ERROR,
    }
}

/// How one container stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Never started, or stopped on purpose.
    Idle,
    Runs,
    /// Ended, and will be started again.
    Waits,
    /// Ended for good.
    Over,
}

fn stand(container: Option<&ContainerMemory>, policy: RestartPolicy, desired: Desired) -> Stand {
    let Some(container) = container else { return Stand::Idle };
    match &container.run {
        None => Stand::Idle,
        Some(Run { exit: None, .. }) => Stand::Runs,
        Some(_) if is_finished(container, policy) || desired != Desired::Run => Stand::Over,
        Some(_) => Stand::Waits,
    }
}

/// What a condition says: whether it holds, the reason, the message.
type Told = (bool, &'static str, String);

struct Computation<'a> {
    facts: &'a Facts<'a>,
    memory: &'a Memory,
    policy: RestartPolicy,
}

pub(crate) fn compute(facts: &Facts<'_>, memory: &Memory) -> ModelInstanceStatus {
    let policy = facts.accepted.spec.template.spec.restart_policy.unwrap_or_default();
    Computation { facts, memory, policy }.run()
}

impl Computation<'_> {
    fn run(&self) -> ModelInstanceStatus {
        let containers: Vec<ContainerStatus> =
            self.facts.accepted.spec.template.spec.containers.iter().map(|c| self.container(&c.name)).collect();
        let phase = self.phase();
        let restarts = containers.iter().filter_map(|container| container.restarts).sum();
        let runs = self.memory.containers.values().filter_map(|container| container.run.as_ref());
        let started_at = runs.filter(|run| run.exit.is_none()).map(|run| run.started_at).min();
        let conditions = self.conditions(phase);
        let previous = &self.memory.status;
        let mut history = previous.history.clone();
        if phase != previous.phase {
            let ready = conditions.iter().find(|condition| condition.type_ == kind::READY);
            history.push(Transition {
                from: previous.phase.as_str().to_owned(),
                to: phase.as_str().to_owned(),
                at: self.facts.now.micro_time(),
                reason: ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
            });
            let excess = history.len().saturating_sub(HISTORY);
            history.drain(..excess);
        }
        ModelInstanceStatus {
            observed_generation: self.facts.accepted.metadata.generation,
            phase,
            runtime: self.facts.pod.map(|pod| pod.adapter).or(self.memory.adapter),
            restarts: Some(restarts),
            started_at: started_at.map(Timestamp::micro_time),
            containers,
            history,
            realtime: self.realtime_tasks(),
            conditions,
        }
    }

    fn stand(&self, name: &str) -> Stand {
        stand(self.memory.containers.get(name), self.policy, self.facts.desired)
    }

    fn stands(&self) -> impl Iterator<Item = (&str, Stand)> {
        self.facts.accepted.spec.template.spec.containers.iter().map(|c| (c.name.as_str(), self.stand(&c.name)))
    }

    fn phase(&self) -> Phase {
        let stands: Vec<Stand> = self.stands().map(|(_, stand)| stand).collect();
        if stands.contains(&Stand::Runs) {
            // Before every container has been started it isn't running yet; while it is stopped it still is.
            let starting = self.facts.desired == Desired::Run && stands.contains(&Stand::Idle);
            return if starting { Phase::Pending } else { Phase::Running };
        }
        if self.facts.desired != Desired::Run || self.is_leaving() || stands.contains(&Stand::Idle) {
            return Phase::Pending;
        }
        if stands.contains(&Stand::Waits) {
            let held_up = self.facts.pod.is_none() && (self.facts.blocked.is_some() || self.pod_failure().is_some());
            return if held_up { Phase::Pending } else { Phase::Running };
        }
        let exits = self.memory.containers.values().filter_map(|container| container.last_exit.as_ref());
        if exits.map(|exit| exit.code).any(|code| code != 0) { Phase::Failed } else { Phase::Succeeded }
    }

    /// Its pod is being stopped on purpose, though it may be wished again.
    fn is_leaving(&self) -> bool {
        self.facts.pod.is_some() && (self.facts.desired != Desired::Run || self.memory.stopping)
    }

    fn pod_failure(&self) -> Option<&FailureMemory> {
        self.memory.failures.get("")
    }

    fn is_restarted_by_kubelet(&self) -> bool {
        self.memory.adapter.is_some_and(pullpiri_crds::model::Adapter::restarts_containers)
    }

    /// Why a runtime that starts containers by itself hasn't started this one.
    fn waiting(&self, name: &str) -> Option<(&'static str, String)> {
        let container = self.facts.pod?.containers.iter().find(|container| container.name == name)?;
        let ContainerStateObserved::Waiting { reason, message } = &container.state else { return None };
        let word = match reason.as_str() {
            "" | "ContainerCreating" | "PodInitializing" => reason::STARTING,
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable" => reason::IMAGE_MISSING,
            // What a variable refers to isn't there, mostly; the kubelet's message names it.
            "CreateContainerConfigError" => reason::CONFIG_MISSING,
            _ => reason::RUNTIME_ERROR,
        };
        let said = [reason.as_str(), message.as_str()].into_iter().filter(|text| !text.is_empty());
        Some((word, said.collect::<Vec<_>>().join(": ")))
    }

    /// What keeps such a runtime from starting a container.
    fn held_up(&self) -> Option<(&'static str, String)> {
        let names = self.stands().filter(|(_, stand)| *stand == Stand::Idle).map(|(name, _)| name);
        names
            .filter_map(|name| Some((name, self.waiting(name)?)))
            .find(|(_, (reason, _))| *reason != reason::STARTING)
            .map(|(name, (reason, message))| (reason, format!("container {name}: {message}")))
    }

    /// The wait before the container's restart, in seconds; `None` if it doesn't loop.
    fn crash_loop(&self, name: &str) -> Option<u64> {
        let container = self.memory.containers.get(name)?;
        let delay = self.facts.backoff.delay(container.streak);
        (self.stand(name) == Stand::Waits && !delay.is_zero()).then_some(delay.as_secs())
    }

    fn container(&self, name: &str) -> ContainerStatus {
        let empty = ContainerMemory::default();
        let container = self.memory.containers.get(name).unwrap_or(&empty);
        let run = container.run.as_ref();
        let exit = container.last_exit.as_ref();
        let stand = self.stand(name);
        let state = match stand {
            Stand::Runs => ContainerState::Running,
            Stand::Over => ContainerState::Terminated,
            Stand::Idle if exit.is_some() && self.facts.desired != Desired::Run => ContainerState::Terminated,
            Stand::Idle | Stand::Waits => ContainerState::Waiting,
        };
        let failure = self.memory.failures.get(name).or_else(|| self.pod_failure());
        let exit_reason = |code: i32, oom: bool| match (code, oom) {
            (_, true) => "OOMKilled",
            (0, false) => "Completed",
            (_, false) => "Error",
        };
        let (reason, message) = match (state, failure, self.crash_loop(name)) {
            (ContainerState::Running, _, _) => (None, None),
            (ContainerState::Terminated, _, _) => (exit.map(|e| exit_reason(e.code, e.oom_killed).to_owned()), None),
            (ContainerState::Waiting, Some(failure), _) => {
                (Some(failure_reason(failure.failure.kind).to_owned()), Some(cut(&failure.failure.message)))
            }
            (ContainerState::Waiting, None, Some(_)) if self.is_restarted_by_kubelet() => {
                (Some(reason::CRASH_LOOP_BACK_OFF.to_owned()), Some("is restarted by the kubelet".to_owned()))
            }
            (ContainerState::Waiting, None, Some(seconds)) => {
                (Some(reason::CRASH_LOOP_BACK_OFF.to_owned()), Some(format!("is restarted {seconds} s after it ended")))
            }
            (ContainerState::Waiting, None, None) => match self.facts.blocked {
                Some(blocked) => (Some(blocked.reason.to_owned()), Some(cut(&blocked.message))),
                None if self.waiting(name).is_some() => {
                    let (reason, message) = self.waiting(name).unwrap_or_default();
                    (Some(reason.to_owned()), Some(cut(&message)))
                }
                None if self.facts.desired == Desired::Run => (Some(reason::STARTING.to_owned()), None),
                None => (Some(reason::STOPPED.to_owned()), None),
            },
        };
        ContainerStatus {
            name: name.to_owned(),
            state,
            restarts: Some(i64::from(container.restarts)),
            pid: run.map(|run| i64::from(run.pid)).filter(|pid| *pid > 0 && stand == Stand::Runs),
            container_id: run.map(|run| run.container_id.clone()).filter(|id| !id.is_empty()),
            image_id: run.map(|run| run.image_id.clone()).filter(|id| !id.is_empty()),
            started_at: run.map(|run| run.started_at.micro_time()),
            finished_at: exit.map(|exit| exit.finished_at.micro_time()),
            exit_code: exit.map(|exit| exit.code),
            reason,
            message,
        }
    }

    fn conditions(&self, phase: Phase) -> Vec<Condition> {
        let ready = self.ready(phase);
        let (progressing, degraded) = (self.progressing(&ready), self.degraded(&ready));
        [
            self.condition(kind::ACCEPTED, self.accepted()),
            self.condition(kind::READY, ready),
            self.condition(kind::PROGRESSING, progressing),
            self.condition(kind::DEGRADED, degraded),
        ]
        .into_iter()
        .chain(self.realtime_conditions())
        .chain(self.network().map(|network| self.condition(kind::NETWORK, network)))
        .collect()
    }

    /// What is measured; until somebody has looked, what was known of the tasks that there are.
    fn realtime_tasks(&self) -> Vec<TaskStatus> {
        let declared = &self.facts.accepted.spec.realtime;
        let is_declared = |status: &&TaskStatus| declared.iter().any(|task| task.name == status.name);
        let known = self.facts.realtime.map_or(&self.memory.status.realtime, |report| &report.tasks);
        known.iter().filter(is_declared).cloned().collect()
    }

    /// Those of real time: none for an instance without tasks.
    fn realtime_conditions(&self) -> Vec<Condition> {
        if self.facts.accepted.spec.realtime.is_empty() {
            return Vec::new();
        }
        if self.facts.desired != Desired::Run {
            let stopped = Fact::no(reason::STOPPED, "its containers are stopped");
            let mut conditions = vec![self.fact(kind::REALTIME, &stopped)];
            if let Some(terminated) = &self.memory.terminated {
                let message = format!("{}: stopped until its spec changes", terminated.message);
                conditions.push(self.fact(kind::DEADLINES_MET, &Fact::no(reason::MISS_BUDGET_SPENT, message)));
            }
            return conditions;
        }
        if let Some(report) = self.facts.realtime {
            let facts = [
                (kind::REALTIME, &report.realtime),
                (kind::DEADLINES_MET, &report.deadlines),
                (kind::WITHIN_WCET, &report.wcet),
            ];
            return facts.into_iter().map(|(type_, fact)| self.fact(type_, fact)).collect();
        }
        // Before its first look at what it finds running, an agent has nothing to add.
        let known = &self.memory.status.conditions;
        let is_known = |known: &&Condition| {
            [kind::REALTIME, kind::DEADLINES_MET, kind::WITHIN_WCET].contains(&known.type_.as_str())
        };
        let known: Vec<Condition> = known.iter().filter(is_known).cloned().collect();
        if !known.is_empty() && self.stands().any(|(_, stand)| stand == Stand::Runs) {
            return known;
        }
        vec![self.fact(kind::REALTIME, &Fact::no(reason::STARTING, "its threads haven't been looked at yet"))]
    }

    fn fact(&self, type_: &str, fact: &Fact) -> Condition {
        self.stated(type_, fact.status.as_str(), fact.reason, &fact.message)
    }

    /// `None` for an instance that joins no bridged Network.
    fn network(&self) -> Option<Told> {
        let network = self.facts.accepted.spec.network.as_ref()?;
        let failure = self.memory.failures.values().find(|failure| failure.failure.kind == FailureKind::Network);
        Some(match (self.facts.attached, self.facts.no_network, failure) {
            (_, Some(missing), _) => (false, reason::NO_NETWORKING, missing.to_owned()),
            (_, None, Some(failure)) => (false, reason::NO_NETWORKING, failure.failure.message.clone()),
            (true, None, None) => {
                (true, reason::ATTACHED, format!("{} on network {}", network.addresses.join(", "), network.name))
            }
            (false, None, None) if self.facts.desired == Desired::Run => {
                (false, reason::STARTING, format!("it joins network {} when it starts", network.name))
            }
            (false, None, None) => (false, reason::STOPPED, format!("it isn't on network {}", network.name)),
        })
    }

    fn condition(&self, type_: &str, (holds, reason, message): (bool, &str, String)) -> Condition {
        self.stated(type_, if holds { "True" } else { "False" }, reason, &message)
    }

    fn stated(&self, type_: &str, status: &str, reason: &str, message: &str) -> Condition {
        let previous = self.memory.status.conditions.iter().find(|condition| condition.type_ == type_);
        let since = previous.filter(|previous| previous.status == status).map(|p| p.last_transition_time.clone());
        let observed = self.facts.object.unwrap_or(self.facts.accepted);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: cut(message),
            observed_generation: observed.metadata.generation,
            last_transition_time: since.unwrap_or_else(|| self.facts.now.time()),
        }
    }

    fn accepted(&self) -> Told {
        if self.facts.stale {
            let given = self.facts.object.map_or(0, |object| object.spec.epoch);
            let message = format!(
                "epoch {given} is below {}, which this node has seen; the newest that was accepted stays",
                self.memory.epoch
            );
            return (false, reason::STALE_EPOCH, message);
        }
        match self.facts.blocked {
            Some(blocked) if blocked.refused => (false, blocked.reason, blocked.message.clone()),
            _ => (true, reason::AS_DECLARED, "this node acts on the newest generation".to_owned()),
        }
    }

    fn ready(&self, phase: Phase) -> Told {
        if self.is_leaving() {
            return (false, reason::STOPPING, "its containers are being stopped".to_owned());
        }
        if self.facts.desired != Desired::Run {
            return match self.facts.blocked {
                Some(blocked) => (false, blocked.reason, blocked.message.clone()),
                None => self.stopped(),
            };
        }
        match phase {
            Phase::Succeeded => return (false, reason::COMPLETED, "every container ended with 0".to_owned()),
            Phase::Failed => return (false, reason::CONTAINER_FAILED, self.describe(Stand::Over)),
            Phase::Pending | Phase::Running | Phase::Unknown => {}
        }
        if let (Some(blocked), None) = (self.facts.blocked, self.facts.pod) {
            return (false, blocked.reason, blocked.message.clone());
        }
        let stands: Vec<Stand> = self.stands().map(|(_, stand)| stand).collect();
        if stands.contains(&Stand::Runs) && stands.iter().all(|stand| matches!(stand, Stand::Runs | Stand::Over)) {
            let over = self.describe(Stand::Over);
            let message =
                if over.is_empty() { "every container runs".to_owned() } else { format!("the others run; {over}") };
            return (true, reason::AS_DECLARED, message);
        }
        if let Some(blocked) = self.facts.blocked {
            return (false, blocked.reason, blocked.message.clone());
        }
        if let Some(failure) = self.memory.failures.values().next() {
            return (false, failure_reason(failure.failure.kind), failure.failure.message.clone());
        }
        if let Some((reason, message)) = self.held_up() {
            return (false, reason, message);
        }
        if self.stands().any(|(name, _)| self.crash_loop(name).is_some()) {
            return (false, reason::CRASH_LOOP_BACK_OFF, self.describe(Stand::Waits));
        }
        if stands.contains(&Stand::Waits) {
            return (false, reason::CONTAINER_EXITED, self.describe(Stand::Waits));
        }
        (false, reason::STARTING, "its containers are being started".to_owned())
    }

    fn stopped(&self) -> Told {
        match &self.memory.terminated {
            Some(terminated) => (false, reason::MISS_BUDGET_SPENT, terminated.message.clone()),
            None => (false, reason::STOPPED, "run is false".to_owned()),
        }
    }

    /// The containers that stand so, with their exit codes.
    fn describe(&self, which: Stand) -> String {
        let line = |(name, _): (&str, Stand)| {
            let container = self.memory.containers.get(name)?;
            let exit = container.last_exit.as_ref()?;
            let oom = if exit.oom_killed { ", out of memory," } else { "" };
            let when = |seconds| match self.is_restarted_by_kubelet() {
                true => " and is restarted by the kubelet".to_owned(),
                false => format!(" and is restarted after {seconds} s"),
            };
            let wait = self.crash_loop(name).map(when);
            Some(format!("container {name} ended with {}{oom}{}", exit.code, wait.unwrap_or_default()))
        };
        let text = self.stands().filter(|(_, stand)| *stand == which).filter_map(line).collect::<Vec<_>>().join("; ");
        text.trim_end_matches(',').to_owned()
    }

    fn progressing(&self, ready: &Told) -> Told {
        if self.is_leaving() {
            return (true, reason::STOPPING, "its containers are being stopped".to_owned());
        }
        if self.facts.desired != Desired::Run {
            return self.stopped();
        }
        if let Some(blocked) = self.facts.blocked {
            return (is_under_way(blocked), blocked.reason, blocked.message.clone());
        }
        if let Some(failure) = self.memory.failures.values().next() {
            return (false, failure_reason(failure.failure.kind), failure.failure.message.clone());
        }
        if let Some((reason, message)) = self.held_up() {
            return (false, reason, message);
        }
        let pending = self.stands().any(|(name, stand)| match stand {
            Stand::Idle => true,
            Stand::Waits => self.crash_loop(name).is_none(),
            Stand::Runs | Stand::Over => false,
        });
        if pending {
            return (true, reason::STARTING, "its containers are being started".to_owned());
        }
        (false, ready.1, "nothing is under way".to_owned())
    }

    /// What isn't ready is never said to be as declared.
    fn degraded(&self, ready: &Told) -> Told {
        if !self.facts.degraded.is_empty() {
            return (true, reason::CANNOT_HONOUR, self.facts.degraded.join("; "));
        }
        if self.stands().any(|(name, _)| self.crash_loop(name).is_some()) {
            return (true, reason::CRASH_LOOP_BACK_OFF, self.describe(Stand::Waits));
        }
        if let Some(failure) = self.memory.failures.values().next() {
            return (true, failure_reason(failure.failure.kind), failure.failure.message.clone());
        }
        // It can't be started, or its containers run (or ran when somebody could look), but could not be started again as things are.
        let is_wanted = self.facts.desired == Desired::Run;
        if let Some(blocked) = self.facts.blocked
            && (self.stands().any(|(_, stand)| stand == Stand::Runs) || is_wanted && !is_under_way(blocked))
        {
            return (true, blocked.reason, blocked.message.clone());
        }
        if let Some((reason, message)) = self.held_up().filter(|_| is_wanted) {
            return (true, reason, message);
        }
        if let Some(terminated) = self.memory.terminated.as_ref().filter(|_| self.facts.pod.is_none()) {
            return (true, reason::MISS_BUDGET_SPENT, terminated.message.clone());
        }
        if is_wanted && self.has_failed_for_good() {
            return (true, reason::CONTAINER_FAILED, self.describe(Stand::Over));
        }
        if self.stands().any(|(_, stand)| stand == Stand::Waits) {
            let message = format!("{}; it is started again", self.describe(Stand::Waits));
            return (false, reason::CONTAINER_EXITED, message);
        }
        match ready {
            (true, ..) => (false, reason::AS_DECLARED, "it is as declared".to_owned()),
            (false, reason, message) => (false, reason, message.clone()),
        }
    }

    /// Whether a container ended badly and isn't started again.
    fn has_failed_for_good(&self) -> bool {
        self.stands().filter(|(_, stand)| *stand == Stand::Over).any(|(name, _)| {
            let exit = self.memory.containers.get(name).and_then(|container| container.last_exit.as_ref());
            exit.is_some_and(|exit| exit.code != 0)
        })
    }
}

/// Whether what keeps it from being started passes by itself.
fn is_under_way(blocked: &Blocked) -> bool {
    matches!(blocked.reason, reason::STARTING | reason::UPDATING)
}

/// At most [`MESSAGE`] characters.
fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE - 1) {
        Some((at, last)) if message.len() > at + last.len_utf8() => format!("{}…", &message[..at]),
        _ => message.to_owned(),
    }
}

/// What people are told of the way from one status to the next: reason, whether it is a warning, note.
pub(crate) fn transitions(
    before: &ModelInstanceStatus,
    after: &ModelInstanceStatus,
) -> Vec<(&'static str, bool, String)> {
    let mut told = Vec::new();
    if before.phase != after.phase {
        let reason = match after.phase {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
            Phase::Unknown => "Unknown",
        };
        let note = format!("phase {} → {}", before.phase.as_str(), after.phase.as_str());
        told.push((reason, after.phase == Phase::Failed, note));
    }
    let of = |status: &ModelInstanceStatus, type_: &str| -> Option<(String, String, String)> {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
        Some((condition.status.clone(), condition.reason.clone(), condition.message.clone()))
    };
    let is_refused = of(after, kind::ACCEPTED).is_some_and(|(status, ..)| status == "False");
    let watched = [
        (kind::ACCEPTED, "False", "Refused", None),
        // Of what is refused that is all there is to tell.
        (if is_refused { "" } else { kind::DEGRADED }, "True", "Degraded", Some(reason::CANNOT_HONOUR)),
        (kind::REALTIME, "False", reason::NO_REAL_TIME, Some(reason::NO_REAL_TIME)),
        (kind::WITHIN_WCET, "False", reason::WCET_EXCEEDED, Some(reason::WCET_EXCEEDED)),
    ];
    for (type_, bad, reason, only) in watched {
        let (was, is) = (of(before, type_), of(after, type_));
        if let Some((status, why, message)) = is
            && status == bad
            && only.is_none_or(|only| why == only)
            && was.is_none_or(|(status, before, _)| (status.as_str(), &before) != (bad, &why))
        {
            told.push((reason, true, format!("{why}: {message}")));
        }
    }
    told
}

/// Whether the API server has what it shall be told. Conditions of others are theirs.
pub(crate) fn is_reported(reported: Option<&ModelInstanceStatus>, wanted: &ModelInstanceStatus) -> bool {
    let Some(reported) = reported else { return false };
    let theirs = |condition: &&Condition| wanted.conditions.iter().any(|own| own.type_ == condition.type_);
    let mut conditions: Vec<Condition> = reported.conditions.iter().filter(theirs).cloned().collect();
    let position = |condition: &Condition| wanted.conditions.iter().position(|own| own.type_ == condition.type_);
    conditions.sort_by_key(position);
    let reported = ModelInstanceStatus { conditions, ..reported.clone() };
    reported == *wanted
}

/// Whether any container of a pod runs.
#[must_use]
pub fn runs(pod: &PodObserved) -> bool {
    pod.containers.iter().any(|container| matches!(container.state, ContainerStateObserved::Running { .. }))
}

/// Whether an exit is the last of its container, for a policy.
#[must_use]
pub fn is_last(policy: RestartPolicy, exit: &crate::runtime::Exit) -> bool {
    !wanted(policy, exit)
}
