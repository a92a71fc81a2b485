//! What is refused leaves nothing behind.

use std::time::Duration;

use pullpiri_node_adapters::RuntimeError;
use pullpiri_node_core::runtime::NetworkMode;

use super::confinement::bind;
use crate::support::{IMAGE, container};
use crate::{Context, exit_of, pid_of};

pub async fn every_operation_may_be_repeated(c: &Context) {
    let pod = c.run("a", &["forever"]).await;
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!(c.runtime.run_pod(&pod).await.unwrap().containers, seen.containers);
    for _ in 0..2 {
        c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        c.runtime.remove_pod(&pod.id).await.unwrap();
    }
    assert!(c.observed(&pod.id).await.is_none());
    c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    if c.backend.restarts() {
        let error = c.runtime.start_container(&pod.id, &pod.containers[0], 1).await.unwrap_err();
        assert!(matches!(error, RuntimeError::NoPod { .. }), "{error:?}");
    }
    // The id may be used again.
    c.runtime.run_pod(&pod).await.unwrap();
}

pub async fn a_missing_image_is_named(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.image = "localhost/no-such-image:9".to_owned();
    let pod = c.pod("a", NetworkMode::Host, vec![container("b", &["forever"]), one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::ImageMissing { image, .. } if image == "localhost/no-such-image:9"),
        "{error:?}"
    );
    // What to do about it depends on whose store it is.
    let remedy = if c.backend.name() == "oci" { "`pullpiri image load" } else { "`podman load" };
    assert!(error.to_string().contains(remedy), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.runtime.image("localhost/no-such-image:9").await.unwrap(), None);
    assert!(c.runtime.image(IMAGE).await.unwrap().unwrap().starts_with("sha256:"));
}

pub async fn a_missing_program_is_refused_and_nothing_stays(c: &Context) {
    let mut one = container("c", &[]);
    one.command = vec!["/bin/not-there".to_owned()];
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("not-there"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    // At a restart it is refused too, and the sandbox stays as it was.
    let pod = c.run("b", &["exit", "0"]).await;
    c.exit(&pod.id, "c").await;
    let error = c.runtime.start_container(&pod.id, &one, 1).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    let again = c.runtime.start_container(&pod.id, &container("c", &["exit", "4"]), 2).await.unwrap();
    assert_eq!(again.attempt, 2);
    c.until(&pod.id, "the second exit", |p| exit_of(p, "c").is_some_and(|e| e.code == 4)).await;
}

pub async fn a_missing_working_directory_is_refused(c: &Context) {
    let mut one = container("c", &["pwd"]);
    one.working_dir = Some("/not/there".to_owned());
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("/not/there"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    // One that a volume brings is there.
    let source = c.dir.path().join("volume");
    std::fs::create_dir_all(source.join("there")).unwrap();
    one.mounts = vec![bind(source, "/not", false)];
    let pod = c.pod("b", NetworkMode::Host, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "c").await, ["stdout /not/there"]);
}

pub async fn too_little_memory_is_refused(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: what podman says of it is podman's; the node refuses such limits before");
        return;
    }
    let mut one = container("c", &["forever"]);
    one.limits.memory_bytes = Some(1);
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("memory limit of 1 B"), "{error}");
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

pub async fn a_failing_second_container_takes_the_first_with_it(c: &Context) {
    let mut bad = container("bad", &[]);
    bad.command = vec!["/bin/not-there".to_owned()];
    let pod = c.pod("a", NetworkMode::Own, vec![container("good", &["forever"]), bad]);
    c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

pub async fn a_damaged_archive_is_refused(c: &Context) {
    let junk = c.dir.path().join("junk.tar");
    std::fs::write(&junk, vec![7; 4096]).unwrap();
    for path in [junk, c.dir.path().join("absent.tar")] {
        let error = c.runtime.load_image(&path).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Archive { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

pub async fn a_start_that_cannot_be_recorded_spares_the_others(c: &Context) {
    let short = container("d", &["exit", "0"]);
    let pod = c.pod("a", NetworkMode::Own, vec![container("c", &["forever"]), short.clone()]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.exit(&pod.id, "d").await;
    let Some(draft) = c.backend.record_draft(&pod.id, "d") else {
        println!("skipped: this adapter keeps no records of its own");
        return;
    };
    let before = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    std::fs::create_dir(&draft).unwrap();
    let error = c.runtime.start_container(&pod.id, &container("d", &["forever"]), 1).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("can't be recorded"), "{error}");
    let seen = c.observed(&pod.id).await.unwrap();
    assert!(seen.sandbox_alive);
    assert_eq!(pid_of(&seen, "c"), Some(before), "its neighbour goes on");
    assert_eq!(pid_of(&seen, "d"), None);
    std::fs::remove_dir(&draft).unwrap();
    c.runtime.start_container(&pod.id, &short, 1).await.unwrap();
    c.until(&pod.id, "the second exit", |p| {
        p.containers.iter().any(|one| one.name == "d" && one.attempt == 1) && exit_of(p, "d").is_some()
    })
    .await;
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}
