//! From claims and nodes to instances.
//!
//! A model on a node is a *slot*, and a slot holds at most one instance. The instance's name carries the hash of its template, so a changed
//! template is another instance: the old one is removed first, and only when it is gone from the snapshot is the new one added.
//!
//! What can't be resolved or placed any more doesn't stop what runs: an instance has all it needs in its template.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::{InstanceNetwork, InstanceTask, ModelInstance, ModelInstanceSpec, Phase, Template};
use pullpiri_crds::names::{LABEL_MODEL, LABEL_NODE, LABEL_PACKAGE, same_node};
use pullpiri_crds::package::{DesiredRun, DesiredState, PackageModel};

use super::address::{self, Addresses, Objection};
use super::admission::{Admission, admission};
use super::plan::{Action, Plan};
use super::proof;
use super::seat::{Instances, Seat, holds, seats};
use super::snapshot::Snapshot;
use super::status::{self, Account, Slot, Standing};
use super::template::Unresolved;
use crate::claims;
use crate::conditions::{MESSAGE_LENGTH, Verdict, bounded};
use crate::naming::{instance_name, label_value};
use crate::ownership;
use crate::placement::{self, Place, Readiness};

/// Whether the package should run, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Desire {
    pub run: DesiredRun,
    /// The claim that decides.
    pub claim: Option<String>,
    /// Why it is stopped, if it is.
    pub reason: &'static str,
}

/// What is to be done about a package.
#[must_use]
pub fn decide(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let package = &*snapshot.package;
    if package.metadata.deletion_timestamp.is_some() {
        // Its instances vanish with it: it is their owner.
        return Plan::default();
    }
    let newest = snapshot.instances.iter().map(|i| i.spec.epoch).max();
    if let Some(epoch) = newest.filter(|&epoch| epoch > snapshot.epoch) {
        return Plan { superseded_by: Some(epoch), ..Plan::default() };
    }
    let desire = desire(snapshot);
    let instances = Instances::of(snapshot);
    let mut loads = placement::loads(&snapshot.nodes);
    let mut seats = seats(snapshot, &instances.mine, &mut loads);
    let admission = admission(snapshot, &mut seats, &instances, &mut loads);
    let mut work = Work::new(snapshot, &desire, &instances, &admission);
    for seat in &seats {
        work.model(seat);
    }
    work.sweep();
    work.judge();
    let Work { removals, additions, account, addresses, .. } = work;
    let mut plan = Plan { actions: removals, ..Plan::default() };
    plan.actions.extend(additions);
    (plan.takes_link, plan.is_crowded) = (addresses.takes_link, addresses.is_crowded);
    plan.starved = addresses.exhausted;
    plan.schedule = proof::status(snapshot, &admission, now).map(Box::new);
    let (next, notices) = status::compute(snapshot, &desire, &account, now);
    if package.status.as_ref().is_none_or(|on_record| !status::same(on_record, &next)) {
        plan.status = Some(Box::new(next));
    }
    plan.notices = notices;
    plan
}

fn desire(snapshot: &Snapshot) -> Desire {
    match snapshot.package.spec.desired_state.unwrap_or_default() {
        DesiredState::Running => Desire { run: DesiredRun::Running, claim: None, reason: reason::AS_DECLARED },
        DesiredState::Stopped => Desire { run: DesiredRun::Stopped, claim: None, reason: reason::STOPPED },
        DesiredState::OnClaim => match claims::winner(&snapshot.claims) {
            Some(claim) => Desire {
                run: claims::wish(claim.spec.action),
                claim: claim.metadata.name.clone(),
                reason: reason::STOPPED,
            },
            None => Desire { run: DesiredRun::Stopped, claim: None, reason: reason::NO_CLAIM },
        },
    }
}

/// Why a package isn't placed at all, whatever its models are.
fn unsupported(snapshot: &Snapshot) -> Option<Objection> {
    let policy = snapshot.package.spec.policy.as_ref()?;
    let message = format!("spec.policy names {policy}, but Policies aren't supported by this release: not placed");
    Some((reason::POLICY_UNSUPPORTED, message))
}

/// What a package names beside its models, and isn't there.
fn missing(snapshot: &Snapshot) -> Vec<Objection> {
    let spec = &snapshot.package.spec;
    let schedule = spec.schedule.as_ref().filter(|_| snapshot.schedule.is_none());
    let policy = spec.policy.as_ref().filter(|_| snapshot.policy.is_none());
    let schedule = schedule.map(|name| (reason::SCHEDULE_NOT_FOUND, format!("schedule {name} doesn't exist")));
    let policy = policy.map(|name| (reason::POLICY_NOT_FOUND, format!("policy {name} doesn't exist")));
    schedule.into_iter().chain(policy).collect()
}

/// A decision under way.
struct Work<'a> {
    snapshot: &'a Snapshot,
    desire: &'a Desire,
    instances: &'a Instances<'a>,
    admission: &'a Admission,
    /// Why nothing new is placed or started.
    refusal: Option<Objection>,
    addresses: Addresses<'a>,
    ready: BTreeMap<&'a str, Readiness>,
    /// Names of instances that have a slot.
    kept: BTreeSet<&'a str>,
    removals: Vec<Action>,
    additions: Vec<Action>,
    account: Account,
}

impl<'a> Work<'a> {
    fn new(snapshot: &'a Snapshot, desire: &'a Desire, instances: &'a Instances<'a>, admission: &'a Admission) -> Self {
        let refused = match admission {
            Admission::Refused { reason, message, .. } => Some((*reason, message.clone())),
            Admission::Nothing | Admission::Proven { .. } => None,
        };
        Self {
            snapshot,
            desire,
            instances,
            admission,
            refusal: unsupported(snapshot).or(refused),
            addresses: Addresses::new(snapshot),
            ready: snapshot.nodes.iter().map(|n| (n.name.as_str(), n.readiness)).collect(),
            kept: BTreeSet::new(),
            removals: Vec::new(),
            additions: Vec::new(),
            account: Account { unresolved: missing(snapshot), ..Account::default() },
        }
    }

    /// Accounts for each of a model's slots.
    fn model(&mut self, seat: &Seat<'_>) {
        let entry = seat.entry;
        if let Err(missing) = &seat.resolved {
            self.account.unresolved.extend(missing.iter().map(|m| (m.reason(), m.to_string())));
        }
        for place in &seat.places {
            let slot = match (place, &seat.resolved, &self.refusal) {
                (Place::Bound(node) | Place::Free(node), Ok(template), None) => self.slot(seat, node, template),
                (Place::Bound(node), Err(missing), None) => {
                    let problem = missing.first().map(|m| (m.reason(), join(missing)));
                    self.keep(entry, node, problem)
                }
                (Place::Bound(node), _, Some(refusal)) => {
                    let refusal = refusal.clone();
                    self.keep(entry, node, Some(refusal))
                }
                (Place::Free(node), Err(missing), None) => {
                    let reason = missing.first().map_or(reason::MODEL_NOT_FOUND, Unresolved::reason);
                    // It has a node, and can't be there before its network is.
                    let networks = missing.iter().filter(|m| matches!(m, Unresolved::Network { .. }));
                    self.account.unplaced.extend(networks.map(|m| (m.reason(), m.to_string())));
                    Slot::refused(&entry.name, Some(node.clone()), reason, join(missing))
                }
                (Place::Free(node), _, Some((reason, message))) => {
                    Slot::refused(&entry.name, Some(node.clone()), reason, message.clone())
                }
                (Place::Refused(refusal), _, _) => {
                    let (reason, message) = (refusal.reason(), refusal.to_string());
                    self.account.unplaced.push((reason, message.clone()));
                    Slot::refused(&entry.name, refusal.node().map(ToOwned::to_owned), reason, message)
                }
            };
            self.account.slots.push(slot);
        }
    }

    /// What refusals of the whole package come to: what has its place already is placed, whatever became of the proof.
    fn judge(&mut self) {
        let in_vain = |slot: &Slot| matches!(slot.standing, Standing::Refused(_));
        if let Some(refusal) = &self.refusal
            && (refusal.0 == reason::POLICY_UNSUPPORTED || self.account.slots.iter().any(in_vain))
        {
            self.account.unplaced.insert(0, refusal.clone());
        }
        self.account.proof = match self.admission {
            Admission::Nothing => None,
            Admission::Proven { message, .. } => Some((Verdict::True, reason::PROVEN, message.clone())),
            Admission::Refused { reason, message, .. } => {
                let runs = self.instances.mine.iter().any(|i| i.spec.run && !i.spec.realtime.is_empty());
                let kept = if runs { "; what runs keeps its settings" } else { "" };
                let room = MESSAGE_LENGTH.saturating_sub(kept.len());
                Some((Verdict::False, reason, format!("{}{kept}", bounded(message, room))))
            }
        };
    }

    /// A slot whose template is known: one instance of that template, or none while an older one is in the way.
    fn slot(&mut self, seat: &Seat<'_>, node: &str, template: &Arc<Template>) -> Slot {
        let entry = seat.entry;
        let package = self.snapshot.package.metadata.name.clone().unwrap_or_default();
        let name = match instance_name(&package, &entry.name, node, template) {
            Ok(name) => name,
            Err(cause) => {
                let cause = Unresolved::Template { model: entry.name.clone(), cause: cause.to_string() };
                return Slot::refused(&entry.name, Some(node.to_owned()), cause.reason(), cause.to_string());
            }
        };
        let here = |i: &&&'a ModelInstance| i.spec.model == entry.name && same_node(&i.spec.node_name, node);
        let occupants: Vec<&'a ModelInstance> = self.instances.mine.iter().filter(here).copied().collect();
        let in_the_way = self.instances.predecessors.iter().any(|i| here(&i));
        let (current, outdated): (Vec<_>, Vec<_>) =
            occupants.into_iter().partition(|i| i.metadata.name.as_deref() == Some(name.as_str()) && !leaving(i));
        // An outdated instance has no slot: the sweep removes it.
        if let Some(current) = current.first().copied() {
            return self.current(seat, node, current);
        }
        // What runs isn't taken away for a successor that may not be placed.
        if self.desire.run == DesiredRun::Running
            && outdated.iter().any(|i| !leaving(i))
            && let Some(objection) = address::objection(self.snapshot, entry, seat.model)
        {
            self.account.unplaced.push(objection.clone());
            return self.keep(entry, node, Some(objection));
        }
        if in_the_way || !outdated.is_empty() {
            let (name, reason) = match self.desire.run {
                DesiredRun::Running => (name.as_str(), reason::REPLACING),
                DesiredRun::Stopped => {
                    (outdated.first().and_then(|i| i.metadata.name.as_deref()).unwrap_or(&name), reason::STOPPING)
                }
            };
            return Slot::coming(&entry.name, node, name, reason, "the old instance is being removed");
        }
        if self.desire.run == DesiredRun::Stopped {
            return Slot::absent(&entry.name, entry.node.as_ref().map(|_| node.to_owned()));
        }
        let taken = self.snapshot.instances.iter().any(|i| i.metadata.name.as_deref() == Some(name.as_str()));
        if taken {
            let message =
                format!("model {}: instance {name} exists and isn't this package's; it is left alone", entry.name);
            return self.refuse(entry, node, (reason::NAME_TAKEN, message));
        }
        let network = match self.addresses.join(entry, seat.model, node, None) {
            Ok(network) => network,
            Err(objection) => return self.refuse(entry, node, objection),
        };
        let spec = ModelInstanceSpec {
            package,
            model: entry.name.clone(),
            node_name: node.to_owned(),
            template: Arc::clone(template),
            run: true,
            epoch: self.snapshot.epoch,
            realtime: self.admission.settings(&entry.name, node).unwrap_or_default(),
            network,
        };
        let instance = Box::new(self.build(&name, spec));
        self.additions.push(Action::ApplyInstance { instance, why: "placed" });
        // It is tried again, but until it is accepted this is how things stand.
        if let Some(said) = self.snapshot.refused.get(&name) {
            let message = format!("model {}: the API server refuses instance {name}: {said}", entry.name);
            return self.refuse(entry, node, (reason::INSTANCE_REFUSED, message));
        }
        Slot::coming(&entry.name, node, &name, reason::STARTING, "")
    }

    fn refuse(&mut self, entry: &PackageModel, node: &str, (reason, message): Objection) -> Slot {
        self.account.unplaced.push((reason, message.clone()));
        Slot::refused(&entry.name, Some(node.to_owned()), reason, message)
    }

    /// A slot whose instance has the right template: its settings follow in place, its addresses only while it doesn't run.
    fn current(&mut self, seat: &Seat<'_>, node: &str, instance: &'a ModelInstance) -> Slot {
        let entry = seat.entry;
        let mut change = Change { realtime: instance.spec.realtime.clone(), network: instance.spec.network.clone() };
        if self.desire.run == DesiredRun::Stopped {
            return self.keep_instance(entry, node, instance, &change, None);
        }
        if let Some(realtime) = self.admission.settings(&entry.name, node) {
            change.realtime = realtime;
        }
        match self.addresses.join(entry, seat.model, node, Some(instance)) {
            Ok(network) if network == instance.spec.network => {}
            Ok(network) if !holds(instance) => change.network = network,
            // What runs has all it needs: it isn't disturbed for a Network that it lost.
            Ok(None) => {}
            // To join a Network it has to be made anew; the sweep removes it.
            Ok(Some(_)) => {
                let name = instance.metadata.name.as_deref().unwrap_or_default();
                return Slot::coming(&entry.name, node, name, reason::REPLACING, "it is made anew to join its network");
            }
            Err(objection) => {
                if !instance.spec.run {
                    self.account.unplaced.push(objection.clone());
                }
                return self.keep_instance(entry, node, instance, &change, Some(objection));
            }
        }
        self.keep_instance(entry, node, instance, &change, None)
    }

    /// A slot that has to make do with the instance it has.
    fn keep(&mut self, entry: &PackageModel, node: &str, problem: Option<Objection>) -> Slot {
        let occupant = self
            .instances
            .mine
            .iter()
            .copied()
            .filter(|i| i.spec.model == entry.name && same_node(&i.spec.node_name, node))
            .min_by_key(|i| leaving(i));
        match (occupant, problem) {
            (Some(occupant), problem) => {
                let spec = &occupant.spec;
                let change = Change { realtime: spec.realtime.clone(), network: spec.network.clone() };
                self.keep_instance(entry, node, occupant, &change, problem)
            }
            (None, Some((reason, message))) => Slot::refused(&entry.name, Some(node.to_owned()), reason, message),
            (None, None) => Slot::absent(&entry.name, Some(node.to_owned())),
        }
    }

    /// Keeps an instance in its slot and has it run or not, as desired. With a problem, nothing is started that doesn't run already.
    fn keep_instance(
        &mut self,
        entry: &PackageModel,
        node: &str,
        instance: &'a ModelInstance,
        change: &Change,
        problem: Option<Objection>,
    ) -> Slot {
        let name = instance.metadata.name.as_deref().unwrap_or_default();
        self.kept.insert(name);
        if leaving(instance) {
            return Slot::coming(&entry.name, node, name, reason::REPLACING, "the old instance is being removed");
        }
        let run = match self.desire.run {
            DesiredRun::Running => problem.is_none() || instance.spec.run,
            DesiredRun::Stopped => false,
        };
        let Change { realtime, network } = change.clone();
        let changed = realtime != instance.spec.realtime || network != instance.spec.network;
        let spec = ModelInstanceSpec { run, epoch: self.snapshot.epoch, realtime, network, ..instance.spec.clone() };
        let wanted = self.build(name, spec);
        let ready = self.ready.get(node).copied().unwrap_or(Readiness::Silent);
        let mut slot = Slot::standing(&entry.name, node, instance, ready);
        if run != instance.spec.run {
            let (reason, why) = if run { (reason::STARTING, "to run") } else { (reason::STOPPING, "to stop") };
            self.additions.push(Action::ApplyInstance { instance: Box::new(wanted), why });
            slot.standing = Standing::Coming(reason);
            slot.message = None;
        } else if changed {
            self.additions.push(Action::ApplyInstance { instance: Box::new(wanted), why: "settings" });
        } else if instance.spec.epoch < self.snapshot.epoch {
            // From now on nothing that an earlier leader may still send is taken.
            self.additions.push(Action::ApplyInstance { instance: Box::new(wanted), why: "epoch" });
        } else if !ownership::carries(&instance.metadata, &wanted.metadata) {
            self.additions.push(Action::ApplyInstance { instance: Box::new(wanted), why: "labels and owner" });
        }
        if let Some((reason, message)) = problem {
            if !instance.spec.run && self.desire.run == DesiredRun::Running {
                slot.standing = Standing::Refused(reason);
            }
            slot.message.get_or_insert(message);
        }
        if run && let Some(network) = self.lost(change) {
            let said = Unresolved::Network { model: entry.name.clone(), network: network.to_owned() };
            let message = said.to_string();
            slot.message.get_or_insert_with(|| message.clone());
            slot.lacks.push((said.reason(), format!("{message}: instance {name} runs on and has no traffic")));
            let unresolved = (said.reason(), message);
            if !self.account.unresolved.contains(&unresolved) {
                self.account.unresolved.push(unresolved);
            }
        }
        slot
    }

    /// The Network whose addresses an instance keeps, if that is gone: nobody names it any more where it was joined by labels.
    fn lost<'b>(&self, change: &'b Change) -> Option<&'b str> {
        let had = change.network.as_ref()?;
        (!self.snapshot.networks.contains_key(&had.name)).then_some(had.name.as_str())
    }

    /// Removes what has no slot.
    fn sweep(&mut self) {
        for instance in &self.instances.mine {
            let name = instance.metadata.name.as_deref().unwrap_or_default();
            if !self.kept.contains(name) && !leaving(instance) {
                self.removals.push(delete(instance, "outdated or no longer asked for"));
            }
        }
        for instance in self.instances.predecessors.iter().filter(|i| !leaving(i)) {
            self.removals.push(delete(instance, "left by an earlier package of this name"));
        }
    }

    fn build(&self, name: &str, spec: ModelInstanceSpec) -> ModelInstance {
        let label = |key: &str, value: &str| (key.to_owned(), label_value(value));
        let labels =
            [label(LABEL_PACKAGE, &spec.package), label(LABEL_MODEL, &spec.model), label(LABEL_NODE, &spec.node_name)];
        let mut instance = ModelInstance::new(name, spec);
        instance.metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: self.snapshot.package.metadata.namespace.clone(),
            labels: Some(labels.into()),
            owner_references: Some(vec![ownership::reference(&*self.snapshot.package)]),
            ..ObjectMeta::default()
        };
        instance
    }
}

/// What may change of an instance in place.
#[derive(Clone, Debug)]
struct Change {
    realtime: Vec<InstanceTask>,
    network: Option<InstanceNetwork>,
}

fn leaving(instance: &ModelInstance) -> bool {
    instance.metadata.deletion_timestamp.is_some()
}

fn join(missing: &[Unresolved]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn delete(instance: &ModelInstance, why: &'static str) -> Action {
    Action::DeleteInstance {
        namespace: instance.metadata.namespace.clone().unwrap_or_default(),
        name: instance.metadata.name.clone().unwrap_or_default(),
        uid: instance.metadata.uid.clone().unwrap_or_default(),
        why,
    }
}

/// The phase that a node reports, unless the node doesn't answer.
pub(super) fn phase(instance: &ModelInstance, ready: Readiness) -> Phase {
    match ready {
        Readiness::Ready | Readiness::NotReady => instance.status.as_ref().map(|s| s.phase).unwrap_or_default(),
        Readiness::Silent => Phase::Unknown,
    }
}
