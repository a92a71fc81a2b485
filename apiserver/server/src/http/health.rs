//! `/livez`, `/readyz` and `/healthz`: is the server there, and would a write be durable now?

use bytes::Bytes;
use http::StatusCode;

use super::body::Body;
use super::respond;
use crate::rest::Rest;
use crate::rest::query::Query;
use crate::status::Status;

/// One check's outcome.
struct Outcome {
    name: &'static str,
    /// What is wrong.
    problem: Option<String>,
}

pub(super) async fn answer(
    rest: &Rest,
    shutting_down: bool,
    endpoint: &'static str,
    check: Option<&str>,
    query: &Query,
) -> Result<http::Response<Body>, Status> {
    let mut outcomes = vec![Outcome { name: "ping", problem: None }];
    if endpoint != "livez" {
        outcomes.push(Outcome { name: "storage", problem: rest.durable.health().await.err() });
        let problem = shutting_down.then(|| "process is shutting down".to_owned());
        outcomes.push(Outcome { name: "shutdown", problem });
    }
    if let Some(check) = check {
        let Some(outcome) = outcomes.into_iter().find(|outcome| outcome.name == check) else {
            return Ok(plain(StatusCode::NOT_FOUND, format!("there is no check {check} at /{endpoint}\n")));
        };
        return Ok(match outcome.problem {
            None => plain(StatusCode::OK, "ok"),
            Some(problem) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{check} failed: {problem}\n")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    outcomes.retain(|outcome| !excluded.contains(&outcome.name));
    let mut report = String::new();
    let mut failed = false;
    for outcome in &outcomes {
        match &outcome.problem {
            None => report.push_str(&format!("[+]{} ok\n", outcome.name)),
            Some(problem) => {
                failed = true;
                report.push_str(&format!("[-]{} failed: {problem}\n", outcome.name));
            }
        }
    }
    if failed {
        report.push_str(&format!("{endpoint} check failed\n"));
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, report));
    }
    if query.get("verbose").is_some() {
        report.push_str(&format!("{endpoint} check passed\n"));
        return Ok(plain(StatusCode::OK, report));
    }
    Ok(plain(StatusCode::OK, "ok"))
}

fn plain(code: StatusCode, text: impl Into<Bytes>) -> http::Response<Body> {
    respond::text(code, "text/plain; charset=utf-8", text)
}
