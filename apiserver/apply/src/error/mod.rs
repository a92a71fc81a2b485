//! Field errors: where, what was given, what was expected. Texts are those of `k8s.io/apimachinery/pkg/util/validation/field`.

mod path;
pub mod print;

use std::fmt;

use serde_json::Value;

pub use path::Path;

/// The kind of a field error, with its `reason` in a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    TypeInvalid,
    NotFound,
    Internal,
}

impl FieldErrorKind {
    /// `causes[].reason` of a `Status`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    /// The kind that a `reason` names, as `x-kubernetes-validations[].reason` does.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        Some(match reason {
            "FieldValueRequired" => Self::Required,
            "FieldValueInvalid" => Self::Invalid,
            "FieldValueForbidden" => Self::Forbidden,
            "FieldValueDuplicate" => Self::Duplicate,
            _ => return None,
        })
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One problem with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    /// `spec.models[0].name`; `<nil>` for the root.
    pub path: String,
    /// What was given; not printed for Required, Forbidden, TooLong, TooShort and Internal.
    pub value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    #[must_use]
    pub fn new(kind: FieldErrorKind, path: impl Into<String>, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.into(), value, detail: detail.into() }
    }

    #[must_use]
    pub fn required(path: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path.to_string(), None, detail)
    }

    #[must_use]
    pub fn invalid(path: impl fmt::Display, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path.to_string(), Some(value.into()), detail)
    }

    #[must_use]
    pub fn forbidden(path: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path.to_string(), None, detail)
    }

    #[must_use]
    pub fn duplicate(path: impl fmt::Display, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path.to_string(), Some(value.into()), "")
    }

    /// `supported` is printed as given: sort it where the caller's set has no order of its own.
    #[must_use]
    pub fn not_supported<S: AsRef<str>>(path: impl fmt::Display, value: impl Into<Value>, supported: &[S]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|text| print::quote(text.as_ref())).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path.to_string(), Some(value.into()), detail)
    }

    #[must_use]
    pub fn too_long(path: impl fmt::Display, max_bytes: u64) -> Self {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max_bytes} {unit}");
        Self::new(FieldErrorKind::TooLong, path.to_string(), None, detail)
    }

    #[must_use]
    pub fn too_many(path: impl fmt::Display, actual: u64, max: u64) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Self::new(FieldErrorKind::TooMany, path.to_string(), Some(actual.into()), detail)
    }

    /// The message without the path, as `causes[].message` has it.
    #[must_use]
    pub fn body(&self) -> String {
        let shown = match (self.kind, &self.value) {
            (
                FieldErrorKind::Required
                | FieldErrorKind::Forbidden
                | FieldErrorKind::TooLong
                | FieldErrorKind::TooShort
                | FieldErrorKind::Internal,
                _,
            )
            | (_, None) => self.kind.text().to_owned(),
            (_, Some(value)) => format!("{}: {}", self.kind.text(), print::bad_value(value)),
        };
        if self.detail.is_empty() { shown } else { format!("{shown}: {}", self.detail) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Joins errors as `field.ErrorList.ToAggregate` does: one alone, several as `[a, b]`, and a text that repeats only once.
#[must_use]
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
