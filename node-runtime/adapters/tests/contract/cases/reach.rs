//! Sandboxes that live and can't be reached.

use std::time::Duration;

use crate::oci::is_alive;
use crate::{Context, DEADLINE, Narrow, exit_of, pid_of};

pub async fn a_sandbox_that_cannot_be_reached_is_taken_over_later(c: &Context) {
    let open = || async {
        Context {
            backend: c.backend.clone(),
            runtime: c.backend.open_narrow(Narrow::default()).await,
            case: c.case,
            dir: tempfile::tempdir().unwrap(),
        }
    };
    let first = open().await;
    let mut pods = Vec::new();
    for suffix in ["back", "dead"] {
        let pod = first.run(suffix, &["say", "up", "forever"]).await;
        let Some(draft) = c.backend.record_draft(&pod.id, "c") else {
            println!("skipped: this adapter's pods have no sandbox of their own");
            first.runtime.remove_pod(&pod.id).await.unwrap();
            return;
        };
        // pods/<pod>/c/<container>/record.new
        let socket = draft.ancestors().nth(3).unwrap().join("ctl.sock");
        let pid = pid_of(&first.observed(&pod.id).await.unwrap(), "c").unwrap();
        std::fs::rename(&socket, socket.with_extension("away")).unwrap();
        pods.push((pod, socket, pid));
    }
    let [(back, socket, pid), (dead, _, dying)] = pods.as_slice() else { panic!("two pods") };
    drop(first);

    // Whoever comes next sees what runs, and neither ends it nor starts it twice.
    let second = open().await;
    for (pod, _, pid) in &pods {
        let seen = second.observed(&pod.id).await.unwrap();
        assert_eq!((seen.sandbox_alive, pid_of(&seen, "c")), (true, Some(*pid)));
    }
    assert!(second.runtime.run_pod(back).await.is_err());
    assert!(second.runtime.start_container(&back.id, &back.containers[0], 1).await.is_err());
    assert!(second.runtime.stop_pod(&back.id, Duration::ZERO).await.is_err());
    assert!(second.runtime.remove_pod(&back.id).await.is_err());
    assert!(is_alive(*pid));

    // One that dies meanwhile is cleaned up after.
    c.backend.kill_sandbox(&second.runtime, &dead.id).await;
    let seen = second.until(&dead.id, "a dead sandbox", |pod| !pod.sandbox_alive).await;
    assert!(exit_of(&seen, "c").is_some() && !is_alive(*dying));
    second.runtime.remove_pod(&dead.id).await.unwrap();

    // One that can be reached again is told what to do.
    std::fs::rename(socket.with_extension("away"), socket).unwrap();
    let stopped = async {
        while second.runtime.stop_pod(&back.id, Duration::ZERO).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, stopped).await.unwrap();
    assert!(!is_alive(*pid));
    second.runtime.remove_pod(&back.id).await.unwrap();
    for (pod, ..) in &pods {
        assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    }
}
