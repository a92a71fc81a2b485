//! Sets of CPUs, written as Linux lists (cpuset(7), "List format"): `0-2,5`. Lists are read and printed by [`CpuSet`]; what is more here is that a
//! kernel's file may be empty, and arithmetic.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use pullpiri_rt::{CpuSet, CpuSetError};
use serde::{Deserialize, Serialize};

/// CPUs have numbers below this everywhere in the product (`InstanceTask.cpu` has the same bound).
pub use pullpiri_rt::MAX_CPUS;

/// A set of CPUs by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cpus(pub BTreeSet<u32>);

impl Cpus {
    /// The set of one CPU.
    #[must_use]
    pub fn one(cpu: u32) -> Self {
        Self(BTreeSet::from([cpu]))
    }

    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Those that are in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Those that aren't in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for Cpus {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.iter().copied().collect::<CpuSet>(), f)
    }
}

impl FromStr for Cpus {
    type Err = CpuSetError;

    /// An empty text is the empty set, as in the kernel's files.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Ok(Self::default()),
            list => list.parse::<CpuSet>().map(|set| set.iter().collect()),
        }
    }
}

impl From<Cpus> for String {
    fn from(cpus: Cpus) -> Self {
        cpus.to_string()
    }
}

impl TryFrom<String> for Cpus {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_what_they_print() {
        for text in ["", "0", "0-3", "0,2", "1-2,4,6-7", "4095"] {
            assert_eq!(text.parse::<Cpus>().unwrap().to_string(), text);
        }
        assert_eq!("0-1\n".parse::<Cpus>().unwrap().to_string(), "0-1");
        assert_eq!("3,1,2,2".parse::<Cpus>().unwrap().to_string(), "1-3");
        for bad in ["a", "1-", "-1", "3-1", "4096", "1 2", "0,", "+1"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sets() {
        let (a, b): (Cpus, Cpus) = ("0-3".parse().unwrap(), "2-5".parse().unwrap());
        assert_eq!((a.and(&b).to_string(), a.without(&b).to_string()), ("2-3".into(), "0-1".into()));
        assert_eq!(a.or(&b).to_string(), "0-5");
        assert!(a.contains(3) && !a.contains(4) && Cpus::default().is_empty() && Cpus::one(7).contains(7));
    }
}
