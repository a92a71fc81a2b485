//! From a request to a proof: places tasks by falling utilisation with the exact test per CPU, and says why not where it doesn't go.
//!
//! Method: partitioned scheduling by first, best or worst fit decreasing (Lopez, Diaz, Garcia, "Utilization bounds for EDF scheduling on real-time
//! multiprocessor systems", 2004), with the exact uniprocessor test of each CPU instead of a utilisation bound. Tasks that name exactly one CPU come
//! first and go there whatever the test says: the person who pinned them gets the analysis of that CPU.
//!
//! Invariants: every task of the request is on one CPU or unplaced; a CPU takes a task (pinned ones aside) only if all that are on it then meet their
//! deadlines and its node's kernel admits them.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::budget::Budget;
use crate::explain::{Judgement, explain_nodes, judge};
use crate::place::{Bin, Class, Member, class_of, groups_ppm, node_groups, unfit};
use crate::proof::{CpuLoad, CpuTask, GroupShare, Proof, TaskVerdict};
use crate::reason::Reason;
use crate::task::{Request, Task};
use crate::{Placement, Policy, PriorityAssignment};

/// Places the tasks of a request and proves that all deadlines are met, those of what runs already included. Within [`Budget::DEFAULT`].
#[must_use]
pub fn admit(request: &Request) -> Proof {
    admit_within(request, &mut Budget::DEFAULT.clone())
}

/// As [`admit`], with a budget of its own.
#[must_use]
pub fn admit_within(request: &Request, budget: &mut Budget) -> Proof {
    // Most of it for finding places; the rest for the final word on each CPU.
    let given = budget.part(budget.left() / 10 * 6);
    let mut mine = given;
    let mut board = Board::new(request, &mut mine);
    let mut unplaced = Vec::new();
    let order = board.order();
    let pinned_first = order.partition_point(|at| request.tasks.get(*at).is_some_and(|task| pinned(task).is_some()));
    for (position, at) in order.into_iter().enumerate() {
        if position == pinned_first {
            board.settle();
        }
        let Some(task) = request.tasks.get(at) else { continue };
        if let Err(reason) = board.place(at, task) {
            unplaced.push((at, reason));
        }
    }
    let Board { how, mut bins, .. } = board;
    budget.settle(given, mine);
    let mut reasons = Vec::new();
    let judgements: Vec<Judgement> = (1..=u64::try_from(bins.len()).unwrap_or(u64::MAX))
        .rev()
        .zip(&bins)
        .map(|(open, bin)| {
            // A fair part for each CPU: the first can't starve the last.
            let given = budget.part(budget.left() / open);
            let mut mine = given;
            let judgement = judge(bin, how, &mut mine);
            budget.settle(given, mine);
            judgement
        })
        .collect();
    for (bin, judgement) in bins.iter_mut().zip(&judgements) {
        bin.groups.clone_from(&judgement.groups);
        if bin.members.iter().any(|member| matches!(member.who, CpuTask::New(_))) {
            reasons.extend(judgement.reasons.iter().cloned());
        }
    }
    let groups = explain_nodes(request, &bins, &mut reasons);
    unplaced.sort_by_key(|(at, _)| *at);
    let names = unplaced.iter().filter_map(|(at, _)| Some(request.tasks.get(*at)?.name.clone())).collect();
    reasons.extend(unplaced.into_iter().map(|(_, reason)| reason));
    collect(request, &bins, &judgements, names, groups, reasons)
}

/// The CPUs of a request.
struct Board<'a, 'b> {
    request: &'a Request,
    how: PriorityAssignment,
    bins: Vec<Bin<'a>>,
    budget: &'b mut Budget,
    /// How many more unplaced tasks get the reason in full.
    explanations: usize,
}

/// As many unplaced tasks have their best CPU analysed for the reason; of the others it is said that they have no place.
const EXPLANATIONS: usize = 8;

impl<'a, 'b> Board<'a, 'b> {
    fn new(request: &'a Request, budget: &'b mut Budget) -> Self {
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
        Self { request, how: request.priority_assignment, bins, budget, explanations: EXPLANATIONS }
    }

    /// After those that had no choice: what is left of each CPU.
    fn settle(&mut self) {
        for bin in self.bins.iter_mut().filter(|bin| !bin.members.is_empty()) {
            let analysis = bin.analyse(self.how, self.budget);
            bin.proven = analysis.meets(&bin.members).then(|| analysis.priorities.clone());
            bin.hopeless = bin.proven.is_none();
            bin.groups = bin.group_needs(&analysis);
        }
    }

    /// The pinned ones first, then by falling utilisation.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.request.tasks.len()).collect();
        let key = |at: usize| self.request.tasks.get(at).map(|task| (Reverse(pinned(task).is_some()), task));
        order.sort_by(|left, right| match (key(*left), key(*right)) {
            (Some((left, a)), Some((right, b))) => left.cmp(&right).then_with(|| by_falling_utilisation(a, b)),
            _ => Ordering::Equal,
        });
        order
    }

    fn place(&mut self, at: usize, task: &'a Task) -> Result<(), Reason> {
        let wanted = |bin: &Bin<'_>| task.node.as_deref().is_none_or(|node| node == bin.node.name);
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
                        cpus.intersection(offered)
                            .is_empty()
                            .then(|| format!("it may run on CPU {cpus}, real-time tasks get CPU {offered} there"))
                    })
                    .or_else(|| {
                        node.cpus.is_empty().then(|| "no CPU is offered to real-time tasks there".to_owned())
                    })?;
                Some(Reason::Unfit { task: task.name.clone(), node: node.name.clone(), lacks })
            })
            .collect();
        let mut candidates: Vec<usize> = self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, bin)| {
                bin.offered && wanted(bin) && task.affinity.as_ref().is_none_or(|cpus| cpus.contains(bin.cpu))
            })
            .filter(|(_, bin)| unfit(bin.node, task).is_none())
            .map(|(position, _)| position)
            .collect();
        if candidates.is_empty() {
            return Err(lacking.into_iter().next().unwrap_or(Reason::Unplaced {
                task: task.name.clone(),
                tried: 0,
                best: None,
            }));
        }
        self.sort(&mut candidates);
        let member = Member { who: CpuTask::New(at), task, fixed: self.fixed(task) };
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

    /// In the order in which they are to be tried.
    fn sort(&self, candidates: &mut [usize]) {
        let load = |position: usize| self.bins.get(position).map(|bin| bin.utilisation().left());
        match self.request.placement {
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
        if bin.class().is_some_and(|class| class != class_of(member.task.policy)) {
            return Err(other_class(bin, member.task));
        }
        bin.members.push(member);
        bin.proven = None;
        Ok(())
    }

    /// Puts the task there if all is well with it then.
    fn try_on(&mut self, position: usize, member: Member<'a>) -> bool {
        let Some(bin) = self.bins.get_mut(position) else { return false };
        if bin.hopeless || bin.class().is_some_and(|class| class != class_of(member.task.policy)) {
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
        let emptiest = fitting
            .filter(|(_, bin)| bin.class().is_none_or(|class| class == class_of(task.policy)))
            .max_by_key(|(position, bin)| (bin.utilisation().left(), Reverse(*position)))
            .map(|(position, _)| position);
        let best = match emptiest.and_then(|position| Some((position, self.bins.get(position)?.clone()))) {
            None => candidates.first().and_then(|position| self.bins.get(*position)).map(|bin| other_class(bin, task)),
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
        Reason::Unplaced { task: task.name.clone(), tried: candidates.len(), best: best.map(Box::new) }
    }
}

fn other_class(bin: &Bin<'_>, task: &Task) -> Reason {
    let has = match bin.class() {
        Some(Class::Deadline) => "DEADLINE",
        _ => "FIFO and RR",
    };
    let (node, cpu) = (bin.node.name.clone(), bin.cpu);
    Reason::Unfit {
        task: task.name.clone(),
        node,
        lacks: format!("CPU {cpu} has {has} tasks, and DEADLINE needs a CPU set apart"),
    }
}

/// The one CPU that a task names.
fn pinned(task: &Task) -> Option<u32> {
    task.affinity.as_ref()?.only()
}

/// Exactly, by cross-multiplication.
fn by_falling_utilisation(left: &Task, right: &Task) -> Ordering {
    let cross = |a: &Task, b: &Task| u128::from(a.wcet_ns) * u128::from(b.period_ns);
    cross(right, left).cmp(&cross(left, right))
}

fn collect(
    request: &Request,
    bins: &[Bin<'_>],
    judgements: &[Judgement<'_>],
    unplaced: Vec<String>,
    groups: Vec<GroupShare>,
    reasons: Vec<Reason>,
) -> Proof {
    let nowhere = |task: &Task, priority: Option<u8>| TaskVerdict {
        name: task.name.clone(),
        node: None,
        cpu: None,
        priority,
        policy: task.policy,
        response_time_ns: None,
        deadline_ns: task.deadline_ns,
        schedulable: false,
    };
    let mut tasks: Vec<TaskVerdict> = request.tasks.iter().map(|task| nowhere(task, None)).collect();
    let mut existing: Vec<TaskVerdict> =
        request.existing.iter().map(|placed| nowhere(&placed.task, placed.task.priority)).collect();
    let mut cpus = Vec::with_capacity(bins.len());
    for (bin, judgement) in bins.iter().zip(judgements) {
        for (member, verdict) in bin.members.iter().zip(&judgement.verdicts) {
            let slot = match member.who {
                CpuTask::New(at) => tasks.get_mut(at),
                CpuTask::Existing(at) => existing.get_mut(at),
            };
            if let Some(slot) = slot {
                *slot = verdict.clone();
            }
        }
        cpus.push(CpuLoad {
            node: bin.node.name.clone(),
            cpu: bin.cpu,
            utilisation_ppm: bin.utilisation().ppm(),
            tasks: judgement.order.iter().filter_map(|at| Some(bin.members.get(*at)?.who)).collect(),
        });
    }
    Proof { schedulable: reasons.is_empty(), tasks, existing, cpus, unplaced, groups, reasons }
}
