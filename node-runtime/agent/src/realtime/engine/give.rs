//! What a pass decided on, carried out: settings given, budgets granted, what failed told.

use std::collections::BTreeMap;

use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::InstanceTask;
use pullpiri_crds::schedule::SchedulingPolicy;
use pullpiri_node_core::plan::Event;
use pullpiri_node_core::realtime::{Bound, Held, Step, Thread, Unset, Why, budget_ns};
use pullpiri_node_core::runtime::PodId;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Engine, FIRST_RETRY, Failure, Instance, MAX_RETRY, is_covered, labels};
use crate::realtime::kernel::Outcome;
use crate::realtime::state::Holding;

impl Engine {
    /// Whether all of it worked.
    pub(super) fn carry_out(
        &mut self,
        id: &PodId,
        instance: &mut Instance,
        tasks: &[InstanceTask],
        bound: Bound,
        threads: &[Thread],
        now: Instant,
    ) -> bool {
        // What becomes SCHED_DEADLINE draws on its group's budget until it has.
        let is_fixed = |held: &Held| {
            threads.iter().any(|thread| thread.id == held.thread && thread.now.settings.policy.is_fixed_priority())
        };
        let mut next = Holding { held: bound.held, ..Holding::default() };
        let is_as_before = bound.steps.is_empty() && next.held == instance.holding.held;
        next.budgets = if is_as_before && !std::mem::take(&mut instance.is_news) {
            instance.holding.budgets.clone()
        } else {
            self.budgets(tasks, &next.held, threads, is_fixed)
        };
        next.memory_locks.clone_from(&instance.holding.memory_locks);
        next.memory_locks.retain(|pid, _| next.held.iter().any(|held| held.thread.pid == *pid));
        let is_news = !bound.steps.is_empty() || next != instance.holding;
        if is_news && !is_covered(&instance.holding, &next) {
            // Should this process die now, the next one knows.
            let mut both = next.clone();
            both.held.extend(instance.holding.held.iter().filter(|h| !next.held.contains(h)).cloned());
            for (group, us) in &instance.holding.budgets {
                both.budgets.entry(group.clone()).or_insert(*us);
            }
            both.memory_locks.extend(&instance.holding.memory_locks);
            self.file.keep(id, &both);
        }
        let mut worked = true;
        for step in &bound.steps {
            if let Step::Restore { thread, before, .. } = step {
                info!("{step}");
                if let Err(error) = self.kernel.restore(*thread, before) {
                    warn!(%id, %error, "a thread can't be given back what it had; tried again");
                    next.held.extend(instance.holding.held.iter().find(|held| held.thread == *thread).cloned());
                    worked = false;
                }
            }
        }
        for (pid, limits) in
            instance.holding.memory_locks.iter().filter(|(pid, _)| !next.memory_locks.contains_key(pid))
        {
            if threads.iter().any(|thread| thread.id.pid == *pid) {
                self.kernel.restore_memory(*pid, *limits);
            }
        }
        let budgets = self.set_budgets(&instance.holding.budgets, &next.budgets, now);
        if let Err(error) = &budgets {
            debug!(%id, %error, "a group's real-time budget can't be set");
            worked = false;
            for (group, us) in &instance.holding.budgets {
                next.budgets.entry(group.clone()).or_insert(*us);
            }
        }
        let mut locks = BTreeMap::new();
        for held in &next.held {
            let pid = held.thread.pid;
            if !next.memory_locks.contains_key(&pid) && !locks.contains_key(&pid) {
                locks.extend(self.kernel.unlock_memory(pid).map(|before| (pid, before)));
            }
        }
        for pid in next.memory_locks.keys() {
            let Some(bytes) = self.kernel.unlock_memory_again(*pid) else { continue };
            let Some(held) = next.held.iter().find(|held| held.thread.pid == *pid) else { continue };
            let text = format!(
                "give    {}: process {pid} of {} may lock all of its memory (somebody limited it to {bytes} bytes)",
                held.task, held.container
            );
            info!("{text}");
            self.gave(id, instance, &held.task, true, text);
        }
        next.memory_locks.append(&mut locks);
        for step in bound.steps {
            if let Step::Give { .. } = &step {
                let refused = budgets.as_ref().err().map(ToString::to_string);
                worked &= self.give(id, instance, step, &mut next.held, refused, now);
            }
        }
        if budgets.is_ok() && next.held.iter().any(|held| is_deadline(tasks, held) && is_fixed(held)) {
            let still_fixed = |held: &Held| is_fixed(held) && instance.failures.contains_key(&held.task);
            let left = self.budgets(tasks, &next.held, threads, still_fixed);
            match self.set_budgets(&next.budgets, &left, now) {
                Ok(()) => next.budgets = left,
                Err(error) => debug!(%id, %error, "a group keeps a real-time budget that it doesn't need"),
            }
        }
        self.file.keep(id, &next);
        instance.holding = next;
        worked
    }

    /// What each group needs of the processes' groups of `held`. `is_fixed`: which threads of DEADLINE tasks have a fixed priority all the same.
    fn budgets(
        &self,
        tasks: &[InstanceTask],
        held: &[Held],
        threads: &[Thread],
        is_fixed: impl Fn(&Held) -> bool,
    ) -> BTreeMap<String, u64> {
        let mut groups: BTreeMap<String, Vec<InstanceTask>> = BTreeMap::new();
        for held in held.iter().filter(|held| threads.iter().any(|thread| thread.id == held.thread)) {
            let Some(mut task) = tasks.iter().find(|task| task.name == held.task).cloned() else { continue };
            if task.policy == SchedulingPolicy::Deadline {
                if !is_fixed(held) {
                    continue;
                }
                task.policy = SchedulingPolicy::Fifo;
            }
            if let Some(group) = self.kernel.budget_group(held.thread.pid) {
                groups.entry(group).or_default().push(task);
            }
        }
        let needed = |(group, tasks): (String, Vec<InstanceTask>)| {
            let window_ns = self.kernel.budget_period_us(&group).saturating_mul(1_000);
            (group, budget_ns(tasks.iter(), window_ns).div_ceil(1_000))
        };
        groups.into_iter().map(needed).collect()
    }

    /// Gives a thread what it is to have; whether it has it.
    fn give(
        &mut self,
        id: &PodId,
        instance: &mut Instance,
        step: Step,
        held: &mut [Held],
        refused: Option<String>,
        now: Instant,
    ) -> bool {
        let text = step.to_string();
        let Step::Give { task, container, thread, given, now: was, why } = step else { return true };
        let held = held.iter_mut().find(|held| held.thread == thread);
        let waits = instance.failures.get(&task).is_some_and(|failure| failure.retry_at > now);
        let failed = if waits {
            None
        } else {
            match self.kernel.give(thread, &was, &given) {
                Ok(Outcome::Given) => {
                    info!("{text}");
                    let failure = instance.failures.remove(&task);
                    if failure.is_some_and(|failure| matches!(failure.why, Unset::Refused(_))) {
                        // What this node said that it can't do, it can.
                        self.surprised = true;
                    }
                    self.gave(id, instance, &task, matches!(why, Why::Drifted(_)), text);
                    return true;
                }
                Ok(Outcome::Asleep(cpu)) => Some(Unset::Asleep(format!(
                    "its thread sleeps since it was on CPU {cpu}, and gets {given} once it has woken"
                ))),
                // It has ended meanwhile.
                Err(_) if self.kernel.thread(&container, 0, thread).is_none() => return true,
                Err(error) => Some(Unset::Refused(match refused {
                    Some(refused) => format!("{error}; {refused}"),
                    None => error.to_string(),
                })),
            }
        };
        if let Some(held) = held {
            // What it has isn't what it was given: that is no drift.
            held.given = was;
        }
        if let Some(why) = failed {
            let failure = self.failure(id, instance, &task, why, now);
            instance.failures.insert(task, failure);
        }
        false
    }

    /// Tells a refusal that is the first, and when the thread is to be given it again. One that waits for a thread to wake is tried at each look.
    fn failure(&mut self, id: &PodId, instance: &Instance, task: &str, why: Unset, now: Instant) -> Failure {
        let Unset::Refused(message) = &why else {
            debug!(%id, task, why = why.message(), "a thread sleeps");
            return Failure { why, count: 0, retry_at: now };
        };
        let count = instance.failures.get(task).map_or(0, |failure| failure.count).saturating_add(1);
        if count == 1 {
            warn!(%id, task, error = message, "a thread can't be given what its task declares");
            self.surprised = true;
        }
        let delay = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(count.saturating_sub(1))).min(MAX_RETRY);
        Failure { why, count, retry_at: now + delay }
    }

    /// Counts and tells it.
    fn gave(&self, id: &PodId, instance: &mut Instance, task: &str, drifted: bool, text: String) {
        if drifted && let (Some(wanted), Some((_, status))) = (&instance.wanted, instance.measured.get_mut(task)) {
            let before = status.clone();
            status.repairs = status.repairs.saturating_add(1);
            self.metrics.count(&labels(wanted, task), &before, status);
        }
        let reason = if drifted { reason::DRIFT_REPAIRED } else { reason::APPLIED };
        let note = text.trim_start_matches("give").trim_start().to_owned();
        instance.events.push(Event { pod: id.clone(), reason, warning: drifted, note });
    }
}

fn is_deadline(tasks: &[InstanceTask], held: &Held) -> bool {
    tasks.iter().any(|task| task.name == held.task && task.policy == SchedulingPolicy::Deadline)
}
