//! One error for all of storage: what was done to which file, and what the system said.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Results of storage.
pub type FileResult<T> = Result<T, FileError>;

/// An operation of storage that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} `{}`", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: Operation,
    /// On which file or directory; for [`crate::DirFiles`] with the root in front.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// An error of `operation` on `path`.
    pub fn new(
        operation: Operation,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }

    /// The system's reason.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether there is no room: the storage or the quota is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether the file or a directory above it does not exist.
    pub fn is_missing(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Open an existing file.
    Open,
    /// Create a file.
    Create,
    /// Read bytes of a file.
    Read,
    /// Write bytes of a file.
    Write,
    /// Change the length of a file.
    Resize,
    /// Zero bytes of a file.
    Zero,
    /// Make a file durable.
    Sync,
    /// Rename a file.
    Rename,
    /// Remove a file or an empty directory.
    Remove,
    /// List a directory.
    List,
    /// Create a directory.
    CreateDir,
    /// Make the entries of a directory durable.
    SyncDir,
    /// Lock a file.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Resize => "resize",
            Operation::Zero => "zero part of",
            Operation::Sync => "sync",
            Operation::Rename => "rename to",
            Operation::Remove => "remove",
            Operation::List => "list",
            Operation::CreateDir => "create directory",
            Operation::SyncDir => "sync directory",
            Operation::Lock => "lock",
        })
    }
}
