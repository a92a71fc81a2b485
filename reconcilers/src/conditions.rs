//! The `conditions` of a status: recomputed whole, with `lastTransitionTime` moving only when the status of a type flips.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::time;

/// What a message may be long: enough for a person, and within what the schemas allow.
pub const MESSAGE_LENGTH: usize = 1024;

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    True,
    False,
    Unknown,
}

impl Verdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub kind: &'static str,
    pub verdict: Verdict,
    pub reason: &'static str,
    pub message: String,
}

impl Wanted {
    #[must_use]
    pub fn new(kind: &'static str, verdict: Verdict, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, verdict, reason, message: message.into() }
    }
}

/// The conditions to write, ordered by type, given those on record. Types on record that aren't wanted belong to others and aren't repeated.
#[must_use]
pub fn compute(
    on_record: &[Condition],
    wanted: Vec<Wanted>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = wanted
        .into_iter()
        .map(|wanted| {
            let before = on_record.iter().find(|c| c.type_ == wanted.kind && c.status == wanted.verdict.as_str());
            Condition {
                type_: wanted.kind.to_owned(),
                status: wanted.verdict.as_str().to_owned(),
                reason: wanted.reason.to_owned(),
                message: bounded(&wanted.message, MESSAGE_LENGTH),
                observed_generation: generation,
                last_transition_time: before.map_or_else(|| time::second(now), |c| c.last_transition_time.clone()),
            }
        })
        .collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

/// Those conditions on record that have the types of `ours`, ordered by type: what `ours` is to be compared with.
#[must_use]
pub fn of_same_types(on_record: &[Condition], ours: &[Condition]) -> Vec<Condition> {
    let mut same: Vec<Condition> =
        on_record.iter().filter(|c| ours.iter().any(|o| o.type_ == c.type_)).cloned().collect();
    same.sort_by(|a, b| a.type_.cmp(&b.type_));
    same
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// `text`, cut to at most `length` bytes at a character's edge, with an ellipsis where something is missing.
#[must_use]
pub fn bounded(text: &str, length: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= length {
        return text.to_owned();
    }
    let mut end = length.saturating_sub(ELLIPSIS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ELLIPSIS}", &text[..end])
}
