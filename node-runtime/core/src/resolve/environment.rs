//! A container's environment: values, values from ConfigMaps and Secrets, and `$(NAME)` in both those and the command line.

use std::collections::BTreeMap;

use pullpiri_crds::model::{self, EnvVarSource};

use super::{Context, Lookup, Problem, ProblemKind};
use crate::expand::expand;
use crate::snapshot::DataKind;

pub(super) struct Environment {
    variables: Vec<(String, String)>,
    /// Where in `variables` a name was defined last.
    latest: BTreeMap<String, usize>,
}

impl Environment {
    pub fn expand(&self, text: &str) -> String {
        expand(text, |name| {
            let index = self.latest.get(name)?;
            self.variables.get(*index).map(|(_, value)| value.as_str())
        })
    }

    pub fn into_variables(self) -> Vec<(String, String)> {
        self.variables
    }

    fn define(&mut self, name: &str, value: String) {
        self.latest.insert(name.to_owned(), self.variables.len());
        self.variables.push((name.to_owned(), value));
    }
}

pub(super) fn resolve(
    context: &Context<'_>,
    container: &model::Container,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Environment {
    let mut environment = Environment { variables: Vec::new(), latest: BTreeMap::new() };
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
            Ok(Some(value)) => environment.define(&variable.name, value),
            Ok(None) => {}
            Err((kind, message)) => {
                problems.push(Problem { kind, field: format!("{field}.env[{index}].valueFrom"), message });
            }
        }
    }
    environment
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
            return Err((ProblemKind::Missing, format!("{kind} {}/{} doesn't exist", context.namespace, key.name)));
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
        None => {
            Err((ProblemKind::Missing, format!("{kind} {}/{} has no key {:?}", context.namespace, key.name, key.key)))
        }
    }
}
