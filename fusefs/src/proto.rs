//! The numbers and structures of the kernel's FUSE protocol, at explicit offsets.
//!
//! Source: Linux `include/uapi/linux/fuse.h`, whose names these are without `FUSE_`. Integers have the order of
//! the machine, as both ends are on it.

/// Major version of the protocol.
pub(crate) const MAJOR: u32 = 7;
/// Minor version that is offered: of Linux 5.4, with all that the faces use.
pub(crate) const MINOR: u32 = 31;

/// Bytes before every request: length, operation, unique number, node, user, group, process.
pub(crate) const IN_HEADER_BYTES: usize = 40;
/// Bytes before every reply: length, error, unique number.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// The smallest buffer that a request may be read into.
pub(crate) const MIN_READ_BUFFER: usize = 8192;
/// Bytes of a write before its data: both headers.
pub(crate) const WRITE_HEADER_BYTES: usize = IN_HEADER_BYTES + 40;

/// The root's number.
pub(crate) const ROOT_NODE: u64 = 1;

/// Operations.
pub(crate) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
}

/// What kernel and server tell each other in `INIT` that they can.
pub(crate) mod init {
    /// Several reads of one file at a time, which is read-ahead.
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    /// Nodes can be looked up again by their number: NFS.
    pub(crate) const EXPORT_SUPPORT: u32 = 1 << 4;
    /// Writes of more than a page.
    pub(crate) const BIG_WRITES: u32 = 1 << 5;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    /// The kernel chooses between plain and full directory reads.
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// Several direct reads and writes at a time.
    pub(crate) const ASYNC_DIO: u32 = 1 << 15;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    /// The kernel checks and caches ACLs.
    pub(crate) const POSIX_ACL: u32 = 1 << 20;
    /// `max_pages` of the reply counts.
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
}

/// Flags of an opened file.
pub(crate) mod open {
    /// Reads and writes go past the page cache.
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    /// Writes that do not make the file longer need not take turns (Linux 6.2).
    pub(crate) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Which attributes a `SETATTR` changes.
pub(crate) mod set {
    pub(crate) const SIZE: u32 = 1 << 3;
    /// What changes nothing: the file's handle and the owner of a lock come along.
    pub(crate) const NOTHING: u32 = 1 << 6 | 1 << 9;
}

/// Modes of `fallocate`.
pub(crate) mod falloc {
    pub(crate) const KEEP_SIZE: u32 = 1;
    pub(crate) const PUNCH_HOLE: u32 = 2;
    pub(crate) const ZERO_RANGE: u32 = 0x10;
}

/// `whence` of `lseek`.
pub(crate) mod seek {
    pub(crate) const DATA: u32 = 3;
    pub(crate) const HOLE: u32 = 4;
}
