//! Sets of CPUs as Linux writes them: `0` or `1-3,5` (cpuset(7), "List format").

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// CPUs are numbered below this; what a ModelInstance can hold.
pub const MAX_CPUS: u32 = 4096;

/// A set of CPU numbers. Prints as the shortest list.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<u32>);

/// Why a text is no CPU list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no CPU list: expected {expected}")]
pub struct CpuSetError {
    pub given: String,
    pub expected: String,
}

impl CpuSet {
    /// CPUs `0..count`, at most [`MAX_CPUS`] of them.
    #[must_use]
    pub fn first(count: u32) -> Self {
        Self((0..count.min(MAX_CPUS)).collect())
    }

    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Whether the other has all of them.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Those that the other hasn't.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// The only CPU, if there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<u32> {
        if self.0.len() == 1 { self.0.first().copied() } else { None }
    }

    /// The largest number.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.0.last().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    /// # Errors
    /// [`CpuSetError`] for anything but numbers and ascending ranges below [`MAX_CPUS`], joined by commas.
    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let error = |expected: &str| CpuSetError { given: text.to_owned(), expected: expected.to_owned() };
        let number = |digits: &str| -> Result<u32, CpuSetError> {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(error("a Linux CPU list, as in 0 or 1-3,5"));
            }
            match digits.parse::<u32>() {
                Ok(cpu) if cpu < MAX_CPUS => Ok(cpu),
                _ => Err(error(&format!("CPUs below {MAX_CPUS}"))),
            }
        };
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(error("a range from the smaller to the larger CPU"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (at, (first, last)) in ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_print_as_linux_does() {
        for (text, printed) in
            [("0", "0"), ("1-3,5", "1-3,5"), ("5,1,2,3", "1-3,5"), ("0-0", "0"), ("0,1", "0-1"), ("4095", "4095")]
        {
            assert_eq!(text.parse::<CpuSet>().map(|set| set.to_string()), Ok(printed.to_owned()), "{text}");
        }
        for bad in ["", ",", "1,", "-1", "3-1", "a", "0x1", "1-", "1--2", " 1", "+1", "4096", "0-99999999999999999999"]
        {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }
}
