//! Archives and stores that something is wrong with.

use super::*;

#[test]
fn damaged_blobs_are_named_with_both_digests() {
    if !is_root() {
        return;
    }
    let plain = layer(&[Entry::File("a", "original")]);
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let rig = Rig::new();
        let mut files = oci_files(Some("x:1"), &[(plain.clone(), packing)]);
        let expected = Digest::of(&files[2].1);
        let other = pack(&layer(&[Entry::File("a", "tampered")]), packing);
        files[2].1 = other.clone();
        match rig.load(&files).unwrap_err() {
            ImageError::DigestMismatch { blob, expected: want, got, .. } => {
                assert!(blob.ends_with(expected.hex()));
                assert_eq!((want, got), (expected, Digest::of(&other)));
            }
            other => panic!("{other}"),
        }
        rig.assert_untouched();
    }
    // A manifest and a configuration are checked as well.
    for index in [3, 4] {
        let rig = Rig::new();
        let mut files = oci_files(Some("x:1"), &[(plain.clone(), Packing::Plain)]);
        files[index].1.push(b' ');
        assert!(matches!(rig.load(&files).unwrap_err(), ImageError::DigestMismatch { .. }));
        rig.assert_untouched();
    }
    // In a docker archive only the configuration says what a layer is.
    let rig = Rig::new();
    let mut files = docker_files(&["x:1"], std::slice::from_ref(&plain));
    files[2].1 = layer(&[Entry::File("a", "tampered")]);
    assert!(matches!(rig.load(&files).unwrap_err(), ImageError::DigestMismatch { .. }));
    rig.assert_untouched();
}

#[test]
fn a_damaged_archive_is_told_of_though_all_of_it_is_there_already() {
    if !is_root() {
        return;
    }
    let plain = layer(&[Entry::File("a", "original")]);
    let tampered = layer(&[Entry::File("a", "tampered")]);
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let rig = Rig::new();
        let mut files = oci_files(Some("x:1"), &[(plain.clone(), packing)]);
        rig.load(&files).unwrap();
        let before = rig.store.list().unwrap();
        rig.load(&files).unwrap();
        let blob = files[2].0.clone();
        files[2].1 = pack(&tampered, packing);
        let error = rig.load(&files).unwrap_err();
        assert!(matches!(&error, ImageError::DigestMismatch { blob: named, .. } if *named == blob), "{error}");
        files[2].1.truncate(3);
        let error = rig.load(&files).unwrap_err();
        assert!(matches!(&error, ImageError::DigestMismatch { blob: named, .. } if *named == blob), "{error}");
        // What was there is as it was.
        assert_eq!(rig.store.list().unwrap(), before);
        assert_eq!(fs::read_to_string(rig.layer_dir(&before[0], 0).join("a")).unwrap(), "original");
        assert_eq!(rig.names("tmp"), Vec::<String>::new());
    }
    let rig = Rig::new();
    let mut files = docker_files(&["x:1"], std::slice::from_ref(&plain));
    rig.load(&files).unwrap();
    files[2].1 = tampered.clone();
    let error = rig.load(&files).unwrap_err();
    assert!(matches!(&error, ImageError::DigestMismatch { blob, .. } if blob == "layer0/layer.tar"), "{error}");
    // Twice in one archive, and only the second is damaged.
    let rig = Rig::new();
    let mut files = oci_files(Some("x:1"), &[(plain.clone(), Packing::Plain), (plain, Packing::Gzip)]);
    files[3].1 = pack(&tampered, Packing::Gzip);
    let (blob, error) = (files[3].0.clone(), rig.load(&files).unwrap_err());
    assert!(matches!(&error, ImageError::DigestMismatch { blob: named, .. } if *named == blob), "{error}");
    rig.assert_untouched();
}

#[test]
fn a_truncated_archive_leaves_nothing_wherever_it_ends() {
    if !is_root() {
        return;
    }
    let files = oci_files(Some("x:1"), &[(layer(&[Entry::File("a", &"text ".repeat(500))]), Packing::Gzip)]);
    let whole = members(&files);
    let rig = Rig::new();
    // The end mark and the padding before it hold no data.
    for cut in (0..whole.len() - 1024 - 511).step_by(257) {
        let path = rig.write("cut.tar", &whole[..cut]);
        let error = rig.store.load(&path).unwrap_err().to_string();
        assert!(error.contains("cut.tar"), "{cut}: {error}");
        rig.assert_untouched();
    }
    let half = pack(&whole, Packing::Gzip);
    assert!(rig.store.load(&rig.write("half.tar.gz", &half[..half.len() / 2])).is_err());
    rig.assert_untouched();
    rig.store.load(&rig.write("whole.tar", &whole)).unwrap();
}

#[test]
fn what_is_no_image_archive_says_what_was_expected() {
    let rig = Rig::new();
    for (bytes, part) in [
        (Vec::new(), "empty"),
        (members(&[("readme".to_owned(), b"hi".to_vec())]), "no OCI or docker image archive"),
        (members(&[("manifest.json".to_owned(), b"[".to_vec())]), "manifest.json"),
        (members(&[("manifest.json".to_owned(), b"[]".to_vec())]), "no OCI or docker image archive"),
        (b"BZh91AY".to_vec(), "bzip2"),
    ] {
        let error = rig.store.load(&rig.write("x.tar", &bytes)).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
        rig.assert_untouched();
    }
    assert!(rig.store.load(Path::new("/no/such/archive")).unwrap_err().to_string().contains("/no/such/archive"));
    assert!(rig.store.load(rig.dir.path()).unwrap_err().to_string().contains("directory"));
}

#[test]
fn what_is_no_archive_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let junk = dir.path().join("junk.tar");
    for content in [b"nonsense".to_vec(), vec![7; 100], vec![7; 4096]] {
        fs::write(&junk, &content).unwrap();
        let error = store.load(&junk).unwrap_err().to_string();
        assert!(error.contains("junk.tar") && error.contains("no OCI or docker image archive"), "{error}");
    }
}

#[test]
fn a_damaged_index_is_said_and_kept() {
    let rig = Rig::new();
    let index = rig.store.dir.join("index.json");
    fs::write(&index, "{\"images\":[{").unwrap();
    let error = ImageStore::open(&rig.store.dir).unwrap_err();
    assert!(matches!(&error, ImageError::Damaged { path, .. } if path.ends_with("index.json")), "{error}");
    assert!(index.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever byte is wrong, either it didn't matter or nothing was loaded.
    #[test]
    fn no_damage_is_half_loaded(at in any::<prop::sample::Index>(), bits in 1_u8..) {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let files = oci_files(Some("x:1"), &[(layer(&[Entry::File("a", "text")]), Packing::Gzip)]);
        let mut bytes = members(&files);
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        let rig = Rig::new();
        match rig.store.load(&rig.write("x.tar", &bytes)) {
            Ok(_) => {
                let image = rig.store.list().unwrap().remove(0);
                prop_assert_eq!(fs::read_to_string(rig.layer_dir(&image, 0).join("a")).unwrap(), "text");
            }
            Err(_) => rig.assert_untouched(),
        }
    }
}
