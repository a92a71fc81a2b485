//! Numbers that stay: what had one keeps it, what is new gets the lowest that is free.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Gives each key a number from `range`. Of two that held the same the first in order keeps it. Keys beyond the range get none.
pub(crate) fn number<K: Ord + Clone>(
    keys: impl IntoIterator<Item = (K, Option<i32>)>,
    range: (i32, i32),
) -> BTreeMap<K, i32> {
    let (first, last) = range;
    let keys: BTreeMap<K, Option<i32>> = keys.into_iter().collect();
    let mut numbers: BTreeMap<K, i32> = BTreeMap::new();
    let mut taken: BTreeSet<i32> = BTreeSet::new();
    for (key, held) in &keys {
        if let Some(held) = held.filter(|n| (first..=last).contains(n) && taken.insert(*n)) {
            numbers.insert(key.clone(), held);
        }
    }
    let mut free = (first..=last).filter(|n| !taken.contains(n));
    for key in keys.into_keys() {
        if let Entry::Vacant(unnumbered) = numbers.entry(key) {
            let Some(next) = free.next() else { break };
            unnumbered.insert(next);
        }
    }
    numbers
}

/// Gives the members of each group one number, the one that most of them had; a number that members of several groups had stays with
/// those who are more (ties: the first group). `groups` hold what each member had.
pub(crate) fn number_groups(groups: &[Vec<Option<i32>>], range: (i32, i32)) -> Vec<i32> {
    let mut votes: BTreeMap<(usize, i32), usize> = BTreeMap::new();
    for (group, members) in groups.iter().enumerate() {
        for held in members.iter().flatten() {
            *votes.entry((group, *held)).or_default() += 1;
        }
    }
    let mut claims: Vec<(usize, usize, i32)> = votes.into_iter().map(|((group, held), n)| (n, group, held)).collect();
    claims.sort_by(|a, b| (b.0, a.1, a.2).cmp(&(a.0, b.1, b.2)));
    let mut kept: BTreeMap<usize, i32> = BTreeMap::new();
    let mut taken: BTreeSet<i32> = BTreeSet::new();
    for (_, group, held) in claims {
        if !kept.contains_key(&group) && taken.insert(held) {
            kept.insert(group, held);
        }
    }
    let numbers = number((0..groups.len()).map(|group| (group, kept.get(&group).copied())), range);
    (0..groups.len()).filter_map(|group| numbers.get(&group).copied()).collect()
}

/// Gives each list of names ascending numbers from 1. A list keeps its numbers if every name has one and they ascend; the others take the
/// lowest free ones, in order. `lists` are in the order in which newcomers are served.
pub(crate) fn number_ascending(lists: &[Vec<Option<i32>>]) -> Vec<Vec<i32>> {
    let mut taken: BTreeSet<i32> = BTreeSet::new();
    let mut numbers: Vec<Option<Vec<i32>>> = Vec::new();
    for list in lists {
        let held: Option<Vec<i32>> = list.iter().copied().collect();
        let kept = held.filter(|held| {
            held.iter().all(|n| *n > 0 && !taken.contains(n)) && held.windows(2).all(|pair| pair[0] < pair[1])
        });
        taken.extend(kept.iter().flatten());
        numbers.push(kept);
    }
    let mut free = (1..i32::MAX).filter(|n| !taken.contains(n));
    let fresh = |length: usize, free: &mut dyn Iterator<Item = i32>| free.take(length).collect();
    numbers.into_iter().zip(lists).map(|(kept, list)| kept.unwrap_or_else(|| fresh(list.len(), &mut free))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_a_number_keeps_it() {
        let numbers = number([("b", Some(2)), ("a", None), ("c", Some(2)), ("d", Some(99))], (1, 9));
        assert_eq!(numbers, [("a", 1), ("b", 2), ("c", 3), ("d", 4)].into());
        assert_eq!(number([("a", None), ("b", None)], (1, 1)), [("a", 1)].into());
    }

    #[test]
    fn a_group_that_splits_leaves_its_number_to_the_larger_part() {
        let groups = [vec![Some(5)], vec![Some(5), Some(5)], vec![None]];
        assert_eq!(number_groups(&groups, (1, i32::MAX)), [1, 5, 2]);
        // Two that merge keep the number of the larger.
        assert_eq!(number_groups(&[vec![Some(1), Some(7), Some(7)]], (1, i32::MAX)), [7]);
    }

    #[test]
    fn lists_keep_their_order() {
        let lists = [vec![None, None], vec![Some(1), Some(4)], vec![Some(5), Some(2)]];
        assert_eq!(number_ascending(&lists), [vec![2, 3], vec![1, 4], vec![5, 6]]);
    }
}
