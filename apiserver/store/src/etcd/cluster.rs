//! The members of an etcd cluster, and requests that go to one of them at a time.
//!
//! Each member has a connection of its own. Requests go to the preferred member until it fails or doesn't answer in time; then it
//! rests, and the next one is preferred. A balancing client would send every third request to a frozen member for ever.
//! An attempt takes [`Timeouts::attempt`] at most, a request with all its attempts [`Timeouts::request`] and one attempt.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::time::Instant;

use super::error::{Failure, OpenError, classify};
use super::{Options, Timeouts};

/// How long a member that failed isn't asked, while there is another one.
const REST: Duration = Duration::from_secs(5);
/// Between two rounds through all members: grows from this to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// etcd ends connections that are pinged more often than every 5 s.
const PING_PERIOD: Duration = Duration::from_secs(10);

struct Member {
    url: String,
    client: Client,
}

#[derive(Debug)]
struct State {
    preferred: usize,
    /// Until when each member rests.
    rests: Vec<Option<Instant>>,
}

pub(super) struct Cluster {
    members: Vec<Member>,
    state: Mutex<State>,
    timeouts: Timeouts,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("servers", &self.servers()).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects to nobody yet.
    pub(super) async fn new(options: &Options) -> Result<Self, OpenError> {
        let tls = options.tls.as_ref().map(super::tls::load).transpose()?;
        let mut members = Vec::new();
        for url in &options.servers {
            let wrong = |reason: &str| OpenError::Url { url: url.clone(), reason: reason.to_owned() };
            let (scheme, rest) =
                url.split_once("://").ok_or_else(|| wrong("expected http://HOST:PORT or https://HOST:PORT"))?;
            if !["http", "https"].contains(&scheme) || rest.trim_end_matches('/').is_empty() {
                return Err(wrong("expected http://HOST:PORT or https://HOST:PORT"));
            }
            let mut connect = ConnectOptions::new()
                .with_connect_timeout(options.timeouts.attempt)
                .with_keep_alive(PING_PERIOD, options.timeouts.attempt)
                .with_require_leader(true);
            match (scheme, &tls) {
                ("https", Some(tls)) => connect = connect.with_tls(tls.clone()),
                ("https", None) => return Err(wrong("https needs the CA that signed the server's certificate")),
                (_, Some(_)) => return Err(wrong("certificates are given, so expected https://")),
                (_, None) => {}
            }
            let client = Client::connect([url], Some(connect)).await.map_err(|error| wrong(&error.to_string()))?;
            members.push(Member { url: url.clone(), client });
        }
        if members.is_empty() {
            return Err(OpenError::Url { url: String::new(), reason: "expected at least one".to_owned() });
        }
        let state = Mutex::new(State { preferred: 0, rests: vec![None; members.len()] });
        Ok(Self { members, state, timeouts: options.timeouts })
    }

    pub(super) fn servers(&self) -> String {
        self.members.iter().map(|member| member.url.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member to ask now: the preferred one, or the next that doesn't rest, or the one that has rested longest.
    pub(super) fn pick(&self) -> usize {
        let mut state = self.lock();
        let now = Instant::now();
        let count = self.members.len();
        let order = (0..count).map(|step| (state.preferred + step) % count);
        let until = |index: usize| state.rests.get(index).copied().flatten().filter(|until| *until > now);
        let Some(best) = order.min_by_key(|index| until(*index)) else { return 0 };
        state.preferred = best;
        best
    }

    /// The member failed.
    pub(super) fn rest(&self, index: usize, failure: &dyn fmt::Display) {
        let mut state = self.lock();
        let until = Instant::now() + REST;
        if let (Some(rest), Some(member)) = (state.rests.get_mut(index), self.members.get(index)) {
            if rest.is_none_or(|until| until <= Instant::now()) {
                tracing::warn!(server = %member.url, %failure, "an etcd server fails, asking the others");
            }
            *rest = Some(until);
        }
    }

    /// One attempt at one member.
    pub(super) async fn attempt<T, F>(&self, index: usize, ask: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let Some(member) = self.members.get(index) else { return Err(Failure::NotSent("no such member".to_owned())) };
        let answer = tokio::time::timeout(self.timeouts.attempt, ask(member.client.clone())).await;
        let result = match answer {
            Ok(answer) => answer.map_err(|error| classify(&member.url, &error)),
            Err(_) => {
                let ms = self.timeouts.attempt.as_millis();
                Err(Failure::Unclear(format!("{} didn't answer within {ms} ms", member.url)))
            }
        };
        match &result {
            Err(failure) if failure.passes() => self.rest(index, failure),
            _ => {
                if let Some(rest) = self.lock().rests.get_mut(index) {
                    *rest = None;
                }
            }
        }
        result
    }

    /// A request that may be repeated, until a member answers or time is up.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut patience = Patience::new(self);
        loop {
            match self.attempt(self.pick(), &ask).await {
                Err(failure) if failure.passes() => {
                    if !patience.pause().await {
                        return Err(failure);
                    }
                }
                result => return result,
            }
        }
    }
}

/// How long a request goes on trying.
pub(super) struct Patience {
    ends: Instant,
    attempts: usize,
    members: usize,
    pause: Duration,
}

impl Patience {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let (ends, members) = (Instant::now() + cluster.timeouts.request, cluster.members.len());
        Self { ends, attempts: 0, members, pause: SHORTEST_PAUSE }
    }

    /// Waits before the next attempt where every member was asked; false when there is no time for another one.
    pub(super) async fn pause(&mut self) -> bool {
        self.attempts += 1;
        if Instant::now() + self.pause >= self.ends {
            return false;
        }
        if self.attempts.is_multiple_of(self.members) {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        true
    }
}
