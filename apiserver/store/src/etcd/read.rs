//! Reads: linearizable, page by page at one revision.

use std::sync::atomic::Ordering;

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse, WatchOptions};

use super::error::{Failure, classify};
use super::keys::{ours, theirs};
use super::{Line, Shared};
use crate::{KeyValue, Page, Range, ReadError, Revision};

/// Keys per request: etcd answers each in one message.
const PAGE: usize = 1000;
/// How often a list begins anew because somebody compacted what it was reading.
const RESTARTS: usize = 3;

/// The header's revision. etcd always sends one.
pub(super) fn header(header: Option<&etcd_client::ResponseHeader>) -> i64 {
    header.map_or(0, etcd_client::ResponseHeader::revision)
}

/// Whether the events before a look can all be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    Known,
    Lost,
}

impl Shared {
    /// A range at one revision, or now.
    pub(super) async fn range(&self, key: &[u8], options: &GetOptions) -> Result<GetResponse, Failure> {
        let response = self
            .cluster
            .read(|client| {
                let mut client = client.kv_client().max_decoding_message_size(usize::MAX);
                async move { client.get(key, Some(options.clone())).await }
            })
            .await?;
        self.heard(header(response.header()));
        Ok(response)
    }

    /// Where the store is, and the last write of ours; with whether what was before is lost to whoever reads the history: deletions from
    /// a full etcd took `P/last` away, and nothing tells which was the last.
    pub(super) async fn look(&self) -> Result<(Line, History), Failure> {
        let response = self.range(&self.keys.last(), &GetOptions::new().with_keys_only()).await?;
        let head = ours(header(response.header()));
        if let Some(last) = response.kvs().first() {
            return Ok((Line { head, last_event: ours(last.mod_revision()) }, History::Known));
        }
        let (start, end) = self.keys.all();
        let any = self.range(&start, &GetOptions::new().with_range(end).with_keys_only().with_limit(1)).await?;
        if any.kvs().is_empty() {
            // Nobody wrote anything yet.
            return Ok((Line { head, last_event: ours(0) }, History::Known));
        }
        Ok((Line { head, last_event: head }, History::Lost))
    }

    pub(super) async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Failure> {
        self.get_with(key, &GetOptions::new()).await
    }

    /// The key as of a revision; the revision returned is the present one.
    pub(super) async fn get_with(
        &self,
        key: &str,
        options: &GetOptions,
    ) -> Result<(Option<KeyValue>, Revision), Failure> {
        let mut response = self.range(&self.keys.object(key), options).await?;
        let found = response.take_kvs().into_iter().next().and_then(|kv| self.keys.key_value(kv));
        Ok((found, ours(header(response.header()))))
    }

    pub(super) async fn list(&self, range: Range) -> Result<Page, ReadError> {
        let mut restarts = 0;
        loop {
            match (self.pages(&range).await, range.at) {
                (Ok(page), _) => return Ok(page),
                (Err(Failure::Compacted), Some(at)) => return Err(self.gone(at).await),
                (Err(Failure::Compacted), None) if restarts < RESTARTS => restarts += 1,
                (Err(Failure::Future), Some(at)) => {
                    let look = self.look().await;
                    let current = look.map_err(|failure| self.unreadable(&range.prefix, &failure))?.0.head;
                    return Err(ReadError::Future { requested: at, current });
                }
                (Err(failure), _) => return Err(self.unreadable(&range.prefix, &failure)),
            }
        }
    }

    async fn pages(&self, range: &Range) -> Result<Page, Failure> {
        let (mut start, end) = self.keys.objects(&range.prefix);
        if let Some(after) = &range.after {
            start = start.max(self.keys.after(after));
        }
        let mut page = Page {
            items: Vec::new(),
            revision: range.at.unwrap_or_default(),
            more: false,
            remaining: range.limit.map(|_| 0),
        };
        if start >= end {
            // Nothing to list, but not at any revision.
            let mut options = GetOptions::new().with_keys_only();
            if let Some(at) = range.at {
                options = options.with_revision(theirs(at));
            }
            let response = self.range(&self.keys.last(), &options).await?;
            page.revision = range.at.unwrap_or_else(|| ours(header(response.header())));
            return Ok(page);
        }
        let mut at = range.at.map(theirs);
        let mut wanted = range.limit.unwrap_or(usize::MAX);
        loop {
            let mut options = GetOptions::new().with_range(end.clone());
            // To etcd a limit of 0 is none.
            options = match wanted {
                0 => options.with_count_only(),
                _ => options.with_limit(i64::try_from(wanted.min(PAGE)).unwrap_or(i64::MAX)),
            };
            if let Some(at) = at {
                options = options.with_revision(at);
            }
            let mut response = self.range(&start, &options).await?;
            if at.is_none() {
                let now = header(response.header());
                at = Some(now);
                page.revision = ours(now);
            }
            let kvs = response.take_kvs();
            let left = response.count().saturating_sub(i64::try_from(kvs.len()).unwrap_or(i64::MAX));
            wanted = wanted.saturating_sub(kvs.len());
            if let Some(last) = kvs.last() {
                start = [last.key(), b"\0"].concat();
            }
            page.items.extend(kvs.into_iter().filter_map(|kv| self.keys.key_value(kv)));
            if left <= 0 || wanted == 0 {
                page.more = left > 0;
                page.remaining = range.limit.map(|_| u64::try_from(left).unwrap_or(0));
                return Ok(page);
            }
        }
    }

    /// Whether a watch may begin at `from`.
    pub(super) async fn readable(&self, from: Revision) -> Result<(), ReadError> {
        if from > self.revision() {
            // Another API server may have told our client of it.
            let look = self.look().await;
            let current = look.map_err(|failure| self.unreadable("the revision", &failure))?.0.head;
            if from > current {
                return Err(ReadError::Future { requested: from, current });
            }
        }
        if from < self.oldest() {
            return Err(ReadError::Compacted { requested: from, oldest: self.oldest() });
        }
        if from.0 >= self.hub.floor() {
            return Ok(());
        }
        let options = GetOptions::new().with_keys_only().with_revision(theirs(from));
        match self.range(&self.keys.last(), &options).await {
            Ok(_) => Ok(()),
            Err(Failure::Compacted) => Err(self.gone(from).await),
            Err(failure) => Err(self.unreadable("history", &failure)),
        }
    }

    /// The answer to who asked for what somebody compacted.
    pub(super) async fn gone(&self, requested: Revision) -> ReadError {
        if requested >= self.oldest() && self.find_oldest().await.is_err() {
            self.compacted(Revision(requested.0.saturating_add(1)));
        }
        ReadError::Compacted { requested, oldest: self.oldest() }
    }

    /// Asks etcd how far it is compacted. Only a watch tells.
    pub(super) async fn find_oldest(&self) -> Result<Revision, Failure> {
        let last = self.keys.last();
        match self.range(&last, &GetOptions::new().with_keys_only().with_revision(1)).await {
            Ok(_) => return Ok(self.oldest()),
            Err(Failure::Compacted) => {}
            Err(failure) => return Err(failure),
        }
        let compacted = self.cluster.read(|mut client| {
            let last = last.clone();
            async move {
                let mut watch = client.watch(last, Some(WatchOptions::new().with_start_revision(1))).await?;
                while let Some(message) = watch.message().await? {
                    if message.compact_revision() > 0 {
                        return Ok(message.compact_revision());
                    }
                }
                Err(etcd_client::Error::WatchError("the watch ended".to_owned()))
            }
        });
        let oldest = ours(compacted.await?);
        self.compacted(oldest);
        Ok(Revision(self.oldest.load(Ordering::Acquire)))
    }

    pub(super) fn unreadable(&self, what: &str, failure: &Failure) -> ReadError {
        let message = format!("etcd at {}: {failure}", self.cluster.servers());
        ReadError::Io { what: what.to_owned(), message }
    }

    pub(super) async fn shared_value(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let response = self.range(&self.keys.shared(name), &GetOptions::new()).await;
        let mut response = response.map_err(|failure| self.unreadable(name, &failure))?;
        Ok(response.take_kvs().into_iter().next().map(|kv| kv.into_key_value().1))
    }

    pub(super) async fn share_value(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, ReadError> {
        let key = self.keys.shared(name);
        // May be repeated: whatever the outcome, the answer is what is there.
        let put = self.cluster.read(|mut client| {
            let txn = Txn::new()
                .when([Compare::mod_revision(key.clone(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.clone(), value.clone(), None)])
                .or_else([TxnOp::get(key.clone(), None)]);
            async move { client.txn(txn).await }
        });
        let response = put.await.map_err(|failure| self.unreadable(name, &failure))?;
        self.heard(header(response.header()));
        if response.succeeded() {
            return Ok(value);
        }
        let found = response.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
            _ => None,
        });
        let nothing = Failure::Unclear("it came and went".to_owned());
        found.map(|kv| kv.into_key_value().1).ok_or_else(|| self.unreadable(name, &nothing))
    }
}

/// What a watch that was refused says.
pub(super) fn refusal(message: &etcd_client::WatchResponse) -> Failure {
    let status = tonic_status(message.cancel_reason());
    classify("etcd", &status)
}

fn tonic_status(reason: &str) -> etcd_client::Error {
    etcd_client::Error::WatchError(format!("the watch was ended: {reason}"))
}
