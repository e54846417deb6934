//! Durable before visible (I6): the one way in which a file gets its name.
//!
//! Temp file, write, sync of the file, rename, sync of the directories. A power cut at any point leaves
//! either no file of that name (or the one that was there before), or all of the new one.

use std::io;

use crate::error::{FileError, FileResult, Operation};
use crate::path::FilePath;
use crate::seam::{File, Files, OpenMode};

/// Puts what `write` writes at `path`, durably and all at once, replacing what was there.
///
/// `temp` is a name on the same file system that nobody else uses. Directories above `path` are made
/// as needed. On an error nothing has changed at `path`, unless the error is that of the last sync,
/// and nothing is left at `temp`.
pub fn put_durably<E: From<FileError>>(
    files: &dyn Files,
    temp: &FilePath,
    path: &FilePath,
    write: impl FnOnce(&dyn File) -> Result<(), E>,
) -> Result<(), E> {
    let temp = TempFile::create(files, temp.clone())?;
    write(temp.file())?;
    Ok(temp.publish(path)?)
}

/// A file that nobody sees yet: [`TempFile::publish`] gives it its name, dropping removes it.
pub struct TempFile<'a> {
    files: &'a dyn Files,
    path: FilePath,
    file: Box<dyn File>,
    published: bool,
}

impl<'a> TempFile<'a> {
    /// Creates an empty file at `path`, which must not exist; its directory does.
    pub fn create(files: &'a dyn Files, path: FilePath) -> FileResult<Self> {
        let file = files.open(&path, OpenMode::CreateNew)?;
        Ok(Self {
            files,
            path,
            file,
            published: false,
        })
    }

    /// The open file, to be written and read.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// Makes the file durable and visible at `path`, in that order, replacing what was there.
    pub fn publish(mut self, path: &FilePath) -> FileResult<()> {
        self.file.sync()?;
        let dir = path.parent().unwrap_or_default();
        create_dirs(self.files, &dir)?;
        self.files.rename(&self.path, path)?;
        self.published = true;
        sync_dirs(self.files, dir)
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays is swept with the directory of temp files.
            let _ = self.files.remove(&self.path);
        }
    }
}

/// Removes a file, durably. One that is not there is no error.
pub fn remove_durably(files: &dyn Files, path: &FilePath) -> FileResult<()> {
    match files.remove(path) {
        Err(error) if error.is_missing() => {}
        done => done?,
    }
    files.sync_dir(&path.parent().unwrap_or_default())
}

/// Creates `dir` and the directories above it where they are missing. Not durable by itself: whoever
/// publishes a file below syncs them.
pub fn create_dirs(files: &dyn Files, dir: &FilePath) -> FileResult<()> {
    match files.create_dir(dir) {
        Err(error) if error.is_missing() => {
            if let Some(parent) = dir.parent() {
                create_dirs(files, &parent)?;
            }
            ignore_existing(files.create_dir(dir))
        }
        done => ignore_existing(done),
    }
}

/// The whole file at `path`, which may have at most `max` bytes (`FileTooLarge` otherwise).
pub fn read_file(files: &dyn Files, path: &FilePath, max: usize) -> FileResult<Vec<u8>> {
    let file = files.open(path, OpenMode::Read)?;
    let len = usize::try_from(file.size()?).unwrap_or(usize::MAX);
    if len > max {
        let kind = io::ErrorKind::FileTooLarge;
        return Err(FileError::new(Operation::Read, path.as_str(), kind));
    }
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn ignore_existing(done: FileResult<()>) -> FileResult<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Syncs `dir` and every directory above it. Those above may be new too, made by this or by another
/// process that has not come to sync them yet; where they are not, syncing them costs a system call.
fn sync_dirs(files: &dyn Files, dir: FilePath) -> FileResult<()> {
    let mut next = Some(dir);
    while let Some(dir) = next {
        files.sync_dir(&dir)?;
        next = dir.parent();
    }
    Ok(())
}
