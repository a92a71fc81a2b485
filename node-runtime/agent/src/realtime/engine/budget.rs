//! Real-time budgets of groups: raised at once, lowered later.
//!
//! Of what a group's threads have consumed, the kernel takes the group's budget off once in a period. Were a budget lowered with the need for it, what was
//! consumed under the larger one would keep whoever stays, or comes next, off the CPU: of two threads that were proven one would miss because the
//! other has left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pullpiri_node_host::SysError;
use tokio::time::Instant;
use tracing::debug;

use super::Engine;

/// Two periods of a second, and a bit.
pub(super) const LOWER: Duration = Duration::from_millis(2_500);

impl Engine {
    /// Has groups have what is wanted of them instead of `held`, in microseconds of each period; what becomes less does so later. The first error.
    pub(super) fn set_budgets(
        &mut self,
        held: &BTreeMap<String, u64>,
        wanted: &BTreeMap<String, u64>,
        now: Instant,
    ) -> Result<(), SysError> {
        let of = |map: &BTreeMap<String, u64>, group: &str| map.get(group).copied().unwrap_or(0);
        let mut outcome = Ok(());
        for group in held.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
            let (before, wanted) = (of(held, group), of(wanted, group));
            let known = of(&self.file.lowering, group).max(before);
            // One that was made again under its name has none.
            let has = self.kernel.budget_us(group).unwrap_or(known);
            if wanted < has {
                // At each look it is found so; the wait begins when the need falls.
                self.lower_later(group, has, wanted < before, now);
                continue;
            }
            let set = if wanted > has { self.raise(group, known, wanted) } else { Ok(()) };
            if known > has {
                // Those above still have what the one before it had.
                self.lower_later(group, known, false, now);
            } else if set.is_ok() {
                self.file.lowering.remove(group);
                self.lower_at.remove(group);
            }
            outcome = outcome.and(set);
        }
        outcome
    }

    fn lower_later(&mut self, group: &str, has: u64, fell: bool, now: Instant) {
        let is_news = self.file.lowering.insert(group.to_owned(), has) != Some(has);
        if fell || is_news {
            self.lower_at.insert(group.to_owned(), now + LOWER);
        }
    }

    /// If what others don't need any more is in the way, it is given back at once: a throttled period is better than no settings.
    fn raise(&mut self, group: &str, has: u64, wanted: u64) -> Result<(), SysError> {
        let raised = self.kernel.set_budget(group, has, wanted);
        let others: Vec<String> = self.file.lowering.keys().filter(|other| *other != group).cloned().collect();
        if raised.is_ok() || others.is_empty() {
            return raised;
        }
        others.iter().for_each(|other| self.lower_one(other, Instant::now()));
        self.kernel.set_budget(group, has, wanted)
    }

    /// Lowers what is due to what is held of it now.
    pub(super) fn lower(&mut self, now: Instant) {
        let due: Vec<String> =
            self.lower_at.iter().filter(|(_, at)| **at <= now).map(|(group, _)| group.clone()).collect();
        due.iter().for_each(|group| self.lower_one(group, now));
    }

    fn lower_one(&mut self, group: &str, now: Instant) {
        self.lower_at.remove(group);
        let Some(has) = self.file.lowering.remove(group) else { return };
        // Should this process die in between, those above keep some: better than taking it off twice.
        self.file.save();
        let wanted = self.file.instances.values().filter_map(|holding| holding.budgets.get(group)).sum();
        if let Err(error) = self.kernel.set_budget(group, has, wanted) {
            debug!(group, %error, "a group keeps a real-time budget that it doesn't need; tried again");
            self.lower_later(group, has, true, now);
        }
    }
}
