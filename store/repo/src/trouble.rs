//! Errors of storage, as the seams of the model tell them.

use shale_files::{FileError, LockError};
use shale_model::{SeamError, Trouble};

/// The error of writing or listing: where a file is missing there, the repository is broken.
pub(crate) fn failed(action: impl Into<String>, error: FileError) -> SeamError {
    SeamError::caused(kind(&error), action, error)
}

/// The error of reading one thing by its name, which may not exist.
pub(crate) fn not_read(action: impl Into<String>, error: FileError) -> SeamError {
    let trouble = match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::NotFound,
        // Longer than its format allows, or shorter than it was a moment ago.
        std::io::ErrorKind::FileTooLarge | std::io::ErrorKind::UnexpectedEof => Trouble::Integrity,
        _ => kind(&error),
    };
    SeamError::caused(trouble, action, error)
}

pub(crate) fn not_locked(action: impl Into<String>, error: LockError) -> SeamError {
    let trouble = match &error {
        LockError::Held { .. } => Trouble::Conflict,
        LockError::File(error) => kind(error),
    };
    SeamError::caused(trouble, action, error)
}

fn kind(error: &FileError) -> Trouble {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        _ if error.is_full() => Trouble::NoSpace,
        PermissionDenied | ReadOnlyFilesystem => Trouble::Denied,
        _ => Trouble::Failed,
    }
}
