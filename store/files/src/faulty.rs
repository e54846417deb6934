//! Storage that fails on command: the disk runs full, an operation fails, the process is gone.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{FileError, FileResult, Operation};
use crate::lock::{IfHeld, Lock, LockError, LockKind};
use crate::path::FilePath;
use crate::seam::{DirEntry, File, Files, LockFiles, OpenMode};

/// How storage fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One operation fails with an I/O error; those after it work.
    Once,
    /// The disk is full from then on: whatever needs room fails with `StorageFull`.
    Full,
    /// Every operation fails from then on, as if the process had been killed there: it changes nothing
    /// more.
    Stopped,
}

/// A wrapper around storage that counts the operations that change something and fails one of them.
///
/// The write that fails first has written its first half.
#[derive(Clone)]
pub struct FaultyFiles {
    inner: Arc<dyn LockFiles>,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    done: AtomicU64,
    fault: Mutex<Option<(u64, Fault)>>,
}

impl FaultyFiles {
    /// `inner`, without faults yet.
    pub fn new(inner: Arc<dyn LockFiles>) -> Self {
        let plan = Arc::default();
        Self { inner, plan }
    }

    /// Operations that changed something, or tried to, so far.
    pub fn operations(&self) -> u64 {
        self.plan.done.load(Ordering::SeqCst)
    }

    /// Fails from the operation on that has this number, counted from 0 since the beginning; `None`
    /// heals.
    pub fn fail_at(&self, fault: Option<(u64, Fault)>) {
        *self
            .plan
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Plan {
    /// Counts one operation and fails it if that is its fate.
    fn next(&self, operation: Operation, path: &FilePath) -> FileResult<()> {
        self.check(self.count(), operation, path)
    }

    /// The number of the operation that begins.
    fn count(&self) -> u64 {
        self.done.fetch_add(1, Ordering::SeqCst)
    }

    fn check(&self, number: u64, operation: Operation, path: &FilePath) -> FileResult<()> {
        use Operation::{Create, CreateDir, Rename, Resize, Write};
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((first, fault)) = fault.filter(|(first, _)| number >= *first) else {
            return Ok(());
        };
        let needs_room = matches!(operation, Create | CreateDir | Rename | Resize | Write);
        let kind = match fault {
            Fault::Once if number == first => io::ErrorKind::Other,
            Fault::Full if needs_room => io::ErrorKind::StorageFull,
            Fault::Stopped => io::ErrorKind::Other,
            Fault::Once | Fault::Full => return Ok(()),
        };
        Err(FileError::new(operation, path.as_str(), kind))
    }

    /// Whether the operation of this number is the first that fails.
    fn is_first(&self, number: u64) -> bool {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.is_some_and(|(first, _)| first == number)
    }
}

impl Files for FaultyFiles {
    fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.plan.next(Operation::Create, path)?;
        }
        let file = self.inner.open(path, mode)?;
        let (path, plan) = (path.clone(), Arc::clone(&self.plan));
        Ok(Box::new(FaultyFile { file, path, plan }))
    }

    fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()> {
        self.plan.next(Operation::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &FilePath) -> FileResult<()> {
        self.plan.next(Operation::Remove, path)?;
        self.inner.remove(path)
    }

    fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &FilePath) -> FileResult<()> {
        self.plan.next(Operation::CreateDir, dir)?;
        self.inner.create_dir(dir)
    }

    fn sync_dir(&self, dir: &FilePath) -> FileResult<()> {
        self.plan.next(Operation::SyncDir, dir)?;
        self.inner.sync_dir(dir)
    }
}

impl LockFiles for FaultyFiles {
    fn lock(&self, path: &FilePath, kind: LockKind, if_held: IfHeld) -> Result<Lock, LockError> {
        self.inner.lock(path, kind, if_held)
    }
}

struct FaultyFile {
    file: Box<dyn File>,
    path: FilePath,
    plan: Arc<Plan>,
}

impl File for FaultyFile {
    fn size(&self) -> FileResult<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> FileResult<()> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> FileResult<()> {
        let number = self.plan.count();
        if let Err(error) = self.plan.check(number, Operation::Write, &self.path) {
            if self.plan.is_first(number) {
                self.file.write_at(offset, &data[..data.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write_at(offset, data)
    }

    fn set_size(&self, size: u64) -> FileResult<()> {
        self.plan.next(Operation::Resize, &self.path)?;
        self.file.set_size(size)
    }

    fn zero(&self, offset: u64, len: u64) -> FileResult<()> {
        self.plan.next(Operation::Zero, &self.path)?;
        self.file.zero(offset, len)
    }

    fn sync(&self) -> FileResult<()> {
        self.plan.next(Operation::Sync, &self.path)?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryFiles, conformance, put_durably, read_file};

    fn path(text: &str) -> FilePath {
        FilePath::new(text).unwrap()
    }

    #[test]
    fn without_a_fault_it_is_what_it_wraps() {
        conformance::check_files(|| FaultyFiles::new(Arc::new(MemoryFiles::new())));
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_temp_file() {
        let memory = MemoryFiles::new();
        let files = FaultyFiles::new(Arc::new(memory.clone()));
        let put = |bytes: &[u8]| {
            put_durably(&files, &path("temp"), &path("file"), |file| {
                file.write_at(0, bytes)
            })
        };
        put(b"old").unwrap();
        for after in 0..3 {
            files.fail_at(Some((files.operations() + after, Fault::Full)));
            assert!(put(b"new").unwrap_err().is_full(), "after {after}");
            files.fail_at(None);
            assert_eq!(read_file(&memory, &path("file"), 9).unwrap(), b"old");
            assert_eq!(memory.list(&FilePath::root()).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_stopped_process_changes_nothing_more() {
        let memory = MemoryFiles::new();
        let files = FaultyFiles::new(Arc::new(memory.clone()));
        files.fail_at(Some((1, Fault::Stopped)));
        let file = files.open(&path("file"), OpenMode::CreateNew).unwrap();
        assert!(file.write_at(0, b"halfhalf").is_err());
        assert!(file.sync().is_err());
        assert!(files.remove(&path("file")).is_err());
        assert_eq!(read_file(&memory, &path("file"), 9).unwrap().len(), 4);
    }
}
