//! `pullpiri convert`: published Pullpiri manifests, in all three dialects, become our resources.
//!
//! The dialects differ in packaging more than in content: 2024 is a folder with a `package.yaml` and its parts beside or below it
//! (Models as `Pod`s), 2025 and 2026 are one file of several documents. So there is one path for all: read every file as a tree with
//! lines, learn all names, convert kind by kind, read scalars by our schemas, and check the result as the API server would.
//!
//! A file with an error prints nothing. What was guessed is a warning.

mod kinds;
mod names;
mod report;
mod schemas;
mod sources;
mod text;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use names::{Kind, Names};
use report::{Finding, Place, Reporter, Severity};
use schemas::{SchemaUnreadable, Schemas};
use sources::Source;
use tree::Document;

use crate::out;

/// How strict to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guesses {
    Warn,
    Refuse,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Converted {
    /// One YAML text per resource, in the order of files and documents.
    pub(crate) documents: Vec<String>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) failed: bool,
}

/// Converts files and folders; prints resources on stdout and findings on stderr.
pub(crate) fn run(paths: &[PathBuf], guesses: Guesses) -> Result<bool, ConvertError> {
    let converted = convert(paths, guesses)?;
    for finding in &converted.findings {
        eprintln!("{finding}");
    }
    for document in &converted.documents {
        out::line(&format!("---\n{}", document.trim_end()))
            .map_err(|failure| ConvertError::Print(failure.to_string()))?;
    }
    Ok(!converted.failed)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error(transparent)]
    Schema(#[from] SchemaUnreadable),
    #[error("{0}")]
    Print(String),
}

pub(crate) fn convert(paths: &[PathBuf], guesses: Guesses) -> Result<Converted, ConvertError> {
    let schemas = Schemas::get()?;
    let (sources, mut findings) = sources::read(paths);
    let mut names = Names::default();
    for source in &sources {
        for document in &source.documents {
            if let Ok((kind, dialect, name)) = identity(document) {
                names.add(dialect.scope(source), kind, name);
            }
        }
    }
    let mut printed: BTreeMap<(Kind, String, String), (Value, Place)> = BTreeMap::new();
    let mut documents = Vec::new();
    for source in &sources {
        let mut objects = Vec::new();
        let mut found = Vec::new();
        if source.documents.is_empty() {
            let severity = Severity::Warning;
            found.push(Finding { severity, ..about_file(&source.path, None, "there is no document in it".to_owned()) });
        }
        for document in &source.documents {
            let mut report = Reporter::new(&source.path, document.number);
            if let Some((kind, value)) = convert_document(source, document, &names, schemas, &mut report) {
                objects.push((kind, value, document));
            }
            found.append(&mut report.findings);
        }
        let mut fresh = Vec::new();
        for (kind, value, document) in objects {
            let name = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
            let key = (kind, name("namespace"), name("name"));
            match printed.get(&key) {
                Some((same, _)) if *same == value => {}
                Some((_, first)) => {
                    let mut report = Reporter::new(&source.path, document.number);
                    let message = format!("{} {:?} has other content than the one in {first}", kind.as_str(), key.2);
                    report.error(document.root.line, message);
                    found.append(&mut report.findings);
                }
                None => {
                    printed.insert(key.clone(), (value.clone(), Place::of(&source.path, document)));
                    fresh.push((key, value));
                }
            }
        }
        if guesses == Guesses::Refuse {
            for finding in &mut found {
                finding.severity = Severity::Error;
            }
        }
        if found.iter().any(|finding| finding.severity == Severity::Error) {
            for (key, _) in fresh {
                printed.remove(&key);
            }
        } else {
            for (_, value) in fresh {
                documents.push(yaml(&value));
            }
        }
        findings.append(&mut found);
    }
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(Converted { documents, findings, failed })
}

fn yaml(value: &Value) -> String {
    // A JSON value always has a YAML form; the serializer's error type covers writers that fail.
    serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Whose rules a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// `apiVersion: v1`: names and references are rewritten.
    Published,
    /// `apiVersion: pullpiri.io/v1alpha1`: only checked.
    Ours,
}

impl Dialect {
    fn scope(self, source: &Source) -> Option<&names::Scope> {
        match self {
            Self::Published => source.scope.as_ref(),
            Self::Ours => None,
        }
    }
}

/// As many of a stranger's fields are named.
const KEYS_SAID: usize = 8;

/// What a document is, or the line and the reason why it is nothing that can be converted.
fn identity(document: &Document) -> Result<(Kind, Dialect, &str), (usize, String)> {
    let root = &document.root;
    let line = |key: &str| root.get(key).map_or(root.line, |node| node.line);
    let Some(kind_text) = root.get("kind").and_then(|node| node.as_text()) else {
        let keys: Vec<&str> = root.entries().iter().map(|entry| entry.key.as_str()).collect();
        let found = match keys.len() {
            0 => root.kind_of_node().to_owned(),
            1..=KEYS_SAID => format!("the fields {}", keys.join(", ")),
            count => format!("the fields {} and {} more", keys[..KEYS_SAID].join(", "), count - KEYS_SAID),
        };
        return Err((
            line("kind"),
            format!("not a Pullpiri resource: it has no kind, but {found}; this can't be represented"),
        ));
    };
    let kind = Kind::from_published(kind_text).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
        (line("kind"), format!("kind: {kind_text:?} can't be represented; expected Pod or one of {}", known.join(", ")))
    })?;
    let ours = format!("{}/{}", pullpiri_crds::GROUP, pullpiri_crds::VERSION);
    let dialect = match root.get("apiVersion").and_then(|node| node.as_text()) {
        Some("v1") => Dialect::Published,
        Some(version) if version == ours => Dialect::Ours,
        given => {
            let given = given.map_or("nothing".to_owned(), |text| format!("{text:?}"));
            return Err((line("apiVersion"), format!("apiVersion: given {given}, expected \"v1\" or {ours:?}")));
        }
    };
    let metadata = root.get("metadata");
    let name = metadata.and_then(|metadata| metadata.get("name")).and_then(|node| node.as_text());
    match name {
        Some(name) if pullpiri_crds::names::rfc1123(name).is_some() => Ok((kind, dialect, name)),
        Some(name) => {
            Err((line("metadata"), format!("metadata.name: {name:?} has no letter or digit to make a name of")))
        }
        None => Err((line("metadata"), "metadata.name: expected the resource's name as text, found none".to_owned())),
    }
}

fn convert_document(
    source: &Source,
    document: &Document,
    names: &Names,
    schemas: &Schemas,
    report: &mut Reporter<'_>,
) -> Option<(Kind, Value)> {
    let (kind, dialect, _) = match identity(document) {
        Ok(identity) => identity,
        Err((line, message)) => {
            report.error(line, message);
            return None;
        }
    };
    let object = match dialect {
        Dialect::Published => {
            let context = kinds::Context { names, scope: source.scope.as_ref() };
            kinds::convert(kind, &document.root, &context, report)
        }
        Dialect::Ours => document.root.clone(),
    };
    let schema = schemas.of(kind);
    let value = schemas::to_value(&object, schema, "", report);
    for problem in schemas.check(kind, &value) {
        report.error(sources::line_of(&object, &problem.path), problem.message);
    }
    Some((kind, value))
}

/// A finding about a whole file.
fn about_file(path: &Path, line: Option<usize>, message: String) -> Finding {
    Finding { place: Place { file: path.to_path_buf(), document: None, line }, severity: Severity::Error, message }
}

#[cfg(test)]
mod tests;
