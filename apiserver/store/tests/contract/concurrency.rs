//! The promises under many writers, readers and watches at once.

use std::sync::Arc;

use pullpiri_store::{Expect, Range, Revision, Store, WriteError};
use tokio::task::JoinSet;

use crate::fixture::{event, put};

type S = Arc<dyn Store>;

async fn all<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.unwrap());
    }
    results
}

pub async fn compare_and_set_loses_no_increment(store: S) {
    let (writers, each) = (8, 25);
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut done = 0;
            let mut seen = store.get("n").await.unwrap().0;
            while done < each {
                let value: u64 = seen.as_ref().map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap());
                let expect = seen.as_ref().map_or(Expect::Absent, |kv| Expect::At(kv.modified));
                seen = match store.write(put("n", expect, (value + 1).to_string())).await {
                    Ok(written) => {
                        done += 1;
                        Some(written)
                    }
                    Err(WriteError::Mismatch { current, .. }) => current,
                    Err(error) => panic!("{error}"),
                };
            }
        });
    }
    all(tasks).await;
    let (found, revision) = store.get("n").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().value), (writers * each).to_string());
    assert_eq!(revision, Revision(writers * each));
}

/// Creates `each` keys of its own per writer; with nothing else written, the store at revision R has exactly R keys.
fn creators(store: &S, writers: u64, each: u64) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut last = Revision(0);
            for index in 0..each {
                let written = store.write(put(&format!("k/{writer}/{index}"), Expect::Absent, "x")).await.unwrap();
                assert!(written.modified > last, "a later write has a later revision");
                last = written.modified;
            }
        });
    }
    tasks
}

pub async fn readers_see_prefixes_of_the_history(store: S) {
    let writers = creators(&store, 8, 60);
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let store = Arc::clone(&store);
        readers.spawn(async move {
            let mut last = Revision(0);
            while last < Revision(480) {
                let page = store.list(Range { prefix: "k/".to_owned(), ..Range::default() }).await.unwrap();
                assert!(page.revision >= last, "time doesn't go back");
                assert!(store.revision() >= page.revision);
                assert_eq!(page.items.len() as u64, page.revision.0);
                let mut revisions: Vec<u64> = page.items.iter().map(|kv| kv.modified.0).collect();
                revisions.sort_unstable();
                assert!(revisions.iter().copied().eq(1..=page.revision.0), "dense");
                // Of one writer's keys, a prefix.
                for writer in 0..8 {
                    let prefix = format!("k/{writer}/");
                    let mut mine: Vec<u64> = page
                        .items
                        .iter()
                        .filter_map(|kv| kv.key.strip_prefix(&prefix))
                        .map(|index| index.parse().unwrap())
                        .collect();
                    mine.sort_unstable();
                    assert!(mine.iter().copied().eq(0..mine.len() as u64));
                }
                // The past doesn't change.
                if page.revision.0 > 10 {
                    let at = Revision(page.revision.0 - 10);
                    let past = Range { prefix: "k/".to_owned(), at: Some(at), ..Range::default() };
                    assert_eq!(store.list(past).await.unwrap().items.len() as u64, at.0);
                }
                last = page.revision;
                tokio::task::yield_now().await;
            }
        });
    }
    all(writers).await;
    all(readers).await;
}

pub async fn watches_see_the_same_dense_history(store: S) {
    let mut watches = JoinSet::new();
    for _ in 0..4 {
        let mut watch = store.watch("k/", Revision(0)).await.unwrap();
        watches.spawn(async move {
            let mut seen = Vec::new();
            for expected in 1..=400 {
                let event = event(&mut watch).await;
                assert_eq!(event.revision.0, expected);
                seen.push(event.key.to_string());
            }
            seen
        });
    }
    let writers = creators(&store, 8, 50);
    // And some that join in the middle, where the seam between log and ring is.
    let mut late = JoinSet::new();
    for start in 1..20u64 {
        let store = Arc::clone(&store);
        late.spawn(async move {
            while store.revision().0 < start * 15 {
                tokio::task::yield_now().await;
            }
            let from = store.revision().0.saturating_sub(start);
            let mut watch = store.watch("k/", Revision(from)).await.unwrap();
            for expected in from + 1..=400 {
                assert_eq!(event(&mut watch).await.revision.0, expected);
            }
        });
    }
    all(writers).await;
    let histories = all(watches).await;
    assert!(histories.iter().all(|history| *history == histories[0]));
    all(late).await;
}

pub async fn pages_are_consistent_under_writes(store: S) {
    let writers = creators(&store, 4, 100);
    loop {
        let mut seen = 0;
        let mut next = Range { prefix: "k/".to_owned(), limit: Some(7), ..Range::default() };
        let revision = loop {
            let page = store.list(next.clone()).await.unwrap();
            seen += page.items.len() as u64;
            assert_eq!(page.remaining, Some(page.revision.0 - seen));
            assert!(next.at.is_none_or(|at| at == page.revision));
            if !page.more {
                break page.revision;
            }
            next.after = page.items.last().map(|kv| Arc::clone(&kv.key));
            next.at = Some(page.revision);
        };
        assert_eq!(seen, revision.0);
        if revision.0 == 400 {
            break;
        }
        tokio::task::yield_now().await;
    }
    all(writers).await;
}

pub async fn one_of_many_creators_wins(store: S) {
    for round in 0..10 {
        let mut tasks = JoinSet::new();
        for creator in 0..16 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let write = put(&format!("k{round}"), Expect::Absent, creator.to_string());
                match store.write(write).await {
                    Ok(written) => Ok(written),
                    Err(WriteError::Mismatch { current, .. }) => Err(current),
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let results = all(tasks).await;
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1);
        for found in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(found.as_ref(), Some(winners[0]), "the losers are shown the winner");
        }
    }
    assert_eq!(store.revision(), Revision(10));
}
