//! What `convert` has to say about a file: errors, and warnings where it guessed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::tree::Document;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// Where something stands: file, document (from 1) and line (from 1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) document: Option<usize>,
    pub(crate) line: Option<usize>,
}

impl Place {
    /// Where a document begins.
    pub(crate) fn of(file: &Path, document: &Document) -> Self {
        Self { file: file.to_path_buf(), document: Some(document.number), line: Some(document.root.line) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: Place,
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}: {}", self.place, self.message)
    }
}

/// The findings of one document, with its place filled in.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    file: &'a Path,
    document: usize,
    pub(crate) findings: Vec<Finding>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(file: &'a Path, document: usize) -> Self {
        Self { file, document, findings: Vec::new() }
    }

    pub(crate) fn error(&mut self, line: usize, message: impl Into<String>) {
        self.add(Severity::Error, line, message.into());
    }

    pub(crate) fn warn(&mut self, line: usize, message: impl Into<String>) {
        self.add(Severity::Warning, line, message.into());
    }

    fn add(&mut self, severity: Severity, line: usize, message: String) {
        let place = Place { file: self.file.to_path_buf(), document: Some(self.document), line: Some(line) };
        self.findings.push(Finding { place, severity, message });
    }
}
