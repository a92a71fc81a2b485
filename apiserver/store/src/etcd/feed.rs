//! The one watch that fills the hub, and the history behind it.
//!
//! etcd's watch delivers the events of a range in order, those of one revision in one message, from any revision that isn't
//! compacted. So the feed's whole state is the next revision it wants: when a member fails, is silent for
//! [`super::Timeouts::attempt`], has lost its leader or is behind what others answer, the feed asks another one for the events from there
//! on. An event without the previous value that it should have (somebody compacted faster than the feed read), or a next revision that is
//! compacted, is a hole: the hub skips ahead, and watches that needed what is missing end with [`WatchError::Lagged`].
//!
//! A silent watch is asked for a sign of life every second. What etcd answers is no progress: before 3.4.25 and 3.5.8 it could overtake
//! events. Progress is the event of `P/last` and what etcd says by itself about a watch that has had everything.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, KeyValue as EtcdKeyValue, WatchOptions, WatchResponse, WatchStream};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::error::Failure;
use super::keys::{ours, theirs};
use super::read::{History, header, refusal};
use super::{Line, Shared, lock};
use crate::hub::{Backlog, Chunk};
use crate::{Event, Revision, WatchError};

const BEAT: Duration = Duration::from_secs(1);
/// Between attempts that all fail.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a part of the history is asked for.
const ATTEMPTS: usize = 4;

/// How a watch of etcd's ended.
#[derive(Debug)]
enum End {
    Failed(Failure),
    /// What it wanted is compacted, up to this revision at least.
    Compacted(Revision),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Fills the hub for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let began = shared.line.borrow().head;
        let member = shared.cluster.pick();
        let End::Failed(failure) = (match session(&shared, member).await {
            Err(End::Compacted(oldest)) => match skip(&shared, oldest).await {
                Ok(()) => continue,
                Err(failure) => End::Failed(failure),
            },
            Err(end) => end,
            Ok(never) => match never {},
        }) else {
            continue;
        };
        shared.cluster.rest(member, &failure);
        *lock(&shared.trouble) = Some(failure.to_string());
        lock(&shared.metrics).reopened += 1;
        if shared.line.borrow().head == began {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Opens a watch at one member. Nothing has been received from it yet.
async fn open(
    shared: &Shared,
    member: usize,
    range: (Vec<u8>, Vec<u8>),
    after: Revision,
) -> Result<WatchStream, Failure> {
    let options = WatchOptions::new()
        .with_range(range.1)
        .with_start_revision(theirs(after).saturating_add(1))
        .with_prev_key()
        .with_progress_notify();
    shared
        .cluster
        .attempt(member, |client| {
            let mut client = client.watch_client().max_decoding_message_size(usize::MAX);
            async move { client.watch(range.0, Some(options)).await }
        })
        .await
}

/// One watch at one member, until it ends.
async fn session(shared: &Shared, member: usize) -> Result<std::convert::Infallible, End> {
    let limit = shared.cluster.timeouts().attempt;
    let mut next = shared.line.borrow().head;
    let mut watch = open(shared, member, shared.keys.all(), next).await?;
    let mut beats = tokio::time::interval(BEAT.min(limit / 2));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let silent = || Failure::Unclear(format!("the watch was silent for {} ms", limit.as_millis()));
    let (mut heard, mut behind) = (Instant::now(), None);
    let mut member_is_at = next;
    loop {
        tokio::select! {
            message = watch.message() => {
                heard = Instant::now();
                let message = message.map_err(|error| super::error::classify("watch", &error))?;
                let message = message.ok_or_else(|| Failure::Unclear("the watch was ended".to_owned()))?;
                member_is_at = member_is_at.max(shared.heard(header(message.header())));
                *lock(&shared.trouble) = None;
                take(shared, &message, &mut next)?;
            }
            _ = beats.tick() => {
                if heard.elapsed() > limit {
                    return Err(silent().into());
                }
                // A member that is cut off from the others still answers, with the past.
                if shared.revision() > member_is_at.max(next) {
                    if behind.get_or_insert_with(Instant::now).elapsed() > limit {
                        return Err(Failure::Unclear("the member of the watch is behind the others".to_owned()).into());
                    }
                } else {
                    behind = None;
                }
                let asked = tokio::time::timeout(limit, watch.request_progress()).await;
                asked.map_err(|_| silent())?.map_err(|error| super::error::classify("watch", &error))?;
            }
        }
    }
}

/// Takes a message of the feed's in.
fn take(shared: &Shared, message: &WatchResponse, next: &mut Revision) -> Result<(), End> {
    let mut events = Vec::new();
    let (mut head, mut last_event) = (*next, None);
    for event in parsed(shared, message)? {
        // Not expected, but a repeated event would be worse.
        if event.revision() <= *next {
            continue;
        }
        head = event.revision();
        if let Parsed::Object(event) = event {
            last_event = Some(event.revision);
            events.push(event);
        }
    }
    if message.events().is_empty() && !message.created() && message.watch_id() >= 0 {
        head = head.max(ours(header(message.header())));
    }
    if head > *next {
        *next = head;
        shared.known.fetch_max(head.0, std::sync::atomic::Ordering::AcqRel);
        // First: who reads the history because the hub goes on must be told how far.
        shared.line.send_modify(|line| {
            *line = Line { head, last_event: last_event.unwrap_or(line.last_event) };
        });
        shared.hub.publish(&events);
        shared.hub.advance(head.0);
        shared.fed.send_replace(head);
    }
    Ok(())
}

/// One of etcd's events.
enum Parsed {
    Object(Arc<Event>),
    /// Of another key under our prefix.
    Other(Revision),
}

impl Parsed {
    fn revision(&self) -> Revision {
        match self {
            Self::Object(event) => event.revision,
            Self::Other(revision) => *revision,
        }
    }
}

/// The events of a message.
fn parsed(shared: &Shared, message: &WatchResponse) -> Result<Vec<Parsed>, End> {
    if message.canceled() {
        return Err(match message.compact_revision() {
            0 => End::Failed(refusal(message)),
            revision => End::Compacted(ours(revision)),
        });
    }
    message.events().iter().filter_map(|event| parse(shared, event).transpose()).collect()
}

fn parse(shared: &Shared, event: &etcd_client::Event) -> Result<Option<Parsed>, End> {
    let Some(kv) = event.kv() else { return Ok(None) };
    let revision = ours(kv.mod_revision());
    let Some(name) = shared.keys.name(kv.key()) else { return Ok(Some(Parsed::Other(revision))) };
    let value = |kv: &EtcdKeyValue| shared.keys.key_value(kv.clone());
    let deleted = event.event_type() == EventType::Delete;
    let created = !deleted && kv.create_revision() == kv.mod_revision();
    let previous = if created { None } else { event.prev_kv().and_then(value) };
    if previous.is_none() && !created {
        return Err(End::Compacted(revision));
    }
    let current = if deleted { None } else { value(kv) };
    let key: Arc<str> = current.as_ref().or(previous.as_ref()).map_or_else(|| name.into(), |kv| Arc::clone(&kv.key));
    Ok(Some(Parsed::Object(Arc::new(Event { revision, key, current, previous }))))
}

/// Goes on behind a hole.
async fn skip(shared: &Shared, oldest: Revision) -> Result<(), Failure> {
    let (line, history) = shared.look().await?;
    let missed = shared.line.borrow().head;
    tracing::warn!(
        after = missed.0,
        before = line.head.0,
        "etcd was compacted before the watch had read it, clients list again"
    );
    shared.compacted(if history == History::Lost { line.head.max(oldest) } else { oldest });
    shared.line.send_replace(line);
    shared.hub.skip(line.head.0);
    shared.fed.send_replace(line.head);
    Ok(())
}

impl Backlog for Shared {
    fn events(self: Arc<Self>, prefix: Arc<str>, after: u64) -> BoxFuture<'static, Result<Chunk, WatchError>> {
        async move {
            let after = Revision(after);
            let mut failure = Failure::Unclear("no attempt".to_owned());
            for _ in 0..ATTEMPTS {
                let member = self.cluster.pick();
                match history(&self, member, &prefix, after).await {
                    Ok(chunk) => return Ok(chunk),
                    Err(End::Compacted(_)) => {
                        let _ = self.gone(after).await;
                        return Err(WatchError::Compacted { requested: after, oldest: self.oldest() });
                    }
                    Err(End::Failed(end)) => {
                        self.cluster.rest(member, &end);
                        failure = end;
                    }
                }
            }
            let message = format!("etcd at {}: {failure}", self.cluster.servers());
            Err(WatchError::Io { what: "history".to_owned(), message })
        }
        .boxed()
    }
}

/// A message's worth of history. All objects are watched, whatever the prefix: an end is only to be seen where an event is known to be.
async fn history(shared: &Shared, member: usize, prefix: &str, after: Revision) -> Result<Chunk, End> {
    let line = *shared.line.borrow();
    let mut chunk = Chunk { events: Vec::new(), through: after.max(line.head).0 };
    if after >= line.last_event {
        return Ok(chunk);
    }
    let mut watch = open(shared, member, shared.keys.objects(""), after).await?;
    loop {
        let limit = shared.cluster.timeouts().attempt;
        let message = tokio::time::timeout(limit, watch.message()).await;
        let message = message.map_err(|_| Failure::Unclear("a watch of the past is silent".to_owned()))?;
        let message = message.map_err(|error| super::error::classify("watch", &error))?;
        let message = message.ok_or_else(|| Failure::Unclear("a watch of the past was ended".to_owned()))?;
        let parsed = parsed(shared, &message)?;
        let Some(last) = parsed.last().map(Parsed::revision) else { continue };
        // Behind the last event that is known there is no other one up to where the feed is.
        chunk.through = if last >= line.last_event { last.max(line.head).0 } else { last.0 };
        chunk.events = parsed
            .into_iter()
            .filter_map(|parsed| match parsed {
                Parsed::Object(event) if event.key.starts_with(prefix) => Some(event),
                Parsed::Object(_) | Parsed::Other(_) => None,
            })
            .collect();
        return Ok(chunk);
    }
}
