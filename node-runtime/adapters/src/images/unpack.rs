//! Unpacking a layer: a tar of changes becomes a directory that an overlay can stack.
//!
//! Deletions are recorded as overlayfs records them: a removed file (`.wh.name`) is a character device 0:0, a directory that hides
//! the one below (`.wh..wh..opq`) has the attribute `trusted.overlay.opaque`. Ownership, modes, times and extended attributes are the
//! archive's. Sources: OCI image specification, layer.md; Linux, Documentation/filesystems/overlayfs.rst.
//!
//! Nothing is ever made outside the target: parents are resolved by the kernel inside it (openat2, RESOLVE_IN_ROOT), and names with
//! `..` are refused.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use pullpiri_node_host::files::{Root, set_xattr};

use super::{ImageError, Result};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// aufs' own files.
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// Unpacks the plain tar `reader` into the empty directory `target`. `layer` names it in errors.
pub(super) fn unpack(reader: impl Read, target: &Path, layer: &str) -> Result<()> {
    let damaged = |e: io::Error| entry_error(layer, "", &e);
    let root = Root::open(target)?;
    let mut unpacker = Unpacker { root, parent: None, directory_times: BTreeMap::new() };
    let mut archive = tar::Archive::new(reader);
    archive.set_ignore_zeros(false);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path_bytes().into_owned();
        unpacker.entry(&mut entry).map_err(|e| entry_error(layer, &String::from_utf8_lossy(&name), &e))?;
    }
    unpacker.finish().map_err(damaged)
}

fn entry_error(layer: &str, entry: &str, error: &io::Error) -> ImageError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return ImageError::NoSpace { attempted: format!("unpacking layer {layer}") };
    }
    ImageError::Entry { layer: layer.to_owned(), entry: entry.to_owned(), problem: error.to_string() }
}

struct Unpacker {
    root: Root,
    /// The parent of the last entry: neighbours in the archive are neighbours on disk.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Making entries changes their directory's time, so these are set last.
    directory_times: BTreeMap<PathBuf, u64>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, tar::EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(Path::new(OsStr::from_bytes(&entry.path_bytes())))?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return self.root_directory(entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.parent(&parent_path)?;
        if name.as_bytes() == OPAQUE {
            let (above, own) = split(&parent_path);
            let directory = self.root.open_within(above, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(plain)?;
            return set_xattr(directory.as_fd(), own, OsStr::new("trusted.overlay.opaque"), b"y").map_err(plain);
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.contains(&b'/') {
                return Err(io::Error::other("a whiteout of no name"));
            }
            return mknodat(&parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
                .or_else(|e| if e == Errno::EEXIST { Ok(()) } else { Err(e) })
                .map_err(io::Error::from);
        }
        self.make(entry, kind, &parent, &name)?;
        if matches!(kind, tar::EntryType::Link) {
            // It is the same file as its target, whose attributes were set with it.
            return Ok(());
        }
        self.attributes(entry, kind, &parent, &name, &path)
    }

    fn make<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        kind: tar::EntryType,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<()> {
        if !matches!(kind, tar::EntryType::Directory) {
            clear_way(parent, name)?;
        }
        let device = |entry: &tar::Entry<'_, R>| -> io::Result<libc::dev_t> {
            let major = entry.header().device_major()?.unwrap_or(0);
            let minor = entry.header().device_minor()?.unwrap_or(0);
            Ok(makedev(u64::from(major), u64::from(minor)))
        };
        match kind {
            tar::EntryType::Directory => match nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => Ok(()),
                Err(Errno::EEXIST) => {
                    let there = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                    if SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
                        return Ok(());
                    }
                    clear_way(parent, name)?;
                    Ok(nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755))?)
                }
                Err(e) => Err(e.into()),
            },
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
                let written = io::copy(entry, &mut file)?;
                file.flush()?;
                if written != entry.size() {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("it is truncated: {written} of {} bytes", entry.size()),
                    ));
                }
                Ok(())
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a symbolic link to nowhere"))?;
                Ok(symlinkat(OsStr::from_bytes(&target), parent, name)?)
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a hard link to nowhere"))?;
                let target = clean(Path::new(OsStr::from_bytes(&target)))?;
                let (above, own) = split(&target);
                let from = self.root.open_within(above, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(plain)?;
                linkat(&from, own, parent, name, LinkatFlags::empty()).map_err(|e| {
                    io::Error::new(io::Error::from(e).kind(), format!("linking to {}: {e}", target.display()))
                })
            }
            tar::EntryType::Char => {
                Ok(mknodat(parent, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), device(entry)?)?)
            }
            tar::EntryType::Block => {
                Ok(mknodat(parent, name, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), device(entry)?)?)
            }
            tar::EntryType::Fifo => Ok(mknodat(parent, name, SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)?),
            other => Err(io::Error::other(format!("entries of type {other:?} aren't supported"))),
        }
    }

    fn attributes<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: tar::EntryType,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let (uid, gid) = owner(entry)?;
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !matches!(kind, tar::EntryType::Symlink) {
            // After the owner: a change of owner clears set-user-ID. The name was just made and is no symbolic link.
            fchmodat(parent, name, mode(entry)?, FchmodatFlags::FollowSymlink)?;
        }
        for (attribute, value) in xattrs(entry)? {
            match set_xattr(parent.as_fd(), name, OsStr::from_bytes(&attribute), &value) {
                // File systems differ in which they keep; a user attribute on a symbolic link exists nowhere.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => {
                    tracing::debug!(path = %path.display(), error = %e, "extended attribute not kept");
                }
                other => other.map_err(plain)?,
            }
        }
        let time = entry.header().mtime()?;
        if matches!(kind, tar::EntryType::Directory) {
            self.directory_times.insert(path.to_owned(), time);
            Ok(())
        } else {
            set_time(parent, name, time)
        }
    }

    fn root_directory<R: Read>(&mut self, entry: &tar::Entry<'_, R>) -> io::Result<()> {
        let (uid, gid) = owner(entry)?;
        fchownat(&self.root, ".", Some(uid), Some(gid), AtFlags::empty())?;
        fchmodat(&self.root, ".", mode(entry)?, FchmodatFlags::FollowSymlink)?;
        self.directory_times.insert(PathBuf::new(), entry.header().mtime()?);
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match &self.parent {
            Some((last, fd)) if last == path => fd.try_clone(),
            _ => {
                let fd = self.root.make_directories(path).map_err(plain)?;
                let copy = fd.try_clone()?;
                self.parent = Some((path.to_owned(), fd));
                Ok(copy)
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        // Deepest first: setting a child's time doesn't change its parent's, but the order costs nothing and needs no thought.
        for (path, time) in self.directory_times.iter().rev() {
            match self.root.open_within(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Ok(directory) => set_time(&directory, OsStr::new("."), *time)?,
                // A later entry replaced it.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(e) => return Err(plain(e)),
            }
        }
        Ok(())
    }
}

/// The kernel's error without what was attempted: the entry's name says that.
fn plain(error: pullpiri_node_host::SysError) -> io::Error {
    error.source
}

/// Inside the root, without `.`; an absolute name counts from the root, as every tool has it.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("{} leads out of the image", path.display())));
            }
        }
    }
    Ok(out)
}

fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or(OsStr::new(".")))
}

/// Removes what an earlier entry of the layer made under this name.
fn clear_way(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(()),
            Err(Errno::ENOTEMPTY) => Err(io::Error::other("it replaces a directory that isn't empty")),
            Err(e) => Err(e.into()),
        },
        Err(e) => Err(e.into()),
    }
}

fn owner<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    let header = entry.header();
    // Some writers leave fields empty; every reader takes that for zero.
    let id = |field: &[u8], value: io::Result<u64>| -> io::Result<u32> {
        if field.iter().all(|b| matches!(b, 0 | b' ')) {
            return Ok(0);
        }
        let value = value?;
        u32::try_from(value).map_err(|_| io::Error::other(format!("owner {value} is no user or group id")))
    };
    let old = header.as_old();
    Ok((Uid::from_raw(id(&old.uid, header.uid())?), Gid::from_raw(id(&old.gid, header.gid())?)))
}

fn mode<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<Mode> {
    Ok(Mode::from_bits_truncate(entry.header().mode()? & 0o7777))
}

fn set_time(directory: &impl AsFd, name: &OsStr, seconds: u64) -> io::Result<()> {
    let time = TimeSpec::new(i64::try_from(seconds).unwrap_or(i64::MAX), 0);
    Ok(utimensat(directory, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Extended attributes as GNU tar, bsdtar and every image builder write them.
fn xattrs<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.".as_slice()) {
                // Overlay's own attributes steer the mount; an image has no business setting them.
                if !name.starts_with(b"trusted.overlay.") {
                    found.push((name.to_owned(), extension.value_bytes().to_owned()));
                }
            }
        }
    }
    Ok(found)
}
