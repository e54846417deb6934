//! Layer roots and templates: small immutable files named by the hash of their bytes.

use shale_files::{FilePath, LockFiles, put_durably, read_file};
use shale_model::{SeamError, SeamResult, Trouble};

use crate::session::Session;
use crate::trouble::{failed, not_read};

/// One manifest: what it is called, where it lies, and how long it may be.
pub(crate) struct Manifest {
    /// Kind and id, for errors.
    pub(crate) shown: String,
    pub(crate) path: FilePath,
    pub(crate) max_bytes: usize,
}

impl Manifest {
    /// Reads it; `is_it` tells whether the bytes have its id.
    pub(crate) fn read(
        &self,
        files: &dyn LockFiles,
        is_it: impl FnOnce(&[u8]) -> bool,
    ) -> SeamResult<Vec<u8>> {
        let action = format!("read {}", self.shown);
        match read_file(files, &self.path, self.max_bytes) {
            Ok(bytes) if is_it(&bytes) => Ok(bytes),
            Ok(_) => Err(SeamError::new(
                Trouble::Integrity,
                format!("{action}: its bytes do not match its id"),
            )),
            Err(error) => Err(not_read(action, error)),
        }
    }

    /// Stores it durably, replacing what is there: the same bytes, or damaged ones.
    pub(crate) fn write(
        &self,
        files: &dyn LockFiles,
        session: &Session,
        bytes: &[u8],
    ) -> SeamResult<()> {
        put_durably(files, &session.temp(), &self.path, |file| {
            file.write_at(0, bytes)
        })
        .map_err(|error| failed(format!("store {}", self.shown), error))
    }
}
