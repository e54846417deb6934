//! The bytes of a file of a directory; its holes are skipped, not read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;

use super::{FileBytes, Run};
use crate::error::SourceError;

/// The unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// An open file that is read once, from start to end.
pub(super) struct DirFile {
    file: File,
    path: PathBuf,
    size: u64,
    at: u64,
    /// End of the data that is known to be at `at`; the system says where data lies.
    data_end: u64,
}

impl DirFile {
    /// Reads `file`, which `stat` describes; errors call it `path`.
    pub(super) fn new(file: File, stat: &Stat, path: PathBuf) -> Self {
        let size = stat.st_size as u64;
        let is_sparse = (stat.st_blocks as u64) < size / STAT_BLOCK_BYTES;
        Self {
            file,
            path,
            size,
            at: 0,
            data_end: if is_sparse { 0 } else { size },
        }
    }

    /// The file, to look at it again.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Finds the data at or after the current offset; the hole before it, if there is one.
    fn find_data(&mut self) -> Result<Option<u64>, SourceError> {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data.min(self.size),
            Err(Errno::NXIO) => self.size,
            Err(errno) => return Err(self.error("find data in", errno.into())),
        };
        if data > self.at {
            let hole = data - self.at;
            self.at = data;
            return Ok(Some(hole));
        }
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(self.at));
        let end = end.map_err(|errno| self.error("find a hole in", errno.into()))?;
        self.data_end = end.min(self.size);
        Ok(None)
    }

    fn error(&self, action: &'static str, source: io::Error) -> SourceError {
        SourceError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

impl FileBytes for DirFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Run, SourceError> {
        if self.at == self.size {
            return Ok(Run::End);
        }
        if self.at >= self.data_end
            && let Some(hole) = self.find_data()?
        {
            return Ok(Run::Zeros(hole));
        }
        let most = usize::try_from(self.data_end - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at);
        match read.map_err(|error| self.error("read", error))? {
            0 => Err(SourceError::Changed {
                path: self.path.clone(),
            }),
            len => {
                self.at += len as u64;
                Ok(Run::Data(len))
            }
        }
    }
}
