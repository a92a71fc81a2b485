//! `pullpiri signal`: samples of vehicle signals by hand. A convenience over the API: every sample is a PUT of a Signal.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error};
use pullpiri_crds::{Scenario, Signal, names};

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
                let (topic, field) = topic_and_field(text)?;
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
    let (topic, field) = topic_and_field(name)?;
    Ok(Assignment { topic, field, value })
}

fn topic_and_field(text: &str) -> Result<(&str, Option<&str>), Failure> {
    let (topic, field) = match text.split_once('#') {
        Some((topic, field)) => (topic, Some(field)),
        None => (text, None),
    };
    if topic.is_empty() || field.is_some_and(str::is_empty) {
        return Err(Failure::new(format!("{text:?}: expected TOPIC[#FIELD], neither of them empty")));
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
    let mut samples: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for Assignment { topic, field, value } in assignments {
        let fields = samples.entry(topic).or_default();
        let names: Vec<String> = match field {
            Some(field) => vec![(*field).to_owned()],
            None => read.get(*topic).map(|fields| fields.iter().cloned().collect()).unwrap_or_default(),
        };
        if names.is_empty() {
            return Err(Failure::new(format!("no scenario reads {topic:?}; name a field: {topic}#FIELD={value}")));
        }
        fields.extend(names.into_iter().map(|name| (name, (*value).to_owned())));
    }
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
        for wrong in ["Gear", "=P", "#a=P", "Gear#=P", ""] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
    }
}
