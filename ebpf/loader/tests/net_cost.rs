//! The verifier's count of instructions for each program, against the table in docs/ebpf.md.
//!
//! The count is the verifier's measure of complexity and of loading time; a million is the limit. It depends on the compiler and the kernel a little: a
//! program may cost a tenth more than the table says. One that costs half is recorded anew, or the table would allow what it shouldn't.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod net_support;

use std::collections::BTreeMap;

use net_support::Fixture;

/// Rows of the table: `| pharos | pod_egress | 12345 |`.
fn recorded() -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ebpf.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, "pharos", program, count, _] = cells.as_slice() else { return None };
        Some(((*program).to_owned(), count.replace(',', "").parse().unwrap()))
    });
    rows.collect()
}

#[test]
fn programs_cost_what_is_recorded() {
    let Some(mut fixture) = Fixture::new() else { return };
    let measured = fixture.get().verified_instructions().unwrap();
    if measured.values().all(|count| *count == 0) {
        println!("skipped: this kernel doesn't count (before 5.16)");
        return;
    }
    let recorded = recorded();
    for (program, count) in measured {
        println!("| pharos | `{program}` | {count} |");
        let limit = recorded.get(program).unwrap_or_else(|| panic!("docs/ebpf.md has no row for {program}: {count}"));
        assert!(count <= limit + limit / 10, "{program} costs {count}, docs/ebpf.md says {limit}");
        assert!(count >= limit / 2, "{program} costs {count} only: record it in docs/ebpf.md");
    }
}
