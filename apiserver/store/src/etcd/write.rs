//! Writes: one transaction each, on the key's mod_revision.
//!
//! The transaction also rewrites `P/last` with the write's id, at the same revision. So when an answer gets lost (the member died, froze,
//! or lost its leader), a read tells whose write made the key's present version. A write that is proven is acknowledged; one that
//! expected a revision which is still the present one is sent again, because of two copies only one can find that revision; any other is
//! reported as unknown. (A lost creation isn't sent again: a copy that is still under way could bring the key back after
//! somebody deleted it.)
//!
//! A full etcd still deletes, if nothing is put beside it. So there a deletion takes `P/last` away instead of rewriting it; what that
//! means for who reads the history is `read.rs`'s.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::cluster::Patience;
use super::error::Failure;
use super::keys::{ours, theirs};
use super::read::header;
use super::{Shared, lock};
use crate::{Change, Expect, KeyValue, Revision, Write, WriteError};

/// What etcd did.
enum Outcome {
    Applied(KeyValue),
    /// The expectation doesn't hold.
    Refused(Option<KeyValue>),
}

/// What a write does with `P/last`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Rewritten,
    TakenAway,
}

/// What a look says about a write whose answer got lost.
enum Proof {
    Applied(KeyValue),
    /// It didn't happen yet, and may be sent again.
    Untouched,
    None,
}

impl Shared {
    pub(super) async fn write(&self, write: Write) -> Result<KeyValue, WriteError> {
        let began = std::time::Instant::now();
        let result = self.settle(&write).await;
        let mut metrics = lock(&self.metrics);
        match &result {
            Ok(written) => {
                self.acknowledged.fetch_max(written.modified.0, Ordering::AcqRel);
                metrics.writes += 1;
                metrics.batches += 1;
                metrics.commit.record(began.elapsed());
            }
            Err(WriteError::Mismatch { .. }) => metrics.refused += 1,
            Err(_) => metrics.failed += 1,
        }
        drop(metrics);
        result
    }

    async fn settle(&self, write: &Write) -> Result<KeyValue, WriteError> {
        let id = format!("{} {}", self.process, self.next_write.fetch_add(1, Ordering::Relaxed));
        let mut patience = Patience::new(&self.cluster);
        // Why an earlier attempt may have been applied, or may be yet.
        let mut unclear: Option<Failure> = None;
        let mut last = Last::Rewritten;
        loop {
            let txn = self.transaction(write, &id, last);
            let attempt =
                self.cluster.attempt(self.cluster.pick(), |mut client| async move { client.txn(txn).await }).await;
            let failure = match attempt {
                Ok(response) => match (self.outcome(write, &response), unclear) {
                    (Outcome::Applied(kv), _) => return Ok(kv),
                    (Outcome::Refused(current), None) => {
                        return Err(WriteError::Mismatch {
                            key: Arc::clone(&write.key),
                            expected: write.expect,
                            current,
                        });
                    }
                    (Outcome::Refused(_), Some(failure)) => {
                        return match self.prove(write, &id).await {
                            Proof::Applied(kv) => Ok(kv),
                            Proof::Untouched | Proof::None => Err(unknown(write, &failure)),
                        };
                    }
                },
                Err(failure) => failure,
            };
            if let Failure::Unclear(_) = failure {
                match self.prove(write, &id).await {
                    Proof::Applied(kv) => return Ok(kv),
                    Proof::Untouched => unclear = Some(failure.clone()),
                    Proof::None => return Err(unknown(write, &failure)),
                }
            } else if !failure.passes() {
                // What takes the last of the room is applied, and answered as if it weren't (quotaApplierV3 in etcd's server).
                if matches!(failure, Failure::NoSpace)
                    && let Proof::Applied(kv) = self.prove(write, &id).await
                {
                    return Ok(kv);
                }
                let deletes = matches!((&failure, &write.change), (Failure::NoSpace, Change::Delete));
                if deletes && last == Last::Rewritten {
                    last = Last::TakenAway;
                    continue;
                }
                return Err(self.failed(write, unclear.as_ref(), &failure));
            }
            if !patience.pause().await {
                return Err(self.failed(write, unclear.as_ref(), &failure));
            }
        }
    }

    fn failed(&self, write: &Write, unclear: Option<&Failure>, failure: &Failure) -> WriteError {
        let (key, store) = (Arc::clone(&write.key), format!("etcd at {}", self.cluster.servers()));
        match (unclear, failure) {
            (Some(unclear), _) => unknown(write, unclear),
            (None, Failure::NoSpace) => WriteError::NoSpace { key, store, room: None },
            (None, failure) => WriteError::Io { key, message: format!("{store}: {failure}") },
        }
    }

    fn transaction(&self, write: &Write, id: &str, last: Last) -> Txn {
        let key = self.keys.object(&write.key);
        let mut when = match write.expect {
            Expect::Absent => vec![Compare::mod_revision(key.clone(), CompareOp::Equal, 0)],
            Expect::At(revision) => vec![Compare::mod_revision(key.clone(), CompareOp::Equal, theirs(revision))],
            Expect::Any => Vec::new(),
        };
        let mut then = vec![match last {
            Last::Rewritten => TxnOp::put(self.keys.last(), id, None),
            Last::TakenAway => TxnOp::delete(self.keys.last(), None),
        }];
        match &write.change {
            Change::Put(value) => {
                then.push(TxnOp::put(key.clone(), value.to_vec(), None));
                if write.expect != Expect::Absent {
                    // For the revision of its creation.
                    then.push(TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only())));
                }
            }
            Change::Delete => {
                // With an absent key, there is nothing to delete.
                when.push(Compare::version(key.clone(), CompareOp::Greater, 0));
                then.push(TxnOp::delete(key.clone(), Some(DeleteOptions::new().with_prev_key())));
            }
        }
        Txn::new().when(when).and_then(then).or_else([TxnOp::get(key, None)])
    }

    fn outcome(&self, write: &Write, response: &TxnResponse) -> Outcome {
        let revision = self.heard(header(response.header()));
        let answers = response.op_responses();
        let first = |mut got: GetResponse| got.take_kvs().into_iter().next();
        if !response.succeeded() {
            let found = answers.into_iter().find_map(|answer| match answer {
                TxnOpResponse::Get(got) => first(got),
                _ => None,
            });
            return Outcome::Refused(found.and_then(|kv| self.keys.key_value(kv)));
        }
        let key = Arc::clone(&write.key);
        Outcome::Applied(match &write.change {
            Change::Put(value) => {
                let stored = answers.into_iter().find_map(|answer| match answer {
                    TxnOpResponse::Get(got) => first(got),
                    _ => None,
                });
                let created = stored.map_or(revision, |kv| ours(kv.create_revision()));
                KeyValue { key, value: value.clone(), created, modified: revision }
            }
            Change::Delete => {
                // Of `P/last` no previous value was asked for.
                let deleted = answers.into_iter().find_map(|answer| match answer {
                    TxnOpResponse::Delete(mut deleted) => deleted.take_prev_kvs().into_iter().next(),
                    _ => None,
                });
                match deleted.and_then(|kv| self.keys.key_value(kv)) {
                    Some(deleted) => KeyValue { modified: revision, ..deleted },
                    None => KeyValue { key, value: bytes::Bytes::new(), created: revision, modified: revision },
                }
            }
        })
    }

    /// Looks for what a write did.
    async fn prove(&self, write: &Write, id: &str) -> Proof {
        let Ok((current, _)) = self.get(&write.key).await else { return Proof::None };
        match (&write.change, current) {
            (Change::Put(_), Some(current)) => {
                if self.is_author(current.modified, id).await {
                    return Proof::Applied(current);
                }
                if write.expect == Expect::At(current.modified) { Proof::Untouched } else { Proof::None }
            }
            (Change::Delete, None) => self.proven_deletion(write, id).await.map_or(Proof::None, Proof::Applied),
            (Change::Delete, Some(current)) if write.expect == Expect::At(current.modified) => Proof::Untouched,
            (Change::Put(_), None) | (Change::Delete, Some(_)) => Proof::None,
        }
    }

    /// Whether the write with this id made that revision.
    async fn is_author(&self, revision: Revision, id: &str) -> bool {
        let options = GetOptions::new().with_revision(theirs(revision));
        let last = self.range(&self.keys.last(), &options).await;
        last.is_ok_and(|last| {
            last.kvs().iter().any(|kv| kv.mod_revision() == theirs(revision) && kv.value() == id.as_bytes())
        })
    }

    /// A deletion leaves nothing at its key: only as long as it is the last write, `P/last` tells of it.
    async fn proven_deletion(&self, write: &Write, id: &str) -> Option<KeyValue> {
        let last = self.range(&self.keys.last(), &GetOptions::new()).await.ok()?;
        let last = last.kvs().first().filter(|kv| kv.value() == id.as_bytes())?.mod_revision();
        let before = GetOptions::new().with_revision(last.saturating_sub(1));
        let (deleted, _) = self.get_with(&write.key, &before).await.ok()?;
        Some(KeyValue { modified: ours(last), ..deleted? })
    }
}

fn unknown(write: &Write, failure: &Failure) -> WriteError {
    WriteError::Unknown { key: Arc::clone(&write.key), message: failure.to_string() }
}
