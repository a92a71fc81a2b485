//! A YAML document as a tree that remembers where everything stood and how scalars were written.
//!
//! Decoding into values would lose what `convert` needs: the line of a field for its messages, and the text of a plain scalar
//! (`1.10` is a version, not 1.1) where a string belongs. Lines count from 1.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};

/// The deepest nesting that is read; published manifests need 8.
const MAX_DEPTH: usize = 64;
/// The most nodes that one file may have, aliases expanded, so that an alias bomb ends in an error.
const MAX_NODES: usize = 200_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// `plain`: written without quotes, so that `null`, `true` and `3` mean more than text.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn text(line: usize, text: impl Into<String>) -> Self {
        Self { line, content: Content::Scalar { text: text.into(), plain: false } }
    }

    pub(crate) fn map(line: usize, entries: Vec<Entry>) -> Self {
        Self { line, content: Content::Map(entries) }
    }

    /// YAML's null: nothing, `~` or `null`, unquoted.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if ["", "~", "null", "Null", "NULL"].contains(&text.as_str()))
    }

    /// The text of a scalar that isn't null.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match &mut self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Node] {
        match &mut self.content {
            Content::List(items) => items,
            _ => &mut [],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries_mut()?.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
    }

    /// Sets `key`, keeping its place if it is there.
    pub(crate) fn set(&mut self, key: &str, value: Node) {
        let line = value.line;
        if let Some(entries) = self.entries_mut() {
            match entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => entry.value = value,
                None => entries.push(Entry { key: key.to_owned(), line, value }),
            }
        }
    }

    /// What it is without what it holds: it may be any file's text.
    pub(crate) fn kind_of_node(&self) -> &'static str {
        match &self.content {
            _ if self.is_null() => "null",
            Content::Scalar { .. } => "text without fields",
            Content::List(_) => "a list",
            Content::Map(_) => "a map without fields",
        }
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            _ if self.is_null() => "null".to_owned(),
            Content::Scalar { text, .. } => format!("{text:?}"),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a map".to_owned(),
        }
    }
}

/// One document of a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Counts from 1; empty documents count too.
    pub(crate) number: usize,
    pub(crate) root: Node,
}

/// Why a file isn't YAML.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("line {line}: {message}")]
pub(crate) struct TreeError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// The documents of a file, without empty ones.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>, TreeError> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| TreeError {
            line: error.marker().line(),
            message: format!("not valid YAML: {}", error.info()),
        })?;
        builder.take(event, span.start.line())?;
    }
    Ok(builder.documents)
}

enum Open {
    List { line: usize, anchor: usize, items: Vec<Node> },
    Map { line: usize, anchor: usize, entries: Vec<Entry>, key: Option<(String, usize)> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: std::collections::BTreeMap<usize, Node>,
    documents: Vec<Document>,
    root: Option<Node>,
    number: usize,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), TreeError> {
        match event {
            Event::DocumentStart(..) => {
                self.number += 1;
                self.anchors.clear();
            }
            Event::DocumentEnd => {
                if let Some(root) = self.root.take().filter(|root| !root.is_null()) {
                    self.documents.push(Document { number: self.number, root });
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = matches!(style, ScalarStyle::Plain) && tag.is_none();
                let node = Node { line, content: Content::Scalar { text: text.into_owned(), plain } };
                self.finish(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.push(Open::List { line, anchor, items: Vec::new() })?,
            Event::MappingStart(_, anchor, _) => {
                self.push(Open::Map { line, anchor, entries: Vec::new(), key: None })?
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, anchor, items }) => {
                    self.finish(Node { line, content: Content::List(items) }, anchor)?;
                }
                Some(Open::Map { line, anchor, entries, .. }) => self.finish(Node::map(line, entries), anchor)?,
                None => {}
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| TreeError {
                    line,
                    message: "an alias of something that isn't complete yet".to_owned(),
                })?;
                self.nodes = self.nodes.saturating_add(count(&node));
                self.finish(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, open: Open) -> Result<(), TreeError> {
        if self.open.len() >= MAX_DEPTH {
            let (Open::List { line, .. } | Open::Map { line, .. }) = open;
            return Err(TreeError { line, message: format!("nested more than {MAX_DEPTH} deep") });
        }
        self.open.push(open);
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), TreeError> {
        let line = node.line;
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Err(TreeError { line, message: format!("more than {MAX_NODES} values in one file") });
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => {
                    let Content::Scalar { text, .. } = node.content else {
                        return Err(TreeError { line, message: "a key that isn't text".to_owned() });
                    };
                    if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                        let message = format!("duplicate key {text:?}; the first is on line {}", first.line);
                        return Err(TreeError { line, message });
                    }
                    *key = Some((text, line));
                }
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    let below: usize = match &node.content {
        Content::Scalar { .. } => 0,
        Content::List(items) => items.iter().map(count).sum(),
        Content::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
    };
    below.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_spelling_are_kept() {
        let documents =
            parse("---\n# nothing\n---\nversion: 1.10\nquoted: \"null\"\ntext: |\n  a\n  ---\n  b\nempty:\n").unwrap();
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].number, 2);
        let root = &documents[0].root;
        assert_eq!(root.get("version").unwrap().as_text(), Some("1.10"));
        assert_eq!(root.get("quoted").unwrap().as_text(), Some("null"));
        assert_eq!(root.get("text").unwrap().as_text(), Some("a\n---\nb\n"));
        assert!(root.get("empty").unwrap().is_null());
        assert_eq!(root.entries()[1].line, 5);
    }

    #[test]
    fn duplicate_keys_and_bombs_are_errors() {
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().line, 2);
        assert!(parse("a: [1, 2").is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{below}x]\n"));
        }
        assert!(parse(&bomb).unwrap_err().message.contains("more than"));
    }

    #[test]
    fn aliases_are_expanded() {
        let documents = parse("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(documents[0].root.get("c").unwrap().get("b").unwrap().as_text(), Some("1"));
    }
}
