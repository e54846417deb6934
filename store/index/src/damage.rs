//! Damage that shows when a chunk is looked up, long after the index was opened: it is noted in a file beside the
//! tables, so that the next who opens the index discards it.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{Error, ErrorKind};

use crate::error::OpenError;

/// Notes that the index in `path` is damaged, if that is what `error` says. Best effort: without the note, whoever
/// looks the same chunk up finds the same damage.
pub(crate) fn note(path: &Path, error: &Error) {
    if error.kind() == ErrorKind::Corruption {
        let _ = fs::write(file(path), format!("{error}\n"));
    }
}

/// Fails if the index in `path` was found to be damaged.
pub(crate) fn check(path: &Path) -> Result<(), OpenError> {
    match fs::read_to_string(file(path)) {
        Ok(noted) => Err(OpenError::Damaged {
            path: path.to_owned(),
            source: noted.trim().into(),
        }),
        Err(_) => Ok(()),
    }
}

/// Takes the note away: the index was discarded.
pub(crate) fn forget(path: &Path) {
    let _ = fs::remove_file(file(path));
}

/// No name that RocksDB gives.
fn file(path: &Path) -> PathBuf {
    path.join("shale-damage")
}
