//! `make bench`: measures what docs/promises.md promises, prints a table and writes target/bench.json.
//!
//! Medians of repeated runs; where two things are compared, their runs alternate and the ratio of the medians counts. Times run from a request's first
//! byte on a warm connection. With arguments, only measurements whose names contain one of them are made.

mod beside;
mod durability;
mod examples;
mod idle;
mod latency;
mod nodes;
mod operator;
mod realtime;
mod startup;
mod table;
mod writes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pullpiri_e2e::E2eError;
use table::Table;

/// What every measurement needs.
struct Bench {
    table: Table,
    /// Scratch space that goes away at the end.
    folder: tempfile::TempDir,
    only: Vec<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

async fn measure() -> Result<bool, E2eError> {
    let only = std::env::args().skip(1).collect();
    let folder = tempfile::tempdir().map_err(|error| E2eError::failed("making a scratch folder", error))?;
    let mut bench = Bench { table: Table::default(), folder, only };
    if bench.wants("binary") {
        binary_size(&mut bench.table)?;
    }
    if bench.wants("startup") {
        startup::measure(&mut bench).await?;
    }
    if bench.wants("writes") {
        writes::measure(&mut bench).await?;
    }
    if bench.wants("latency") {
        latency::measure(&mut bench).await?;
    }
    if bench.wants("operator") {
        operator::measure(&mut bench).await?;
    }
    if bench.wants(beside::STARTS_AND_WATCHES) || bench.wants(beside::FILLED) {
        beside::measure(&mut bench).await?;
    }
    if bench.wants("realtime") {
        realtime::measure(&mut bench).await?;
    }
    if bench.wants("idle") {
        idle::measure(&mut bench).await?;
    }
    if bench.wants("nodes") {
        nodes::measure(&mut bench)?;
    }
    examples::measure(&mut bench)?;
    if bench.wants("durability") {
        durability::measure(&mut bench).await?;
    }
    if bench.table.is_empty() {
        return Err(E2eError::failed("measuring", format!("no measurement's name contains any of {:?}", bench.only)));
    }
    bench.table.print();
    bench.table.write(Path::new("target/bench.json"))?;
    Ok(bench.table.ok())
}

fn binary_size(table: &mut Table) -> Result<(), E2eError> {
    let path = pullpiri_e2e::process::binary()?;
    let bytes = std::fs::metadata(&path).map_err(|error| E2eError::failed("sizing the binary", error))?.len();
    table.at_most("stripped release binary", table::to_f64(bytes) / 1e6, "MB", 40.0);
    Ok(())
}
