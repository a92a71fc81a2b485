//! Development tasks: `cargo xtask <task>`.
//!
//! * `crdgen [--check]` writes `crds/yaml/*.yaml` from the types in `crds/` (or fails if they differ);
//! * `directions` fails on a dependency between our crates that `docs/architecture.md` doesn't allow.

mod crdgen;
mod directions;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = workspace_root();
    let outcome = match words.as_slice() {
        ["crdgen"] => crdgen::write(&root).map_err(|error| error.to_string()),
        ["crdgen", "--check"] => crdgen::check(&root).map_err(|error| error.to_string()),
        ["directions"] => directions::check(&root).map_err(|error| error.to_string()),
        _ => Err("usage: cargo xtask crdgen [--check] | directions".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}
