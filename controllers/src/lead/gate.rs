//! Until when writes may leave.

use tokio::sync::watch;
use tokio::time::{Duration, Instant};

/// How long the gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Nobody else acts.
    Always,
    /// Writes may be under way until `acts`; before `held` nobody else can act.
    Until {
        acts: Instant,
        held: Instant,
    },
    Closed,
}

/// Looked at before and while something is written. Clones are of the same gate.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<Opening>);

/// Opens and closes a gate, which is closed when this is dropped.
#[derive(Debug)]
pub struct Keeper(watch::Sender<Opening>);

impl Keeper {
    /// A gate that is closed.
    #[must_use]
    pub fn closed() -> (Self, Gate) {
        let (sender, receiver) = watch::channel(Opening::Closed);
        (Self(sender), Gate(receiver))
    }

    /// Open until `acts`, from when there is time until `held` before somebody else acts. Never shorter than it is already.
    pub fn open_until(&self, acts: Instant, held: Instant) {
        self.0.send_if_modified(|opening| {
            let sooner = match *opening {
                Opening::Always => false,
                Opening::Until { acts: present, .. } => present < acts,
                Opening::Closed => true,
            };
            if sooner {
                *opening = Opening::Until { acts, held };
            }
            sooner
        });
    }

    pub fn close(&self) {
        self.0.send_replace(Opening::Closed);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gate {
    /// The gate of the only controllers that there are.
    #[must_use]
    pub fn always_open() -> Self {
        // Nobody can close it: its keeper is gone, and `Always` stays.
        Self(watch::channel(Opening::Always).1)
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        match *self.0.borrow() {
            Opening::Always => true,
            Opening::Until { acts, .. } => Instant::now() < acts,
            Opening::Closed => false,
        }
    }

    /// How long a write that begins now may take before somebody else can act; `None`: as long as it likes. Zero behind a closed gate.
    #[must_use]
    pub fn time_for_a_write(&self) -> Option<Duration> {
        match *self.0.borrow() {
            Opening::Always => None,
            Opening::Until { held, .. } => Some(held.saturating_duration_since(Instant::now())),
            Opening::Closed => Some(Duration::ZERO),
        }
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let mut changes = self.0.clone();
        loop {
            let opening = *changes.borrow_and_update();
            match opening {
                Opening::Closed => return,
                Opening::Until { acts, .. } if acts <= Instant::now() => return,
                Opening::Until { acts, .. } => {
                    tokio::select! {
                        // It may have been moved meanwhile: looked at again.
                        () = tokio::time::sleep_until(acts) => {}
                        changed = changes.changed() => if changed.is_err() { return },
                    }
                }
                Opening::Always => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_closes_by_itself_and_later_if_it_is_moved() {
        let (keeper, gate) = Keeper::closed();
        assert!(!gate.is_open());
        gate.closed().await;
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        keeper.open_until(at(10), at(15));
        assert!(gate.is_open());
        assert_eq!(gate.time_for_a_write(), Some(Duration::from_secs(15)));
        let waiting = gate.clone();
        let closed = tokio::spawn(async move {
            waiting.closed().await;
            start.elapsed()
        });
        tokio::time::sleep(Duration::from_secs(4)).await;
        keeper.open_until(at(14), at(19));
        // An answer that overtook it says less.
        keeper.open_until(at(12), at(17));
        assert_eq!(closed.await.unwrap(), Duration::from_secs(14));
        assert!(!gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_at_once_when_it_is_given_up() {
        let (keeper, gate) = Keeper::closed();
        keeper.open_until(Instant::now() + Duration::from_secs(10), Instant::now() + Duration::from_secs(15));
        drop(keeper);
        assert!(!gate.is_open());
        assert_eq!(gate.time_for_a_write(), Some(Duration::ZERO));
        gate.closed().await;
        let open = Gate::always_open();
        assert!(open.is_open() && open.time_for_a_write().is_none());
        assert!(tokio::time::timeout(Duration::from_secs(99), open.closed()).await.is_err());
    }
}
