//! Answers as text and as JSON.

use std::fmt::Write as _;

use pullpiri_net::Verdict;
use pullpiri_net::evaluate::Allowed;
use serde_json::{Value, json};

use super::explain::{Answer, Check, End, describe};

/// For people: a line per pair, and below it who says so.
pub(crate) fn text(answers: &[Answer]) -> String {
    let mut text = String::new();
    for answer in answers {
        let verdict = if answer.is_allowed() { "allowed" } else { "denied" };
        let port = if answer.port == 0 { String::new() } else { format!("{}/", answer.port) };
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{verdict}: {} → {}, {port}{}", end(&answer.from), end(&answer.to), answer.protocol);
        if let Some(obstacle) = &answer.obstacle {
            let _ = writeln!(text, "  {obstacle}");
        }
        for check in &answer.checks {
            let (_, why) = describe(&check.verdict);
            let by = if check.verdict.is_allowed() { "allowed by" } else { "denied:" };
            let held = match check.held {
                Some(held) if held == check.generation => String::new(),
                Some(held) => format!(" (the kernel still holds generation {held})"),
                None => " (the kernel holds none yet)".to_owned(),
            };
            let _ = writeln!(text, "  node {}, generation {}{held}: {by} {why}", check.node, check.generation);
        }
        match &answer.class {
            Some(class) => {
                let ceiling = class.ceiling_bps.map_or_else(String::new, |bps| format!(", ceiling {bps} bit/s"));
                let _ = writeln!(
                    text,
                    "  class {} (id {}) on node {}: priority {}, guarantee {} bit/s{ceiling}",
                    class.name, class.id, class.node, class.priority, class.guarantee_bps
                );
            }
            None if answer.is_allowed() && answer.from.instance.is_some() => {
                text.push_str("  no class: it shares what the classes leave\n");
            }
            None => {}
        }
    }
    text
}

fn end(end: &End) -> String {
    match (&end.instance, end.address) {
        (Some(instance), Some(address)) => format!("{instance} ({address})"),
        (Some(instance), None) => instance.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "-".to_owned(),
    }
}

/// For programs.
pub(crate) fn json(answers: &[Answer]) -> Value {
    Value::Array(answers.iter().map(one).collect())
}

fn one(answer: &Answer) -> Value {
    let decisive = answer.decisive();
    let reason = match (&answer.obstacle, decisive) {
        (Some(_), _) => "NotAttached",
        (None, Some(check)) => describe(&check.verdict).0,
        (None, None) => "Unknown",
    };
    json!({
        "allowed": answer.is_allowed(),
        "from": json!({ "instance": answer.from.instance, "address": answer.from.address }),
        "to": json!({ "instance": answer.to.instance, "address": answer.to.address }),
        "port": answer.port,
        "protocol": answer.protocol,
        "reason": reason,
        "rule": decisive.and_then(rule),
        "message": answer.obstacle.clone().or_else(|| decisive.map(|check| describe(&check.verdict).1)),
        "node": decisive.map(|check| &check.node),
        "generation": decisive.map(|check| check.generation),
        "checks": answer.checks.iter().map(|check| json!({
            "node": check.node,
            "generation": check.generation,
            "held": check.held,
            "allowed": check.verdict.is_allowed(),
            "reason": describe(&check.verdict).0,
            "rule": rule(check),
        })).collect::<Vec<_>>(),
        "class": answer.class.as_ref().map(|class| json!({
            "id": class.id,
            "name": class.name,
            "priority": class.priority,
            "guaranteeBps": class.guarantee_bps,
            "ceilingBps": class.ceiling_bps,
            "node": class.node,
        })),
    })
}

fn rule(check: &Check) -> Option<&str> {
    match &check.verdict {
        Verdict::Allowed(Allowed::Rule { name, .. }) => Some(name),
        Verdict::Allowed(_) | Verdict::Denied(_) => None,
    }
}
