//! Admission: a package whose real-time tasks can't be proven to meet their deadlines isn't placed, none of it.
//!
//! Each node is proven by itself, with the exact tests of `pullpiri-rt`: the package's tasks there, and what instances of others hold there. A
//! proof is sought in three steps, so that what runs is left as it is whenever that can be proven:
//! 1. tasks that haven't changed keep their CPU and their priority,
//! 2. tasks keep their CPU,
//! 3. every task may go anywhere on its node.
//!
//! A model without a node of its own goes to the first node (in placement's order) where the tasks can be proven. Models are seated one
//! after the other and none is seated again for a later one: that is first fit, not a search.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_crds::condition::reason;
use pullpiri_crds::duration::format_ns;
use pullpiri_crds::instance::{InstanceTask, ModelInstance};
use pullpiri_crds::names::{rfc1123, same_node};
use pullpiri_crds::schedule::{PriorityAssignment, TaskProof};
use pullpiri_rt::{CpuSet, Node, Placed, Policy, Reason, Request, TaskVerdict, admit};

use super::address::Objection;
use super::seat::{Instances, Seat, holds};
use super::snapshot::Snapshot;
use super::tasks::{Declaration, Declared, declared};
use crate::placement::{self, Loads, NodeView, Place};

/// How many tasks a message names before it counts the rest.
const NAMED: usize = 3;

/// The settings of each instance's tasks, by model and node.
pub(super) type Settings = BTreeMap<(String, String), Vec<InstanceTask>>;

/// What admission came to.
#[derive(Debug)]
pub(super) enum Admission {
    /// The package has no real-time tasks.
    Nothing,
    Proven {
        settings: Settings,
        message: String,
        proofs: Vec<TaskProof>,
    },
    Refused {
        reason: &'static str,
        message: String,
        proofs: Vec<TaskProof>,
    },
}

impl Admission {
    /// The settings of an instance's tasks; `None` if they aren't to be changed.
    pub fn settings(&self, model: &str, node: &str) -> Option<Vec<InstanceTask>> {
        match self {
            Self::Nothing => Some(Vec::new()),
            Self::Proven { settings, .. } => {
                Some(settings.get(&(model.to_owned(), node.to_owned())).cloned().unwrap_or_default())
            }
            Self::Refused { .. } => None,
        }
    }
}

/// Seats models that have no node of their own, and proves the tasks of the package where its models are.
pub(super) fn admission(
    snapshot: &Snapshot,
    seats: &mut [Seat<'_>],
    instances: &Instances<'_>,
    loads: &mut Loads,
) -> Admission {
    let declaration = match declared(snapshot, seats) {
        Ok(Some(declaration)) => declaration,
        Ok(None) => return Admission::Nothing,
        Err((reason, message)) => return Admission::Refused { reason, message, proofs: unproven(snapshot) },
    };
    let ground = Ground::survey(snapshot, &declaration, seats, instances);
    ground.seat_floating(seats, loads);
    let here = Here::of(seats);
    let mut objections = ground.homeless(seats, &here);
    let mut verdicts: Vec<(usize, TaskVerdict)> = Vec::new();
    let mut proven_on = BTreeSet::new();
    for (node, models) in &here.0 {
        let attempt = ground.prove(node, models);
        if attempt.verdicts.is_empty() && attempt.objections.is_empty() {
            continue;
        }
        proven_on.insert(node.as_str());
        objections.extend(attempt.objections);
        verdicts.extend(attempt.verdicts);
    }
    let proofs = proofs(&declaration, &verdicts);
    if objections.is_empty() {
        let message = said_of(&verdicts, &proven_on);
        return Admission::Proven { settings: settings(&declaration, &verdicts, &here), message, proofs };
    }
    let reason = objections.first().map_or(reason::NOT_SCHEDULABLE, |(reason, _)| reason);
    let mut said: Vec<String> = Vec::new();
    for (_, message) in objections {
        if !said.contains(&message) {
            said.push(message);
        }
    }
    Admission::Refused { reason, message: said.join("; "), proofs }
}

/// The models of the package on each node.
#[derive(Clone, Debug, Default)]
struct Here(BTreeMap<String, BTreeSet<String>>);

impl Here {
    fn of(seats: &[Seat<'_>]) -> Self {
        let mut here = Self::default();
        for seat in seats {
            here.add(seat);
        }
        here
    }

    fn add(&mut self, seat: &Seat<'_>) {
        for node in seat.places.iter().filter_map(Place::node) {
            self.0.entry(node.to_owned()).or_default().insert(seat.entry.name.clone());
        }
    }
}

/// What one node says to the package's tasks there.
#[derive(Debug, Default)]
struct Attempt {
    /// Indices into the declaration.
    verdicts: Vec<(usize, TaskVerdict)>,
    objections: Vec<Objection>,
}

/// A task of the package that has its place already.
#[derive(Clone, Copy, Debug)]
struct Before<'a> {
    index: usize,
    task: &'a InstanceTask,
}

/// What is where before anything is decided.
struct Ground<'a> {
    snapshot: &'a Snapshot,
    declaration: &'a Declaration,
    /// `namespace/package`, of which groups are named.
    package: String,
    /// The package's own instances.
    mine: &'a [&'a ModelInstance],
    /// What others hold, by node; an `Err` says what is wrong with one of them.
    others: BTreeMap<String, Result<Vec<Placed>, String>>,
}

impl<'a> Ground<'a> {
    fn survey(
        snapshot: &'a Snapshot,
        declaration: &'a Declaration,
        seats: &[Seat<'_>],
        instances: &'a Instances<'a>,
    ) -> Self {
        let seated = |i: &ModelInstance| {
            seats.iter().any(|seat| {
                seat.entry.name == i.spec.model
                    && seat.places.iter().filter_map(Place::node).any(|node| same_node(node, &i.spec.node_name))
            })
        };
        // An instance of ours that lost its seat holds what it has until it is gone.
        let unseated = instances.mine.iter().filter(|i| !seated(i) && i.spec.realtime.iter().any(|_| true));
        let strangers = snapshot
            .neighbours
            .iter()
            .map(|i| &**i)
            .chain(instances.predecessors.iter().copied())
            .chain(instances.foreign.iter().copied())
            .chain(unseated.copied())
            .filter(|i| holds(i));
        let mut seen = BTreeSet::new();
        let mut others: BTreeMap<String, Result<Vec<Placed>, String>> = BTreeMap::new();
        for instance in strangers {
            let node = rfc1123(&instance.spec.node_name).unwrap_or_default();
            let owner = owner(instance);
            for task in &instance.spec.realtime {
                // A task without a target is on every instance of its package, and is still one task.
                if !seen.insert((node.clone(), owner.clone(), task.name.clone(), task.cpu)) {
                    continue;
                }
                let entry = others.entry(node.clone()).or_insert_with(|| Ok(Vec::new()));
                match Placed::from_instance(&node, &group(&owner, &instance.spec.model, task), task) {
                    Ok(mut placed) => {
                        placed.task.name = format!("{}/{}", instance.spec.package, task.name);
                        if let Ok(all) = entry {
                            all.push(placed);
                        }
                    }
                    Err(wrong) => {
                        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
                        let name = instance.metadata.name.as_deref().unwrap_or_default();
                        *entry =
                            Err(format!("node {node}: task {} of instance {name}: {}", task.name, wrong.join(", ")));
                    }
                }
            }
        }
        let namespace = snapshot.package.metadata.namespace.as_deref().unwrap_or_default();
        let name = snapshot.package.metadata.name.as_deref().unwrap_or_default();
        Self { snapshot, declaration, package: format!("{namespace}/{name}"), mine: &instances.mine, others }
    }

    fn node(&self, name: &str) -> Option<&'a NodeView> {
        self.snapshot.nodes.iter().find(|node| same_node(&node.name, name))
    }

    /// Gives models that may go anywhere the first node where the tasks can be proven.
    fn seat_floating(&self, seats: &mut [Seat<'_>], loads: &mut Loads) {
        let floating = |seat: &Seat<'_>| {
            let name = &seat.entry.name;
            seat.floats() && self.declaration.tasks.iter().any(|t| t.model.as_ref().is_none_or(|model| model == name))
        };
        let mut here = Here::default();
        for seat in seats.iter().filter(|seat| !floating(seat)) {
            here.add(seat);
        }
        for seat in seats.iter_mut() {
            if !floating(seat) {
                continue;
            }
            for node in seat.places.iter().filter_map(Place::node) {
                if let Some(load) = loads.get_mut(node) {
                    *load = load.saturating_sub(1);
                }
            }
            seat.places = vec![self.seat(seat, &here, loads)];
            if let Some(Place::Free(node)) = seat.places.first() {
                *loads.entry(node.clone()).or_default() += 1;
            }
            here.add(seat);
        }
    }

    fn seat(&self, seat: &Seat<'_>, here: &Here, loads: &Loads) -> Place {
        let name = &seat.entry.name;
        let named = |task: &&Declared| task.model.as_ref() == Some(name) && task.node.is_some();
        if let Some(node) = self.declaration.tasks.iter().find(named).and_then(|task| task.node.clone()) {
            let entry = pullpiri_crds::package::PackageModel { node: Some(node), ..seat.entry.clone() };
            let mut counted = loads.clone();
            let mut places = placement::place(&entry, &self.snapshot.nodes, &BTreeSet::new(), &mut counted);
            if let Some(place) = places.pop() {
                return place;
            }
        }
        let mut candidates = placement::candidates(&self.snapshot.nodes, loads);
        // Where tasks are to be that no model is with yet.
        let wanted = |node: &String| {
            let wanted = |task: &&Declared| task.model.is_none() && task.node.is_some() && task.may_be_on(node);
            !here.0.contains_key(node) && self.declaration.tasks.iter().any(|task| wanted(&task))
        };
        candidates.sort_by_key(|node| !wanted(node));
        let fits = |node: &&String| {
            let mut models = here.0.get(*node).cloned().unwrap_or_default();
            models.insert(name.clone());
            self.prove(node, &models).objections.is_empty()
        };
        let best = candidates.iter().find(fits).or(candidates.first());
        best.map_or_else(
            || seat.places.first().cloned().unwrap_or_else(|| Place::Free(String::new())),
            |node| Place::Free(node.clone()),
        )
    }

    /// Tasks that no instance of the package would have, and why.
    fn homeless(&self, seats: &[Seat<'_>], here: &Here) -> Vec<Objection> {
        let mut found: BTreeMap<(&'static str, String), Vec<&str>> = BTreeMap::new();
        for task in &self.declaration.tasks {
            let housed = here.0.iter().any(|(node, models)| models.iter().any(|model| task.concerns(model, node)));
            if !housed && let Some(objection) = self.why_homeless(task, seats, here) {
                found.entry(objection).or_default().push(&task.task.name);
            }
        }
        found.into_iter().map(|((reason, said), tasks)| (reason, format!("{}: {said}", named(&tasks)))).collect()
    }

    fn why_homeless(&self, task: &Declared, seats: &[Seat<'_>], here: &Here) -> Option<Objection> {
        if let Some(node) = &task.node {
            let Some(view) = self.node(node) else {
                let cpus = task.task.affinity.as_ref().map(|cpus| format!(" (with CPUs {cpus})")).unwrap_or_default();
                return Some((reason::CPU_MISSING, format!("node {node}{cpus} doesn't exist")));
            };
            if let Err(objection) = site(view).and_then(|site| lacks(&site, task)) {
                return Some(objection);
            }
        }
        let targeted = task.model.as_ref().and_then(|model| seats.iter().find(|seat| &seat.entry.name == model));
        let refusal = seats
            .iter()
            .filter(|seat| targeted.is_none_or(|target| target.entry.name == seat.entry.name))
            .flat_map(|seat| &seat.places)
            .find_map(|place| if let Place::Refused(refusal) = place { Some(refusal) } else { None });
        if let Some(refusal) = refusal {
            return Some((refusal.reason(), refusal.to_string()));
        }
        let nodes = |model: Option<&String>| {
            let nodes = here.0.iter().filter(|(_, models)| model.is_none_or(|model| models.contains(model)));
            nodes.map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(", ")
        };
        let node = task.node.as_deref().unwrap_or_default();
        let said = match &task.model {
            Some(model) => format!("its node is {node}, but model {model} is placed on {}", nodes(Some(model))),
            None => format!("its node is {node}, but the package's models are placed on {}", nodes(None)),
        };
        Some((reason::SCHEDULE_INVALID, said))
    }

    /// Proves the package's tasks on a node, given which of its models are there.
    fn prove(&self, node: &str, models: &BTreeSet<String>) -> Attempt {
        let tasks: Vec<usize> = (0..self.declaration.tasks.len())
            .filter(|&at| models.iter().any(|model| self.declaration.tasks[at].concerns(model, node)))
            .collect();
        if tasks.is_empty() {
            return Attempt::default();
        }
        let refuse = |objections: Vec<Objection>| Attempt { verdicts: Vec::new(), objections };
        let site = match self.node(node).ok_or_else(|| (reason::NODE_NOT_FOUND, format!("node {node} doesn't exist"))) {
            Ok(view) => site(view),
            Err(objection) => Err(objection),
        };
        let site = match site {
            Ok(site) => site,
            Err(objection) => return refuse(vec![objection]),
        };
        let mut lacking: BTreeMap<Objection, Vec<&str>> = BTreeMap::new();
        for &at in &tasks {
            let task = &self.declaration.tasks[at];
            if let Err(objection) = lacks(&site, task) {
                lacking.entry(objection).or_default().push(&task.task.name);
            }
        }
        if !lacking.is_empty() {
            let said =
                lacking.into_iter().map(|((reason, said), tasks)| (reason, format!("{}: {said}", named(&tasks))));
            return refuse(said.collect());
        }
        let others = match self.others.get(&rfc1123(node).unwrap_or_default()) {
            Some(Err(wrong)) => return refuse(vec![(reason::NOT_SCHEDULABLE, wrong.clone())]),
            Some(Ok(others)) => others.clone(),
            None => Vec::new(),
        };
        self.seek(&site, others, &tasks)
    }

    /// Seeks a proof, changing as little as possible.
    fn seek(&self, site: &Site, others: Vec<Placed>, tasks: &[usize]) -> Attempt {
        let before = self.before(&site.view, tasks);
        let unchanged: Vec<Before<'a>> = before
            .iter()
            .filter(|b| self.declaration.tasks[b.index].is_as(b.task, self.declaration.assignment))
            .copied()
            .collect();
        if !unchanged.is_empty() && in_order(&unchanged, self.declaration.assignment) {
            let attempt = self.attempt(site, others.clone(), tasks, &unchanged, &[]);
            if attempt.objections.is_empty() {
                return attempt;
            }
        }
        if !before.is_empty() {
            let attempt = self.attempt(site, others.clone(), tasks, &[], &before);
            if attempt.objections.is_empty() {
                return attempt;
            }
        }
        self.attempt(site, others, tasks, &[], &[])
    }

    /// What the package's own instances on a node have of these tasks.
    fn before(&self, node: &str, tasks: &[usize]) -> Vec<Before<'a>> {
        let mut found: BTreeMap<usize, Before<'a>> = BTreeMap::new();
        for instance in self.mine.iter().filter(|i| same_node(&i.spec.node_name, node)) {
            for task in &instance.spec.realtime {
                let index = tasks.iter().copied().find(|&at| self.declaration.tasks[at].task.name == task.name);
                if let Some(index) = index {
                    found.entry(index).or_insert(Before { index, task });
                }
            }
        }
        found.into_values().collect()
    }

    /// One question to the analysis: `fixed` tasks have their CPU and priority, `pinned` ones their CPU.
    fn attempt(
        &self,
        site: &Site,
        others: Vec<Placed>,
        tasks: &[usize],
        fixed: &[Before<'_>],
        pinned: &[Before<'_>],
    ) -> Attempt {
        let node = &site.node.name;
        let mut existing = others;
        let strangers = existing.len();
        let mut fixed_at = Vec::new();
        let mut asked_at = Vec::new();
        let mut asked = Vec::new();
        for &at in tasks {
            let declared = &self.declaration.tasks[at];
            let mut task = declared.task.clone();
            task.node = Some(node.clone());
            task.group = group_of(&self.package, declared.model.as_deref(), declared.container.as_deref());
            let cpu = |befores: &[Before<'_>]| {
                befores
                    .iter()
                    .find(|b| b.index == at)
                    .and_then(|b| Some((u32::try_from(b.task.cpu).ok()?, b.task.priority)))
            };
            if let Some((cpu, priority)) = cpu(fixed).filter(|(cpu, _)| site.node.cpus.contains(*cpu)) {
                task.priority = priority.and_then(|priority| u8::try_from(priority).ok());
                task.affinity = Some(CpuSet::from_iter([cpu]));
                existing.push(Placed { task, node: node.clone(), cpu });
                fixed_at.push(at);
                continue;
            }
            if let Some((cpu, _)) = cpu(pinned)
                && site.node.cpus.contains(cpu)
                && task.affinity.as_ref().is_none_or(|set| set.contains(cpu))
            {
                task.affinity = Some(CpuSet::from_iter([cpu]));
            }
            asked.push(task);
            asked_at.push(at);
        }
        let proof = admit(&Request {
            tasks: asked,
            priority_assignment: self.declaration.assignment,
            placement: self.declaration.placement,
            nodes: vec![site.node.clone()],
            existing,
        });
        let mut objections: Vec<Objection> =
            proof.reasons.iter().map(|reason| (class(reason), reason.to_string())).collect();
        if !proof.schedulable && objections.is_empty() {
            objections.push((reason::NOT_SCHEDULABLE, format!("node {node}: the tasks can't be proven")));
        }
        let kept = fixed_at.into_iter().zip(proof.existing.into_iter().skip(strangers));
        Attempt { verdicts: asked_at.into_iter().zip(proof.tasks).chain(kept).collect(), objections }
    }
}

/// A node that can hold real-time tasks.
struct Site {
    view: String,
    node: Node,
    policies: Vec<Policy>,
}

fn site(view: &NodeView) -> Result<Site, Objection> {
    let name = &view.name;
    let realtime = view
        .realtime
        .as_ref()
        .ok_or_else(|| (reason::NO_REAL_TIME, format!("node {name} says of no CPU that it can run real-time tasks")))?;
    let node = Node::from_runtime(name.clone(), realtime).map_err(|wrong| {
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        (reason::NO_REAL_TIME, format!("node {name}: status.realtime: {}", wrong.join(", ")))
    })?;
    Ok(Site { view: name.clone(), node, policies: realtime.policies.clone() })
}

/// What a node lacks for a task, whatever else is there.
fn lacks(site: &Site, declared: &Declared) -> Result<(), Objection> {
    let (name, has) = (&site.node.name, &site.node.cpus);
    if let Some(wanted) = &declared.task.affinity
        && wanted.intersection(has).is_empty()
    {
        return Err((reason::CPU_MISSING, format!("node {name} lacks CPU {wanted}; for real-time tasks it has {has}")));
    }
    let policy = declared.task.policy;
    if site.policies.contains(&policy) {
        return Ok(());
    }
    let known: Vec<&str> = site.policies.iter().copied().map(policy_name).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let said =
        format!("node {name} can't give a container's threads policy {}; it can give {known}", policy_name(policy));
    Err((reason::NO_REAL_TIME, said))
}

const fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Fifo => "FIFO",
        Policy::RoundRobin => "RR",
        Policy::Deadline => "DEADLINE",
    }
}

/// Whether priorities that were given before are in the order that the assignment asks for.
fn in_order(tasks: &[Before<'_>], assignment: PriorityAssignment) -> bool {
    let key = |task: &InstanceTask| match assignment {
        PriorityAssignment::RateMonotonic => Some(task.period_ns),
        PriorityAssignment::DeadlineMonotonic => Some(task.deadline_ns),
        PriorityAssignment::Explicit | PriorityAssignment::Optimal => None,
    };
    tasks.iter().all(|a| {
        tasks.iter().all(|b| {
            let same_cpu = a.task.cpu == b.task.cpu && a.task.priority.is_some() && b.task.priority.is_some();
            let before = key(a.task).zip(key(b.task)).is_some_and(|(a, b)| a < b);
            !(same_cpu && before) || a.task.priority > b.task.priority
        })
    })
}

/// The condition's reason for a reason of the analysis.
fn class(why: &Reason) -> &'static str {
    match why {
        Reason::CpuCeiling { .. } | Reason::GroupCeiling { .. } | Reason::Unfit { .. } => reason::KERNEL_CEILING,
        Reason::Unplaced { best: Some(why), .. } | Reason::Evicts { because: why, .. } => class(why),
        Reason::NoNode { .. } => reason::NODE_NOT_FOUND,
        Reason::Unplaced { best: None, .. }
        | Reason::Miss { .. }
        | Reason::Demand { .. }
        | Reason::Overload { .. }
        | Reason::Undecided { .. }
        | Reason::Priorities { .. } => reason::NOT_SCHEDULABLE,
    }
}

/// `task a`, or `tasks a, b, c and 2 more`.
fn named(tasks: &[&str]) -> String {
    match tasks {
        [one] => format!("task {one}"),
        many if many.len() <= NAMED => format!("tasks {}", many.join(", ")),
        many => format!("tasks {} and {} more", many[..NAMED].join(", "), many.len() - NAMED),
    }
}

fn owner(instance: &ModelInstance) -> String {
    format!("{}/{}", instance.metadata.namespace.as_deref().unwrap_or_default(), instance.spec.package)
}

/// The cgroup of a task's threads: its container's; a task that may be in several has one of its own.
fn group_of(owner: &str, model: Option<&str>, container: Option<&str>) -> String {
    format!("{owner}/{}/{}", model.unwrap_or("*"), container.unwrap_or("*"))
}

fn group(owner: &str, model: &str, task: &InstanceTask) -> String {
    group_of(owner, task.container.as_ref().map(|_| model), task.container.as_deref())
}

fn settings(declaration: &Declaration, verdicts: &[(usize, TaskVerdict)], here: &Here) -> Settings {
    let mut settings = Settings::new();
    for (node, models) in &here.0 {
        for model in models {
            let tasks: Vec<InstanceTask> = declaration
                .tasks
                .iter()
                .enumerate()
                .filter(|(_, task)| task.concerns(model, node))
                .filter_map(|(at, task)| {
                    let mine = |(index, v): &&(usize, TaskVerdict)| *index == at && v.node.as_ref() == Some(node);
                    task.settled(&verdicts.iter().find(mine)?.1)
                })
                .collect();
            settings.insert((model.clone(), node.clone()), tasks);
        }
    }
    settings
}

/// The Schedule's tasks, each once: where it has the least to spare if it is on several nodes.
fn proofs(declaration: &Declaration, verdicts: &[(usize, TaskVerdict)]) -> Vec<TaskProof> {
    let scheduled = declaration.tasks.iter().enumerate().filter(|(_, task)| task.schedule.is_some());
    scheduled
        .map(|(at, declared)| {
            let worst = verdicts.iter().filter(|(index, _)| *index == at).map(|(_, verdict)| verdict);
            worst.min_by_key(|v| (v.schedulable, v.slack_ns())).map_or_else(
                || TaskProof {
                    name: declared.task.name.clone(),
                    deadline_ns: i64::try_from(declared.task.deadline_ns).unwrap_or(i64::MAX),
                    ..TaskProof::default()
                },
                TaskProof::from,
            )
        })
        .collect()
}

/// The Schedule's tasks when nothing could be asked.
fn unproven(snapshot: &Snapshot) -> Vec<TaskProof> {
    let set = snapshot.schedule.as_ref().and_then(|schedule| pullpiri_rt::from_schedule(&schedule.spec).ok());
    let tasks = set.map(|set| set.tasks).unwrap_or_default();
    tasks
        .into_iter()
        .map(|task| TaskProof {
            name: task.name,
            deadline_ns: i64::try_from(task.deadline_ns).unwrap_or(i64::MAX),
            ..TaskProof::default()
        })
        .collect()
}

/// What a person reads of a proof: the task with the least to spare.
fn said_of(verdicts: &[(usize, TaskVerdict)], nodes: &BTreeSet<&str>) -> String {
    let count = match verdicts.len() {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    };
    let nodes = nodes.iter().copied().collect::<Vec<_>>().join(", ");
    let tightest = verdicts.iter().map(|(_, verdict)| verdict).min_by_key(|verdict| verdict.slack_ns());
    let Some((verdict, response)) = tightest.and_then(|verdict| Some((verdict, verdict.response_time_ns?))) else {
        return format!("{count} on {nodes}");
    };
    format!(
        "{count} on {nodes}; the tightest, {} on node {} CPU {}, responds within {} of its {}, {} to spare",
        verdict.name,
        verdict.node.as_deref().unwrap_or_default(),
        verdict.cpu.unwrap_or_default(),
        format_ns(response),
        format_ns(verdict.deadline_ns),
        format_ns(verdict.deadline_ns.saturating_sub(response)),
    )
}
