//! Packets between two models, counted.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use pullpiri_node_host::net::namespace;

use super::{LIMIT, Place, failed};
use crate::E2eError;

/// Between two packets of a flow.
const PACE: Duration = Duration::from_micros(500);
/// After the last packet that came, nothing is on its way any more.
const SILENCE: Duration = Duration::from_secs(1);
/// What a receiver that gets no CPU for a while has room for, in bytes.
const RECEIVE_BUFFER: usize = 32 << 20;

/// Numbered datagrams one way, until it is finished.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sending: JoinHandle<u64>,
    receiving: JoinHandle<Received>,
}

#[derive(Debug, Default)]
struct Received {
    numbers: BTreeSet<u64>,
    longest_gap: Duration,
}

/// What came of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub lost: u64,
    /// Between two packets that came, one after the other.
    pub longest_gap: Duration,
}

impl Flow {
    /// Starts to send from one model's place to another's.
    ///
    /// # Errors
    /// If there can be no sockets.
    pub fn start(from: &Place, to: &Place) -> Result<Self, E2eError> {
        const TO: u16 = 7001;
        let what = "opening a socket in a pod";
        let bind = |place: &Place, port: u16| -> Result<UdpSocket, E2eError> {
            let address = place.address;
            let bound = namespace::inside(&place.namespace, || Ok(UdpSocket::bind((address, port))));
            bound.map_err(|e| failed(what)(&e))?.map_err(|e| failed(what)(&e))
        };
        let (sender, receiver) = (bind(from, 0)?, bind(to, TO)?);
        sender.connect((to.address, TO)).map_err(|e| failed(what)(&e))?;
        setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER).map_err(|e| failed(what)(&e))?;
        receiver.set_read_timeout(Some(SILENCE)).map_err(|e| failed(what)(&e))?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let stopped = Arc::clone(&stop);
        let sending = std::thread::spawn(move || {
            let mut sent: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                // One that the node refuses to send is lost as well.
                let _ = sender.send(&sent.to_be_bytes());
                sent += 1;
                std::thread::sleep(PACE);
            }
            sent
        });
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&received));
        let receiving = std::thread::spawn(move || {
            let mut all = Received::default();
            let mut last: Option<Instant> = None;
            loop {
                let mut buffer = [0; 16];
                match receiver.recv(&mut buffer) {
                    Ok(8) => {
                        let mut number = [0; 8];
                        number.copy_from_slice(&buffer[..8]);
                        all.numbers.insert(u64::from_be_bytes(number));
                        let now = Instant::now();
                        all.longest_gap = all.longest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
                        last = Some(now);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(_) if stopped.load(Ordering::Relaxed) => return all,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { stop, received, sending, receiving })
    }

    /// Waits until so many more packets came.
    ///
    /// # Errors
    /// If they don't within a minute.
    pub async fn proceeds_by(&self, more: u64) -> Result<(), E2eError> {
        let until = self.received.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + LIMIT;
        while self.received.load(Ordering::Relaxed) < until {
            if Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for traffic", "it stands still"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends it, and counts.
    ///
    /// # Errors
    /// If one of its threads panicked.
    pub fn finish(self) -> Result<Traffic, E2eError> {
        let ended = |_| E2eError::failed("counting packets", "a thread panicked");
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().map_err(ended)?;
        let received = self.receiving.join().map_err(ended)?;
        let came = u64::try_from(received.numbers.len()).unwrap_or(u64::MAX);
        Ok(Traffic { sent, lost: sent.saturating_sub(came), longest_gap: received.longest_gap })
    }
}
