//! What the analysis of one CPU knows of a task, and exact comparisons of utilisations.

/// The longest time that is computed with: 292 years. A bound beyond it counts as none.
pub const MAX_NS: u64 = i64::MAX.unsigned_abs();

/// One task as the analysis sees it. Nanoseconds; wcet, period and deadline above 0, all at most [`MAX_NS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub wcet_ns: u64,
    pub period_ns: u64,
    pub deadline_ns: u64,
    pub jitter_ns: u64,
    pub blocking_ns: u64,
}

impl Load {
    /// The most work that is released in any window of `window_ns`: ⌈(window + jitter) / period⌉ · wcet.
    #[must_use]
    pub const fn requested(&self, window_ns: u64) -> u64 {
        window_ns.saturating_add(self.jitter_ns).div_ceil(self.period_ns).saturating_mul(self.wcet_ns)
    }

    /// The share of a CPU in parts per million, rounded up.
    #[must_use]
    pub fn ppm(&self) -> u64 {
        let scaled = u128::from(self.wcet_ns).saturating_mul(1_000_000).div_ceil(u128::from(self.period_ns.max(1)));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// A worst-case response time and where it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wcrt {
    /// From the arrival to the end of the job.
    pub response_ns: u64,
    /// Which job it is, counted from 0 from the start of the busy window.
    pub job: u64,
    /// When that job ends, from the start of the busy window.
    pub end_ns: u64,
    /// False: an upper bound in closed form, because the exact method would have taken too long.
    pub exact: bool,
}

/// A sum of utilisations: known to 2⁻⁶⁴ per task, and exactly where that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utilisation {
    /// Σ ⌊wcet · 2⁶⁴ / period⌋.
    floor: u128,
    count: u32,
}

const ONE: u128 = 1 << 64;

impl Utilisation {
    pub fn add(&mut self, load: &Load) {
        self.floor = self.floor.saturating_add((u128::from(load.wcet_ns) << 64) / u128::from(load.period_ns.max(1)));
        self.count = self.count.saturating_add(1);
    }

    /// 1 − utilisation in units of 2⁻⁶⁴, rounded down; 0 if there may be nothing left.
    #[must_use]
    pub fn left(&self) -> u128 {
        ONE.saturating_sub(self.floor.saturating_add(self.count.into()))
    }

    /// Rounded to the nearest part per million.
    #[must_use]
    pub fn ppm(&self) -> u64 {
        let scaled = (self.floor >> 20).saturating_mul(1_000_000).saturating_add(1 << 43) >> 44;
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// Whether Σ wcet/period ≤ 1, exactly; where even 128 bits can't tell, no.
    #[must_use]
    pub fn at_most_one<'a>(loads: impl Iterator<Item = &'a Load> + Clone) -> bool {
        let mut sum = Self::default();
        for load in loads.clone() {
            sum.add(load);
        }
        if sum.floor.saturating_add(sum.count.into()) <= ONE {
            return true;
        }
        sum.floor <= ONE && exactly_at_most_one(loads).unwrap_or(false)
    }

    #[must_use]
    pub fn of<'a>(loads: impl Iterator<Item = &'a Load>) -> Self {
        let mut sum = Self::default();
        for load in loads {
            sum.add(load);
        }
        sum
    }
}

/// As fractions; `None` if a denominator outgrows 128 bits.
fn exactly_at_most_one<'a>(loads: impl Iterator<Item = &'a Load>) -> Option<bool> {
    let (mut numerator, mut denominator) = (0_u128, 1_u128);
    for load in loads {
        let period = u128::from(load.period_ns);
        let common = gcd(denominator, period);
        let grown = denominator.checked_mul(period / common)?;
        let mine = u128::from(load.wcet_ns).checked_mul(denominator / common)?;
        numerator = numerator.checked_mul(period / common)?.checked_add(mine)?;
        let shrink = gcd(numerator, grown).max(1);
        (numerator, denominator) = (numerator / shrink, grown / shrink);
    }
    Some(numerator <= denominator)
}

/// The least common multiple of the periods, if it is at most [`MAX_NS`].
pub(crate) fn hyperperiod<'a>(loads: impl Iterator<Item = &'a Load>) -> Option<u64> {
    let mut all = 1_u128;
    for load in loads {
        let period = u128::from(load.period_ns.max(1));
        all = all.checked_mul(period / gcd(all, period))?;
        if all > u128::from(MAX_NS) {
            return None;
        }
    }
    u64::try_from(all).ok()
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(wcet_ns: u64, period_ns: u64) -> Load {
        Load { wcet_ns, period_ns, deadline_ns: period_ns, jitter_ns: 0, blocking_ns: 0 }
    }

    #[test]
    fn a_sum_of_exactly_one_is_at_most_one() {
        assert!(Utilisation::at_most_one([load(1, 3), load(1, 3), load(1, 3)].iter()));
        assert!(Utilisation::at_most_one([load(1, 7), load(6, 7)].iter()));
        assert!(!Utilisation::at_most_one([load(1, 3), load(1, 3), load(1, 3), load(1, MAX_NS)].iter()));
        assert!(!Utilisation::at_most_one([load(2, 1)].iter()));
        assert!(Utilisation::at_most_one([].iter()));
    }

    #[test]
    fn shares_are_parts_per_million() {
        assert_eq!(Utilisation::of([load(1, 3), load(1, 2)].iter()).ppm(), 833_333);
        assert_eq!(load(1, 3).ppm(), 333_334);
    }

    #[test]
    fn hyperperiods_beyond_63_bits_are_none() {
        assert_eq!(hyperperiod([load(1, 4), load(1, 6)].iter()), Some(12));
        assert_eq!(hyperperiod([load(1, MAX_NS), load(1, MAX_NS - 1)].iter()), None);
    }
}
