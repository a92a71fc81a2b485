//! Admission: a package whose real-time tasks can't be proven to meet their deadlines isn't placed, none of it.
//!
//! Each node is proven by itself: the package's tasks there, and what instances of others hold there.
//!
//! A model without a node of its own goes to the first node (in placement's order) where the tasks can be proven. Models are seated one
//! after the other and none is seated again for a later one: that is first fit, not a search.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_crds::condition::reason;
use pullpiri_crds::duration::format_ns;
use pullpiri_crds::instance::{InstanceTask, ModelInstance};
use pullpiri_crds::names::{rfc1123, same_node};
use pullpiri_crds::schedule::TaskProof;
use pullpiri_rt::{Budget, Placed, TaskVerdict};

use super::address::Objection;
use super::seat::{Instances, Seat, holds};
use super::seek::{Allowance, Attempt, Seeker, group_of, lacks, named, site};
use super::snapshot::Snapshot;
use super::tasks::{Declaration, Declared, declared};
use crate::placement::{self, Loads, NodeView, Place};

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

/// What is said when it is refused and more work could have proven it.
const SPENT: &str = "the analysis ended at the limit of one decision's work: there may be a place that it didn't find";

/// Seats models that have no node of their own, and proves the tasks of the package where its models are. All of it within one [`Budget::DEFAULT`].
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
    let allowance = Allowance::new(Budget::DEFAULT);
    allowance.share(2, |part| ground.seat_floating(seats, loads, part));
    let here = Here::of(seats);
    let mut objections = ground.homeless(seats, &here);
    let mut verdicts: Vec<(usize, TaskVerdict)> = Vec::new();
    let mut proven_on = BTreeSet::new();
    for (open, (node, models)) in (1..=here.0.len()).rev().zip(&here.0) {
        let attempt = allowance.share(open, |part| ground.prove(node, models, part));
        if attempt.verdicts.is_empty() && attempt.objections.is_empty() {
            continue;
        }
        proven_on.insert(node.as_str());
        objections.extend(attempt.objections);
        verdicts.extend(attempt.verdicts);
    }
    let proofs = proofs(&declaration, &verdicts);
    if objections.is_empty() {
        let mut said = vec![said_of(&verdicts, &proven_on)];
        said.extend(declaration.notes.iter().cloned());
        let message = said.join("; ");
        return Admission::Proven { settings: settings(&declaration, &verdicts, &here), message, proofs };
    }
    let reason = objections.first().map_or(reason::NOT_SCHEDULABLE, |(reason, _)| reason);
    let mut said: Vec<String> = Vec::new();
    for (_, message) in objections {
        if !said.contains(&message) {
            said.push(message);
        }
    }
    if allowance.is_spent() {
        said.push(SPENT.to_owned());
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
        let unseated = instances.mine.iter().filter(|i| !seated(i));
        let strangers = snapshot
            .neighbours
            .iter()
            .map(|i| &**i)
            .chain(instances.predecessors.iter().copied())
            .chain(instances.foreign.iter().copied())
            .chain(unseated.copied())
            .filter(|i| holds(i) && !i.spec.realtime.is_empty());
        let others = held(&strangers.collect::<Vec<_>>());
        let namespace = snapshot.package.metadata.namespace.as_deref().unwrap_or_default();
        let name = snapshot.package.metadata.name.as_deref().unwrap_or_default();
        Self { snapshot, declaration, package: format!("{namespace}/{name}"), mine: &instances.mine, others }
    }

    fn node(&self, name: &str) -> Option<&'a NodeView> {
        self.snapshot.nodes.iter().find(|node| same_node(&node.name, name))
    }

    /// Gives models that may go anywhere the first node where the tasks can be proven.
    fn seat_floating(&self, seats: &mut [Seat<'_>], loads: &mut Loads, allowance: &Allowance) {
        let floating = |seat: &Seat<'_>| {
            let name = &seat.entry.name;
            seat.floats() && self.declaration.tasks.iter().any(|t| t.model.as_ref().is_none_or(|model| model == name))
        };
        let mut here = Here::default();
        for seat in seats.iter().filter(|seat| !floating(seat)) {
            here.add(seat);
        }
        let mut open = seats.iter().filter(|seat| floating(seat)).count();
        for seat in seats.iter_mut() {
            if !floating(seat) {
                continue;
            }
            for node in seat.places.iter().filter_map(Place::node) {
                if let Some(load) = loads.get_mut(node) {
                    *load = load.saturating_sub(1);
                }
            }
            seat.places = vec![allowance.share(open, |part| self.seat(seat, &here, loads, part))];
            open = open.saturating_sub(1);
            if let Some(Place::Free(node)) = seat.places.first() {
                *loads.entry(node.clone()).or_default() += 1;
            }
            here.add(seat);
        }
    }

    fn seat(&self, seat: &Seat<'_>, here: &Here, loads: &Loads, allowance: &Allowance) -> Place {
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
            allowance.share(2, |part| self.prove(node, &models, part)).holds()
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
    fn prove(&self, node: &str, models: &BTreeSet<String>, allowance: &Allowance) -> Attempt {
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
            Err((reason, said)) => {
                let tasks: Vec<&str> = tasks.iter().map(|&at| self.declaration.tasks[at].task.name.as_str()).collect();
                return refuse(vec![(reason, format!("{}: {said}", named(&tasks)))]);
            }
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
        let mut containers =
            models.iter().filter_map(|model| self.snapshot.models.get_key_value(model)).flat_map(|(name, model)| {
                model.spec.containers.iter().map(|container| (name.as_str(), container.name.as_str()))
            });
        let only = containers.next().filter(|_| containers.next().is_none());
        let seeker = Seeker { declaration: self.declaration, package: &self.package, only, mine: self.mine, allowance };
        seeker.seek(&site, others, &tasks)
    }
}

fn owner(instance: &ModelInstance) -> String {
    format!("{}/{}", instance.metadata.namespace.as_deref().unwrap_or_default(), instance.spec.package)
}

/// What instances hold on each node. A task without a target is on every instance of its package, and is still one task.
fn held(instances: &[&ModelInstance]) -> BTreeMap<String, Result<Vec<Placed>, String>> {
    let place = |i: &ModelInstance| (rfc1123(&i.spec.node_name).unwrap_or_default(), owner(i));
    let mut containers: BTreeMap<(String, String), Vec<(&str, &str)>> = BTreeMap::new();
    for instance in instances {
        let names =
            instance.spec.template.spec.containers.iter().map(|c| (instance.spec.model.as_str(), c.name.as_str()));
        containers.entry(place(instance)).or_default().extend(names);
    }
    let mut seen = BTreeSet::new();
    let mut all: BTreeMap<String, Result<Vec<Placed>, String>> = BTreeMap::new();
    for instance in instances {
        let at = place(instance);
        let only = containers.get(&at).and_then(|all| if let [one] = all[..] { Some(one) } else { None });
        let (node, owner) = at;
        for task in &instance.spec.realtime {
            // With other numbers it is another one: an instance may be known in two versions.
            let numbers = (task.cpu, task.priority, task.wcet_ns, task.period_ns, task.deadline_ns, task.jitter_ns);
            if !seen.insert((node.clone(), owner.clone(), task.name.clone(), numbers)) {
                continue;
            }
            let container = task.container.as_deref().map(|container| (instance.spec.model.as_str(), container));
            let group = group_of(&owner, container.or(only), &task.name);
            let entry = all.entry(node.clone()).or_insert_with(|| Ok(Vec::new()));
            match Placed::from_instance(&node, &group, task) {
                Ok(mut placed) => {
                    placed.task.name = format!("{}/{}", instance.spec.package, task.name);
                    if let Ok(all) = entry {
                        all.push(placed);
                    }
                }
                Err(wrong) => {
                    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
                    let name = instance.metadata.name.as_deref().unwrap_or_default();
                    *entry = Err(format!("node {node}: task {} of instance {name}: {}", task.name, wrong.join(", ")));
                }
            }
        }
    }
    all
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
