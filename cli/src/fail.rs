//! How the binary ends when something is wrong: one sentence with its causes, and a non-zero exit.

use std::error::Error;
use std::fmt;

use kube::config::{InferConfigError, KubeconfigError};

/// A sentence for the person at the command line.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// `attempted: cause: its cause`.
    pub(crate) fn from_error(attempted: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self(format!("{attempted}: {}", chain(error)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error with its causes on one line, each said once: many errors repeat their source's text.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = sentence(error);
    let mut last = error;
    while let Some(cause) = last.source().filter(|_| !is_whole(last)) {
        let message = sentence(cause);
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        last = cause;
    }
    text
}

/// Whether [`sentence`] says all there is: the cause of what an API server answers is the answer again, as it was sent.
fn is_whole(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(_)))
        || matches!(error.downcast_ref(), Some(KubeconfigError::Parse(_)))
        || error.is::<InferConfigError>()
}

/// What one error says: of an API server's answer its message alone, of a file that can't be parsed where and why, without what is in it.
fn sentence(error: &(dyn Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref() {
        return match (status.message.is_empty(), status.reason.is_empty()) {
            (false, _) => status.message.clone(),
            (true, false) => format!("the API server answered {}: {}", status.code, status.reason),
            (true, true) => format!("the API server answered {}", status.code),
        };
    }
    if let (true, Some(kubeconfig)) = (error.is::<InferConfigError>(), error.source()) {
        // Its text has that of its cause, which may hold a file.
        let text = error.to_string();
        let (in_cluster, _) = text.split_once(", kubeconfig: (").unwrap_or_default();
        return format!("{in_cluster}, kubeconfig: ({})", chain(kubeconfig));
    }
    if let Some(KubeconfigError::Parse(error)) = error.downcast_ref() {
        return format!("it is no kubeconfig: {}", first_line(&error.without_snippet().to_string()));
    }
    if let Some(error) = error.downcast_ref::<serde_saphyr::Error>() {
        return first_line(&error.without_snippet().to_string()).to_owned();
    }
    error.to_string()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("opening {0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn of_an_api_error_its_message_is_said() {
        let status = |message: &str| {
            let text = format!(r#"{{"status":"Failure","message":"{message}","reason":"Invalid","code":422}}"#);
            kube::Error::Api(serde_json::from_str(&text).unwrap())
        };
        let said = "topic must match";
        assert_eq!(Failure::from_error("signal x", &status(said)).to_string(), "signal x: topic must match");
        assert_eq!(Failure::from(status("")).to_string(), "the API server answered 422: Invalid");
    }

    #[test]
    fn what_a_file_holds_is_not_said() {
        let text = "root:x:0:0:secret\nother:secret\n";
        let error = kube::config::Kubeconfig::from_yaml(text).unwrap_err();
        let said = Failure::from_error("reading f", &error).to_string();
        assert!(said.contains("it is no kubeconfig: ") && !said.contains("secret") && !said.contains('\n'), "{said}");
        let error = serde_saphyr::from_str::<std::collections::BTreeMap<String, String>>(text).unwrap_err();
        let said = Failure::from(error).to_string();
        assert!(!said.contains("secret") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn causes_are_said_once() {
        let error = Outer("x", std::io::Error::other("no such thing"));
        assert_eq!(Failure::from(error).to_string(), "opening x: no such thing");
        let plain = std::io::Error::other("once");
        assert_eq!(Failure::from_error("trying", &plain).to_string(), "trying: once");
    }
}
