//! Random histories, held against the simplest thing that could be right: a list of everything that happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use pullpiri_store::{
    Change, Expect, KeyValue, Range, ReadError, Revision, Store, WatchError, WatchItem, WatchStream, Write, WriteError,
};

use crate::fixture::{Fixture, Kind, block_on, is_ordered, item};

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: usize,
        expect: Guess,
        value: u8,
    },
    Delete {
        key: usize,
        expect: Guess,
    },
    /// Several writes at once, so that they share a batch.
    Burst(Vec<(usize, Guess, Option<u8>)>),
    /// A page of `limit`, as of so many revisions back, after a key.
    List {
        prefix: usize,
        back: u64,
        after: Option<usize>,
        limit: Option<usize>,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Restart,
    /// Reads what the watches have.
    Drain,
}

#[derive(Clone, Copy, Debug)]
enum Guess {
    Any,
    Absent,
    /// The key's revision, if it has one.
    Right,
    Wrong,
}

const KEYS: [&str; 8] = ["a", "a/", "a/1", "a/2", "b/1", "b/1/x", "é", "b"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "b/1", "zz", "é"];

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![3 => Just(Guess::Any), 2 => Just(Guess::Absent), 3 => Just(Guess::Right), 1 => Just(Guess::Wrong)]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let prefix = 0..PREFIXES.len();
    let one = (key.clone(), guess(), proptest::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        8 => (key.clone(), guess(), any::<u8>()).prop_map(|(key, expect, value)| Step::Put { key, expect, value }),
        3 => (key.clone(), guess()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        2 => proptest::collection::vec(one, 1..12).prop_map(Step::Burst),
        6 => (prefix.clone(), 0u64..12, proptest::option::of(key), proptest::option::of(0usize..5))
            .prop_map(|(prefix, back, after, limit)| Step::List { prefix, back, after, limit }),
        2 => (prefix, 0u64..12).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0u64..12).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Restart),
        2 => Just(Step::Drain),
    ]
}

#[derive(Default)]
struct Model {
    /// What happened at revision index + 1.
    events: Vec<(Arc<str>, Option<KeyValue>, Option<KeyValue>)>,
    oldest: u64,
}

impl Model {
    fn revision(&self) -> u64 {
        self.events.len() as u64
    }

    fn at(&self, revision: u64) -> BTreeMap<Arc<str>, KeyValue> {
        let mut state = BTreeMap::new();
        for (key, current, _) in &self.events[..revision as usize] {
            match current {
                Some(current) => state.insert(Arc::clone(key), current.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    fn expect(&self, key: &str, guess: Guess) -> Expect {
        let modified = self.at(self.revision()).get(key).map(|kv| kv.modified);
        match guess {
            Guess::Any => Expect::Any,
            Guess::Absent => Expect::Absent,
            Guess::Right => modified.map_or(Expect::Absent, Expect::At),
            Guess::Wrong => Expect::At(Revision(self.revision() + 5)),
        }
    }

    /// What the write should answer.
    fn write(&mut self, write: &Write) -> Result<KeyValue, Option<KeyValue>> {
        let previous = self.at(self.revision()).get(&write.key).cloned();
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => previous.is_none(),
            Expect::At(revision) => previous.as_ref().is_some_and(|previous| previous.modified == revision),
        };
        let revision = Revision(self.revision() + 1);
        let current = match &write.change {
            Change::Put(value) => Some(KeyValue {
                key: Arc::clone(&write.key),
                value: value.clone(),
                created: previous.as_ref().map_or(revision, |previous| previous.created),
                modified: revision,
            }),
            Change::Delete => None,
        };
        let answer = match (&current, &previous) {
            (Some(current), _) => current.clone(),
            (None, Some(previous)) => KeyValue { modified: revision, ..previous.clone() },
            (None, None) => return Err(None),
        };
        if !holds {
            return Err(previous);
        }
        self.events.push((Arc::clone(&write.key), current, previous));
        Ok(answer)
    }
}

struct Watched {
    stream: WatchStream,
    prefix: &'static str,
    /// Every matching event up to here was read.
    cursor: u64,
}

fn check_write(answer: Result<KeyValue, WriteError>, expected: Result<KeyValue, Option<KeyValue>>) {
    match (answer, expected) {
        (Ok(written), Ok(expected)) => assert_eq!(written, expected),
        (Err(WriteError::Mismatch { current, .. }), Err(expected)) => assert_eq!(current, expected),
        (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
    }
}

/// Reads a watch until it has had everything; false when it ended because it was overtaken by compaction.
async fn drain(model: &Model, watched: &mut Watched) -> bool {
    let mut expected: Vec<u64> = (watched.cursor + 1..=model.revision())
        .filter(|revision| model.events[*revision as usize - 1].0.starts_with(watched.prefix))
        .rev()
        .collect();
    while let Some(next) = expected.last().copied() {
        match item(&mut watched.stream).await {
            Ok(WatchItem::Event(event)) => {
                assert_eq!(event.revision.0, next);
                let (key, current, previous) = &model.events[next as usize - 1];
                assert_eq!((&event.key, &event.current, &event.previous), (key, current, previous));
                expected.pop();
                watched.cursor = next;
            }
            Ok(WatchItem::Progress(Revision(through))) => {
                assert!(through < next, "progress to {through} without event {next}");
                assert!(through >= watched.cursor);
            }
            Err(WatchError::Lagged { last }) => {
                assert!(last.0 < model.oldest && last.0 >= watched.cursor && last.0 < next);
                return false;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    true
}

async fn play(fixture: &mut Fixture, steps: Vec<Step>) {
    let mut model = Model::default();
    let mut watches: Vec<Watched> = Vec::new();
    for step in steps {
        if matches!(step, Step::Restart) {
            watches.clear();
            fixture.restart().await;
        }
        let store: &dyn Store = &*fixture.store;
        match step {
            Step::Put { key, expect, value } => {
                let (key, expect) = (KEYS[key], model.expect(KEYS[key], expect));
                // Of very different lengths.
                let value = Bytes::from(vec![value; usize::from(value) * 20]);
                let write = Write { key: key.into(), expect, change: Change::Put(value) };
                check_write(store.write(write.clone()).await, model.write(&write));
            }
            Step::Delete { key, expect } => {
                let expect = model.expect(KEYS[key], expect);
                let write = Write { key: KEYS[key].into(), expect, change: Change::Delete };
                check_write(store.write(write.clone()).await, model.write(&write));
            }
            Step::Burst(changes) => {
                let writes: Vec<Write> = changes
                    .into_iter()
                    .map(|(key, guess, value)| Write {
                        key: KEYS[key].into(),
                        expect: model.expect(KEYS[key], guess),
                        change: value.map_or(Change::Delete, |value| Change::Put(Bytes::from(vec![value; 10]))),
                    })
                    .collect();
                // Polled in order, so they are queued in order.
                let attempts = writes.iter().map(|write| store.write(write.clone()));
                let answers = if is_ordered(store) {
                    futures::future::join_all(attempts).await
                } else {
                    futures::stream::iter(attempts).then(|attempt| attempt).collect().await
                };
                for (write, answer) in writes.iter().zip(answers) {
                    check_write(answer, model.write(write));
                }
            }
            Step::List { prefix, back, after, limit } => list(store, &model, prefix, back, after, limit).await,
            Step::Watch { prefix, back } => {
                let prefix = PREFIXES[prefix];
                let from = model.revision().saturating_sub(back);
                match store.watch(prefix, Revision(from)).await {
                    Ok(stream) => {
                        assert!(from >= model.oldest);
                        watches.push(Watched { stream, prefix, cursor: from });
                    }
                    Err(ReadError::Compacted { requested, oldest }) => {
                        assert!(from < model.oldest);
                        assert_eq!((requested.0, oldest.0), (from, model.oldest));
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            Step::Compact { back } => {
                let to = model.revision().saturating_sub(back);
                store.compact(Revision(to)).await.unwrap();
                model.oldest = model.oldest.max(to);
            }
            Step::Restart => store.health().await.unwrap(),
            Step::Drain => {
                let mut left = Vec::new();
                for mut watched in watches.drain(..) {
                    if drain(&model, &mut watched).await {
                        left.push(watched);
                    }
                }
                watches = left;
            }
        }
        assert_eq!(fixture.store.revision().0, model.revision());
        assert_eq!(fixture.store.oldest().0, model.oldest);
    }
    for mut watched in watches {
        drain(&model, &mut watched).await;
    }
    fixture.verify().await;
}

async fn list(store: &dyn Store, model: &Model, prefix: usize, back: u64, after: Option<usize>, limit: Option<usize>) {
    let prefix = PREFIXES[prefix];
    let at = model.revision().saturating_sub(back);
    let range = Range {
        prefix: prefix.to_owned(),
        after: after.map(|key| KEYS[key].into()),
        at: (back > 0).then_some(Revision(at)),
        limit,
    };
    let page = match store.list(range.clone()).await {
        Ok(page) => page,
        Err(ReadError::Compacted { .. }) if at < model.oldest => return,
        Err(error) => panic!("{range:?}: {error:?}"),
    };
    assert!(at >= model.oldest);
    let expected: Vec<KeyValue> = model
        .at(at)
        .into_values()
        .filter(|kv| kv.key.starts_with(prefix) && after.is_none_or(|after| *kv.key > *KEYS[after]))
        .collect();
    let shown = limit.unwrap_or(usize::MAX).min(expected.len());
    assert_eq!(page.items, expected[..shown], "{range:?}");
    assert_eq!(page.revision, Revision(at));
    assert_eq!(page.remaining, limit.map(|_| (expected.len() - shown) as u64));
    assert_eq!(page.more, shown < expected.len());
    if let Some(kv) = expected.first()
        && back == 0
    {
        assert_eq!(store.get(&kv.key).await.unwrap(), (Some(kv.clone()), Revision(at)));
    }
}

pub fn check(kind: Kind) {
    if !kind.is_here() {
        return;
    }
    let cases = match kind {
        Kind::Memory => 200,
        Kind::Redb | Kind::RedbTiny => 40,
        // Each starts an etcd.
        Kind::Etcd | Kind::EtcdTiny => 8,
    };
    let config =
        ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..60), |steps| {
            block_on(async {
                let mut fixture = Fixture::new(kind).await;
                play(&mut fixture, steps).await;
            });
            Ok(())
        })
        .unwrap();
}
