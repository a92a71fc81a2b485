//! The verifier's counts of instructions, against the table in docs/ebpf.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ebpf.md");
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs");

/// The kernel's version and clang's major one that the table was made with: "Recorded with Linux `<version>`, clang `<major>`."
fn recorded_with(text: &str) -> (&str, &str) {
    let line = text.lines().find_map(|line| line.strip_prefix("Recorded with Linux `")).unwrap();
    let (release, rest) = line.split_once('`').unwrap();
    let (major, _) = rest.strip_prefix(", clang `").unwrap().split_once('`').unwrap();
    (release, major)
}

/// Of the clang that `build.rs` uses.
fn clang_major() -> Option<String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let output = Command::new(clang).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, version) = text.split_once("clang version ")?;
    Some(version.split('.').next()?.to_owned())
}

/// The functions behind a section of their own.
fn programs(source: &str) -> BTreeSet<&str> {
    let heads = source.lines().zip(source.lines().skip(1)).filter(|(section, _)| section.starts_with("SEC(\""));
    heads.filter_map(|(_, head)| head.strip_prefix("int ")?.split('(').next()).collect()
}

/// Within a tenth of the table where kernel and compiler are the table's, else below three times of it.
pub fn compare<'a>(object: &str, measured: impl IntoIterator<Item = (&'a str, u32)>) {
    let text = std::fs::read_to_string(DOCS).unwrap();
    let (release, major) = recorded_with(&text);
    let (uname, compiler) = (nix::sys::utsname::uname().unwrap(), clang_major().unwrap_or_default());
    // Builds of one version count alike.
    let here = uname.release().to_string_lossy();
    let here = here.split('-').next().unwrap_or_default();
    let same = here == release && compiler == major;
    if !same {
        println!(
            "skipped: a tenth around docs/ebpf.md: it is Linux {release}, clang {major}, this Linux {here}, clang {compiler}"
        );
    }
    let measured: BTreeMap<&str, u32> = measured.into_iter().collect();
    let rows = text.lines().filter_map(|line| line.strip_prefix(&format!("| {object} | `"))?.split('`').next());
    let recorded: BTreeSet<&str> = rows.collect();
    let source = std::fs::read_to_string(format!("{PROGRAMS}/{object}.bpf.c")).unwrap();
    assert_eq!(recorded, programs(&source), "docs/ebpf.md has a row for each program of {object}.bpf.c");
    // Another kernel may lack what an optional program hangs on.
    assert!(
        !same || recorded.iter().eq(measured.keys()),
        "loaded are {:?}, docs/ebpf.md has {recorded:?}",
        measured.keys()
    );
    for (program, count) in measured {
        println!("| {object} | `{program}` | {count} |");
        let row = text.lines().find_map(|line| line.strip_prefix(&format!("| {object} | `{program}` | ")));
        let row = row.unwrap_or_else(|| panic!("docs/ebpf.md has no row for {program}: {count}"));
        let limit: u32 = row.trim_end_matches([' ', '|']).parse().unwrap();
        assert!(count <= 3 * limit, "{program} costs {count}, docs/ebpf.md says {limit}");
        let tenth = limit - limit / 10..=limit + limit / 10;
        assert!(!same || tenth.contains(&count), "{program} costs {count}, docs/ebpf.md says {limit}: record it");
    }
}
