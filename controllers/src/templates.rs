//! Templates of instances, kept once.
//!
//! The instances of one Model are mostly of one template, on however many nodes they are, and a template is the most of an instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pullpiri_crds::ModelInstance;
use pullpiri_crds::instance::Template;

use crate::cache::Key;

/// The template that was seen last, by Model.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    last: Mutex<HashMap<Key, Weak<Template>>>,
}

impl Templates {
    /// Gives the instance the template that others of its Model have, if it is the same.
    pub fn share(&self, instance: &mut ModelInstance) {
        let namespace = instance.metadata.namespace.clone().unwrap_or_default();
        let model = Key::new(namespace, instance.spec.model.clone());
        // What the lock guards is whole between any two statements.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get(&model).and_then(Weak::upgrade) {
            Some(known) if known == instance.spec.template => instance.spec.template = known,
            other => {
                if other.is_none() {
                    last.retain(|_, template| template.strong_count() > 0);
                }
                last.insert(model, Arc::downgrade(&instance.spec.template));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(model: &str, image: &str) -> ModelInstance {
        serde_json::from_value(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": "i", "namespace": "ns"},
            "spec": {
                "package": "p", "model": model, "nodeName": "n",
                "template": {"spec": {"containers": [{"name": "c", "image": image}]}},
            },
        }))
        .unwrap()
    }

    #[test]
    fn equal_templates_of_a_model_are_one_and_those_of_nobody_are_forgotten() {
        let templates = Templates::default();
        let mut all = [instance("a", "x:1"), instance("a", "x:1"), instance("a", "x:2"), instance("a", "x:2")];
        for instance in &mut all {
            templates.share(instance);
        }
        assert!(Arc::ptr_eq(&all[0].spec.template, &all[1].spec.template));
        assert!(Arc::ptr_eq(&all[2].spec.template, &all[3].spec.template));
        assert_eq!(all[1], instance("a", "x:1"), "it is what it was");
        assert_eq!(all[2], instance("a", "x:2"));
        drop(all);
        templates.share(&mut instance("b", "x:1"));
        assert_eq!(templates.last.lock().unwrap().len(), 1);
    }
}
