//! Where a field stands: a chain on the stack that becomes text only when there is something to say about it.

use std::fmt;

/// One step of a path and, by reference, the steps before it.
///
/// Printed as `k8s.io/apimachinery`'s `field.Path`: `spec.models[0].labels[app]`, and `<nil>` when there is no step at all.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    Root,
    /// A path that is text already.
    At(&'a str),
    /// A declared field: `.name`.
    Child(&'a Path<'a>, &'a str),
    /// A key of a map: `[key]`.
    Key(&'a Path<'a>, &'a str),
    /// An element of a list: `[0]`.
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    #[must_use]
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path::Child(self, name)
    }

    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    #[must_use]
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    fn write(&self, out: &mut String) {
        use fmt::Write;
        match self {
            Path::Root => {}
            Path::At(text) => out.push_str(text),
            Path::Child(parent, name) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Path::Key(parent, key) => {
                parent.write(out);
                // Writing to a String can't fail.
                let _ = write!(out, "[{key}]");
            }
            Path::Index(parent, index) => {
                parent.write(out);
                let _ = write!(out, "[{index}]");
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(if text.is_empty() { "<nil>" } else { &text })
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> Self {
        path.to_string()
    }
}
