//! From a request to a proof: places tasks by falling utilisation with the exact test per CPU, and says why not where it doesn't go.
//!
//! Method: partitioned scheduling by first, best or worst fit decreasing (Lopez, Diaz, Garcia, "Utilization bounds for EDF scheduling on real-time
//! multiprocessor systems", 2004), with the exact uniprocessor test of each CPU instead of a utilisation bound. Tasks that name exactly one CPU come
//! first and go there whatever the test says: the person who pinned them gets the analysis of that CPU.
//!
//! Where CPUs are set apart for DEADLINE tasks, one CPU of the node is left to everything else. If then a task finds no place, the tasks are packed anew
//! (`pack`), before it is said that there is none.
//!
//! Invariants: every task of the request is on one CPU or unplaced; a CPU takes a task (pinned ones aside) only if all that are on it then meet their
//! deadlines and its node's kernel admits them; a node that sets CPUs apart keeps one without DEADLINE tasks.

use crate::board::Board;
use crate::budget::Budget;
use crate::explain::{Judgement, explain_nodes, judge};
use crate::pack;
use crate::place::Bin;
use crate::proof::{CpuLoad, CpuTask, GroupShare, Proof, TaskVerdict};
use crate::reason::Reason;
use crate::task::{Request, Task};

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
    let order = board.order();
    let mut unplaced = board.seat(&order);
    if !unplaced.is_empty()
        && let Some(bins) = pack::again(&mut board)
    {
        board.bins = bins;
        unplaced.clear();
    }
    let over = board.last_cpus();
    let Board { how, mut bins, .. } = board;
    budget.settle(given, mine);
    let mut reasons = over;
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
