//! Replicas as processes: ended, killed, frozen.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_e2e::faults::{Faults, Proxy, Refuse};
use pullpiri_e2e::process::{binary, free_address};
use pullpiri_e2e::wait_for;

use crate::support::{LEASE, LIMIT, Place, Plane};

/// `pullpiri controllers`, behind a proxy unless it was told otherwise.
pub struct Process {
    child: Child,
    proxy: Proxy,
    log: PathBuf,
    metrics: std::net::SocketAddr,
}

impl Process {
    async fn start(place: &Place, folder: &Path, name: &str, extra: &[&str]) -> Self {
        let proxy = Proxy::start(place.admin.clone()).await.unwrap();
        let kubeconfig = proxy.kubeconfig(folder, name).unwrap();
        let extra: Vec<String> = extra.iter().map(|flag| (*flag).to_owned()).collect();
        let mut process = Self::at(place, &kubeconfig, folder, name, &extra).await;
        process.proxy = proxy;
        process
    }

    /// With a kubeconfig of its own.
    pub async fn at(place: &Place, kubeconfig: &Path, folder: &Path, name: &str, extra: &[String]) -> Self {
        let proxy = Proxy::start(place.admin.clone()).await.unwrap();
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let metrics = free_address().unwrap();
        let child = Command::new(binary().unwrap())
            .arg("controllers")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--leader-elect-namespace", &place.namespace, "--leader-elect-name", LEASE])
            .args(["--metrics-listen", &metrics.to_string()])
            .args(extra)
            .env("POD_NAME", name)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, proxy, log, metrics }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Writes of our kinds that succeeded.
    fn works(&self) -> Vec<pullpiri_e2e::faults::Written> {
        let all = self.proxy.written();
        all.into_iter().filter(|w| w.path.contains("/pullpiri.io/") && w.succeeded()).collect()
    }

    /// In KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.metrics).await else { return (0, String::new()) };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let code = text.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    pub async fn until_ready(&self) {
        wait_for("it is ready", LIMIT, || async {
            match self.get("/readyz").await {
                (200, _) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        })
        .await
        .unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

pub async fn until_holder(place: &Place, prefix: &str) {
    wait_for(&format!("{prefix} holds the lease"), LIMIT, || async {
        let holder = place.holder().await;
        if holder.starts_with(prefix) { Ok(()) } else { Err(holder) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_hands_over_and_one_that_is_killed_is_waited_for() {
    let plane = Plane::embedded().await;
    let place = plane.place("ends").await;
    let folder = tempfile::tempdir().unwrap();
    let timing =
        ["--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s", "--leader-elect-retry-period=300ms"];
    let a = Process::start(&place, folder.path(), "a", &timing).await;
    until_holder(&place, "a_").await;
    place.package("p", &["m"], "Running").await;
    place.until_run(1, true).await;
    let b = Process::start(&place, folder.path(), "b", &timing).await;
    a.until_ready().await;
    b.until_ready().await;
    assert_eq!(b.get("/healthz").await.0, 200);
    assert!(a.get("/metrics").await.1.contains("pullpiri_controllers_reconcile_total"));
    // It ends: the other has it at once, and does what came meanwhile.
    a.signal(Signal::SIGTERM);
    place.package("p", &["m"], "Stopped").await;
    until_holder(&place, "b_").await;
    place.until_run(1, false).await;
    assert!(a.log().contains("the lease is given back"), "{}", a.log());
    // It is killed: the next one has it once it has run out.
    let _c = Process::start(&place, folder.path(), "c", &timing).await;
    b.signal(Signal::SIGKILL);
    place.package("p", &["m"], "Running").await;
    until_holder(&place, "c_").await;
    let left = place.until("run under epoch 3", |all| all.iter().all(|i| i.spec.run && i.spec.epoch == 3)).await;
    assert_eq!(left.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_frozen_does_nothing_any_more() {
    let plane = Plane::embedded().await;
    let place = plane.place("frozen").await;
    let folder = tempfile::tempdir().unwrap();
    let timing = [
        "--leader-elect-lease-duration=2s",
        "--leader-elect-renew-deadline=1500ms",
        "--leader-elect-retry-period=300ms",
    ];
    let a = Process::start(&place, folder.path(), "a", &timing).await;
    until_holder(&place, "a_").await;
    let b = Process::start(&place, folder.path(), "b", &timing).await;
    place.package("p", &["m1", "m2"], "Running").await;
    place.until_run(2, true).await;
    b.until_ready().await;
    a.signal(Signal::SIGSTOP);
    until_holder(&place, "b_").await;
    place.package("p", &["m1", "m2"], "Stopped").await;
    let done = place.until("stopped under epoch 2", |all| all.iter().all(|i| !i.spec.run && i.spec.epoch == 2)).await;
    let written = a.works().len();
    a.signal(Signal::SIGCONT);
    // It finds out, and follows.
    a.until_ready().await;
    wait_for("the first follows the second", LIMIT, || async {
        if a.log().contains("following") { Ok(()) } else { Err(a.log()) }
    })
    .await
    .unwrap();
    assert_eq!(a.works().len(), written, "{:?}", a.works().split_off(written));
    let left = place.instances().await;
    let generations =
        |all: &[pullpiri_crds::ModelInstance]| all.iter().map(|i| i.metadata.generation).collect::<Vec<_>>();
    assert_eq!(generations(&left), generations(&done));
    // And takes over again when it is its turn.
    b.signal(Signal::SIGTERM);
    until_holder(&place, "a_").await;
    place.until("epoch 3", |all| all.iter().all(|i| i.spec.epoch == 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_takes_no_memory() {
    let plane = Plane::embedded().await;
    let place = plane.place("storm").await;
    let folder = tempfile::tempdir().unwrap();
    let a = Process::start(&place, folder.path(), "a", &[]).await;
    until_holder(&place, "a_").await;
    for number in 0..40 {
        place.package(&format!("p{number}"), &["m"], "Running").await;
    }
    place.until_run(40, true).await;
    a.until_ready().await;
    let storm = Faults {
        refuse: Some(Refuse { code: 500, retry_after: None, every: 2 }),
        cut_watches: Some(Duration::from_secs(1)),
        gone_every: Some(2),
        ..Faults::default()
    };
    let round = async |faults: &Faults, desired: &str, run: bool| {
        a.proxy.set(faults.clone());
        for number in 0..40 {
            place.package(&format!("p{number}"), &["m"], desired).await;
        }
        place.until_run(40, run).await;
    };
    // What a storm needs at all, it needs in the first one.
    round(&storm, "Stopped", false).await;
    round(&storm, "Running", true).await;
    let before = a.resident();
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        round(&storm, "Stopped", false).await;
        round(&storm, "Running", true).await;
    }
    let after = a.resident();
    assert!(after < before + before / 4 + 4096, "{before} KiB became {after} KiB");
}

/// One line says what is missing: in the log, at /readyz, and on the Lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_told_in_one_line() {
    let plane = Plane::embedded().await;
    let place = plane.place("forbidden").await;
    let folder = tempfile::tempdir().unwrap();
    let a = Process::start(&place, folder.path(), "a", &[]).await;
    a.until_ready().await;
    a.proxy.set(Faults {
        forbid: Some("/packages".to_owned()),
        cut_watches: Some(Duration::from_millis(200)),
        ..Faults::default()
    });
    let line = wait_for("it isn't ready", LIMIT, || async {
        let (code, text) = a.get("/readyz").await;
        if code == 503 && text.contains("watch Package: ") { Ok(text) } else { Err(text) }
    })
    .await
    .unwrap();
    assert!(line.contains("cannot") && line.contains("grant list and watch"), "{line}");
    let told = a.log().lines().filter(|line| line.contains("keeps the controllers from their work")).count();
    assert_eq!(told, 1, "{}", a.log());
    wait_for("the Lease says so", LIMIT, || async {
        let lease = place.lease().await.unwrap();
        let text = lease.metadata.annotations.unwrap_or_default().remove("pullpiri.io/problems").unwrap_or_default();
        if text.contains("watch Package") { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    a.proxy.heal();
    a.until_ready().await;
}
