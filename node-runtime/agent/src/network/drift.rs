//! What others change of what was made for Networks: heard of as it happens, and told.
//!
//! The kernel tells of changes of every kind that the node's network is made of; [`Changes`] gathers what comes at once into one look. A look at a
//! network that is as it should be changes nothing, so what the node does itself is followed by one look more and then by rest. Against somebody who
//! changes things all the time, looks come ever later, up to a bound that still puts things right within a second.

use std::time::Duration;

use pullpiri_node_core::network::Step;
use pullpiri_node_host::net::Listener;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::plumbing::text;

/// From the first change until it is looked at: what belongs together comes within it.
const FIRST: Duration = Duration::from_millis(100);
/// At most, while changes go on.
const LAST: Duration = Duration::from_millis(500);
/// Without a change, after which the next is looked at soon again.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks where the kernel tells nothing.
const SLOW: Duration = Duration::from_secs(10);

/// Between two Events.
const TELL: Duration = Duration::from_secs(10);

/// What was put right.
#[derive(Debug, Default)]
pub(super) struct Drift {
    /// Steps that it took, since this process started.
    pub repairs: u64,
    /// The last of them, since the generation came that is in force.
    pub last: Option<String>,
}

impl Drift {
    pub fn repaired(&mut self, step: &Step) {
        self.repairs = self.repairs.saturating_add(1);
        // Plans are in columns.
        let step = step.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        warn!(step, "somebody changed the node's network; it was put right");
        self.last = Some(step);
    }

    /// Something else is declared: what was before is no news any more.
    pub fn settle(&mut self) {
        self.last = None;
    }
}

/// Changes of the network of the thread that listens first.
#[derive(Debug)]
pub struct Changes {
    links: Option<AsyncFd<Listener>>,
    table: Option<AsyncFd<Listener>>,
    /// Not everything is heard: it is looked at now and then.
    slow: bool,
    wait: Duration,
    looked: Option<Instant>,
    due: Option<Instant>,
}

impl Changes {
    /// Begins to listen, also to a table of nftables; the first look is soon. Needs a runtime of tokio's.
    #[must_use]
    pub fn of(table: Option<&str>) -> Self {
        let links = listen(Listener::of_links());
        let heard = table.map(|table| listen(Listener::of_table(table)));
        let slow = links.is_none() || matches!(heard, Some(None));
        let due = Some(Instant::now() + FIRST);
        Self { links, table: heard.flatten(), slow, wait: FIRST, looked: None, due }
    }

    /// Returns when there is something to look at. What was heard isn't lost if this is given up.
    pub async fn next(&mut self) {
        loop {
            if self.slow && self.due.is_none() {
                self.due = Some(Instant::now() + SLOW);
            }
            let due = self.due;
            tokio::select! {
                heard = hear(&mut self.links) => self.note(heard),
                heard = hear(&mut self.table) => self.note(heard),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    self.looked = Some(Instant::now());
                    return;
                }
            }
        }
    }

    /// `None`: nothing is heard any more.
    fn note(&mut self, heard: Option<bool>) {
        self.slow |= heard.is_none();
        let now = Instant::now();
        if heard == Some(false) || self.due.is_some_and(|due| due <= now + LAST) {
            return;
        }
        let is_quiet = self.looked.is_none_or(|looked| now.duration_since(looked) >= QUIET);
        self.wait = if is_quiet { FIRST } else { self.wait.saturating_mul(2).min(LAST) };
        self.due = Some(now + self.wait);
    }
}

fn listen(listener: pullpiri_node_host::Result<Listener>) -> Option<AsyncFd<Listener>> {
    let listener = listener.map_err(|error| text(&error));
    #[allow(deprecated, reason = "what is registered owns its descriptor, and always gives the same")]
    let open = listener.and_then(|listener| AsyncFd::new(listener).map_err(|error| error.to_string()));
    let every = SLOW.as_secs();
    open.inspect_err(|error| warn!(error, every, "changes of the network aren't heard; it is looked at now and then"))
        .ok()
}

/// Whether something of interest was told; `None` of a listener that fails, which is let go. Of none nothing is ever heard.
async fn hear(listener: &mut Option<AsyncFd<Listener>>) -> Option<bool> {
    let Some(open) = listener else { return std::future::pending().await };
    let heard = match open.readable_mut().await {
        Ok(mut ready) => {
            let heard = ready.get_inner_mut().drain();
            ready.clear_ready();
            heard.map_err(|error| text(&error))
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &heard {
        warn!(error, "changes of the network aren't heard any more; it is looked at now and then");
        *listener = None;
    }
    heard.ok()
}

/// What of it was told by Events: no more than one in a while.
#[derive(Debug, Default)]
pub(super) struct Told {
    repairs: u64,
    at: Option<Instant>,
}

impl Told {
    /// How many repairs are to be told now.
    pub fn news(&mut self, repairs: u64) -> Option<u64> {
        let now = Instant::now();
        let count = repairs.saturating_sub(self.repairs);
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= TELL);
        (count > 0 && is_due).then(|| {
            (self.repairs, self.at) = (repairs, Some(now));
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn looks_come_later_while_changes_go_on_and_soon_after_a_rest() {
        let mut changes = Changes { links: None, table: None, slow: false, wait: FIRST, looked: None, due: None };
        let mut waits = Vec::new();
        for _ in 0..5 {
            changes.note(Some(true));
            changes.note(Some(false));
            waits.push(changes.wait.as_millis());
            (changes.due, changes.looked) = (None, Some(Instant::now()));
        }
        assert_eq!(waits, [100, 200, 400, 500, 500]);
        changes.looked = Instant::now().checked_sub(QUIET);
        changes.note(Some(true));
        assert_eq!(changes.wait, FIRST);
        changes.due = None;
        changes.note(Some(false));
        assert_eq!(changes.due, None, "of no interest");
        changes.note(None);
        assert!(changes.slow && changes.due.is_some(), "who hears nothing looks");
    }

    #[test]
    fn what_was_done_is_told_in_a_line() {
        let mut drift = Drift::default();
        drift.repaired(&Step::MakeTree { link: "up0".to_owned() });
        assert_eq!((drift.repairs, drift.last.as_deref()), (1, Some("make htb on up0")));
        drift.settle();
        assert_eq!((drift.repairs, drift.last), (1, None));
    }

    #[tokio::test]
    async fn repairs_are_told_by_few_events() {
        let mut told = Told::default();
        assert_eq!(told.news(0), None);
        assert_eq!(told.news(3), Some(3));
        assert_eq!(told.news(9), None, "not so soon");
        told.at = told.at.and_then(|at| at.checked_sub(TELL));
        assert_eq!(told.news(9), Some(6));
    }
}
