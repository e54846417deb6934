//! A disk as a file: a directory with `disk.raw` in it.
//!
//! For whoever needs a file and not a socket. It is read and written past the kernel's page cache, as the chunk cache
//! and the guest have theirs. Its size never changes.

use std::sync::Arc;

use rustix::io::Errno;
use shale_model::{BlockDevice, BlockRun, Mtime};

use crate::face::{Face, FaceKind, Outcome, errno};
use crate::limits::{MAX_DIRECTORY_BYTES, MAX_IO_BYTES};
use crate::proto::{ROOT_NODE, falloc, open, seek};
use crate::reply::{Attributes, Body, DirectoryItem, Sizes};
use crate::request::{Detail, Op, Request};

/// The name of the file.
pub const DISK_NAME: &str = "disk.raw";

const DISK_NODE: u64 = 2;
const DIRECTORY: u8 = 4;
const REGULAR: u8 = 8;

/// Whether the file can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It cannot.
    ReadOnly,
    /// It can.
    ReadWrite,
}

/// What the file and its directory look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFile {
    /// Whether it can be written.
    pub access: Access,
    /// User and group of the file.
    pub owner: (u32, u32),
    /// Its time, which stays.
    pub time: Mtime,
}

/// A disk in a directory.
pub struct DiskFace {
    disk: Arc<dyn BlockDevice>,
    file: DiskFile,
}

type Done = Result<(), Errno>;

impl DiskFace {
    /// Shows `disk`.
    pub fn new(disk: Arc<dyn BlockDevice>, file: DiskFile) -> Self {
        Self { disk, file }
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let DiskFile {
            access,
            owner: (uid, gid),
            time,
        } = self.file;
        let (mode, links, size) = match (node, access) {
            (ROOT_NODE, _) => (0o040_700, 2, 0),
            (DISK_NODE, Access::ReadOnly) => (0o100_400, 1, self.disk.size()),
            (DISK_NODE, Access::ReadWrite) => (0o100_600, 1, self.disk.size()),
            _ => return Err(Errno::STALE),
        };
        Ok(Attributes {
            inode: node,
            mode,
            links,
            size,
            // Not quite all, because programs only look for holes in a file that has less than its size; and what it
            // has is not counted.
            sectors: (size / 512).saturating_sub(8),
            uid,
            gid,
            seconds: time.seconds,
            nanos: time.nanos,
            rdev: 0,
        })
    }

    fn lookup(&self, node: u64, name: &[u8], body: &mut Body) -> Done {
        match (node, name) {
            (ROOT_NODE, name) if name == DISK_NAME.as_bytes() => {
                body.entry(DISK_NODE, &self.attributes(DISK_NODE)?);
            }
            (ROOT_NODE, _) => body.no_entry(),
            _ => return Err(Errno::NOTDIR),
        }
        Ok(())
    }

    fn read_dir(&self, node: u64, cookie: u64, size: u32, detail: Detail, body: &mut Body) -> Done {
        if node != ROOT_NODE {
            return Err(Errno::NOTDIR);
        }
        let room = size.min(MAX_DIRECTORY_BYTES) as usize;
        let all = [
            (&b"."[..], ROOT_NODE, DIRECTORY),
            (b"..", ROOT_NODE, DIRECTORY),
            (DISK_NAME.as_bytes(), DISK_NODE, REGULAR),
        ];
        for ((name, inode, kind), next) in all.into_iter().zip(1..).filter(|(_, at)| *at > cookie) {
            let entry = match (detail, inode) {
                (Detail::Plain, _) => None,
                (Detail::Full, DISK_NODE) => Some((DISK_NODE, self.attributes(DISK_NODE)?)),
                // The kernel must not know these by another way.
                (Detail::Full, _) => Some((0, Attributes::default())),
            };
            let item = DirectoryItem {
                name,
                inode,
                kind,
                cookie: next,
                entry,
            };
            if !body.directory_entry(room, &item) {
                break;
            }
        }
        Ok(())
    }

    /// What may be said of an attribute is that the size is what it is.
    fn set_attributes(&self, node: u64, size: Option<u64>, other: bool, body: &mut Body) -> Done {
        let is_disk = node == DISK_NODE;
        match size {
            Some(size) if is_disk && size > self.disk.size() => return Err(Errno::FBIG),
            Some(size) if !is_disk || size != self.disk.size() => return Err(Errno::PERM),
            _ if other => return Err(Errno::PERM),
            _ => {}
        }
        body.attributes_out(&self.attributes(node)?);
        Ok(())
    }

    fn answer_now(&self, request: &Request<'_>, body: &mut Body) -> Done {
        let node = request.node;
        match request.op {
            Op::Lookup(name) => self.lookup(node, name, body),
            Op::GetAttr => {
                body.attributes_out(&self.attributes(node)?);
                Ok(())
            }
            Op::SetAttr { size, other } => self.set_attributes(node, size, other, body),
            Op::ReadDir {
                cookie,
                size,
                detail,
            } => self.read_dir(node, cookie, size, detail, body),
            Op::Open if node == DISK_NODE => {
                body.opened(open::DIRECT_IO | open::PARALLEL_DIRECT_WRITES);
                Ok(())
            }
            Op::StatFs => {
                let blocks = self.disk.size() / 4096;
                body.sizes(&Sizes {
                    blocks,
                    inodes: 2,
                    ..Sizes::default()
                });
                Ok(())
            }
            Op::Release | Op::Destroy => Ok(()),
            // The file and its directory are all there is.
            Op::Change => Err(Errno::PERM),
            Op::ReadLink => Err(Errno::INVAL),
            _ => Err(Errno::NOSYS),
        }
    }

    async fn read(&self, offset: u64, into: &mut [u8]) -> Done {
        let read = self.disk.read(offset, into).await;
        read.map_err(|error| errno(&error))
    }

    async fn write(&self, offset: u64, data: &[u8], body: &mut Body) -> Done {
        if self.file.access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        let room = self.disk.size().saturating_sub(offset);
        let len = room.min(data.len() as u64) as usize;
        if len == 0 && !data.is_empty() {
            return Err(Errno::NOSPC);
        }
        if len > 0 {
            let written = self.disk.write(offset, &data[..len]).await;
            written.map_err(|error| errno(&error))?;
        }
        // As with a block device, what fits is written, and the rest is an error of the next write.
        body.count(len as u32);
        Ok(())
    }

    async fn fallocate(&self, offset: u64, len: u64, mode: u32) -> Done {
        if self.file.access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        let keeps_size = mode & falloc::KEEP_SIZE != 0;
        let inside = match mode & !falloc::KEEP_SIZE {
            falloc::PUNCH_HOLE if keeps_size => true,
            falloc::ZERO_RANGE => keeps_size,
            _ => return Err(Errno::OPNOTSUPP),
        };
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        let size = self.disk.size();
        if end > size && !inside {
            return Err(Errno::NOSPC);
        }
        match end.min(size).checked_sub(offset) {
            None | Some(0) => Ok(()),
            Some(len) => {
                let zeroed = self.disk.zero(offset, len).await;
                zeroed.map_err(|error| errno(&error))
            }
        }
    }

    async fn flush(&self) -> Done {
        let flushed = match self.file.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => self.disk.flush().await,
        };
        flushed.map_err(|error| errno(&error))
    }

    async fn seek(&self, offset: u64, whence: u32, body: &mut Body) -> Done {
        let wants_zero = match whence {
            seek::DATA => false,
            seek::HOLE => true,
            _ => return Err(Errno::INVAL),
        };
        let size = self.disk.size();
        let mut at = offset;
        while at < size {
            let runs = self.disk.status(at, size - at).await;
            let runs = runs.map_err(|error| errno(&error))?;
            for BlockRun { len, zero } in runs {
                if zero == wants_zero {
                    body.offset(at);
                    return Ok(());
                }
                at += len;
            }
        }
        if offset >= size || !wants_zero {
            return Err(Errno::NXIO);
        }
        body.offset(size);
        Ok(())
    }
}

impl Face for DiskFace {
    fn kind(&self) -> FaceKind {
        FaceKind::Disk
    }

    fn answer<'a>(&'a self, request: &Request<'a>, body: &'a mut Body) -> Outcome<'a> {
        if request.node != DISK_NODE {
            return match request.op {
                // Nothing of a directory is written.
                Op::Sync | Op::Flush => Outcome::Done(Ok(())),
                _ => Outcome::Done(self.answer_now(request, body)),
            };
        }
        match request.op {
            Op::Read { offset, size } => {
                let left = self.disk.size().saturating_sub(offset);
                let len = left.min(size.min(MAX_IO_BYTES).into()) as usize;
                match body.fill(len) {
                    [] => Outcome::Done(Ok(())),
                    into => Outcome::Wait(Box::pin(self.read(offset, into))),
                }
            }
            Op::Write { offset, data } => Outcome::Wait(Box::pin(self.write(offset, data, body))),
            Op::Sync | Op::Flush => Outcome::Wait(Box::pin(self.flush())),
            Op::Fallocate { offset, len, mode } => {
                Outcome::Wait(Box::pin(self.fallocate(offset, len, mode)))
            }
            Op::Seek { offset, whence } => Outcome::Wait(Box::pin(self.seek(offset, whence, body))),
            _ => Outcome::Done(self.answer_now(request, body)),
        }
    }
}
