//! How much a server takes on at once, and for how long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::metrics::{KindLabels, Metrics, RequestKind};
use crate::status::Status;

/// Watches last: it takes a while until there is room for another.
const WATCH_RETRY_SECONDS: u32 = 5;

/// Limits of one server. Defaults are kube-apiserver's where it has them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Writes handled at once; more are answered with 429.
    pub max_mutating_in_flight: usize,
    /// Reads handled at once, watches excluded.
    pub max_readonly_in_flight: usize,
    /// Watches open at once; more are answered with 429. kube-apiserver has no such limit: no client of ours comes near it, but each watch costs a
    /// queue of events.
    pub max_watches: usize,
    /// The same for one user.
    pub max_watches_per_user: usize,
    /// Connections whose peer hasn't shown a certificate or token yet; beyond, the oldest of them is ended.
    pub max_unauthenticated_connections: usize,
    /// How long a connection may stay like that.
    pub unauthenticated_timeout: Duration,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// After this a request is answered with 504, watches excluded.
    pub request_timeout: Duration,
    /// How long connections may finish what they are doing at shutdown.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_mutating_in_flight: 200,
            max_readonly_in_flight: 400,
            max_watches: 10_000,
            max_watches_per_user: 2_000,
            max_unauthenticated_connections: 256,
            unauthenticated_timeout: Duration::from_secs(30),
            max_body_bytes: 3 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Counts requests in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    mutating: Arc<Semaphore>,
    readonly: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A request in flight; ends when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _permit: OwnedSemaphorePermit,
    kind: RequestKind,
    metrics: Arc<Metrics>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.in_flight.get_or_create(&KindLabels { kind: self.kind }).dec();
    }
}

impl InFlight {
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            mutating: Arc::new(Semaphore::new(limits.max_mutating_in_flight)),
            readonly: Arc::new(Semaphore::new(limits.max_readonly_in_flight)),
            metrics,
        }
    }

    /// # Errors
    /// 429 when there are too many already.
    pub(super) fn enter(&self, method: &Method) -> Result<Permit, Status> {
        let (kind, semaphore) = if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            (RequestKind::readonly, &self.readonly)
        } else {
            (RequestKind::mutating, &self.mutating)
        };
        match Arc::clone(semaphore).try_acquire_owned() {
            Ok(permit) => {
                self.metrics.in_flight.get_or_create(&KindLabels { kind }).inc();
                Ok(Permit { _permit: permit, kind, metrics: Arc::clone(&self.metrics) })
            }
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                self.metrics.dropped.get_or_create(&KindLabels { kind }).inc();
                Err(Status::too_many_requests("Too many requests, please try again later.", 1))
            }
        }
    }
}

/// Counts open watches.
#[derive(Debug)]
pub(super) struct Watches {
    most: usize,
    most_per_user: usize,
    open: Mutex<OpenWatches>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct OpenWatches {
    all: usize,
    /// Nobody is in here without a watch.
    by_user: HashMap<String, usize>,
}

/// An open watch; ends when dropped.
#[derive(Debug)]
pub(super) struct WatchPermit {
    user: String,
    watches: Arc<Watches>,
}

impl Watches {
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let (most, most_per_user) = (limits.max_watches, limits.max_watches_per_user);
        Arc::new(Self { most, most_per_user, open: Mutex::default(), metrics })
    }

    /// # Errors
    /// 429 when there are too many already, of this user or of all.
    pub(super) fn enter(self: &Arc<Self>, user: &str) -> Result<WatchPermit, Status> {
        let mut open = self.open();
        let of_user = open.by_user.get(user).copied().unwrap_or_default();
        if open.all >= self.most || of_user >= self.most_per_user {
            drop(open);
            self.metrics.watches_refused.inc();
            return Err(Status::too_many_requests(
                "Too many open watches, please try again later.",
                WATCH_RETRY_SECONDS,
            ));
        }
        open.all += 1;
        open.by_user.insert(user.to_owned(), of_user + 1);
        drop(open);
        Ok(WatchPermit { user: user.to_owned(), watches: Arc::clone(self) })
    }

    fn open(&self) -> MutexGuard<'_, OpenWatches> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut open = self.watches.open();
        open.all = open.all.saturating_sub(1);
        match open.by_user.get_mut(&self.user) {
            Some(of_user) if *of_user > 1 => *of_user -= 1,
            _ => {
                open.by_user.remove(&self.user);
            }
        }
    }
}

/// `?timeout=30s`: Go's duration notation, with whole or decimal numbers of ns, us, ms, s, m and h.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let unit_end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(unit_end);
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Nine digits are a nanosecond; more can't be told apart.
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let fraction: u128 = digits.parse().ok()?;
        let part = whole.checked_mul(nanos)?.checked_add(fraction.checked_mul(nanos)? / 1_000_000_000)?;
        total = total.checked_add(part)?;
        rest = after;
    }
    u64::try_from(total).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("30s", Some(Duration::from_secs(30))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("5", None),
            ("5x", None),
            ("-1s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn the_limit_answers_429() {
        let limits = Limits { max_mutating_in_flight: 1, ..Limits::default() };
        let in_flight = InFlight::new(&limits, Arc::new(Metrics::default()));
        let held = in_flight.enter(&Method::POST).unwrap();
        assert_eq!(in_flight.enter(&Method::PUT).unwrap_err().code().as_u16(), 429);
        in_flight.enter(&Method::GET).unwrap();
        drop(held);
        in_flight.enter(&Method::POST).unwrap();
    }

    #[test]
    fn watches_are_counted_by_user_and_together() {
        let limits = Limits { max_watches: 3, max_watches_per_user: 2, ..Limits::default() };
        let metrics = Arc::new(Metrics::default());
        let watches = Watches::new(&limits, Arc::clone(&metrics));
        let of_a = [watches.enter("a").unwrap(), watches.enter("a").unwrap()];
        let refused = watches.enter("a").unwrap_err();
        assert_eq!(refused.code().as_u16(), 429);
        let of_b = watches.enter("b").unwrap();
        assert_eq!(watches.enter("b").unwrap_err().code().as_u16(), 429, "three are all there may be");
        assert_eq!(metrics.watches_refused.get(), 2);
        drop(of_a);
        drop((watches.enter("b").unwrap(), of_b));
        assert_eq!(watches.open().all, 0);
        assert!(watches.open().by_user.is_empty());
    }
}
