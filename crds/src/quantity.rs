//! Quantity: an amount as Kubernetes writes it (`500m`, `64Mi`, `3`), kept as text.
//!
//! Not k8s-openapi's type, whose schema and decoder refuse the plain integers that people write (`cpu: 3`). The grammar is that of
//! `k8s.io/apimachinery/pkg/api/resource`, and the one reader of it is the crate `pullpiri-quantity`.

use std::borrow::Cow;
use std::fmt;

pub use pullpiri_quantity::{Amount, QuantityError, millis, units};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The grammar of a quantity that isn't negative.
const PATTERN: &str = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$";

#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity as text or an integer")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // Of text…
            "pattern": PATTERN,
            "maxLength": 64,
            // …and of integers.
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_integers_are_read() {
        let from = |json: &str| serde_json::from_str::<Quantity>(json).map(|quantity| quantity.0);
        assert_eq!(from("\"500m\"").unwrap(), "500m");
        assert_eq!(from("3").unwrap(), "3");
        assert!(from("0.5").is_err());
        assert!(from("true").is_err());
    }
}
