//! What every store promises, checked against each implementation: memory, redb, etcd, and the last two with buffers so small that
//! watches live off the history on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod behaviour;
mod concurrency;
#[path = "../etcd_cluster/mod.rs"]
mod etcd_cluster;
mod fixture;
mod model;

use fixture::Kind;

/// Runs each named check of a module against each implementation, as a test of its own.
macro_rules! for_every_store {
    ($module:ident: $($check:ident),+ $(,)?) => {
        mod $module {
            $(mod $check {
                use crate::fixture::{Kind, run};

                #[test]
                fn memory() {
                    run(Kind::Memory, |store| crate::$module::$check(store));
                }

                #[test]
                fn redb() {
                    run(Kind::Redb, |store| crate::$module::$check(store));
                }

                #[test]
                fn redb_with_tiny_buffers() {
                    run(Kind::RedbTiny, |store| crate::$module::$check(store));
                }

                #[test]
                fn etcd() {
                    run(Kind::Etcd, |store| crate::$module::$check(store));
                }

                #[test]
                fn etcd_with_tiny_buffers() {
                    run(Kind::EtcdTiny, |store| crate::$module::$check(store));
                }
            })+
        }
    };
}

mod every {
    for_every_store! { behaviour:
        an_empty_store_is_at_revision_zero,
        revisions_are_dense_and_a_refused_write_uses_none,
        expectations_are_checked,
        a_deleted_key_comes_back_as_a_new_one,
        lists_are_ordered_bytewise_and_bounded_by_the_prefix,
        pages_add_up_to_the_whole,
        pages_stay_at_their_revision,
        the_past_is_readable_until_compaction,
        the_future_is_not_readable,
        compaction_keeps_the_present,
        a_watch_yields_every_event_after_its_revision,
        a_watch_sees_only_its_prefix,
        a_watch_can_start_at_any_readable_revision,
        a_watch_tells_progress,
        a_watch_before_compaction_is_refused,
        a_slow_watch_holds_up_nobody_and_misses_nothing,
        an_overtaken_watch_ends_with_lagged,
        what_was_written_is_readable_at_once,
        odd_keys_and_values_come_back,
        a_dropped_watch_is_forgotten,
    }

    for_every_store! { concurrency:
        compare_and_set_loses_no_increment,
        readers_see_prefixes_of_the_history,
        watches_see_the_same_dense_history,
        pages_are_consistent_under_writes,
        one_of_many_creators_wins,
    }
}

#[test]
fn memory_agrees_with_the_model() {
    model::check(Kind::Memory);
}

#[test]
fn redb_agrees_with_the_model() {
    model::check(Kind::Redb);
}

#[test]
fn redb_with_tiny_buffers_agrees_with_the_model() {
    model::check(Kind::RedbTiny);
}

#[test]
fn etcd_agrees_with_the_model() {
    model::check(Kind::Etcd);
}

#[test]
fn etcd_with_tiny_buffers_agrees_with_the_model() {
    model::check(Kind::EtcdTiny);
}
