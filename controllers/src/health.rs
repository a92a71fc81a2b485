//! What keeps the controllers from their work, in one line each, for people: in the log once, at `/readyz`, and on the Lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;
use thiserror::Error;
use tokio::sync::watch;

/// Field selectors over fields of custom resources (`selectableFields`) are served without a feature gate since.
const OLDEST_MINOR: u32 = 32;

#[derive(Debug, Default)]
struct Inner {
    /// What doesn't work → why.
    problems: BTreeMap<String, String>,
    /// What isn't done yet.
    pending: Option<String>,
}

/// What doesn't work at present. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<()>>,
}

impl Default for Health {
    fn default() -> Self {
        let inner = Inner { pending: Some("starting".to_owned()), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), changed: Arc::new(watch::Sender::new(())) }
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `what` doesn't work, because. Logged if that is new.
    pub(crate) fn fails(&self, what: &str, why: impl Into<String>) {
        let why = why.into();
        let before = self.lock().problems.insert(what.to_owned(), why.clone());
        if before.as_ref() != Some(&why) {
            tracing::error!(what, why, "this keeps the controllers from their work");
            self.changed.send_replace(());
        }
    }

    pub(crate) fn works(&self, what: &str) {
        if self.lock().problems.remove(what).is_some() {
            tracing::info!(what, "works again");
            self.changed.send_replace(());
        }
    }

    /// What isn't done yet; `None`: everything is.
    pub fn pending(&self, what: Option<&str>) {
        self.lock().pending = what.map(str::to_owned);
    }

    /// All problems, one a line.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.iter().map(|(what, why)| format!("{what}: {why}")).collect()
    }

    /// Forgets all problems: the work is somebody else's now.
    pub(crate) fn clear(&self) {
        self.lock().problems.clear();
        self.changed.send_replace(());
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Ready, or why not.
    ///
    /// # Errors
    /// One line per reason.
    pub fn ready(&self) -> Result<(), String> {
        let mut lines = self.problems();
        lines.extend(self.lock().pending.iter().cloned());
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }
}

/// Why an API server isn't one to work with.
#[derive(Debug, Error)]
pub enum Unmet {
    #[error(
        "the API server is Kubernetes {major}.{minor}, and the CustomResourceDefinitions need 1.{OLDEST_MINOR} (selectableFields, CEL formats); upgrade it"
    )]
    TooOld { major: String, minor: String },
    #[error("asking the API server for its version")]
    NoAnswer(#[source] kube::Error),
}

/// Whether the API server is recent enough.
///
/// # Errors
/// [`Unmet`]
pub async fn check_version(client: &Client) -> Result<(), Unmet> {
    let version = client.apiserver_version().await.map_err(Unmet::NoAnswer)?;
    if is_recent(&version.major, &version.minor) {
        return Ok(());
    }
    Err(Unmet::TooOld { major: version.major, minor: version.minor })
}

/// A minor may have a suffix (`31+`). What can't be read is believed to be recent.
fn is_recent(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match (number(major), number(minor)) {
        (Some(1), Some(minor)) => minor >= OLDEST_MINOR,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (major, minor, recent) in [
            ("1", "37", true),
            ("1", "32+", true),
            ("1", "31", false),
            ("1", "29+", false),
            ("2", "0", true),
            ("", "", true),
        ] {
            assert_eq!(is_recent(major, minor), recent, "{major}.{minor}");
        }
        let text = Unmet::TooOld { major: "1".to_owned(), minor: "29+".to_owned() }.to_string();
        assert!(text.starts_with("the API server is Kubernetes 1.29+, and"), "{text}");
    }

    #[test]
    fn problems_come_and_go() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.pending(None);
        assert_eq!(health.ready(), Ok(()));
        let changes = health.changes();
        health.fails("list Package", "forbidden");
        health.fails("list Package", "forbidden");
        assert!(changes.has_changed().unwrap());
        assert_eq!(health.ready(), Err("list Package: forbidden".to_owned()));
        health.works("list Package");
        assert_eq!(health.ready(), Ok(()));
    }
}
