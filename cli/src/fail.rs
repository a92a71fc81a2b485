//! How the binary ends when something is wrong: one sentence with its causes, and a non-zero exit.

use std::error::Error;
use std::fmt;

/// A sentence for the person at the command line.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// `attempted: cause: its cause`.
    pub(crate) fn from_error(attempted: impl fmt::Display, error: &dyn Error) -> Self {
        Self(format!("{attempted}: {}", chain(error)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error with its causes, each said once: many errors repeat their source's text.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
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
    fn causes_are_said_once() {
        let error = Outer("x", std::io::Error::other("no such thing"));
        assert_eq!(Failure::from(error).to_string(), "opening x: no such thing");
        let plain = std::io::Error::other("once");
        assert_eq!(Failure::from_error("trying", &plain).to_string(), "trying: once");
    }
}
