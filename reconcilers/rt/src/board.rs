//! The CPUs of a request while its tasks are seated, one after the other.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::budget::Budget;
use crate::cpuset::CpuSet;
use crate::explain::{explain_nodes, judge};
use crate::place::{Bin, Class, Member, class_of, groups_ppm, node_groups, unfit};
use crate::proof::CpuTask;
use crate::reason::Reason;
use crate::task::{Node, Request, Task};
use crate::{Placement, Policy, PriorityAssignment};

/// The CPUs of a request.
pub(crate) struct Board<'a, 'b> {
    pub(crate) request: &'a Request,
    pub(crate) how: PriorityAssignment,
    pub(crate) bins: Vec<Bin<'a>>,
    pub(crate) budget: &'b mut Budget,
    placement: Placement,
    /// How many more unplaced tasks get the reason in full.
    explanations: usize,
}

/// As many unplaced tasks have their best CPU analysed for the reason; of the others it is said that they have no place.
const EXPLANATIONS: usize = 8;

impl<'a, 'b> Board<'a, 'b> {
    pub(crate) fn new(request: &'a Request, budget: &'b mut Budget) -> Self {
        let mut bins: Vec<Bin<'a>> = Vec::new();
        for node in &request.nodes {
            let bin = |cpu, offered| Bin {
                node,
                cpu,
                offered,
                members: Vec::new(),
                groups: BTreeMap::new(),
                hopeless: false,
                proven: None,
            };
            bins.extend(node.cpus.iter().map(|cpu| bin(cpu, true)));
            for (at, placed) in request.existing.iter().enumerate().filter(|(_, placed)| placed.node == node.name) {
                let member = Member {
                    who: CpuTask::Existing(at),
                    task: &placed.task,
                    // Without one it can only be below all others.
                    fixed: Some(placed.task.priority.unwrap_or(1)),
                };
                match bins.iter_mut().find(|bin| bin.node.name == node.name && bin.cpu == placed.cpu) {
                    Some(bin) => bin.members.push(member),
                    None => bins.push(Bin { members: vec![member], ..bin(placed.cpu, false) }),
                }
            }
        }
        let (how, placement) = (request.priority_assignment, request.placement);
        Self { request, how, bins, budget, placement, explanations: EXPLANATIONS }
    }

    /// Seats tasks in this order, the pinned ones first; those that have no place, and why.
    pub(crate) fn seat(&mut self, order: &[usize]) -> Vec<(usize, Reason)> {
        let mut unplaced = Vec::new();
        let request = self.request;
        let is_pinned = |at: &usize| request.tasks.get(*at).is_some_and(|task| pinned(task).is_some());
        let pinned_first = order.partition_point(is_pinned);
        for (position, at) in order.iter().enumerate() {
            if position == pinned_first {
                self.settle();
            }
            let Some(task) = request.tasks.get(*at) else { continue };
            if let Err(reason) = self.place(*at, task) {
                unplaced.push((*at, reason));
            }
        }
        unplaced
    }

    /// From now on by first fit, and without a word on why a task has no place.
    pub(crate) fn pack(&mut self) {
        (self.placement, self.explanations) = (Placement::FirstFit, 0);
    }

    /// After those that had no choice: what is left of each CPU.
    pub(crate) fn settle(&mut self) {
        for bin in self.bins.iter_mut().filter(|bin| !bin.members.is_empty()) {
            let analysis = bin.analyse(self.how, self.budget);
            bin.proven = analysis.meets(&bin.members).then(|| analysis.priorities.clone());
            bin.hopeless = bin.proven.is_none();
            bin.groups = bin.group_needs(&analysis);
        }
    }

    /// The pinned ones first, then by falling utilisation.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.request.tasks.len()).collect();
        let key = |at: usize| self.request.tasks.get(at).map(|task| (Reverse(pinned(task).is_some()), task));
        order.sort_by(|left, right| match (key(*left), key(*right)) {
            (Some((left, a)), Some((right, b))) => left.cmp(&right).then_with(|| by_falling_utilisation(a, b)),
            _ => Ordering::Equal,
        });
        order
    }

    fn place(&mut self, at: usize, task: &'a Task) -> Result<(), Reason> {
        if !self.request.nodes.iter().any(|node| task.node.as_deref().is_none_or(|wanted| wanted == node.name)) {
            let nodes = self.request.nodes.iter().map(|node| node.name.clone()).collect();
            return Err(Reason::NoNode { task: task.name.clone(), wanted: task.node.clone(), nodes });
        }
        let lacking =
            self.request.nodes.iter().filter(|node| task.node.as_deref().is_none_or(|wanted| wanted == node.name));
        let lacking: Vec<Reason> = lacking
            .filter_map(|node| {
                let lacks = unfit(node, task)
                    .or_else(|| {
                        let cpus = task.affinity.as_ref()?;
                        let offered = &node.cpus;
                        (!cpus.is_within(offered))
                            .then(|| format!("it may run on CPU {cpus}, real-time tasks get CPU {offered} there"))
                    })
                    .or_else(|| {
                        node.cpus.is_empty().then(|| "no CPU is offered to real-time tasks there".to_owned())
                    })?;
                Some(Reason::Unfit { task: task.name.clone(), node: node.name.clone(), lacks })
            })
            .collect();
        let mut candidates = self.candidates(task);
        if candidates.is_empty() {
            return Err(lacking.into_iter().next().unwrap_or(Reason::Unplaced {
                task: task.name.clone(),
                tried: 0,
                best: None,
            }));
        }
        self.sort(&mut candidates);
        let member = self.member(at, task);
        if pinned(task).is_some()
            && let [only] = candidates[..]
        {
            return self.force(only, member);
        }
        for position in &candidates {
            if self.try_on(*position, member) {
                return Ok(());
            }
        }
        Err(self.why_not(&candidates, member))
    }

    /// The CPUs that may hold a task, by what it names and what their nodes can do.
    pub(crate) fn candidates(&self, task: &Task) -> Vec<usize> {
        let is_wanted = |bin: &Bin<'_>| {
            bin.offered
                && task.node.as_deref().is_none_or(|node| node == bin.node.name)
                && task.affinity.as_ref().is_none_or(|cpus| cpus.contains(bin.cpu) && cpus.is_within(&bin.node.cpus))
                && unfit(bin.node, task).is_none()
        };
        (0..).zip(&self.bins).filter(|(_, bin)| is_wanted(bin)).map(|(position, _)| position).collect()
    }

    pub(crate) fn member(&self, at: usize, task: &'a Task) -> Member<'a> {
        Member { who: CpuTask::New(at), task, fixed: self.fixed(task) }
    }

    /// In the order in which they are to be tried.
    fn sort(&self, candidates: &mut [usize]) {
        let load = |position: usize| self.bins.get(position).map(|bin| bin.utilisation().left());
        match self.placement {
            Placement::FirstFit => {}
            Placement::BestFit => candidates.sort_by_cached_key(|position| load(*position)),
            Placement::WorstFit => candidates.sort_by_cached_key(|position| Reverse(load(*position))),
        }
    }

    fn fixed(&self, task: &Task) -> Option<u8> {
        match (self.how, task.policy) {
            (_, Policy::Deadline) => Some(1),
            (PriorityAssignment::Explicit, _) => task.priority,
            _ => None,
        }
    }

    /// The task's only CPU, where it is analysed even if it misses.
    fn force(&mut self, position: usize, member: Member<'a>) -> Result<(), Reason> {
        let Some(bin) = self.bins.get_mut(position) else { return Ok(()) };
        if !bin.suits(member.task) {
            return Err(unsuited(bin, member.task));
        }
        if self.is_last(position, member.task) {
            return Err(self.last_cpu(position, member.task));
        }
        let Some(bin) = self.bins.get_mut(position) else { return Ok(()) };
        bin.members.push(member);
        bin.proven = None;
        Ok(())
    }

    /// Whether a task would have a CPU set apart for DEADLINE that is the last of those that its node offers.
    pub(crate) fn is_last(&self, position: usize, task: &Task) -> bool {
        let Some(bin) = self.bins.get(position) else { return false };
        let takes = task.policy == Policy::Deadline && bin.offered && bin.class() != Some(Class::Deadline);
        takes && bin.node.sets_apart() && self.deadline_cpus(bin.node).len().saturating_add(1) >= bin.node.cpus.len()
    }

    /// The CPUs that a node offers and that DEADLINE tasks have.
    pub(crate) fn deadline_cpus(&self, node: &Node) -> CpuSet {
        let has = |bin: &&Bin<'_>| bin.node.name == node.name && bin.offered && bin.class() == Some(Class::Deadline);
        self.bins.iter().filter(has).map(|bin| bin.cpu).collect()
    }

    fn last_cpu(&self, position: usize, task: &Task) -> Reason {
        let Some(bin) = self.bins.get(position) else {
            return Reason::Unplaced { task: task.name.clone(), tried: 0, best: None };
        };
        let all = bin.node.cpus.len();
        let mut lacks = format!(
            "it sets at most {} of its {all} CPUs apart for DEADLINE tasks, as one is left to all else",
            all.saturating_sub(1)
        );
        let taken = self.deadline_cpus(bin.node);
        if !taken.is_empty() {
            lacks.push_str(&format!(", and CPU {taken} has some already"));
        }
        Reason::Unfit { task: task.name.clone(), node: bin.node.name.clone(), lacks }
    }

    /// New DEADLINE tasks on nodes all of whose CPUs such tasks have, because they had them before.
    pub(crate) fn last_cpus(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for (position, bin) in self.bins.iter().enumerate() {
            if !bin.node.sets_apart() || self.deadline_cpus(bin.node).len() < bin.node.cpus.len() {
                continue;
            }
            for member in &bin.members {
                if member.task.policy == Policy::Deadline && matches!(member.who, CpuTask::New(_)) {
                    reasons.push(self.last_cpu(position, member.task));
                }
            }
        }
        reasons
    }

    /// Puts the task there if all is well with it then.
    pub(crate) fn try_on(&mut self, position: usize, member: Member<'a>) -> bool {
        if self.is_last(position, member.task) {
            return false;
        }
        let Some(bin) = self.bins.get_mut(position) else { return false };
        if bin.hopeless || !bin.suits(member.task) {
            return false;
        }
        let before = (bin.proven.take(), bin.groups.clone());
        bin.members.push(member);
        // What a look at the CPU costs, so that ten thousand tasks end, too.
        let looks = u64::try_from(bin.members.len()).unwrap_or(u64::MAX).saturating_mul(4);
        if self.budget.spend(looks) {
            bin.proven = bin.meet_with(self.how, self.budget);
        }
        if bin.proven.is_some() && bin.admitted(self.how, self.budget) {
            bin.groups = bin.group_needs_by_deadline();
            if self.groups_fit(position) || self.groups_fit_exactly(position) {
                return true;
            }
        }
        if let Some(bin) = self.bins.get_mut(position) {
            bin.members.pop();
            (bin.proven, bin.groups) = before;
        }
        false
    }

    /// With exact response times instead of deadlines, on all CPUs of the node.
    fn groups_fit_exactly(&mut self, position: usize) -> bool {
        let Some(name) = self.bins.get(position).map(|bin| bin.node.name.as_str()) else { return false };
        for bin in self.bins.iter_mut().filter(|bin| bin.node.name == name && !bin.members.is_empty()) {
            let analysis = bin.analyse(self.how, self.budget);
            bin.groups = bin.group_needs(&analysis);
        }
        self.groups_fit(position)
    }

    fn groups_fit(&self, position: usize) -> bool {
        let Some(node) = self.bins.get(position).map(|bin| bin.node) else { return false };
        let Some((ceilings, limit)) = node.ceilings.as_ref().and_then(|ceilings| Some((ceilings, ceilings.group_ppm?)))
        else {
            return true;
        };
        let bins = self.bins.iter().filter(|bin| bin.node.name == node.name);
        groups_ppm(&node_groups(bins.map(|bin| &bin.groups)), ceilings.fixed_priority_window_ns) <= limit.into()
    }

    /// What speaks against the emptiest of the CPUs that the task may have.
    fn why_not(&mut self, candidates: &[usize], member: Member<'a>) -> Reason {
        let task = member.task;
        let undecided =
            candidates.first().and_then(|position| self.bins.get(*position)).filter(|_| self.budget.left() == 0);
        let undecided = undecided.map(|bin| {
            let tasks = vec![task.name.clone()];
            Box::new(Reason::Undecided { node: bin.node.name.clone(), cpu: bin.cpu, tasks })
        });
        let unexplained = Reason::Unplaced { task: task.name.clone(), tried: candidates.len(), best: undecided };
        if matches!(unexplained, Reason::Unplaced { best: Some(_), .. }) {
            return unexplained;
        }
        self.explanations = match self.explanations.checked_sub(1) {
            Some(left) => left,
            None => return unexplained,
        };
        let fitting = candidates.iter().filter_map(|position| Some((*position, self.bins.get(*position)?)));
        let last = candidates.iter().copied().find(|position| self.is_last(*position, task));
        let emptiest = fitting
            .filter(|(position, _)| !self.is_last(*position, task))
            .filter(|(_, bin)| bin.suits(task))
            .max_by_key(|(position, bin)| (bin.utilisation().left(), Reverse(*position)))
            .map(|(position, _)| position);
        let best = match emptiest.and_then(|position| Some((position, self.bins.get(position)?.clone()))) {
            None if last.is_some() => None,
            None => candidates.first().and_then(|position| self.bins.get(*position)).map(|bin| unsuited(bin, task)),
            Some((position, mut bin)) => {
                bin.members.push(member);
                bin.proven = None;
                let judgement = judge(&bin, self.how, self.budget);
                let first = judgement.reasons.into_iter().next();
                first.or_else(|| {
                    bin.groups = judgement.groups;
                    let others = self
                        .bins
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != position)
                        .map(|(_, bin)| bin.clone());
                    let bins: Vec<Bin<'_>> = others.chain([bin]).collect();
                    let mut reasons = Vec::new();
                    explain_nodes(self.request, &bins, &mut reasons);
                    reasons.into_iter().next()
                })
            }
        };
        let best = best.map(Box::new);
        let best = match last.and_then(|position| self.bins.get(position)) {
            Some(bin) => {
                let (node, cpus) = (bin.node.name.clone(), bin.node.cpus.len());
                Some(Box::new(Reason::LastCpu { node, cpus, because: best }))
            }
            None => best,
        };
        Reason::Unplaced { task: task.name.clone(), tried: candidates.len(), best }
    }
}

/// Why a task can't be beside what is on a CPU, whatever the analysis says.
fn unsuited(bin: &Bin<'_>, task: &Task) -> Reason {
    let (node, cpu) = (bin.node.name.clone(), bin.cpu);
    let lacks = match (bin.class(), class_of(task.policy)) {
        (Some(Class::Deadline), Class::Deadline) => format!(
            "CPU {cpu} has DEADLINE tasks of another container, and with cgroup version 2 a CPU is set apart for one"
        ),
        (Some(Class::Deadline), _) => format!("CPU {cpu} has DEADLINE tasks, and DEADLINE needs a CPU set apart"),
        _ => format!("CPU {cpu} has FIFO and RR tasks, and DEADLINE needs a CPU set apart"),
    };
    Reason::Unfit { task: task.name.clone(), node, lacks }
}

/// The one CPU that a task names.
pub(crate) fn pinned(task: &Task) -> Option<u32> {
    task.affinity.as_ref()?.only()
}

/// Exactly, by cross-multiplication.
fn by_falling_utilisation(left: &Task, right: &Task) -> Ordering {
    let cross = |a: &Task, b: &Task| u128::from(a.wcet_ns) * u128::from(b.period_ns);
    cross(right, left).cmp(&cross(left, right))
}
