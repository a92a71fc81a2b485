//! The loop: a candidate until the Lease is ours, then a leader until it isn't or the process ends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use pullpiri_reconcilers::lease::{Candidate, Decision, Monotonic, Record, Sight, Term, Timing, evaluate};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::guarded;
use super::gate::{Gate, Keeper};
use super::keep::{PROBLEMS, Refused, Reign};
use crate::error::said;
use crate::watch::Retry;

/// What is under way when a leader ends has so long to finish; less than anybody notices, more than a write takes.
const GRACE: Duration = Duration::from_millis(1_200);
/// Giving the Lease back takes at most so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is elected over, and how.
#[derive(Clone, Debug)]
pub struct Election {
    pub namespace: String,
    pub name: String,
    /// Unique among all processes that ever were.
    pub identity: String,
    pub timing: Timing,
    /// What the Lease tells of its holder: where it can be reached, for instance.
    pub annotations: BTreeMap<String, String>,
}

/// Who leads, as this process knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody, or it isn't known yet.
    #[default]
    Unknown,
    Leading {
        epoch: i64,
    },
    Following {
        holder: String,
        annotations: BTreeMap<String, String>,
    },
}

/// How a term ended.
enum End {
    Stopped,
    /// Whoever led doesn't any more, by itself.
    Done,
    Lost(&'static str),
}

/// Leads whenever the Lease is ours, until `stop`. `lead` is given the term, the gate that its writes have to pass, and a token that ends it; it
/// is dropped if it doesn't end soon.
pub async fn run<F, L>(
    client: Client,
    election: Election,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
    mut lead: F,
) where
    F: FnMut(Reign, Gate, CancellationToken) -> L,
    L: Future<Output = ()>,
{
    // The Lease's own writes have no gate, but an end.
    let client = guarded(client, Gate::always_open());
    let clock = Clock(Instant::now());
    loop {
        let campaign = Campaign::new(client.clone(), &election, clock, &standing);
        let Some(term) = campaign.won(&stop).await else { return };
        let reign = Reign::new(client.clone(), election.clone(), term.transitions);
        let (keeper, gate) = Keeper::closed();
        let mut hold = Hold { reign: &reign, timing: election.timing, clock, keeper: &keeper, term, failing: false };
        hold.open();
        tracing::info!(epoch = term.transitions, identity = election.identity, "leading");
        standing.send_replace(Standing::Leading { epoch: term.transitions });
        let over = CancellationToken::new();
        let mut led = Box::pin(lead(reign.clone(), gate, over.clone()));
        let end = tokio::select! {
            () = &mut led => End::Done,
            end = hold.keep(&stop) => end,
        };
        over.cancel();
        if let End::Lost(why) = end {
            keeper.close();
            tracing::warn!(why, "not leading any more; nothing is written until this process leads again");
        }
        // Renewed meanwhile: what is finished is finished with the Lease.
        let never = CancellationToken::new();
        match end {
            End::Done => {}
            End::Lost(_) => drop(tokio::time::timeout(GRACE, &mut led).await),
            End::Stopped => tokio::select! {
                _ = tokio::time::timeout(GRACE, &mut led) => {}
                _ = hold.keep(&never) => {}
            },
        }
        drop(led);
        keeper.close();
        standing.send_replace(Standing::Unknown);
        if matches!(end, End::Stopped | End::Done) {
            match tokio::time::timeout(FAREWELL, reign.give_back()).await {
                Ok(Ok(())) => tracing::info!("the lease is given back"),
                Ok(Err(Refused::NotOurs)) => {}
                Ok(Err(Refused::Failed(error))) => {
                    tracing::warn!(error = said(&error), "the lease couldn't be given back; it runs out by itself");
                }
                Err(_) => tracing::warn!("the lease couldn't be given back in time; it runs out by itself"),
            }
            return;
        }
    }
}

/// The process' monotonic clock, since the election began.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Monotonic {
        Monotonic(self.0.elapsed())
    }

    fn instant(self, at: Monotonic) -> Instant {
        self.0 + at.0
    }
}

/// A term being kept.
struct Hold<'a> {
    reign: &'a Reign,
    timing: Timing,
    clock: Clock,
    keeper: &'a Keeper,
    term: Term,
    failing: bool,
}

impl Hold<'_> {
    fn open(&self) {
        let acts = self.clock.instant(self.term.acts_until(&self.timing));
        self.keeper.open_until(acts, self.clock.instant(self.term.held_until(&self.timing)));
    }

    /// Renews until told to stop, or until the term is over.
    async fn keep(&mut self, stop: &CancellationToken) -> End {
        let mut tried = self.term.renewed;
        let mut under_way = FuturesUnordered::new();
        loop {
            let me = Candidate { identity: "", timing: self.timing, term: Some(self.term), tried: Some(tried) };
            let until = match evaluate(&Sight::Unread, &me, self.clock.now()) {
                Decision::StepDown => return End::Lost("no renewal of the lease was confirmed in time"),
                Decision::Renew => {
                    tried = self.clock.now();
                    let reign = self.reign;
                    under_way.push(async move { (tried, reign.renew().await) });
                    continue;
                }
                Decision::Wait { until } => self.clock.instant(until),
                // Not of who has a term.
                Decision::Read | Decision::Create { .. } | Decision::Take { .. } => Instant::now(),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                Some((sent, answer)) = under_way.next(), if !under_way.is_empty() => match answer {
                    Ok(()) => {
                        self.term.renewed = self.term.renewed.max(sent);
                        self.failing = false;
                        self.open();
                    }
                    Err(Refused::NotOurs) => return End::Lost("the lease has another holder"),
                    Err(Refused::Failed(error)) => {
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(error = said(&error), "renewing the lease failed; trying again until it runs out");
                        }
                    }
                },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// A candidacy.
struct Campaign<'a> {
    leases: Api<Lease>,
    election: &'a Election,
    clock: Clock,
    standing: &'a watch::Sender<Standing>,
    sight: Sight,
    latest: Option<Lease>,
    tried: Option<Monotonic>,
    /// The list that is under way had the Lease on it.
    listed: bool,
    failing: bool,
}

impl<'a> Campaign<'a> {
    fn new(client: Client, election: &'a Election, clock: Clock, standing: &'a watch::Sender<Standing>) -> Self {
        Self {
            leases: Api::namespaced(client, &election.namespace),
            election,
            clock,
            standing,
            sight: Sight::Unread,
            latest: None,
            tried: None,
            listed: false,
            failing: false,
        }
    }

    /// Takes in a Lease, from the watch or an answer; older news is left.
    fn see(&mut self, lease: Option<Lease>) {
        if let (Some(before), Some(now)) = (&self.latest, &lease)
            && before.metadata.uid == now.metadata.uid
            && let (Some(before), Some(now)) = (version(before), version(now))
            && now < before
        {
            return;
        }
        let record = lease.as_ref().map(|lease| Record::read(lease.spec.as_ref()));
        let holder = record.as_ref().and_then(|record| record.holder.clone());
        let standing = match (holder, &lease) {
            (Some(holder), Some(lease)) if holder != self.election.identity => {
                Standing::Following { holder, annotations: lease.metadata.annotations.clone().unwrap_or_default() }
            }
            _ => Standing::Unknown,
        };
        self.standing.send_if_modified(|present| {
            let differs = *present != standing;
            if differs {
                if let Standing::Following { holder, .. } = &standing {
                    tracing::info!(holder, "following");
                }
                *present = standing;
            }
            differs
        });
        self.sight.take_in(record, self.clock.now());
        self.latest = lease;
    }

    /// The term, once there is one; `None` when told to stop.
    async fn won(mut self, stop: &CancellationToken) -> Option<Term> {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.election.name));
        let mut events = std::pin::pin!(watcher(self.leases.clone(), only));
        let mut retry = Retry::new("Lease");
        let mut pause = None;
        loop {
            let me = Candidate {
                identity: &self.election.identity,
                timing: self.election.timing,
                term: None,
                tried: self.tried,
            };
            let until = match evaluate(&self.sight, &me, self.clock.now()) {
                Decision::Create { transitions } | Decision::Take { transitions } => {
                    let attempt = self.attempt(transitions);
                    let term = tokio::select! {
                        () = stop.cancelled() => return None,
                        term = attempt => term,
                    };
                    if term.is_some() {
                        return term;
                    }
                    continue;
                }
                Decision::Wait { until } => Some(self.clock.instant(until)),
                // The watch begins with a list.
                Decision::Read | Decision::Renew | Decision::StepDown => None,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = at(pause), if pause.is_some() => pause = None,
                event = events.next(), if pause.is_none() => match event {
                    None => return None,
                    Some(Ok(event)) => {
                        retry.received(&event);
                        self.hear(event);
                    }
                    Some(Err(error)) => pause = Some(Instant::now() + retry.failed(&error)),
                },
                () = at(until), if until.is_some() => {}
            }
        }
    }

    fn hear(&mut self, event: Event<Lease>) {
        match event {
            Event::Init => self.listed = false,
            Event::InitApply(lease) | Event::Apply(lease) => {
                self.listed = true;
                self.see(Some(lease));
            }
            Event::InitDone if !self.listed => self.see(None),
            Event::InitDone => {}
            Event::Delete(_) => self.see(None),
        }
    }

    /// Tries to make or take the Lease.
    async fn attempt(&mut self, transitions: i64) -> Option<Term> {
        let sent = self.clock.now();
        self.tried = Some(sent);
        let timing = self.election.timing;
        let record = Record::begun(&self.election.identity, timing.lease_duration(), transitions, Timestamp::now());
        let mut lease = self.latest.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.election.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        lease.metadata.managed_fields = None;
        let annotations = lease.metadata.annotations.get_or_insert_default();
        // What the holder before couldn't do is told anew, if we can't either; and there has to be an annotation for others to be added.
        annotations.insert(PROBLEMS.to_owned(), String::new());
        annotations.extend(self.election.annotations.clone());
        lease.spec = Some(record.spec());
        let params = PostParams { field_manager: Some("pullpiri-controllers".to_owned()), ..PostParams::default() };
        let answer = async {
            match &self.latest {
                Some(_) => self.leases.replace(&self.election.name, &params, &lease).await,
                None => self.leases.create(&params, &lease).await,
            }
        };
        // An answer that comes later is worth nothing: the term would be over.
        let answer = tokio::time::timeout(timing.renew_deadline(), answer).await;
        match answer {
            Ok(Ok(lease)) => {
                self.see(Some(lease));
                Some(Term { transitions, renewed: sent })
            }
            Ok(Err(error)) => {
                let lost = matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
                if !lost && !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(error = said(&error), "taking the lease failed; trying again until it works");
                }
                self.look().await;
                None
            }
            Err(_) => {
                self.look().await;
                None
            }
        }
    }

    /// What the watch may not have told yet.
    async fn look(&mut self) {
        let limit = self.election.timing.renew_deadline();
        if let Ok(Ok(lease)) = tokio::time::timeout(limit, self.leases.get_opt(&self.election.name)).await {
            self.see(lease);
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_ref().and_then(|version| version.parse().ok())
}
