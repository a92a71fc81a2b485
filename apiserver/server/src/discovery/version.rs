//! The order of versions, as clients expect it: GA before beta before alpha, higher before lower, and anything that isn't a
//! Kubernetes version after all of them, alphabetically (`k8s.io/apimachinery/pkg/version`).

use std::cmp::Ordering;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stability {
    Alpha,
    Beta,
    General,
}

/// `v2beta1` as (beta, 2, 1).
fn parse(version: &str) -> Option<(Stability, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = |text: &str| {
        (!text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    for (word, stability) in [("alpha", Stability::Alpha), ("beta", Stability::Beta)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, digits(major)?, digits(minor)?));
        }
    }
    Some((Stability::General, digits(rest)?, 0))
}

/// Orders the version that clients should prefer first.
#[must_use]
pub fn by_preference(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_order() {
        let expected = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
            "v",
            "v1x",
        ];
        let mut versions = expected;
        versions.reverse();
        versions.sort_by(|a, b| by_preference(a, b));
        assert_eq!(versions, expected);
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_total_order(mut versions in proptest::collection::vec("v?[0-9]{0,2}(alpha|beta)?[0-9]{0,2}", 0..8)) {
            versions.sort_by(|a, b| by_preference(a, b));
            for pair in versions.windows(2) {
                proptest::prop_assert_ne!(by_preference(&pair[0], &pair[1]), Ordering::Greater);
            }
        }
    }
}
