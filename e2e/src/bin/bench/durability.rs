//! Acknowledged writes lost: over random kill -9 of the API server under load, and over simulated power cuts of its store.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use pullpiri_e2e::E2eError;
use pullpiri_e2e::process::{Pullpiri, free_address};

use crate::Bench;
use crate::table::to_f64;
use crate::writes::config_map;

const KILLS: u32 = 200;
const POWER_CUTS: u32 = 1000;
const WRITERS: usize = 8;

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let kills = from_environment("PULLPIRI_KILLS", KILLS);
    let lost = kill9(bench, kills).await?;
    bench.table.at_most(
        &format!("durability: acknowledged writes lost over {kills} kill -9"),
        to_f64(lost),
        "writes",
        0.0,
    );
    let cuts = from_environment("PULLPIRI_POWER_CUTS", POWER_CUTS);
    let lossy = f64::from(cuts) - power_cuts(cuts)?;
    bench.table.at_most(
        &format!("durability: of {cuts} power cuts, those that lost an acknowledged write"),
        lossy,
        "cuts",
        0.0,
    );
    Ok(())
}

fn from_environment(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Writers create ConfigMaps and note each acknowledgement; the server is killed at a random time; after its restart every acknowledged one
/// must be there.
async fn kill9(bench: &Bench, rounds: u32) -> Result<u64, E2eError> {
    let data_dir = bench.path("kill9");
    let address = free_address()?;
    let mut lost = 0;
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..=rounds {
        let mut server = Pullpiri::start("apiserver", &data_dir, address, &[])?;
        let endpoint = server.ready().await?;
        let mut connection = endpoint.connect().await?;
        let prefix = format!("round-{}-", round.saturating_sub(1));
        let present = names(&mut connection, &prefix).await?;
        lost += acknowledged.difference(&present).count();
        if round == rounds {
            server.stop();
            break;
        }
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let endpoint = endpoint.clone();
            writers.push(tokio::spawn(async move {
                let mut names = BTreeSet::new();
                let Ok(mut connection) = endpoint.connect().await else { return names };
                for count in 0_u64.. {
                    let name = format!("round-{round}-writer-{writer}-{count}");
                    let path = "/api/v1/namespaces/default/configmaps";
                    let answer =
                        connection.request(Method::POST, path, "application/json", config_map(&name, 1024)).await;
                    match answer {
                        Ok(answer) if answer.status == StatusCode::CREATED => names.insert(name),
                        _ => break,
                    };
                }
                names
            }));
        }
        // 20 to 220 ms of load, from the name of the round: a run can be repeated.
        let pause = u64::from(round).wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) % 200;
        tokio::time::sleep(Duration::from_millis(20 + pause)).await;
        server.kill9();
        acknowledged.clear();
        for writer in writers {
            acknowledged.append(&mut writer.await.map_err(|error| E2eError::failed("a writer", error))?);
        }
    }
    Ok(u64::try_from(lost).unwrap_or(u64::MAX))
}

async fn names(
    connection: &mut pullpiri_e2e::endpoint::Connection,
    prefix: &str,
) -> Result<BTreeSet<String>, E2eError> {
    let answer = connection.get("/api/v1/namespaces/default/configmaps").await?;
    let list = answer.json();
    let items = list["items"]
        .as_array()
        .ok_or_else(|| E2eError::failed("listing ConfigMaps", String::from_utf8_lossy(&answer.body)))?;
    let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

/// The store's own simulation, with a storage that forgets what was not synced; how many cuts lost nothing. It ends with an error at the first
/// that did.
fn power_cuts(cuts: u32) -> Result<f64, E2eError> {
    let what = "the power-cut simulation";
    let output = Command::new("cargo")
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "pullpiri-store",
            "--example",
            "powercut",
            "--",
            &cuts.to_string(),
        ])
        .output()
        .map_err(|error| E2eError::failed(what, error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result: serde_json::Value =
        text.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    result["value"].as_f64().ok_or_else(|| {
        E2eError::failed(what, format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    })
}
