//! Seeking a proof for a package's tasks on one node, with the exact tests of `pullpiri-rt`.
//!
//! What runs is left as it is whenever that can be proven:
//! 1. tasks that haven't changed keep their CPU and their priority, the others are fitted in between;
//! 2. tasks keep their CPU;
//! 3. every task may go anywhere on the node.
//!
//! The first proof that is found counts. What can't be proven in any of these ways is refused for the reasons of the last.

use std::cell::Cell;
use std::collections::BTreeMap;

use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::{InstanceTask, ModelInstance};
use pullpiri_crds::names::same_node;
use pullpiri_crds::schedule::PriorityAssignment;
use pullpiri_rt::{Budget, CpuSet, Node, Placed, Policy, Reason, Request, Task, TaskVerdict, admit_within};

use super::address::Objection;
use super::tasks::{Declaration, Declared};
use crate::placement::NodeView;

/// How many tasks a message names before it counts the rest.
const NAMED: usize = 3;

/// What one node says to the package's tasks there.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// By index into the declaration.
    pub verdicts: Vec<(usize, TaskVerdict)>,
    pub objections: Vec<Objection>,
}

impl Attempt {
    pub fn holds(&self) -> bool {
        self.objections.is_empty()
    }
}

/// The analysis' work that is left of what one decision may use, however many questions it asks.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Cell<Budget>,
    /// A question ended at its limit.
    spent: Cell<bool>,
}

impl Allowance {
    pub const fn new(budget: Budget) -> Self {
        Self { left: Cell::new(budget), spent: Cell::new(false) }
    }

    /// Lends one part in `of` of what is left, so that what comes first can't starve what comes after it; what isn't used is given back.
    pub fn share<T>(&self, of: usize, use_it: impl FnOnce(&Self) -> T) -> T {
        let left = self.left.get();
        let given = left.part(left.left() / u64::try_from(of.max(1)).unwrap_or(u64::MAX));
        let part = Self { left: Cell::new(given), spent: Cell::new(false) };
        let used = use_it(&part);
        let mut left = left;
        left.settle(given, part.left.get());
        self.left.set(left);
        self.spent.set(self.spent.get() || part.spent.get());
        used
    }

    /// Whether an answer could have been another one with more work.
    pub fn is_spent(&self) -> bool {
        self.spent.get()
    }

    fn admit(&self, request: &Request) -> pullpiri_rt::Proof {
        let mut budget = self.left.get();
        let proof = admit_within(request, &mut budget);
        self.left.set(budget);
        self.spent.set(self.spent.get() || proof.reasons.iter().any(is_undecided));
        proof
    }
}

/// Whether the analysis ended at its limit.
fn is_undecided(why: &Reason) -> bool {
    match why {
        Reason::Undecided { .. } => true,
        Reason::Unplaced { best: Some(why), .. }
        | Reason::LastCpu { because: Some(why), .. }
        | Reason::Evicts { because: why, .. } => is_undecided(why),
        _ => false,
    }
}

/// What a proof is sought with.
pub(super) struct Seeker<'a> {
    pub declaration: &'a Declaration,
    /// `namespace/package`.
    pub package: &'a str,
    /// Model and container, if the package has just one on the node.
    pub only: Option<(&'a str, &'a str)>,
    /// The package's own instances.
    pub mine: &'a [&'a ModelInstance],
    pub allowance: &'a Allowance,
}

/// Tasks of the request, by index into the declaration.
type Asked = Vec<(usize, Task)>;

impl<'a> Seeker<'a> {
    /// Seeks a proof, changing as little as possible.
    pub fn seek(&self, site: &Site, others: Vec<Placed>, tasks: &[usize]) -> Attempt {
        let before = self.before(site, tasks);
        let fixed = self.unchanged(&before);
        if !fixed.is_empty() {
            let attempt = self.allowance.share(2, |part| self.around(site, &others, tasks, &fixed, part));
            if attempt.holds() {
                return attempt;
            }
        }
        let asked = |keep: bool| -> Asked {
            let one = |&at: &usize| {
                let mut task = self.task(site, at);
                let cpu = before.get(&at).filter(|_| keep).and_then(|before| cpu_of(before));
                if let Some(cpu) = cpu.filter(|&cpu| may_have(site, &task, cpu)) {
                    task.affinity = Some(CpuSet::from_iter([cpu]));
                }
                (at, task)
            };
            tasks.iter().map(one).collect()
        };
        if !before.is_empty() {
            let attempt = self
                .allowance
                .share(2, |part| self.ask(site, others.clone(), asked(true), self.declaration.assignment, part));
            if attempt.holds() {
                return attempt;
            }
        }
        self.ask(site, others, asked(false), self.declaration.assignment, self.allowance)
    }

    /// Step 1: `fixed` tasks have their CPU and priority, and the others are placed around them. That is proven as a whole: an analysis that
    /// takes something for given doesn't prove it.
    fn around(
        &self,
        site: &Site,
        others: &[Placed],
        tasks: &[usize],
        fixed: &BTreeMap<usize, &InstanceTask>,
        allowance: &Allowance,
    ) -> Attempt {
        let mut settled: Asked = Vec::new();
        let mut asked: Asked = Vec::new();
        for &at in tasks {
            let mut task = self.task(site, at);
            match fixed.get(&at).and_then(|before| Some((before, cpu_of(before)?))) {
                Some((before, cpu)) if may_have(site, &task, cpu) => {
                    task.priority = before.priority.and_then(|priority| u8::try_from(priority).ok());
                    task.affinity = Some(CpuSet::from_iter([cpu]));
                    settled.push((at, task));
                }
                _ => asked.push((at, task)),
            }
        }
        if !asked.is_empty() {
            let node = &site.node.name;
            let placed = settled.iter().filter_map(|(_, task)| {
                Some(Placed { task: task.clone(), node: node.clone(), cpu: task.affinity.as_ref()?.only()? })
            });
            let existing = others.iter().cloned().chain(placed).collect();
            let assignment = self.declaration.assignment;
            let attempt = allowance.share(2, |part| self.ask(site, existing, asked.clone(), assignment, part));
            if !attempt.holds() {
                return attempt;
            }
            for ((at, mut task), (_, verdict)) in asked.into_iter().zip(&attempt.verdicts) {
                task.priority = verdict.priority;
                task.affinity = verdict.cpu.map(|cpu| CpuSet::from_iter([cpu]));
                settled.push((at, task));
            }
        }
        settled.sort_by_key(|(at, _)| *at);
        self.ask(site, others.to_vec(), settled, PriorityAssignment::Explicit, allowance)
    }

    fn task(&self, site: &Site, at: usize) -> Task {
        let declared = &self.declaration.tasks[at];
        let bound = declared.model.as_deref().zip(declared.container.as_deref());
        Task {
            node: Some(site.node.name.clone()),
            group: group_of(self.package, bound.or(self.only), &declared.task.name),
            ..declared.task.clone()
        }
    }

    /// What the package's own instances on a node have of these tasks.
    fn before(&self, site: &Site, tasks: &[usize]) -> BTreeMap<usize, &'a InstanceTask> {
        let mut found = BTreeMap::new();
        for instance in self.mine.iter().filter(|i| same_node(&i.spec.node_name, &site.node.name)) {
            for task in &instance.spec.realtime {
                let index = tasks.iter().copied().find(|&at| self.declaration.tasks[at].task.name == task.name);
                if let Some(index) = index {
                    found.entry(index).or_insert(task);
                }
            }
        }
        found
    }

    /// Those of them that are what is asked for now; none if their priorities contradict the assignment.
    fn unchanged(&self, before: &BTreeMap<usize, &'a InstanceTask>) -> BTreeMap<usize, &'a InstanceTask> {
        let assignment = self.declaration.assignment;
        let same: BTreeMap<usize, &InstanceTask> = before
            .iter()
            .filter(|(at, task)| self.declaration.tasks[**at].is_as(task, assignment))
            .map(|(at, task)| (*at, *task))
            .collect();
        if in_order(&same, assignment) { same } else { BTreeMap::new() }
    }

    /// One question to the analysis.
    fn ask(
        &self,
        site: &Site,
        existing: Vec<Placed>,
        asked: Asked,
        assignment: PriorityAssignment,
        allowance: &Allowance,
    ) -> Attempt {
        let (indices, tasks): (Vec<usize>, Vec<Task>) = asked.into_iter().unzip();
        let proof = allowance.admit(&Request {
            tasks,
            priority_assignment: assignment,
            placement: self.declaration.placement,
            nodes: vec![site.node.clone()],
            existing,
        });
        let mut objections: Vec<Objection> =
            proof.reasons.iter().map(|reason| (class(reason), reason.to_string())).collect();
        if !proof.schedulable && objections.is_empty() {
            let said = format!("node {}: the tasks can't be proven", site.node.name);
            objections.push((reason::NOT_SCHEDULABLE, said));
        }
        Attempt { verdicts: indices.into_iter().zip(proof.tasks).collect(), objections }
    }
}

fn cpu_of(task: &InstanceTask) -> Option<u32> {
    u32::try_from(task.cpu).ok()
}

fn may_have(site: &Site, task: &Task, cpu: u32) -> bool {
    site.node.cpus.contains(cpu) && task.affinity.as_ref().is_none_or(|set| set.contains(cpu))
}

/// A node that can hold real-time tasks.
pub(super) struct Site {
    pub node: Node,
    policies: Vec<Policy>,
}

pub(super) fn site(view: &NodeView) -> Result<Site, Objection> {
    let name = &view.name;
    let realtime = view
        .realtime
        .as_ref()
        .ok_or_else(|| (reason::NO_REAL_TIME, format!("node {name} says of no CPU that it can run real-time tasks")))?;
    let node = Node::from_runtime(name.clone(), realtime).map_err(|wrong| {
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        (reason::NO_REAL_TIME, format!("node {name}: status.realtime: {}", wrong.join(", ")))
    })?;
    Ok(Site { node, policies: realtime.policies.clone() })
}

/// What a node lacks for a task, whatever else is there.
pub(super) fn lacks(site: &Site, declared: &Declared) -> Result<(), Objection> {
    let (name, has) = (&site.node.name, &site.node.cpus);
    if let Some(wanted) = &declared.task.affinity {
        let missing = wanted.difference(has);
        if !missing.is_empty() {
            let of = if missing == *wanted { String::new() } else { format!(" of the {wanted} that are declared") };
            let said = format!("node {name} lacks CPU {missing}{of}; for real-time tasks it has {has}");
            return Err((reason::CPU_MISSING, said));
        }
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
fn in_order(tasks: &BTreeMap<usize, &InstanceTask>, assignment: PriorityAssignment) -> bool {
    let key = |task: &InstanceTask| match assignment {
        PriorityAssignment::RateMonotonic => Some(task.period_ns),
        PriorityAssignment::DeadlineMonotonic => Some(task.deadline_ns),
        PriorityAssignment::Explicit | PriorityAssignment::Optimal => None,
    };
    tasks.values().all(|a| {
        tasks.values().all(|b| {
            let comparable = a.cpu == b.cpu && a.priority.is_some() && b.priority.is_some();
            let before = key(a).zip(key(b)).is_some_and(|(a, b)| a < b);
            !(comparable && before) || a.priority > b.priority
        })
    })
}

/// The condition's reason for a reason of the analysis.
fn class(why: &Reason) -> &'static str {
    match why {
        Reason::CpuCeiling { .. } | Reason::GroupCeiling { .. } | Reason::Unfit { .. } | Reason::LastCpu { .. } => {
            reason::KERNEL_CEILING
        }
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
pub(super) fn named(tasks: &[&str]) -> String {
    match tasks {
        [one] => format!("task {one}"),
        many if many.len() <= NAMED => format!("tasks {}", many.join(", ")),
        many => format!("tasks {} and {} more", many[..NAMED].join(", "), many.len() - NAMED),
    }
}

/// The cgroup of a task's thread, which is its container's. A task that may be in any of several counts as if it were alone in one: together
/// they then need no more than is reckoned with, wherever each turns out to be.
pub(super) fn group_of(owner: &str, container: Option<(&str, &str)>, task: &str) -> String {
    match container {
        Some((model, container)) => format!("{owner}/{model}/{container}"),
        None => format!("{owner}/*/{task}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_leaves_a_part_of_the_allowance_to_what_comes_after() {
        let allowance = Allowance::new(Budget::new(100));
        let spend = |part: &Allowance| {
            let mut left = part.left.get();
            while left.spend(1) {}
            part.left.set(left);
        };
        allowance.share(2, spend);
        assert_eq!(allowance.left.get().left(), 50);
        // What isn't used is given back, at any depth.
        allowance.share(2, |part| part.share(5, |_| ()));
        assert_eq!(allowance.left.get().left(), 50);
        allowance.share(2, |part| part.share(5, spend));
        assert_eq!(allowance.left.get().left(), 45);
        allowance.share(1, spend);
        assert_eq!(allowance.left.get().left(), 0);
    }

    #[test]
    fn without_allowance_nothing_is_proven_and_that_is_said() {
        let realtime = pullpiri_crds::node::NodeRealtime {
            cpus: "0-1".to_owned(),
            policies: vec![Policy::Fifo],
            fixed_priority_ppm: 950_000,
            fixed_priority_window_ns: 1_000_000_000,
            ..Default::default()
        };
        let site = Site { node: Node::from_runtime("n".to_owned(), &realtime).unwrap(), policies: Vec::new() };
        let declared = Declared {
            task: Task {
                name: "t".to_owned(),
                wcet_ns: 1_000,
                period_ns: 10_000,
                deadline_ns: 10_000,
                jitter_ns: 0,
                offset_ns: 0,
                blocking_ns: 0,
                priority: None,
                policy: Policy::Fifo,
                affinity: None,
                node: None,
                group: String::new(),
            },
            model: None,
            container: None,
            thread: None,
            node: None,
            on_miss: Default::default(),
            miss_budget: 0,
            schedule: None,
        };
        let declaration = Declaration {
            tasks: vec![declared],
            assignment: PriorityAssignment::DeadlineMonotonic,
            placement: Default::default(),
            notes: Vec::new(),
        };
        let seek = |allowance: &Allowance| {
            let seeker = Seeker { declaration: &declaration, package: "ns/p", only: None, mine: &[], allowance };
            seeker.seek(&site, Vec::new(), &[0])
        };
        let plenty = Allowance::new(Budget::DEFAULT);
        assert!(seek(&plenty).holds());
        assert!(!plenty.is_spent() && plenty.left.get().left() < Budget::DEFAULT.left());
        let spent = Allowance::new(Budget::new(0));
        // A part tells of its end to what it is a part of.
        let attempt = spent.share(1, seek);
        assert!(spent.is_spent());
        assert!(attempt.objections[0].1.contains("ended at its limit"), "{attempt:?}");
    }
}
