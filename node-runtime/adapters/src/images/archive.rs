//! Reading image archives: OCI image layouts and what `docker save` writes, which newer dockers write into one file together.
//!
//! An archive is a tar whose members are read in any order, so it is indexed once and then read by offset. Every blob that is named by
//! its digest is checked against it, layers while they are unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;

use super::digest::{Digest, Hashing};
use super::{ImageConfig, ImageError, Reference, Result, unpack};

/// Manifests, indexes and configurations are small; anything larger is no such thing.
const MAX_JSON_BYTES: u64 = 8 << 20;
/// Indexes point at indexes (one per platform); deeper than this is a loop.
const MAX_INDEX_DEPTH: u32 = 4;

/// An image in an archive, not yet unpacked.
pub(super) struct ArchivedImage {
    pub id: Digest,
    pub manifest: Option<Digest>,
    pub references: Vec<String>,
    /// Byte for byte.
    pub config: Vec<u8>,
    pub layers: Vec<ArchivedLayer>,
}

/// A layer in an archive.
pub(super) struct ArchivedLayer {
    pub diff_id: Digest,
    /// Of the blob as stored, where the manifest says.
    blob: Option<Digest>,
    member: String,
    archive: Rc<Archive>,
}

pub(super) struct Archive {
    path: PathBuf,
    file: File,
    members: BTreeMap<String, Member>,
}

enum Member {
    Data {
        offset: u64,
        size: u64,
    },
    /// Older dockers store a layer once and link to it.
    Link(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct OciManifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Option<ConfigSection>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigSection {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// An image's configuration file: how to run it, and its layers' digests.
pub(super) fn parse_config(bytes: &[u8]) -> std::result::Result<(ImageConfig, Vec<Digest>), String> {
    let file: ConfigFile = serde_json::from_slice(bytes).map_err(|e| format!("the image configuration: {e}"))?;
    let section = file.config.unwrap_or_default();
    let env = section
        .env
        .unwrap_or_default()
        .into_iter()
        .map(|entry| match entry.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (entry, String::new()),
        })
        .collect();
    let config = ImageConfig {
        entrypoint: section.entrypoint.unwrap_or_default(),
        cmd: section.cmd.unwrap_or_default(),
        env,
        user: section.user.unwrap_or_default(),
        working_dir: section.working_dir.filter(|w| !w.is_empty()),
        stop_signal: section.stop_signal.filter(|s| !s.is_empty()),
    };
    Ok((config, file.rootfs.diff_ids))
}

impl Archive {
    /// Indexes an archive. One that is compressed as a whole is first unpacked into `scratch`.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let problem = |e: io::Error| ImageError::Archive { archive: path.to_owned(), problem: e.to_string() };
        let mut file = File::open(path).map_err(problem)?;
        if file.metadata().map_err(problem)?.is_dir() {
            return Err(problem(io::Error::other("it is a directory; expected a tar file".to_owned())));
        }
        if compression(&mut file).map_err(problem)? != Compression::None {
            file.rewind().map_err(problem)?;
            let plain = scratch.join("archive.tar");
            let mut to = File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&plain)
                .map_err(|e| ImageError::io(format!("making {}", plain.display()), e))?;
            let mut reader = decompress(file).map_err(problem)?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = reader.read(&mut buffer).map_err(problem)?;
                if read == 0 {
                    break;
                }
                io::Write::write_all(&mut to, buffer.get(..read).unwrap_or_default())
                    .map_err(|e| ImageError::io(format!("writing {}", plain.display()), e))?;
            }
            file = to;
        }
        file.rewind().map_err(problem)?;
        let length = file.metadata().map_err(problem)?.len();
        let mut members = BTreeMap::new();
        let mut tar = tar::Archive::new(BufReader::new(&file));
        for entry in tar.entries_with_seek().map_err(problem)? {
            let entry = entry.map_err(|e| {
                // What the reader says of a file that is none quotes it.
                problem(io::Error::other(match members.is_empty() {
                    true => "it is no tar file, so no OCI or docker image archive".to_owned(),
                    false => format!("it is truncated or damaged: {}", e.kind()),
                }))
            })?;
            let name = normal(&entry.path().map_err(problem)?);
            let member = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (offset, size) = (entry.raw_file_position(), entry.size());
                    if offset.checked_add(size).is_none_or(|end| end > length) {
                        return Err(problem(io::Error::other(format!(
                            "it is truncated: {name} ends at byte {}, the file at {length}",
                            offset.saturating_add(size)
                        ))));
                    }
                    Member::Data { offset, size }
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name().map_err(problem)?.unwrap_or_default();
                    let base = match entry.header().entry_type() {
                        tar::EntryType::Symlink => Path::new(&name).parent().unwrap_or(Path::new("")).to_owned(),
                        _ => PathBuf::new(),
                    };
                    Member::Link(normal(&base.join(target)))
                }
                _ => continue,
            };
            members.insert(name, member);
        }
        drop(tar);
        if members.is_empty() {
            return Err(problem(io::Error::other("it is empty; expected an OCI or docker image archive".to_owned())));
        }
        Ok(Self { path: path.to_owned(), file, members })
    }

    /// The images in it.
    pub(super) fn read(self) -> Result<Vec<ArchivedImage>> {
        let this = Rc::new(self);
        let docker: Vec<DockerEntry> = match this.members.contains_key("manifest.json") {
            true => this.json("manifest.json")?,
            false => Vec::new(),
        };
        let images = if this.members.contains_key("index.json") && this.members.contains_key("oci-layout") {
            this.read_layout(&docker)?
        } else if docker.is_empty() {
            return Err(this.problem(
                "it has neither an index.json with an oci-layout nor a manifest.json: no OCI or docker image archive",
            ));
        } else {
            this.read_docker(&docker)?
        };
        if images.is_empty() {
            return Err(this.problem("it names no image for this machine"));
        }
        Ok(images)
    }

    fn read_layout(self: &Rc<Self>, docker: &[DockerEntry]) -> Result<Vec<ArchivedImage>> {
        let index: OciIndex = self.json("index.json")?;
        let mut images: Vec<ArchivedImage> = Vec::new();
        let mut found = Vec::new();
        self.manifests(index, None, 0, &mut found)?;
        for (digest, name) in found {
            let manifest: OciManifest = self.json_blob(&digest)?;
            let id = self.digest(&manifest.config.digest)?;
            let config = self.blob(&id)?;
            let (_, diff_ids) = parse_config(&config).map_err(|p| self.problem(&p))?;
            if diff_ids.len() != manifest.layers.len() {
                return Err(self.problem(&format!(
                    "manifest {digest} has {} layers, its configuration {}",
                    manifest.layers.len(),
                    diff_ids.len()
                )));
            }
            let mut layers = Vec::new();
            for (diff_id, layer) in diff_ids.into_iter().zip(&manifest.layers) {
                let blob = self.digest(&layer.digest)?;
                layers.push(self.layer(diff_id, Some(blob.clone()), blob_name(&blob))?);
            }
            let mut references: Vec<String> = Vec::new();
            let docker_tags =
                docker.iter().filter(|e| e.config.contains(id.hex())).flat_map(|e| e.repo_tags.iter().flatten());
            for name in docker_tags.chain(&name) {
                // A bare tag beside full names adds nothing.
                if name.contains(['/', ':']) || references.is_empty() {
                    references.push(self.reference(name)?);
                }
            }
            references.sort();
            references.dedup();
            match images.iter_mut().find(|i| i.id == id) {
                Some(same) => same.references.extend(references),
                None => images.push(ArchivedImage { id, manifest: Some(digest), references, config, layers }),
            }
        }
        Ok(images)
    }

    /// The manifests that an index leads to for this machine, with the name each is given.
    fn manifests(
        &self,
        index: OciIndex,
        outer_name: Option<&String>,
        depth: u32,
        found: &mut Vec<(Digest, Option<String>)>,
    ) -> Result<()> {
        if depth > MAX_INDEX_DEPTH {
            return Err(self.problem("its indexes are nested too deeply"));
        }
        for descriptor in index.manifests {
            let annotations = descriptor.annotations.unwrap_or_default();
            // Attestations are listed like images.
            if annotations.contains_key("vnd.docker.reference.type") {
                continue;
            }
            if descriptor.platform.as_ref().is_some_and(|p| {
                !(p.os.is_empty() || p.os == "linux")
                    || !(p.architecture.is_empty() || p.architecture == architecture())
            }) {
                continue;
            }
            let name = annotations
                .get("io.containerd.image.name")
                .or_else(|| annotations.get("org.opencontainers.image.ref.name"))
                .or(outer_name)
                .cloned();
            let digest = self.digest(&descriptor.digest)?;
            if descriptor.media_type.contains("image.index") || descriptor.media_type.contains("manifest.list") {
                let inner: OciIndex = self.json_blob(&digest)?;
                self.manifests(inner, name.as_ref(), depth + 1, found)?;
            } else {
                found.push((digest, name));
            }
        }
        Ok(())
    }

    fn read_docker(self: &Rc<Self>, entries: &[DockerEntry]) -> Result<Vec<ArchivedImage>> {
        let mut images = Vec::new();
        for entry in entries {
            let config = self.bytes(&normal(Path::new(&entry.config)))?;
            let id = Digest::of(&config);
            // The file is named after its digest, as `<hex>.json` or `blobs/sha256/<hex>`.
            let named = Path::new(&entry.config).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if let Ok(expected) = format!("sha256:{named}").parse::<Digest>()
                && expected != id
            {
                return Err(self.mismatch(&entry.config, expected, id));
            }
            let (_, diff_ids) = parse_config(&config).map_err(|p| self.problem(&p))?;
            if diff_ids.len() != entry.layers.len() {
                return Err(self.problem(&format!(
                    "image {id} lists {} layers, its configuration {}",
                    entry.layers.len(),
                    diff_ids.len()
                )));
            }
            let mut layers = Vec::new();
            for (diff_id, member) in diff_ids.into_iter().zip(&entry.layers) {
                layers.push(self.layer(diff_id, None, normal(Path::new(member)))?);
            }
            let mut references = Vec::new();
            for tag in entry.repo_tags.iter().flatten() {
                references.push(self.reference(tag)?);
            }
            images.push(ArchivedImage { id, manifest: None, references, config, layers });
        }
        Ok(images)
    }

    fn layer(self: &Rc<Self>, diff_id: Digest, blob: Option<Digest>, member: String) -> Result<ArchivedLayer> {
        self.locate(&member)?;
        Ok(ArchivedLayer { diff_id, blob, member, archive: Rc::clone(self) })
    }

    fn reference(&self, name: &str) -> Result<String> {
        let reference: Reference = name.parse().map_err(|e: super::ReferenceError| self.problem(&e.to_string()))?;
        Ok(reference.tagged().unwrap_or_else(|| reference.to_string()))
    }

    fn digest(&self, text: &str) -> Result<Digest> {
        text.parse().map_err(|e: super::DigestError| self.problem(&e.to_string()))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, member: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(member)?).map_err(|e| self.problem(&format!("{member}: {e}")))
    }

    fn json_blob<T: for<'a> Deserialize<'a>>(&self, digest: &Digest) -> Result<T> {
        serde_json::from_slice(&self.blob(digest)?).map_err(|e| self.problem(&format!("blob {digest}: {e}")))
    }

    /// A small blob, checked against its digest.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = blob_name(digest);
        let bytes = self.bytes(&name)?;
        let got = Digest::of(&bytes);
        if got == *digest { Ok(bytes) } else { Err(self.mismatch(&name, digest.clone(), got)) }
    }

    fn bytes(&self, member: &str) -> Result<Vec<u8>> {
        let (_, size) = self.locate(member)?;
        if size > MAX_JSON_BYTES {
            return Err(self.problem(&format!("{member} has {size} bytes; at most {MAX_JSON_BYTES} are expected")));
        }
        let mut bytes = Vec::new();
        self.open_member(member)?.read_to_end(&mut bytes).map_err(|e| self.problem(&format!("{member}: {e}")))?;
        Ok(bytes)
    }

    fn locate(&self, member: &str) -> Result<(u64, u64)> {
        let mut name = member;
        // A link may lead to a link, a circle of them nowhere.
        for _ in 0..8 {
            match self.members.get(name) {
                Some(Member::Data { offset, size }) => return Ok((*offset, *size)),
                Some(Member::Link(target)) => name = target,
                None => return Err(self.problem(&format!("it has no {name}, which it refers to"))),
            }
        }
        Err(self.problem(&format!("{member} is a circle of links")))
    }

    fn open_member(&self, member: &str) -> Result<io::Take<File>> {
        let (offset, size) = self.locate(member)?;
        let open = || -> io::Result<io::Take<File>> {
            // The offset is shared with every copy of the descriptor; members are read one at a time.
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file.take(size))
        };
        open().map_err(|e| self.problem(&format!("{member}: {e}")))
    }

    fn problem(&self, problem: &str) -> ImageError {
        ImageError::Archive { archive: self.path.clone(), problem: problem.to_owned() }
    }

    fn mismatch(&self, blob: &str, expected: Digest, got: Digest) -> ImageError {
        ImageError::DigestMismatch { archive: self.path.clone(), blob: blob.to_owned(), expected, got }
    }
}

impl ArchivedLayer {
    /// What is read for it and what has to come out: layers that agree in both need one look.
    pub(super) fn identity(&self) -> (&Digest, &str) {
        (&self.diff_id, &self.member)
    }

    /// Unpacks it into an empty directory and checks both digests: of the blob as stored and of the plain archive.
    pub(super) fn unpack(&self, target: &Path) -> Result<()> {
        self.read(|plain| unpack::unpack(plain, target, &self.diff_id.to_string()))
    }

    /// As [`unpack`](Self::unpack), and makes nothing.
    pub(super) fn check(&self) -> Result<()> {
        self.read(|_| Ok(()))
    }

    fn read(&self, take: impl FnOnce(&mut dyn Read) -> Result<()>) -> Result<()> {
        let archive = &self.archive;
        let read_problem = |e: io::Error| archive.problem(&format!("{}: {e}", self.member));
        let mut stored = Hashing::new(BufReader::with_capacity(1 << 16, archive.open_member(&self.member)?));
        let mut plain = Hashing::new(decompress(&mut stored).map_err(read_problem)?);
        let unpacked = take(&mut plain);
        // A damaged blob shows as any error of unpacking; which digest is wrong says more.
        let plain_digest = plain.finish();
        let stored_digest = stored.finish();
        if let (Some(expected), Ok(got)) = (&self.blob, stored_digest)
            && got != *expected
        {
            return Err(archive.mismatch(&self.member, expected.clone(), got));
        }
        unpacked?;
        let got = plain_digest.map_err(read_problem)?;
        if got != self.diff_id {
            return Err(archive.mismatch(&self.member, self.diff_id.clone(), got));
        }
        Ok(())
    }

    /// As [`unpack`](Self::unpack), by way of `scratch` to `target`.
    pub(super) fn unpack_again(&self, scratch: &Path, target: &Path) -> Result<()> {
        let fresh = scratch.join("again");
        std::fs::create_dir(&fresh).map_err(|e| ImageError::io(format!("making {}", fresh.display()), e))?;
        self.unpack(&fresh)?;
        pullpiri_node_host::files::sync_file_system(scratch)?;
        std::fs::rename(&fresh, target)
            .map_err(|e| ImageError::io(format!("moving a layer to {}", target.display()), e))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// By the first bytes: media types and file names lie.
fn compression(reader: &mut impl Read) -> io::Result<Compression> {
    let mut magic = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    recognise(&magic)
}

fn recognise(magic: &[u8]) -> io::Result<Compression> {
    if magic.starts_with(&[0x1f, 0x8b]) {
        Ok(Compression::Gzip)
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Compression::Zstd)
    } else if magic.starts_with(b"BZh") || magic.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        Err(io::Error::other("it is compressed by bzip2 or xz; gzip, zstd and none are supported".to_owned()))
    } else {
        Ok(Compression::None)
    }
}

fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    let compression = recognise(&magic)?;
    let whole = io::Cursor::new(magic).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(whole)?),
    })
}

/// A member's name without `./`, `..` resolved.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// This machine's architecture by its OCI (Go) name.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
