//! The status of a package: a function of what each slot amounts to.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::instance::{ModelInstance, Phase};
use pullpiri_crds::package::{DesiredRun, ModelStatus, PackageState, PackageStatus};
use pullpiri_state::{Notice, PackageMachine, Progress, Severity, package_path};

use super::decide::{Desire, phase};
use super::snapshot::Snapshot;
use crate::conditions::{self, MESSAGE_LENGTH, Verdict, Wanted, bounded};
use crate::placement::Readiness;
use crate::time;

/// As many models as the schema keeps in the status.
const MODELS_LISTED: usize = 256;

/// Reasons of an instance's conditions that waiting doesn't cure.
const STUCK: [&str; 9] = [
    reason::MISS_BUDGET_SPENT,
    reason::CRASH_LOOP_BACK_OFF,
    reason::IMAGE_MISSING,
    reason::RUNTIME_MISSING,
    reason::RUNTIME_ERROR,
    reason::VOLUME_MISSING,
    reason::CONFIG_MISSING,
    reason::INVALID_TEMPLATE,
    reason::CANNOT_HONOUR,
];

/// Why threads of an instance that runs haven't what was proven; that it has just started is none.
const UNTIMED: [&str; 2] = [reason::NO_REAL_TIME, reason::THREAD_NOT_FOUND];

/// What a slot amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no place for it, or something it needs is missing.
    Refused(&'static str),
    /// It is being started, stopped or replaced.
    Coming(&'static str),
    Running,
    /// It ended by itself, and well.
    Ended,
    Failed(&'static str),
    /// Its node doesn't answer.
    Lost,
    /// There is an instance, stopped on purpose.
    Stopped,
    /// There is no instance, and none is wanted.
    Absent,
}

/// One model on one node.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub model: String,
    pub node: Option<String>,
    pub instance: Option<String>,
    pub phase: Option<Phase>,
    pub standing: Standing,
    pub message: Option<String>,
    /// It runs and lacks something, as the timing that was proven for its threads: reason and message of each.
    pub lacks: Vec<(&'static str, String)>,
}

impl Slot {
    pub fn refused(model: &str, node: Option<String>, reason: &'static str, message: String) -> Self {
        Self { standing: Standing::Refused(reason), message: Some(message), ..Self::absent(model, node) }
    }

    pub fn absent(model: &str, node: Option<String>) -> Self {
        let (model, standing) = (model.to_owned(), Standing::Absent);
        Self { model, node, instance: None, phase: None, standing, message: None, lacks: Vec::new() }
    }

    pub fn coming(model: &str, node: &str, instance: &str, reason: &'static str, message: &str) -> Self {
        Self {
            model: model.to_owned(),
            node: Some(node.to_owned()),
            instance: Some(instance.to_owned()),
            phase: Some(Phase::Pending),
            standing: Standing::Coming(reason),
            message: (!message.is_empty()).then(|| message.to_owned()),
            lacks: Vec::new(),
        }
    }

    /// What an instance that needn't be touched amounts to.
    pub fn standing(model: &str, node: &str, instance: &ModelInstance, ready: Readiness) -> Self {
        let phase = phase(instance, ready);
        let status = instance.status.as_ref();
        let behind = status
            .and_then(|s| s.observed_generation)
            .zip(instance.metadata.generation)
            .is_some_and(|(observed, current)| observed < current);
        // Why it doesn't run, as its node tells.
        let trouble = status.and_then(|s| {
            s.conditions
                .iter()
                .find(|c| matches!(c.type_.as_str(), kind::READY | kind::ACCEPTED) && c.status == "False")
        });
        let stuck = trouble.and_then(|c| STUCK.into_iter().find(|&reason| reason == c.reason));
        let standing = match (instance.spec.run, phase) {
            (true, Phase::Running | Phase::Pending) if !behind && stuck.is_some() => {
                Standing::Failed(stuck.unwrap_or(reason::CONTAINER_FAILED))
            }
            // It was to be stopped a moment ago: its pod goes, and another comes.
            (true, Phase::Running) if trouble.is_some_and(|c| c.reason == reason::STOPPING) => {
                Standing::Coming(reason::STOPPING)
            }
            (true, Phase::Running) => Standing::Running,
            (true, Phase::Pending) => Standing::Coming(reason::STARTING),
            (true, Phase::Succeeded | Phase::Failed) if behind => Standing::Coming(reason::STARTING),
            (true, Phase::Succeeded) => Standing::Ended,
            (true, Phase::Failed) => Standing::Failed(reason::CONTAINER_FAILED),
            (true, Phase::Unknown) => Standing::Lost,
            (false, Phase::Running | Phase::Unknown) => Standing::Coming(reason::STOPPING),
            (false, Phase::Pending | Phase::Succeeded | Phase::Failed) if behind => Standing::Coming(reason::STOPPING),
            (false, Phase::Pending | Phase::Succeeded | Phase::Failed) => Standing::Stopped,
        };
        let name = instance.metadata.name.as_deref().unwrap_or_default();
        let message = match standing {
            Standing::Failed(reason::MISS_BUDGET_SPENT) => {
                trouble.map(|c| format!("instance {name} was stopped: {}", c.message))
            }
            _ if phase == Phase::Unknown => Some(format!("node {node} doesn't answer")),
            Standing::Failed(_) | Standing::Coming(_) => trouble.map(|c| c.message.clone()).filter(|m| !m.is_empty()),
            _ => None,
        };
        let untimed = status.filter(|_| standing == Standing::Running && !behind).and_then(|s| {
            let realtime = conditions::find(&s.conditions, kind::REALTIME).filter(|c| c.status == "False")?;
            let reason = UNTIMED.into_iter().find(|reason| *reason == realtime.reason)?;
            Some((reason, format!("model {model}: instance {name}: {}", realtime.message)))
        });
        Self {
            model: model.to_owned(),
            node: Some(node.to_owned()),
            instance: instance.metadata.name.clone(),
            phase: Some(phase),
            standing,
            message,
            lacks: untimed.into_iter().collect(),
        }
    }
}

/// What placing and resolving all models came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub slots: Vec<Slot>,
    /// Reason and message of each.
    pub unresolved: Vec<(&'static str, String)>,
    pub unplaced: Vec<(&'static str, String)>,
    /// What real-time admission came to, if there are tasks.
    pub proof: Option<(Verdict, &'static str, String)>,
}

impl Account {
    fn count(&self, which: impl Fn(Standing) -> bool) -> usize {
        self.slots.iter().filter(|slot| which(slot.standing)).count()
    }

    fn running(&self) -> usize {
        self.count(|s| s == Standing::Running)
    }

    fn first(&self, which: impl Fn(Standing) -> Option<&'static str>) -> Option<&'static str> {
        self.slots.iter().find_map(|slot| which(slot.standing))
    }
}

/// The whole status, and what to tell people about how it came to be.
pub(super) fn compute(
    snapshot: &Snapshot,
    desire: &Desire,
    account: &Account,
    now: Timestamp,
) -> (PackageStatus, Vec<Notice>) {
    let package = &*snapshot.package;
    let before = package.status.clone().unwrap_or_default();
    let generation = package.metadata.generation;
    let ready = format!("{}/{}", account.running(), account.slots.len());
    let goal = state(desire, account);
    let why = why(desire, account, goal);

    let at = time::micro(now);
    let mut progress = Progress::<PackageMachine>::resume(before.state, &before.history);
    let path = package_path(before.state, goal);
    for (step, event) in path.iter().enumerate() {
        let (reason, note) = if step + 1 == path.len() {
            (why, note(desire, account, goal, &ready))
        } else {
            (reason::UPDATING, String::new())
        };
        // The path consists of legal events.
        let _ = progress.fire(*event, &at, reason, &note);
    }
    let (state, history, mut notices) = progress.finish();
    let told: Vec<&str> = notices.iter().map(|notice| notice.note.as_str()).collect();
    let disproven = disproven(account, &before.conditions).filter(|n| !told.iter().any(|note| note.contains(&n.note)));
    notices.extend(disproven);
    let status = PackageStatus {
        observed_generation: generation,
        state,
        desired: Some(desire.run),
        claim: desire.claim.clone(),
        models: account.slots.iter().take(MODELS_LISTED).map(listed).collect(),
        history,
        conditions: conditions::compute(
            &before.conditions,
            wanted(desire, account, state, why, &ready),
            generation,
            now,
        ),
        ready: Some(ready),
    };
    (status, notices)
}

/// That a proof doesn't hold is told once, and again when the reason changes.
fn disproven(account: &Account, on_record: &[Condition]) -> Option<Notice> {
    let (verdict, reason, message) = account.proof.as_ref()?;
    let told = conditions::find(on_record, kind::SCHEDULABLE)
        .is_some_and(|before| before.status == verdict.as_str() && before.reason == *reason);
    (*verdict == Verdict::False && !told).then(|| Notice { severity: Severity::Warning, reason, note: message.clone() })
}

/// Whether what is on record is what we would write; what others added to it is left out.
pub(super) fn same(on_record: &PackageStatus, next: &PackageStatus) -> bool {
    let proof = |status: &PackageStatus| conditions::find(&status.conditions, kind::SCHEDULABLE).is_some();
    if proof(on_record) && !proof(next) {
        // It goes with the tasks that it was about.
        return false;
    }
    let ours = conditions::of_same_types(&on_record.conditions, &next.conditions);
    *next == PackageStatus { conditions: ours, ..on_record.clone() }
}

fn listed(slot: &Slot) -> ModelStatus {
    ModelStatus {
        name: slot.model.clone(),
        node: slot.node.clone(),
        instance: slot.instance.clone(),
        phase: slot.phase,
        message: slot.message.as_ref().map(|m| bounded(m, MESSAGE_LENGTH)),
    }
}

/// Where the package stands.
fn state(desire: &Desire, account: &Account) -> PackageState {
    let all = account.slots.len();
    let coming = account.count(|s| matches!(s, Standing::Coming(_)));
    match desire.run {
        DesiredRun::Stopped => {
            let kept = account.count(|s| s == Standing::Stopped);
            let active = account.count(|s| match s {
                Standing::Coming(_) | Standing::Running | Standing::Failed(_) | Standing::Lost => true,
                Standing::Refused(_) | Standing::Ended | Standing::Stopped | Standing::Absent => false,
            });
            match (active, kept) {
                (0, 0) => PackageState::Idle,
                (0, _) => PackageState::Paused,
                _ => PackageState::Updating,
            }
        }
        DesiredRun::Running => {
            let dead = account.count(|s| match s {
                Standing::Refused(_) | Standing::Failed(_) | Standing::Lost => true,
                Standing::Coming(_) | Standing::Running | Standing::Ended | Standing::Stopped | Standing::Absent => {
                    false
                }
            });
            if coming > 0 {
                PackageState::Updating
            } else if dead == all {
                PackageState::Error
            } else if dead > 0 {
                PackageState::Degraded
            } else if account.count(|s| s == Standing::Ended) == all {
                PackageState::Exited
            } else {
                PackageState::Running
            }
        }
    }
}

/// The reason of the state: of a transition to it and of the condition Ready.
fn why(desire: &Desire, account: &Account, state: PackageState) -> &'static str {
    match state {
        PackageState::Idle | PackageState::Paused => desire.reason,
        PackageState::Running => reason::AS_DECLARED,
        PackageState::Exited => reason::MODELS_EXITED,
        PackageState::Updating => account
            .first(|s| if let Standing::Coming(reason) = s { Some(reason) } else { None })
            .unwrap_or(reason::UPDATING),
        PackageState::Degraded | PackageState::Error => account
            .first(|s| match s {
                Standing::Failed(reason) => Some(reason),
                Standing::Lost => Some(reason::HEARTBEAT_LOST),
                Standing::Refused(reason) => Some(reason),
                Standing::Coming(_) | Standing::Running | Standing::Ended | Standing::Stopped | Standing::Absent => {
                    None
                }
            })
            .unwrap_or(reason::NOT_PLACED),
    }
}

/// What a person reads about the state.
fn note(desire: &Desire, account: &Account, state: PackageState, ready: &str) -> String {
    let by = desire.claim.as_ref().map(|claim| format!(", as claim {claim} wishes")).unwrap_or_default();
    match state {
        PackageState::Idle | PackageState::Paused if desire.reason == reason::NO_CLAIM => {
            "no claim on it, so nothing runs".to_owned()
        }
        PackageState::Idle => format!("nothing runs{by}"),
        PackageState::Paused => format!("stopped{by}; instances are kept"),
        PackageState::Exited => "every model ended with exit code 0".to_owned(),
        PackageState::Running => format!("{ready} instances run{by}"),
        PackageState::Updating => format!("{ready} instances run"),
        PackageState::Degraded | PackageState::Error => {
            let troubles = troubles(account);
            bounded(&format!("{ready} instances run; {}", troubles.join("; ")), MESSAGE_LENGTH)
        }
    }
}

/// What is wrong with each slot; what is wrong with several in the same way is said once.
fn troubles(account: &Account) -> Vec<String> {
    let mut all: Vec<(Vec<&str>, Option<&str>)> = Vec::new();
    let troubled = |s: &&Slot| matches!(s.standing, Standing::Refused(_) | Standing::Failed(_) | Standing::Lost);
    for slot in account.slots.iter().filter(troubled) {
        let message = slot.message.as_deref();
        match all.iter_mut().find(|(_, said)| message.is_some() && *said == message) {
            Some((models, _)) if models.contains(&slot.model.as_str()) => {}
            Some((models, _)) => models.push(&slot.model),
            None => all.push((vec![&slot.model], message)),
        }
    }
    let said = |(models, message): (Vec<&str>, Option<&str>)| match (&models[..], message) {
        ([model], Some(message)) if message.contains(model) => message.to_owned(),
        ([model], Some(message)) => format!("model {model}: {message}"),
        (models, Some(message)) => format!("models {}: {message}", models.join(", ")),
        (models, None) => format!("model {} failed", models.join(", ")),
    };
    all.into_iter().map(said).collect()
}

fn wanted(desire: &Desire, account: &Account, state: PackageState, why: &'static str, ready: &str) -> Vec<Wanted> {
    let verdict = |holds: bool| if holds { Verdict::True } else { Verdict::False };
    let note = note(desire, account, state, ready);
    let troubled = matches!(state, PackageState::Degraded | PackageState::Error);
    let progressing = state == PackageState::Updating;
    let progress_note = if progressing { note.clone() } else { "nothing is under way".to_owned() };
    let mut wanted = vec![
        Wanted::new(kind::READY, verdict(state == PackageState::Running), why, note.clone()),
        Wanted::new(kind::PROGRESSING, verdict(progressing), why, progress_note),
        degraded(account, troubled, (why, note)),
        summed(kind::RESOLVED, reason::ALL_RESOLVED, &account.unresolved),
        summed(kind::PLACED, reason::ALL_PLACED, &account.unplaced),
    ];
    if let Some((verdict, reason, message)) = &account.proof {
        wanted.push(Wanted::new(kind::SCHEDULABLE, *verdict, reason, message.clone()));
    }
    wanted
}

/// What is wrong: what the state says, and what is missing to what runs: timing that was proven, a Network that is gone. What isn't ready is never said to be as declared.
fn degraded(account: &Account, troubled: bool, state: (&'static str, String)) -> Wanted {
    let lacking = account.slots.iter().flat_map(|slot| slot.lacks.iter().cloned());
    let trouble = troubled.then(|| state.clone());
    let all: Vec<(&'static str, String)> = trouble.into_iter().chain(lacking).collect();
    let Some((first, _)) = all.first() else {
        return match state {
            (reason::AS_DECLARED, _) => {
                Wanted::new(kind::DEGRADED, Verdict::False, reason::AS_DECLARED, "it is as declared")
            }
            (why, note) => Wanted::new(kind::DEGRADED, Verdict::False, why, note),
        };
    };
    let said: Vec<&str> = all.iter().map(|(_, message)| message.as_str()).collect();
    Wanted::new(kind::DEGRADED, Verdict::True, first, said.join("; "))
}

/// A condition that holds if there is nothing against it.
fn summed(kind: &'static str, all_well: &'static str, against: &[(&'static str, String)]) -> Wanted {
    match against.first() {
        None => Wanted::new(kind, Verdict::True, all_well, ""),
        Some((reason, _)) => {
            let messages: Vec<&str> = against.iter().map(|(_, message)| message.as_str()).collect();
            Wanted::new(kind, Verdict::False, reason, messages.join("; "))
        }
    }
}
