//! One promise per function.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use pullpiri_store::{Expect, Range, ReadError, Revision, Store, WatchError, WatchItem};

use crate::fixture::{delete, event, events, item, names, progress, put, refused, remove, set, set_all};

type S = Arc<dyn Store>;

fn range(prefix: &str) -> Range {
    Range { prefix: prefix.to_owned(), ..Range::default() }
}

pub async fn an_empty_store_is_at_revision_zero(store: S) {
    assert_eq!(store.revision(), Revision(0));
    assert_eq!(store.oldest(), Revision(0));
    assert_eq!(store.get("a").await.unwrap(), (None, Revision(0)));
    let page = store.list(range("")).await.unwrap();
    assert_eq!((page.items.len(), page.revision, page.more, page.remaining), (0, Revision(0), false, None));
    store.health().await.unwrap();
}

pub async fn revisions_are_dense_and_a_refused_write_uses_none(store: S) {
    for revision in 1..=20 {
        assert_eq!(set(&*store, &format!("k{}", revision % 3), "v").await.modified, Revision(revision));
        refused(&*store, put("k0", Expect::At(Revision(999)), "x")).await;
        refused(&*store, delete("nothing", Expect::Any)).await;
        assert_eq!(store.revision(), Revision(revision));
    }
    assert_eq!(remove(&*store, "k0").await.modified, Revision(21));
}

pub async fn expectations_are_checked(store: S) {
    assert_eq!(refused(&*store, put("a", Expect::At(Revision(1)), "x")).await, None);
    assert_eq!(refused(&*store, delete("a", Expect::Absent)).await, None);
    let first = store.write(put("a", Expect::Absent, "1")).await.unwrap();
    assert_eq!(
        (&*first.key, &*first.value, first.created, first.modified),
        ("a", b"1".as_slice(), Revision(1), Revision(1))
    );
    assert_eq!(refused(&*store, put("a", Expect::Absent, "x")).await, Some(first.clone()));
    let second = store.write(put("a", Expect::At(Revision(1)), "2")).await.unwrap();
    assert_eq!((second.created, second.modified), (Revision(1), Revision(2)));
    assert_eq!(refused(&*store, put("a", Expect::At(Revision(1)), "x")).await, Some(second.clone()));
    assert_eq!(refused(&*store, delete("a", Expect::At(Revision(1)))).await, Some(second.clone()));
    assert_eq!(refused(&*store, delete("a", Expect::Absent)).await, Some(second.clone()));
    let gone = store.write(delete("a", Expect::At(Revision(2)))).await.unwrap();
    assert_eq!((gone.created, gone.modified, &*gone.value), (Revision(1), Revision(3), b"2".as_slice()));
    assert_eq!(refused(&*store, delete("a", Expect::Any)).await, None);
    assert_eq!(refused(&*store, put("a", Expect::At(Revision(3)), "x")).await, None);
    let error = store.write(put("b", Expect::At(Revision(7)), "x")).await.unwrap_err();
    assert_eq!(error.to_string(), "precondition failed for b: expected At(Revision(7)), found nothing");
}

pub async fn a_deleted_key_comes_back_as_a_new_one(store: S) {
    set(&*store, "a", "1").await;
    remove(&*store, "a").await;
    assert_eq!(store.get("a").await.unwrap(), (None, Revision(2)));
    let again = store.write(put("a", Expect::Absent, "2")).await.unwrap();
    assert_eq!((again.created, again.modified), (Revision(3), Revision(3)));
    assert_eq!(store.get("a").await.unwrap(), (Some(again), Revision(3)));
}

pub async fn lists_are_ordered_bytewise_and_bounded_by_the_prefix(store: S) {
    for key in ["b/2", "a", "b/10", "b", "é", "b/1", "c", "B/1", "b/", "\u{10ffff}", "b0"] {
        set(&*store, key, "").await;
    }
    let listed = |prefix: &'static str| {
        let store = Arc::clone(&store);
        async move { names(&*store, prefix, None).await.join(" ").replace('=', "") }
    };
    assert_eq!(listed("").await, "B/1 a b b/ b/1 b/10 b/2 b0 c é \u{10ffff}");
    assert_eq!(listed("b/").await, "b/ b/1 b/10 b/2");
    assert_eq!(listed("\u{10ffff}").await, "\u{10ffff}");
    assert_eq!(listed("zzz").await, "");
    let after = Range { after: Some("b/1".into()), ..range("b/") };
    let page = store.list(after).await.unwrap();
    assert_eq!(page.items.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["b/10", "b/2"]);
    // A key before the range is no bound at all; one behind it leaves nothing.
    let before = store.list(Range { after: Some("a".into()), ..range("b/") }).await.unwrap();
    assert_eq!(before.items.len(), 4);
    let behind = store.list(Range { after: Some("c".into()), ..range("b/") }).await.unwrap();
    assert_eq!(behind.items.len(), 0);
}

pub async fn pages_add_up_to_the_whole(store: S) {
    for index in 0..23 {
        set(&*store, &format!("k/{index:02}"), &index.to_string()).await;
    }
    set(&*store, "l", "").await;
    let whole = store.list(range("k/")).await.unwrap();
    for limit in [1, 2, 7, 22, 23, 24, 100] {
        let mut seen = Vec::new();
        let mut next = Range { limit: Some(limit), ..range("k/") };
        loop {
            let page = store.list(next.clone()).await.unwrap();
            seen.extend(page.items.iter().cloned());
            assert_eq!(page.revision, Revision(24));
            assert_eq!(page.remaining, Some(23 - seen.len() as u64), "limit {limit}");
            assert_eq!(page.more, seen.len() < 23);
            if !page.more {
                break;
            }
            assert_eq!(page.items.len(), limit);
            next.after = page.items.last().map(|kv| Arc::clone(&kv.key));
            next.at = Some(page.revision);
        }
        assert_eq!(seen, whole.items, "limit {limit}");
    }
    assert_eq!(whole.remaining, None, "not counted without a limit");
}

pub async fn pages_stay_at_their_revision(store: S) {
    for key in ["a", "b", "c", "d", "e"] {
        set(&*store, key, "old").await;
    }
    let first = store.list(Range { limit: Some(2), ..range("") }).await.unwrap();
    assert_eq!(first.remaining, Some(3));
    set(&*store, "c", "new").await;
    remove(&*store, "d").await;
    set(&*store, "cc", "new").await;
    set(&*store, "d", "back").await;
    remove(&*store, "e").await;
    let rest = Range { after: Some("b".into()), at: Some(first.revision), limit: Some(2), ..range("") };
    let second = store.list(rest).await.unwrap();
    assert_eq!(second.revision, Revision(5));
    assert_eq!(second.remaining, Some(1));
    assert_eq!(
        second.items.iter().map(|kv| (&*kv.key, &*kv.value)).collect::<Vec<_>>(),
        [("c", b"old".as_slice()), ("d", b"old".as_slice())]
    );
}

pub async fn the_past_is_readable_until_compaction(store: S) {
    set(&*store, "a", "1").await;
    set(&*store, "b", "1").await;
    set(&*store, "a", "2").await;
    remove(&*store, "b").await;
    set(&*store, "b", "2").await;
    let history: [&[&str]; 6] = [&[], &["a=1"], &["a=1", "b=1"], &["a=2", "b=1"], &["a=2"], &["a=2", "b=2"]];
    for (at, expected) in history.iter().enumerate() {
        assert_eq!(names(&*store, "", Some(at as u64)).await, *expected, "at {at}");
    }
    for to in 0..=5 {
        store.compact(Revision(to)).await.unwrap();
        assert_eq!(store.oldest(), Revision(to));
        for (at, expected) in history.iter().enumerate() {
            let at = at as u64;
            if at >= to {
                assert_eq!(names(&*store, "", Some(at)).await, *expected, "at {at} after compaction to {to}");
            } else {
                let error = store.list(Range { at: Some(Revision(at)), ..range("") }).await.unwrap_err();
                assert!(
                    matches!(error, ReadError::Compacted { requested, oldest } if requested.0 == at && oldest.0 == to),
                    "{error:?}"
                );
            }
        }
    }
    // Going back is nothing.
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(store.oldest(), Revision(5));
}

pub async fn the_future_is_not_readable(store: S) {
    set(&*store, "a", "1").await;
    let list = store.list(Range { at: Some(Revision(2)), ..range("") }).await.unwrap_err();
    assert_eq!(list.to_string(), "revision 2 is in the future; the store is at 1");
    let Err(watch) = store.watch("", Revision(2)).await else { panic!("a watch from the future") };
    assert!(matches!(watch, ReadError::Future { .. }), "{watch:?}");
    let compact = store.compact(Revision(2)).await.unwrap_err();
    assert!(matches!(compact, ReadError::Future { .. }), "{compact:?}");
}

pub async fn compaction_keeps_the_present(store: S) {
    for round in 0..10 {
        for key in 0..30 {
            set(&*store, &format!("k{key:02}"), &format!("{round}")).await;
        }
        remove(&*store, "k07").await;
    }
    let before = store.list(range("")).await.unwrap();
    store.compact(store.revision()).await.unwrap();
    assert_eq!(store.list(range("")).await.unwrap().items, before.items);
    assert_eq!(store.revision(), before.revision);
    assert_eq!(store.get("k07").await.unwrap().0, None);
    // And life goes on.
    let next = set(&*store, "k01", "x").await;
    assert_eq!(next.created, before.items[1].created);
    assert_eq!(next.modified.0, before.revision.0 + 1);
    assert_eq!(set(&*store, "k07", "x").await.created.0, before.revision.0 + 2);
}

pub async fn a_watch_yields_every_event_after_its_revision(store: S) {
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    let created = set(&*store, "a", "1").await;
    let updated = set(&*store, "a", "2").await;
    remove(&*store, "a").await;
    let again = set(&*store, "a", "3").await;
    let seen = events(&mut watch, 4).await;
    let of = |index: usize| (seen[index].revision.0, seen[index].current.clone(), seen[index].previous.clone());
    assert_eq!(of(0), (1, Some(created.clone()), None));
    assert_eq!(of(1), (2, Some(updated.clone()), Some(created)));
    assert_eq!(of(2), (3, None, Some(updated)));
    assert_eq!(of(3), (4, Some(again), None));
    assert!(seen.iter().all(|event| &*event.key == "a"));
}

pub async fn a_watch_sees_only_its_prefix(store: S) {
    let mut mine = store.watch("a/", Revision(0)).await.unwrap();
    let mut all = store.watch("", Revision(0)).await.unwrap();
    let mut none = store.watch("é", Revision(0)).await.unwrap();
    for key in ["a", "a/1", "b/1", "a/é", "aa/1", "a/", "è"] {
        set(&*store, key, "").await;
    }
    let keys: Vec<String> = events(&mut mine, 3).await.iter().map(|event| event.key.to_string()).collect();
    assert_eq!(keys, ["a/1", "a/é", "a/"]);
    assert_eq!(
        events(&mut all, 7).await.iter().map(|event| event.revision.0).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7]
    );
    progress(&mut none, 7).await;
}

pub async fn a_watch_can_start_at_any_readable_revision(store: S) {
    for index in 0..40 {
        set(&*store, &format!("{}/{}", index % 2, index % 5), &index.to_string()).await;
    }
    store.compact(Revision(10)).await.unwrap();
    for from in 10..=40 {
        let mut watch = store.watch("0/", Revision(from)).await.unwrap();
        let expected: Vec<u64> = (from + 1..=40).filter(|revision| revision % 2 == 1).collect();
        let seen = events(&mut watch, expected.len()).await;
        assert_eq!(seen.iter().map(|event| event.revision.0).collect::<Vec<_>>(), expected, "from {from}");
        for event in &seen {
            let value = (event.revision.0 - 1).to_string();
            assert_eq!(event.current.as_ref().unwrap().value, Bytes::from(value));
            let previous = event.previous.as_ref().map(|previous| previous.modified.0);
            assert_eq!(previous, event.revision.0.checked_sub(10).filter(|previous| *previous > 0));
        }
        progress(&mut watch, 40).await;
    }
}

pub async fn a_watch_tells_progress(store: S) {
    set(&*store, "a", "1").await;
    let mut watch = store.watch("b", Revision(0)).await.unwrap();
    // Right after the backlog, though there is nothing for it.
    assert!(matches!(item(&mut watch).await.unwrap(), WatchItem::Progress(Revision(1))));
    for _ in 0..5 {
        set(&*store, "a", "x").await;
    }
    progress(&mut watch, 6).await;
    set(&*store, "b", "x").await;
    assert_eq!(event(&mut watch).await.revision, Revision(7));
    set(&*store, "a", "x").await;
    progress(&mut watch, 8).await;
}

pub async fn a_watch_before_compaction_is_refused(store: S) {
    for _ in 0..5 {
        set(&*store, "a", "x").await;
    }
    store.compact(Revision(3)).await.unwrap();
    let Err(error) = store.watch("a", Revision(2)).await else { panic!("a watch of what is gone") };
    assert_eq!(error.to_string(), "revision 2 was compacted; the oldest readable revision is 3");
    let mut watch = store.watch("a", Revision(3)).await.unwrap();
    assert_eq!(event(&mut watch).await.revision, Revision(4));
}

pub async fn a_slow_watch_holds_up_nobody_and_misses_nothing(store: S) {
    let mut slow = store.watch("s/", Revision(0)).await.unwrap();
    let key = |index: u64| if index.is_multiple_of(2) { format!("s/{}", index % 10) } else { "t".to_owned() };
    set_all(&*store, (0..40).map(key)).await;
    assert_eq!(event(&mut slow).await.revision, Revision(1));
    // More than any buffer of these stores holds.
    set_all(&*store, (40..5000).map(key)).await;
    for expected in (3..=4999).step_by(2) {
        assert_eq!(event(&mut slow).await.revision, Revision(expected));
    }
    progress(&mut slow, 5000).await;
    set(&*store, "s/1", "x").await;
    assert_eq!(event(&mut slow).await.revision, Revision(5001));
}

pub async fn an_overtaken_watch_ends_with_lagged(store: S) {
    let mut watch = store.watch("a", Revision(0)).await.unwrap();
    set_all(&*store, (0..9000).map(|_| "a".to_owned())).await;
    store.compact(Revision(9000)).await.unwrap();
    let mut expected = 1;
    let last = loop {
        match item(&mut watch).await {
            Ok(WatchItem::Event(event)) => {
                assert_eq!(event.revision.0, expected);
                expected += 1;
            }
            Ok(WatchItem::Progress(_)) => {}
            Err(WatchError::Lagged { last }) => break last,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(last.0, expected - 1, "every event up to there was delivered");
    assert!(watch.next().await.is_none(), "it stays ended");
}

pub async fn what_was_written_is_readable_at_once(store: S) {
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    for index in 1..=200u64 {
        let written = set(&*store, &format!("k{}", index % 7), &index.to_string()).await;
        assert!(store.revision() >= written.modified);
        let (found, at) = store.get(&written.key).await.unwrap();
        assert_eq!((found.as_ref(), at), (Some(&written), written.modified));
        let page = store.list(range(&written.key)).await.unwrap();
        assert_eq!((page.items.last(), page.revision), (Some(&written), written.modified));
        assert_eq!(event(&mut watch).await.revision.0, index);
    }
}

pub async fn odd_keys_and_values_come_back(store: S) {
    let long = "k".repeat(5000);
    let big = vec![7u8; 2 << 20];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("", vec![]),
        ("\0", vec![0]),
        ("a\0b", vec![0, 255, 0]),
        ("日本語/ß", "ü".into()),
        (&long, vec![1; 3000]),
        ("big", big),
    ];
    for (key, value) in &cases {
        store.write(put(key, Expect::Absent, value.clone())).await.unwrap();
    }
    for (key, value) in &cases {
        let (found, _) = store.get(key).await.unwrap();
        assert_eq!(found.unwrap().value, *value, "{key:.20}");
        store.write(put(key, Expect::Any, value.clone())).await.unwrap();
    }
    assert_eq!(store.list(range("")).await.unwrap().items.len(), cases.len());
    let old = store.list(Range { at: Some(Revision(6)), ..range("") }).await.unwrap();
    assert_eq!(old.items.len(), cases.len());
    assert!(old.items.iter().all(|kv| kv.modified == kv.created));
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    assert_eq!(events(&mut watch, 12).await[11].current.as_ref().unwrap().value.len(), 2 << 20);
    store.compact(Revision(12)).await.unwrap();
    for (key, _) in &cases {
        store.write(delete(key, Expect::Any)).await.unwrap();
    }
    assert_eq!(store.list(range("")).await.unwrap().items.len(), 0);
}

pub async fn a_dropped_watch_is_forgotten(store: S) {
    for index in 0..50 {
        let mut first = store.watch("a/", Revision(index)).await.unwrap();
        let second = store.watch("a/", Revision(index)).await.unwrap();
        set(&*store, "a/1", "x").await;
        drop(second);
        assert_eq!(event(&mut first).await.revision.0, index + 1);
    }
}
