//! `pullpiri purge`: deletes everything that was declared, and waits until nothing of it is left.
//!
//! What follows from declarations goes by itself: ModelInstances with their Package once their nodes have stopped the containers, NetworkSlices
//! with the Networks, Claims with their Scenario. For that the controllers and the nodes must be there, so it comes before an uninstall.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, Resource, ResourceExt};
use pullpiri_crds::{Claim, Model, ModelInstance, Network, NetworkSlice, Package, Policy, Scenario, Schedule, Volume};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::args::Purge;
use crate::client::connect;
use crate::fail::Failure;
use crate::out;

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run(arguments: &Purge) -> Result<(), Failure> {
    debug_assert!(arguments.yes, "the command line insists");
    let client = connect(arguments.connection.kubeconfig.as_deref()).await?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    loop {
        // Again each time: a controller that saw the old state may have written once more.
        let mut left = Vec::new();
        left.extend(delete::<Scenario>(&client).await?);
        left.extend(delete::<Claim>(&client).await?);
        left.extend(delete::<Package>(&client).await?);
        left.extend(list::<ModelInstance>(&client).await?.into_iter().map(|object| named(&object)));
        if left.is_empty() {
            // Models, Networks and Schedules last: what runs is stopped as what it was started as.
            left.extend(delete::<Model>(&client).await?);
            left.extend(delete::<Network>(&client).await?);
            left.extend(delete::<Schedule>(&client).await?);
            left.extend(delete::<Volume>(&client).await?);
            left.extend(delete::<Policy>(&client).await?);
            left.extend(list::<NetworkSlice>(&client).await?.into_iter().map(|object| named(&object)));
        }
        if left.is_empty() {
            out::line("nothing of Pullpiri is left but its NodeRuntimes")?;
            return Ok(());
        }
        if Instant::now() >= deadline {
            let shown: Vec<&str> = left.iter().take(10).map(String::as_str).collect();
            return Err(Failure::new(format!(
                "after {} s {} objects are left: {}; are controllers and nodes running?",
                arguments.timeout,
                left.len(),
                shown.join(", ")
            )));
        }
        sleep(LOOK).await;
    }
}

/// Has every object of a kind deleted; names those that were there.
async fn delete<K>(client: &Client) -> Result<Vec<String>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut there = Vec::new();
    for object in list::<K>(client).await? {
        let name = named(&object);
        if object.meta().deletion_timestamp.is_none() {
            // Of any scope: the path is all that a deletion needs.
            let namespace = object.namespace();
            let url = K::url_path(&(), namespace.as_deref());
            let request = kube::core::Request::new(url).delete(&object.name_any(), &DeleteParams::background());
            let request = request.map_err(|error| Failure::from_error(format!("deleting {name}"), &error))?;
            match client.request_text(request).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(Failure::from_error(format!("deleting {name}"), &error)),
            }
        }
        there.push(name);
    }
    Ok(there)
}

/// Every object of a kind; none where the kind isn't served.
async fn list<K>(client: &Client) -> Result<Vec<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(Failure::from_error(format!("listing {}", K::plural(&())), &error)),
    }
}

fn named<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.namespace().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{} {namespace}{}", K::kind(&()), object.name_any())
}
