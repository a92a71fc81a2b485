//! Pods that an earlier agent left, and those whose supervisor ends: taken over, connected to again, cleaned up after.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures::future::BoxFuture;
use pullpiri_node_core::runtime::{ContainerObserved, PodId};
use pullpiri_node_host::cgroup::pod_group;
use pullpiri_node_host::files;
use pullpiri_node_host::socket::SeqPacket;

use super::{BIRTH_DEADLINE, Inner, Pod, Pods, failed};
use crate::oci::link::{Link, Opened};
use crate::oci::store::{self, LOCK_FILE, StoredPod};
use crate::oci::wire::SOCKET_NAME;
use crate::{RuntimeError, RuntimeEvent};

/// How often a supervisor that lives and can't be reached is tried again, and for how long each time.
const SEEK_PAUSE: Duration = Duration::from_secs(1);
const SEEK_DEADLINE: Duration = Duration::from_millis(100);

/// How many processes that are in a pod's way are named.
const NAMED: usize = 8;

/// How a pod's supervisor stands.
pub(super) enum Reach {
    Connected(Arc<Link>),
    /// It is dead, and nobody else will come to be it.
    Gone,
    /// It lives, and can't be reached for now: why.
    Deaf(String),
}

enum Found {
    Opened(Opened),
    Gone,
    Deaf(String),
}

impl Pods {
    /// Takes over what is in the data directory.
    pub(super) async fn adopt_all(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.inner.pods_dir)? {
            let entry = entry?;
            let (dir, name) = (entry.path(), entry.file_name());
            let Some(id) = name.to_str().filter(|n| store::is_plain_name(n)).map(|n| PodId(n.to_owned())) else {
                continue;
            };
            // One such pod must not keep the node from its others. It is tried again when it is wanted, and when an agent starts.
            match self.inherit(dir, &id) {
                Ok(pod) => found.extend(pod),
                Err(error) => {
                    tracing::error!(pod = %id, %error, "what is left of a pod can neither be taken over nor removed; it stays");
                }
            }
        }
        futures::future::join_all(found.into_iter().map(|pod| self.adopt(pod))).await;
        Ok(())
    }

    /// A pod that was there before; `None` if nothing of it runs, and nothing is left.
    fn inherit(&self, dir: PathBuf, id: &PodId) -> io::Result<Option<Arc<Pod>>> {
        let stored = StoredPod::read(&dir)?.filter(|s| s.boot_id == self.inner.boot_id && s.id == *id);
        let Some(stored) = stored else {
            // From before a reboot, or never completed: nothing of it runs.
            tracing::info!(pod = %id, "removing what is left of a pod");
            self.inner.clear(&dir, id)?;
            return Ok(None);
        };
        let pod = Arc::new(Pod::new(stored, dir));
        self.inner.node.logs.claim(id);
        self.known().insert(id.clone(), Arc::clone(&pod));
        Ok(Some(pod))
    }

    async fn adopt(&self, pod: Arc<Pod>) {
        match self.reach(&pod, BIRTH_DEADLINE).await {
            Reach::Connected(_) => {}
            Reach::Gone => drop(self.bury(pod).await),
            Reach::Deaf(why) => self.seek(&pod, &why),
        }
    }

    /// The connection to a pod's supervisor for an operation on it, or `None` if that is dead. One that lives and can't be reached is
    /// an error, for its containers may run: who asks is to ask again.
    pub(super) async fn supervisor(
        &self,
        pod: &Arc<Pod>,
        attempted: &'static str,
    ) -> Result<Option<Arc<Link>>, RuntimeError> {
        if !pod.state().sought {
            match self.reach(pod, BIRTH_DEADLINE).await {
                Reach::Connected(link) => return Ok(Some(link)),
                Reach::Gone => return Ok(None),
                Reach::Deaf(why) => self.seek(pod, &why),
            }
        }
        let message = "the pod's supervisor lives and can't be reached; it is tried again".to_owned();
        Err(failed(&pod.stored.id, attempted, message))
    }

    /// Connects to a pod's supervisor unless it is connected. One attempt at a time, so that no connection takes another's place.
    async fn reach(&self, pod: &Arc<Pod>, within: Duration) -> Reach {
        let _alone = pod.reaching.lock().await;
        if let Some(link) = pod.link() {
            return Reach::Connected(link);
        }
        if pod.state().dead {
            return Reach::Gone;
        }
        match Self::find(pod, within).await {
            Found::Opened(opened) => Reach::Connected(self.attend(pod, opened)),
            Found::Gone => Reach::Gone,
            Found::Deaf(why) => Reach::Deaf(why),
        }
    }

    async fn find(pod: &Pod, within: Duration) -> Found {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let connection = SeqPacket::connect(&pod.dir, SOCKET_NAME).map_err(|e| e.source);
            let mut why = match connection.and_then(Link::open) {
                // The kernel accepts for a process that is just dying.
                Ok(mut opened) => match tokio::time::timeout_at(deadline, &mut opened.greeting).await {
                    Ok(Ok(())) => return Found::Opened(opened),
                    Ok(Err(_)) => "it closes its connections".to_owned(),
                    Err(_) => {
                        tracing::warn!(pod = %pod.stored.id, "the pod's supervisor doesn't answer");
                        return Found::Opened(opened);
                    }
                },
                Err(error) => error.to_string(),
            };
            // Locked without listening: one is just being born, which nothing announces, or lacks what it takes to listen.
            match files::try_lock(&pod.dir.join(LOCK_FILE)).map_err(|e| e.source) {
                Ok(Some(_)) => return Found::Gone,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Gone,
                Err(error) => why = error.to_string(),
            }
            if tokio::time::Instant::now() > deadline {
                return Found::Deaf(why);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tries a supervisor that lives and can't be reached again and again: its containers run, so it is neither dead nor anybody else's.
    fn seek(&self, pod: &Arc<Pod>, why: &str) {
        if std::mem::replace(&mut pod.state().sought, true) {
            return;
        }
        tracing::error!(pod = %pod.stored.id, why, "the pod's supervisor lives and can't be reached; it is tried again");
        let (inner, pod) = (Arc::downgrade(&self.inner), Arc::clone(pod));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SEEK_PAUSE).await;
                let Some(inner) = inner.upgrade() else { return };
                let this = Self { inner };
                let found = this.reach(&pod, SEEK_DEADLINE).await;
                if !matches!(found, Reach::Deaf(_)) {
                    pod.state().sought = false;
                    return this.settle(&pod, found).await;
                }
            }
        });
    }

    /// Makes a connected pod known, passes on what its supervisor tells, and cleans up after it when it ends.
    pub(super) fn attend(&self, pod: &Arc<Pod>, opened: Opened) -> Arc<Link> {
        let Opened { link, reader, mut changes, greeting: _ } = opened;
        {
            let mut state = pod.state();
            state.link = Some(Arc::clone(&link));
            state.reader = Some(reader);
            state.dead = false;
        }
        let id = pod.stored.id.clone();
        self.known().insert(id.clone(), Arc::clone(pod));
        // The task must not keep the runtime alive: dropping that is how an agent lets go of its pods.
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Some(container) = changes.recv().await {
                let Some(inner) = inner.upgrade() else { return };
                // Nobody may be listening.
                let _ = inner.events.send(RuntimeEvent::Container { pod: id.clone(), container });
            }
            if let Some(inner) = inner.upgrade() {
                (Self { inner }).mourn(&id).await;
            }
        });
        link
    }

    /// A connection has closed: kills and records what a dead supervisor left behind, unless its end was asked for. One that lives and
    /// had cut us off, because we didn't read, is connected to again.
    fn mourn<'a>(&'a self, id: &'a PodId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(pod) = self.get(id) else { return };
            if pod.state().removing {
                return;
            }
            // Another connection may have taken its place.
            if pod.link().is_none() {
                let found = self.reach(&pod, BIRTH_DEADLINE).await;
                self.settle(&pod, found).await;
            }
        })
    }

    /// Tells how it stands with a supervisor whose connection had closed, and cleans up after a dead one.
    async fn settle(&self, pod: &Arc<Pod>, found: Reach) {
        let id = &pod.stored.id;
        match found {
            Reach::Connected(_) => {
                let _ = self.inner.events.send(RuntimeEvent::Resync);
            }
            Reach::Deaf(why) => self.seek(pod, &why),
            Reach::Gone if pod.state().removing => {}
            Reach::Gone => {
                tracing::warn!(pod = %id, "the pod's supervisor is gone; its containers are killed");
                for container in self.bury(Arc::clone(pod)).await {
                    let _ = self.inner.events.send(RuntimeEvent::Container { pod: id.clone(), container });
                }
                let _ = self.inner.events.send(RuntimeEvent::Sandbox { pod: id.clone() });
            }
        }
    }

    /// Kills the containers of a pod whose supervisor is dead, and returns those whose ends nobody had seen.
    pub(super) async fn bury(&self, pod: Arc<Pod>) -> Vec<ContainerObserved> {
        let (this, id) = (self.clone(), pod.stored.id.clone());
        let buried = tokio::task::spawn_blocking(move || {
            let changed = this.inner.bury(&pod);
            pod.state().dead = true;
            changed
        });
        match buried.await.map_err(io::Error::other).flatten() {
            Ok(changed) => changed,
            Err(e) => {
                tracing::error!(pod = %id, error = %e, "cleaning up after a dead supervisor");
                Vec::new()
            }
        }
    }
}

impl Inner {
    /// Checks that nothing runs of a pod that isn't in this data directory. What another node runtime has left of it can't be taken over,
    /// as its records aren't here, and isn't ours to kill: it is not to run twice.
    pub(super) fn check_alone(&self, id: &PodId) -> io::Result<()> {
        let group = pod_group(&id.0);
        let others = self.cgroups.processes(&group).map_err(io::Error::other)?;
        if others.is_empty() {
            return Ok(());
        }
        let mut named: Vec<String> = others.iter().take(NAMED).map(ToString::to_string).collect();
        if others.len() > NAMED {
            named.push("…".to_owned());
        }
        Err(io::Error::other(format!(
            "it runs already, in cgroup {group}, by processes that aren't this data directory's: {}. A node runtime with another --data-dir has \
             probably started them: start the node with that one, or end them; it is tried again",
            named.join(", ")
        )))
    }
}
