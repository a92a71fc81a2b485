//! The files of a call, in a stable order, with the scope each belongs to.

use std::path::{Path, PathBuf};

use pullpiri_crds::names::rfc1123;

use super::about_file;
use super::names::Scope;
use super::report::Finding;
use super::text;
use super::tree::{self, Document, Node};

/// The file that makes its folder a scope.
const SCOPE_FILE: &str = "package.yaml";

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) scope: Option<Scope>,
    pub(crate) documents: Vec<Document>,
}

/// Reads files, and the `*.yaml` and `*.yml` files of folders and of what is below them.
pub(crate) fn read(paths: &[PathBuf]) -> (Vec<Source>, Vec<Finding>) {
    let mut files = Vec::new();
    let mut findings = Vec::new();
    for path in paths {
        if !collect(path, &mut files, &mut findings) {
            findings.push(about_file(path, None, "no *.yaml or *.yml file in this folder".to_owned()));
        }
    }
    let mut sources = Vec::new();
    for path in files {
        let text = match text::read(&path) {
            Ok(text) => text,
            Err(error) => {
                findings.push(about_file(&path, None, format!("reading it: {error}")));
                continue;
            }
        };
        match tree::parse(&text) {
            Ok(documents) => sources.push(Source { scope: scope_of(&path), path, documents }),
            Err(error) => findings.push(about_file(&path, Some(error.line), error.message)),
        }
    }
    (sources, findings)
}

/// Whether there was anything to read, or to tell.
fn collect(path: &Path, files: &mut Vec<PathBuf>, findings: &mut Vec<Finding>) -> bool {
    if !path.is_dir() {
        if !files.iter().any(|known| known == path) {
            files.push(path.to_path_buf());
        }
        return true;
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut below: Vec<PathBuf> = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) => {
            findings.push(about_file(path, None, format!("reading the folder: {error}")));
            return true;
        }
    };
    below.sort();
    let mut found = false;
    for path in below {
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A link to a folder could lead back here.
        let is_folder = path.is_dir() && !path.is_symlink();
        // Of version control and editors.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if (is_folder && !is_hidden) || (is_yaml && !path.is_dir()) {
            found |= collect(&path, files, findings);
        }
    }
    found
}

/// The nearest folder above the file that holds a `package.yaml`: beside it, or one or two folders up, which is as deep as the 2024 layout goes.
fn scope_of(path: &Path) -> Option<Scope> {
    path.ancestors().skip(1).take(3).find_map(|folder| {
        let text = text::read(&folder.join(SCOPE_FILE)).ok()?;
        let documents = tree::parse(&text).ok()?;
        let package = documents.iter().map(|document| &document.root).find(|root| is_package(root))?;
        let name = package.get("metadata")?.get("name")?.as_text()?;
        Some(Scope { folder: folder.to_path_buf(), package: rfc1123(name)? })
    })
}

fn is_package(root: &Node) -> bool {
    root.get("kind").and_then(Node::as_text) == Some("Package")
}

/// The line of the field at `path` (`spec.models[0].name`), or of the nearest thing around it.
pub(crate) fn line_of(root: &Node, path: &str) -> usize {
    let mut node = root;
    let mut line = root.line;
    for step in path.split(['.', '[']) {
        let index = step.strip_suffix(']').map(|index| index.trim_matches('"'));
        let below = match (index, index.and_then(|index| index.parse::<usize>().ok())) {
            (_, Some(at)) => node.items().get(at).map(|item| (item.line, item)),
            (key, None) => {
                let key = key.unwrap_or(step);
                node.entries().iter().find(|entry| entry.key == key).map(|entry| (entry.line, &entry.value))
            }
        };
        let Some((found, value)) = below else { break };
        line = found;
        node = value;
    }
    line
}
