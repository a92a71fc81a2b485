//! `pullpiri signal`: samples of vehicle signals by hand. A convenience over the API: every sample is a PUT of a Signal.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error};
use pullpiri_crds::names::{self, MAX_TOPIC, TOPIC_SIGNS};
use pullpiri_crds::{Scenario, Signal};

use crate::args::SignalVerb;
use crate::client::connect;
use crate::fail::Failure;
use crate::out;

pub(crate) async fn run(verb: &SignalVerb) -> Result<(), Failure> {
    match verb {
        SignalVerb::Set { assignments, connection } => {
            let parsed = assignments.iter().map(|text| assignment(text)).collect::<Result<Vec<_>, _>>()?;
            let client = connect(connection.kubeconfig.as_deref()).await?;
            set(&client, &parsed).await
        }
        SignalVerb::Get { topics, connection } => {
            let client = connect(connection.kubeconfig.as_deref()).await?;
            let signals = Api::<Signal>::all(client);
            for text in topics {
                let (topic, field) = topic_and_field(text).map_err(Failure::new)?;
                print_one(&signals, topic, field).await?;
            }
            Ok(())
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Assignment<'a> {
    topic: &'a str,
    field: Option<&'a str>,
    value: &'a str,
}

fn assignment(text: &str) -> Result<Assignment<'_>, Failure> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| Failure::new(format!("{text:?}: expected TOPIC[#FIELD]=VALUE")))?;
    let (topic, field) = topic_and_field(name).map_err(Failure::new)?;
    Ok(Assignment { topic, field, value })
}

/// Splits `TOPIC[#FIELD]`; a topic is what the API server takes as one ([`names::is_topic`]).
pub(crate) fn topic_and_field(text: &str) -> Result<(&str, Option<&str>), String> {
    let (topic, field) = match text.split_once('#') {
        Some((topic, field)) => (topic, Some(field)),
        None => (text, None),
    };
    if topic.is_empty() || field.is_some_and(str::is_empty) {
        return Err(format!("{text:?}: expected TOPIC[#FIELD], neither of them empty"));
    }
    if !names::is_topic(topic) {
        return Err(format!(
            "the topic {topic:?} can't be one: expected 1 to {MAX_TOPIC} letters (A-Z, a-z), digits and {TOPIC_SIGNS}"
        ));
    }
    Ok((topic, field))
}

/// One sample per topic: the fields that are given, over those that the signal has.
async fn set(client: &Client, assignments: &[Assignment<'_>]) -> Result<(), Failure> {
    let read = if assignments.iter().any(|assignment| assignment.field.is_none()) {
        fields_that_scenarios_read(client).await?
    } else {
        BTreeMap::new()
    };
    let samples = samples(assignments, &read)?;
    let signals = Api::<Signal>::all(client.clone());
    for (topic, fields) in samples {
        let name = names::signal_name(topic);
        let present = signals.get_opt(&name).await.map_err(|error| about(topic, &error))?;
        let mut signal = Signal::new(topic, fields);
        if let Some(present) = present {
            signal.source_type = present.source_type;
            for (field, value) in present.fields {
                signal.fields.entry(field).or_insert(value);
            }
        }
        signal.sampled_at = Some(MicroTime(Timestamp::now()));
        signals.replace(&name, &PostParams::default(), &signal).await.map_err(|error| about(topic, &error))?;
        for (field, value) in &signal.fields {
            out::line(&format!("{topic}#{field}={value}"))?;
        }
    }
    Ok(())
}

/// Fields by topic; an assignment without a field is to all that scenarios read of the topic.
fn samples<'a>(
    assignments: &[Assignment<'a>],
    read: &BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeMap<&'a str, BTreeMap<String, String>>, Failure> {
    let mut samples: BTreeMap<&'a str, BTreeMap<String, String>> = BTreeMap::new();
    for Assignment { topic, field, value } in assignments {
        let fields = samples.entry(topic).or_default();
        let names: Vec<String> = match field {
            Some(field) => vec![(*field).to_owned()],
            None => read.get(*topic).map(|fields| fields.iter().cloned().collect()).unwrap_or_default(),
        };
        if names.is_empty() {
            return Err(Failure::new(format!("no scenario reads {topic:?}; name a field: {topic}#FIELD={value}")));
        }
        for name in names {
            if let Some(other) = fields.insert(name.clone(), (*value).to_owned()) {
                return Err(Failure::new(format!(
                    "{topic}#{name} is given twice, as {other:?} and as {value:?}; expected one value"
                )));
            }
        }
    }
    Ok(samples)
}

async fn fields_that_scenarios_read(client: &Client) -> Result<BTreeMap<String, BTreeSet<String>>, Failure> {
    let scenarios = Api::<Scenario>::all(client.clone());
    let list = scenarios
        .list(&ListParams::default())
        .await
        .map_err(|error| Failure::from_error("listing scenarios", &error))?;
    let mut read: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for term in list
        .items
        .iter()
        .filter_map(|scenario| scenario.spec.condition.as_ref())
        .flat_map(|condition| condition.terms())
    {
        read.entry(term.operands.value.clone()).or_default().insert(term.operands.name.clone());
    }
    Ok(read)
}

async fn print_one(signals: &Api<Signal>, topic: &str, field: Option<&str>) -> Result<(), Failure> {
    let found = signals.get_opt(&names::signal_name(topic)).await.map_err(|error| about(topic, &error))?;
    let signal = found.ok_or_else(|| Failure::new(format!("{topic} has no sample yet")))?;
    match field {
        None => {
            for (field, value) in &signal.fields {
                out::line(&format!("{topic}#{field}={value}"))?;
            }
        }
        Some(field) => {
            let value = signal.fields.get(field);
            let known: Vec<&str> = signal.fields.keys().map(String::as_str).collect();
            let missing = || Failure::new(format!("{topic} has no field {field:?}; it has {}", known.join(", ")));
            out::line(value.ok_or_else(missing)?)?;
        }
    }
    Ok(())
}

fn about(topic: &str, error: &Error) -> Failure {
    Failure::from_error(format!("signal {topic}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read() {
        let given = |text| assignment(text).ok();
        assert_eq!(given("Gear=P"), Some(Assignment { topic: "Gear", field: None, value: "P" }));
        assert_eq!(given("rt/x#y=a=b"), Some(Assignment { topic: "rt/x", field: Some("y"), value: "a=b" }));
        assert_eq!(given("Gear="), Some(Assignment { topic: "Gear", field: None, value: "" }));
        let long = format!("{}=1", "x".repeat(254));
        for wrong in ["Gear", "=P", "#a=P", "Gear#=P", "", "\u{fc}#f=1", "a\\b#f=1", "a b/c#f=1", &long] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_field_has_one_value_in_a_call() {
        let read = BTreeMap::from([("t".to_owned(), BTreeSet::from(["f".to_owned()]))]);
        let of = |texts: &[&'static str]| {
            let given: Vec<_> = texts.iter().map(|text| assignment(text).unwrap()).collect();
            samples(&given, &read).map_err(|failure| failure.to_string())
        };
        assert_eq!(of(&["t#f=1", "t#g=1", "u#f=1"]).map(|samples| samples.len()), Ok(2));
        for twice in [["t#f=1", "t#f=2"], ["t#f=1", "t=2"]] {
            let said = of(&twice).unwrap_err();
            assert!(["t#f", "\"1\"", "\"2\""].iter().all(|part| said.contains(part)), "{said}");
        }
    }
}
