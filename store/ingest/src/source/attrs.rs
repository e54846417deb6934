//! Attributes of a file as the system tells them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use shale_model::limits::MAX_XATTRS;
use shale_model::{Attrs, EntryError, MODE_BITS, Mtime, Rdev, XattrPair, Xattrs};

/// Attributes that belong to the machine where the tree lies and not to the tree: overlayfs's own, and
/// the signature that covers inode numbers.
const LEFT_OUT: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"security.evm"];

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux: all names of a file, and one value, fit.
const XATTR_BUFFER_BYTES: usize = 64 * 1024;

/// Whether a layer keeps the attribute called `name`.
pub fn keeps_xattr(name: &[u8]) -> bool {
    !LEFT_OUT.iter().any(|prefix| name.starts_with(prefix))
}

/// The attributes in `stat`, with `xattrs`.
pub(super) fn attrs(stat: &Stat, xattrs: Xattrs) -> Attrs {
    Attrs {
        mode: stat.st_mode as u16 & MODE_BITS,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime {
            seconds: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs,
    }
}

/// The device that a special file stands for.
pub(super) fn rdev(stat: &Stat) -> Rdev {
    Rdev {
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
    }
}

/// What the file is.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What tells whether a file is still the one it was, with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    inode: (u64, u64),
    size: i64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Version {
    /// The version that `stat` saw.
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Reads extended attributes with buffers that it keeps.
pub(super) struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
}

/// Why extended attributes cannot be read.
pub(super) enum XattrTrouble {
    Io(io::Error),
    Entry(EntryError),
}

impl From<Errno> for XattrTrouble {
    fn from(errno: Errno) -> Self {
        XattrTrouble::Io(errno.into())
    }
}

impl XattrReader {
    /// Reads nothing yet.
    pub(super) fn new() -> Self {
        Self {
            names: vec![0; XATTR_BUFFER_BYTES],
            value: vec![0; XATTR_BUFFER_BYTES],
        }
    }

    /// Those of an open file or directory.
    pub(super) fn of_open(&mut self, file: BorrowedFd<'_>) -> Result<Xattrs, XattrTrouble> {
        let listed = rustix::fs::flistxattr(file, &mut self.names[..]);
        self.collect(listed, |name, value| {
            rustix::fs::fgetxattr(file, name, value)
        })
    }

    /// Those of `name` in an open directory, which is not followed and not opened: opening a pipe or a
    /// device may wait, or do something. The system call that takes a directory came with Linux 6.13, so
    /// the path leads through `/proc`.
    pub(super) fn of_name(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<Xattrs, XattrTrouble> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let path = &path[..];
        let listed = rustix::fs::llistxattr(path, &mut self.names[..]);
        self.collect(listed, |name, value| {
            rustix::fs::lgetxattr(path, name, value)
        })
    }

    fn collect(
        &mut self,
        listed: rustix::io::Result<usize>,
        get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
    ) -> Result<Xattrs, XattrTrouble> {
        let len = match listed {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Xattrs::default()),
            Ok(len) => len,
            Err(errno) => return Err(errno.into()),
        };
        let mut pairs: Vec<XattrPair> = Vec::new();
        for name in self.names[..len].split_inclusive(|&b| b == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if !keeps_xattr(name.to_bytes()) {
                continue;
            }
            if pairs.len() == MAX_XATTRS {
                return Err(XattrTrouble::Entry(EntryError::XattrCount(MAX_XATTRS + 1)));
            }
            let len = get(name, &mut self.value)?;
            pairs.push((name.to_bytes().into(), self.value[..len].into()));
        }
        Xattrs::new(pairs).map_err(XattrTrouble::Entry)
    }
}
