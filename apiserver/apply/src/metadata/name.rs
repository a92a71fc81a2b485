//! What a name, a label, an annotation key or a finalizer may look like. Every check returns the complaints of
//! `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validate/content` (1.37), none when all is well.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";

const MAX_SUBDOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

fn by_pattern(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn too_long_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn fits_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => lower(*first) && lower(*last) && bytes.iter().all(|b| lower(*b) || *b == b'-'),
        _ => false,
    }
}

fn fits_subdomain(text: &str) -> bool {
    text.split('.').all(fits_label)
}

fn subdomain(text: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > MAX_SUBDOMAIN {
        complaints.push(too_long(MAX_SUBDOMAIN));
    }
    if !fits_subdomain(text) {
        complaints.push(by_pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
             and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    complaints
}

/// A DNS subdomain (RFC 1123): up to 253 characters, labels separated by dots.
#[must_use]
pub fn dns_subdomain(text: &str) -> Vec<String> {
    subdomain(text, too_long_characters)
}

/// A DNS label (RFC 1123): up to 63 characters, no dots.
#[must_use]
pub fn dns_label(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > MAX_LABEL {
        complaints.push(too_long_characters(MAX_LABEL));
    }
    if !fits_label(text) {
        complaints.push(if fits_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            by_pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                 with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    complaints
}

/// A DNS label that begins with a letter (RFC 1035), as names of Services and kinds do.
#[must_use]
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > MAX_LABEL {
        complaints.push(too_long_characters(MAX_LABEL));
    }
    if !(fits_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())) {
        complaints.push(by_pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
             and end with an alphanumeric character",
            DNS_1035,
            &["my-name", "abc-123"],
        ));
    }
    complaints
}

/// Anything that can be one segment of a URL path.
#[must_use]
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => path_segment_prefix(text),
    }
}

/// The beginning of a path segment.
#[must_use]
pub fn path_segment_prefix(text: &str) -> Vec<String> {
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

fn fits_label_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// A qualified name: `name` or `prefix/name`, as label keys, annotation keys and finalizers are.
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let pattern = || {
        by_pattern(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            LABEL_KEY,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut complaints = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints.extend(subdomain(prefix, too_long).into_iter().map(|c| format!("prefix part {c}")));
            }
            name
        }
        _ => {
            let with_prefix = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {with_prefix}", pattern())];
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL {
        complaints.push(format!("name part {}", too_long(MAX_LABEL)));
    }
    if !fits_label_key(name) {
        complaints.push(format!("name part {}", pattern()));
    }
    complaints
}

/// The value of a label: empty, or up to 63 characters.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > MAX_LABEL {
        complaints.push(too_long(MAX_LABEL));
    }
    if !text.is_empty() && !fits_label_key(text) {
        complaints.push(by_pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
             end with an alphanumeric character",
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    complaints
}

/// A key of a ConfigMap or Secret: it becomes a file name.
#[must_use]
pub fn config_key(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > MAX_SUBDOMAIN {
        complaints.push(too_long_characters(MAX_SUBDOMAIN));
    }
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !fits {
        complaints.push(by_pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            CONFIG_KEY,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => complaints.push("must not be '.'".to_owned()),
        ".." => complaints.push("must not be '..'".to_owned()),
        text if text.starts_with("..") => complaints.push("must not start with '..'".to_owned()),
        _ => {}
    }
    complaints
}

/// What a kind asks of the names of its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameFormat {
    /// Most kinds, custom resources among them.
    #[default]
    Subdomain,
    /// Namespaces.
    Label,
    /// Services.
    Dns1035Label,
    /// RBAC kinds, which allow `system:node`.
    PathSegment,
}

impl NameFormat {
    /// Complaints about a whole name.
    #[must_use]
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => dns_subdomain(name),
            Self::Label => dns_label(name),
            Self::Dns1035Label => dns_1035_label(name),
            Self::PathSegment => path_segment(name),
        }
    }

    /// Complaints about a `generateName`, which may end in a dash.
    #[must_use]
    pub fn check_prefix(self, prefix: &str) -> Vec<String> {
        if self == Self::PathSegment {
            return path_segment_prefix(prefix);
        }
        // As in Kubernetes, the dash and what is before it give way to a letter.
        match prefix.strip_suffix('-') {
            Some(rest) if !rest.is_empty() => {
                let mut masked = rest.to_owned();
                masked.pop();
                masked.push('a');
                self.check(&masked)
            }
            _ => self.check(prefix),
        }
    }
}
