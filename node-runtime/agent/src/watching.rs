//! A watch of this node's objects of one kind.
//!
//! The objects that are there come as the beginning of the watch (KEP-3157), one request instead of two. An API server whose store can't do that (a
//! kube-apiserver on an etcd before 3.4.25 or 3.5.8) answers with an error each time; it is asked for a list first from then on.

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::retry::Retry;

type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

pub(crate) struct Watch<K> {
    api: Api<K>,
    config: Config,
    events: Events<K>,
    is_streamed: bool,
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Of the objects whose `fields` are so.
    pub fn of(api: Api<K>, fields: &str) -> Self {
        let config = Config::default().fields(fields);
        let events = start(&api, config.clone().streaming_lists());
        Self { api, config, events, is_streamed: true }
    }

    /// Never ends; an error is followed by another try, later each time.
    pub async fn next(&mut self) -> Option<watcher::Result<Event<K>>> {
        loop {
            let event = self.events.next().await;
            match &event {
                Some(Err(error)) if self.is_streamed && cannot_stream(error) => {
                    debug!(%error, "lists aren't streamed by this API server");
                    self.is_streamed = false;
                    self.events = start(&self.api, self.config.clone());
                }
                _ => return event,
            }
        }
    }
}

fn start<K>(api: &Api<K>, config: Config) -> Events<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api.clone(), config).backoff(Retry::default()).boxed()
}

/// Whether an API server answered that it can't, rather than that it can't now. Taking the one for the other costs a request.
fn cannot_stream(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::WatchError(status) => status.code,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        _ => return false,
    };
    matches!(code, 400 | 422 | 500 | 501)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_an_answer_ends_streaming() {
        let status = |code| Box::new(Status::failure("no", "Reason").with_code(code));
        assert!(cannot_stream(&watcher::Error::WatchError(status(500))));
        assert!(cannot_stream(&watcher::Error::WatchStartFailed(kube::Error::Api(status(422)))));
        for code in [401, 403, 410, 429, 503] {
            assert!(!cannot_stream(&watcher::Error::WatchError(status(code))), "{code}");
        }
        assert!(!cannot_stream(&watcher::Error::NoResourceVersion));
    }
}
