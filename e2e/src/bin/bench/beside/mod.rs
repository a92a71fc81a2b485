//! `pullpiri apiserver` beside kube-apiserver with etcd: the same client, the same requests, TLS and client certificates, both with new data
//! directories on one disk, both durable (fsync before the answer), runs that alternate. A ratio is ours to theirs, of medians.

mod load;
mod servers;

use std::path::Path;
use std::time::Duration;

use pullpiri_e2e::E2eError;
use pullpiri_e2e::real::RealKube;

use crate::Bench;
use crate::table::{Table, median, percentile};
use load::Payload;
use servers::Server;

/// Names of the two halves, which may be measured alone.
pub(crate) const STARTS_AND_WATCHES: &str = "beside empty";
pub(crate) const FILLED: &str = "beside filled";

/// From one write to the next: a load that kube-apiserver bears on two cores with a p99 of 35 to 70 ms, and one that hardly is any.
const BUSY_PACE: Duration = Duration::from_millis(4);
const LIGHT_PACE: Duration = Duration::from_millis(25);
const STARTS: usize = 5;
const WATCH_ROUNDS: usize = 3;
/// Each in a namespace of its own.
const FILLS: usize = 5;
const OBJECTS: usize = 10_000;
const LISTS: usize = 7;
const PAGES: usize = 21;
/// After which garbage has been collected and memory given back.
const SETTLE: Duration = Duration::from_secs(30);

/// What was measured on each side.
#[derive(Clone, Debug, Default)]
struct Both {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Both {
    fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.theirs)
    }

    /// Both values, and their ratio with its bar.
    fn at_most(&self, table: &mut Table, what: &str, unit: &'static str, bar: f64) {
        self.values(table, what, unit);
        table.at_most(&format!("beside: {what}, ratio"), self.ratio(), "ratio", bar);
    }

    /// The same without a bar.
    fn report(&self, table: &mut Table, what: &str, unit: &'static str) {
        self.values(table, what, unit);
        table.report(&format!("beside: {what}, ratio"), self.ratio(), "ratio");
    }

    fn values(&self, table: &mut Table, what: &str, unit: &'static str) {
        table.report(&format!("beside: {what}, pullpiri apiserver"), median(&self.ours), unit);
        table.report(&format!("beside: {what}, kube-apiserver + etcd"), median(&self.theirs), unit);
    }
}

struct Pair {
    ours: Server,
    theirs: Server,
}

impl Pair {
    /// Bytes in both, once nothing happens any more.
    async fn memory(&self) -> Both {
        tokio::time::sleep(SETTLE).await;
        let mut both = Both::default();
        for _ in 0..5 {
            both.ours.push(self.ours.pss());
            both.theirs.push(self.theirs.pss());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        both
    }
}

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    helm_install(&mut bench.table);
    if let Some(reason) = RealKube::missing() {
        bench.table.skipped("beside: pullpiri apiserver beside kube-apiserver + etcd", &reason);
        return Ok(());
    }
    let payload = Payload::new();
    if bench.wants(STARTS_AND_WATCHES) {
        let pair = starts(bench).await?;
        watches(&mut bench.table, &pair, &payload, BUSY_PACE).await?;
        watches(&mut bench.table, &pair, &payload, LIGHT_PACE).await?;
    }
    if bench.wants(FILLED) {
        filled(bench, &payload).await?;
    }
    Ok(())
}

/// From empty servers to 50,000 objects, and what is read of them then.
async fn filled(bench: &mut Bench, payload: &Payload) -> Result<(), E2eError> {
    let pair = Pair { ours: Server::ours(&bench.path("beside")).await?, theirs: Server::theirs().await? };
    load::install(&pair.ours.endpoint).await?;
    load::install(&pair.theirs.endpoint).await?;
    let idle = pair.memory().await;
    megabytes(&idle).at_most(&mut bench.table, "idle PSS with our CRDs", "MB", 1.0 / 15.0);
    creates(&mut bench.table, &pair, payload).await?;
    let full = pair.memory().await;
    per_object(&idle, &full).at_most(&mut bench.table, "PSS per 2 KB object at 50,000", "bytes", 1.0 / 3.0);
    lists(&mut bench.table, &pair).await
}

fn megabytes(bytes: &Both) -> Both {
    let scale = |values: &[f64]| values.iter().map(|value| value / 1e6).collect();
    Both { ours: scale(&bytes.ours), theirs: scale(&bytes.theirs) }
}

fn per_object(idle: &Both, full: &Both) -> Both {
    let objects = crate::table::to_f64(u64::try_from(FILLS * OBJECTS).unwrap_or(u64::MAX));
    let grown = |idle: &[f64], full: &[f64]| vec![(median(full) - median(idle)) / objects];
    Both { ours: grown(&idle.ours, &full.ours), theirs: grown(&idle.theirs, &full.theirs) }
}

/// Only one of them runs while it starts. The last two stay.
async fn starts(bench: &mut Bench) -> Result<Pair, E2eError> {
    let mut both = Both::default();
    for run in 1..=STARTS {
        let ours = Server::ours(&bench.path(&format!("beside-{run}"))).await?;
        both.ours.push(ours.ready_ms);
        // The last one waits, without work, while the other starts.
        let kept = (run == STARTS).then_some(ours);
        let theirs = Server::theirs().await?;
        both.theirs.push(theirs.ready_ms);
        if let Some(ours) = kept {
            both.at_most(&mut bench.table, "exec → /readyz, new data directories", "ms", 1.0 / 50.0);
            return Ok(Pair { ours, theirs });
        }
    }
    Err(E2eError::failed("starting servers", "no run"))
}

async fn watches(table: &mut Table, pair: &Pair, payload: &Payload, pace: Duration) -> Result<(), E2eError> {
    let (mut middle, mut last, mut ended) = (Both::default(), Both::default(), Both::default());
    for round in 0..WATCH_ROUNDS {
        let namespace = format!("watched-{}-{round}", pace.as_micros());
        for (server, is_ours) in [(&pair.ours, true), (&pair.theirs, false)] {
            load::create_namespace(&server.endpoint, &namespace).await?;
            let seen = load::fan_out(&server.endpoint, payload, &namespace, pace).await?;
            let (middle, last, ended) = if is_ours {
                (&mut middle.ours, &mut last.ours, &mut ended.ours)
            } else {
                (&mut middle.theirs, &mut last.theirs, &mut ended.theirs)
            };
            middle.push(median(&seen.times_ms));
            last.push(percentile(&seen.times_ms, 99));
            ended.push(crate::table::to_f64(u64::try_from(seen.ended).unwrap_or(u64::MAX)));
        }
    }
    let what = format!("write → event at 100 watchers, {:.0} writes/s", 1.0 / pace.as_secs_f64());
    middle.values(table, &format!("{what}, median"), "ms");
    ended.values(table, &format!("{what}, watches that the server ended in a round"), "");
    let last_name = format!("{what}, p99");
    if pace == BUSY_PACE {
        last.at_most(table, &last_name, "ms", 1.0 / 3.0);
    } else {
        // One event at a time: what both wait for is the same disk, and the same client's hundred connections.
        last.report(table, &last_name, "ms");
    }
    Ok(())
}

async fn creates(table: &mut Table, pair: &Pair, payload: &Payload) -> Result<(), E2eError> {
    let (mut rates, mut cpu) = (Both::default(), Both::default());
    let count = crate::table::to_f64(u64::try_from(OBJECTS).unwrap_or(u64::MAX));
    for round in 0..FILLS {
        let namespace = format!("filled-{round}");
        for (server, is_ours) in [(&pair.ours, true), (&pair.theirs, false)] {
            load::create_namespace(&server.endpoint, &namespace).await?;
            let before = server.cpu_ms();
            let took = load::fill(&server.endpoint, payload, &namespace, OBJECTS).await?;
            // What is done after the answers belongs to them.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let used = server.cpu_ms() - before;
            let (rates, cpu) =
                if is_ours { (&mut rates.ours, &mut cpu.ours) } else { (&mut rates.theirs, &mut cpu.theirs) };
            rates.push(count / took.as_secs_f64());
            cpu.push(used / count);
        }
    }
    rates.values(table, "durable creates of 2 KB objects, 32 writers", "1/s");
    table.at_least("beside: durable creates of 2 KB objects, 32 writers, ratio", rates.ratio(), "ratio", 3.0);
    cpu.at_most(table, "server's CPU per create", "ms", 1.0 / 5.0);
    Ok(())
}

async fn lists(table: &mut Table, pair: &Pair) -> Result<(), E2eError> {
    let path = load::config_maps("filled-2");
    let (mut ours, mut theirs) = (pair.ours.endpoint.connect().await?, pair.theirs.endpoint.connect().await?);
    for connection in [&mut ours, &mut theirs] {
        let found = load::items(connection, &path).await?;
        let page = load::items(connection, &format!("{path}?limit=500")).await?;
        // A namespace has a ConfigMap of the server's own, too.
        if found != OBJECTS || page < 499 {
            return Err(E2eError::failed("listing", format!("{found} objects, {page} in a page")));
        }
    }
    // What may be stale comes from kube-apiserver's memory, without a question to etcd: reported, not promised.
    for (what, query, runs, bar) in [
        ("list of 10,000 objects", "", LISTS, Some(0.5)),
        ("list of 10,000 objects that may be stale (resourceVersion=0)", "?resourceVersion=0", LISTS, None),
        ("page of 500", "?limit=500", PAGES, Some(0.5)),
    ] {
        let path = format!("{path}{query}");
        let mut both = Both::default();
        for _ in 0..runs {
            both.ours.push(load::read(&mut ours, &path).await?);
            both.theirs.push(load::read(&mut theirs, &path).await?);
        }
        match bar {
            Some(bar) => both.at_most(table, what, "ms", bar),
            None => both.report(table, what, "ms"),
        }
    }
    Ok(())
}

/// What hack/e2e-k8s.sh measured when it ran last: a node, an image and Helm take minutes to get.
fn helm_install(table: &mut Table) {
    let name = "beside: helm install → all ready (the last make e2e-k8s)";
    match std::fs::read_to_string(Path::new("target/e2e-k8s.install-ms")).map(|text| text.trim().parse::<f64>()) {
        Ok(Ok(milliseconds)) => table.at_most(name, milliseconds / 1000.0, "s", 15.0),
        _ => table.skipped(name, "no make e2e-k8s has run here"),
    }
}
