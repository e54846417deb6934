//! Where a file has data, and where it has holes, which lseek(2) tells.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The first run of data between `at` and `end`, in bytes of the file, if there is one. A file system that knows no holes has
/// one run.
pub(crate) fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= end {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) if start >= end => return Ok(None),
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((at, end))),
        Err(error) => return Err(error.into()),
    };
    let hole = seek(file, SeekFrom::Hole(start));
    Ok(Some((start, hole.unwrap_or(end).clamp(start + 1, end))))
}
