//! Signals from the API server: a watch on `signals.pullpiri.io`.

use std::collections::HashSet;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use pullpiri_crds::Signal;
use tokio_util::sync::CancellationToken;

use super::source::{Closed, Sample, SignalSink, SignalSource, Update};
use crate::watch::Retry;

/// The virtual resource as a source. An API server that doesn't serve it is asked again until it does.
#[derive(Clone)]
pub struct ApiSignals {
    client: Client,
}

impl std::fmt::Debug for ApiSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiSignals").finish_non_exhaustive()
    }
}

impl ApiSignals {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

/// Turns watch events into updates: a new list ends the signals that aren't on it.
#[derive(Debug, Default)]
struct Translation {
    known: HashSet<String>,
    listing: Option<HashSet<String>>,
}

impl Translation {
    fn updates(&mut self, event: Event<Signal>) -> Vec<Update> {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(signal) | Event::Apply(signal) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(signal.topic.clone());
                }
                self.known.insert(signal.topic.clone());
                vec![Update::Sample(Sample { topic: signal.topic, fields: signal.fields })]
            }
            Event::Delete(signal) => {
                self.known.remove(&signal.topic);
                vec![Update::Gone { topic: signal.topic }]
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let mut lost: Vec<String> = self.known.difference(&listed).cloned().collect();
                lost.sort();
                self.known = listed;
                lost.into_iter().map(|topic| Update::Gone { topic }).collect()
            }
        }
    }
}

impl SignalSource for ApiSignals {
    async fn run(self, sink: SignalSink, shutdown: CancellationToken) {
        let api: Api<Signal> = Api::all(self.client);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        let mut translation = Translation::default();
        let mut retry = Retry::new("Signal");
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => {
                    retry.received(&event);
                    for update in translation.updates(event) {
                        if sink.send(update).await == Err(Closed) {
                            return;
                        }
                    }
                }
                Some(Err(error)) => {
                    let delay = retry.failed(&error);
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(topic: &str) -> Signal {
        Signal::new(topic, [("value".to_owned(), "1".to_owned())].into())
    }

    fn topics(updates: &[Update]) -> Vec<(&str, bool)> {
        updates
            .iter()
            .map(|u| match u {
                Update::Sample(sample) => (sample.topic.as_str(), true),
                Update::Gone { topic } => (topic.as_str(), false),
            })
            .collect()
    }

    #[test]
    fn a_new_list_ends_what_is_not_on_it() {
        let mut translation = Translation::default();
        let mut feed = |event| translation.updates(event);
        assert!(feed(Event::Init).is_empty());
        assert_eq!(topics(&feed(Event::InitApply(signal("a")))), [("a", true)]);
        assert!(feed(Event::InitDone).is_empty());
        assert_eq!(topics(&feed(Event::Apply(signal("b")))), [("b", true)]);
        assert!(feed(Event::Init).is_empty());
        assert_eq!(topics(&feed(Event::InitApply(signal("b")))), [("b", true)]);
        assert_eq!(topics(&feed(Event::InitDone)), [("a", false)]);
        assert_eq!(topics(&feed(Event::Delete(signal("b")))), [("b", false)]);
    }
}
