//! Events are forgotten an hour after they were last seen, as in kube-apiserver: they are many, and nobody else deletes them.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::objects::{DeleteOptions, Objects};
use crate::registry::Resource;
use crate::rest::metadata;
use crate::status::Status;

const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
/// An event may live this much longer; looking costs a read of all events.
const PERIOD: Duration = Duration::from_secs(300);

/// Looks at all events from time to time. Ends only when dropped.
pub(crate) async fn run(objects: Objects) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let oldest = objects.now().saturating_sub(TIME_TO_LIVE).unwrap_or(Timestamp::MIN);
        match expire_before(&objects, oldest).await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "events were forgotten"),
            Err(status) => tracing::warn!(%status, "old events couldn't be deleted, trying again later"),
        }
    }
}

/// Deletes what was last seen before `oldest`; returns how many that was.
async fn expire_before(objects: &Objects, oldest: Timestamp) -> Result<usize, Status> {
    let Some(events) = objects.registry().snapshot().stored("", "events").cloned() else { return Ok(0) };
    let (all, _) = objects.list(&events, None).await?;
    let mut expired = 0;
    for event in all.iter().filter(|event| last_seen(event).is_some_and(|seen| seen < oldest)) {
        expired += usize::from(forget(objects, &events, event).await?);
    }
    Ok(expired)
}

async fn forget(objects: &Objects, events: &Arc<Resource>, event: &Value) -> Result<bool, Status> {
    let text = |field: &str| metadata::text(event, field).to_owned();
    // Seen again meanwhile: not this one.
    let options = DeleteOptions {
        uid: Some(text("uid")),
        resource_version: Some(text("resourceVersion")),
        ..DeleteOptions::default()
    };
    match objects.delete(events, Some(&text("namespace")), &text("name"), options).await {
        Ok(()) => Ok(true),
        Err(status) if matches!(status.code().as_u16(), 404 | 409) => Ok(false),
        Err(status) => Err(status),
    }
}

/// The latest of the times that an event carries.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let places =
        ["/metadata/creationTimestamp", "/lastTimestamp", "/firstTimestamp", "/eventTime", "/series/lastObservedTime"];
    let time = |place: &&str| event.pointer(place).and_then(Value::as_str)?.parse::<Timestamp>().ok();
    places.iter().filter_map(time).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_time_counts() {
        let event = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "lastTimestamp": null, "series": {"lastObservedTime": "2026-01-01T02:00:00.000001Z"}
        });
        assert_eq!(last_seen(&event), Some("2026-01-01T02:00:00.000001Z".parse().unwrap()));
        assert_eq!(last_seen(&json!({})), None);
    }

    #[derive(Debug)]
    struct At(Timestamp);

    impl crate::clock::Clock for At {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    #[tokio::test]
    async fn old_events_go_and_young_ones_stay() {
        let mut config = crate::Config::new(Arc::new(pullpiri_store::memory::MemoryStore::new()));
        config.clock = Arc::new(At("2026-01-01T10:00:00Z".parse().unwrap()));
        let server = crate::ApiServer::open(config).await.unwrap();
        let objects = server.objects();
        let events = objects.registry().snapshot().stored("", "events").cloned().unwrap();
        // Created now, by the server's clock; told apart by what a later clock makes of them.
        for (name, last) in [("old", "2026-01-01T10:30:00Z"), ("young", "2026-01-01T11:30:00Z")] {
            let event = json!({
                "metadata": {"name": name}, "lastTimestamp": last, "reason": "R",
                "involvedObject": {"kind": "ConfigMap", "name": "a", "namespace": "default"},
            });
            objects.create(&events, Some("default"), event).await.unwrap();
        }
        assert_eq!(expire_before(&objects, "2026-01-01T11:00:00Z".parse().unwrap()).await.unwrap(), 1);
        let (left, _) = objects.list(&events, None).await.unwrap();
        assert_eq!(left.iter().map(|event| metadata::text(event, "name")).collect::<Vec<_>>(), ["young"]);
    }
}
