//! The two traits of storage, and locks for those who share a directory.

use crate::error::FileResult;
use crate::lock::{IfHeld, Lock, LockError, LockKind};
use crate::path::FilePath;

/// Files and directories under one root.
///
/// Nothing is durable before it is synced: a file's bytes and length by [`File::sync`], and its name by
/// [`Files::sync_dir`] of the directory that holds it. Calls block. Implementations never leave the
/// root, not even through a symbolic link.
pub trait Files: Send + Sync {
    /// Opens a file. A missing file is `NotFound`, a directory `IsADirectory`, and for
    /// [`OpenMode::CreateNew`] an existing one `AlreadyExists`.
    fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>>;

    /// Gives a file another name, atomically replacing a file that has it. `from` is no directory.
    fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()>;

    /// Removes a file or an empty directory.
    fn remove(&self, path: &FilePath) -> FileResult<()>;

    /// What a directory holds, in order of name. Names that are not UTF-8 are left out: they are none
    /// of ours.
    fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>>;

    /// Creates one directory; its parent exists. `AlreadyExists` if anything has that name.
    fn create_dir(&self, dir: &FilePath) -> FileResult<()>;

    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, dir: &FilePath) -> FileResult<()>;
}

/// An open file. It stays usable when its name is changed or removed. Safe to share between threads;
/// overlapping writes end in some order.
pub trait File: Send + Sync {
    /// Bytes of the file.
    fn size(&self) -> FileResult<u64>;

    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> FileResult<()>;

    /// Writes all of `data` at `offset`. Bytes between the old end and `offset` become zeros.
    fn write_at(&self, offset: u64, data: &[u8]) -> FileResult<()>;

    /// Cuts the file or lengthens it by zeros that take no room.
    fn set_size(&self, size: u64) -> FileResult<()>;

    /// Makes `len` bytes from `offset` zeros, giving back their room where the file system can. The
    /// size stays: bytes beyond the end are not touched.
    fn zero(&self, offset: u64, len: u64) -> FileResult<()>;

    /// Makes the bytes and the size durable, but not the name.
    fn sync(&self) -> FileResult<()>;
}

/// Files in a directory that several processes share.
pub trait LockFiles: Files {
    /// Takes the advisory lock of the file at `path`, which is created if need be and never removed. It
    /// is held until the [`Lock`] is dropped or the process ends, however it ends. Two locks taken
    /// in one process stand against each other like those of two processes.
    fn lock(&self, path: &FilePath, kind: LockKind, if_held: IfHeld) -> Result<Lock, LockError>;
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that does not exist yet, to read and write.
    CreateNew,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name: one component of a [`FilePath`].
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Something that Shale does not make: a symbolic link, a socket, a device.
    Other,
}
