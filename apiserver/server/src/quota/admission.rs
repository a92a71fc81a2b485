//! Charging creations to quotas.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pullpiri_quantity::Amount;
use pullpiri_store::{Change, Expect, KeyValue, Range, Store, Write, WriteError};
use serde_json::{Value, json};

use super::{Charge, Quotas, count, names_of};
use crate::admission::{Admission, Attributes, Operation};
use crate::builtin::set;
use crate::registry::{Origin, Resource};
use crate::rest::object::{Object, encode};
use crate::rest::store_errors;
use crate::status::{GroupResource, Status};

const PLURAL: &str = "resourcequotas";
/// How often somebody else may write a quota between our reading and writing it.
const ATTEMPTS: u32 = 32;

/// The plugin.
#[derive(Debug)]
pub(crate) struct QuotaAdmission {
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) store: Arc<dyn Store>,
}

/// A quota with the creation in it.
struct Charged {
    key: Arc<str>,
    expect: Expect,
    quota: Value,
}

fn key_of(namespace: &str, name: &str) -> String {
    format!("core/{PLURAL}/{namespace}/{name}")
}

fn amount(quota: &Value, list: &str, name: &str) -> Option<Amount> {
    Amount::capped(quota.pointer(list)?.get(name)?.as_str()?).ok()
}

impl QuotaAdmission {
    async fn present(&self, namespace: &str) -> Result<Vec<KeyValue>, Status> {
        let Some(names) = self.quotas.names(namespace) else {
            let range = Range { prefix: key_of(namespace, ""), ..Range::default() };
            return Ok(self.store.list(range).await.map_err(|error| store_errors::read(&error))?.items);
        };
        let mut present = Vec::with_capacity(names.len());
        for name in names {
            let (found, _) =
                self.store.get(&key_of(namespace, &name)).await.map_err(|error| store_errors::read(&error))?;
            present.extend(found);
        }
        Ok(present)
    }

    /// The quota with one more of these names; `None` when it limits none of them.
    async fn charged(
        &self,
        attributes: &Attributes<'_>,
        namespace: &str,
        stored: &KeyValue,
    ) -> Result<Option<Charged>, Status> {
        let mut quota = Object::stored(stored).value()?.clone();
        let resource: &Resource = attributes.resource;
        let (mut used_now, mut over) = (Vec::new(), Vec::new());
        for name in names_of(resource) {
            let Some(hard) = amount(&quota, "/spec/hard", &name) else { continue };
            let used = match amount(&quota, "/status/used", &name) {
                Some(used) => used,
                None => {
                    Amount::whole(count(&*self.store, resource, namespace).await.map_err(|e| store_errors::read(&e))?)
                }
            };
            let next = used.plus(Amount::whole(1));
            if next > hard {
                over.push((name.clone(), used, hard));
            }
            used_now.push((name, next));
        }
        if !over.is_empty() {
            let list = |of: &dyn Fn(&(String, Amount, Amount)) -> Amount| {
                over.iter().map(|entry| format!("{}={}", entry.0, of(entry))).collect::<Vec<_>>().join(",")
            };
            let why = format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                crate::rest::metadata::text(&quota, "name"),
                list(&|_| Amount::whole(1)),
                list(&|entry| entry.1),
                list(&|entry| entry.2),
            );
            return Err(Status::forbidden(resource.group_resource(), attributes.name, &why));
        }
        if used_now.is_empty() {
            return Ok(None);
        }
        for (name, amount) in used_now {
            set(&mut quota, &["status", "used", &name], json!(amount.to_string()));
        }
        Ok(Some(Charged { key: Arc::clone(&stored.key), expect: Expect::At(stored.modified), quota }))
    }

    /// Charges every quota of the namespace. Where one refuses, what others were charged before is put right by the next count.
    async fn charge_all(&self, attributes: &Attributes<'_>, namespace: &str) -> Result<(), Status> {
        let mut done: BTreeSet<Arc<str>> = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            let mut charged = Vec::new();
            // What an attempt before this one has charged isn't charged twice.
            for stored in self.present(namespace).await?.into_iter().filter(|stored| !done.contains(&stored.key)) {
                charged.extend(self.charged(attributes, namespace, &stored).await?);
            }
            if attributes.dry_run {
                return Ok(());
            }
            let mut lost = false;
            for Charged { key, expect, quota } in charged {
                let change = Change::Put(encode(&quota)?);
                match self.store.write(Write { key: Arc::clone(&key), expect, change }).await {
                    Ok(_) => drop(done.insert(key)),
                    Err(WriteError::Mismatch { .. }) => lost = true,
                    Err(error) => return Err(store_errors::write(&error)),
                }
                if lost {
                    break;
                }
            }
            if !lost {
                return Ok(());
            }
        }
        Err(Status::modified(GroupResource { group: "", plural: PLURAL }, namespace))
    }
}

impl Admission for QuotaAdmission {
    fn admit<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _object: Option<&'a mut Value>,
        _old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        std::future::ready(Ok(())).boxed()
    }

    fn charge<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Result<Option<Charge>, Status>> {
        let resource = attributes.resource;
        let counted = attributes.operation == Operation::Create
            && attributes.subresource.is_empty()
            && resource.origin != Origin::Virtual
            && resource.strategy.review().is_none();
        let Some(namespace) = attributes.namespace.filter(|_| counted) else {
            return std::future::ready(Ok(None)).boxed();
        };
        if resource.group.is_empty() && resource.plural == PLURAL && !attributes.dry_run {
            // From now on creations are looked at, whenever the watch tells of it.
            self.quotas.learn(namespace, attributes.name);
        } else if self.quotas.names(namespace).is_some_and(|names| names.is_empty()) {
            return std::future::ready(Ok(None)).boxed();
        }
        async move {
            let charge = self.quotas.begin(namespace);
            let turn = self.quotas.turn(namespace);
            let _turn = turn.lock().await;
            self.charge_all(attributes, namespace).await?;
            Ok(Some(charge))
        }
        .boxed()
    }
}
