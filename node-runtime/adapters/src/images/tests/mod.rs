//! The store, on archives made here.

mod damage;
mod shared;

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One entry of a layer.
enum Entry<'a> {
    Dir(&'a str, u32),
    File(&'a str, &'a str),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
    Char(&'a str, u32, u32),
    Fifo(&'a str),
    /// A file with a PAX extended attribute.
    Attribute(&'a str, &'a str, &'a str),
}

fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000_000);
        header.set_mode(0o640);
        header.set_size(0);
        let (name, kind, link, text) = match entry {
            Entry::Dir(name, mode) => {
                header.set_mode(*mode);
                (*name, tar::EntryType::Directory, None, "")
            }
            Entry::File(name, text) => (*name, tar::EntryType::Regular, None, *text),
            Entry::Symlink(name, to) => (*name, tar::EntryType::Symlink, Some(*to), ""),
            Entry::Hardlink(name, to) => (*name, tar::EntryType::Link, Some(*to), ""),
            Entry::Char(name, major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (*name, tar::EntryType::Char, None, "")
            }
            Entry::Fifo(name) => (*name, tar::EntryType::Fifo, None, ""),
            Entry::Attribute(name, attribute, value) => {
                tar.append_pax_extensions([(format!("SCHILY.xattr.{attribute}").as_str(), value.as_bytes())]).unwrap();
                (*name, tar::EntryType::Regular, None, "x")
            }
        };
        header.set_entry_type(kind);
        header.set_size(u64::try_from(text.len()).unwrap());
        // Names that the tar crate would refuse to write are written all the same.
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, Cursor::new(text.as_bytes())).unwrap();
    }
    tar.into_inner().unwrap()
}

#[derive(Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

fn members(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len()).unwrap());
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    json!({
        "config": { "Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=b=c", "EMPTY="], "User": "app", "WorkingDir": "/w", "StopSignal": "SIGQUIT" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

fn oci_files(reference: Option<&str>, layers: &[(Vec<u8>, Packing)]) -> Vec<(String, Vec<u8>)> {
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let plain: Vec<Vec<u8>> = layers.iter().map(|(l, _)| l.clone()).collect();
    let config = config(&plain);
    let packed: Vec<Vec<u8>> = layers.iter().map(|(l, p)| pack(l, *p)).collect();
    let descriptor = |bytes: &[u8]| json!({"digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor(&config),
        "layers": packed.iter().map(|l| descriptor(l)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let mut top = descriptor(&manifest);
    if let Some(reference) = reference {
        top["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
    }
    let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string().into_bytes();
    let mut files = vec![("oci-layout".to_owned(), b"{}".to_vec()), ("index.json".to_owned(), index)];
    files.extend(packed.iter().map(|l| blob(l)));
    files.extend([blob(&config), blob(&manifest)]);
    files
}

fn docker_files(tags: &[&str], layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let config = config(layers);
    let name = format!("{}.json", Digest::of(&config).hex());
    let paths: Vec<String> = (0..layers.len()).map(|i| format!("layer{i}/layer.tar")).collect();
    let manifest = json!([{ "Config": name, "RepoTags": tags, "Layers": paths }]).to_string().into_bytes();
    let mut files = vec![("manifest.json".to_owned(), manifest), (name, config)];
    files.extend(paths.into_iter().zip(layers.iter().cloned()));
    files
}

struct Rig {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        Self { dir, store }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, files: &[(String, Vec<u8>)]) -> Result<Vec<LoadedImage>> {
        self.store.load(&self.write("archive.tar", &members(files)))
    }

    fn layer_dir(&self, image: &Image, from_top: usize) -> PathBuf {
        self.store.layers_dir().join(&image.lower_dirs()[from_top])
    }

    fn names(&self, sub: &str) -> Vec<String> {
        list_names(&self.store.dir.join(sub)).unwrap().into_iter().collect()
    }

    /// What a failed load must leave.
    fn assert_untouched(&self) {
        assert!(self.store.list().unwrap().is_empty());
        for sub in ["layers", "tmp", "configs", "uses"] {
            assert_eq!(self.names(sub), Vec::<String>::new(), "{sub}");
        }
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: layers keep their owners, which needs root");
    }
    root
}

#[test]
fn a_built_archive_is_loaded_and_found_by_every_name() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let program = rig.write("program", b"#!");
    let out = rig.dir.path().join("built.tar");
    let args = ["/bin/p".to_owned(), "--flag".to_owned()];
    let env = [("A".to_owned(), "1".to_owned())];
    build::archive(&out, "blis:1.0", &[(program.clone(), "/bin/p".into(), 0o755)], &args, &env).unwrap();
    let again = rig.dir.path().join("again.tar");
    build::archive(&again, "blis:1.0", &[(program, "/bin/p".into(), 0o755)], &args, &env).unwrap();
    assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap(), "the same files give the same archive");

    let loaded = rig.store.load(&out).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].references, ["docker.io/library/blis:1.0"]);
    let options = build::Options {
        labels: [("a.b/c".to_owned(), "1".to_owned())].into(),
        user: Some("65532:65532".to_owned()),
        ..build::Options::default()
    };
    let program = rig.write("labelled", b"#!");
    let labelled = rig.dir.path().join("labelled.tar");
    build::archive_with(&labelled, "rdv:1.0", &[(program, "/bin/p".into(), 0o755)], &args, &options).unwrap();
    rig.store.load(&labelled).unwrap();
    assert_eq!(rig.store.resolve("rdv:1.0").unwrap().unwrap().config.user, "65532:65532");
    let image = rig.store.resolve("blis:1.0").unwrap().unwrap();
    assert_eq!(image.config.entrypoint, args);
    assert_eq!(image.config.env, env);
    let manifest = image.manifest.clone().unwrap();
    for name in [
        "docker.io/library/blis:1.0".to_owned(),
        image.id.to_string(),
        image.id.hex().to_owned(),
        format!("blis@{manifest}"),
        format!("blis:other@{manifest}"),
        manifest.to_string(),
    ] {
        assert_eq!(rig.store.resolve(&name).unwrap().as_ref(), Some(&image), "{name}");
    }
    for name in ["blis", "blis:2", "localhost/blis:1.0"] {
        assert_eq!(rig.store.resolve(name).unwrap(), None, "{name}");
    }
    assert!(rig.store.resolve("Not A Name").is_err());
    let file = fs::metadata(rig.layer_dir(&image, 0).join("bin/p")).unwrap();
    assert_eq!((file.permissions().mode() & 0o7777, file.uid()), (0o755, 0));
}

#[test]
fn layers_of_every_packing_keep_everything() {
    if !is_root() {
        return;
    }
    let lower = layer(&[
        Entry::Dir("./", 0o751),
        Entry::Dir("etc/", 0o755),
        Entry::File("etc/config", "lower"),
        Entry::Dir("gone/", 0o700),
        Entry::File("gone/file", "x"),
    ]);
    let upper = layer(&[
        Entry::Dir("etc/", 0o1777),
        Entry::File("etc/.wh.config", ""),
        Entry::File("gone/.wh..wh..opq", ""),
        Entry::File("made/parents/file", "text"),
        Entry::Hardlink("hard", "made/parents/file"),
        Entry::Symlink("soft", "/etc/anything"),
        Entry::Symlink("usr", "made"),
        Entry::File("usr/parents/by-link", "inside"),
        Entry::Char("null", 1, 3),
        Entry::Fifo("fifo"),
        Entry::File("twice", "first"),
        Entry::File("twice", "second"),
        Entry::File("/absolute", "inside too"),
        Entry::Attribute("with-attribute", "user.note", "value"),
    ]);
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let rig = Rig::new();
        rig.load(&oci_files(Some("localhost/x:1"), &[(lower.clone(), packing), (upper.clone(), packing)])).unwrap();
        let image = rig.store.resolve("localhost/x:1").unwrap().unwrap();
        let config = &image.config;
        assert_eq!(
            (config.entrypoint.as_slice(), config.cmd.as_slice()),
            (&["/e".to_owned()][..], &["c".to_owned()][..])
        );
        assert_eq!(config.env, [("A".to_owned(), "b=c".to_owned()), ("EMPTY".to_owned(), String::new())]);
        assert_eq!((config.user.as_str(), config.working_dir.as_deref()), ("app", Some("/w")));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));

        let (top, bottom) = (rig.layer_dir(&image, 0), rig.layer_dir(&image, 1));
        assert_eq!(fs::metadata(&bottom).unwrap().mode() & 0o7777, 0o751);
        assert_eq!(fs::read_to_string(bottom.join("etc/config")).unwrap(), "lower");
        let etc = fs::metadata(top.join("etc")).unwrap();
        assert_eq!((etc.mode() & 0o7777, etc.uid(), etc.gid(), etc.mtime()), (0o1777, 1234, 5678, 1_000_000_000));
        let whiteout = fs::symlink_metadata(top.join("etc/config")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        let opaque = files::get_xattr(&top.join("gone"), "trusted.overlay.opaque");
        match opaque {
            Ok(value) => assert_eq!(value.as_deref(), Some(&b"y"[..])),
            Err(e) => println!("skipped: attributes can't be read here: {e}"),
        }
        let (a, b) = (fs::metadata(top.join("hard")).unwrap(), fs::metadata(top.join("made/parents/file")).unwrap());
        assert_eq!((a.ino(), a.nlink(), a.mode() & 0o7777, a.uid()), (b.ino(), 2, 0o640, 1234));
        assert_eq!(fs::read_link(top.join("soft")).unwrap(), Path::new("/etc/anything"));
        assert_eq!(fs::symlink_metadata(top.join("soft")).unwrap().uid(), 1234);
        assert_eq!(fs::read_to_string(top.join("made/parents/by-link")).unwrap(), "inside");
        let null = fs::symlink_metadata(top.join("null")).unwrap();
        assert!(null.file_type().is_char_device() && null.rdev() == nix::sys::stat::makedev(1, 3));
        assert!(fs::symlink_metadata(top.join("fifo")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_to_string(top.join("twice")).unwrap(), "second");
        assert_eq!(fs::read_to_string(top.join("absolute")).unwrap(), "inside too");
        if let Ok(Some(value)) = files::get_xattr(&top.join("with-attribute"), "user.note") {
            assert_eq!(value, b"value");
        }
    }
}

#[test]
fn docker_archives_are_loaded_compressed_as_a_whole_too() {
    if !is_root() {
        return;
    }
    let layers = [layer(&[Entry::File("a", "1")]), layer(&[Entry::File("b", "2")])];
    let files = docker_files(&["localhost/two:1", "two:latest"], &layers);
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let rig = Rig::new();
        let loaded = rig.store.load(&rig.write("a.tar", &pack(&members(&files), packing))).unwrap();
        assert_eq!(loaded[0].references, ["localhost/two:1", "docker.io/library/two:latest"]);
        assert_eq!(loaded[0].manifest, None);
        assert_eq!(rig.store.resolve("two").unwrap().unwrap().layers.len(), 2);
        assert_eq!(rig.names("tmp"), Vec::<String>::new());
    }
}

#[test]
fn the_manifest_for_this_machine_is_taken_from_a_nested_index() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let mut files = oci_files(None, &[(layer(&[Entry::File("a", "1")]), Packing::Plain)]);
    let manifest = files.last().unwrap().1.clone();
    let here = archive::architecture();
    let inner = json!({"manifests": [
        {"digest": Digest::of(b"absent").to_string(), "platform": {"architecture": "s390x", "os": "linux"}},
        {"digest": Digest::of(b"absent").to_string(), "platform": {"architecture": here, "os": "windows"}},
        {"digest": Digest::of(&manifest).to_string(), "platform": {"architecture": here, "os": "linux"}},
        {"digest": Digest::of(b"absent").to_string(), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
    ]})
    .to_string()
    .into_bytes();
    let outer = json!({"manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": Digest::of(&inner).to_string(),
        "annotations": {"io.containerd.image.name": "docker.io/library/n:1", "org.opencontainers.image.ref.name": "1"},
    }]});
    files[1].1 = outer.to_string().into_bytes();
    files.push((format!("blobs/sha256/{}", Digest::of(&inner).hex()), inner));
    let loaded = rig.load(&files).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].references, ["docker.io/library/n:1"]);
}

#[test]
fn nothing_is_made_outside_of_a_layer() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for entries in [
        vec![Entry::File("../evil", "x")],
        vec![Entry::File("a/../../evil", "x")],
        vec![Entry::Dir("..", 0o777)],
        vec![Entry::Hardlink("passwd", "../../../../etc/passwd")],
        vec![Entry::Hardlink("passwd", "/etc/passwd")],
        vec![Entry::Symlink("out", target), Entry::File("out/evil", "x")],
        vec![Entry::Symlink("out", "../../../../../../../../tmp"), Entry::File("out/evil/x", "x")],
        vec![Entry::File("a/.wh...", "x")],
    ] {
        let rig = Rig::new();
        let error = rig.load(&oci_files(Some("x:1"), &[(layer(&entries), Packing::Plain)])).unwrap_err();
        assert!(matches!(error, ImageError::Entry { .. }), "{error}");
        rig.assert_untouched();
        assert!(!rig.dir.path().join("evil").exists());
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
