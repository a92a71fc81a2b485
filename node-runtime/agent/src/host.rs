//! Volumes on the host: what must be so before a pod starts, and what is left of it afterwards.
//!
//! Files of ConfigMaps and Secrets are replaced all at once: a new directory is filled, the link `..data` is renamed to it, and the
//! visible names are links through `..data` (the layout that kubelets made known, so that programs that watch for it work).
//!
//! Files of Secrets are on a tmpfs of the volume's own, mounted where another volume has a directory. It outlives the agent, is gone after
//! a reboot (the pod's next start fills it again) and goes with the instance.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pullpiri_crds::model::HostPathType;
use pullpiri_node_core::plan::{File, HostStep, Medium};
use pullpiri_node_host::files::{self, BelowError};
use pullpiri_node_host::{SysError, mount};
use tracing::warn;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("volume {volume}: {path} is {found}; expected {expected}")]
    Kind { volume: String, path: PathBuf, found: &'static str, expected: &'static str },
    #[error("volume {volume}: {source} (subPath)")]
    SubPath { volume: String, source: BelowError },
    #[error("volume {volume}: {source}")]
    Mount { volume: String, source: SysError },
    #[error("volume {volume}: {attempted} {path}: {source}")]
    Io { volume: String, attempted: &'static str, path: PathBuf, source: std::io::Error },
}

/// Does each step, in order.
pub(crate) fn prepare(steps: &[HostStep]) -> Result<(), HostError> {
    steps.iter().try_for_each(|step| match step {
        HostStep::HostPath { volume, path, kind } => host_path(volume, path, *kind),
        HostStep::Directory { volume, path } => {
            // As kubelets make it: any user of the pod may write.
            make_directory(volume, path).and_then(|()| chmod(volume, path, 0o777))
        }
        HostStep::SubPath { volume, base, sub_path } => below(volume, base, sub_path),
        HostStep::Files { volume, directory, files, hash, medium } => {
            if *medium == Medium::Memory {
                hold_in_memory(volume, directory)?;
            }
            project(volume, directory, files, hash)
        }
        // The node's network does that.
        HostStep::Attach { .. } => Ok(()),
    })
}

fn io(volume: &str, attempted: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HostError {
    let (volume, path) = (volume.to_owned(), path.to_owned());
    move |source| HostError::Io { volume, attempted, path, source }
}

fn make_directory(volume: &str, path: &Path) -> Result<(), HostError> {
    fs::create_dir_all(path).map_err(io(volume, "making directory", path))
}

fn chmod(volume: &str, path: &Path, mode: u32) -> Result<(), HostError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io(volume, "setting permissions of", path))
}

fn host_path(volume: &str, path: &Path, kind: Option<HostPathType>) -> Result<(), HostError> {
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(io(volume, "looking at", path)(error)),
    };
    let (expected, fits): (&'static str, fn(&fs::FileType) -> bool) = match kind {
        None => ("anything", |_| true),
        Some(HostPathType::Directory | HostPathType::DirectoryOrCreate) => ("a directory", fs::FileType::is_dir),
        Some(HostPathType::File | HostPathType::FileOrCreate) => ("a file", fs::FileType::is_file),
        Some(HostPathType::Socket) => ("a socket", fs::FileType::is_socket),
        Some(HostPathType::CharDevice) => ("a character device", fs::FileType::is_char_device),
        Some(HostPathType::BlockDevice) => ("a block device", fs::FileType::is_block_device),
    };
    match (found, kind) {
        (Some(found), _) if fits(&found) => Ok(()),
        (None, None | Some(HostPathType::DirectoryOrCreate)) => make_directory(volume, path),
        (None, Some(HostPathType::FileOrCreate)) => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            file.map(drop).map_err(io(volume, "making file", path))
        }
        (found, _) => {
            let found = found.map_or("not there", |found| describe(&found));
            Err(HostError::Kind { volume: volume.to_owned(), path: path.to_owned(), found, expected })
        }
    }
}

fn describe(found: &fs::FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_file() {
        "a file"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_block_device() {
        "a block device"
    } else {
        "something else"
    }
}

/// Makes `base/sub_path` a directory if nothing is there. What it leads to is looked at again at each start of a container.
fn below(volume: &str, base: &Path, sub_path: &Path) -> Result<(), HostError> {
    let made = files::make_below(base, sub_path);
    made.map(drop).map_err(|source| HostError::SubPath { volume: volume.to_owned(), source })
}

/// Makes `directory` a tmpfs if it isn't one. Where that isn't allowed it stays on disk, as everything else of the node does.
fn hold_in_memory(volume: &str, directory: &Path) -> Result<(), HostError> {
    make_directory(volume, directory)?;
    let path = fs::canonicalize(directory).map_err(io(volume, "resolving", directory))?;
    let mounted = mount::mounts_below(&path).map_err(mounting(volume))?;
    if mounted.contains(&path) {
        return Ok(());
    }
    // What an earlier release, or one without the right to mount, left on disk.
    for entry in fs::read_dir(&path).map_err(io(volume, "reading", &path))? {
        let entry = entry.map_err(io(volume, "reading", &path))?;
        remove(volume, &entry.path())?;
    }
    match mount::tmpfs(&path, 0o755) {
        Err(error) if error.source.kind() == ErrorKind::PermissionDenied => {
            warn!(volume, %error, "a Secret's files are kept on disk");
            Ok(())
        }
        mounted => mounted.map_err(mounting(volume)),
    }
}

fn mounting(volume: &str) -> impl FnOnce(SysError) -> HostError {
    let volume = volume.to_owned();
    move |source| HostError::Mount { volume, source }
}

/// The link that visible names go through.
const DATA: &str = "..data";

fn project(volume: &str, directory: &Path, files: &BTreeMap<String, File>, hash: &str) -> Result<(), HostError> {
    make_directory(volume, directory)?;
    chmod(volume, directory, 0o755)?;
    let version = format!("..{hash}");
    let filled = directory.join(&version);
    let current = fs::read_link(directory.join(DATA)).ok();
    if current.as_deref() != Some(Path::new(&version)) {
        // What a crash left half filled.
        remove(volume, &filled)?;
        make_directory(volume, &filled)?;
        for (path, file) in files {
            let target = filled.join(path);
            if let Some(parent) = target.parent() {
                make_directory(volume, parent)?;
            }
            let written = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&target)
                .and_then(|mut opened| opened.write_all(file.content.bytes()));
            written.map_err(io(volume, "writing", &target))?;
            chmod(volume, &target, file.mode)?;
        }
        let fresh = directory.join("..data.new");
        remove(volume, &fresh)?;
        symlink(&version, &fresh).map_err(io(volume, "linking", &fresh))?;
        fs::rename(&fresh, directory.join(DATA)).map_err(io(volume, "renaming", &fresh))?;
    }
    // First parts only: `dir/file` is reached through the link `dir`.
    let visible: std::collections::BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = directory.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            remove(volume, &link)?;
            symlink(&target, &link).map_err(io(volume, "linking", &link))?;
        }
    }
    for entry in fs::read_dir(directory).map_err(io(volume, "reading", directory))? {
        let entry = entry.map_err(io(volume, "reading", directory))?;
        let name = entry.file_name();
        let keep = name.to_str().is_some_and(|name| name == DATA || name == version || visible.contains(name));
        if !keep {
            remove(volume, &entry.path())?;
        }
    }
    Ok(())
}

fn remove(volume: &str, path: &Path) -> Result<(), HostError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(volume, "removing", path)(error)),
        _ => Ok(()),
    }
}

/// Removes an instance's volumes. Mounts of it are gone with its pod.
pub(crate) fn remove_volumes(directory: &Path) -> Result<(), HostError> {
    let Ok(path) = fs::canonicalize(directory) else { return Ok(()) };
    // Those within others first.
    for mounted in mount::mounts_below(&path).map_err(mounting("*"))?.iter().rev() {
        mount::unmount(mounted).map_err(mounting("*"))?;
    }
    remove("*", directory)
}

/// The instances that have volumes below `volumes`.
pub(crate) fn directories(volumes: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(volumes) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> BTreeMap<String, File> {
        list.iter()
            .map(|(path, text, mode)| {
                ((*path).to_owned(), File { content: text.as_bytes().to_vec().into(), mode: *mode })
            })
            .collect()
    }

    #[test]
    fn files_are_replaced_all_at_once_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("conf");
        let read = |path: &str| fs::read_to_string(volume.join(path));
        project("conf", &volume, &files(&[("a", "1", 0o644), ("d/b", "2", 0o400)]), "h1").unwrap();
        assert_eq!((read("a").unwrap(), read("d/b").unwrap()), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(volume.join("d/b")).unwrap().permissions().mode() & 0o777, 0o400);
        let through_a_directory = fs::File::open(volume.join("a")).unwrap();
        project("conf", &volume, &files(&[("d", "3", 0o644)]), "h2").unwrap();
        assert_eq!(read("d").unwrap(), "3");
        assert!(read("a").is_err());
        drop(through_a_directory);
        let mut left: Vec<_> = fs::read_dir(&volume).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["..data", "..h2", "d"]);
        // Again is nothing.
        project("conf", &volume, &files(&[("d", "3", 0o644)]), "h2").unwrap();
        assert_eq!(read("d").unwrap(), "3");
    }

    #[test]
    fn secrets_are_held_in_memory_until_the_instance_goes() {
        let dir = tempfile::tempdir().unwrap();
        let instance = dir.path().join("uid");
        let volume = instance.join("key");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("left"), "on disk by an earlier release").unwrap();
        let step = |text: &str, hash: &str| HostStep::Files {
            volume: "key".into(),
            directory: volume.clone(),
            files: files(&[("token", text, 0o400)]),
            hash: hash.into(),
            medium: Medium::Memory,
        };
        prepare(&[step("1", "h1")]).unwrap();
        let mounts = || mount::mounts_below(&fs::canonicalize(dir.path()).unwrap()).unwrap().len();
        if mounts() == 0 {
            println!("skipped: no tmpfs can be mounted here");
            return;
        }
        assert!(!volume.join("left").exists());
        assert_eq!(fs::read_to_string(volume.join("token")).unwrap(), "1");
        // Another agent finds it, and changes it in place.
        prepare(&[step("2", "h2")]).unwrap();
        assert_eq!((mounts(), fs::read_to_string(volume.join("token")).unwrap()), (1, "2".into()));
        // Below the mount there is nothing.
        mount::unmount(&fs::canonicalize(&volume).unwrap()).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
        prepare(&[step("2", "h2")]).unwrap();
        remove_volumes(&instance).unwrap();
        assert!(!instance.exists());
        assert_eq!(mounts(), 0);
        remove_volumes(&instance).unwrap();
    }

    #[test]
    fn host_paths_are_checked_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        let check = |name: &str, kind| host_path("v", &path(name), kind).map_err(|error| error.to_string());
        assert_eq!(check("new/dir", Some(HostPathType::DirectoryOrCreate)), Ok(()));
        assert!(path("new/dir").is_dir());
        assert_eq!(check("new/file", Some(HostPathType::FileOrCreate)), Ok(()));
        assert_eq!(check("file", Some(HostPathType::FileOrCreate)), Ok(()));
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "x");
        assert_eq!(check("any", None), Ok(()));
        assert_eq!(
            host_path("v", Path::new("/dev/null"), Some(HostPathType::CharDevice)).map_err(|e| e.to_string()),
            Ok(())
        );
        for (name, kind, expected) in [
            ("gone", HostPathType::Directory, "gone is not there; expected a directory"),
            ("file", HostPathType::DirectoryOrCreate, "file is a file; expected a directory"),
            ("new", HostPathType::File, "new is a directory; expected a file"),
            ("file", HostPathType::Socket, "file is a file; expected a socket"),
        ] {
            let error = check(name, Some(kind)).unwrap_err();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("volume");
        fs::create_dir_all(base.join("inner")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("../outside", base.join("out")).unwrap();
        symlink("inner", base.join("in")).unwrap();
        below("v", &base, Path::new("a/b")).unwrap();
        assert!(base.join("a/b").is_dir());
        below("v", &base, Path::new("in/c")).unwrap();
        assert!(base.join("inner/c").is_dir());
        let error = below("v", &base, Path::new("out/c")).unwrap_err().to_string();
        assert!(error.contains("out/c leads out of"), "{error}");
        assert!(!dir.path().join("outside/c").exists());
    }
}
