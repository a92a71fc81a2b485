//! What images, pods and processes share, and what is left when nothing needs it.

use super::*;

#[test]
fn layers_are_shared_and_collected_when_nothing_needs_them() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let base = layer(&[Entry::File("base", "b")]);
    let top = |text: &str| layer(&[Entry::File("top", text)]);
    let image =
        |name: &str, text: &str| oci_files(Some(name), &[(base.clone(), Packing::Plain), (top(text), Packing::Gzip)]);
    rig.load(&image("one:1", "1")).unwrap();
    rig.load(&image("two:1", "2")).unwrap();
    assert_eq!(rig.names("layers").len(), 3);
    let first = rig.store.resolve("one:1").unwrap().unwrap();
    rig.store.pin("pod", &[&first]).unwrap();
    // A tag that moves leaves the old image without a name; the pod keeps it.
    rig.load(&image("one:1", "3")).unwrap();
    assert_ne!(rig.store.resolve("one:1").unwrap().unwrap().id, first.id);
    assert_eq!(rig.names("layers").len(), 4);
    assert!(rig.store.resolve(&first.id.to_string()).unwrap().is_some());
    rig.store.unpin("pod").unwrap();
    rig.store.unpin("pod").unwrap();
    rig.store.collect_garbage().unwrap();
    assert_eq!(rig.names("layers").len(), 3);
    assert!(rig.store.resolve(&first.id.to_string()).unwrap().is_none());
    assert!(matches!(rig.store.pin("pod", &[&first]), Err(ImageError::Missing(_))));
    assert!(rig.store.remove("one:1").unwrap());
    assert!(!rig.store.remove("one:1").unwrap());
    assert!(rig.store.remove("two:1").unwrap());
    rig.assert_untouched();
}

#[test]
fn a_use_that_cannot_be_read_keeps_everything_and_hinders_nobody() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let image = |name: &str, text: &str| oci_files(Some(name), &[(layer(&[Entry::File("a", text)]), Packing::Plain)]);
    rig.load(&image("one:1", "1")).unwrap();
    let first = rig.store.resolve("one:1").unwrap().unwrap();
    let uses = rig.dir.path().join("images/uses");
    fs::write(uses.join("torn.json"), "{\"images\":[").unwrap();
    fs::write(uses.join("gone.json"), "").unwrap();
    // What moved its tag away might be what the torn file named.
    rig.load(&image("one:1", "2")).unwrap();
    rig.store.collect_garbage().unwrap();
    assert_eq!(rig.names("layers").len(), 2);
    assert!(rig.store.resolve(&first.id.to_string()).unwrap().is_some());
    // Its user starts something else.
    let second = rig.store.resolve("one:1").unwrap().unwrap();
    rig.store.pin("torn", &[&second]).unwrap();
    rig.store.forget_uses(|user| user == "torn").unwrap();
    assert!(!uses.join("gone.json").exists());
    rig.store.collect_garbage().unwrap();
    assert_eq!(rig.names("layers").len(), 2);
    rig.store.unpin("torn").unwrap();
    rig.store.collect_garbage().unwrap();
    assert_eq!(rig.names("layers").len(), 1);
    assert_eq!(fs::read_dir(&uses).unwrap().count(), 0);
}

#[test]
fn a_store_that_others_could_read_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["images", "images/layers"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
        fs::set_permissions(dir.path().join(sub), fs::Permissions::from_mode(0o755)).unwrap();
    }
    ImageStore::open(dir.path().join("images")).unwrap();
    for sub in ["images", "images/layers", "images/uses"] {
        assert_eq!(fs::metadata(dir.path().join(sub)).unwrap().mode() & 0o777, 0o700, "{sub}");
    }
}

#[test]
fn several_processes_may_load_at_once() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let base = layer(&[Entry::File("base", &"b".repeat(10_000))]);
    let archives: Vec<PathBuf> = (0..4)
        .map(|i| {
            let own = layer(&[Entry::File("own", &i.to_string())]);
            let files = oci_files(Some(&format!("i{i}:1")), &[(base.clone(), Packing::Gzip), (own, Packing::Plain)]);
            rig.write(&format!("{i}.tar"), &members(&files))
        })
        .collect();
    std::thread::scope(|scope| {
        for path in &archives {
            for _ in 0..3 {
                let dir = rig.store.dir.clone();
                // A store object of its own has locks of its own, as another process has.
                scope.spawn(move || ImageStore::open(dir).unwrap().load(path).unwrap());
            }
        }
    });
    assert_eq!(rig.store.list().unwrap().len(), 4);
    assert_eq!(rig.names("layers").len(), 5);
    assert_eq!(rig.names("tmp"), Vec::<String>::new());
    for image in rig.store.list().unwrap() {
        assert_eq!(fs::read_to_string(rig.layer_dir(&image, 1).join("base")).unwrap().len(), 10_000);
    }
}

#[test]
fn leftovers_go_at_opening_unless_their_maker_lives() {
    let rig = Rig::new();
    fs::create_dir_all(rig.store.dir.join("tmp/crashed/layer")).unwrap();
    let held = Scratch::new(&rig.store.dir.join("tmp")).unwrap();
    ImageStore::open(&rig.store.dir).unwrap();
    assert!(!rig.store.dir.join("tmp/crashed").exists());
    assert!(held.path.exists());
}

#[test]
fn a_full_disk_is_one_clear_error() {
    if !is_root() {
        return;
    }
    struct Small(tempfile::TempDir);
    impl Drop for Small {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let small = Small(tempfile::tempdir().unwrap());
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        small.0.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    );
    if let Err(e) = mounted {
        println!("skipped: no tmpfs can be mounted: {e}");
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let rig = Rig { store: ImageStore::open(small.0.path().join("images")).unwrap(), dir: elsewhere };
    let big = layer(&[Entry::File("big", &"0123456789".repeat(100_000))]);
    for packing in [Packing::Plain, Packing::Gzip] {
        let error = rig.load(&oci_files(Some("x:1"), &[(big.clone(), packing)])).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error}");
        assert!(error.to_string().contains("nothing was loaded"), "{error}");
        rig.assert_untouched();
    }
    // There is room again for what fits.
    rig.load(&oci_files(Some("x:1"), &[(layer(&[Entry::File("a", "1")]), Packing::Plain)])).unwrap();
}
