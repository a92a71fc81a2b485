//! Network namespaces with a name: a file that the namespace is bound to, so that it lives without a process in it.
//!
//! Threads of an async runtime must never stay in another namespace, so everything is done in a thread of its own that ends: a thread
//! that can't come back isn't missed.

use std::fs::{self, File};
use std::io::Error;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Result, SysError};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6e73_6673);

/// Whether `path` is a namespace, and not just the file that one was bound to before the node booted.
#[must_use]
pub fn exists(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes a network namespace, with loopback up, and binds it to `path`. One that is there stays.
pub fn create(path: &Path) -> Result<()> {
    if exists(path) {
        return Ok(());
    }
    let attempted = format!("making the network namespace {}", path.display());
    let io = |e| SysError::io(attempted.clone(), e);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io)?;
    }
    File::create(path).map_err(io)?;
    let made = in_thread(&attempted, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| SysError::errno(attempted.clone(), e))?;
        crate::netns::loopback_up()?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| SysError::errno(attempted.clone(), e))
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Removes the name; the namespace goes with the last process in it. One that isn't there is no error.
pub fn remove(path: &Path) -> Result<()> {
    let attempted = format!("removing the network namespace {}", path.display());
    while exists(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|e| SysError::errno(attempted.clone(), e))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(SysError::io(attempted, e)),
        _ => Ok(()),
    }
}

/// A descriptor of a namespace.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let attempted = format!("opening the network namespace {}", path.display());
    File::open(path).map(OwnedFd::from).map_err(|e| SysError::io(attempted, e))
}

/// Runs `work` in a namespace, in a thread of its own.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let attempted = format!("entering the network namespace {}", path.display());
    let namespace = open(path)?;
    in_thread(&attempted, || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| SysError::errno(attempted.clone(), e))?;
        work()
    })
}

/// Moves this process, which must have one thread, into a namespace.
pub fn enter(path: &Path) -> Result<()> {
    let attempted = format!("entering the network namespace {}", path.display());
    setns(open(path)?, CloneFlags::CLONE_NEWNET).map_err(|e| SysError::errno(attempted, e))
}

fn in_thread<T: Send>(attempted: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |text: &str| SysError::io(attempted, Error::other(text.to_owned()));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("pullpiri-netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|e| SysError::io(attempted, e))?;
        thread.join().map_err(|_| failed("the thread in it panicked"))?
    })
}
