//! Mounts that only their own mount namespace sees.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::getppid;

use crate::{Result, SysError};

/// Moves this process into a mount namespace of its own. Mounts made on the host still arrive; ours never leave.
pub fn enter_private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| SysError::errno("creating a mount namespace", e))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| SysError::errno("making the mount namespace private", e))
}

/// Whose mount namespace is the host's, as a container sees it that shares the host's process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOf {
    /// Process 1's.
    Init,
    /// That of the container runtime, whose process started this one.
    Runtime,
}

/// Moves this process, which must have one thread, from a container into the host's mount and cgroup namespaces: paths are the host's from
/// then on, and so is the cgroup tree. Needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE.
///
/// The cgroup namespace goes along, since version 2 with `nsdelegate` lets no process out of the subtree of its namespace (cgroups(7)).
pub fn enter_host(of: HostOf) -> Result<()> {
    let process = match of {
        HostOf::Init => 1,
        HostOf::Runtime => getppid().as_raw(),
    };
    // A parent that can't be seen is 0.
    if process == 0 || std::process::id() == 1 {
        let problem = "the container has a process table of its own; set hostPID: true";
        return Err(SysError::io("joining the host's mount namespace", std::io::Error::other(problem)));
    }
    let mut found = Vec::new();
    // Opened before the first is joined: the second is found by a path of this namespace.
    for (name, flag) in [("mnt", CloneFlags::CLONE_NEWNS), ("cgroup", CloneFlags::CLONE_NEWCGROUP)] {
        let path = format!("/proc/{process}/ns/{name}");
        match std::fs::File::open(&path) {
            Ok(file) => found.push((path, file, flag)),
            // A kernel without cgroup namespaces.
            Err(e) if name == "cgroup" && e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(SysError::io(format!("opening {path} (needs CAP_SYS_PTRACE)"), e)),
        }
    }
    for (path, file, flag) in found {
        setns(file, flag).map_err(|e| SysError::errno(format!("joining {path}"), e))?;
    }
    Ok(())
}

/// The layers of a root file system. `lower` is topmost first and relative to the working directory, because mount options are limited
/// to one page.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    pub lower: &'a [String],
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// Mounts an overlay at `target`.
///
/// Where the kernel knows it (5.10), the option `volatile` is set: the upper layer is thrown away with the container, and without it the
/// last unmount would sync a whole file system while the container's death waits to be seen.
pub fn overlay(overlay: &Overlay<'_>, target: &Path) -> Result<()> {
    let attempted = || format!("mounting an overlay of {} layers on {}", overlay.lower.len(), target.display());
    for path in overlay.lower.iter().map(Path::new).chain([overlay.upper, overlay.work]) {
        // A colon separates layers, a comma options.
        if path.as_os_str().as_encoded_bytes().iter().any(|b| matches!(b, b':' | b',' | b'\\')) {
            let problem = format!("{} has a colon, comma or backslash in its path", path.display());
            return Err(SysError::io(attempted(), std::io::Error::other(problem)));
        }
    }
    let base = format!(
        "lowerdir={},upperdir={},workdir={}",
        overlay.lower.join(":"),
        overlay.upper.display(),
        overlay.work.display()
    );
    // The kernel reads at most one page of options and cuts the rest off.
    if base.len() + ",volatile".len() >= 4096 {
        let problem = format!("the options take {} bytes, 4096 are allowed: too many layers", base.len());
        return Err(SysError::io(attempted(), std::io::Error::other(problem)));
    }
    let volatile = format!("{base},volatile");
    match mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(volatile.as_str())) {
        Err(Errno::EINVAL) => mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(base.as_str()))
            .map_err(|e| SysError::errno(attempted(), e)),
        other => other.map_err(|e| SysError::errno(attempted(), e)),
    }
}

/// Puts an empty file system in place of what is mounted at `root`, and with it everything below, as this mount namespace sees it.
pub fn blank(root: &Path) -> Result<()> {
    let attempted = || format!("hiding {}", root.display());
    umount2(root, MntFlags::MNT_DETACH).map_err(|e| SysError::errno(attempted(), e))?;
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some("size=4k"))
        .map_err(|e| SysError::errno(attempted(), e))
}

/// Mounts an empty tmpfs at `target`, whose top directory has the permission bits `mode`.
pub fn tmpfs(target: &Path, mode: u32) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode={mode:o}");
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|e| SysError::errno(format!("mounting a tmpfs on {}", target.display()), e))
}

/// Takes the topmost mount at `target` away; whoever is in it keeps it until then.
pub fn unmount(target: &Path) -> Result<()> {
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| SysError::errno(format!("unmounting {}", target.display()), e))
}

/// Makes `target` another view of `source`.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| SysError::errno(format!("binding {} to {}", source.display(), target.display()), e))
}

/// Makes `target` another view of an open file or directory, and of what is mounted in it: of itself, not of what has its name by now.
pub fn bind_open(source: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let link = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(link.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| SysError::errno(format!("binding what was opened to {}", target.display()), e))
}

/// Whether this kernel has a file system, by its name in `/proc/filesystems`.
pub fn kernel_has(file_system: &str) -> Result<bool> {
    let path = "/proc/filesystems";
    let list = std::fs::read_to_string(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    Ok(list.lines().any(|l| l.split_ascii_whitespace().next_back() == Some(file_system)))
}

/// Mount points at or below `directory`, as this process sees them.
pub fn mounts_below(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read(path).map_err(|e| SysError::io(format!("reading {path}"), e))?;
    Ok(text
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(directory))
        .collect())
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        if let Some(value) = octal {
            out.push(value);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (from, to) in [(r"/a\040b", "/a b"), (r"/a\134b", r"/a\b"), ("/plain", "/plain"), (r"/end\04", r"/end\04")]
        {
            assert_eq!(unescape(from.as_bytes()), Path::new(to));
        }
    }

    #[test]
    fn the_kernel_has_proc() {
        assert!(kernel_has("proc").unwrap());
        assert!(!kernel_has("no-such-file-system").unwrap());
        assert_eq!(
            mounts_below(Path::new("/proc")).unwrap().first().map(std::path::PathBuf::as_path),
            Some(Path::new("/proc"))
        );
    }

    #[test]
    fn overlay_options_that_would_be_misread_are_refused() {
        let lower = vec!["a:b".to_owned()];
        let bad = Overlay { lower: &lower, upper: Path::new("/u"), work: Path::new("/w") };
        assert!(overlay(&bad, Path::new("/t")).unwrap_err().to_string().contains("colon"));
        let many: Vec<String> = (0..200).map(|i| format!("{i:032}")).collect();
        let long = Overlay { lower: &many, upper: Path::new("/u"), work: Path::new("/w") };
        assert!(overlay(&long, Path::new("/t")).unwrap_err().to_string().contains("too many layers"));
    }
}
