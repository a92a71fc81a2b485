//! Everything that is known, and who has to look when it changes.

mod links;
mod observed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use pullpiri_crds::names::{node_lease, rfc1123, same_node};
use pullpiri_crds::node::NodeRealtime;
use pullpiri_crds::{
    Claim, Model, ModelInstance, Network, NetworkSlice, NodeRuntime, Package, Policy, Scenario, Schedule, Volume,
};
use pullpiri_reconcilers::network::has_nodes_network;
use pullpiri_reconcilers::node::{DEFAULT_LEASE, Heartbeat, Pulse, Snapshot as NodeSnapshot};
use pullpiri_reconcilers::package::models_named;
use pullpiri_reconcilers::placement::{Link, NodeView, Readiness, Schedulability};

use crate::Config;
use crate::cache::{Arrival, Cache, Change, Key};
use crate::control::network::{self, Pace};
use crate::events::Events;
use crate::health::Health;
use crate::lead::Reign;
use crate::metrics::{ByController, Metrics, Name};
use crate::queue::Queue;
use crate::sharing::Sharing;
use crate::signal::Hub;
use crate::templates::Templates;

pub(crate) use self::observed::Observed;

/// What of a node matters to placement.
#[derive(Clone, Debug, PartialEq)]
struct Standing {
    labels: Option<BTreeMap<String, String>>,
    schedulability: Schedulability,
    readiness: Readiness,
    realtime: Option<NodeRealtime>,
    rate_bps: Option<u64>,
}

/// The state of the shell.
pub(crate) struct World {
    pub client: Client,
    epoch: AtomicI64,
    pub reign: Option<Reign>,
    pub metrics: Metrics,
    pub health: Health,
    pub events: Events,
    pub hub: Hub,

    pub scenarios: Cache<Scenario>,
    pub packages: Cache<Package>,
    pub models: Cache<Model>,
    pub volumes: Cache<Volume>,
    pub networks: Cache<Network>,
    pub slices: Cache<NetworkSlice>,
    pub schedules: Cache<Schedule>,
    pub policies: Cache<Policy>,
    pub claims: Cache<Claim>,
    pub instances: Cache<ModelInstance>,
    pub nodes: Cache<NodeRuntime>,
    pub leases: Cache<Lease>,

    pub scenario_queue: Queue,
    pub package_queue: Queue,
    pub node_queue: Queue,
    pub network_queue: Queue,

    pub sharing: Sharing,
    templates: Templates,
    /// What the API server said when it refused instances, by package and by instance.
    refusals: Mutex<HashMap<Key, BTreeMap<String, String>>>,
    /// What can't be reconciled for want of a permission.
    forbidden: Mutex<HashSet<(Name, Key)>>,
    following: AtomicBool,
    heartbeats: Mutex<HashMap<String, Heartbeat>>,
    standings: Mutex<HashMap<String, Standing>>,
    network_pace: Mutex<Pace>,
}

/// The term under which things about a named object are filed.
pub(crate) fn term(kind: &str, namespace: Option<&str>, name: &str) -> String {
    format!("{kind}/{}/{name}", namespace.unwrap_or_default())
}

/// The term under which instances on a node are filed.
pub(crate) fn on_node(node: &str) -> String {
    format!("node/{}", rfc1123(node).unwrap_or_default())
}

/// The term under which everything of a kind in one namespace is filed.
pub(crate) fn all_of(kind: &str, namespace: Option<&str>) -> String {
    term(kind, namespace, "")
}

/// The term under which instances with real-time tasks are filed.
pub(crate) const TIMED: &str = "timed";

fn instance_terms(instance: &ModelInstance) -> Vec<String> {
    let namespace = instance.metadata.namespace.as_deref();
    let spec = &instance.spec;
    let mut terms = vec![term("package", namespace, &spec.package), on_node(&spec.node_name)];
    if !spec.realtime.is_empty() {
        terms.push(TIMED.to_owned());
    }
    terms.extend(spec.network.as_ref().map(|network| term("joined", namespace, &network.name)));
    if has_nodes_network(instance) {
        terms.push(links::hosted(namespace));
    }
    terms
}

fn package_terms(package: &Package) -> Vec<String> {
    let namespace = package.metadata.namespace.as_deref();
    let mut terms = vec![all_of("packages", namespace)];
    terms.extend(package.spec.schedule.iter().map(|name| term("schedule", namespace, name)));
    terms.extend(package.spec.policy.iter().map(|name| term("policy", namespace, name)));
    for entry in &package.spec.models {
        terms.push(term("model", namespace, &entry.name));
        if let Some(resources) = &entry.resources {
            terms.extend(resources.volume.iter().map(|name| term("volume", namespace, name)));
        }
    }
    terms
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(client: Client, config: &Config, events: Events) -> Self {
        let metrics = config.metrics.clone();
        let queue = |controller| Queue::new(metrics.depth.get_or_create(&ByController { controller }).clone());
        Self {
            client,
            epoch: AtomicI64::new(config.reign.as_ref().map_or(config.epoch, Reign::epoch)),
            reign: config.reign.clone(),
            health: config.health.clone(),
            events,
            hub: Hub::new(metrics.clone()),
            scenarios: Cache::new(|s| vec![term("target", s.metadata.namespace.as_deref(), &s.spec.target)]),
            packages: Cache::new(package_terms),
            models: Cache::new(|_| Vec::new()),
            volumes: Cache::new(|_| Vec::new()),
            networks: Cache::new(|n| vec![all_of("networks", n.metadata.namespace.as_deref())]),
            slices: Cache::new(|_| Vec::new()),
            schedules: Cache::new(|_| Vec::new()),
            policies: Cache::new(|_| Vec::new()),
            claims: Cache::new(|c| vec![term("package", c.metadata.namespace.as_deref(), &c.spec.package)]),
            instances: Cache::new(instance_terms),
            nodes: Cache::new(|_| Vec::new()),
            leases: Cache::new(|_| Vec::new()),
            scenario_queue: queue(Name::scenario),
            package_queue: queue(Name::package),
            node_queue: queue(Name::node),
            network_queue: queue(Name::network),
            network_pace: Mutex::default(),
            sharing: Sharing::default(),
            templates: Templates::default(),
            refusals: Mutex::default(),
            forbidden: Mutex::default(),
            following: AtomicBool::new(false),
            heartbeats: Mutex::default(),
            standings: Mutex::default(),
            metrics,
        }
    }

    /// Whether every kind has been listed.
    pub fn synced(&self) -> bool {
        self.scenarios.synced()
            && self.packages.synced()
            && self.models.synced()
            && self.volumes.synced()
            && self.networks.synced()
            && self.slices.synced()
            && self.schedules.synced()
            && self.policies.synced()
            && self.claims.synced()
            && self.instances.synced()
            && self.nodes.synced()
            && self.leases.synced()
    }

    /// What every write to a ModelInstance carries.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// The epoch is this from now on, if it is higher.
    pub fn raise_epoch(&self, to: i64) {
        self.epoch.fetch_max(to, Ordering::SeqCst);
    }

    /// The highest epoch of all instances.
    pub fn newest_epoch(&self) -> Option<i64> {
        self.instances.all().iter().map(|instance| instance.spec.epoch).max()
    }

    /// Follows the conditions of all scenarios from now on. Not before every kind was listed: what a condition starts from is on record in the
    /// scenario and in its claim.
    pub fn follow_scenarios(&self) {
        self.following.store(true, Ordering::SeqCst);
        for scenario in self.scenarios.all() {
            self.follow(&Key::of(&*scenario), &scenario);
        }
    }

    fn follow(&self, key: &Key, scenario: &Scenario) {
        if self.following.load(Ordering::SeqCst) {
            self.hub.follow(key, scenario, self.claims.get(key).as_deref(), Timestamp::now());
        }
    }

    /// Takes in an object, from a watch or from the answer to a write.
    pub fn observe<K: Observed>(&self, object: K) {
        self.take_in(object, Arrival::News);
    }

    /// Takes in an object of the list that is under way.
    pub fn observe_listed<K: Observed>(&self, object: K) {
        self.take_in(object, Arrival::Listed);
    }

    fn take_in<K: Observed>(&self, mut object: K, by: Arrival) {
        K::share(self, &mut object);
        if let Some(change) = K::cache(self).put(object, by) {
            K::changed(self, &change);
        }
    }

    /// Takes in that an object is gone.
    pub fn observe_gone<K: Observed>(&self, key: &Key, uid: Option<&str>) {
        if let Some(change) = K::cache(self).remove(key, uid) {
            K::changed(self, &change);
        }
    }

    /// Whether a node was heard of.
    pub fn pulse(&self, node: &NodeRuntime, now: Timestamp) -> Pulse {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if let Some(heartbeat) = lock(&self.heartbeats).get(name) {
            return heartbeat.pulse(now);
        }
        let made = node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let until = made.saturating_add(DEFAULT_LEASE).unwrap_or(Timestamp::MAX);
        if until > now { Pulse::Unheard { until } } else { Pulse::Silent }
    }

    /// The nodes as placement sees them.
    pub fn node_views(&self, now: Timestamp) -> Vec<NodeView> {
        let promises = self.promises();
        let link = |node: &NodeRuntime, name: &str| {
            let here = promises.iter().filter(|promise| promise.nodes.iter().any(|other| same_node(other, name)));
            let promised = here.map(|promise| (promise.network.clone(), promise.bps)).collect();
            Some(Link { rate_bps: rate_bps(node)?, promised })
        };
        let mut views: Vec<NodeView> = self
            .nodes
            .all()
            .into_iter()
            .map(|node| {
                let name = node.metadata.name.clone().unwrap_or_default();
                NodeView {
                    labels: node.metadata.labels.clone().unwrap_or_default(),
                    readiness: NodeSnapshot::readiness(&node, self.pulse(&node, now)),
                    schedulability: schedulability(&node),
                    load: self.instances.count(&on_node(&name)),
                    realtime: realtime(&node),
                    link: link(&node, &name),
                    name,
                }
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Remembers, or with `None` forgets, what the API server said when it refused an instance of a package.
    pub fn refused(&self, package: &Key, instance: String, said: Option<String>) {
        let mut refusals = lock(&self.refusals);
        match said {
            Some(said) => {
                refusals.entry(package.clone()).or_default().insert(instance, said);
            }
            None => {
                if let Some(refused) = refusals.get_mut(package) {
                    refused.remove(&instance);
                }
            }
        }
    }

    /// Forgets what was refused of a package's instances, but for those that are still wanted.
    pub fn keep_refusals(&self, package: &Key, wanted: impl Fn(&str) -> bool) {
        let mut refusals = lock(&self.refusals);
        if let Some(refused) = refusals.get_mut(package) {
            refused.retain(|instance, _| wanted(instance));
            if refused.is_empty() {
                refusals.remove(package);
            }
        }
    }

    /// Forgets a package that is gone.
    pub fn forget_package(&self, package: &Key) {
        lock(&self.refusals).remove(package);
        self.sharing.forget(package);
    }

    /// What is remembered of a package's refused instances, by name.
    pub fn refusals(&self, package: &Key) -> BTreeMap<String, String> {
        lock(&self.refusals).get(package).cloned().unwrap_or_default()
    }

    /// A permission is missing: that keeps more than one object waiting, and is told until none waits for it any more.
    pub fn forbidden(&self, controller: Name, key: Key, said: &str) {
        lock(&self.forbidden).insert((controller, key));
        self.health.fails(controller.as_str(), format!("{said}; grant it to the controllers"));
    }

    /// An object was reconciled, or is gone.
    pub fn allowed(&self, controller: Name, key: Key) {
        let mut forbidden = lock(&self.forbidden);
        if forbidden.remove(&(controller, key)) && !forbidden.iter().any(|(other, _)| *other == controller) {
            self.health.works(controller.as_str());
        }
    }

    /// Looks whether a node means something else to placement than before; if so every package looks.
    pub fn refresh_node(&self, name: &str, now: Timestamp) {
        let standing = self.nodes.get(&Key::new("", name)).map(|node| Standing {
            labels: node.metadata.labels.clone(),
            schedulability: schedulability(&node),
            readiness: NodeSnapshot::readiness(&node, self.pulse(&node, now)),
            realtime: realtime(&node),
            rate_bps: rate_bps(&node),
        });
        let mut standings = lock(&self.standings);
        let changed = standings.get(name) != standing.as_ref();
        match standing {
            Some(standing) => standings.insert(name.to_owned(), standing),
            None => standings.remove(name),
        };
        drop(standings);
        if changed {
            self.node_queue.add(Key::new("", name));
        }
        // While everything is listed each package is entered once, when it is itself.
        if changed && self.synced() {
            for key in self.packages.keys() {
                self.wake_package(key);
            }
        }
    }

    /// Looks at, or sets, when slices may be written next.
    pub fn network_pace<T>(&self, look: impl FnOnce(&mut Pace) -> T) -> T {
        look(&mut lock(&self.network_pace))
    }

    /// Whether a Network of its namespace names a Model.
    fn is_named(&self, model: &Key) -> bool {
        let networks = self.networks.under(&all_of("networks", Some(&model.namespace)));
        networks.iter().any(|network| models_named(&network.spec).any(|name| name == model.name))
    }

    /// Networks look if something that matters to them changed.
    fn wake_networks<K, T: PartialEq>(&self, change: &Change<K>, matters: impl Fn(&K) -> T) {
        let of = |object: &Option<Arc<K>>| object.as_deref().map(&matters);
        if of(&change.before) != of(&change.after) {
            self.network_queue.add(network::key());
        }
    }

    /// While everything is listed nothing has changed yet: that is looked at after what does.
    fn wake_package(&self, key: Key) {
        if self.synced() { self.package_queue.add(key) } else { self.package_queue.add_backlog(key) }
    }

    fn wake_packages(&self, term: &str) {
        for key in self.packages.keys_under(term) {
            self.wake_package(key);
        }
    }

    fn wake_scenarios_of(&self, namespace: Option<&str>, package: &str) {
        for key in self.scenarios.keys_under(&term("target", namespace, package)) {
            self.scenario_queue.add(key);
        }
    }
}

fn realtime(node: &NodeRuntime) -> Option<NodeRealtime> {
    node.status.as_ref().and_then(|status| status.realtime.clone())
}

/// What a node's link carries.
fn rate_bps(node: &NodeRuntime) -> Option<u64> {
    let network = node.status.as_ref()?.network.as_ref()?;
    network.link_bps.and_then(|bps| u64::try_from(bps).ok())
}

fn schedulability(node: &NodeRuntime) -> Schedulability {
    if node.spec.unschedulable == Some(true) { Schedulability::Closed } else { Schedulability::Open }
}

impl World {
    fn heard(&self, lease: &Lease, now: Timestamp) {
        let Some(node) = lease.metadata.name.as_deref().and_then(|name| name.strip_prefix(node_lease("").as_str()))
        else {
            return;
        };
        let Some(spec) = &lease.spec else {
            return;
        };
        let mut heartbeats = lock(&self.heartbeats);
        match heartbeats.get_mut(node) {
            Some(heartbeat) => {
                heartbeat.again(spec, now);
            }
            None => {
                heartbeats.insert(node.to_owned(), Heartbeat::first(spec, now));
            }
        }
        drop(heartbeats);
        self.refresh_node(node, now);
    }
}

#[cfg(test)]
pub(crate) mod tests;
