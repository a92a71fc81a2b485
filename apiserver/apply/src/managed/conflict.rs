//! Fields that somebody else owns with another value.

use std::{collections::BTreeMap, fmt};

use super::{entry::Manager, path::Path, set::FieldSet};

/// One field and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Manager,
    pub path: Path,
}

/// Why an apply was refused; never empty. Prints the message of the Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts(Vec<Conflict>);

/// `details.causes[]` of the Status; its reason is [`ConflictCause::REASON`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictCause {
    pub message: String,
    pub field: String,
}

impl ConflictCause {
    pub const REASON: &'static str = "FieldManagerConflict";
}

impl Conflicts {
    /// Conflicts by manager, each one's fields in their order.
    pub(crate) fn of(found: BTreeMap<Manager, FieldSet>) -> Self {
        let mut found: Vec<(Manager, FieldSet)> = found.into_iter().collect();
        found.sort_by_cached_key(|(manager, _)| manager.sort_key());
        Self(
            found
                .into_iter()
                .flat_map(|(manager, set)| {
                    set.paths().into_iter().map(move |path| Conflict { manager: manager.clone(), path })
                })
                .collect(),
        )
    }

    pub fn iter(&self) -> impl Iterator<Item = &Conflict> {
        self.0.iter()
    }

    #[must_use]
    pub fn causes(&self) -> Vec<ConflictCause> {
        self.0
            .iter()
            .map(|conflict| ConflictCause {
                message: format!("conflict with {}", conflict.manager.described()),
                field: conflict.path.to_string(),
            })
            .collect()
    }

    /// The conflicts that aren't in the set, or none.
    pub(crate) fn without(self, allowed: &FieldSet) -> Option<Self> {
        let left: Vec<Conflict> = self.0.into_iter().filter(|conflict| !allowed.has(&conflict.path.0)).collect();
        if left.is_empty() { None } else { Some(Self(left)) }
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return write!(f, "Apply failed with 1 conflict: conflict with {}: {}", one.manager.described(), one.path);
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut last: Option<&Manager> = None;
        for conflict in &self.0 {
            if last != Some(&conflict.manager) {
                let line = if last.is_some() { "\n" } else { "" };
                write!(f, "{line}conflicts with {}:", conflict.manager.described())?;
                last = Some(&conflict.manager);
            }
            write!(f, "\n- {}", conflict.path)?;
        }
        Ok(())
    }
}
