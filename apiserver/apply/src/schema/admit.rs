//! Everything that an API server does to an object by its schema, in order: prune, default, validate, list types, embedded resources,
//! CEL. One value per served version, built when the CRD is established and shared by all requests.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::cel::{Place, Rules};
use super::{Schema, default, embedded, listtype, prune, validate};
use crate::error::{FieldError, FieldErrorKind, Path};

/// A schema with what is made of it once: compiled patterns and CEL rules.
#[derive(Clone, Debug)]
pub struct CompiledSchema {
    schema: Arc<Schema>,
    rules: Arc<OnceLock<Rules>>,
}

impl CompiledSchema {
    #[must_use]
    pub fn new(schema: Schema) -> Self {
        Self { schema: Arc::new(schema), rules: Arc::new(OnceLock::new()) }
    }

    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Compiles the rules now instead of at the first object.
    pub fn warm(&self) {
        if self.schema.has_rules {
            self.rules();
        }
    }

    fn rules(&self) -> &Rules {
        self.rules.get_or_init(|| Rules::new(&self.schema, Place::Resource))
    }

    /// Removes unknown fields. Returns their paths, for `fieldValidation`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(object, &self.schema)
    }

    /// Normalises apiVersion, kind and metadata of resources inside the object. Returns the paths of unknown fields that were
    /// dropped. The metadata of the object itself is [`crate::metadata::decode::decode`]'s.
    ///
    /// # Errors
    /// The first that has a wrong type.
    pub fn coerce(&self, object: &mut Value) -> Result<Vec<String>, FieldError> {
        embedded::coerce(object, &self.schema)
    }

    /// Drops nulls that aren't allowed and fills in defaults.
    pub fn default(&self, object: &mut Value) {
        default::default(object, &self.schema);
    }

    /// The errors of a new object, but for its metadata: schema, list types, then rules, which run only on an object that is
    /// otherwise sound.
    #[must_use]
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate::validate(&Path::Root, object, &self.schema);
        errors.extend(embedded::validate(object, &self.schema));
        errors.extend(listtype::validate(object, &self.schema));
        self.add_rules(object, None, &mut errors);
        errors
    }

    /// The errors of an update. What hasn't changed isn't blamed (KEP-4008), nor are list types that were violated before.
    #[must_use]
    pub fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate::validate_update(&Path::Root, object, old, &self.schema);
        errors.extend(embedded::validate(object, &self.schema));
        if listtype::validate(old, &self.schema).is_empty() {
            errors.extend(listtype::validate(object, &self.schema));
        }
        self.add_rules(object, Some(old), &mut errors);
        errors
    }

    /// The errors of an update of `/status`. The schema's checks look at the status alone, with paths relative to it in their
    /// messages; the rules look at the whole object.
    #[must_use]
    pub fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let (Some(status), Some(schema)) = (object.get("status"), self.schema.properties.get("status")) {
            let before = old.get("status").unwrap_or(&Value::Null);
            errors = validate::validate_update(&Path::At("status"), status, before, schema);
        }
        if listtype::validate(old, &self.schema).is_empty() {
            errors.extend(listtype::validate(object, &self.schema));
        }
        self.add_rules(object, Some(old), &mut errors);
        errors
    }

    fn add_rules(&self, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        if !self.schema.has_rules {
            return;
        }
        if errors.iter().any(blocks_rules) {
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                Path::Root,
                Some(Value::Null),
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete \
                 validation",
            ));
            return;
        }
        errors.extend(self.rules().validate(&Path::Root, &self.schema, object, old, Place::Resource));
    }

    /// Prunes, coerces, defaults and validates a new object. Returns the pruned paths and all errors.
    pub fn admit_create(&self, object: &mut Value) -> Admitted {
        self.admit(object, |object| self.validate_create(object))
    }

    /// Prunes, coerces, defaults and validates an update. Returns the pruned paths and all errors.
    pub fn admit_update(&self, object: &mut Value, old: &Value) -> Admitted {
        self.admit(object, |object| self.validate_update(object, old))
    }

    fn admit(&self, object: &mut Value, validate: impl FnOnce(&Value) -> Vec<FieldError>) -> Admitted {
        let mut pruned = self.prune(object);
        match self.coerce(object) {
            Ok(dropped) => pruned.extend(dropped),
            Err(error) => return Admitted { pruned, errors: vec![error] },
        }
        pruned.sort_unstable();
        self.default(object);
        Admitted { pruned, errors: validate(object) }
    }
}

/// What came of admitting an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// The paths of unknown fields, sorted.
    pub pruned: Vec<String>,
    pub errors: Vec<FieldError>,
}

/// After these a rule might see what its types don't allow.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.kind,
        FieldErrorKind::NotSupported
            | FieldErrorKind::Required
            | FieldErrorKind::TooLong
            | FieldErrorKind::TooMany
            | FieldErrorKind::TypeInvalid
    )
}
