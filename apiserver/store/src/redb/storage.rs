//! Where the data file lies: opening it, again after an IO error, and how much room there is.
//!
//! A new file is made under another name, synced and then given its own, so that a file that is there is whole: an empty or
//! half-written one is damage, not a first start.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, StorageBackend};

use super::error::{Fault, guarded};
use super::tables;

/// What a [`super::RedbStore`] lies on: a file, or something that simulates one.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// For messages.
    fn path(&self) -> &Path;

    /// Opens it. Called again after an IO error, when the earlier one has been closed.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// How many bytes seem to be free. Asked before each batch, so it has to be quick.
    ///
    /// # Errors
    /// It can't be told.
    fn free(&self) -> io::Result<u64>;

    /// Whether `bytes` more can really be had. Asked once a write has failed in spite of [`Self::free`].
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when not; anything else means that it can't be told.
    fn probe(&self, bytes: u64) -> io::Result<()>;
}

/// A file on a local file system.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
}

impl DataFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.{suffix}", std::process::id()));
        self.path.with_file_name(name)
    }

    /// Makes the file if it isn't there.
    pub(super) fn create_if_absent(&self) -> Result<(), Fault> {
        if self.path.try_exists().map_err(|error| Fault::io(&error))? {
            return Ok(());
        }
        let new = self.beside("new");
        let made = self.create(&new);
        // It has its own name now, or is of no use.
        let removed = fs::remove_file(&new);
        made?;
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io(&error)),
            _ => Ok(()),
        }
    }

    fn create(&self, new: &Path) -> Result<(), Fault> {
        let io = |error: io::Error| Fault::io(&error);
        // Left by a process of the same number that was killed at this very point.
        if new.try_exists().map_err(io)? {
            fs::remove_file(new).map_err(io)?;
        }
        let database = guarded(|| Ok(Builder::new().set_cache_size(1 << 20).create(new)?))?;
        tables::initialize(&database)?;
        database.close()?;
        // Another process may have been quicker; then its file counts.
        match fs::hard_link(new, &self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Not every file system has links.
            Err(_) => fs::rename(new, &self.path).map_err(io)?,
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

impl Storage for DataFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        if file.metadata()?.len() == 0 {
            // redb would take it for a new one.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        FileBackend::new(file).map(|backend| Box::new(backend) as _).map_err(io::Error::other)
    }

    fn free(&self) -> io::Result<u64> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stat = statvfs(folder)?;
        // Including what is reserved for root: whether that is ours only a write can tell.
        Ok(stat.blocks_free().saturating_mul(stat.fragment_size()))
    }

    /// What counts as free may be reserved, or beyond a quota, so this asks for it and gives it back.
    fn probe(&self, bytes: u64) -> io::Result<()> {
        let probe = self.beside("probe");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&probe)?;
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        let given = fallocate(&file, FallocateFlags::empty(), 0, length).map_err(io::Error::from);
        drop(file);
        fs::remove_file(&probe)?;
        match given {
            // Not every file system can reserve: then the free blocks have to do.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => match self.free()? {
                free if free < bytes => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(()),
            },
            given => given,
        }
    }
}

/// Opens the database on a storage, checking all of it if it is no longer than `check_up_to`.
pub(super) fn open_database(storage: &dyn Storage, cache: usize, check_up_to: u64) -> Result<Database, Fault> {
    let backend = storage.open().map_err(|error| Fault::io(&error))?;
    let length = backend.len().map_err(|error| Fault::io(&error))?;
    guarded(|| {
        let database = Builder::new()
            .set_cache_size(cache)
            .set_check_integrity_on_open(length > 0 && length <= check_up_to)
            .create_with_backend(Boxed(backend))?;
        Ok(database)
    })
}

/// redb takes a backend by value, of a type that is known.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
