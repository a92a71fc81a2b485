//! One node runtime per name: two would take turns writing the same statuses.
//!
//! The Lease's holder names the installation, which is its data directory's: a node that starts again with the same directory goes on at once,
//! whatever way it had ended. One that finds the Lease held by another installation does nothing, not even looks at its pods, until that hasn't
//! been renewed for as long as it holds. By whose clock? A `renewTime` is its writer's, and a clock of an ECU may be anything: it counts where it
//! is past at the first sight, but a renewal is waited for in any case; from then on renewals that were seen count.
//!
//! An API server that isn't in reach keeps no node from its services. So two may run all the same: both began without one, or one was away for longer
//! than its Lease holds. The heartbeat tells of the other, once; a person has to end one of the two.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use pullpiri_crds::names::{NODE_LEASE_NAMESPACE, node_lease};
use pullpiri_node_host::files::{self, Durability};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Heartbeat;
use crate::retry::{Retry, Verdict, judge};

/// Below the data directory.
const FILE: &str = "installation";
/// Where the kernel makes ids that nobody else has.
const NEW: &str = "/proc/sys/kernel/random/uuid";
/// Between looks at a Lease that another holds.
const LOOK: Duration = Duration::from_secs(2);
/// How long a node that has nothing to run asks an API server that doesn't answer, or is just starting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who this node is, as its Lease's holder: `hpc_<host>_<installation>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder(String);

impl Holder {
    /// Reads the installation's id, or makes it. Where that can't be kept (a full disk), the node's name alone holds the Lease.
    pub fn of(data_dir: &Path, node: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match installation(data_dir) {
            Ok(id) => Self(format!("{node}_{}_{id}", host.trim())),
            Err(error) => {
                warn!(%error, "this installation has no id: another node of the same name isn't told from it");
                Self(node.to_owned())
            }
        }
    }

    pub fn name(&self) -> String {
        self.0.clone()
    }

    /// Whoever else holds a Lease. Those of releases before this one, which hold it as the node, may have been this installation.
    pub fn other<'a>(&self, lease: &'a LeaseSpec) -> Option<&'a str> {
        let given = lease.holder_identity.as_deref()?;
        let (theirs, ours) = (id_of(given)?, id_of(&self.0)?);
        (theirs != ours).then_some(given)
    }
}

/// The host's name may have changed.
fn id_of(holder: &str) -> Option<&str> {
    holder.rsplit_once('_').map(|(_, id)| id).filter(|id| is_id(id))
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn installation(data_dir: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let path = data_dir.join(FILE);
    if let Some(id) = std::fs::read_to_string(&path).ok().map(|text| text.trim().to_owned()).filter(|id| is_id(id)) {
        return Ok(id);
    }
    let id = std::fs::read_to_string(NEW)?.trim().replace('-', "");
    files::replace(&path, format!("{id}\n").as_bytes(), Durability::PowerCut)?;
    Ok(id)
}

/// Another's Lease as it was seen.
#[derive(Clone, Debug)]
struct Sight {
    renewed: Option<MicroTime>,
    /// By this process' clock.
    ends: Instant,
}

/// When another's Lease runs out, if it isn't renewed: by its `renewTime` at first sight, where that is past, from then on by when it changed.
fn look(before: Option<&Sight>, lease: &LeaseSpec, times: Heartbeat, (now, wall): (Instant, Timestamp)) -> Sight {
    let renewed = lease.renew_time.clone();
    let hold = lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(times.hold, Duration::from_secs);
    let ends = match before {
        Some(sight) if sight.renewed == renewed => sight.ends,
        Some(_) => now + hold,
        None => {
            let claimed = renewed.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0).min(wall);
            let age = Duration::try_from(wall.duration_since(claimed).max(SignedDuration::ZERO)).unwrap_or_default();
            // One renewal of a node that lives comes in that time, whatever its clock says.
            now + hold.saturating_sub(age).max(times.renew + times.renew / 2)
        }
    };
    Sight { renewed, ends }
}

/// When a node may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    AtOnce,
    /// Another had the name.
    Later,
    /// It is shut down before.
    Never,
}

/// How the name stands.
enum Turn {
    Ours,
    Theirs,
}

/// Waits until no other installation has the node's name, if the API server tells in time: within `first_contact` for a node that has something
/// to run.
pub(crate) async fn await_turn(
    client: &Client,
    node: &str,
    holder: &Holder,
    times: Heartbeat,
    first_contact: Option<Duration>,
    shutdown: &CancellationToken,
) -> Begin {
    let wait = Wait { api: Api::namespaced(client.clone(), NODE_LEASE_NAMESPACE), node, holder, times };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Begin::Never,
        begin = wait.run(first_contact) => begin,
    }
}

struct Wait<'a> {
    api: Api<Lease>,
    node: &'a str,
    holder: &'a Holder,
    times: Heartbeat,
}

impl Wait<'_> {
    async fn run(&self, first_contact: Option<Duration>) -> Begin {
        let mut sight = None;
        match tokio::time::timeout(first_contact.unwrap_or(PATIENCE), self.first(&mut sight)).await {
            Ok(Turn::Theirs) => {}
            Ok(Turn::Ours) | Err(_) => return Begin::AtOnce,
        }
        let mut retry = Retry::default();
        loop {
            match self.turn(&mut sight).await {
                Ok(Turn::Ours) => {
                    info!(node = self.node, "the other node runtime's lease has run out; this one takes over");
                    return Begin::Later;
                }
                Ok(Turn::Theirs) => {
                    retry.succeeded();
                    tokio::time::sleep(LOOK.min(self.times.renew)).await;
                }
                Err(error) => {
                    let has_run_out = sight.as_ref().is_some_and(|sight| sight.ends <= Instant::now());
                    if has_run_out && first_contact.is_some() && !matches!(error, kube::Error::Api(_)) {
                        warn!(node = self.node, %error, "nobody tells of the other node runtime any more, and its lease has run out; this one takes over");
                        return Begin::Later;
                    }
                    debug!(%error, "looking at the node's lease failed");
                    tokio::time::sleep(retry.delay()).await;
                }
            }
        }
    }

    async fn first(&self, sight: &mut Option<Sight>) -> Turn {
        let mut retry = Retry::default();
        loop {
            match self.turn(sight).await {
                Ok(turn) => return turn,
                Err(error) if judge(&error) == Verdict::Refused => return Turn::Ours,
                Err(error) => debug!(%error, "looking at the node's lease failed"),
            }
            tokio::time::sleep(retry.delay()).await;
        }
    }

    async fn turn(&self, sight: &mut Option<Sight>) -> Result<Turn, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&node_lease(self.node)).await? else {
            // Deleted while we look: whoever lives makes it again.
            let waits = sight.as_ref().is_some_and(|sight| sight.ends > Instant::now());
            return Ok(if waits { Turn::Theirs } else { Turn::Ours });
        };
        let spec = lease.spec.get_or_insert_default();
        let Some(other) = self.holder.other(spec) else { return Ok(Turn::Ours) };
        let at = Instant::now();
        let seen = look(sight.as_ref(), spec, self.times, (at, Timestamp::now()));
        let ends = seen.ends;
        let is_first = sight.replace(seen).is_none();
        if ends > at {
            if is_first {
                warn!(
                    "node {node} is run already, by {other} (as <node>_<host>_<installation>): another node runtime with this name and another data \
                     directory. This one does nothing until that one's lease has run out; end that one, or give this one another --name",
                    node = self.node
                );
            }
            return Ok(Turn::Theirs);
        }
        let now = MicroTime(Timestamp::now());
        spec.holder_identity = Some(self.holder.name());
        spec.acquire_time = Some(now.clone());
        spec.renew_time = Some(now);
        // With its resourceVersion: of several that wait, one has it.
        match self.api.replace(&node_lease(self.node), &PostParams::default(), &lease).await {
            Ok(_) => Ok(Turn::Ours),
            Err(error) if judge(&error) == Verdict::Conflict => Ok(Turn::Theirs),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Heartbeat = Heartbeat { renew: Duration::from_secs(10), hold: Duration::from_secs(40) };

    fn lease(holder: &str, renewed: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(renewed)),
            ..Default::default()
        }
    }

    #[test]
    fn an_installation_is_its_data_directory() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, other) = (Holder::of(one.path(), "hpc"), Holder::of(two.path(), "hpc"));
        assert_eq!(Holder::of(one.path(), "hpc"), mine, "also after a restart");
        let held = |by: &str| lease(by, Timestamp::UNIX_EPOCH);
        assert_eq!(mine.other(&held(&mine.name())), None);
        assert_eq!(mine.other(&held(&other.name())), Some(other.name().as_str()));
        let renamed = format!("hpc_other-host_{}", id_of(&mine.name()).unwrap());
        assert_eq!(mine.other(&held(&renamed)), None, "the host has another name");
        assert_eq!(mine.other(&held("hpc")), None, "of a release before");
        assert_eq!(mine.other(&LeaseSpec::default()), None);
        // What was cut short is made anew; what can't be kept is none.
        std::fs::write(one.path().join(FILE), "12").unwrap();
        assert_ne!(Holder::of(one.path(), "hpc"), mine);
        assert_eq!(Holder::of(&one.path().join("absent"), "hpc"), Holder("hpc".to_owned()));
    }

    #[test]
    fn anothers_lease_runs_out_by_what_is_seen() {
        let (now, wall) = (Instant::now(), Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24));
        let ago = |seconds| lease("x", wall - SignedDuration::from_secs(seconds));
        let first = |seconds| look(None, &ago(seconds), TIMES, (now, wall)).ends - now;
        assert_eq!(first(0), Duration::from_secs(40));
        assert_eq!(first(10), Duration::from_secs(30));
        // Long ago by its clock: a renewal is waited for, as that may be slow.
        assert_eq!(first(1_000), Duration::from_secs(15));
        assert_eq!(first(-1_000), Duration::from_secs(40), "its clock is ahead");

        let seen = look(None, &ago(1_000), TIMES, (now, wall));
        let later = now + Duration::from_secs(9);
        assert_eq!(look(Some(&seen), &ago(1_000), TIMES, (later, wall)).ends, seen.ends);
        assert_eq!(look(Some(&seen), &ago(990), TIMES, (later, wall)).ends, later + TIMES.hold, "it lives");
    }
}
