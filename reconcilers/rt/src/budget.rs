//! A limit on the work of an analysis, so that it ends in bounded time whatever it is given.
//!
//! One unit is one task looked at once in one iteration (a division or two). What runs out of it falls back to a closed bound or to "not proven":
//! never to an acceptance.

/// Units of work that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// Enough for the exact analysis of thousands of ordinary tasks, and a second or two at most when all of it is used.
    pub const DEFAULT: Self = Self(300_000_000);

    #[must_use]
    pub const fn new(units: u64) -> Self {
        Self(units)
    }

    /// Takes `units`; false if there are fewer left, and then there are none.
    pub const fn spend(&mut self, units: u64) -> bool {
        match self.0.checked_sub(units) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => {
                self.0 = 0;
                false
            }
        }
    }

    /// Takes up to `units` out of this budget, as one of its own: what one question may use without starving the next.
    #[must_use]
    pub const fn part(&self, units: u64) -> Self {
        Self(if units < self.0 { units } else { self.0 })
    }

    /// Pays for what a part has used.
    pub const fn settle(&mut self, given: Self, left: Self) {
        self.0 = self.0.saturating_sub(given.0.saturating_sub(left.0));
    }

    #[must_use]
    pub const fn left(&self) -> u64 {
        self.0
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::DEFAULT
    }
}
