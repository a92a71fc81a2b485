//! A TCP proxy whose connections can be stopped.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cut {
    all: bool,
    /// Connections of the etcd member with this id.
    from: Option<u64>,
}

pub struct Proxy {
    address: SocketAddr,
    cut: Arc<watch::Sender<Cut>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(watch::Sender::new(Cut::default()));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&cut)));
        Self { address, cut, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut(&self, cut: bool) {
        self.cut.send_modify(|state| state.all = cut);
    }

    pub fn cut_from(&self, member: Option<u64>) {
        self.cut.send_modify(|state| state.from = member);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, cut: Arc<watch::Sender<Cut>>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(relay(client, target, cut.subscribe()));
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, mut cut: watch::Receiver<Cut>) {
    let _ = client.set_nodelay(true);
    let mut head = vec![0; 16 * 1024];
    let Ok(length) = client.read(&mut head).await else { return };
    head.truncate(length);
    let from = member_of(&head);
    let stopped = move |cut: &Cut| cut.all || (cut.from.is_some() && cut.from == from);
    if length == 0 || cut.wait_for(|cut| !stopped(cut)).await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    if server.write_all(&head).await.is_err() {
        return;
    }
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    // Either end's end is the end of both, as soon as it may be known.
    tokio::select! {
        () = copy(client_in, server_out, cut.clone(), stopped) => {}
        () = copy(server_in, client_out, cut.clone(), stopped) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<Cut>,
    stopped: impl Fn(&Cut) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if cut.wait_for(|cut| !stopped(cut)).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// etcd's peers say who they are in the first request of a connection.
fn member_of(head: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().find_map(|line| line.strip_prefix("X-Server-From: "))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
