//! Pods that an earlier agent left, and those whose supervisor ends: taken over, connected to again, cleaned up after.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use futures::future::BoxFuture;
use pullpiri_node_core::runtime::{ContainerObserved, PodId};
use pullpiri_node_host::files;
use pullpiri_node_host::socket::SeqPacket;

use super::{BIRTH_DEADLINE, Pod, Pods};
use crate::RuntimeEvent;
use crate::oci::link::{Link, Opened};
use crate::oci::store::{self, LOCK_FILE, StoredPod};
use crate::oci::wire::SOCKET_NAME;

impl Pods {
    /// Takes over what is in the data directory.
    pub(super) async fn adopt_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.inner.pods_dir)? {
            let entry = entry?;
            let (dir, name) = (entry.path(), entry.file_name());
            let Some(id) = name.to_str().filter(|n| store::is_plain_name(n)).map(|n| PodId(n.to_owned())) else {
                continue;
            };
            // One such pod must not keep the node from its others. It is tried again when it is wanted, and when an agent starts.
            if let Err(error) = self.adopt(dir, &id).await {
                tracing::error!(pod = %id, %error, "what is left of a pod can neither be taken over nor removed; it stays");
            }
        }
        Ok(())
    }

    async fn adopt(&self, dir: PathBuf, id: &PodId) -> io::Result<()> {
        let stored = StoredPod::read(&dir)?.filter(|s| s.boot_id == self.inner.boot_id && s.id == *id);
        let Some(stored) = stored else {
            // From before a reboot, or never completed: nothing of it runs.
            tracing::info!(pod = %id, "removing what is left of a pod");
            return self.inner.clear(&dir, id);
        };
        let pod = Arc::new(Pod { stored, dir, state: Mutex::default(), burial: Mutex::default() });
        self.inner.node.logs.claim(id);
        match self.reconnect(&pod).await? {
            Some(opened) => drop(self.attend(&pod, opened)),
            None => {
                self.known().insert(id.clone(), Arc::clone(&pod));
                self.bury(pod).await;
            }
        }
        Ok(())
    }

    /// A connection to a pod's supervisor, or `None` if it has none and never will.
    async fn reconnect(&self, pod: &Pod) -> io::Result<Option<Opened>> {
        let deadline = tokio::time::Instant::now() + BIRTH_DEADLINE;
        loop {
            if let Ok(connection) = SeqPacket::connect(&pod.dir, SOCKET_NAME) {
                let mut opened = Link::open(connection)?;
                // The kernel accepts for a process that is just dying.
                match tokio::time::timeout_at(deadline, &mut opened.greeting).await {
                    Ok(Ok(())) => return Ok(Some(opened)),
                    Ok(Err(_)) => {}
                    Err(_) => {
                        tracing::warn!(pod = %pod.stored.id, "the pod's supervisor doesn't answer");
                        return Ok(Some(opened));
                    }
                }
            }
            // Locked without listening: one is just being born, which nothing announces.
            if files::try_lock(&pod.dir.join(LOCK_FILE)).map_err(|e| e.source)?.is_some() {
                return Ok(None);
            }
            if tokio::time::Instant::now() > deadline {
                // One such pod must not keep the node from its others.
                tracing::error!(pod = %pod.stored.id, "the pod's supervisor lives but doesn't listen");
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
            match self.reconnect(&pod).await {
                Ok(Some(opened)) => {
                    self.attend(&pod, opened);
                    let _ = self.inner.events.send(RuntimeEvent::Resync);
                    return;
                }
                Ok(None) => {}
                Err(e) => tracing::error!(pod = %id, error = %e, "reaching the pod's supervisor"),
            }
            tracing::warn!(pod = %id, "the pod's supervisor is gone; its containers are killed");
            for container in self.bury(pod).await {
                let _ = self.inner.events.send(RuntimeEvent::Container { pod: id.clone(), container });
            }
            let _ = self.inner.events.send(RuntimeEvent::Sandbox { pod: id.clone() });
        })
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
