//! Every limit of the session, with its reason.

/// Most bytes of one write to a disk, and of one read: what the kernel sends at most, 256 pages.
pub const MAX_IO_BYTES: u32 = 1 << 20;

/// Most pages of one request, so that [`MAX_IO_BYTES`] fit.
pub const MAX_PAGES: u16 = (MAX_IO_BYTES / 4096) as u16;

/// Most bytes of one write to the tree, which takes none: the least that the kernel knows, so that places for
/// requests are small.
pub const TREE_WRITE_BYTES: u32 = 4096;

/// Requests of a tree that are answered at one time. When all wait for a registry, no further request is read, nor
/// the signal that would end one of them: so there are as many as a busy host has processes, in 48 MiB at most.
pub const TREE_SLOTS: u32 = 4096;

/// Requests of a disk that are answered at one time: the queue depth of a guest's disk, in 128 MiB at most.
pub const DISK_SLOTS: u32 = 128;

/// Requests that nobody waits for (read-ahead, asynchronous I/O) that the kernel sends at one time. Twelve, its
/// default, keep a registry 20 ms away idle most of the time.
pub const MAX_BACKGROUND: u16 = 64;

/// From so many on the kernel takes the server for congested, and reads ahead less: three quarters, its default.
pub const CONGESTION_THRESHOLD: u16 = 48;

/// Bytes that the kernel may read ahead; it takes less until `read_ahead_kb` of the mount is raised.
pub const MAX_READAHEAD_BYTES: u32 = MAX_IO_BYTES;

/// Threads that read requests. More than one, so that a request that takes the processor does not hold up the
/// others; few, as requests that wait take none.
pub const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// Bytes of a slot that stay in memory when a request is answered; those of larger writes are given back, but for the
/// first [`WARM_SLOTS`].
pub const SLOT_KEPT_BYTES: usize = 64 << 10;

/// Slots that keep all their memory: those that are used when few requests are under way.
pub const WARM_SLOTS: usize = 16;

/// Seconds for which the kernel may keep names and attributes, which never change: a year.
pub const VALID_SECONDS: u64 = 365 * 24 * 3600;

/// Most bytes of directory entries in one reply. A reader that asks for more gets the rest with the next.
pub const MAX_DIRECTORY_BYTES: u32 = 64 << 10;

/// Most bytes of all names of one file's attributes, `XATTR_LIST_MAX` of Linux.
pub const MAX_XATTR_LIST_BYTES: usize = 64 << 10;
