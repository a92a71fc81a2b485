//! Writing an image archive: one layer of files from disk, nothing below it.
//!
//! The result is an OCI image layout in a tar, as `podman load` and [`ImageStore::load`](super::ImageStore::load) read it. The same
//! files give the same bytes: times are zero, owners root, order that of the arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use super::archive::architecture;
use super::digest::Digest;
use super::{ImageError, Reference, Result};

/// What of an image is more than its files.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub env: Vec<(String, String)>,
    /// Told by the image, and as annotations of its manifest.
    pub labels: BTreeMap<String, String>,
    /// `UID[:GID]` that it runs as; absent: root.
    pub user: Option<String>,
}

/// [`archive_with`], and no more than `env`.
pub fn archive(
    out: &Path,
    reference: &str,
    files: &[(PathBuf, PathBuf, u32)],
    entrypoint: &[String],
    env: &[(String, String)],
) -> Result<()> {
    archive_with(out, reference, files, entrypoint, &Options { env: env.to_vec(), ..Options::default() })
}

/// Writes the archive `out` of an image `reference` that holds `files` (path on this host, path in the image, permission bits), with
/// their parent directories, and runs `entrypoint`.
pub fn archive_with(
    out: &Path,
    reference: &str,
    files: &[(PathBuf, PathBuf, u32)],
    entrypoint: &[String],
    options: &Options,
) -> Result<()> {
    let reference: Reference = reference.parse()?;
    let layer = layer(files)?;
    let layer_digest = Digest::of(&layer);
    let env: Vec<String> = options.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut run = json!({ "Entrypoint": entrypoint, "Env": env });
    if let Some(run) = run.as_object_mut() {
        if !options.labels.is_empty() {
            run.insert("Labels".to_owned(), json!(options.labels));
        }
        if let Some(user) = &options.user {
            run.insert("User".to_owned(), json!(user));
        }
    }
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [layer_digest.to_string()] },
    })
    .to_string();
    let config_digest = Digest::of(config.as_bytes());
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest.to_string(),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest.to_string(),
            "size": layer.len(),
        }],
    });
    if let Some(manifest) = manifest.as_object_mut().filter(|_| !options.labels.is_empty()) {
        manifest.insert("annotations".to_owned(), json!(options.labels));
    }
    let manifest = manifest.to_string();
    let manifest_digest = Digest::of(manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest.to_string(),
            "size": manifest.len(),
            // containerd knows an image by the second, everybody else by the first.
            "annotations": {
                "org.opencontainers.image.ref.name": reference.to_string(),
                "io.containerd.image.name": reference.to_string(),
            },
        }],
    })
    .to_string();

    let attempted = || format!("writing image archive {}", out.display());
    let write = || -> io::Result<()> {
        let mut tar = tar::Builder::new(io::BufWriter::new(File::create(out)?));
        let mut member = |name: &str, bytes: &[u8]| -> io::Result<()> {
            tar.append_data(&mut header(tar::EntryType::Regular, 0o644, length(bytes)), name, Cursor::new(bytes))
        };
        member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for (digest, bytes) in [
            (&config_digest, config.as_bytes()),
            (&layer_digest, layer.as_slice()),
            (&manifest_digest, manifest.as_bytes()),
        ] {
            member(&format!("blobs/sha256/{}", digest.hex()), bytes)?;
        }
        member("index.json", index.as_bytes())?;
        tar.into_inner()?.flush()
    };
    write().map_err(|e| ImageError::io(attempted(), e))
}

fn layer(files: &[(PathBuf, PathBuf, u32)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    for (source, target, mode) in files {
        let attempted = || format!("adding {} to an image as {}", source.display(), target.display());
        let target: PathBuf = target
            .components()
            .filter_map(|c| match c {
                Component::Normal(name) => Some(Ok(name)),
                Component::RootDir | Component::CurDir => None,
                Component::ParentDir | Component::Prefix(_) => {
                    Some(Err(ImageError::io(attempted(), io::Error::other("the path leads out of the image"))))
                }
            })
            .collect::<Result<_>>()?;
        let parents: Vec<PathBuf> = target.ancestors().skip(1).map(Path::to_owned).collect();
        for parent in parents.into_iter().rev().filter(|p| !p.as_os_str().is_empty()) {
            if made.insert(parent.clone()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, &parent, io::empty()).map_err(|e| ImageError::io(attempted(), e))?;
            }
        }
        let bytes = std::fs::read(source).map_err(|e| ImageError::io(attempted(), e))?;
        tar.append_data(&mut header(tar::EntryType::Regular, *mode, length(&bytes)), &target, Cursor::new(&bytes))
            .map_err(|e| ImageError::io(attempted(), e))?;
    }
    tar.into_inner().map_err(|e| ImageError::io("writing a layer", e))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
