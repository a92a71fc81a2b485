//! Results on stdout. A reader that has had enough (`| head`) is no failure.

use std::io::{ErrorKind, Write};

use crate::fail::Failure;

/// Prints one line (or several) and a line end.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::from_error("writing to stdout", &error)),
        _ => Ok(()),
    }
}
