//! What is promised of the nodes' links.
//!
//! A Network's status says on which nodes it is, some time after a first instance came there. What is decided until then must know of it too, whatever
//! namespace it is of: so instances count as soon as they are written, and those that may have been written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pullpiri_crds::{ModelInstance, Network};
use pullpiri_reconcilers::network::nodes_of;
use pullpiri_reconcilers::package::promised;
use pullpiri_reconcilers::placement::ObjectName;

use super::{World, term};
use crate::cache::Key;

/// The term under which a namespace's instances are filed that have their node's network or their cluster's.
pub(super) fn hosted(namespace: Option<&str>) -> String {
    term("hosted", namespace, "")
}

/// What a Network's classes are guaranteed together, on each node that it is on.
pub(super) struct Promise {
    pub network: ObjectName,
    pub bps: u64,
    pub nodes: BTreeSet<String>,
}

impl World {
    /// Every Network that is guaranteed something, and the nodes that it has it of.
    pub(super) fn promises(&self) -> Vec<Promise> {
        let networks = self.networks.all();
        let mut promises: Vec<Promise> = networks
            .iter()
            .map(|network| (network, promised(network)))
            .filter(|(_, (bps, _))| *bps > 0)
            .map(|(network, (bps, nodes))| Promise { network: name_of(network), bps, nodes })
            .collect();
        if promises.is_empty() {
            return promises;
        }
        let instances = self.instances_that_may_be_in(&promises);
        let package = |i: &Arc<ModelInstance>| {
            self.packages.get(&Key::new(i.metadata.namespace.clone().unwrap_or_default(), i.spec.package.clone()))
        };
        let packages: Vec<_> = instances.values().filter_map(package).collect();
        let present = nodes_of(
            networks.iter().map(|network| &**network),
            instances.values().map(|instance| &**instance),
            packages.iter().map(|package| &**package),
        );
        for promise in &mut promises {
            promise.nodes.extend(present.get(&promise.network).into_iter().flatten().cloned());
        }
        promises
    }

    fn instances_that_may_be_in(&self, promises: &[Promise]) -> BTreeMap<Key, Arc<ModelInstance>> {
        let namespaces: BTreeSet<&str> = promises.iter().map(|promise| promise.network.namespace.as_str()).collect();
        let joined = promises.iter().flat_map(|promise| {
            let ObjectName { namespace, name } = &promise.network;
            self.instances.under(&term("joined", Some(namespace), name))
        });
        let hosted = namespaces.iter().flat_map(|namespace| self.instances.under(&hosted(Some(namespace))));
        let written = joined.chain(hosted);
        let all = self.sharing.unknown().into_iter().chain(written);
        all.map(|instance| (Key::of(&*instance), instance)).collect()
    }
}

fn name_of(network: &Network) -> ObjectName {
    let meta = &network.metadata;
    ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
