//! Somebody else changes what a node made for its Networks.

use std::process::Command;

use serde_json::Value;

use super::{API, Pair};
use crate::E2eError;

/// What is said once it was put right.
#[derive(Clone, Debug)]
pub struct Told {
    /// The Event about the NodeRuntime: its type and its note.
    pub event: (String, String),
    /// The message of the NodeRuntime's condition Network, which has the same reason.
    pub condition: String,
}

/// Takes the way to the other node's model from the first node, and waits until that has it again and says so.
///
/// # Errors
/// If it doesn't. A machine that can't have such nodes is `Ok(Err(reason))`.
pub async fn meddling(mut pair: Pair) -> Result<Result<Told, String>, E2eError> {
    if let Some(reason) = pair.lacks().await? {
        pair.give_up();
        return Ok(Err(reason));
    }
    let [_, right] = pair.place_two().await?;
    let route = right.address.to_string();
    // In the first node's namespace, as all of this.
    let ip = |arguments: &[&str]| {
        let output = Command::new("ip").args(arguments).output();
        let output = output.map_err(|error| E2eError::failed("running ip", error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(E2eError::failed("ip", text(&output.stderr)))
        }
    };
    ip(&["route", "del", &route])?;
    let name = pair.nodes[0].name.clone();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = pair.until(events, |list| event(list, &name)).await?;
    let condition = pair.until(&format!("{}/noderuntimes/{name}", API), condition).await?;
    if !ip(&["route", "show", &route])?.contains("up0") {
        return Err(E2eError::failed("the route", "it isn't there again"));
    }
    pair.clear().await?;
    Ok(Ok(Told { event, condition }))
}

fn event(list: &Value, node: &str) -> Option<(String, String)> {
    let events = list["items"].as_array()?;
    let found = events.iter().find(|event| {
        let about = &event["regarding"];
        about["kind"] == "NodeRuntime" && about["name"] == node && event["reason"] == "DriftRepaired"
    })?;
    Some((found["type"].as_str()?.to_owned(), found["note"].as_str()?.to_owned()))
}

fn condition(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array()?;
    let network = conditions.iter().find(|condition| condition["type"] == "Network")?;
    let is_told = network["status"] == "True" && network["reason"] == "DriftRepaired";
    is_told.then_some(())?;
    network["message"].as_str().map(str::to_owned)
}
