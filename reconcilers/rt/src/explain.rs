//! What becomes of the members of each CPU in the end, and the reasons where that isn't well.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::Policy;
use crate::PriorityAssignment;
use crate::budget::Budget;
use crate::edf::{self, Demand};
use crate::load::{Load, Utilisation, Wcrt};
use crate::place::{Analysis, Bin, Class, groups_ppm, meets, node_groups};
use crate::priorities::HIGHEST;
use crate::proof::{CpuTask, GroupShare, TaskVerdict};
use crate::reason::{Reason, Share};
use crate::spuri;
use crate::task::Request;

/// The most tasks of one CPU that get a sentence of their own.
const SENTENCES: usize = 16;

/// The final word on one CPU; verdicts are in the order of its members.
#[derive(Clone, Debug)]
pub(crate) struct Judgement<'a> {
    pub(crate) verdicts: Vec<TaskVerdict>,
    /// Members, the most urgent first; under EDF by deadline.
    pub(crate) order: Vec<usize>,
    pub(crate) groups: BTreeMap<&'a str, u64>,
    pub(crate) reasons: Vec<Reason>,
}

pub(crate) fn judge<'a>(bin: &Bin<'a>, how: PriorityAssignment, budget: &mut Budget) -> Judgement<'a> {
    let analysis = bin.analyse(how, budget);
    let verdicts: Vec<TaskVerdict> = bin
        .members
        .iter()
        .zip(&analysis.answers)
        .zip(&analysis.priorities)
        .map(|((member, answer), priority)| TaskVerdict {
            name: member.task.name.clone(),
            node: Some(bin.node.name.clone()),
            cpu: Some(bin.cpu),
            priority: (analysis.class == Class::FixedPriority).then_some(*priority),
            policy: member.task.policy,
            response_time_ns: answer.map(|answer| answer.response_ns),
            deadline_ns: member.task.deadline_ns,
            schedulable: meets(answer.as_ref(), member.task),
        })
        .collect();
    let mut order: Vec<usize> = (0..bin.members.len()).collect();
    order.sort_by_key(|at| {
        let deadline = bin.members.get(*at).map(|member| member.task.deadline_ns);
        (
            Reverse(analysis.priorities.get(*at).copied()),
            if analysis.class == Class::Deadline { deadline } else { None },
            *at,
        )
    });
    let reasons = reasons(bin, &analysis, budget);
    Judgement { verdicts, order, groups: bin.group_needs(&analysis), reasons }
}

fn reasons(bin: &Bin<'_>, analysis: &Analysis, budget: &mut Budget) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let (node, cpu) = (bin.node.name.clone(), bin.cpu);
    let unbounded: Vec<&str> = bin
        .members
        .iter()
        .zip(&analysis.answers)
        .filter(|(_, answer)| answer.is_none())
        .map(|(member, _)| member.task.name.as_str())
        .collect();
    let names = || unbounded.iter().map(|name| (*name).to_owned()).collect();
    if !unbounded.is_empty() {
        if Utilisation::at_most_one(analysis.loads.iter()) {
            reasons.push(Reason::Undecided { node: node.clone(), cpu, tasks: names() });
        } else {
            let mut shares: Vec<(String, u64)> =
                bin.members.iter().map(|member| (member.task.name.clone(), member.task.load().ppm())).collect();
            shares.sort_by_key(|(_, ppm)| Reverse(*ppm));
            let utilisation_ppm = bin.utilisation().ppm().max(1_000_001);
            reasons.push(Reason::Overload { node: node.clone(), cpu, utilisation_ppm, tasks: names(), shares });
        }
    }
    let missing = bin.members.iter().zip(&analysis.answers).enumerate().filter_map(|(at, (member, answer))| {
        answer.filter(|answer| answer.response_ns > member.task.deadline_ns).map(|answer| (at, answer))
    });
    let missing: Vec<(usize, Wcrt)> = missing.collect();
    if !missing.is_empty() && analysis.class == Class::Deadline && !bin.shortened(&analysis.loads) {
        reasons.extend(demand(bin, &analysis.loads, budget));
    }
    for (at, answer) in missing.into_iter().take(SENTENCES) {
        reasons.extend(miss(bin, analysis, at, &answer));
    }
    let distinct = bin.members.iter().filter(|member| member.fixed.is_none()).count();
    if !reasons.is_empty() && analysis.class == Class::FixedPriority && distinct > usize::from(HIGHEST) {
        reasons.push(Reason::Priorities { node: node.clone(), cpu, tasks: distinct });
    }
    if let Some(over) = bin.over_ceiling(analysis, budget) {
        let mut shares: Vec<Share> = bin.members.iter().map(|member| alone(bin, member.task)).collect();
        shares.sort_by_key(|share| Reverse(share.time_ns));
        reasons.push(Reason::CpuCeiling {
            node,
            cpu,
            policy: if analysis.class == Class::Deadline { Policy::Deadline } else { Policy::Fifo },
            needed_ppm: over.needed_ppm,
            limit_ppm: over.limit_ppm,
            window_ns: over.window_ns,
            shares,
        });
    }
    reasons
}

/// What a task takes of a window, or of a second.
fn alone(bin: &Bin<'_>, task: &crate::Task) -> Share {
    let window = bin.node.ceilings.as_ref().map_or(1_000_000_000, |ceilings| ceilings.fixed_priority_window_ns);
    let window = if task.policy == Policy::Deadline { task.period_ns } else { window.max(task.period_ns) };
    let jobs = window / task.period_ns;
    Share { name: task.name.clone(), jobs, time_ns: jobs.saturating_mul(task.wcet_ns) }
}

/// An interval in which more is due than it has time.
fn demand(bin: &Bin<'_>, loads: &[Load], budget: &mut Budget) -> Option<Reason> {
    let Demand::Exceeded { interval_ns, demand_ns, blocking_ns } = edf::check(loads, budget) else { return None };
    let mut shares: Vec<Share> = bin
        .members
        .iter()
        .zip(loads)
        .map(|(member, load)| (member, load, edf::due(load, interval_ns)))
        .filter(|(_, _, jobs)| *jobs > 0)
        .map(|(member, load, jobs)| Share {
            name: member.task.name.clone(),
            jobs,
            time_ns: jobs.saturating_mul(load.wcet_ns),
        })
        .collect();
    shares.sort_by_key(|share| Reverse(share.time_ns));
    Some(Reason::Demand { node: bin.node.name.clone(), cpu: bin.cpu, interval_ns, demand_ns, blocking_ns, shares })
}

fn miss(bin: &Bin<'_>, analysis: &Analysis, at: usize, answer: &Wcrt) -> Option<Reason> {
    let member = bin.members.get(at)?;
    let mine = analysis.loads.get(at)?;
    let jobs: Vec<u64> = match analysis.class {
        Class::Deadline => spuri::jobs_in(&analysis.loads, at, answer),
        Class::FixedPriority => {
            let priority = analysis.priorities.get(at)?;
            let jobs = |(other, (load, theirs)): (usize, (&Load, &u8))| {
                if other == at {
                    answer.job.saturating_add(1)
                } else if theirs >= priority {
                    load.requested(answer.end_ns) / load.wcet_ns.max(1)
                } else {
                    0
                }
            };
            analysis.loads.iter().zip(&analysis.priorities).enumerate().map(jobs).collect()
        }
    };
    let blocking_ns = match analysis.class {
        Class::FixedPriority => mine.blocking_ns,
        Class::Deadline => {
            let work = jobs
                .iter()
                .zip(&analysis.loads)
                .fold(0_u64, |sum, (jobs, load)| sum.saturating_add(jobs.saturating_mul(load.wcet_ns)));
            answer.end_ns.saturating_sub(work)
        }
    };
    let mut shares: Vec<Share> = bin
        .members
        .iter()
        .zip(&analysis.loads)
        .zip(&jobs)
        .filter(|(_, jobs)| **jobs > 0)
        .map(|((other, load), jobs)| Share {
            name: other.task.name.clone(),
            jobs: *jobs,
            time_ns: jobs.saturating_mul(load.wcet_ns),
        })
        .collect();
    shares.sort_by_key(|share| Reverse(share.time_ns));
    let miss = Reason::Miss {
        task: member.task.name.clone(),
        node: bin.node.name.clone(),
        cpu: bin.cpu,
        policy: member.task.policy,
        response_ns: answer.response_ns,
        deadline_ns: member.task.deadline_ns,
        job: answer.job,
        end_ns: answer.end_ns,
        jitter_ns: mine.jitter_ns,
        blocking_ns,
        shares,
        exact: answer.exact,
    };
    Some(match member.who {
        CpuTask::New(_) => miss,
        CpuTask::Existing(_) => Reason::Evicts { task: member.task.name.clone(), because: Box::new(miss) },
    })
}

/// The groups' shares of all nodes with ceilings; adds a reason for each node on which new tasks make them too large.
pub(crate) fn explain_nodes(request: &Request, bins: &[Bin<'_>], reasons: &mut Vec<Reason>) -> Vec<GroupShare> {
    let mut shares = Vec::new();
    for node in &request.nodes {
        let Some(ceilings) = &node.ceilings else { continue };
        let window = ceilings.fixed_priority_window_ns;
        let mine = || bins.iter().filter(|bin| bin.node.name == node.name);
        let groups = node_groups(mine().map(|bin| &bin.groups));
        let needed_ppm = groups_ppm(&groups, window);
        let new = mine()
            .flat_map(|bin| &bin.members)
            .any(|member| matches!(member.who, CpuTask::New(_)) && member.task.policy != Policy::Deadline);
        if let Some(limit) = ceilings.group_ppm.filter(|limit| new && needed_ppm > u64::from(*limit)) {
            let mut named: Vec<Share> = groups
                .iter()
                .map(|(group, ns)| Share {
                    name: if group.is_empty() { "(unnamed)".into() } else { (*group).to_owned() },
                    jobs: 1,
                    time_ns: *ns,
                })
                .collect();
            named.sort_by_key(|share| Reverse(share.time_ns));
            reasons.push(Reason::GroupCeiling {
                node: node.name.clone(),
                needed_ppm,
                limit_ppm: limit.into(),
                shares: named,
            });
        }
        shares.extend(groups.into_iter().map(|(group, runtime_ns)| GroupShare {
            node: node.name.clone(),
            group: group.to_owned(),
            runtime_ns,
            period_ns: window,
        }));
    }
    shares
}
