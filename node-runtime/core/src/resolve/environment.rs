//! A container's environment: values, values from ConfigMaps and Secrets, and `$(NAME)` in both those and the command line.

use std::collections::BTreeMap;

use pullpiri_crds::model::{self, EnvVarSource};

use super::{Context, Lookup, Problem, ProblemKind};
use crate::expand::expand;
use crate::runtime::KeySource;
use crate::snapshot::DataKind;

pub(super) struct Environment {
    variables: Vec<(String, String)>,
    /// Where in `variables` a name was defined last.
    latest: BTreeMap<String, usize>,
    sources: BTreeMap<String, KeySource>,
    by: Expansion,
}

/// Who puts values in place of `$(NAME)` and of references.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expansion {
    Node,
    /// By the same rules; and what is secret isn't copied.
    Kubelet,
}

impl Environment {
    pub fn expand(&self, text: &str) -> String {
        if self.by == Expansion::Kubelet {
            return text.to_owned();
        }
        expand(text, |name| {
            let index = self.latest.get(name)?;
            self.variables.get(*index).map(|(_, value)| value.as_str())
        })
    }

    /// The variables, and where the values of those are that have none here.
    pub fn into_variables(self) -> (Vec<(String, String)>, BTreeMap<String, KeySource>) {
        (self.variables, self.sources)
    }

    fn define(&mut self, name: &str, value: String) {
        self.sources.remove(name);
        self.latest.insert(name.to_owned(), self.variables.len());
        self.variables.push((name.to_owned(), value));
    }

    /// Leaves it to the kubelet to read the value.
    fn refer(&mut self, name: &str, source: &EnvVarSource) {
        let key = |secret| {
            move |key: &model::KeySelector| KeySource {
                secret,
                name: key.name.clone(),
                key: key.key.clone(),
                optional: key.optional == Some(true),
            }
        };
        let config_map = source.config_map_key_ref.as_ref().map(key(false));
        let Some(source) = source.secret_key_ref.as_ref().map(key(true)).or(config_map) else { return };
        // A name has one value: a later definition replaces the earlier one.
        self.variables.retain(|(other, _)| other != name);
        self.define(name, String::new());
        self.sources.insert(name.to_owned(), source);
    }
}

pub(super) fn resolve(
    context: &Context<'_>,
    container: &model::Container,
    field: &str,
    by: Expansion,
    problems: &mut Vec<Problem>,
) -> Environment {
    let mut environment = Environment { variables: Vec::new(), latest: BTreeMap::new(), sources: BTreeMap::new(), by };
    for (index, variable) in container.env.iter().enumerate() {
        let value = match &variable.value_from {
            None => Ok(Some(environment.expand(variable.value.as_deref().unwrap_or_default()))),
            Some(source) => from_source(context, source),
        };
        match value {
            Ok(Some(value)) if value.contains('\0') => problems.push(Problem {
                kind: ProblemKind::Invalid,
                field: format!("{field}.env[{index}]"),
                message: format!("the value of {} holds a NUL byte, which no environment can", variable.name),
            }),
            Ok(Some(value)) => match &variable.value_from {
                Some(source) if by == Expansion::Kubelet => environment.refer(&variable.name, source),
                _ => environment.define(&variable.name, value),
            },
            Ok(None) => {}
            Err((kind, message)) => {
                problems.push(Problem { kind, field: format!("{field}.env[{index}].valueFrom"), message });
            }
        }
    }
    environment
}

pub(super) fn unreadable(kind: DataKind, namespace: &str, name: &str, message: &str) -> String {
    format!("{kind} {namespace}/{name} can't be read: {message}")
}

/// `None` if it isn't there and needn't be.
fn from_source(context: &Context<'_>, source: &EnvVarSource) -> Result<Option<String>, (ProblemKind, String)> {
    let (kind, key) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(key), None) => (DataKind::ConfigMap, key),
        (None, Some(key)) => (DataKind::Secret, key),
        (None, None) | (Some(_), Some(_)) => {
            let message = "expected exactly one of configMapKeyRef and secretKeyRef".to_owned();
            return Err((ProblemKind::Invalid, message));
        }
    };
    let optional = key.optional == Some(true);
    let entry = match context.lookup(kind, &key.name) {
        Lookup::Present(object) => object.entries.get(&key.key),
        Lookup::Absent if optional => return Ok(None),
        Lookup::Absent => {
            return Err((
                ProblemKind::ConfigMissing,
                format!("{kind} {}/{} doesn't exist", context.namespace, key.name),
            ));
        }
        Lookup::Refused(message) => {
            return Err((ProblemKind::ConfigMissing, unreadable(kind, context.namespace, &key.name, message)));
        }
        Lookup::Unknown => {
            let message = format!("{kind} {}/{} hasn't been read yet", context.namespace, key.name);
            return Err((ProblemKind::Unknown, message));
        }
    };
    match entry {
        Some(content) => match std::str::from_utf8(content.bytes()) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err((ProblemKind::Invalid, format!("key {:?} of {kind} {} isn't UTF-8 text", key.key, key.name))),
        },
        None if optional => Ok(None),
        None => Err((
            ProblemKind::ConfigMissing,
            format!("{kind} {}/{} has no key {:?}", context.namespace, key.name, key.key),
        )),
    }
}
