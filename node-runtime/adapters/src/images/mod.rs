//! The node's image store: images loaded from archives, their layers unpacked once and shared.
//!
//! Below the store's directory:
//!
//! * `index.json`: which images there are and which references name them. Replaced atomically, so a reader needs no lock.
//! * `configs/<digest>.json`: the images' configurations, byte for byte.
//! * `layers/<first half of the digest>/`: unpacked layers, named by the digest of their uncompressed archive, as an overlay's lower
//!   directories. 128 bits keep names short (mount options are limited to a page) and can't be made to collide on purpose.
//! * `uses/<user>.json`: layers that a pod runs on, which garbage collection leaves alone. One that can't be read could name any: then
//!   nothing is collected until its user is gone.
//! * `tmp/`: half-done work, each directory locked by its maker. What no process has locked is left from a crash and removed.
//! * `lock`: held exclusively while `index.json` and `layers/` change together, shared while uses are written.
//!
//! Invariants: a layer named in the index is complete and durable before the index says so; whatever happens in between leaves no
//! trace but in `tmp/`. Several processes may use one store.

mod archive;
pub mod build;
mod digest;
mod reference;
mod unpack;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pullpiri_node_host::SysError;
use pullpiri_node_host::files::{self, Durability, Lock, LockKind};
use serde::{Deserialize, Serialize};

pub use digest::{Digest, DigestError};
pub use reference::{Reference, ReferenceError};

/// What went wrong with an image or the store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("reading image archive {}: {problem}", archive.display())]
    Archive { archive: PathBuf, problem: String },
    #[error("reading image archive {}: blob {blob} is damaged: expected {expected}, got {got}", archive.display())]
    DigestMismatch { archive: PathBuf, blob: String, expected: Digest, got: Digest },
    #[error("unpacking layer {layer}: entry {entry:?}: {problem}")]
    Entry { layer: String, entry: String, problem: String },
    #[error("no space left on the device while {attempted}; nothing was loaded")]
    NoSpace { attempted: String },
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("no image {0} on this node")]
    Missing(String),
    #[error("the image store's file {} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{attempted}: {source}")]
    Io {
        attempted: String,
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    fn io(attempted: impl Into<String>, source: io::Error) -> Self {
        let attempted = attempted.into();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::NoSpace { attempted }
        } else {
            Self::Io { attempted, source }
        }
    }
}

impl From<SysError> for ImageError {
    fn from(error: SysError) -> Self {
        Self::io(error.attempted, error.source)
    }
}

type Result<T> = std::result::Result<T, ImageError>;

/// How an image wants its containers run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// In order; `NAME=value` split at the first `=`.
    pub env: Vec<(String, String)>,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty: root.
    pub user: String,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
}

/// An image on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest; docker archives have none.
    pub manifest: Option<Digest>,
    /// Normalised.
    pub references: Vec<String>,
    /// The digests of the uncompressed layers, lowest first.
    pub layers: Vec<Digest>,
    pub config: ImageConfig,
}

impl Image {
    /// The directories of its layers below [`ImageStore::layers_dir`], topmost first, as an overlay wants them.
    #[must_use]
    pub fn lower_dirs(&self) -> Vec<String> {
        self.layers.iter().rev().map(layer_name).collect()
    }
}

/// An image that was just loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    pub id: Digest,
    pub manifest: Option<Digest>,
    /// Normalised; empty if the archive named none, so that it is known by its digests only.
    pub references: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    images: Vec<IndexEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct IndexEntry {
    id: Digest,
    manifest: Option<Digest>,
    references: Vec<String>,
    layers: Vec<Digest>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Uses {
    images: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    /// Something is in use, and nobody knows what.
    #[serde(skip)]
    unreadable: bool,
}

/// The store. Cheap to open; every method does blocking IO.
#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it isn't there, and removes what crashed loads left.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let store = Self { dir: dir.into() };
        // Layers hold programs with every mode and owner, and whatever their makers left in them.
        for path in
            [store.dir.clone()].into_iter().chain(["configs", "layers", "uses", "tmp"].map(|s| store.dir.join(s)))
        {
            files::private_directory(&path).map_err(|e| ImageError::io(format!("making {}", path.display()), e))?;
        }
        // Lower directories are absolute mount options of processes with other working directories.
        store.dir.canonicalize().map_err(|e| ImageError::io(format!("opening {}", store.dir.display()), e)).and_then(
            |dir| {
                let store = Self { dir };
                store.index()?;
                store.remove_leftovers()?;
                Ok(store)
            },
        )
    }

    /// Where the layers' directories are.
    #[must_use]
    pub fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// Loads every image of an OCI image-layout archive or a docker archive (either may be compressed as a whole). All that they need is
    /// checked, also what the store has already. On an error nothing has changed.
    pub fn load(&self, archive: &Path) -> Result<Vec<LoadedImage>> {
        let scratch = Scratch::new(&self.dir.join("tmp"))?;
        let images = archive::Archive::open(archive, &scratch.path)?.read()?;
        let known: BTreeSet<String> = list_names(&self.layers_dir())?;
        let mut unpacked = BTreeSet::new();
        let mut read = BTreeSet::new();
        for layer in images.iter().flat_map(|image| &image.layers).filter(|layer| read.insert(layer.identity())) {
            let name = layer_name(&layer.diff_id);
            if known.contains(&name) || !unpacked.insert(name.clone()) {
                // It stays as it is; who hands over a damaged archive is told all the same.
                layer.check()?;
                continue;
            }
            let target = scratch.path.join(&name);
            fs::create_dir(&target).map_err(|e| ImageError::io(format!("making {}", target.display()), e))?;
            layer.unpack(&target)?;
        }
        // One sync for all that was unpacked, before anything refers to it.
        files::sync_file_system(&self.dir)?;
        let lock = self.lock(LockKind::Exclusive)?;
        for name in &unpacked {
            let from = scratch.path.join(name);
            let to = self.layers_dir().join(name);
            // Another load may have been quicker.
            if !to.exists() {
                fs::rename(&from, &to).map_err(|e| ImageError::io(format!("moving a layer to {}", to.display()), e))?;
            }
        }
        // A layer that was known may have been collected while the others were unpacked.
        for image in &images {
            for layer in &image.layers {
                let path = self.layers_dir().join(layer_name(&layer.diff_id));
                if !path.exists() {
                    layer.unpack_again(&scratch.path, &path)?;
                }
            }
            let config = self.config_path(&image.id);
            files::replace(&config, &image.config, Durability::PowerCut)?;
        }
        files::sync_directory(&self.layers_dir())?;
        files::sync_directory(&self.dir.join("configs"))?;
        let mut index = self.index()?;
        let mut loaded = Vec::new();
        for image in images {
            for entry in &mut index.images {
                entry.references.retain(|r| !image.references.contains(r));
            }
            let layers = image.layers.iter().map(|l| l.diff_id.clone()).collect();
            match index.images.iter_mut().find(|e| e.id == image.id) {
                Some(entry) => {
                    entry.references.extend(image.references.iter().cloned());
                    entry.references.sort();
                    entry.references.dedup();
                    entry.manifest = image.manifest.clone().or_else(|| entry.manifest.clone());
                }
                None => index.images.push(IndexEntry {
                    id: image.id.clone(),
                    manifest: image.manifest.clone(),
                    references: image.references.clone(),
                    layers,
                }),
            }
            loaded.push(LoadedImage { id: image.id, manifest: image.manifest, references: image.references });
        }
        let keep: BTreeSet<Digest> = loaded.iter().map(|l| l.id.clone()).collect();
        self.commit(index, &keep)?;
        drop(lock);
        Ok(loaded)
    }

    /// The image that a reference names: a tag, `name@sha256:<manifest>`, or an image's id with or without `sha256:`.
    pub fn resolve(&self, reference: &str) -> Result<Option<Image>> {
        let index = self.index()?;
        let Some(entry) = find(&index, reference)? else { return Ok(None) };
        self.image(entry.clone()).map(Some)
    }

    /// All images, by reference.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = self.index()?.images.into_iter().map(|e| self.image(e)).collect::<Result<Vec<_>>>()?;
        images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
        Ok(images)
    }

    /// Removes a reference, and with an image's last one the image with the layers that nothing else needs. By id or digest the whole
    /// image goes. Whether there was one.
    pub fn remove(&self, reference: &str) -> Result<bool> {
        let lock = self.lock(LockKind::Exclusive)?;
        let mut index = self.index()?;
        let Some(id) = find(&index, reference)?.map(|e| e.id.clone()) else { return Ok(false) };
        let tagged = reference.parse::<Reference>().ok().and_then(|r| r.tagged());
        for entry in index.images.iter_mut().filter(|e| e.id == id) {
            match &tagged {
                Some(tag) if entry.references.contains(tag) => entry.references.retain(|r| r != tag),
                _ => entry.references.clear(),
            }
        }
        self.commit(index, &BTreeSet::new())?;
        drop(lock);
        Ok(true)
    }

    /// Notes that `user` runs on these images, beside those noted before, so that their layers stay. Fails with
    /// [`ImageError::Missing`] if one was removed meanwhile.
    pub fn pin(&self, user: &str, images: &[&Image]) -> Result<()> {
        let lock = self.lock(LockKind::Shared)?;
        let path = self.uses_path(user);
        let mut uses = match fs::read(&path) {
            Ok(bytes) => match parse::<Uses>(&path, &bytes) {
                Ok(uses) => uses,
                Err(error) => {
                    // What it named stays in use, whatever it was.
                    tracing::warn!(%error, "noting the use of images anew");
                    let aside = self.damaged_uses_path(user);
                    fs::rename(&path, &aside)
                        .map_err(|e| ImageError::io(format!("moving {} aside", path.display()), e))?;
                    Uses::default()
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Uses::default(),
            Err(e) => return Err(ImageError::io(format!("reading {}", path.display()), e)),
        };
        let before = (uses.images.len(), uses.layers.len());
        for image in images {
            for layer in &image.layers {
                if !self.layers_dir().join(layer_name(layer)).is_dir() {
                    return Err(ImageError::Missing(
                        image.references.first().cloned().unwrap_or_else(|| image.id.to_string()),
                    ));
                }
                uses.layers.insert(layer.clone());
            }
            uses.images.insert(image.id.clone());
        }
        if before != (uses.images.len(), uses.layers.len()) || !path.exists() {
            // Uses needn't survive a power cut: neither do containers, and what it leaves is read as any use. So a start waits for no disk.
            files::replace(&path, to_json(&uses).as_bytes(), Durability::ProcessDeath)?;
        }
        drop(lock);
        Ok(())
    }

    /// Forgets what [`pin`](Self::pin) noted.
    pub fn unpin(&self, user: &str) -> Result<()> {
        for path in [self.uses_path(user), self.damaged_uses_path(user)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::io(format!("removing {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets the uses of all but those who still are. Nobody may become a user meanwhile.
    pub fn forget_uses(&self, is_there: impl Fn(&str) -> bool) -> Result<()> {
        for name in list_names(&self.dir.join("uses"))? {
            let user = name.rsplit_once('.').map_or(name.as_str(), |(user, _)| user);
            if !is_there(user) {
                self.unpin(user)?;
            }
        }
        Ok(())
    }

    /// Removes images that nothing names or uses and layers that no image needs.
    pub fn collect_garbage(&self) -> Result<()> {
        let lock = self.lock(LockKind::Exclusive)?;
        let index = self.index()?;
        self.commit(index, &BTreeSet::new())?;
        drop(lock);
        Ok(())
    }

    /// Writes the index without images that have neither name nor use (but for `keep`, which were asked for by digest), then removes
    /// what the index no longer needs. The caller holds the lock.
    fn commit(&self, mut index: Index, keep: &BTreeSet<Digest>) -> Result<()> {
        let uses = self.uses()?;
        index.images.retain(|e| {
            !e.references.is_empty() || uses.images.contains(&e.id) || keep.contains(&e.id) || uses.unreadable
        });
        files::replace(&self.index_path(), to_json(&index).as_bytes(), Durability::PowerCut)?;
        files::sync_directory(&self.dir)?;
        let needed: BTreeSet<String> =
            index.images.iter().flat_map(|e| &e.layers).chain(&uses.layers).map(layer_name).collect();
        let scratch = Scratch::new(&self.dir.join("tmp"))?;
        let collected = if uses.unreadable { BTreeSet::new() } else { list_names(&self.layers_dir())? };
        for name in collected.difference(&needed) {
            let from = self.layers_dir().join(name);
            fs::rename(&from, scratch.path.join(name))
                .map_err(|e| ImageError::io(format!("removing layer {}", from.display()), e))?;
        }
        let configs: BTreeSet<String> = index.images.iter().map(|e| format!("{}.json", e.id.hex())).collect();
        for name in list_names(&self.dir.join("configs"))?.difference(&configs) {
            let path = self.dir.join("configs").join(name);
            fs::remove_file(&path).map_err(|e| ImageError::io(format!("removing {}", path.display()), e))?;
        }
        Ok(())
    }

    fn image(&self, entry: IndexEntry) -> Result<Image> {
        let path = self.config_path(&entry.id);
        let bytes = fs::read(&path).map_err(|e| ImageError::io(format!("reading {}", path.display()), e))?;
        let config = archive::parse_config(&bytes).map_err(|problem| ImageError::Damaged { path, problem })?.0;
        Ok(Image { id: entry.id, manifest: entry.manifest, references: entry.references, layers: entry.layers, config })
    }

    fn index(&self) -> Result<Index> {
        let path = self.index_path();
        match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(e) => Err(ImageError::io(format!("reading {}", path.display()), e)),
        }
    }

    fn uses(&self) -> Result<Uses> {
        let mut all = Uses::default();
        for name in list_names(&self.dir.join("uses"))? {
            let path = self.dir.join("uses").join(&name);
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => {}
                Some("damaged") => {
                    all.unreadable = true;
                    continue;
                }
                _ => continue,
            }
            match fs::read(&path) {
                Ok(bytes) => match parse::<Uses>(&path, &bytes) {
                    Ok(one) => {
                        all.images.extend(one.images);
                        all.layers.extend(one.layers);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no image is collected while its user is there");
                        all.unreadable = true;
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(ImageError::io(format!("reading {}", path.display()), e)),
            }
        }
        Ok(all)
    }

    fn remove_leftovers(&self) -> Result<()> {
        let tmp = self.dir.join("tmp");
        for name in list_names(&tmp)? {
            let path = tmp.join(name);
            // Its maker holds the lock for as long as it works there, and may remove it at any moment.
            if let Ok(Some(_lock)) = files::try_lock_directory(&path) {
                match fs::remove_dir_all(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(ImageError::io(format!("removing {}", path.display()), e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn lock(&self, kind: LockKind) -> Result<Lock> {
        Ok(files::lock(&self.dir.join("lock"), kind)?)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    fn config_path(&self, id: &Digest) -> PathBuf {
        self.dir.join("configs").join(format!("{}.json", id.hex()))
    }

    fn uses_path(&self, user: &str) -> PathBuf {
        self.dir.join("uses").join(format!("{user}.json"))
    }

    fn damaged_uses_path(&self, user: &str) -> PathBuf {
        self.dir.join("uses").join(format!("{user}.damaged"))
    }
}

fn find<'a>(index: &'a Index, reference: &str) -> Result<Option<&'a IndexEntry>> {
    let as_digest = reference.parse::<Digest>().or_else(|_| format!("sha256:{reference}").parse::<Digest>());
    if let Ok(digest) = as_digest {
        return Ok(index.images.iter().find(|e| e.id == digest || e.manifest.as_ref() == Some(&digest)));
    }
    let reference: Reference = reference.parse()?;
    if let Some(digest) = &reference.digest {
        // With a digest the tag is a comment.
        return Ok(index.images.iter().find(|e| e.manifest.as_ref() == Some(digest) || e.id == *digest));
    }
    let tagged = reference.tagged();
    Ok(index.images.iter().find(|e| e.references.iter().any(|r| Some(r) == tagged.as_ref())))
}

/// A layer's directory name.
fn layer_name(diff_id: &Digest) -> String {
    diff_id.hex().chars().take(32).collect()
}

fn list_names(dir: &Path) -> Result<BTreeSet<String>> {
    let attempted = || format!("listing {}", dir.display());
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(|e| ImageError::io(attempted(), e))? {
        let entry = entry.map_err(|e| ImageError::io(attempted(), e))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Damaged { path: path.to_owned(), problem: e.to_string() })
}

/// Strings, lists and maps with string keys always have a JSON form.
fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A directory in `tmp/` that goes away with this value, or with the next opening of the store.
struct Scratch {
    path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    fn new(tmp: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = tmp.join(name);
            match fs::create_dir(&path) {
                Ok(()) => match files::try_lock_directory(&path) {
                    Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                    // Someone who opens the store just now has taken it for a leftover.
                    Ok(None) => {}
                    Err(e) if e.source.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e.into()),
                },
                // Left by an earlier process with this id.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ImageError::io(format!("making {}", path.display()), e)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next opening of the store tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests;
