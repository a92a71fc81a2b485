//! Development tasks: `cargo xtask <task>`.
//!
//! * `crdgen [--check]` writes `crds/yaml/*.yaml` and `charts/pullpiri/files/crds.yaml` from the types in `crds/` (or fails if they differ);
//! * `sbom [TARGET]` prints the bill of materials of the binary, for a target triple;
//! * `directions` fails on a dependency between our crates that `docs/architecture.md` doesn't allow.

mod crdgen;
mod directions;
mod sbom;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = workspace_root();
    let outcome = match words.as_slice() {
        ["crdgen"] => crdgen::write(&root).map_err(|error| error.to_string()),
        ["crdgen", "--check"] => crdgen::check(&root).map_err(|error| error.to_string()),
        ["sbom"] => print_sbom(&root, "x86_64-unknown-linux-gnu"),
        ["sbom", platform] => print_sbom(&root, platform),
        ["directions"] => directions::check(&root).map_err(|error| error.to_string()),
        _ => Err("usage: cargo xtask crdgen [--check] | sbom [TARGET] | directions".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn print_sbom(root: &Path, platform: &str) -> Result<(), String> {
    let text = sbom::render(root, platform).map_err(|error| error.to_string())?;
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}
