//! Image references: `blis:1.0` is `docker.io/library/blis:1.0`, as every container tool reads it.
//!
//! Grammar: `[registry/]path[:tag][@sha256:digest]`. The first component is a registry if it has a dot or a colon or is `localhost`.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Registry and path.
    pub name: String,
    /// `None` only beside a digest.
    pub tag: Option<String>,
    /// Of the manifest.
    pub digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no image reference: {problem}; expected [registry/]name[:tag][@sha256:digest]")]
pub struct ReferenceError {
    pub given: String,
    pub problem: String,
}

impl Reference {
    /// As it is listed: without the digest if there is a tag.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(given: &str) -> Result<Self, ReferenceError> {
        let error = |problem: &str| ReferenceError { given: given.to_owned(), problem: problem.to_owned() };
        let (rest, digest) = match given.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse::<Digest>().map_err(|e| error(&e.to_string()))?;
                (rest, Some(digest))
            }
            None => (given, None),
        };
        // A colon after the last slash starts the tag; one before is a registry's port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let mut chars = tag.chars();
            let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            if !first || tag.len() > 128 || !chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
                return Err(error("the tag is not made of letters, digits, '_', '.' and '-'"));
            }
        }
        let mut parts: Vec<&str> = path.split('/').collect();
        let first = parts.first().copied().unwrap_or_default();
        let has_registry = parts.len() > 1 && (first.contains('.') || first.contains(':') || first == "localhost");
        let registry = if has_registry { parts.remove(0) } else { DEFAULT_REGISTRY };
        if !registry.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')) {
            return Err(error("the registry is not a host name with an optional port"));
        }
        for part in &parts {
            let ok = part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric());
            if !ok {
                return Err(error(
                    "the name is not made of lower-case letters and digits, with '.', '_' or '-' between",
                ));
            }
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let library = if registry == DEFAULT_REGISTRY && parts.len() == 1 { "library/" } else { "" };
        let name = format!("{registry}/{library}{}", parts.join("/"));
        if name.len() > 255 {
            return Err(error("the name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { name, tag, digest })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_normalised() {
        let hex = "a".repeat(64);
        for (given, normal) in [
            ("blis:1.0", "docker.io/library/blis:1.0".to_owned()),
            ("blis", "docker.io/library/blis:latest".to_owned()),
            ("localhost/blis:1.0", "localhost/blis:1.0".to_owned()),
            ("localhost:5000/blis", "localhost:5000/blis:latest".to_owned()),
            ("example/blis:1", "docker.io/example/blis:1".to_owned()),
            ("ghcr.io/a/b/c:v1.2-rc_1", "ghcr.io/a/b/c:v1.2-rc_1".to_owned()),
            ("index.docker.io/library/x", "docker.io/library/x:latest".to_owned()),
            (&format!("blis@sha256:{hex}"), format!("docker.io/library/blis@sha256:{hex}")),
            (&format!("blis:1@sha256:{hex}"), format!("docker.io/library/blis:1@sha256:{hex}")),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), normal, "{given}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for given in
            ["", ":1", "a:", "A/b", "a//b", "a/../b", "-a", "a b", "a:b c", "x@sha256:12", "x@md5:aa", "a:..", "é"]
        {
            let error = given.parse::<Reference>().unwrap_err();
            assert!(error.to_string().contains("expected"), "{given}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "[a-zA-Z0-9./:@_-]{0,60}") {
            if let Ok(once) = text.parse::<Reference>() {
                prop_assert_eq!(once.to_string().parse::<Reference>().unwrap(), once);
            }
        }
    }
}
