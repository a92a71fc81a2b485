//! What a Network names and what isn't there.
//!
//! What contradicts itself is refused when it is written. What names a Model or a Network that doesn't exist can't be: objects may be applied in any
//! order. It is never half-applied, either. The whole rule, published port or class has no effect until all that it names exists (a class with one
//! selector too many would be a share for somebody else), and nothing new is placed into the Network until then.
//!
//! A label names nothing: that no Model has it is no mistake.

use std::collections::BTreeSet;

use pullpiri_crds::network::{NetworkMode, NetworkSpec};

use crate::declared::{Declared, Selector, Source};

/// A part of a Network that is applied as a whole, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Rule(usize),
    Port(usize),
    Class(usize),
}

/// A name that means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub part: Part,
    /// The field, what it says and what is wrong with that.
    pub message: String,
}

/// Every name in a Network that means nothing, in the order of its fields, given whether the namespace has a Model of a name, and the mode of its
/// Network of a name if that is there and valid.
#[must_use]
pub fn unknown(
    declared: &Declared,
    model: &dyn Fn(&str) -> bool,
    network: &dyn Fn(&str) -> Option<NetworkMode>,
) -> Vec<Unknown> {
    let mut found = Found { has_model: model, mode: network, unknown: Vec::new() };
    for (i, rule) in declared.rules.iter().enumerate() {
        let part = Part::Rule(i);
        if let Source::Models { network, selector } = &rule.from {
            found.model(part, format!("spec.allow[{i}].from.model"), selector);
            found.network(part, format!("spec.allow[{i}].from.network"), network.as_deref());
        }
        found.model(part, format!("spec.allow[{i}].to.model"), &rule.to);
    }
    for (i, port) in declared.ports.iter().enumerate() {
        found.model(Part::Port(i), format!("spec.ports[{i}].to.model"), &port.to);
    }
    for (i, class) in declared.classes.iter().enumerate() {
        for (k, selector) in class.selectors.iter().enumerate() {
            found.model(Part::Class(i), format!("spec.qos.classes[{i}].selectors[{k}].model"), &selector.sender);
        }
    }
    found.unknown
}

struct Found<'a> {
    has_model: &'a dyn Fn(&str) -> bool,
    mode: &'a dyn Fn(&str) -> Option<NetworkMode>,
    unknown: Vec<Unknown>,
}

impl Found<'_> {
    fn model(&mut self, part: Part, field: String, selector: &Selector) {
        if let Some(model) = selector.model.as_deref().filter(|model| !(self.has_model)(model)) {
            self.unknown.push(Unknown { part, message: format!("{field}: {model:?}: no Model has this name") });
        }
    }

    fn network(&mut self, part: Part, field: String, network: Option<&str>) {
        let Some(name) = network else { return };
        let why = match (self.mode)(name) {
            Some(NetworkMode::Bridge) => return,
            Some(NetworkMode::Host) => "is the node's own network: its models have no addresses to tell them by",
            None => "no Network has this name, or it isn't valid",
        };
        self.unknown.push(Unknown { part, message: format!("{field}: {name:?}: {why}") });
    }
}

/// Takes out what names something that isn't there.
pub(crate) fn leave_out(declared: &mut Declared, unknown: &[Unknown]) {
    let left: BTreeSet<Part> = unknown.iter().map(|unknown| unknown.part).collect();
    retain(&mut declared.rules, |i| !left.contains(&Part::Rule(i)));
    retain(&mut declared.ports, |i| !left.contains(&Part::Port(i)));
    retain(&mut declared.classes, |i| !left.contains(&Part::Class(i)));
}

fn retain<T>(list: &mut Vec<T>, keep: impl Fn(usize) -> bool) {
    let mut at = 0..;
    list.retain(|_| at.next().is_some_and(&keep));
}

/// The Models that a Network names, whether or not there are any.
pub fn models_named(spec: &NetworkSpec) -> impl Iterator<Item = &str> {
    let rules = spec.allow.iter().flat_map(|rule| {
        let to = rule.to.as_ref().and_then(|to| to.model.as_deref());
        [rule.from.model.as_deref(), to].into_iter().flatten()
    });
    let ports = spec.ports.iter().filter_map(|port| port.to.model.as_deref());
    let classes = spec.qos.iter().flat_map(|qos| &qos.classes);
    let senders = classes.flat_map(|class| &class.selectors).filter_map(|selector| selector.model.as_deref());
    rules.chain(ports).chain(senders)
}
