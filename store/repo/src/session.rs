//! Files on their way: a directory for each open repository, swept when its owner is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shale_files::{FilePath, FileResult, IfHeld, Lock, LockError, LockFiles, LockKind};

use crate::paths;

/// One open repository's directory below `tmp`.
pub(crate) struct Session {
    files: Arc<dyn LockFiles>,
    dir: FilePath,
    /// Number of the next file in it.
    next: AtomicU64,
    /// Tells others that the owner lives. It goes with the process, however that ends.
    _alive: Lock,
}

impl Session {
    /// Sweeps what dead sessions left and begins one.
    pub(crate) fn begin(files: Arc<dyn LockFiles>) -> Result<Self, LockError> {
        // While this is held nobody has a directory that is not locked yet.
        let _begin = files.lock(&paths::tmp_lock(), LockKind::Exclusive, IfHeld::Wait)?;
        let tmp = paths::dir("tmp");
        for entry in files.list(&tmp)? {
            sweep(&*files, &below(&tmp, &entry.name))?;
        }
        let taken = files.list(&tmp)?;
        let free = |name: &String| taken.iter().all(|entry| entry.name != *name);
        let name = (0u64..).map(|n| n.to_string()).find(free);
        let dir = below(&tmp, &name.unwrap_or_default());
        files.create_dir(&dir)?;
        let alive = files.lock(&lock_of(&dir), LockKind::Exclusive, IfHeld::Fail)?;
        Ok(Self {
            files,
            dir,
            next: AtomicU64::new(0),
            _alive: alive,
        })
    }

    /// A name for a file that nobody else uses.
    pub(crate) fn temp(&self) -> FilePath {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        below(&self.dir, &number.to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Best effort: who opens the repository next sweeps what stays.
        let _ = remove_all(&*self.files, &self.dir);
    }
}

/// Removes what is at `path` below `tmp`, unless its owner lives.
fn sweep(files: &dyn LockFiles, path: &FilePath) -> Result<(), LockError> {
    if files.list(path).is_err() {
        // Not a directory: the format file on its way, when the making of the repository was cut off.
        files.remove(path)?;
        return Ok(());
    }
    match files.lock(&lock_of(path), LockKind::Exclusive, IfHeld::Fail) {
        Ok(_dead) => Ok(remove_all(files, path)?),
        Err(LockError::Held { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a directory of files; one that goes meanwhile is no error.
fn remove_all(files: &dyn LockFiles, dir: &FilePath) -> FileResult<()> {
    let removed = |result: FileResult<()>| match result {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    };
    for entry in files.list(dir)? {
        removed(files.remove(&below(dir, &entry.name)))?;
    }
    removed(files.remove(dir))
}

fn lock_of(dir: &FilePath) -> FilePath {
    below(dir, "lock")
}

/// `name` comes out of a listing or is a number: a component.
fn below(dir: &FilePath, name: &str) -> FilePath {
    dir.join(name).unwrap_or_else(|_| dir.clone())
}

#[cfg(test)]
mod tests {
    use shale_files::{Files, MemoryFiles, OpenMode};

    use super::*;

    fn in_tmp(files: &MemoryFiles) -> Vec<String> {
        let list = files.list(&paths::dir("tmp")).unwrap();
        list.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn the_living_are_spared_and_the_dead_swept() {
        let files = MemoryFiles::new();
        crate::format::init(&files).unwrap();
        let begin = |files: &MemoryFiles| Session::begin(Arc::new(files.clone())).unwrap();
        let (one, two) = (begin(&files), begin(&files));
        files.open(&one.temp(), OpenMode::CreateNew).unwrap();
        assert_ne!(one.temp(), two.temp());
        assert_eq!(in_tmp(&files), ["0", "1"]);
        drop(two);
        assert_eq!(in_tmp(&files), ["0"]);

        let files = files.after_kill();
        let three = begin(&files);
        assert_eq!(in_tmp(&files), ["0"]);
        let own = files.list(&three.dir).unwrap();
        assert_eq!(own.len(), 1, "only its lock: {own:?}");
        drop(three);
        assert_eq!(in_tmp(&files), [""; 0]);
    }
}
