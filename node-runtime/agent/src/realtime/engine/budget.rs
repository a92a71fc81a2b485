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
            let known = of(&self.file.lowering, group).max(of(held, group));
            let wanted = of(wanted, group);
            // One that was made again under its name has none.
            let has = self.kernel.budget_us(group).unwrap_or(known);
            if wanted < has {
                self.file.lowering.insert(group.clone(), has);
                self.lower_at = Some(now + LOWER);
                continue;
            }
            let set = if wanted > has { self.kernel.set_budget(group, known, wanted) } else { Ok(()) };
            if known > has {
                // Those above still have what the one before it had.
                self.file.lowering.insert(group.clone(), known);
                self.lower_at = Some(now + LOWER);
            } else if set.is_ok() {
                self.file.lowering.remove(group);
            }
            outcome = outcome.and(set);
        }
        outcome
    }

    /// Lowers what is due to what is held of it now.
    pub(super) fn lower(&mut self, now: Instant) {
        if self.lower_at.is_none_or(|at| at > now) {
            return;
        }
        self.lower_at = None;
        for (group, has) in self.file.lowering.clone() {
            let wanted = self.file.instances.values().filter_map(|holding| holding.budgets.get(&group)).sum();
            match self.kernel.set_budget(&group, has, wanted) {
                Ok(()) => {
                    self.file.lowering.remove(&group);
                }
                Err(error) => {
                    debug!(group, %error, "a group keeps a real-time budget that it doesn't need; tried again");
                    self.lower_at = Some(now + LOWER);
                }
            }
        }
        self.file.save();
    }
}
