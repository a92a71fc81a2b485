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
        match expire(&objects).await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "events were forgotten"),
            Err(status) => tracing::warn!(%status, "old events couldn't be deleted, trying again later"),
        }
    }
}

/// Deletes what is too old; returns how many that was.
pub(crate) async fn expire(objects: &Objects) -> Result<usize, Status> {
    let Some(events) = objects.registry().snapshot().stored("", "events").cloned() else { return Ok(0) };
    let oldest = objects.now().saturating_sub(TIME_TO_LIVE).unwrap_or(Timestamp::MIN);
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
}
