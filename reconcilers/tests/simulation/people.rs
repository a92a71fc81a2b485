//! Those who act on the API server beside the controllers: people, who edit, and nodes, which report.

use pullpiri_crds::instance::{ModelInstanceStatus, Phase};
use pullpiri_crds::package::DesiredState;
use pullpiri_crds::scenario::Action as Wish;

use super::{MODELS, PACKAGES, Reference, Simulation};
use crate::world::{self, anywhere, gear, on_node, selecting};

impl Simulation {
    pub(super) fn make_scenario(&mut self, name: &str, value: &str, wish: Wish) {
        self.say(format!("person: scenario {name}"));
        let object = world::scenario(name, Some(gear(value)), wish, "p");
        let made = self.api.scenarios.write(&mut self.api.counters, name, |_| (object, true));
        self.references
            .insert(name.to_owned(), Reference { uid: made.metadata.uid.clone().unwrap(), ..Default::default() });
    }

    pub(super) fn make_package(&mut self, name: &str) {
        self.say(format!("person: package {name}"));
        let object = match name {
            "p" => world::package("p", vec![on_node("m0", "a"), anywhere("m1"), selecting("m2", "zone", "x")]),
            _ => {
                world::running(world::package("q", vec![anywhere("q0"), selecting("q1", "zone", "x"), anywhere("q2")]))
            }
        };
        self.api.packages.write(&mut self.api.counters, name, |_| (object, true));
    }

    /// A model with another image, and with more or less to do in real time, or none of it.
    pub(super) fn edit_model(&mut self, name: &str, image: usize) {
        let wcet_ms = [3, 5, 8][self.random.below(3)];
        let timed = name.ends_with('0');
        let what = if timed { format!(", a task of {wcet_ms} ms") } else { String::new() };
        self.say(format!("person: model {name} has image {image}{what}"));
        let mut object = world::model(name, &image.to_string());
        if timed {
            let task = serde_json::json!({"wcet": format!("{wcet_ms}ms"), "period": "10ms"});
            object.spec.realtime = serde_json::from_value(task).unwrap();
        } else {
            object.spec.host_network = None;
            object.metadata.labels = Some([("net".to_owned(), "yes".to_owned())].into());
        }
        self.api.models.write(&mut self.api.counters, name, |_| (object, true));
    }

    fn toggle_q(&mut self) {
        let Some(package) = self.api.packages.objects.get("q").cloned() else {
            return;
        };
        let mut next = (*package).clone();
        let stopped = next.spec.desired_state == Some(DesiredState::Stopped);
        next.spec.desired_state = Some(if stopped { DesiredState::Running } else { DesiredState::Stopped });
        self.say(format!("person: package q is to be {:?}", next.spec.desired_state.unwrap()));
        self.api.packages.write(&mut self.api.counters, "q", |_| (next, true));
    }

    pub(super) fn signal(&mut self) {
        let value = [Some("P"), Some("D"), Some("R"), None][self.random.below(4)];
        self.gear = value;
        self.say(format!("signal: gear {}", value.unwrap_or("has no value")));
        self.hear();
    }

    pub(super) fn person(&mut self) {
        match self.random.below(6) {
            0 | 1 => {
                let (model, image) = (self.random.below(MODELS.len()), self.random.below(3));
                self.edit_model(MODELS[model], image);
            }
            5 => self.toggle_q(),
            2 => {
                let name = ["on", "off"][self.random.below(2)];
                if self.api.scenarios.objects.contains_key(name) {
                    self.say(format!("person: deletes scenario {name}"));
                    self.api.scenarios.remove(name);
                    self.references.remove(name);
                } else if name == "on" {
                    self.make_scenario("on", "P", Wish::Launch);
                } else {
                    self.make_scenario("off", "D", Wish::Terminate);
                }
            }
            3 => {
                let name = PACKAGES[self.random.below(2)];
                if self.api.packages.objects.contains_key(name) {
                    self.say(format!("person: deletes package {name}"));
                    self.api.packages.remove(name);
                } else {
                    self.make_package(name);
                }
            }
            _ => {
                let name = MODELS[self.random.below(MODELS.len())];
                if self.api.models.objects.contains_key(name) {
                    self.say(format!("person: deletes model {name}"));
                    self.api.models.remove(name);
                }
            }
        }
    }

    /// A node looks after one of its instances.
    pub(super) fn agent(&mut self) {
        let names: Vec<String> = self.api.instances.objects.keys().cloned().collect();
        if !names.is_empty() {
            let name = names[self.random.below(names.len())].clone();
            self.serve(&name);
        }
    }

    pub(super) fn serve(&mut self, name: &str) -> bool {
        let instance = self.api.instances.objects[name].clone();
        let phase = instance.status.as_ref().map(|s| s.phase).unwrap_or_default();
        let observed = instance.status.as_ref().and_then(|s| s.observed_generation);
        if instance.metadata.deletion_timestamp.is_some() {
            self.say(format!("node {}: {name} is gone", instance.spec.node_name));
            self.api.instances.remove(name);
            return true;
        }
        let next = if instance.spec.run { Phase::Running } else { Phase::Pending };
        if phase == next && observed == instance.metadata.generation {
            return false;
        }
        self.say(format!("node {}: {name} is {}", instance.spec.node_name, next.as_str()));
        self.api.instances.write(&mut self.api.counters, name, |before| {
            let mut object = before.unwrap().clone();
            object.metadata.finalizers = Some(vec!["pullpiri.io/node".to_owned()]);
            object.status = Some(ModelInstanceStatus {
                phase: next,
                observed_generation: object.metadata.generation,
                ..Default::default()
            });
            (object, false)
        });
        true
    }
}
