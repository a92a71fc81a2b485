//! Compiles every `../programs/*.bpf.c` with clang into `OUT_DIR/<name>.bpf.o`, and writes `OUT_DIR/objects.rs`: one static per program.
//!
//! Without clang or libbpf's headers the statics are empty and loading says so, so that `cargo check` needs neither. `PULLPIRI_REQUIRE_BPF=1` makes
//! that an error (CI and release builds set it). `CLANG` names another compiler.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Programs that the crate names; empty until their source exists.
const NAMED: [&str; 2] = ["monitor", "pharos"];
/// Where Debian keeps `asm/types.h`. The integer types are the same on both architectures, so a cross build may use its host's.
const MULTIARCH: [&str; 2] = ["/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"];
const HELPERS: &str = "/usr/include/bpf/bpf_helpers.h";

fn main() -> Result<(), Box<dyn Error>> {
    let programs = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../programs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", programs.display());
    println!("cargo::rerun-if-changed={HELPERS}");
    for variable in ["CLANG", "PULLPIRI_REQUIRE_BPF"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let missing = missing_tool(&clang);
    if let Some(missing) = &missing
        && env::var("PULLPIRI_REQUIRE_BPF").is_ok_and(|value| value == "1")
    {
        return Err(format!("PULLPIRI_REQUIRE_BPF=1, but there is no {missing}: install clang and libbpf-dev").into());
    }
    let sources = sources(&programs)?;
    let mut objects = String::new();
    for (name, source) in &sources {
        println!("cargo::rerun-if-changed={}", source.display());
        if missing.is_none() {
            let object = out.join(format!("{name}.bpf.o"));
            compile(&clang, &programs, source, &object)?;
            declare(&mut objects, name, Some(&object))?;
        } else {
            declare(&mut objects, name, None)?;
        }
    }
    for name in NAMED.iter().filter(|name| !sources.iter().any(|(found, _)| found == *name)) {
        declare(&mut objects, name, None)?;
    }
    fs::write(out.join("objects.rs"), objects)?;
    Ok(())
}

/// What compiling needs and isn't there.
fn missing_tool(clang: &str) -> Option<String> {
    let runs = Command::new(clang).arg("--version").output().is_ok_and(|output| output.status.success());
    if !runs {
        return Some(clang.to_owned());
    }
    (!Path::new(HELPERS).is_file()).then(|| HELPERS.to_owned())
}

/// `(name, path)` of every program, by name.
fn sources(programs: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(programs)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".bpf.c"))
        {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

fn compile(clang: &str, programs: &Path, source: &Path, object: &Path) -> Result<(), Box<dyn Error>> {
    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => return Err(format!("no BPF programs for {other}: x86_64 and aarch64 are built").into()),
    };
    let endian = match env::var("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let mut command = Command::new(clang);
    // v3: 32-bit ALU and atomics that return the old value; kernels since 5.12 have both.
    command.args(["-target", endian, "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]);
    command.args(["-Wno-unused-parameter", "-fno-stack-protector"]);
    command.arg(format!("-D__TARGET_ARCH_{arch}")).arg("-I").arg(programs);
    if let Some(include) = MULTIARCH.iter().find(|path| Path::new(path).is_dir()) {
        command.args(["-idirafter", include]);
    }
    let output = command.arg("-c").arg(source).arg("-o").arg(object).output()?;
    if !output.status.success() {
        return Err(
            format!("{} doesn't compile:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    // DWARF is of no use in the kernel; BTF stays. Without llvm-strip the object is only larger.
    let _ = Command::new("llvm-strip").arg("-g").arg(object).output();
    Ok(())
}

/// `pub static NAME: &[u8]`, aligned as an ELF file must be for aya.
fn declare(objects: &mut String, name: &str, object: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let identifier = name.to_uppercase().replace(['-', '.'], "_");
    writeln!(objects, "/// The object of `programs/{name}.bpf.c`; empty when it was built without clang.")?;
    match object {
        Some(path) => {
            let path = path.to_str().ok_or("the path of OUT_DIR isn't UTF-8")?;
            writeln!(objects, "pub static {identifier}: &[u8] = aya::include_bytes_aligned!({path:?});")?;
        }
        None => writeln!(objects, "pub static {identifier}: &[u8] = &[];")?,
    }
    Ok(())
}
