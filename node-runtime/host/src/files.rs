//! Files: durable replacement, locks, and unpacking inside a directory that nothing can lead out of.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::{Result, SysError};

/// Whether a written file must survive a power cut or only its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced before it takes its name.
    PowerCut,
    /// For what means nothing after a reboot.
    ProcessDeath,
}

/// Replaces `path` by `bytes` so that a reader sees the old or the new content, never a part. Readable by the owner alone.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let attempted = || format!("writing {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|e| SysError::io(attempted(), e))?;
    let written = file.write_all(bytes).and_then(|()| match durability {
        Durability::PowerCut => file.sync_data(),
        Durability::ProcessDeath => Ok(()),
    });
    drop(file);
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|e| {
        // What is half-written is of no use; that it can't be removed either adds nothing to the error.
        let _ = std::fs::remove_file(&temporary);
        SysError::io(attempted(), e)
    })
}

/// Makes a directory's entries durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(|e| SysError::io(format!("syncing directory {}", path.display()), e))
}

/// Makes everything written to the file system of `path` durable.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let attempted = || format!("syncing the file system of {}", path.display());
    let directory = File::open(path).map_err(|e| SysError::io(attempted(), e))?;
    nix::unistd::syncfs(&directory).map_err(|e| SysError::errno(attempted(), e))
}

/// Makes `path` with its parents where missing, and closed to all but its owner each time, whoever made it and however. What is another's
/// stays as it is.
pub fn private_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::metadata(path)?;
    if found.mode() & 0o077 == 0 || found.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// A lock on a file, held until dropped by every process that the descriptor was sent to.
pub type Lock = Flock<File>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// Locks a file, waiting for others; it is made if it is missing.
pub fn lock(path: &Path, kind: LockKind) -> Result<Lock> {
    let attempted = || format!("locking {}", path.display());
    let file = open_lock(path).map_err(|e| SysError::io(attempted(), e))?;
    let mut file = file;
    loop {
        let how = match kind {
            LockKind::Shared => FlockArg::LockShared,
            LockKind::Exclusive => FlockArg::LockExclusive,
        };
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, e)) => return Err(SysError::errno(attempted(), e)),
        }
    }
}

/// Locks a file until every process that has a copy of the descriptor has closed it: the lock outlives its maker in those it was handed
/// to. `None` if another has it.
pub fn lock_to_hand_on(path: &Path) -> Result<Option<OwnedFd>> {
    let attempted = || format!("locking {}", path.display());
    let file = open_lock(path).map_err(|e| SysError::io(attempted(), e))?;
    // SAFETY: flock takes an open descriptor and a number. nix's wrapper would unlock when dropped, for all copies.
    #[allow(unsafe_code)]
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if locked == 0 {
        return Ok(Some(file.into()));
    }
    let error = SysError::last(attempted());
    if error.raw_os_error() == Some(libc::EWOULDBLOCK) { Ok(None) } else { Err(error) }
}

/// Locks a file for this process alone, or says that another has it; it is made if it is missing.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    try_lock_open(open_lock(path), path)
}

/// As [`try_lock`], for a directory, which must be there.
pub fn try_lock_directory(path: &Path) -> Result<Option<Lock>> {
    let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
    try_lock_open(open, path)
}

fn try_lock_open(file: std::io::Result<File>, path: &Path) -> Result<Option<Lock>> {
    let attempted = || format!("locking {}", path.display());
    let file = file.map_err(|e| SysError::io(attempted(), e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(SysError::errno(attempted(), e)),
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// A directory that path resolution never leaves, whatever symbolic links are in it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    pub fn open(path: &Path) -> Result<Self> {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map(Self)
            .map_err(|e| SysError::errno(format!("opening directory {}", path.display()), e))
    }

    /// Opens what `path` leads to; symbolic links are followed inside the root.
    pub fn open_within(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        loop {
            match openat2(&self.0, path, how) {
                Ok(fd) => return Ok(fd),
                // A rename elsewhere raced with the resolution of `..`.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(SysError::errno(format!("opening {}", path.display()), e)),
            }
        }
    }

    /// The directory `path`, made with its parents where missing (owner root, mode 0755). `..` is refused.
    pub fn make_directories(&self, path: &Path) -> Result<OwnedFd> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        if let Ok(fd) = self.open_within(path, directory) {
            return Ok(fd);
        }
        let mut so_far = std::path::PathBuf::new();
        let mut at = self.open_within(Path::new("."), directory)?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(SysError::errno(format!("making directory {}", path.display()), Errno::EINVAL));
                }
            };
            match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(SysError::errno(format!("making directory {}", path.display()), e)),
            }
            so_far.push(name);
            at = self.open_within(&so_far, directory)?;
        }
        Ok(at)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a path below a directory wasn't reached.
#[derive(Debug, thiserror::Error)]
pub enum BelowError {
    #[error("{} leads out of {}", path.display(), base.display())]
    Escapes { base: PathBuf, path: PathBuf },
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// How often a path is tried that others rename parts of meanwhile.
const BELOW_TRIES: usize = 64;

/// Opens (`O_PATH`) what `path` leads to from `base`. Symbolic links are followed as long as they stay below it: the kernel looks them up
/// and checks them in one step (openat2(2), `RESOLVE_BENEATH`), and what is opened stays what it is, whatever takes its name afterwards.
///
/// # Errors
/// [`BelowError::Escapes`]: a link, or `..`, leads out of `base`.
pub fn open_below(base: &Path, path: &Path) -> std::result::Result<OwnedFd, BelowError> {
    let root = Root::open(base)?;
    below(&root, base, path).map_err(|e| below_error(base, path, e))
}

/// [`open_below`], having made directories (mode 0755) where nothing is there.
pub fn make_below(base: &Path, path: &Path) -> std::result::Result<OwnedFd, BelowError> {
    let root = Root::open(base)?;
    let failed = |e| below_error(base, path, e);
    match below(&root, base, path) {
        Err(Errno::ENOENT) => {}
        found => return found.map_err(failed),
    }
    let mut so_far = PathBuf::new();
    let mut at = below(&root, base, Path::new(".")).map_err(failed)?;
    for part in path.components() {
        so_far.push(part);
        at = match below(&root, base, &so_far) {
            Err(Errno::ENOENT) => {
                match mkdirat(&at, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(failed(e)),
                }
                below(&root, base, &so_far)
            }
            found => found,
        }
        .map_err(failed)?;
    }
    Ok(at)
}

fn below(root: &Root, base: &Path, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    debug_assert!(base.is_absolute());
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let mut outcome = Err(Errno::EAGAIN);
    for _ in 0..BELOW_TRIES {
        outcome = openat2(root, path, how);
        // EAGAIN: a rename elsewhere raced with the resolution of `..`.
        if !matches!(outcome, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    outcome
}

fn below_error(base: &Path, path: &Path, error: Errno) -> BelowError {
    match error {
        Errno::EXDEV => BelowError::Escapes { base: base.to_owned(), path: path.to_owned() },
        e => SysError::errno(format!("opening {}", base.join(path).display()), e).into(),
    }
}

/// Where an open file or directory is now.
pub fn path_of(file: BorrowedFd<'_>) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(&link).map_err(|e| SysError::io(format!("reading {link}"), e))
}

/// Sets an extended attribute of the entry `name` of a directory; a symbolic link's own.
pub fn set_xattr(directory: BorrowedFd<'_>, name: &OsStr, attribute: &OsStr, value: &[u8]) -> Result<()> {
    let attempted = || format!("setting attribute {} of {}", attribute.display(), name.display());
    let invalid = |_| SysError::errno(attempted(), Errno::EINVAL);
    // The directory's descriptor may be an O_PATH one, and the entry must not be followed: by way of /proc only the last component
    // is looked up.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let path = CString::new(path).map_err(invalid)?;
    let attribute_c = CString::new(attribute.as_bytes()).map_err(invalid)?;
    // SAFETY: both strings end in NUL and the value's pointer and length belong together; all outlive the call.
    #[allow(unsafe_code)]
    let set = unsafe { libc::lsetxattr(path.as_ptr(), attribute_c.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if set == 0 { Ok(()) } else { Err(SysError::last(attempted())) }
}

/// Reads an extended attribute of a path, not following a last symbolic link; `None` if it has none.
pub fn get_xattr(path: &Path, attribute: &str) -> Result<Option<Vec<u8>>> {
    let attempted = || format!("reading attribute {attribute} of {}", path.display());
    let invalid = |_| SysError::errno(attempted(), Errno::EINVAL);
    let path_c = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
    let attribute_c = CString::new(attribute).map_err(invalid)?;
    let mut value = vec![0_u8; 65_536];
    // SAFETY: both strings end in NUL; the buffer's pointer and length belong together; all outlive the call.
    #[allow(unsafe_code)]
    let got = unsafe { libc::lgetxattr(path_c.as_ptr(), attribute_c.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if let Ok(length) = usize::try_from(got) {
        value.truncate(length);
        return Ok(Some(value));
    }
    let error = SysError::last(attempted());
    if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::ENOTSUP)) { Ok(None) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        replace(&path, b"one", Durability::PowerCut).unwrap();
        replace(&path, b"two", Durability::ProcessDeath).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/proc/no/such"), b"x", Durability::PowerCut).is_err());
    }

    #[test]
    fn a_lock_excludes_others_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, LockKind::Exclusive).unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
        assert!(try_lock_directory(dir.path()).unwrap().is_some());
        assert!(try_lock_directory(&dir.path().join("absent")).is_err());
        assert!(!dir.path().join("absent").exists());
    }

    #[test]
    fn a_lock_that_was_handed_on_stays_until_the_last_copy_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock_to_hand_on(&path).unwrap().unwrap();
        let copy = first.try_clone().unwrap();
        drop(first);
        assert!(lock_to_hand_on(&path).unwrap().is_none());
        assert!(try_lock(&path).unwrap().is_none());
        drop(copy);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_directory_is_closed_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/images");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        private_directory(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o700, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_path_below_stays_below() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("volume");
        std::fs::create_dir_all(base.join("inner")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("../outside", base.join("out")).unwrap();
        symlink("/", base.join("root")).unwrap();
        symlink("inner", base.join("in")).unwrap();
        let made = make_below(&base, Path::new("in/a/b")).unwrap();
        assert_eq!(path_of(made.as_fd()).unwrap(), base.canonicalize().unwrap().join("inner/a/b"));
        open_below(&base, Path::new("in/a")).unwrap();
        for path in ["out", "out/x", "root", "root/etc", "../outside", "in/../../outside", "/etc"] {
            for outcome in [open_below(&base, Path::new(path)), make_below(&base, Path::new(path))] {
                assert!(matches!(outcome, Err(BelowError::Escapes { .. })), "{path}: {outcome:?}");
            }
        }
        assert!(matches!(open_below(&base, Path::new("absent")), Err(BelowError::Sys(_))));
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
        // What was opened isn't what took its name.
        std::fs::rename(base.join("inner"), base.join("moved")).unwrap();
        symlink("/etc", base.join("inner")).unwrap();
        assert_eq!(path_of(made.as_fd()).unwrap(), base.canonicalize().unwrap().join("moved/a/b"));
    }

    #[test]
    fn a_root_is_never_left() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_directories(Path::new("a/b/c")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        // The link's target is looked up below the root, where it doesn't exist.
        assert!(root.open_within(Path::new("out"), OFlag::O_PATH | OFlag::O_DIRECTORY).is_err());
        assert!(root.make_directories(Path::new("out/x")).is_err());
        assert!(root.make_directories(Path::new("nowhere/../../x")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
