//! Paths of files: relative to the root of a [`crate::Files`], checked once.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest component, in bytes: `NAME_MAX` of Linux.
const MAX_COMPONENT_BYTES: usize = 255;

/// Longest path, in bytes. The longest that Shale makes is a reference: `refs/` and three parts of 128.
const MAX_PATH_BYTES: usize = 1024;

/// Why a text is not a [`FilePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty, as in `a//b`, with a leading or a trailing slash.
    #[error("a component of the path is empty")]
    Empty,
    /// A component is `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
    /// The path holds a NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A component has more than 255 bytes, or the path more than 1,024.
    #[error(
        "a component has more than {MAX_COMPONENT_BYTES} bytes, or the path more than {MAX_PATH_BYTES}"
    )]
    TooLong,
}

/// The path of a file or directory below the root of a [`crate::Files`]: components separated by
/// slashes, none of them empty, `.` or `..`. The root itself is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FilePath(Box<str>);

impl FilePath {
    /// The directory under which everything lies.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks `text` and keeps a copy of it.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if !text.is_empty() {
            text.split('/').try_for_each(check_component)?;
        }
        Ok(Self(text.into()))
    }

    /// The path of `name`, one component or several, in this directory.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        check_component(name.split('/').next().unwrap_or_default())?;
        match self.is_root() {
            true => Self::new(name),
            false => Self::new(&format!("{}/{name}", self.0)),
        }
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        Some(self.split()?.0)
    }

    /// The directory that holds it and its name there; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &str)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.rsplit_once('/') {
            Some((parent, name)) => (Self(parent.into()), name),
            None => (Self::root(), &self.0),
        })
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the root downwards.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// The text, empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below `root`, for errors.
    pub(crate) fn below(&self, root: &Path) -> PathBuf {
        match self.is_root() {
            true => root.to_owned(),
            false => root.join(&*self.0),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn check_component(component: &str) -> Result<(), PathError> {
    match component {
        "" => Err(PathError::Empty),
        "." | ".." => Err(PathError::Dots),
        _ if component.contains('\0') => Err(PathError::Nul),
        _ if component.len() > MAX_COMPONENT_BYTES => Err(PathError::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        let cases = [
            ("/etc", PathError::Empty),
            ("etc/", PathError::Empty),
            ("a//b", PathError::Empty),
            ("a/../b", PathError::Dots),
            (".", PathError::Dots),
            ("a\0b", PathError::Nul),
            (&"x".repeat(256), PathError::TooLong),
            (&"x/".repeat(600), PathError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(FilePath::new(text), Err(error), "{text:?}");
        }
        let root = FilePath::root();
        assert_eq!(root.join(""), Err(PathError::Empty));
        assert_eq!(root.join("/etc"), Err(PathError::Empty));
    }

    #[test]
    fn parents_end_at_the_root() {
        let path = FilePath::root().join("a").unwrap().join("b").unwrap();
        assert_eq!(path.as_str(), "a/b");
        let parent = path.parent().unwrap();
        assert_eq!(parent.as_str(), "a");
        assert!(parent.parent().unwrap().is_root());
        assert_eq!(FilePath::root().parent(), None);
    }
}
