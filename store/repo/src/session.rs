//! Files on their way: a directory for each open repository, swept when its owner is gone.

use std::io;
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
    match files.list(path) {
        Ok(_) => {}
        // The format file on its way, when the making of the repository was cut off.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(unless_missing(files.remove(path))?);
        }
        // Its owner removes it when it ends, which may be now.
        Err(error) => return Ok(unless_missing(Err(error))?),
    }
    match files.lock(&lock_of(path), LockKind::Exclusive, IfHeld::Fail) {
        Ok(_dead) => Ok(unless_missing(remove_all(files, path))?),
        Err(LockError::Held { .. }) => Ok(()),
        Err(LockError::File(error)) => Ok(unless_missing(Err(error))?),
    }
}

/// Removes a directory of files; one that goes meanwhile is no error.
fn remove_all(files: &dyn LockFiles, dir: &FilePath) -> FileResult<()> {
    for entry in files.list(dir)? {
        unless_missing(files.remove(&below(dir, &entry.name)))?;
    }
    unless_missing(files.remove(dir))
}

/// What is gone already is as good as removed.
fn unless_missing(removed: FileResult<()>) -> FileResult<()> {
    match removed {
        Err(error) if error.is_missing() => Ok(()),
        removed => removed,
    }
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
    use shale_files::{DirEntry, File, FileError, Files, MemoryFiles, OpenMode, Operation};

    use super::*;

    /// When another process interferes.
    #[derive(Clone, Copy, PartialEq)]
    enum When {
        Listing,
        Locking,
        Removing,
    }

    /// Files of which a directory is removed by its owner at some moment, or cannot be listed.
    struct Vanishing {
        inner: MemoryFiles,
        dir: FilePath,
        when: Option<When>,
    }

    impl Vanishing {
        fn at(&self, now: When) {
            if self.when == Some(now) {
                let _ = remove_all(&self.inner, &self.dir);
            }
        }
    }

    impl Files for Vanishing {
        fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>> {
            self.inner.open(path, mode)
        }
        fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()> {
            self.inner.rename(from, to)
        }
        fn remove(&self, path: &FilePath) -> FileResult<()> {
            self.at(When::Removing);
            self.inner.remove(path)
        }
        fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>> {
            self.at(When::Listing);
            match self.when {
                None => Err(FileError::new(
                    Operation::List,
                    "tmp/7",
                    io::ErrorKind::Other,
                )),
                Some(_) => self.inner.list(dir),
            }
        }
        fn create_dir(&self, dir: &FilePath) -> FileResult<()> {
            self.inner.create_dir(dir)
        }
        fn sync_dir(&self, dir: &FilePath) -> FileResult<()> {
            self.inner.sync_dir(dir)
        }
    }

    impl LockFiles for Vanishing {
        fn lock(&self, path: &FilePath, kind: LockKind, held: IfHeld) -> Result<Lock, LockError> {
            self.at(When::Locking);
            self.inner.lock(path, kind, held)
        }
    }

    #[test]
    fn a_directory_that_goes_while_it_is_swept_is_swept() {
        let dir = FilePath::new("tmp/7").unwrap();
        for when in [
            Some(When::Listing),
            Some(When::Locking),
            Some(When::Removing),
            None,
        ] {
            let inner = MemoryFiles::new();
            crate::format::init(&inner).unwrap();
            inner.create_dir(&dir).unwrap();
            inner.open(&below(&dir, "0"), OpenMode::CreateNew).unwrap();
            let dir = dir.clone();
            let files = Vanishing { inner, dir, when };
            let swept = sweep(&files, &files.dir);
            // A directory that cannot be listed is none that may be removed.
            assert_eq!(swept.is_ok(), when.is_some(), "{swept:?}");
            assert_eq!(files.inner.list(&files.dir).is_ok(), when.is_none());
        }
    }

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
