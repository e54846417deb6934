//! Advisory locks between processes that share a directory.

use std::path::PathBuf;

use crate::error::FileError;

/// Who may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of shared holders.
    Shared,
    /// One holder and no other.
    Exclusive,
}

/// What to do while somebody else holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfHeld {
    /// Wait; for locks that are held for moments.
    Wait,
    /// Return [`LockError::Held`].
    Fail,
}

/// A lock that is held until this is dropped.
pub struct Lock {
    /// Its destructor releases the lock.
    _held: Box<dyn Send + Sync>,
}

impl Lock {
    /// A lock that is released by dropping `held`.
    pub(crate) fn new(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("`{}` is in use by {by}", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who holds it, for people: `process 4711 (shale)`, or `another process` where that is not
        /// known.
        by: String,
    },
    /// The lock's file cannot be opened or locked.
    #[error(transparent)]
    File(#[from] FileError),
}
