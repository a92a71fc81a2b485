//! Sending a script to both servers, and comparing what comes back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::normal::{differences, normalize, remove};
use super::script::{EVERYWHERE, Script, Step};
use crate::endpoint::Endpoint;
use crate::{E2eError, wait_for};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests and watches sent to each server.
    pub requests: usize,
    /// Of them, those that both refused.
    pub refused: usize,
    /// Listed differences.
    pub listed: usize,
    /// What is wrong, as text for people.
    pub failures: Vec<String>,
}

/// One server and what its answers left for later steps.
struct Side<'a> {
    endpoint: &'a Endpoint,
    kept: BTreeMap<String, String>,
}

impl Side<'_> {
    /// Puts in what was kept: `$NAME`, the longest name first.
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let mut names: Vec<&String> = self.kept.keys().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        for name in names {
            text = text.replace(&format!("${name}"), &self.kept[name]);
        }
        text
    }

    fn body(&self, step: &Step) -> Bytes {
        if let Some(bytes) = step.big {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x".repeat(bytes)}});
            return map.to_string().into();
        }
        match (&step.text, &step.body) {
            (Some(text), _) => self.fill(text).into(),
            (None, Some(body)) => self.fill(&body.to_string()).into(),
            (None, None) => Bytes::new(),
        }
    }

    async fn request(&self, step: &Step, request: &str) -> Result<Value, E2eError> {
        let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
        let method: Method = method.parse().map_err(|error| E2eError::failed(request, error))?;
        let headers = [("content-type", step.content_type()), ("accept", step.accept())];
        let headers =
            if step.body.is_none() && step.text.is_none() && step.big.is_none() { &headers[1..] } else { &headers };
        let mut connection = self.endpoint.connect().await?;
        let path = self.fill(path);
        let exchange = connection.exchange(method, &path, headers, self.body(step));
        let answer = tokio::time::timeout(LIMIT, exchange)
            .await
            .map_err(|_| E2eError::failed(request, "no end of the answer"))??;
        let header = |name: &str| -> Vec<String> {
            answer
                .headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect()
        };
        let body = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&answer.body).into_owned()));
        Ok(json!({
            "status": answer.status.as_u16(),
            "contentType": header("content-type"),
            "warnings": header("warning"),
            "retryAfter": header("retry-after"),
            "body": body,
        }))
    }

    async fn watch(&self, step: &Step, path: &str) -> Result<Value, E2eError> {
        let path = self.fill(path);
        let connection = self.endpoint.connect().await?;
        let mut watch = connection.watch(&path).await?;
        let mut events = Vec::new();
        while events.len() < step.events {
            let next = tokio::time::timeout(LIMIT, watch.next()).await;
            let seen = events.len();
            let event =
                next.map_err(|_| E2eError::failed(format!("watching {path}"), format!("{seen} events came")))??;
            events.push(event);
        }
        Ok(json!({"events": events}))
    }

    async fn wait(&self, step: &Step, path: &str) -> Result<Value, E2eError> {
        let wanted = step.status.unwrap_or(200);
        let request = format!("GET {path}");
        wait_for(&request, LIMIT, || async {
            match self.request(step, &request).await {
                Ok(answer) if answer["status"] == wanted => Ok(()),
                Ok(answer) => Err(answer.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        Ok(json!({"status": wanted}))
    }

    async fn step(&mut self, step: &Step) -> Result<Value, E2eError> {
        let answer = match (&step.request, &step.watch, &step.awaited) {
            (Some(request), None, None) => self.request(step, request).await?,
            (None, Some(path), None) => self.watch(step, path).await?,
            (None, None, Some(path)) => self.wait(step, path).await?,
            _ => return Err(E2eError::failed(step.title(), "a step has one of do, watch and await")),
        };
        for (name, pointer) in &step.keep {
            let value = answer.pointer(&format!("/body{pointer}"));
            let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            self.kept.insert(name.clone(), text.unwrap_or_else(|| "nothing-was-kept".to_owned()));
        }
        Ok(answer)
    }
}

/// Runs scripts against a real server and ours.
///
/// # Errors
/// A server that can't be talked to. What they answer differently is in the outcome.
pub async fn compare(scripts: &[Script], real: &Endpoint, ours: &Endpoint) -> Result<Outcome, E2eError> {
    let mut outcome = Outcome::default();
    let for_all = scripts.iter().filter(|script| script.script == EVERYWHERE).flat_map(|script| script.ignore.keys());
    let for_all: Vec<String> = for_all.cloned().collect();
    outcome.listed += for_all.len();
    for (index, script) in scripts.iter().enumerate() {
        let everywhere: Vec<String> = for_all.iter().chain(script.ignore.keys()).cloned().collect();
        let side =
            |endpoint| Side { endpoint, kept: BTreeMap::from([("NS".to_owned(), format!("differential-{index}"))]) };
        let (mut real, mut ours) = (side(real), side(ours));
        if script.namespace {
            let make = Step {
                request: Some("POST /api/v1/namespaces".to_owned()),
                body: Some(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "$NS"}})),
                ..Step::default()
            };
            real.step(&make).await?;
            ours.step(&make).await?;
        }
        for (number, step) in script.steps.iter().enumerate() {
            let (theirs, mine) = tokio::join!(real.step(step), ours.step(step));
            let (theirs, mine) = (told(theirs), told(mine));
            let place = format!("{}, step {}: {}", script.script, number + 1, step.title());
            judge(step, &place, &everywhere, theirs, mine, &mut outcome);
        }
    }
    Ok(outcome)
}

/// An answer, or the text of what went wrong.
fn told(answer: Result<Value, E2eError>) -> Value {
    answer.unwrap_or_else(|error| json!({"error": error.to_string()}))
}

fn judge(step: &Step, place: &str, everywhere: &[String], mut real: Value, mut ours: Value, outcome: &mut Outcome) {
    if step.awaited.is_none() {
        outcome.requests += 1;
    }
    let refuses = |answer: &Value| answer["status"].as_u64().is_some_and(|status| status >= 400);
    if step.bad {
        outcome.refused += usize::from(refuses(&real));
        if !refuses(&real) {
            outcome.failures.push(format!("{place}\n    the real server doesn't refuse it: {}", real["status"]));
        }
    }
    for side in [&mut real, &mut ours] {
        normalize(side);
        for pointer in step.ignore.keys().chain(everywhere) {
            remove(side, pointer);
        }
        if step.wording.is_some() {
            remove(side, "/body/message");
            remove(side, "/body/details/causes/*/message");
            remove(side, "/error");
        }
    }
    outcome.listed += step.ignore.len() + usize::from(step.wording.is_some());
    let found = differences(&real, &ours);
    match &step.differs {
        Some(_) if found.is_empty() => outcome.failures.push(format!("{place}\n    is listed as different, and isn't")),
        Some(_) => outcome.listed += 1,
        None if found.is_empty() => {}
        None => {
            let mut text = place.to_owned();
            for line in found.iter().take(12) {
                let _ = write!(text, "\n    {}", line.chars().take(900).collect::<String>());
            }
            outcome.failures.push(text);
        }
    }
}
