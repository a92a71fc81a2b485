//! Who is connected to a supervisor: agents, one after the other and for a moment two at once.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pullpiri_node_host::Result;
use pullpiri_node_host::process::Pidfd;
use pullpiri_node_host::socket::{MAX_MESSAGE, Received, SeqPacket};

use super::Supervisor;
use crate::oci::wire::{Answer, Request};

/// How long connections are left alone when one couldn't be taken, for want of descriptors or memory: it still waits, so that a poll would
/// return at once. Short beside what an agent waits for a greeting.
const DEAF: Duration = Duration::from_millis(200);

impl Supervisor {
    /// An agent that can't be heard now is no reason to end, which would take the containers along.
    pub(super) fn take_connections(&mut self) {
        loop {
            match self.listener.accept() {
                // One that can't be greeted is closed, and comes again.
                Ok(Some(client)) => drop(self.welcome(client)),
                Ok(None) => return,
                Err(_) => {
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            }
        }
    }

    /// Greets a new connection with what runs and a pidfd of this process.
    pub(super) fn welcome(&mut self, client: SeqPacket) -> Result<()> {
        client.set_nonblocking()?;
        let pidfd = Pidfd::open(nix::unistd::getpid())?;
        let hello = Answer::Hello { containers: self.containers.values().map(|c| c.observed.clone()).collect() };
        let bytes = serde_json::to_vec(&hello).unwrap_or_default();
        if client.send(&bytes, &[pidfd.as_fd()]).is_ok() {
            self.clients.insert(self.next_client, client);
            self.next_client += 1;
        }
        Ok(())
    }

    pub(super) fn read_client(&mut self, id: u64) -> Result<()> {
        loop {
            let Some(client) = self.clients.get(&id) else { return Ok(()) };
            match client.receive() {
                Ok(Received::Message(message)) => {
                    // What can't be understood comes from a newer agent; the connection's end tells it so.
                    let Ok(request) = serde_json::from_slice::<Request>(&message.bytes) else {
                        self.clients.remove(&id);
                        return Ok(());
                    };
                    self.waiting.push_back((id, request));
                    self.next_request()?;
                }
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::Closed) | Err(_) => {
                    self.clients.remove(&id);
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn answer(&mut self, client: u64, answer: &Answer) {
        let Some(socket) = self.clients.get(&client) else { return };
        let bytes = serde_json::to_vec(answer).unwrap_or_default();
        debug_assert!(bytes.len() <= MAX_MESSAGE);
        // An agent that doesn't read is cut off; it finds everything on disk when it comes back.
        if socket.send(&bytes, &[]).is_err() {
            self.clients.remove(&client);
        }
    }

    pub(super) fn tell(&mut self, answer: &Answer) {
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        for client in clients {
            self.answer(client, answer);
        }
    }
}
