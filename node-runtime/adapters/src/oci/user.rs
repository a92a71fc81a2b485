//! The user a container runs as: numbers as they are, names by the image's own `/etc/passwd` and `/etc/group`.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use pullpiri_node_core::runtime::Security;
use pullpiri_node_host::files::{self, Root};

/// The most of a password file that is read.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
}

/// `image_user` is the image's (`name`, `uid`, `name:group`, …), which the specification's numbers override. `layers` are the image's
/// unpacked layers, topmost first.
pub(super) fn resolve(image_user: &str, security: &Security, layers: &[PathBuf]) -> Result<User, String> {
    let passwd = read(layers, "etc/passwd");
    let group = read(layers, "etc/group");
    from_files(image_user, security, &passwd, &group)
}

fn from_files(image_user: &str, security: &Security, passwd: &str, group: &str) -> Result<User, String> {
    let (user_name, group_name) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (image_user, None),
    };
    let wanted = match security.user {
        Some(uid) => Wanted::Id(uid),
        None if user_name.is_empty() => Wanted::Id(0),
        None => user_name.parse().map_or(Wanted::Name(user_name), Wanted::Id),
    };
    // name:password:uid:gid:comment:home:shell
    let entry = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|fields| match wanted {
        Wanted::Id(uid) => fields.get(2).and_then(|f| f.parse().ok()) == Some(uid),
        Wanted::Name(name) => fields.first() == Some(&name),
    });
    let field = |index: usize| entry.as_ref().and_then(|e| e.get(index)).copied();
    let uid = match wanted {
        Wanted::Id(uid) => uid,
        Wanted::Name(name) => field(2)
            .and_then(|f| f.parse().ok())
            .ok_or_else(|| format!("the image's user {name:?} is not in its /etc/passwd"))?,
    };
    let gid = match (security.group, group_name) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user.
        (None, Some(name)) if security.user.is_none() => match name.parse() {
            Ok(gid) => gid,
            Err(_) => {
                group_id(group, name).ok_or_else(|| format!("the image's group {name:?} is not in its /etc/group"))?
            }
        },
        (None, _) => field(3).and_then(|f| f.parse().ok()).unwrap_or(0),
    };
    let additional_gids = match field(0) {
        Some(name) if group_name.is_none() && security.group.is_none() => memberships(group, name, gid),
        _ => Vec::new(),
    };
    let home = field(5).filter(|h| h.starts_with('/')).unwrap_or(if uid == 0 { "/root" } else { "/" });
    Ok(User { uid, gid, additional_gids, home: home.to_owned() })
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

fn group_id(group: &str, name: &str) -> Option<u32> {
    group.lines().find_map(|l| {
        let mut fields = l.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// name:password:gid:member,member
fn memberships(group: &str, user: &str, primary: u32) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(|l| {
            let fields: Vec<&str> = l.split(':').collect();
            let member = fields.get(3)?.split(',').any(|m| m == user);
            fields.get(2)?.parse().ok().filter(|gid| member && *gid != primary)
        })
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// A file of the image: the topmost layer that has it or hides it decides. Empty if there is none.
fn read(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        let Ok(root) = Root::open(layer) else { continue };
        if root.open_within(Path::new(path), OFlag::O_PATH | OFlag::O_NOFOLLOW).is_err() {
            match Path::new(path).parent() {
                Some(directory) if hides(&root, directory) => return String::new(),
                _ => continue,
            }
        }
        // A whiteout is a device, which must not be read.
        let text =
            root.open_within(Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok().map(File::from).and_then(
                |file| {
                    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
                    let mut bytes = Vec::new();
                    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
                    Some(String::from_utf8_lossy(&bytes).into_owned())
                },
            );
        return text.unwrap_or_default();
    }
    String::new()
}

/// Whether a layer has something in place of a directory of those below it: a whiteout, or one that is opaque.
fn hides(layer: &Root, directory: &Path) -> bool {
    let Ok(found) = layer.open_within(directory, OFlag::O_PATH | OFlag::O_NOFOLLOW) else { return false };
    let found = File::from(found);
    let is_opaque = || {
        let path = files::path_of(found.as_fd()).ok()?;
        files::get_xattr(&path, "trusted.overlay.opaque").ok()?
    };
    found.metadata().is_ok_and(|metadata| !metadata.is_dir()) || is_opaque().as_deref() == Some(b"y")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nodd\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other\n";

    fn resolved(image: &str, user: Option<u32>, group: Option<u32>) -> Result<(u32, u32, Vec<u32>, String), String> {
        let security = Security { user, group, ..Security::default() };
        from_files(image, &security, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.additional_gids, u.home))
    }

    #[test]
    fn users_are_resolved_by_the_image() {
        let ok = |u, g, more: &[u32], home: &str| Ok((u, g, more.to_vec(), home.to_owned()));
        assert_eq!(resolved("", None, None), ok(0, 0, &[], "/root"));
        assert_eq!(resolved("app", None, None), ok(1000, 1001, &[29], "/home/app"));
        assert_eq!(resolved("1000", None, None), ok(1000, 1001, &[29], "/home/app"));
        assert_eq!(resolved("app:video", None, None), ok(1000, 44, &[], "/home/app"));
        assert_eq!(resolved("app:7", None, None), ok(1000, 7, &[], "/home/app"));
        assert_eq!(resolved("4242", None, None), ok(4242, 0, &[], "/"));
        assert_eq!(resolved("app", Some(5), None), ok(5, 0, &[], "/"));
        assert_eq!(resolved("app:video", Some(0), Some(9)), ok(0, 9, &[], "/root"));
        assert_eq!(resolved("app:", None, None), ok(1000, 1001, &[29], "/home/app"));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(resolved("nobody", None, None).unwrap_err().contains("nobody"));
        assert!(resolved("app:wheel", None, None).unwrap_err().contains("wheel"));
    }

    #[test]
    fn the_topmost_layer_decides_and_a_link_out_of_it_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.join("etc")).unwrap();
            path
        };
        let (top, bottom) = (layer("top"), layer("bottom"));
        std::fs::write(bottom.join("etc/passwd"), "low").unwrap();
        assert_eq!(read(&[top.clone(), bottom.clone()], "etc/passwd"), "low");
        std::os::unix::fs::symlink("/etc/hostname", top.join("etc/passwd")).unwrap();
        assert_eq!(read(&[top.clone(), bottom.clone()], "etc/passwd"), "");
        // Something else in place of the directory, or the directory made anew.
        let (none, anew) = (dir.path().join("none"), layer("anew"));
        std::fs::create_dir(&none).unwrap();
        std::fs::write(none.join("etc"), "").unwrap();
        assert_eq!(read(&[none, bottom.clone()], "etc/passwd"), "");
        let directory = File::open(&anew).unwrap();
        match files::set_xattr(directory.as_fd(), "etc".as_ref(), "trusted.overlay.opaque".as_ref(), b"y") {
            Ok(()) => assert_eq!(read(&[anew, bottom], "etc/passwd"), ""),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
