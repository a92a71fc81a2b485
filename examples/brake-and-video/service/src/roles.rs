//! What each service does.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::network::lookup;
use crate::options::Role;
use crate::pace::{Pace, Samples, compute};

/// How long a service waits before it tries a peer that isn't there again.
const RETRY: Duration = Duration::from_millis(200);
/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(role: &Role) -> Result<(), String> {
    let overrun_asked = Arc::new(AtomicBool::new(false));
    signals(&overrun_asked)?;
    match role {
        Role::Brake { period, work, overrun, port } => brake(*period, *work, *overrun, *port, &overrun_asked),
        Role::Sensor { to, period } => sensor(to, *period),
        Role::Video { to, flows } => video(to, *flows),
        Role::Screen { port } => screen(*port),
        Role::Hog { threads } => hog(*threads),
    }
}

/// One line, written at once.
fn log(line: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    drop(written);
}

/// SIGTERM and SIGINT end the process, SIGUSR1 asks for an overrun. To be called while there is one thread.
fn signals(overrun_asked: &Arc<AtomicBool>) -> Result<(), String> {
    let mut waited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        waited.add(signal);
    }
    waited.thread_block().map_err(|e| format!("blocking signals: {e}"))?;
    let asked = Arc::clone(overrun_asked);
    spawn("signals", move || {
        while let Ok(signal) = waited.wait() {
            if signal == Signal::SIGUSR1 {
                asked.store(true, Ordering::Relaxed);
            } else {
                log(&format!("stopping on {signal}"));
                std::process::exit(0);
            }
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map(drop).map_err(|e| format!("starting thread {name}: {e}"))
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

fn brake(
    period: Duration,
    work: Duration,
    overrun: Duration,
    port: u16,
    overrun_asked: &Arc<AtomicBool>,
) -> Result<(), String> {
    let socket = UdpSocket::bind(any(port)).map_err(|e| format!("listening on UDP port {port}: {e}"))?;
    let asked = Arc::clone(overrun_asked);
    spawn("brake-loop", move || {
        let mut pace = Pace::start(period);
        let mut samples = Samples::default();
        loop {
            pace.wait();
            let began = Instant::now();
            if asked.swap(false, Ordering::Relaxed) {
                compute(overrun);
                log(&format!("brake: a job of {} ms", overrun.as_millis()));
            } else {
                compute(work);
            }
            if let Some(text) = samples.add(began.elapsed()) {
                log(&format!("brake: jobs {text}"));
            }
        }
    })?;
    log(&format!("brake: every {} us for {} us, answering on UDP port {port}", period.as_micros(), work.as_micros()));
    let mut datagram = [0_u8; 2048];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((length, from)) => {
                // A sensor that is gone meanwhile misses nothing.
                let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
            }
            Err(e) => return Err(format!("receiving: {e}")),
        }
    }
}

fn sensor(to: &str, period: Duration) -> Result<(), String> {
    loop {
        match lookup(to).and_then(|target| readings(target, period)) {
            Ok(()) => return Ok(()),
            Err(message) => log(&format!("sensor: {message}; trying again")),
        }
        std::thread::sleep(RETRY);
    }
}

/// Sends readings until the peer seems to be gone.
fn readings(target: SocketAddr, period: Duration) -> Result<(), String> {
    let failed = |what: &str, e: std::io::Error| format!("{what} {target}: {e}");
    let local = if target.is_ipv4() { SocketAddr::from(([0, 0, 0, 0], 0)) } else { any(0) };
    let socket = UdpSocket::bind(local).map_err(|e| failed("binding for", e))?;
    socket.connect(target).map_err(|e| failed("connecting to", e))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| failed("preparing for", e))?;
    let mut pace = Pace::start(period);
    let mut samples = Samples::default();
    let mut number = 0_u64;
    loop {
        pace.wait();
        number += 1;
        let mut reading = [0_u8; 64];
        reading[..8].copy_from_slice(&number.to_be_bytes());
        let began = Instant::now();
        socket.send(&reading).map_err(|e| failed("sending to", e))?;
        let mut answer = [0_u8; 64];
        loop {
            socket.recv(&mut answer).map_err(|e| failed("waiting for", e))?;
            if answer[..8] == reading[..8] {
                break;
            }
        }
        if let Some(text) = samples.add(began.elapsed()) {
            log(&format!("sensor: round trips {text}"));
        }
    }
}

fn video(to: &str, flows: usize) -> Result<(), String> {
    let sent = Arc::new(AtomicU64::new(0));
    for _ in 0..flows {
        let (to, sent) = (to.to_owned(), Arc::clone(&sent));
        spawn("flow", move || {
            loop {
                if let Err(message) = lookup(&to).and_then(|target| stream(target, &sent)) {
                    log(&format!("video: {message}; trying again"));
                }
                std::thread::sleep(RETRY);
            }
        })?;
    }
    report("video: sent", &sent)
}

fn stream(target: SocketAddr, sent: &AtomicU64) -> Result<(), String> {
    let mut socket =
        TcpStream::connect_timeout(&target, PATIENCE).map_err(|e| format!("connecting to {target}: {e}"))?;
    let frame = vec![0x56_u8; 32 * 1024];
    loop {
        socket.write_all(&frame).map_err(|e| format!("sending to {target}: {e}"))?;
        sent.fetch_add(32 * 1024, Ordering::Relaxed);
    }
}

fn screen(port: u16) -> Result<(), String> {
    let listener = TcpListener::bind(any(port)).map_err(|e| format!("listening on TCP port {port}: {e}"))?;
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    spawn("accept", move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let received = Arc::clone(&counter);
            let started = spawn("flow", move || {
                let mut buffer = vec![0_u8; 64 * 1024];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(length) => {
                            received.fetch_add(u64::try_from(length).unwrap_or_default(), Ordering::Relaxed);
                        }
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(_) => return,
                    }
                }
            });
            if let Err(message) = started {
                log(&format!("screen: {message}"));
            }
        }
    })?;
    report("screen: received", &received)
}

/// The rate of a counter of bytes, once a second.
fn report(what: &str, bytes: &AtomicU64) -> Result<(), String> {
    let mut pace = Pace::start(Duration::from_secs(1));
    let mut before = 0;
    loop {
        pace.wait();
        let now = bytes.load(Ordering::Relaxed);
        log(&format!("{what} {} kbit/s", now.saturating_sub(before) * 8 / 1000));
        before = now;
    }
}

fn hog(threads: usize) -> Result<(), String> {
    for _ in 0..threads {
        spawn("hog", || {
            loop {
                compute(Duration::from_secs(1));
            }
        })?;
    }
    log(&format!("hog: {threads} threads"));
    loop {
        std::thread::park();
    }
}
