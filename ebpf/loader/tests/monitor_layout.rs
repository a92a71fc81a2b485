//! The Rust mirror of monitor.h against what a C compiler makes of it.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

use pullpiri_ebpf::monitor::layout::{self, RawEvent, RawTask, RawWatch};

#[test]
fn rust_and_c_agree() {
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/monitor.h");
    let mut lines = Vec::new();
    macro_rules! field {
        ($rust:ty, $c:literal, $($field:ident),+) => {
            lines.push((format!("sizeof(struct {})", $c), size_of::<$rust>()));
            $(lines.push((format!("offsetof(struct {}, {})", $c, stringify!($field)), offset_of!($rust, $field)));)+
        };
    }
    field!(RawWatch, "pp_watch", cookie, deadline_ns, wcet_ns, period_ns, min_interarrival_ns, pid, reserved);
    field!(
        RawTask,
        "pp_task",
        job,
        release_ns,
        due_ns,
        on_cpu_ns,
        exec_ns,
        jobs,
        misses,
        overruns,
        back_to_back,
        skipped,
        continued,
        max_response_ns,
        max_exec_ns,
        last_response_ns,
        last_exec_ns,
        total_exec_ns,
        base_exec_ns,
        base_delay_ns,
        unseen,
        last_bucket,
        last_skipped,
        unseen_release,
        based,
        histogram
    );
    field!(
        RawEvent,
        "pp_event",
        kind,
        flags,
        pid,
        tgid,
        parent_tgid,
        reserved,
        cookie,
        job,
        release_ns,
        due_ns,
        exec_ns,
        reported_ns,
        comm
    );
    let mut constant = |name: &str, value: u64| lines.push((name.to_owned(), usize::try_from(value).unwrap()));
    constant("PP_SLOTS", layout::SLOTS.into());
    constant("PP_FILTER_WORDS", layout::FILTER_WORDS.into());
    constant("PP_BUCKETS", u64::try_from(layout::BUCKETS).unwrap());
    constant("PP_COMM", u64::try_from(layout::COMM).unwrap());
    constant("PP_JOB_ACTIVE", layout::JOB_ACTIVE);
    constant("PP_JOB_MISSED", layout::JOB_MISSED);
    constant("PP_JOB_OVERRAN", layout::JOB_OVERRAN);
    constant("PP_JOB_SHIFT", layout::JOB_SHIFT.into());
    constant("PP_COUNT_EVENTS_LOST", layout::COUNT_EVENTS_LOST.into());
    constant("PP_COUNT_FOLLOWS_LOST", layout::COUNT_FOLLOWS_LOST.into());
    constant("PP_COUNT_JOBS_LOST", layout::COUNT_JOBS_LOST.into());
    constant("PP_COUNT_TIMERS", layout::COUNT_TIMERS.into());
    constant("PP_EVENT_MISS", layout::EVENT_MISS.into());
    constant("PP_EVENT_OVERRUN", layout::EVENT_OVERRUN.into());
    constant("PP_EVENT_FORK", layout::EVENT_FORK.into());
    constant("PP_EVENT_EXEC", layout::EVENT_EXEC.into());
    constant("PP_EVENT_RENAME", layout::EVENT_RENAME.into());
    constant("PP_EVENT_EXIT", layout::EVENT_EXIT.into());
    constant("PP_FLAG_RUNNING", layout::FLAG_RUNNING.into());
    constant("PP_FLAG_GROUP_DEAD", layout::FLAG_GROUP_DEAD.into());

    let mut program = format!("#include <stddef.h>\n#include \"{header}\"\n");
    for (expression, value) in &lines {
        writeln!(program, "_Static_assert(({expression}) == {value}, \"Rust has {value} for {expression}\");").unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("layout.c");
    std::fs::write(&source, program).unwrap();
    match Command::new("cc").args(["-std=c11", "-fsyntax-only"]).arg(&source).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("skipped: no C compiler: {error}"),
    }
}
