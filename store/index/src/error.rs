//! Errors of RocksDB, told apart by what can be done about them.

use std::path::{Path, PathBuf};

use rocksdb::{Error, ErrorKind};
use shale_model::{SeamError, Trouble};

/// Why an index cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the chunk index `{}` is in use by another process", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
        /// What RocksDB said.
        source: Error,
    },
    /// Made by a later version of Shale. It can be discarded, but the version that made it would have
    /// to fill it again.
    #[error("the chunk index `{}` was made by a later version of Shale", path.display())]
    Newer {
        /// Its directory.
        path: PathBuf,
    },
    /// It cannot be read, and is to be discarded and filled again.
    #[error("the chunk index `{}` is damaged", path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The storage below fails: no permission, no space, an I/O error.
    #[error("the chunk index `{}` cannot be opened", path.display())]
    Io {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl OpenError {
    pub(crate) fn of(path: &Path, error: Error) -> Self {
        let path = path.to_owned();
        let source = error.clone().into();
        match error.kind() {
            ErrorKind::IOError if is_lock(&error) => OpenError::InUse {
                path,
                source: error,
            },
            ErrorKind::Corruption
            | ErrorKind::InvalidArgument
            | ErrorKind::NotSupported
            | ErrorKind::NotFound => OpenError::Damaged { path, source },
            _ => OpenError::Io { path, source },
        }
    }
}

/// RocksDB gives the kind and a sentence; who holds the lock and whether the disk is full are only in the
/// sentence, as the system words them.
fn is_lock(error: &Error) -> bool {
    let text: &str = error.as_ref();
    text.contains("While lock file") || text.contains("lock hold by current process")
}

/// The error of an open index.
pub(crate) fn failed(action: &str, error: Error) -> SeamError {
    let text: &str = error.as_ref();
    let trouble = match error.kind() {
        ErrorKind::Corruption => Trouble::Integrity,
        ErrorKind::IOError if text.contains("No space left") => Trouble::NoSpace,
        ErrorKind::Busy | ErrorKind::TryAgain | ErrorKind::TimedOut => Trouble::Unavailable,
        _ => Trouble::Failed,
    };
    SeamError::caused(trouble, format!("{action} in the chunk index"), error)
}
