//! `pullpiri net explain`: whether one model may talk to another, by which rule, and in which class.
//!
//! What is evaluated is what the nodes were told (NetworkSlices), by the reference evaluator: at the sender's node and at the receiver's, since
//! both have to let a packet pass. Exit 0: allowed; 1: denied; 2: no answer.

mod explain;
mod print;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use pullpiri_crds::{ModelInstance, Network, NetworkSlice, NodeRuntime};
use serde::de::DeserializeOwned;

use crate::args::{NetOutput, NetVerb};
use crate::client::connect;
use crate::fail::Failure;
use crate::out;
use explain::{Cluster, Question};

/// Something is denied.
const DENIED: u8 = 1;
/// The question can't be answered.
const NO_ANSWER: u8 = 2;

pub(crate) async fn run(verb: &NetVerb) -> Result<ExitCode, Failure> {
    let NetVerb::Explain { from, to, port, namespace, output, connection } = verb;
    let question = Question::parse(namespace, from, to, port).map_err(Failure::new)?;
    let client = connect(connection.kubeconfig.as_deref()).await?;
    let cluster = Cluster {
        networks: list::<Network>(&client, "networks").await?,
        instances: list::<ModelInstance>(&client, "modelinstances").await?,
        slices: list::<NetworkSlice>(&client, "networkslices").await?,
        nodes: list::<NodeRuntime>(&client, "noderuntimes").await?,
    };
    let answers = explain::explain(&cluster, &question).map_err(Failure::new)?;
    match output {
        NetOutput::Text => out::line(print::text(&answers).trim_end())?,
        NetOutput::Json => out::line(&print::json(&answers).to_string())?,
    }
    let allowed = answers.iter().all(explain::Answer::is_allowed);
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

/// How the process ends.
pub(crate) fn exit(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        eprintln!("pullpiri: {failure}");
        ExitCode::from(NO_ANSWER)
    })
}

async fn list<K>(client: &Client, plural: &str) -> Result<Vec<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let listed = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    Ok(listed.map_err(|error| Failure::from_error(format!("listing {plural}"), &error))?.items)
}
