//! Names and paths inside a tree: bytes, checked once, trusted afterwards.

use std::cmp::Ordering;
use std::fmt;

use smallvec::SmallVec;

use crate::limits::{MAX_NAME_BYTES, MAX_PATH_BYTES};

/// Why bytes are not a name or a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A component without any byte, as in `a//b`, a leading or a trailing slash.
    #[error("a path component is empty")]
    Empty,
    /// `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
    /// A slash in a name, or a NUL anywhere.
    #[error("a name holds a slash or a NUL byte")]
    Byte,
    /// A component of more than [`MAX_NAME_BYTES`].
    #[error("a name has more than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// A path of more than [`MAX_PATH_BYTES`].
    #[error("a path has more than {MAX_PATH_BYTES} bytes")]
    PathTooLong,
}

/// The name of one entry in a directory: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
///
/// Names are bytes as in Linux, not text. They order bytewise. Short ones, as most are, take no memory of
/// their own: a million files have a million.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmallVec<[u8; 16]>);

impl Name {
    /// Checks `bytes` and keeps a copy of them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        check_component(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path from the root of a tree, without a leading slash; the root itself is the empty path.
///
/// Paths order by component, so that a directory comes right before everything below it:
/// `a`, `a/b`, `a.txt`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks `bytes` and keeps a copy of them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > MAX_PATH_BYTES {
            return Err(NameError::PathTooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|&b| b == b'/').try_for_each(check_component)?;
        }
        Ok(Self(bytes.into()))
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &Name) -> Result<Self, NameError> {
        if self.is_root() {
            return Ok(Self(name.as_bytes().into()));
        }
        let path = [&self.0, &b"/"[..], &name.0].concat();
        if path.len() > MAX_PATH_BYTES {
            return Err(NameError::PathTooLong);
        }
        Ok(Self(path.into()))
    }

    /// The directory that holds this path and its name there; `None` for the root.
    pub fn split(&self) -> Option<(TreePath, Name)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&self.0[..0], &self.0[..]),
        };
        Some((TreePath(parent.into()), Name(name.into())))
    }

    /// The components from the root downwards.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash orders below every other byte, so that it ends a component.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// With a leading slash and non-ASCII bytes escaped, as errors and listings show it.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn check_component(bytes: &[u8]) -> Result<(), NameError> {
    match bytes {
        [] => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if bytes.len() > MAX_NAME_BYTES => Err(NameError::NameTooLong),
        _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(NameError::Byte),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_rule_has_its_error() {
        let cases: [(&[u8], NameError); 7] = [
            (b"/etc", NameError::Empty),
            (b"etc/", NameError::Empty),
            (b"a//b", NameError::Empty),
            (b"a/../b", NameError::Dots),
            (b".", NameError::Dots),
            (b"a\0b", NameError::Byte),
            (&[b'x'; 256], NameError::NameTooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(TreePath::new(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        let long = [b"x/".repeat(2048), b"x".to_vec()].concat();
        assert_eq!(TreePath::new(&long), Err(NameError::PathTooLong));
        assert_eq!(Name::new(b"a/b"), Err(NameError::Byte));
    }

    #[test]
    fn a_directory_comes_right_before_what_it_holds() {
        let mut paths = ["a.txt", "a/b", "", "a", "a-b", "a/b/c"].map(path);
        paths.sort();
        assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a-b", "a.txt"].map(path));
    }

    #[test]
    fn split_undoes_join() {
        for text in ["a", "a/b", "usr/share/doc"] {
            let (parent, name) = path(text).split().unwrap();
            assert_eq!(parent.join(&name).unwrap(), path(text));
        }
        assert!(TreePath::root().split().is_none());
    }
}
