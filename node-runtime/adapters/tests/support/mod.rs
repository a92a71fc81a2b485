//! What tests and measurements share: an image whose one program does as its arguments say, and reading what it said.

use std::path::{Path, PathBuf};
use std::process::Command;

use pullpiri_node_adapters::images::build;
use pullpiri_node_core::runtime::{ContainerSpec, NetworkMode, PodId, PodSpec};

pub const IMAGE: &str = "localhost/pullpiri-workload:1";

/// Compiles the workload into `dir` and returns the archive of its image; an error is the reason to skip.
pub fn workload_archive(dir: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/workload.c");
    let program = dir.join("workload");
    let gcc = Command::new("gcc")
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .map_err(|e| format!("gcc can't be run: {e}"))?;
    if !gcc.status.success() {
        return Err(format!("gcc can't link statically: {}", String::from_utf8_lossy(&gcc.stderr)));
    }
    let archive = dir.join("workload.tar");
    let passwd = dir.join("passwd");
    std::fs::write(&passwd, "root:x:0:0::/root:/\napp:x:1000:1001::/home/app:/\n").map_err(|e| e.to_string())?;
    let files = [(program, PathBuf::from("/bin/workload"), 0o755), (passwd, PathBuf::from("/etc/passwd"), 0o644)];
    let env = [("FROM_IMAGE".to_owned(), "yes".to_owned()), ("PATH".to_owned(), "/bin".to_owned())];
    build::archive(&archive, IMAGE, &files, &["/bin/workload".to_owned()], &env).map_err(|e| e.to_string())?;
    Ok(archive)
}

pub fn container(name: &str, args: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        ..ContainerSpec::default()
    }
}

pub fn pod(id: &str, network: NetworkMode, containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec {
        id: PodId(id.to_owned()),
        namespace: "default".to_owned(),
        name: id.to_owned(),
        hash: "h1".to_owned(),
        hostname: "vehicle".to_owned(),
        network,
        containers,
        labels: std::collections::BTreeMap::new(),
        lifecycle: pullpiri_node_core::runtime::Lifecycle::default(),
    }
}
