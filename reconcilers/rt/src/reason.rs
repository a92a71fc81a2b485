//! Why a set isn't schedulable, as data that prints as one sentence with the numbers.

use std::fmt;

use pullpiri_crds::duration::format_ns;

use crate::Policy;
use crate::parse::policy_name;

/// How many interfering tasks a sentence names.
const NAMED: usize = 6;

/// What one task takes of the time in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub name: String,
    pub jobs: u64,
    pub time_ns: u64,
}

/// One reason. `node` and `cpu` say where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A job ends after its deadline.
    Miss {
        task: String,
        node: String,
        cpu: u32,
        policy: Policy,
        response_ns: u64,
        deadline_ns: u64,
        /// Which job after the critical instant, from 0.
        job: u64,
        /// When that job ends, after the critical instant.
        end_ns: u64,
        jitter_ns: u64,
        blocking_ns: u64,
        /// What runs from the critical instant to the end of that job, itself included; the largest first.
        shares: Vec<Share>,
        exact: bool,
    },
    /// Under EDF: an interval in which more work is due than it has time.
    Demand { node: String, cpu: u32, interval_ns: u64, demand_ns: u64, blocking_ns: u64, shares: Vec<Share> },
    /// More than the CPU: the backlog of `tasks` grows without bound.
    Overload { node: String, cpu: u32, utilisation_ppm: u64, tasks: Vec<String>, shares: Vec<(String, u64)> },
    /// The analysis ended before it could prove the set.
    Undecided { node: String, cpu: u32, tasks: Vec<String> },
    /// More distinct priorities are needed than Linux has.
    Priorities { node: String, cpu: u32, tasks: usize },
    /// A kernel's ceiling of a CPU is too low.
    CpuCeiling {
        node: String,
        cpu: u32,
        policy: Policy,
        needed_ppm: u64,
        limit_ppm: u64,
        window_ns: Option<u64>,
        shares: Vec<Share>,
    },
    /// RT_GROUP_SCHED: what the groups need together exceeds what the kernel gives them.
    GroupCeiling { node: String, needed_ppm: u64, limit_ppm: u64, shares: Vec<Share> },
    /// A task that can't be on a node at all.
    Unfit { task: String, node: String, lacks: String },
    /// A task with no place: what each CPU said that was tried.
    Unplaced { task: String, tried: usize, best: Option<Box<Reason>> },
    /// A node sets all but one of its CPUs apart for DEADLINE tasks at most; `because`: what speaks against the others.
    LastCpu { node: String, cpus: usize, because: Option<Box<Reason>> },
    /// No node of the request may hold it.
    NoNode { task: String, wanted: Option<String>, nodes: Vec<String> },
    /// An existing task would miss.
    Evicts { task: String, because: Box<Reason> },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Miss { .. } => self.miss(f),
            Self::Demand { node, cpu, interval_ns, demand_ns, blocking_ns, shares } => {
                write!(
                    f,
                    "node {node} CPU {cpu}: in the {} after a common release {} of work are due, {} too much: ",
                    format_ns(*interval_ns),
                    format_ns(*demand_ns),
                    format_ns(demand_ns.saturating_sub(*interval_ns)),
                )?;
                list(f, shares)?;
                blocking(f, *blocking_ns)
            }
            Self::Overload { node, cpu, utilisation_ppm, tasks, shares } => {
                write!(
                    f,
                    "node {node} CPU {cpu}: its tasks need {} of the CPU, so that the response time of ",
                    percent(*utilisation_ppm)
                )?;
                names(f, tasks)?;
                f.write_str(" has no bound: ")?;
                for (at, (name, ppm)) in shares.iter().take(NAMED).enumerate() {
                    write!(f, "{}{name} {}", if at == 0 { "" } else { ", " }, percent(*ppm))?;
                }
                more(f, shares.len())
            }
            Self::Undecided { node, cpu, tasks } => {
                write!(f, "node {node} CPU {cpu}: the analysis ended at its limit before it could prove ")?;
                names(f, tasks)
            }
            Self::Priorities { node, cpu, tasks } => {
                write!(
                    f,
                    "node {node} CPU {cpu}: its {tasks} tasks meet their deadlines only with more than the 99 priorities that Linux has"
                )
            }
            Self::CpuCeiling { node, cpu, policy, needed_ppm, limit_ppm, window_ns, shares } => {
                write!(
                    f,
                    "node {node} CPU {cpu}: {} tasks need {} of the CPU, its kernel admits {}",
                    if *policy == Policy::Deadline { "DEADLINE" } else { "FIFO and RR" },
                    percent(*needed_ppm),
                    percent(*limit_ppm),
                )?;
                if let Some(window) = window_ns {
                    write!(f, " in any {}", format_ns(*window))?;
                }
                f.write_str(": ")?;
                list(f, shares)
            }
            Self::GroupCeiling { node, needed_ppm, limit_ppm, shares } => {
                write!(
                    f,
                    "node {node}: the groups of its containers need {} of a CPU together, its kernel admits {} (RT_GROUP_SCHED): ",
                    percent(*needed_ppm),
                    percent(*limit_ppm),
                )?;
                list(f, shares)
            }
            Self::Unfit { task, node, lacks } => write!(f, "task {task} can't be on node {node}: {lacks}"),
            Self::Unplaced { task, tried, best } => {
                match tried {
                    0 => write!(f, "task {task} has no place: no CPU may hold it")?,
                    1 => write!(f, "task {task} has no place on the one CPU that may hold it")?,
                    _ => write!(f, "task {task} has no place on any of {tried} CPUs")?,
                }
                match best {
                    Some(best) => write!(f, "; with it, {best}"),
                    None => Ok(()),
                }
            }
            Self::LastCpu { node, cpus, because } => {
                if let Some(because) = because {
                    write!(f, "{because}; ")?;
                }
                write!(
                    f,
                    "node {node} sets at most {} of its {cpus} CPUs apart for DEADLINE tasks, as one is left to all else",
                    cpus.saturating_sub(1)
                )
            }
            Self::NoNode { task, wanted: Some(wanted), nodes } => {
                write!(f, "task {task} must be on node {wanted}, which isn't there: there is ")?;
                names(f, nodes)
            }
            Self::NoNode { task, wanted: None, .. } => write!(f, "task {task} has no node"),
            Self::Evicts { task, because } => {
                write!(f, "task {task}, which runs already, would no longer be proven: {because}")
            }
        }
    }
}

impl Reason {
    fn miss(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Miss {
            task,
            node,
            cpu,
            policy,
            response_ns,
            deadline_ns,
            job,
            end_ns,
            jitter_ns,
            blocking_ns,
            shares,
            exact,
        } = self
        else {
            return Ok(());
        };
        write!(
            f,
            "task {task} misses its deadline of {} by {} on node {node} CPU {cpu} ({}): ",
            format_ns(*deadline_ns),
            format_ns(response_ns.saturating_sub(*deadline_ns)),
            policy_name(*policy),
        )?;
        if !exact {
            return write!(
                f,
                "its response time can be as long as {} by a bound in closed form (the exact analysis is too long)",
                format_ns(*response_ns)
            );
        }
        match job {
            0 => f.write_str("its job")?,
            _ => write!(f, "its job number {}", job.saturating_add(1))?,
        }
        write!(f, " ends {} after the critical instant", format_ns(*end_ns))?;
        if response_ns != end_ns {
            write!(f, ", {} after it arrived", format_ns(*response_ns))?;
        }
        if *jitter_ns > 0 {
            write!(f, " (release jitter up to {})", format_ns(*jitter_ns))?;
        }
        f.write_str(": ")?;
        list(f, shares)?;
        blocking(f, *blocking_ns)
    }
}

fn list(f: &mut fmt::Formatter<'_>, shares: &[Share]) -> fmt::Result {
    for (at, share) in shares.iter().take(NAMED).enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(f, "{comma}{} {}", share.name, format_ns(share.time_ns))?;
        if share.jobs > 1 {
            write!(f, " ({} jobs)", share.jobs)?;
        }
    }
    more(f, shares.len())
}

fn more(f: &mut fmt::Formatter<'_>, all: usize) -> fmt::Result {
    match all.saturating_sub(NAMED) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn names(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    for (at, name) in names.iter().take(NAMED).enumerate() {
        write!(f, "{}{name}", if at == 0 { "" } else { ", " })?;
    }
    more(f, names.len())
}

fn blocking(f: &mut fmt::Formatter<'_>, ns: u64) -> fmt::Result {
    if ns == 0 { Ok(()) } else { write!(f, ", blocked by less urgent work {}", format_ns(ns)) }
}

/// `83.3333 %`, without trailing zeros.
fn percent(ppm: u64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}
