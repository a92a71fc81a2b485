//! A server of virtual resources alone: what stands behind an APIService of another API server, which has everything else.

use std::sync::{Arc, Mutex};

use pullpiri_store::memory::{MemoryStore, Options as MemoryOptions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ApiServer, Running, ServerError, VOLATILE_RETENTION, virtual_resources};
use crate::admission::Chain;
use crate::authz::AllowAuthenticated;
use crate::clock::SystemClock;
use crate::http::{ApiService, Limits};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::rest::watch::EventCache;
use crate::rest::{Rest, internal};
use crate::tokens::{DEFAULT_ISSUER, TokenKey, Tokens};

impl ApiServer {
    /// A server that has these kinds and no other, nothing on disk and no controllers. Whoever calls it has decided who asks, and whether they may.
    ///
    /// # Errors
    /// A virtual resource that is none.
    pub fn virtual_only(definitions: &[Value]) -> Result<Self, ServerError> {
        let registry = Arc::new(Registry::new(virtual_resources(definitions)?));
        let store = || MemoryStore::with(MemoryOptions { retention: VOLATILE_RETENTION, ..MemoryOptions::default() });
        let rest = Arc::new(Rest {
            registry,
            durable: Arc::new(store()),
            volatile: Arc::new(store()),
            clock: Arc::new(SystemClock),
            admission: Chain::new(Vec::new()),
            events: EventCache::default(),
            authorizer: Arc::new(AllowAuthenticated),
            access: None,
        });
        let objects = internal::objects(&rest);
        let tokens = Tokens::new(
            TokenKey::generate()?,
            DEFAULT_ISSUER.into(),
            Arc::clone(&rest.durable),
            Arc::clone(&rest.clock),
        );
        let limits = Limits::default();
        let (shutdown, stopping) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let service = ApiService::new(Arc::clone(&rest), Arc::new(tokens), limits.clone(), metrics, stopping);
        let tasks = Mutex::new(JoinSet::new());
        Ok(Self(Arc::new(Running { service, rest, objects, limits, shutdown, tasks })))
    }
}
