//! The CPUs of a request while it is being placed: who is on them, what the analysis says with one task more, what their kernels say.
//!
//! A CPU has tasks of one class: FIFO and RR, or DEADLINE. On Linux the second need the CPU set apart for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::Budget;
use crate::edf::{self, Demand};
use crate::fp::{self, Ranked};
use crate::kernel;
use crate::load::{Load, Utilisation, Wcrt};
use crate::priorities::{Assignment, Candidate, assign};
use crate::proof::CpuTask;
use crate::spuri;
use crate::task::{Node, Task};
use crate::{Policy, PriorityAssignment};

/// Which of the two schedulers a CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    FixedPriority,
    Deadline,
}

pub(crate) const fn class_of(policy: Policy) -> Class {
    match policy {
        Policy::Fifo | Policy::RoundRobin => Class::FixedPriority,
        Policy::Deadline => Class::Deadline,
    }
}

/// A task on a CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) who: CpuTask,
    pub(crate) task: &'a Task,
    /// The priority that it keeps.
    pub(crate) fixed: Option<u8>,
}

/// One CPU of one node.
#[derive(Clone, Debug)]
pub(crate) struct Bin<'a> {
    pub(crate) node: &'a Node,
    pub(crate) cpu: u32,
    /// False for a CPU that only existing tasks are on: the node doesn't offer it (any more).
    pub(crate) offered: bool,
    pub(crate) members: Vec<Member<'a>>,
    /// What each group needs of a window here at most; kept for nodes that have ceilings.
    pub(crate) groups: BTreeMap<&'a str, u64>,
    /// The tasks that have no other place miss already: there is room for nobody.
    pub(crate) hopeless: bool,
    /// The priorities with which exactly these members were shown to meet their deadlines (0 under EDF); `None`: that is still to be seen.
    pub(crate) proven: Option<Vec<u8>>,
}

/// What the analysis says of the members of one CPU; everything is in the order of members.
#[derive(Clone, Debug)]
pub(crate) struct Analysis {
    pub(crate) class: Class,
    pub(crate) loads: Vec<Load>,
    /// 0 under EDF.
    pub(crate) priorities: Vec<u8>,
    pub(crate) answers: Vec<Option<Wcrt>>,
}

impl Analysis {
    pub(crate) fn meets(&self, members: &[Member<'_>]) -> bool {
        self.answers.iter().zip(members).all(|(answer, member)| meets(answer.as_ref(), member.task))
    }

    /// A deadline is a bound, too, once it is proven to be met: for the tasks whose exact response time would have taken too long.
    fn trust(&mut self, members: &[Member<'_>]) {
        for (answer, member) in self.answers.iter_mut().zip(members) {
            let deadline_ns = member.task.deadline_ns;
            if answer.is_none_or(|answer| !answer.exact && answer.response_ns > deadline_ns) {
                *answer = Some(Wcrt { response_ns: deadline_ns, job: 0, end_ns: deadline_ns, exact: false });
            }
        }
    }

    /// Response times; where there is none, the longest that there is.
    pub(crate) fn responses(&self) -> Vec<u64> {
        self.answers.iter().map(|answer| answer.map_or(crate::load::MAX_NS, |answer| answer.response_ns)).collect()
    }
}

pub(crate) fn meets(answer: Option<&Wcrt>, task: &Task) -> bool {
    answer.is_some_and(|answer| answer.response_ns <= task.deadline_ns)
}

/// Tasks by falling priority, which member each is, the priorities of the members in their order, and whether they are known to meet their deadlines.
struct Ranking {
    ranked: Vec<Ranked>,
    members: Vec<usize>,
    priorities: Vec<u8>,
    proven: bool,
}

/// A kernel ceiling that a CPU's tasks exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverCeiling {
    pub(crate) needed_ppm: u64,
    pub(crate) limit_ppm: u64,
    pub(crate) window_ns: Option<u64>,
}

impl<'a> Bin<'a> {
    pub(crate) fn class(&self) -> Option<Class> {
        self.members.first().map(|member| class_of(member.task.policy))
    }

    /// Whether a task may be beside the members: it is of their class, and where a CPU is set apart for one group, of theirs.
    pub(crate) fn suits(&self, task: &Task) -> bool {
        let mine = class_of(task.policy);
        let per_group = self.node.ceilings.as_ref().is_some_and(|ceilings| ceilings.exclusive_per_group);
        self.members.iter().all(|member| {
            let same_group = mine != Class::Deadline || !per_group || member.task.group == task.group;
            class_of(member.task.policy) == mine && same_group
        })
    }

    pub(crate) fn utilisation(&self) -> Utilisation {
        let mut sum = Utilisation::default();
        for member in &self.members {
            sum.add(&member.task.load());
        }
        sum
    }

    /// The priorities with which the members meet all deadlines, if the quickest test that can tell says so.
    pub(crate) fn meet_with(&self, how: PriorityAssignment, budget: &mut Budget) -> Option<Vec<u8>> {
        let loads = self.loads();
        if !Utilisation::at_most_one(loads.iter()) {
            return None;
        }
        if self.class() == Some(Class::FixedPriority) {
            let ranking = self.ranked(how, budget);
            let meet = ranking.proven || fp::meets_all(&ranking.ranked, budget);
            return meet.then_some(ranking.priorities);
        }
        let meet = match edf::check(&loads, budget) {
            Demand::Met => true,
            Demand::Exceeded { .. } if self.shortened(&loads) => self.analyse(how, budget).meets(&self.members),
            _ => false,
        };
        meet.then(|| vec![0; loads.len()])
    }

    /// Whether SCHED_DEADLINE orders one of them by an earlier deadline than it has: then the demand test is stricter than it need be.
    pub(crate) fn shortened(&self, loads: &[Load]) -> bool {
        loads.iter().zip(&self.members).any(|(load, member)| load.deadline_ns != member.task.deadline_ns)
    }

    pub(crate) fn loads(&self) -> Vec<Load> {
        let deadline =
            |task: &Task| if self.node.ceilings.is_some() { kernel::deadline_load(task) } else { task.load() };
        self.members
            .iter()
            .map(|member| match class_of(member.task.policy) {
                Class::FixedPriority => member.task.load(),
                Class::Deadline => deadline(member.task),
            })
            .collect()
    }

    fn ranked(&self, how: PriorityAssignment, budget: &mut Budget) -> Ranking {
        let candidates: Vec<Candidate> =
            self.members.iter().map(|member| Candidate { load: member.task.load(), fixed: member.fixed }).collect();
        let assignment = match &self.proven {
            Some(priorities) => Assignment { priorities: priorities.clone(), proven: true },
            None => assign(&candidates, how, budget),
        };
        let mut order: Vec<(u8, usize)> = assignment.priorities.iter().copied().zip(0..).collect();
        order.sort_by_key(|(priority, at)| (std::cmp::Reverse(*priority), *at));
        let ranked = order
            .iter()
            .filter_map(|(priority, at)| Some(Ranked { load: candidates.get(*at)?.load, priority: *priority }))
            .collect();
        let members = order.into_iter().map(|(_, at)| at).collect();
        Ranking { ranked, members, priorities: assignment.priorities, proven: assignment.proven }
    }

    pub(crate) fn analyse(&self, how: PriorityAssignment, budget: &mut Budget) -> Analysis {
        let loads = self.loads();
        let mut analysis = if self.class() == Some(Class::Deadline) {
            let answers = spuri::response_times(&loads, budget);
            Analysis { class: Class::Deadline, priorities: vec![0; loads.len()], loads, answers }
        } else {
            let ranking = self.ranked(how, budget);
            let mut answers = vec![None; loads.len()];
            for (at, answer) in ranking.members.into_iter().zip(fp::analyse(&ranking.ranked, budget)) {
                if let Some(slot) = answers.get_mut(at) {
                    *slot = answer;
                }
            }
            Analysis { class: Class::FixedPriority, loads, priorities: ranking.priorities, answers }
        };
        if self.proven.is_some() {
            analysis.trust(&self.members);
        }
        analysis
    }

    /// The node's ceiling for this CPU, if the members exceed it.
    pub(crate) fn over_ceiling(&self, analysis: &Analysis, budget: &mut Budget) -> Option<OverCeiling> {
        let ceilings = self.node.ceilings.as_ref()?;
        match analysis.class {
            Class::Deadline => self.over_bandwidth(ceilings.deadline_ppm),
            Class::FixedPriority => {
                let window = ceilings.fixed_priority_window_ns;
                let limit = kernel::share_ns(ceilings.fixed_priority_ppm, window);
                let peak = kernel::peak_of_all_ns(&analysis.loads, &analysis.responses(), window, limit, budget);
                (peak > limit).then(|| OverCeiling {
                    needed_ppm: kernel::share_ppm(peak, window),
                    limit_ppm: ceilings.fixed_priority_ppm.into(),
                    window_ns: Some(window),
                })
            }
        }
    }

    /// Whether the kernel admits members that all meet their deadlines: by these, which bound their response times, by all together, or by the exact ones.
    pub(crate) fn admitted(&self, how: PriorityAssignment, budget: &mut Budget) -> bool {
        let Some(ceilings) = &self.node.ceilings else { return true };
        if self.class() == Some(Class::Deadline) {
            return self.over_bandwidth(ceilings.deadline_ppm).is_none();
        }
        let window = ceilings.fixed_priority_window_ns;
        let by_deadline = self.members.iter().fold(0_u64, |sum, member| {
            sum.saturating_add(kernel::peak_ns(&member.task.load(), member.task.deadline_ns, window))
        });
        let limit = kernel::share_ns(ceilings.fixed_priority_ppm, window);
        by_deadline <= limit
            || kernel::output_bound_ns(&self.loads(), window, budget).is_some_and(|ns| ns <= limit)
            || self.over_ceiling(&self.analyse(how, budget), budget).is_none()
    }

    fn over_bandwidth(&self, limit_ppm: u32) -> Option<OverCeiling> {
        let sum = self.members.iter().fold(0_u64, |sum, member| {
            sum.saturating_add(kernel::to_ratio(member.task.period_ns, member.task.wcet_ns))
        });
        (sum > kernel::ratio_limit(limit_ppm)).then(|| OverCeiling {
            needed_ppm: kernel::ratio_ppm(sum),
            limit_ppm: limit_ppm.into(),
            window_ns: None,
        })
    }

    /// What each group needs of a window on this CPU.
    pub(crate) fn group_needs(&self, analysis: &Analysis) -> BTreeMap<&'a str, u64> {
        self.group_needs_by(&analysis.responses())
    }

    /// The same, at most, where all members meet their deadlines.
    pub(crate) fn group_needs_by_deadline(&self) -> BTreeMap<&'a str, u64> {
        self.group_needs_by(&self.members.iter().map(|member| member.task.deadline_ns).collect::<Vec<_>>())
    }

    fn group_needs_by(&self, responses_ns: &[u64]) -> BTreeMap<&'a str, u64> {
        let Some(window) = self.node.ceilings.as_ref().map(|ceilings| ceilings.fixed_priority_window_ns) else {
            return BTreeMap::new();
        };
        if self.class() == Some(Class::Deadline) {
            return BTreeMap::new();
        }
        let mut by_group: BTreeMap<&'a str, Vec<(Load, u64)>> = BTreeMap::new();
        for (member, response) in self.members.iter().zip(responses_ns) {
            by_group.entry(&member.task.group).or_default().push((member.task.load(), *response));
        }
        by_group.into_iter().map(|(group, tasks)| (group, kernel::group_runtime_ns(&tasks, window))).collect()
    }
}

/// What a node lacks for a task, wherever on it.
pub(crate) fn unfit(node: &Node, task: &Task) -> Option<String> {
    let ceilings = node.ceilings.as_ref()?;
    if !ceilings.policies.contains(&task.policy) {
        let policy = crate::parse::policy_name(task.policy);
        let given: BTreeSet<&str> = ceilings.policies.iter().map(|policy| crate::parse::policy_name(*policy)).collect();
        let given = given.into_iter().collect::<Vec<_>>().join(", ");
        let given = if given.is_empty() { "none".to_owned() } else { given };
        return Some(format!("its containers can't be given policy {policy} (they can be given: {given})"));
    }
    if task.policy == Policy::Deadline {
        // The kernel refuses an affinity that leaves out a CPU of the root domain. With one CPU there is none to leave out.
        if !ceilings.exclusive_cpusets && node.cpus.len() != 1 {
            return Some(
                "it can't set a CPU apart (no exclusive cpuset), and without one a DEADLINE task can't be pinned"
                    .to_owned(),
            );
        }
        return kernel::deadline_refusal(task);
    }
    None
}

/// For each group of a node the most that it needs on any CPU.
pub(crate) fn node_groups<'a, 'b: 'a>(
    bins: impl Iterator<Item = &'a BTreeMap<&'b str, u64>>,
) -> BTreeMap<&'b str, u64> {
    let mut all: BTreeMap<&'b str, u64> = BTreeMap::new();
    for groups in bins {
        for (group, ns) in groups {
            let slot = all.entry(group).or_default();
            *slot = (*slot).max(*ns);
        }
    }
    all
}

/// The sum of the groups' shares in parts per million, each rounded up.
pub(crate) fn groups_ppm(groups: &BTreeMap<&str, u64>, window_ns: u64) -> u64 {
    groups.values().fold(0, |sum, ns| sum.saturating_add(kernel::share_ppm(*ns, window_ns)))
}
