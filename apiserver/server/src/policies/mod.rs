//! ValidatingAdmissionPolicies at work: what is about to be written is shown to the expressions of the policies that are bound to it.
//!
//! [`compiled`]: policies and bindings as they are used; [`matching`]: which of them look at a write; [`admission`]: the plugin;
//! [`controller`]: follows the stored ones and writes what the type checker says of them; [`types`]: what expressions may name.
//!
//! Semantics are those of `k8s.io/apiserver/pkg/admission/plugin/policy/validating` (1.37), but for two things: there is no `authorizer` (an
//! expression that names it is refused), and audit annotations are accepted and go nowhere, for there is no audit log.

pub(crate) mod admission;
mod compiled;
pub(crate) mod controller;
mod matching;
pub(crate) mod types;

use std::sync::{Arc, PoisonError, RwLock};

use compiled::{Binding, Policy};

/// Everything that is in force. Replaced whole.
#[derive(Debug, Default)]
struct Set {
    policies: Vec<Arc<Policy>>,
    bindings: Vec<Arc<Binding>>,
}

/// What the plugin and the controller share.
#[derive(Debug, Default)]
pub(crate) struct Policies(RwLock<Arc<Set>>);

impl Policies {
    fn current(&self) -> Arc<Set> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, set: Set) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }
}

#[cfg(test)]
mod tests;
