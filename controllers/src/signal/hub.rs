//! The latest samples, and the scenarios that read them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pullpiri_condition::Values;
use pullpiri_crds::{Claim, Scenario};
use pullpiri_reconcilers::scenario::{Evaluated, Observed, Track};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::source::{Sample, Update};
use crate::Metrics;
use crate::cache::Key;
use crate::world::World;

/// Updates that are evaluated before another task gets its turn.
const BATCH: usize = 64;

#[derive(Debug, Default)]
struct Latest(HashMap<String, BTreeMap<String, String>>);

impl Values for Latest {
    fn value(&self, topic: &str, field: &str) -> Option<&str> {
        self.0.get(topic)?.get(field).map(String::as_str)
    }
}

#[derive(Debug, Default)]
struct State {
    latest: Latest,
    tracks: HashMap<Key, Track>,
    /// Topic → scenarios that read it.
    readers: HashMap<String, BTreeSet<Key>>,
}

/// Follows every scenario's condition, sample by sample.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    metrics: Metrics,
}

impl Hub {
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates what the sink delivers until `shutdown`.
    pub async fn run(world: Arc<World>, mut updates: mpsc::Receiver<Update>, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => return,
                received = updates.recv_many(&mut batch, BATCH) => received,
            };
            if received == 0 {
                // Every source has ended.
                return;
            }
            for update in batch.drain(..) {
                for key in world.hub.take_in(update, Timestamp::now()) {
                    world.scenario_queue.add(key);
                }
            }
        }
    }

    /// Takes in an update. Returns the scenarios to which it means something.
    pub fn take_in(&self, update: Update, at: Timestamp) -> Vec<Key> {
        let mut state = self.lock();
        let topic = match update {
            Update::Sample(Sample { topic, fields }) => {
                self.metrics.samples.inc();
                match state.latest.0.get_mut(&topic) {
                    Some(latest) => *latest = fields,
                    None => {
                        state.latest.0.insert(topic.clone(), fields);
                    }
                }
                topic
            }
            Update::Gone { topic } => {
                state.latest.0.remove(&topic);
                topic
            }
        };
        self.metrics.topics.set(i64::try_from(state.latest.0.len()).unwrap_or(i64::MAX));
        let State { latest, tracks, readers } = &mut *state;
        let Some(readers) = readers.get(&topic) else {
            return Vec::new();
        };
        let mut concerned = Vec::new();
        for key in readers {
            if let Some(track) = tracks.get_mut(key)
                && self.evaluate(track, latest, at) != Evaluated::Unchanged
            {
                concerned.push(key.clone());
            }
        }
        concerned
    }

    fn evaluate(&self, track: &mut Track, latest: &Latest, at: Timestamp) -> Evaluated {
        self.metrics.evaluations.inc();
        let evaluated = track.evaluate(latest, at);
        if evaluated == Evaluated::Fired {
            self.metrics.edges.inc();
        }
        evaluated
    }

    /// Follows a scenario that is new or was edited.
    pub fn follow(&self, key: &Key, scenario: &Scenario, claim: Option<&Claim>, at: Timestamp) {
        let mut state = self.lock();
        let State { latest, tracks, readers } = &mut *state;
        let old: Vec<String> = tracks.get(key).map(topics).unwrap_or_default();
        let track = match tracks.get_mut(key) {
            Some(track) => {
                if !track.follow(scenario, claim) {
                    return;
                }
                track
            }
            None => tracks.entry(key.clone()).or_insert_with(|| Track::start(scenario, claim)),
        };
        self.evaluate(track, latest, at);
        let new = topics(track);
        unread(readers, key, &old);
        for topic in new {
            readers.entry(topic).or_default().insert(key.clone());
        }
    }

    /// Forgets a scenario that is gone.
    pub fn forget(&self, key: &Key) {
        let mut state = self.lock();
        if let Some(track) = state.tracks.remove(key) {
            unread(&mut state.readers, key, &topics(&track));
        }
    }

    /// What is known about a scenario's condition.
    pub fn observed(&self, key: &Key) -> Observed {
        self.lock().tracks.get(key).map(|track| track.observed().clone()).unwrap_or_default()
    }

    /// The edge with this number, of the scenario with this UID, was acted on.
    pub fn consumed(&self, key: &Key, uid: Option<&str>, number: u64) {
        if let Some(track) = self.lock().tracks.get_mut(key) {
            track.consumed(uid, number);
        }
    }
}

fn topics(track: &Track) -> Vec<String> {
    track.fields().into_iter().map(|field| field.topic).collect()
}

fn unread(readers: &mut HashMap<String, BTreeSet<Key>>, key: &Key, topics: &[String]) {
    for topic in topics {
        if let Some(keys) = readers.get_mut(topic) {
            keys.remove(key);
            if keys.is_empty() {
                readers.remove(topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use pullpiri_crds::scenario::{Action, Express, Operands, ScenarioCondition, ScenarioSpec, Term};

    fn scenario(name: &str, topic: &str, value: &str) -> (Key, Scenario) {
        let term = Term {
            express: Express::Eq,
            value: value.to_owned(),
            operands: Operands { source_type: None, name: "f".to_owned(), value: topic.to_owned() },
        };
        let spec = ScenarioSpec {
            condition: Some(ScenarioCondition::One(term)),
            action: Action::Launch,
            target: "p".to_owned(),
            priority: None,
        };
        let mut scenario = Scenario::new(name, spec);
        scenario.metadata.namespace = Some("ns".to_owned());
        scenario.metadata.uid = Some(name.to_owned());
        (Key::new("ns", name), scenario)
    }

    fn sample(topic: &str, value: &str) -> Update {
        Update::Sample(Sample { topic: topic.to_owned(), fields: [("f".to_owned(), value.to_owned())].into() })
    }

    fn hub() -> Hub {
        Hub::new(Metrics::register(&mut Registry::default()))
    }

    fn names(keys: &[Key]) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn only_those_are_woken_who_read_the_topic_and_see_something_new() {
        let hub = hub();
        let now = Timestamp::UNIX_EPOCH;
        for (key, scenario) in [scenario("a", "gear", "P"), scenario("b", "gear", "D"), scenario("c", "speed", "1")] {
            hub.follow(&key, &scenario, None, now);
        }
        assert_eq!(names(&hub.take_in(sample("gear", "P"), now)), ["a", "b"]);
        assert!(hub.take_in(sample("gear", "P"), now).is_empty());
        assert!(hub.take_in(sample("unread", "1"), now).is_empty());
        assert_eq!(hub.metrics.evaluations.get(), 3 + 4);
        assert_eq!(names(&hub.take_in(Update::Gone { topic: "gear".to_owned() }, now)), ["a", "b"]);
        hub.forget(&Key::new("ns", "a"));
        assert_eq!(names(&hub.take_in(sample("gear", "D"), now)), ["b"]);
    }

    #[test]
    fn a_scenario_that_comes_after_its_signal_sees_it() {
        let hub = hub();
        let now = Timestamp::UNIX_EPOCH;
        hub.take_in(sample("gear", "P"), now);
        let (key, mut scenario) = scenario("a", "gear", "P");
        hub.follow(&key, &scenario, None, now);
        assert!(hub.observed(&key).edge.is_some());
        // Edited to read something else, it is woken by that alone.
        if let Some(ScenarioCondition::One(term)) = &mut scenario.spec.condition {
            term.operands.value = "speed".to_owned();
        }
        hub.follow(&key, &scenario, None, now);
        assert!(hub.take_in(sample("gear", "D"), now).is_empty());
        assert_eq!(names(&hub.take_in(sample("speed", "P"), now)), ["a"]);
    }

    #[test]
    fn every_edge_of_a_burst_counts_and_the_last_one_is_kept() {
        let hub = hub();
        let (key, scenario) = scenario("a", "gear", "P");
        hub.follow(&key, &scenario, None, Timestamp::UNIX_EPOCH);
        for round in 0..10 {
            let at = Timestamp::from_second(round).unwrap();
            hub.take_in(sample("gear", "P"), at);
            hub.take_in(sample("gear", "D"), at);
        }
        assert_eq!(hub.metrics.edges.get(), 10);
        let edge = hub.observed(&key).edge.unwrap();
        assert_eq!(edge.at.0, Timestamp::from_second(9).unwrap());
        hub.consumed(&key, Some("a"), edge.number);
        assert!(hub.observed(&key).edge.is_none());
    }
}
