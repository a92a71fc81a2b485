//! Published names and references, and the names that they get here.
//!
//! A folder with a `package.yaml` is a scope: two published packages use one name for different things, so its Models, Networks and
//! Volumes get the package's name as prefix. References are looked up in their own scope first, then among everything that
//! belongs to no scope; those to kinds without prefix then in all other scopes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pullpiri_crds::names::{MAX_SUBDOMAIN, rfc1123, rfc1123_uncut};

/// The kinds that are converted, by the name of our kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Scenario,
    Package,
    Model,
    Volume,
    Network,
    Schedule,
    Policy,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Scenario, Self::Package, Self::Model, Self::Volume, Self::Network, Self::Schedule, Self::Policy];

    /// Our kind for a published one.
    pub(crate) fn from_published(kind: &str) -> Option<Self> {
        match kind {
            "Pod" => Some(Self::Model),
            other => Self::ALL.into_iter().find(|ours| ours.as_str() == other),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Scenario => "Scenario",
            Self::Package => "Package",
            Self::Model => "Model",
            Self::Volume => "Volume",
            Self::Network => "Network",
            Self::Schedule => "Schedule",
            Self::Policy => "Policy",
        }
    }

    /// Whether its objects get the prefix of their scope.
    pub(crate) const fn is_scoped(self) -> bool {
        matches!(self, Self::Model | Self::Volume | Self::Network)
    }
}

/// The scope of a file: the folder of its `package.yaml` and the package's name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) folder: PathBuf,
    /// Already in RFC 1123 form.
    pub(crate) package: String,
}

/// What a published reference turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    Exact(String),
    /// No object has the name; this one was meant, as its spelling is the only close one.
    Close {
        published: String,
        name: String,
    },
    Unknown(String),
}

/// All names of one call.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// (scope, kind) → published name → name here.
    known: BTreeMap<(Option<Scope>, Kind), BTreeMap<String, String>>,
}

impl Names {
    pub(crate) fn add(&mut self, scope: Option<&Scope>, kind: Kind, published: &str) {
        if let Some(name) = name_here(scope, kind, published) {
            self.known.entry((scope.cloned(), kind)).or_default().insert(published.to_owned(), name);
        }
    }

    /// `None` if nothing of the reference is left as a name.
    pub(crate) fn resolve(&self, scope: Option<&Scope>, kind: Kind, published: &str) -> Option<Resolved> {
        let mut tables: Vec<_> =
            [scope.cloned(), None].into_iter().filter_map(|key| self.known.get(&(key, kind))).collect();
        if !kind.is_scoped() {
            tables.extend(self.known.iter().filter(|((_, other), _)| *other == kind).map(|(_, table)| table));
        }
        if let Some(name) = tables.iter().find_map(|table| table.get(published)) {
            return Some(Resolved::Exact(name.clone()));
        }
        // The same name in another spelling (`HPC` and `hpc`) is no guess.
        let wanted = rfc1123(published)?;
        for table in &tables {
            if let Some(name) =
                table.iter().find(|(key, _)| rfc1123(key).as_deref() == Some(&wanted)).map(|(_, name)| name)
            {
                return Some(Resolved::Exact(name.clone()));
            }
        }
        for table in &tables {
            let mut close = table.iter().filter(|(key, _)| misspelt(published, key));
            if let (Some((published, name)), None) = (close.next(), close.next()) {
                return Some(Resolved::Close { published: published.clone(), name: name.clone() });
            }
        }
        name_here(scope, kind, published).map(Resolved::Unknown)
    }
}

/// The name that a published one gets here.
pub(crate) fn name_here(scope: Option<&Scope>, kind: Kind, published: &str) -> Option<String> {
    let name = rfc1123(published)?;
    match scope {
        Some(scope) if kind.is_scoped() => rfc1123(&format!("{}-{name}", scope.package)),
        _ => Some(name),
    }
}

/// How long the name that a published one gets here would be, if that is longer than a name may be: [`name_here`] cuts it.
pub(crate) fn length_before_cut(scope: Option<&Scope>, kind: Kind, published: &str) -> Option<usize> {
    let prefix = scope.filter(|_| kind.is_scoped()).map_or(0, |scope| scope.package.len().saturating_add(1));
    let length = rfc1123_uncut(published)?.len().saturating_add(prefix);
    (length > MAX_SUBDOMAIN).then_some(length)
}

/// Whether one is the other with a typing mistake: one letter missing, doubled, wrong or swapped with its neighbour. Names under six
/// letters are too short to guess, and names that differ in a digit (`zone-1`, `zone-2`) are different names.
fn misspelt(a: &str, b: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    a.len().min(b.len()) >= 6 && digits(a) == digits(b) && distance(a, b) <= 1
}

/// The optimal string alignment distance (insert, delete, replace, swap neighbours).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(left != right)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *right && b[j - 1] == *left {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_in_their_scope() {
        let scope = Scope { folder: "a".into(), package: "antipinch-enable".into() };
        let mut names = Names::default();
        names.add(Some(&scope), Kind::Network, "antipinch-netowrk");
        names.add(Some(&scope), Kind::Model, "antipinch-core");
        names.add(None, Kind::Policy, "policy_helloworld");
        assert_eq!(
            names.resolve(Some(&scope), Kind::Network, "antipinch-network"),
            Some(Resolved::Close {
                published: "antipinch-netowrk".into(),
                name: "antipinch-enable-antipinch-netowrk".into()
            })
        );
        assert_eq!(
            names.resolve(Some(&scope), Kind::Model, "antipinch-core"),
            Some(Resolved::Exact("antipinch-enable-antipinch-core".into()))
        );
        assert_eq!(
            names.resolve(None, Kind::Policy, "Policy_HelloWorld"),
            Some(Resolved::Exact("policy-helloworld".into()))
        );
        assert_eq!(names.resolve(None, Kind::Volume, "x_y"), Some(Resolved::Unknown("x-y".into())));
        assert_eq!(names.resolve(None, Kind::Volume, "__"), None);
    }

    #[test]
    fn what_has_no_prefix_is_found_in_other_scopes() {
        let scope = |package: &str| Scope { folder: package.into(), package: package.to_owned() };
        let (first, second) = (scope("one"), scope("two"));
        let mut names = Names::default();
        names.add(Some(&first), Kind::Package, "One");
        names.add(Some(&first), Kind::Model, "core");
        names.add(Some(&second), Kind::Package, "two");
        assert_eq!(names.resolve(Some(&second), Kind::Package, "One"), Some(Resolved::Exact("one".into())));
        assert_eq!(names.resolve(None, Kind::Package, "two"), Some(Resolved::Exact("two".into())));
        assert_eq!(names.resolve(Some(&second), Kind::Model, "core"), Some(Resolved::Unknown("two-core".into())));
    }

    #[test]
    fn only_typing_mistakes_are_guessed() {
        assert!(misspelt("bms-network", "bms-netowrk"));
        assert!(misspelt("bms-volume", "bms-volumes"));
        assert!(!misspelt("zone-1", "zone-2"));
        assert!(!misspelt("blis", "bliss"));
        assert!(!misspelt("bms-algorithm", "bms-allegro"));
    }
}
