//! UIDs of objects that are known to be gone, so that a thousand dependents of one owner don't ask a thousand times.
//! A UID never comes back.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::graph::Uid;

/// As many as an owner's dependents are likely to be looked at together; an evicted one is simply read again.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub struct Absent(Mutex<(HashSet<Uid>, VecDeque<Uid>)>);

impl Absent {
    pub fn add(&self, uid: Uid) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *guard;
        if known.insert(uid) {
            order.push_back(uid);
            if order.len() > MOST
                && let Some(oldest) = order.pop_front()
            {
                known.remove(&oldest);
            }
        }
    }

    #[must_use]
    pub fn contains(&self, uid: Uid) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(&uid)
    }
}
