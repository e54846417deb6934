//! Storage in memory: the twin of [`crate::DirFiles`] for tests.
//!
//! Beside what is there it keeps what was synced: for each file the bytes and length at its last sync,
//! for each directory the names at its last sync. `crash.rs` makes of the two what a power cut leaves.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::content::{Content, end_of};
use crate::error::{FileError, FileResult, Operation};
use crate::lock::{IfHeld, Lock, LockError, LockKind};
use crate::path::FilePath;
use crate::seam::{DirEntry, EntryKind, File, Files, LockFiles, OpenMode};

/// Files in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryFiles {
    pub(crate) nodes: Arc<Mutex<Nodes>>,
    locks: Arc<Locks>,
}

impl MemoryFiles {
    /// An empty root directory.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn holding(nodes: Nodes) -> Self {
        Self {
            nodes: Arc::new(Mutex::new(nodes)),
            locks: Arc::default(),
        }
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of a file or directory; the root is 0. Numbers are not used again.
pub(crate) type NodeId = usize;

/// What a directory holds.
pub(crate) type Names = BTreeMap<Box<str>, NodeId>;

/// All files and directories.
#[derive(Clone)]
pub(crate) struct Nodes(pub(crate) Vec<Node>);

#[derive(Clone)]
pub(crate) enum Node {
    Dir { live: Names, synced: Names },
    File { live: Content, synced: Content },
}

impl Default for Nodes {
    fn default() -> Self {
        Self(vec![Node::dir()])
    }
}

impl Node {
    fn dir() -> Self {
        let (live, synced) = Default::default();
        Node::Dir { live, synced }
    }

    fn file() -> Self {
        let (live, synced) = Default::default();
        Node::File { live, synced }
    }
}

impl Nodes {
    fn find(&self, path: &FilePath) -> io::Result<NodeId> {
        path.components().try_fold(0, |dir, name| {
            let found = self.names(dir)?.get(name);
            found.copied().ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn names(&self, dir: NodeId) -> io::Result<&Names> {
        match &self.0[dir] {
            Node::Dir { live, .. } => Ok(live),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The names in the directory that holds `path`, and its name there.
    fn place<'a, 'b>(&'a mut self, path: &'b FilePath) -> io::Result<(&'a mut Names, &'b str)> {
        let (parent, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.find(&parent)?;
        match &mut self.0[dir] {
            Node::Dir { live, .. } => Ok((live, name)),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn create(&mut self, path: &FilePath, node: Node) -> io::Result<NodeId> {
        let new = self.0.len();
        let (names, name) = self.place(path)?;
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(name.into(), new);
        self.0.push(node);
        Ok(new)
    }

    fn open(&mut self, path: &FilePath, mode: OpenMode) -> io::Result<NodeId> {
        if mode == OpenMode::CreateNew {
            return self.create(path, Node::file());
        }
        let id = self.find(path)?;
        match self.0[id] {
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
            Node::File { .. } => Ok(id),
        }
    }

    fn rename(&mut self, from: &FilePath, to: &FilePath) -> io::Result<()> {
        let id = self.find(from)?;
        let target = self.find(to).ok();
        let is_dir = |&id: &NodeId| matches!(self.0[id], Node::Dir { .. });
        if is_dir(&id) || target.as_ref().is_some_and(is_dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (names, name) = self.place(to)?;
        names.insert(name.into(), id);
        if from != to {
            let (names, name) = self.place(from)?;
            names.remove(name);
        }
        Ok(())
    }

    fn remove(&mut self, path: &FilePath) -> io::Result<()> {
        let id = self.find(path)?;
        if self.names(id).is_ok_and(|names| !names.is_empty()) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (names, name) = self.place(path)?;
        names.remove(name);
        Ok(())
    }

    fn list(&self, dir: &FilePath) -> io::Result<Vec<DirEntry>> {
        let names = self.names(self.find(dir)?)?;
        let entries = names.iter().map(|(name, &id)| DirEntry {
            name: name.to_string(),
            kind: match self.0[id] {
                Node::Dir { .. } => EntryKind::Dir,
                Node::File { .. } => EntryKind::File,
            },
        });
        Ok(entries.collect())
    }

    fn sync_dir(&mut self, dir: &FilePath) -> io::Result<()> {
        let id = self.find(dir)?;
        match &mut self.0[id] {
            Node::Dir { live, synced } => synced.clone_from(live),
            Node::File { .. } => return Err(io::ErrorKind::NotADirectory.into()),
        }
        Ok(())
    }
}

impl Files for MemoryFiles {
    fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>> {
        let operation = match mode {
            OpenMode::CreateNew => Operation::Create,
            OpenMode::Read | OpenMode::Write => Operation::Open,
        };
        let id = at(operation, path, self.nodes().open(path, mode))?;
        Ok(Box::new(MemoryFile {
            files: self.clone(),
            id,
            path: path.clone(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()> {
        at(Operation::Rename, to, self.nodes().rename(from, to))
    }

    fn remove(&self, path: &FilePath) -> FileResult<()> {
        at(Operation::Remove, path, self.nodes().remove(path))
    }

    fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>> {
        at(Operation::List, dir, self.nodes().list(dir))
    }

    fn create_dir(&self, dir: &FilePath) -> FileResult<()> {
        let created = match dir.is_root() {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => self.nodes().create(dir, Node::dir()),
        };
        at(Operation::CreateDir, dir, created.map(drop))
    }

    fn sync_dir(&self, dir: &FilePath) -> FileResult<()> {
        at(Operation::SyncDir, dir, self.nodes().sync_dir(dir))
    }
}

fn at<T>(operation: Operation, path: &FilePath, result: io::Result<T>) -> FileResult<T> {
    result.map_err(|source| FileError::new(operation, path.as_str(), source))
}

struct MemoryFile {
    files: MemoryFiles,
    id: NodeId,
    path: FilePath,
    writable: bool,
}

impl MemoryFile {
    fn with<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut Content, &mut Content) -> io::Result<T>,
    ) -> FileResult<T> {
        let done = match &mut self.files.nodes().0[self.id] {
            Node::File { live, synced } => act(live, synced),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        };
        at(operation, &self.path, done)
    }

    fn change(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut Content) -> io::Result<()>,
    ) -> FileResult<()> {
        self.with(operation, |live, _| match self.writable {
            true => act(live),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        })
    }
}

impl File for MemoryFile {
    fn size(&self) -> FileResult<u64> {
        self.with(Operation::Read, |live, _| Ok(live.len))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> FileResult<()> {
        self.with(Operation::Read, |live, _| live.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> FileResult<()> {
        self.change(Operation::Write, |live| live.write(offset, data))
    }

    fn set_size(&self, size: u64) -> FileResult<()> {
        self.change(Operation::Resize, |live| {
            live.set_len(end_of(0, size)?);
            Ok(())
        })
    }

    fn zero(&self, offset: u64, len: u64) -> FileResult<()> {
        self.change(Operation::Zero, |live| live.zero(offset, len))
    }

    fn sync(&self) -> FileResult<()> {
        self.with(Operation::Sync, |live, synced| {
            synced.clone_from(live);
            Ok(())
        })
    }
}

/// Who holds the lock of each path: the number of shared holders, or [`EXCLUSIVE`].
#[derive(Default)]
struct Locks {
    held: Mutex<BTreeMap<FilePath, usize>>,
    freed: Condvar,
}

const EXCLUSIVE: usize = usize::MAX;

impl LockFiles for MemoryFiles {
    fn lock(&self, path: &FilePath, kind: LockKind, if_held: IfHeld) -> Result<Lock, LockError> {
        match self.open(path, OpenMode::CreateNew) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let locks = &self.locks;
        let mut held = locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let holders = held.entry(path.clone()).or_default();
            let after = match (kind, *holders) {
                (LockKind::Exclusive, 0) => Some(EXCLUSIVE),
                (LockKind::Shared, shared) if shared != EXCLUSIVE => Some(shared + 1),
                _ => None,
            };
            if let Some(after) = after {
                *holders = after;
                let (locks, path) = (Arc::clone(locks), path.clone());
                return Ok(Lock::new(MemoryLock { locks, path }));
            }
            if if_held == IfHeld::Fail {
                return Err(LockError::Held {
                    path: path.as_str().into(),
                    by: "another user of the same memory".into(),
                });
            }
            held = locks
                .freed
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct MemoryLock {
    locks: Arc<Locks>,
    path: FilePath,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let held = self.locks.held.lock();
        if let Some(holders) = held
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&self.path)
        {
            *holders = match *holders {
                EXCLUSIVE => 0,
                shared => shared.saturating_sub(1),
            };
        }
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn it_keeps_the_rules_of_storage() {
        conformance::check_files(MemoryFiles::new);
    }
}
