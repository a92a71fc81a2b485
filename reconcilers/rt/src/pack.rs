//! Packs DEADLINE tasks onto fewer CPUs, for requests that first, best and worst fit find no place for.
//!
//! Why: a node that sets CPUs apart gives at most all but one of them to DEADLINE tasks, and what is spread out doesn't fit though it would when packed.
//! Which tasks fit on how many CPUs is bin packing, NP-hard; so it is a depth-first search in the order of falling utilisation (the first branch is first
//! fit decreasing), complete for what it gets through within [`STEPS`], and it gives up beyond.
//!
//! FIFO and RR tasks compete for the CPUs: they are seated first and tightly once, then after DEADLINE tasks on one CPU of a node at most, two, and so on.

use crate::board::{Board, pinned};
use crate::place::{Bin, Class, Member};
use crate::task::Request;
use crate::{Budget, Policy};

/// Times that a task is tried on a CPU in one search.
const STEPS: u32 = 4_000;
/// More DEADLINE tasks than this aren't searched for: the search is as deep as they are many.
const MOST_TASKS: usize = 64;
/// Limits of CPUs per node that are tried.
const LIMITS: usize = 8;

/// The CPUs with every task on one of them, if a way is found.
pub(crate) fn again<'a>(board: &mut Board<'a, '_>) -> Option<Vec<Bin<'a>>> {
    let request = board.request;
    let is_deadline = |at: &usize| request.tasks.get(*at).is_some_and(|task| task.policy == Policy::Deadline);
    let (chained, free): (Vec<usize>, Vec<usize>) =
        board.order().into_iter().partition(|at| request.tasks.get(*at).is_some_and(|task| pinned(task).is_some()));
    let (deadline, fixed): (Vec<usize>, Vec<usize>) = free.into_iter().partition(is_deadline);
    let apart = || request.nodes.iter().filter(|node| node.sets_apart());
    let most = apart().map(|node| node.cpus.len().saturating_sub(1)).max().unwrap_or(0);
    if deadline.is_empty() || deadline.len() > MOST_TASKS || most == 0 || board.budget.left() == 0 {
        return None;
    }
    let attempt = |budget: &mut Budget, fixed_first: bool, limit: usize| {
        let mut board = Board::new(request, budget);
        board.pack();
        if !board.seat(&chained).is_empty() {
            return None;
        }
        board.settle();
        if fixed_first && !board.seat(&fixed).is_empty() {
            return None;
        }
        let found = Search { board: &mut board, limit, steps: STEPS, alike: alike(request, &deadline) }.seat(&deadline);
        let all = found && (fixed_first || board.seat(&fixed).is_empty());
        all.then_some(board.bins)
    };
    if let Some(bins) = attempt(board.budget, true, most) {
        return Some(bins);
    }
    if fixed.is_empty() {
        return None;
    }
    let load: u64 = deadline.iter().filter_map(|at| request.tasks.get(*at)).map(|task| task.load().ppm()).sum();
    let cpus = usize::try_from(load.div_ceil(1_000_000)).unwrap_or(usize::MAX);
    let least = cpus.div_ceil(request.nodes.len().max(1)).max(1);
    (least..=most).take(LIMITS).find_map(|limit| attempt(board.budget, false, limit))
}

/// Whether all empty CPUs of a node are the same to each of these tasks.
fn alike(request: &Request, tasks: &[usize]) -> bool {
    tasks.iter().filter_map(|at| request.tasks.get(*at)).all(|task| task.affinity.is_none())
}

struct Search<'s, 'a, 'b> {
    board: &'s mut Board<'a, 'b>,
    /// CPUs of a node that DEADLINE tasks may have.
    limit: usize,
    steps: u32,
    alike: bool,
}

impl<'a> Search<'_, 'a, '_> {
    /// Seats all of these, or none.
    fn seat(&mut self, tasks: &[usize]) -> bool {
        let Some((at, rest)) = tasks.split_first() else { return true };
        let request = self.board.request;
        let Some(task) = request.tasks.get(*at) else { return self.seat(rest) };
        let member = self.board.member(*at, task);
        let mut tried_empty: Option<&str> = None;
        for position in self.board.candidates(task) {
            let Some(before) = self.board.bins.get(position).cloned() else { continue };
            if before.members.is_empty() {
                if (self.alike && tried_empty == Some(before.node.name.as_str())) || self.is_full(&before) {
                    continue;
                }
                tried_empty = Some(before.node.name.as_str());
            }
            if self.try_on(position, member) && self.seat(rest) {
                return true;
            }
            if let Some(bin) = self.board.bins.get_mut(position) {
                *bin = before;
            }
            if self.steps == 0 {
                return false;
            }
        }
        false
    }

    fn try_on(&mut self, position: usize, member: Member<'a>) -> bool {
        self.steps = self.steps.saturating_sub(1);
        self.steps > 0 && self.board.try_on(position, member)
    }

    fn is_full(&self, bin: &Bin<'_>) -> bool {
        bin.class() != Some(Class::Deadline) && self.board.deadline_cpus(bin.node).len() >= self.limit
    }
}
